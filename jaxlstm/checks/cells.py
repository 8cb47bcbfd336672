"""The check of a cell: its shapes, its gated form and its derivatives."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells.base import Cell, preactivations
from jaxlstm.checks.report import (
    BOUNDS,
    Precision,
    Report,
    Row,
    cast,
    compiled,
    differences,
    draw,
    judge,
    precision,
    verdict,
)
from jaxlstm.sequence import unroll
from jaxlstm.types import Array, PyTree

T, B = 6, 2

# Of a difference of the fourth order: the step, and the largest error that passes.
DIFFERENCES: dict[str, tuple[float, float]] = {
    "float64": (1e-3, 1e-7),
    "float32": (5e-2, 1e-2),
}


def check_cell(
    cell: Cell,
    *,
    input_size: int = 3,
    hidden_size: int = 4,
    params: PyTree = None,
    finite_differences: bool = True,
    dtype: Precision = "float64",
    seed: int = 0,
) -> Report:
    """Checks a cell by identities that hold for every cell.

    Shapes and dtypes that a step keeps, any batch axes, the output as a part of the
    state, the gated form against the step, masks and resets against a loop in Python,
    derivatives by the rule against those by JAX, forward against reverse mode, and both
    against finite differences. Nothing is printed; `print(report)` shows a table.

    Args:
      cell: the cell.
      input_size: X.
      hidden_size: H.
      params: of the cell; by default what `cell.init` draws, each entry moved a little
        at random, so that none is zero.
      finite_differences: whether the derivative is that of the values. Not so for a
        cell with a derivative of its own, such as the surrogate of a spike.
      dtype: "float64", which is switched on for the check alone, or "float32", with
        bounds to match.
      seed: of what is drawn.

    Returns:
      The report.

    Raises:
      OptionError: the dtype is neither.
    """
    with precision(dtype):
        random = np.random.default_rng(seed)
        if params is None:
            drawn = cell.init(
                jax.random.key(seed), input_size, hidden_size, dtype=jnp.dtype(dtype)
            )
            params = jax.tree.map(
                lambda x: x + 0.1 * draw(random, x.shape, dtype), drawn
            )
        params = cast(params, dtype)
        title = f"cell, X = {input_size}, H = {hidden_size}, {dtype}"
        rows = list(_check_interface(cell, params, input_size))
        if all(row.passed for row in rows):
            checks = Checks(cell, params, input_size, dtype, random)
            gated = list(checks.gated_form())
            rows += [*checks.values(), *gated, *checks.sequence()]
            if gated[-1].passed is False:
                note = "the rule cannot be transposed before this is mended"
                rows.append(Row("derivatives", note=note))
            else:
                rows += checks.derivatives(finite_differences)
        else:
            rows.append(Row("the rest", note="cannot be run before this is mended"))
    return Report(title, tuple(rows))


def _check_interface(cell: Cell, params: PyTree, input_size: int) -> Iterator[Row]:
    """Checks structures, shapes and dtypes, without a computation."""
    dtype = jnp.result_type(float)
    x = jax.ShapeDtypeStruct((input_size,), dtype)
    state, outputs = jax.eval_shape(lambda: cell.initial_state(params, ())), {}
    wrong = []
    for axes in (), (B,), (3, B):
        shapes = jax.eval_shape(lambda axes=axes: cell.initial_state(params, axes))
        expected = jax.tree.map(
            lambda leaf, axes=axes: jax.ShapeDtypeStruct(
                (*axes, *leaf.shape), leaf.dtype
            ),
            state,
        )
        wrong += [f"batch {axes}: {text}" for text in differences(shapes, expected)]
    floating = [
        leaf.dtype
        for leaf in jax.tree.leaves(state)
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and leaf.dtype != dtype
    ]
    wrong += [f"dtype {name} is not {dtype}, the parameters'" for name in floating]
    yield verdict("initial_state has leaves [*batch_shape, ...]", wrong)
    new, output = jax.eval_shape(cell.step, params, state, x)
    yield verdict(
        "step keeps structure, shapes, dtypes of the state", differences(new, state)
    )
    try:
        outputs = jax.eval_shape(cell.output, state)
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}; give Cell an `output` that selects"
        yield verdict("output is read from the state", [reason])
        return
    yield verdict("output is read from the state", differences(output, outputs))


class Checks:
    """The identities of one cell at parameters and states that hide nothing.

    Attributes:
      params: of the cell.
      state: leaves [B, ...], away from what a sequence starts from.
      x: [B, X].
      inputs: [T, B, X].
    """

    def __init__(
        self,
        cell: Cell,
        params: PyTree,
        input_size: int,
        dtype: Precision,
        random: np.random.Generator,
    ) -> None:
        self.cell, self.params, self.random, self.dtype = cell, params, random, dtype
        self.bound = BOUNDS[dtype]
        self.inputs = draw(random, (T, B, input_size), dtype)
        self.x = self.inputs[0]
        self.step = compiled(cell.step)
        start = cell.initial_state(params, (B,))
        # Of states that a cell can come to, with units of all kinds among them.
        state, _ = self.step(params, start, 2 * draw(random, self.x.shape, dtype))
        self.state, _ = self.step(params, state, self.x)
        self.floating = all(
            jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(start)
        )

    def values(self) -> Iterator[Row]:
        """Checks steps: their output, their batch axes, and that they are pure."""
        cell, params, state, x = self.cell, self.params, self.state, self.x
        new, output = self.step(params, state, x)
        yield judge("step returns output(state)", output, cell.output(new), 0.0)
        again = compiled(lambda *arguments: cell.step(*arguments))(params, state, x)
        yield judge("step is pure: traced twice, it gives the same", again[0], new, 0.0)
        yield judge(
            "batch axes (): examples one by one", self._singles(), new, self.bound
        )

        def stacked(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), tree)

        many, _ = self.step(params, stacked(state), stacked(x))
        yield judge("batch axes (A, B)", many, stacked(new), self.bound)
        mapped, _ = compiled(jax.vmap(cell.step, (None, 0, 0)))(params, state, x)
        yield judge("vmap", mapped, new, self.bound)
        one, two = (cell.initial_state(params, axes) for axes in ((), (B,)))
        alike = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (B, *leaf.shape)), one)
        yield judge("initial_state is alike for all examples", two, alike, 0.0)

    def _singles(self) -> Any:
        news = [
            self.step(self.params, _pick(self.state, n), self.x[n])[0] for n in range(B)
        ]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *news)

    def gated_form(self) -> Iterator[Row]:
        """Checks that a gated form, if there is one, makes the same step."""
        gated, params, state = self.cell.gated, self.params, self.state
        if gated is None:
            note = "there is none: no compute dtype, nor edges apart; JAX's derivative"
            yield Row("gated form makes the step", note=note)
            return

        @compiled
        def by_gates(params: PyTree, state: Any, x: Array) -> Any:
            weights = gated.weights(params)
            z = preactivations(weights, x, gated.read(state))
            return gated.update(weights.small, state, z)

        new, _ = self.step(params, state, self.x)
        yield judge(
            "gated form makes the step",
            by_gates(params, state, self.x),
            new,
            self.bound,
        )
        if gated.linear:
            yield self._linear()
        other = jax.tree.map(lambda leaf: self._like(leaf).astype(leaf.dtype), state)
        mixed = jax.tree.map(lambda a, b: 2 * a - 3 * b, state, other)
        expected = 2 * gated.read(state) - 3 * gated.read(other)
        yield judge("read is linear", gated.read(mixed), expected, self.bound)

    def _linear(self) -> Row:
        """Checks a cell that says it is a linear recurrence, run as one."""

        @compiled
        def run(params: PyTree, inputs: Array, state: Any) -> Any:
            return [
                unroll(self.cell, params, inputs, state, engine=name)[1]
                for name in ("parallel", "scan")
            ]

        states, expected = run(self.params, self.inputs, self.state)
        identity = "linear: parallel in time it makes the steps"
        return judge(identity, states, expected, self.bound)

    def sequence(self) -> Iterator[Row]:
        """Checks a sequence with masks and resets against a loop."""
        start = self.cell.initial_state(self.params, ())
        mask, resets, inputs = self._controls()
        columns = []
        for n in range(B):
            state, states = _pick(self.state, n), []
            for t in range(T):
                if resets[t, n]:
                    state = start
                if mask[t, n]:
                    state, _ = self.step(self.params, state, self.inputs[t, n])
                states.append(state)
            columns.append(jax.tree.map(lambda *x: jnp.stack(x), *states))
        loop = jax.tree.map(lambda *x: jnp.stack(x, 1), *columns)
        derivative = "rule" if self.floating else "autodiff"

        @compiled
        def run(params: PyTree, state: Any) -> Any:
            return unroll(
                self.cell,
                params,
                inputs,
                state,
                mask=mask,
                resets=resets,
                derivative=derivative,
            )[1]

        states = run(self.params, self.state)
        yield judge("masks (over NaN) and resets: a loop", states, loop, self.bound)

    def derivatives(self, finite_differences: bool) -> Iterator[Row]:
        """Checks derivatives of steps and of a sequence against each other."""
        if not self.floating:
            note = 'the state holds integers: derivative="autodiff" alone takes it'
            yield Row("derivatives", note=note)
            return
        arguments = self.params, self.state, self.state, self.inputs
        tangents = jax.tree.map(self._like, arguments)
        cotangents = jax.tree.map(
            lambda leaf: draw(self.random, (T, *leaf.shape), self.dtype), self.state
        )
        mask, resets, _ = self._controls()

        def run(arguments: Any, derivative: Any) -> Any:
            params, state, reset_state, inputs = arguments
            return unroll(
                self.cell,
                params,
                jnp.where(mask[..., None] == 0, jnp.nan, inputs),
                state,
                mask=mask,
                resets=resets,
                reset_state=reset_state,
                derivative=derivative,
            )[1]

        @compiled
        def differentiate(arguments: Any, tangents: Any, cotangents: Any) -> Any:
            found = {}
            for name in ("rule", "autodiff"):
                states, pull_back = jax.vjp(lambda a, n=name: run(a, n), arguments)
                (gradient,) = pull_back(cotangents)
                found[name] = states, gradient
            _, forward = jax.jvp(lambda a: run(a, "rule"), (arguments,), (tangents,))
            along = _dot(found["rule"][1], tangents), _dot(cotangents, forward)
            return found, along

        found, (backward, forward) = differentiate(arguments, tangents, cotangents)
        names = "params", "state", "reset_state", "inputs"
        gradient, expected = (
            dict(zip(names, found[name][1], strict=True)) for name in found
        )
        if self.cell.gated is not None:
            yield judge(
                "derivative by the rule: JAX's own", gradient, expected, self.bound
            )
        yield judge("jvp and vjp agree", forward, backward, self.bound)
        yield self._differences(finite_differences)

    def _differences(self, judged: bool) -> Row:
        """Compares the derivative of a step with differences along one direction."""
        identity = "derivative of a step: finite differences"
        width, bound = DIFFERENCES[self.dtype]
        point = self.params, self.state, self.x
        direction = jax.tree.map(self._like, point)

        def step(*point: Any) -> Any:
            return self.cell.step(*point)[0]

        @compiled
        def both(point: Any, direction: Any) -> Any:
            def at(scale: float) -> Any:
                moved = jax.tree.map(lambda a, d: a + scale * d, point, direction)
                return step(*moved)

            near = jax.tree.map(lambda a, b: a - b, at(width), at(-width))
            far = jax.tree.map(lambda a, b: a - b, at(2 * width), at(-2 * width))
            slope = jax.tree.map(lambda n, f: (8 * n - f) / (12 * width), near, far)
            return jax.jvp(step, point, direction)[1], slope

        found, slope = both(point, direction)
        row = judge(identity, found, slope, bound)
        if judged:
            hint = "; a derivative of its own? then finite_differences=False"
            return row if row.passed else row._replace(note=row.note + hint)
        note = "the cell has a derivative of its own"
        return row._replace(bound=None, passed=None, note=note)

    def _controls(self) -> tuple[Any, Any, Any]:
        """Returns mask and resets [T, B], and inputs that are NaN on masked steps."""
        mask, resets = np.ones((T, B)), np.zeros((T, B))
        mask[1, 0] = mask[2, 1] = mask[-1, 1] = 0
        resets[2, 0] = resets[2, 1] = resets[4, 1] = 1
        inputs = np.where(mask[..., None] == 0, np.nan, self.inputs)
        return mask, resets, inputs

    def _like(self, leaf: Any) -> np.ndarray:
        return draw(self.random, jnp.shape(leaf), self.dtype)


def _pick(tree: Any, n: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[n], tree)


def _dot(first: PyTree, second: PyTree) -> Array:
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), first, second)
    return jnp.asarray(sum(jax.tree.leaves(products)))
