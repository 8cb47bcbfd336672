"""What the tests share: comparison of trees, and a cell with all that hides nothing."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells.base import Cell
from jaxlstm.types import Array, PyTree

B, X, H, T = 2, 3, 4, 7

# One for each file of cells; the variants of the LSTM have tables of their own.
FIRST_CELLS = "lstm", "gru", "rnn", "leaky_rnn"

Advance = Callable[[Any, Array, int], Any]


@functools.cache
def _quick_options() -> dict[str, Any]:
    """Returns options under which XLA compiles some four times as fast."""
    least = {"xla_backend_optimization_level": 0}
    options = least | {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:  # Newer versions lack the second one.
        return least
    return options


def jit(function: Callable[..., Any]) -> Any:
    """Compiles for tests, in which compiling takes longer than running."""
    return jax.jit(function, compiler_options=_quick_options())


def assert_close(actual: PyTree, expected: PyTree, tolerance: float = 1e-12) -> None:
    """Compares two trees leaf by leaf: structure, shapes, dtypes and values.

    The error of a leaf is relative to its largest entry; a leaf of zeros has to be met
    exactly. The message lists every leaf that differs, by its path.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    wrong = []
    leaves = jax.tree_util.tree_leaves_with_path(actual)
    for (path, a), e in zip(leaves, jax.tree.leaves(expected), strict=True):
        a, e = np.asarray(a), np.asarray(e)
        name = jax.tree_util.keystr(path)
        if a.shape != e.shape or a.dtype != e.dtype:
            wrong.append(f"{name}: {a.dtype}{a.shape} is not {e.dtype}{e.shape}")
            continue
        error = np.max(np.abs(a.astype(np.float64) - e), initial=0.0)
        size = np.max(np.abs(e), initial=0.0)
        # The negation catches NaN as well.
        if not error <= tolerance * size:
            wrong.append(f"{name}: error {error:.2e}, largest entry {size:.2e}")
    assert not wrong, "\n" + "\n".join(wrong)


def draw_like(tree: PyTree, seed: int, size: float = 1.0) -> PyTree:
    """Draws normal values of the shapes of a tree, in float64."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: size * rng.normal(size=leaf.shape), tree)


class Problem(NamedTuple):
    """Arguments of a sequence that hide nothing.

    Attributes:
      params: of the cell, all of them away from zero.
      inputs: [T, B, X], NaN on masked steps.
      state: nonzero.
      reset_state: nonzero.
      mask: [T, B], with holes; the last step of the first sequence is masked.
      resets: [T, B], one of them on a masked step. No sequence resets at step 0.
    """

    params: Any
    inputs: Any
    state: Any
    reset_state: Any
    mask: Any
    resets: Any

    @property
    def arguments(self) -> tuple[Any, Any, Any, Any]:
        """What has gradients."""
        return self.params, self.inputs, self.state, self.reset_state

    @property
    def controls(self) -> dict[str, Any]:
        """What has none."""
        return {"mask": self.mask, "resets": self.resets}


def make_problem(cell: Cell, *, steps: int = T, seed: int = 0) -> Problem:
    """Draws a problem in NumPy, so that nothing has to be compiled for it."""
    params = draw_like(
        jax.eval_shape(
            lambda: cell.init(jax.random.key(0), X, H, dtype=jnp.result_type(float))
        ),
        seed,
        0.5,
    )
    state = jax.eval_shape(lambda: cell.initial_state(params, (B,)))
    mask = np.ones((steps, B))
    mask[1:3, 0] = mask[2::3, 1] = mask[-1, 0] = 0
    resets = np.zeros((steps, B))
    resets[2, 0] = resets[1, 1] = resets[-2, 0] = 1
    inputs = np.random.default_rng(seed + 1).normal(size=(steps, B, X))
    inputs[mask == 0] = np.nan
    return Problem(
        params,
        inputs,
        draw_like(state, seed + 2),
        draw_like(state, seed + 3),
        mask,
        resets,
    )


def loop(
    advance: Advance,
    inputs: Array,
    state: Any,
    reset_state: Any = None,
    *,
    mask: Any = None,
    resets: Any = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Runs one sequence [T, X], without batch, by a loop in Python.

    Control flow is Python's own: what is masked is not computed, and what is reset
    leaves no trace of the state before.

    Args:
      advance: `(state, x, t) -> state`.
      inputs: [T, X].
      state: before the first step, leaves [H].
      reset_state: leaves [H].
      mask: [T] numbers, not traced.
      resets: [T] numbers, not traced.
      reverse: whether the last step comes first.

    Returns:
      The last state, and the states [T, H] after every step.
    """
    order = range(len(inputs))
    states = dict.fromkeys(order)
    for t in reversed(order) if reverse else order:
        reset = resets is not None and resets[t]
        if reset and not reverse:
            state = reset_state
        if mask is None or mask[t]:
            state = advance(state, inputs[t], t)
        states[t] = state
        if reset and reverse:
            state = reset_state
    return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states.values())


def loop_batch(
    advance: Callable[[int], Advance],
    inputs: Array,
    state: Any,
    reset_state: Any,
    *,
    mask: Any = None,
    resets: Any = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Runs `loop` on every sequence of a batch [T, B, X]; `advance` knows which."""

    def pick(tree: Any, n: int, axis: int) -> Any:
        return jax.tree.map(lambda leaf: jnp.take(leaf, n, axis), tree)

    pairs = [
        loop(
            advance(n),
            pick(inputs, n, 1),
            pick(state, n, 0),
            pick(reset_state, n, 0),
            mask=None if mask is None else mask[:, n],
            resets=None if resets is None else resets[:, n],
            reverse=reverse,
        )
        for n in range(inputs.shape[1])
    ]
    lasts, states = zip(*pairs, strict=True)
    return (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *lasts),
        jax.tree.map(lambda *leaves: jnp.stack(leaves, 1), *states),
    )
