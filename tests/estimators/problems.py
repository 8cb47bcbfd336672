"""Problems that hide nothing, and the gradient of a loop in Python, for estimators."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells import Cell
from jaxlstm.estimators import Segment
from jaxlstm.model import Model, make_model
from jaxlstm.types import PyTree
from tests.helpers import draw_like

B, X, H, Y, T = 2, 3, 4, 2, 7


def squared_error(prediction, target):
    return jnp.sum((prediction - target) ** 2, axis=-1)


def make_segment(seed: int = 0, steps: int = T) -> Any:
    """Draws a segment that hides nothing: holes, resets, unscored steps, NaN."""
    rng = np.random.default_rng(seed)
    mask = np.ones((steps, B))
    mask[1, 0] = mask[2::3, 1] = mask[-1, 0] = 0
    resets = np.zeros((steps, B))
    resets[2, 0] = resets[1, 1] = resets[-2, 0] = 1
    weights = rng.uniform(0.5, 2, size=(steps, B))
    weights[0, 1] = weights[-2, 0] = 0
    inputs, targets = rng.normal(size=(steps, B, X)), rng.normal(size=(steps, B, Y))
    inputs[mask == 0] = np.nan
    targets[mask * weights == 0] = np.nan
    return Segment(inputs, targets, mask, resets, weights)


def cut(segment: Any, start: int, stop: int) -> Any:
    """Returns the steps from start to stop."""
    return jax.tree.map(lambda x: x[start:stop], segment)


def problem(cell: Cell, *, seed: int = 0, **options: Any) -> tuple[Model, Any]:
    """Returns a model with a learned initial state, and float64 parameters for it.

    None of them is zero. The options go to `make_model`.
    """
    model = make_model(
        cell,
        **{
            "input_size": X,
            "hidden_size": H,
            "output_size": Y,
            "learned_initial_state": True,
            "dtype": jnp.float64,
            **options,
        },
    )
    return model, draw_like(jax.eval_shape(model.init, jax.random.key(0)), seed, 0.5)


def loop_loss(
    model: Model,
    params: PyTree,
    segment: Any,
    hidden: Any = None,
    edit: Callable[[Any, int, int], Any] = lambda state, n, t: state,
) -> tuple[Any, Any]:
    """Sums weight times loss, example by example and step by step.

    Control flow is Python's: what is masked is not computed, and what has no weight is
    not compared.

    Args:
      model: its `step`, `readout` and `initial_state` are used.
      params: of the model.
      segment: NumPy arrays, each control of them [T, B].
      hidden: the state before the first step, leaves [B, ...]; by default the model's
        initial state.
      edit: `(state, n, t) -> state`, made of the state that goes into a step t of
        example n that is there.

    Returns:
      The sum, and the states after the last step, leaves [B, ...].
    """
    inputs, targets, mask, resets, weights = segment
    start, total, lasts = model.initial_state(params, ()), 0.0, []
    for n in range(inputs.shape[1]):
        state = start if hidden is None else jax.tree.map(lambda x, n=n: x[n], hidden)
        for t in range(len(inputs)):
            if resets[t, n]:
                state = start
            if not mask[t, n]:
                continue
            assert model.step is not None
            state = model.step(params.recurrent, edit(state, n, t), inputs[t, n])
            if weights[t, n]:
                loss = squared_error(model.readout(params, state), targets[t, n])
                total = total + weights[t, n] * loss
        lasts.append(state)
    return total, jax.tree.map(lambda *x: jnp.stack(x), *lasts)
