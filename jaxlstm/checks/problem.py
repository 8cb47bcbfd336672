"""A problem that hides nothing, for any model: holes, resets, unscored steps, NaN."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.checks.report import Precision, cast, draw
from jaxlstm.estimators import Segment
from jaxlstm.model import Model
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array, PyTree

T, B = 7, 2


def squared_error(prediction: Any, target: Any) -> Array:
    """Returns |prediction - target|^2 [...] of [..., Y]."""
    return jnp.sum((prediction - target) ** 2, axis=-1)


class Problem(NamedTuple):
    """A model's parameters, and a segment from which nothing is absent.

    Attributes:
      params: of the model.
      full: inputs and targets, [T, B, ...], all of them finite.
      segment: the same with holes, resets and unscored steps, and NaN in what must not
        matter. NumPy arrays.
      filled: the segment with other values in place of the NaN.
    """

    params: Any
    full: Any
    segment: Any
    filled: Any

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """(B,)."""
        return np.shape(self.segment.mask)[1:]

    def cut(self, start: int, stop: int) -> Any:
        """Returns the steps of the segment from start to stop."""
        return jax.tree.map(lambda x: x[start:stop], self.segment)

    def hide(self, tree: Any) -> Any:
        """Puts NaN everywhere, or 0 where there are integers."""
        return jax.tree.map(lambda x: np.full_like(x, _nothing(x)), tree)


def make_problem(
    model: Model,
    params: PyTree,
    inputs: Any,
    targets: Any,
    dtype: Precision,
    seed: int,
    *,
    whole_sequences: bool = False,
) -> Problem:
    """Draws what is not given.

    Args:
      model: the model.
      params: its parameters, or None.
      inputs: [T, B, ...] or None.
      targets: [T, B, ...] or None.
      dtype: of parameters and data.
      seed: of what is drawn.
      whole_sequences: whether the last step alone is scored, and is there.

    Returns:
      The problem.

    Raises:
      OptionError: inputs are needed or too few.
    """
    random = np.random.default_rng(seed)
    if params is None:
        drawn = model.init(jax.random.key(seed))
        params = jax.tree.map(lambda x: x + 0.1 * draw(random, x.shape, dtype), drawn)
    params = cast(params, dtype)
    inputs = _draw_inputs(model, params, random) if inputs is None else inputs
    inputs = cast(inputs, dtype)
    axes = {np.shape(leaf)[:2] for leaf in jax.tree.leaves(inputs)}
    sizes = axes.pop() if len(axes) == 1 else ()
    if len(sizes) != 2 or sizes[0] < 6 or sizes[1] < 2:
        raise OptionError("inputs: leaves are not [T, B, ...]; use T >= 6 and B >= 2")
    if targets is None:

        def predict() -> Any:
            state = model.initial_state(params, sizes)
            return model.readout(params, state)

        shapes = jax.eval_shape(predict)
        targets = jax.tree.map(lambda x: draw(random, x.shape, dtype), shapes)
    full = Segment(inputs, cast(targets, dtype))
    mask, resets, weights = _draw_controls(random, sizes, dtype)
    if whole_sequences:
        mask[-1], weights[:-1] = 1, 0
    scored = mask * weights

    def fill(kept: np.ndarray, leaf: np.ndarray, value: Any) -> np.ndarray:
        axes = (1,) * (leaf.ndim - kept.ndim)
        return np.where(kept.reshape(*kept.shape, *axes) != 0, leaf, value)

    def make(value: Any) -> Any:
        controls: Any = mask, resets, weights
        return Segment(
            jax.tree.map(
                lambda x: fill(mask, x, value(x)).astype(x.dtype), full.inputs
            ),
            jax.tree.map(
                lambda x: fill(scored, x, value(x)).astype(x.dtype), full.targets
            ),
            *controls,
        )

    return Problem(params, full, make(_nothing), make(_something))


def _nothing(leaf: np.ndarray) -> float:
    return np.nan if np.issubdtype(leaf.dtype, np.floating) else 0


def _something(leaf: np.ndarray) -> float:
    return 0.5 if np.issubdtype(leaf.dtype, np.floating) else int(leaf.max())


def _draw_inputs(model: Model, params: PyTree, random: np.random.Generator) -> Any:
    example = model.example_input
    symbols = example is not None and jnp.issubdtype(example.dtype, jnp.integer)
    if example is None or (symbols and model.layers is None):
        raise OptionError(
            "inputs: are not given, and the model does not say what they look like; "
            "give some, [T, B, ...] with T >= 6 and B >= 2"
        )
    if not symbols:
        return draw(random, (T, B, *example.shape), "float32")
    assert model.layers is not None
    embedding = params.recurrent.embedding
    count = model.layers.width if embedding is None else len(embedding)
    return random.integers(count, size=(T, B), dtype=np.int32)


def _draw_controls(
    random: np.random.Generator, sizes: tuple[int, ...], dtype: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns mask, resets and weights [T, B]: a reset stands on a masked step too."""
    mask, resets = np.ones(sizes, dtype), np.zeros(sizes, dtype)
    mask[1, 0] = mask[2::3, 1] = mask[-1, 0] = 0
    resets[2, 0] = resets[2, 1] = resets[-2, 0] = 1
    weights = random.uniform(0.5, 2, size=sizes).astype(dtype)
    weights[0, 1] = weights[-2, 0] = 0
    return mask, resets, weights
