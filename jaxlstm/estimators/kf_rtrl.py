"""Kronecker-factored real-time recurrent learning."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.cells.base import GatedWeights, num_columns
from jaxlstm.estimators.base import GradientEstimator, LossFn, Traits, check_online_form
from jaxlstm.estimators.columns import (
    Rest,
    join,
    linearise,
    push,
    split,
    spread,
    start_rest,
)
from jaxlstm.estimators.dense import flat
from jaxlstm.estimators.draws import Sample, signs
from jaxlstm.estimators.traces import LinearStep, Trace, add, online
from jaxlstm.model import Model
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array, Key

# What keeps the scales from zero and infinity. The mean does not depend on it.
EPSILON = 1e-7


class Factors(NamedTuple):
    """An influence as a Kronecker product, of one layer.

    Attributes:
      rows: x [X], h [R] and [] for the bias.
      columns: [S, K].
    """

    rows: tuple[Array, ...]
    columns: Array


class Influence(NamedTuple):
    """Of all layers' weights by factors, and of the rest as a whole.

    Attributes:
      layers: of each layer.
      rest: leaves [S, *shape].
    """

    layers: tuple[Factors, ...]
    rest: Rest


def kf_rtrl(
    model: Model, loss_fn: LossFn, *, sample: Sample | None = None
) -> GradientEstimator:
    """Carries the influence of each layer's weights as a Kronecker product.

        I_t = u_t (x) D_t,    u = (x, h, 1),  D = ds/dz                          (1)
        u~_t = a p u~_{t-1}       + b r u_t                                      (2)
        A~_t = a J_t A~_{t-1} / p + b D_t / r                                    (3)
           g = sum_t u~_t (x) (q_t A~_t)                                         (4)

    with signs a and b, as likely 1 as -1, for each layer and step, and scales

          p = sqrt(|J_t A~_{t-1}| / |u~_{t-1}|),     r = sqrt(|D_t| / |u_t|)

    that balance both factors. What does not act through z (small parameters of a cell,
    an embedding, a learned first state) is followed exactly, as in `rtrl`.

    *Unbiased* while the weights stand still, and segment-invariant, at less variance
    than `uoro`. Costs S K + X + R + 1 floats an example and layer of memory, 8 H^2 for
    an LSTM, and O(S^2 K) time a step; the rest S and S^2 floats and operations a
    parameter.

    Args:
      model: a model of gated cells, by `make_model`.
      loss_fn: `(prediction [..., Y], target [...]) -> loss of each example [...]`.
      sample: draws the signs, [L, 2]: a and b of each layer; by default `draws.signs`.

    Returns:
      The estimator.

    Raises:
      OptionError: the model has no online form, or is no plain chain of gated layers.

    References:
      Mujika, Meier and Steger, Approximating Real-Time Recurrent Learning with Random
      Kronecker Factors, NeurIPS 2018.
    """
    check_online_form(model)
    if model.layers is None or model.layers.cell.gated is None:
        raise OptionError(
            "kf_rtrl: the influence has Kronecker factors in a plain chain of gated "
            "layers alone, without connections or dropped weights, and this model is "
            'none; use name = "uoro"'
        )
    draw, gated = sample or signs, model.layers.cell.gated

    def start(params: Any, key: Key, time: Array) -> Influence:
        del key, time
        weights, _ = split(model, params.recurrent)
        states = model.initial_state(params, ())
        size, dtype = len(flat(states)), flat(states).dtype

        def nothing(w: GatedWeights, state: Any) -> Factors:
            sizes = (len(w.w_x),), gated.read(state).shape, ()
            rows = tuple(jnp.zeros(shape, dtype) for shape in sizes)
            return Factors(rows, jnp.zeros((size, num_columns(w)), dtype))

        layers = tuple(map(nothing, weights, states))
        return Influence(layers, start_rest(model, params))

    def advance(influence: Influence, step: LinearStep, key: Key) -> Influence:
        linear = linearise(model, step)
        ab = draw(key, step.time, (len(linear.by_z), 2))
        layers = []
        for n, old in enumerate(influence.layers):
            one = jnp.ones((), linear.jacobian.dtype)
            new = Factors((*linear.factors[n], one), linear.by_z[n])
            pushed = old._replace(columns=linear.jacobian @ old.columns)
            layers.append(add(_balance(pushed, ab[n, 0]), _balance(new, ab[n, 1])))
        rest = add(push(linear.jacobian, influence.rest), linear.by_rest)
        return Influence(tuple(layers), rest)

    def pull_back(influence: Influence, q: Any, step: LinearStep) -> Any:
        q = flat(q)
        weights, _ = split(model, step.recurrent)
        layers = [
            spread(w, factors.rows, q @ factors.columns)
            for w, factors in zip(weights, influence.layers, strict=True)
        ]
        rest = jax.tree.map(lambda m: jnp.tensordot(q, m, 1), influence.rest)
        return layers, rest

    def finish(recurrent: Any, sums: Any) -> Any:
        return join(model, recurrent, *sums)

    traits = Traits(kind="unbiased", segment_invariant=True, online=True)
    trace = Trace(start, advance, pull_back, finish)
    return online(model, loss_fn, trace, traits=traits)


def _balance(factors: Factors, sign: Array) -> Factors:
    """Gives both factors one norm, and a sign."""
    rows = jnp.sqrt(sum(jnp.sum(row**2) for row in factors.rows))
    columns = jnp.sqrt(jnp.sum(factors.columns**2))
    scale = jnp.sqrt(columns / (rows + EPSILON)) + EPSILON
    sign = sign.astype(scale.dtype)
    return Factors(
        jax.tree.map(lambda x: sign * scale * x, factors.rows),
        sign / scale * factors.columns,
    )
