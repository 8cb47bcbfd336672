"""Cells of all kinds, and the exact expectation over all patterns of cuts."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells import Cell, make_gru, make_lstm, make_rnn
from jaxlstm.cells.base import gated_step, preactivations
from jaxlstm.estimators import Estimate, GradientEstimator, bptt
from jaxlstm.model import Model
from jaxlstm.noise import of_batch
from tests.estimators.problems import B, T, make_segment, problem, squared_error
from tests.helpers import draw_like, jit
from tests.toy_cells import TOY_CELLS

# The number of the first step where a state is carried into a segment.
LATER = 4

PEEPHOLE = TOY_CELLS["peephole"]
CELLS: dict[str, tuple[Cell, dict[str, Any]]] = {
    "lstm": (make_lstm(), {}),
    "gru": (make_gru(), {}),
    "rnn": (make_rnn(), {}),
    "two_layers": (make_lstm(), {"num_layers": 2}),
    "peephole": (PEEPHOLE, {}),
    "no_gated_form": (PEEPHOLE._replace(gated=None), {}),
}
GATED = [name for name, (cell, _) in CELLS.items() if cell.gated]


@functools.cache
def problem_of(name: str) -> tuple[Model, Any]:
    cell, options = CELLS[name]
    return problem(cell, **options)


def initial(estimator: GradientEstimator, params: Any, batch_size: int = B) -> Any:
    return estimator.init(params, (batch_size,), jax.random.key(0))


def carried(state: Any) -> Any:
    """Puts a state behind some steps, with a hidden state away from zero."""
    number = jnp.asarray(LATER, jnp.int32)
    return state._replace(hidden=draw_like(state.hidden, 3), num_steps=number)


@functools.cache
def exact(name: str, *, first: bool = True) -> Estimate:
    """Returns the estimate of `bptt` on the segment."""
    model, params = problem_of(name)
    estimator = bptt(model, squared_error)
    state = initial(estimator, params)
    state = state if first else carried(state)
    return jit(estimator.estimate)(params, state, make_segment())[0]


def bit(key: Any, time: Any, shape: tuple[int, ...]) -> Any:
    """Draws the bit of the step's number from the number that the key carries."""
    number = jax.random.key_data(key)[-1]
    return jnp.full(shape, number >> jnp.uint32(time) & 1, float)


def bits_of(numbers: np.ndarray) -> np.ndarray:
    """Returns the T bits [T, N] of numbers [N]."""
    return numbers >> np.arange(T)[:, None] & 1


def make_keys(numbers: np.ndarray) -> Any:
    """Returns keys that carry numbers."""
    numbers = numbers.astype(np.uint32)
    keys = jax.random.wrap_key_data(np.stack([0 * numbers, numbers], axis=-1))
    return of_batch(keys, keys.shape)


def expectation(
    estimator: GradientEstimator, params: Any, p: float, *, first: bool = True
) -> Estimate:
    """Returns the estimate's mean over all patterns of T draws, each 1 with chance p.

    The batch holds every example once for every pattern, weighted by its probability.

    Args:
      estimator: draws by `bit`.
      params: of its model.
      p: chance of a 1.
      first: whether the segment begins at number 0, or with a state carried into it.
    """
    numbers = np.arange(2**T)
    bits, segment = bits_of(numbers), make_segment()
    chances = np.prod(np.where(bits, p, 1 - p), axis=0)
    repeated = jax.tree.map(lambda x: np.repeat(x, len(numbers), axis=1), segment)
    repeated = repeated._replace(weights=repeated.weights * np.tile(chances, B))
    small = initial(estimator, params)
    small = small if first else carried(small)
    state = initial(estimator, params, B * len(numbers))._replace(
        hidden=jax.tree.map(lambda x: np.repeat(x, len(numbers), axis=0), small.hidden),
        keys=make_keys(np.tile(numbers << (0 if first else LATER), B)),
        num_steps=small.num_steps,
    )
    return jit(estimator.estimate)(params, state, repeated)[0]


def stop_h(cell: Cell) -> Cell:
    """Returns a cell without gated form, with no gradient through h W_h."""
    gated = cell.gated
    assert gated is not None

    def step(params: Any, state: Any, x: Any) -> Any:
        weights = gated.weights(params)
        h = jax.lax.stop_gradient(gated.read(state))
        state = gated.update(weights.small, state, preactivations(weights, x, h))
        return state, cell.output(state)

    return cell._replace(step=step, gated=None)


def masked_cell(cell: Cell, mask: np.ndarray) -> Cell:
    """Returns a cell whose recurrent weights are zero where a mask is."""
    gated = cell.gated
    assert gated is not None

    def weights(params):
        made = gated.weights(params)
        return made._replace(w_h=made.w_h * mask)

    masked = gated._replace(weights=weights)
    return cell._replace(gated=masked, step=gated_step(masked))
