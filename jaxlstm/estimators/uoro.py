"""Unbiased online recurrent optimization."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxlstm.estimators.base import GradientEstimator, LossFn, Traits
from jaxlstm.estimators.draws import Sample, signs
from jaxlstm.estimators.traces import LinearStep, Trace, online
from jaxlstm.model import Model
from jaxlstm.types import Array, Key, PyTree
from jaxlstm.varying import like_varying

# What keeps the scales from zero and infinity. The mean does not depend on it.
EPSILON = 1e-7


class RankOne(NamedTuple):
    """An influence of rank one, state times parameters.

    Attributes:
      state: leaves of the state's shapes.
      params: leaves of the recurrent parameters' shapes.
    """

    state: Any
    params: Any


def uoro(
    model: Model, loss_fn: LossFn, *, sample: Sample | None = None
) -> GradientEstimator:
    """Carries an influence of rank one, whose mean is the whole one.

        s~_t = r0 J_t s~_{t-1} + r1 nu_t                                         (1)
        m~_t = m~_{t-1} / r0   + nu_t^T I_t / r1                                 (2)
           g = sum_t (q_t s~_t) m~_t                                             (3)

    with nu_t signs, as likely 1 as -1, for each entry of the state, and scales

          r0 = sqrt(|m~_{t-1}| / |J_t s~_{t-1}|),    r1 = sqrt(|nu_t^T I_t| / |nu_t|)

    that balance both factors: any others leave the mean as it is, and these make the
    variance least. A start is one more such step from nothing: what the parameters say
    of the first state takes the place of I.

    *Unbiased* while the weights stand still, and segment-invariant; the variance is
    large, and grows with the size of the state. Costs S + P floats an example of memory
    and one jvp and one vjp of the step of time, O(P), whatever the cell.

    Args:
      model: the model; any with a step.
      loss_fn: `(prediction [..., Y], target [...]) -> loss of each example [...]`.
      sample: draws the signs, [2, S]: a row for the step, and one for a start before
        it; by default `draws.signs`.

    Returns:
      The estimator.

    Raises:
      OptionError: the model has no step.

    References:
      Tallec and Ollivier, Unbiased Online Recurrent Optimization, ICLR 2018.
    """
    draw = sample or signs

    def start(params: PyTree, key: Key, time: Array) -> RankOne:
        def initial(recurrent: Any) -> Any:
            state = model.initial_state(params._replace(recurrent=recurrent), ())
            return like_varying(state, (params, key))

        state, pull_back = jax.vjp(initial, params.recurrent)
        nu = _like(draw(key, time, (2, _size(state)))[1], state)
        return _merge(None, nu, pull_back(nu)[0])

    def advance(influence: RankOne, step: LinearStep, key: Key) -> RankOne:
        assert model.step is not None
        nu = _like(draw(key, step.time, (2, _size(step.previous)))[0], step.previous)
        pushed = step.push_forward(model.step, influence.state)
        immediate = step.pull_back(model.step, nu)
        return _merge(RankOne(pushed, influence.params), nu, immediate)

    def pull_back(influence: RankOne, q: Any, step: LinearStep) -> PyTree:
        del step
        flat_q, flat_state = ravel_pytree(q)[0], ravel_pytree(influence.state)[0]
        return jax.tree.map(lambda m: (flat_q @ flat_state) * m, influence.params)

    traits = Traits(kind="unbiased", segment_invariant=True, online=True)
    return online(model, loss_fn, Trace(start, advance, pull_back), traits=traits)


def _merge(old: RankOne | None, nu: Any, immediate: PyTree) -> RankOne:
    """Adds nu times the immediate influence to an influence, both of rank one."""
    r1 = _balance(immediate, nu)
    new = RankOne(_scale(r1, nu), _scale(1 / r1, immediate))
    if old is None:
        return new
    r0 = _balance(old.params, old.state)
    old = RankOne(_scale(r0, old.state), _scale(1 / r0, old.params))
    return jax.tree.map(jnp.add, old, new)


def _balance(params: PyTree, state: Any) -> Array:
    ratio = _norm(params) / (_norm(state) + EPSILON)
    return jnp.sqrt(ratio) + EPSILON


def _scale(factor: Array, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: factor.astype(x.dtype) * x, tree)


def _norm(tree: PyTree) -> Array:
    return jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(tree)))


def _size(state: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(state))


def _like(vector: Array, state: Any) -> Any:
    flat, unflatten = ravel_pytree(state)
    return unflatten(vector.astype(flat.dtype))
