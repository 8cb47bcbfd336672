"""The exact gradient by the way it came: through the state alone, or through h."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.diagnostics.blocks import parameter_blocks
from jaxlstm.diagnostics.lags import Record, check_lags, run_forward, shift_lags
from jaxlstm.diagnostics.transition import Inputs
from jaxlstm.diagnostics.ways import Ways, linearise, recurrent_gates
from jaxlstm.estimators import LossFn, Segment
from jaxlstm.estimators.edges import has_gated_form
from jaxlstm.model import Model, ModelParams
from jaxlstm.types import Array, Key, PyTree

SAME, ALONE, THROUGH = "same step", "state alone", "through h"


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["grads", "shares"],
    meta_fields=["routes", "blocks"],
)
@dataclasses.dataclass(frozen=True)
class PathGradients:
    """A gradient as the sum of what came by each route.

    A share is that of a part in the exact gradient g, part.g / |g|^2: shares add up to
    1, and may be negative. Where g is zero they are NaN.

    Attributes:
      grads: the gradient by route, leaves [routes, ...] of the parameters' structure.
      shares: [routes, K + 1, blocks] by route, lag and block of the parameters; the
        last lag stands for all from K on.
      routes: their names, as `path_gradients` tells them apart.
      blocks: the names of `parameter_blocks`.
    """

    grads: PyTree
    shares: Array
    routes: tuple[str, ...]
    blocks: tuple[str, ...]

    @property
    def total(self) -> PyTree:
        """The exact gradient, that of all routes together."""
        return jax.tree.map(lambda x: x.sum(axis=0), self.grads)

    @property
    def by_route(self) -> dict[str, Array]:
        """The share of each route."""
        return dict(zip(self.routes, self.shares.sum(axis=(1, 2)), strict=True))

    @property
    def by_route_and_block(self) -> Array:
        """[routes, blocks] the shares, of all lags together."""
        return self.shares.sum(axis=1)

    @property
    def by_route_and_lag(self) -> Array:
        """[routes, K + 1] the shares, of all blocks together."""
        return self.shares.sum(axis=2)


def path_gradients(
    model: Model,
    loss_fn: LossFn,
    params: ModelParams,
    segment: Segment,
    *,
    state: Any = None,
    keys: Key | None = None,
    num_lags: int | None = None,
) -> PathGradients:
    """Splits the exact gradient by its way from a loss back to the weights of a step.

    From step to step a gated cell has two kinds of ways: the state's own into `update`,
    and that through the recurrent weights, h W_h, by the gates of z. The routes:

        same step          no step between: the loss of the step itself, lag 0
        state alone        own ways only; through c, in an LSTM
        through h: GATE    recurrent weights at least once, of any layer; GATE is where
                           h was read the time nearest to the weights reached

    Over the steps backward, with the derivatives of the losses by the state, split by
    the route that they came,

        same_t    = q_t
        alone_t-1 = O_t^T (same_t + alone_t)         O = ds_t/ds_{t-1} by own ways
        gate_t-1  = O_t^T gate_t + H_t^T (sum of all) H = the same by h W_h of the gate

    and each is pulled back to the weights of its step. So "same step" and "state alone"
    together are what is left where the ways by h are cut, `h_detach(p=1)`; a horizon of
    k takes away what came from lags k and beyond. A learned initial state stands before
    the step that starts from it, and is reached by the ways into it, with its lag. In a
    cell without a gated form all beyond the same step is "through h".

    *Exact*. The parts need R P memory, with R routes and P weights; the shares K R B S
    beside the states and one tangent a block, but no P by lag. Time: R times the
    backward pass of `bptt`, and K R times its part without weights.

    Args:
      model: has `layers`.
      loss_fn: `(prediction [..., Y], target [...]) -> loss of each example [...]`.
      params: of the model.
      segment: leaves [T, B, ...].
      state: before the first step, leaves [B, ...], held fixed; by default the model's
        initial state, whose gradient is given.
      keys: [B] of the examples' noise, as in an estimator's state; None for none.
      num_lags: K, up to T; by default T.

    Returns:
      Gradients and shares.

    Raises:
      OptionError: the model has no `layers`, K is not in 1..T, or gates do not divide z
        evenly.

    References:
      Gers, Schraudolph and Schmidhuber, Learning Precise Timing with LSTM Recurrent
      Networks, JMLR 3, 2002, which truncates to the state alone; Kanuparthi et al.,
      h-detach: Modifying the LSTM Gradient Towards Better Optimization, ICLR 2019.
    """
    masks = parameter_blocks(model)
    count = check_lags(num_lags, segment)
    gated, gates = has_gated_form(model), recurrent_gates(model, params)
    ways = [SAME, ALONE if gated else THROUGH, *(f"{THROUGH}: {g}" for g in gates)]
    run = _Run(
        functools.partial(linearise, model, params, keys=keys),
        functools.partial(model.initial_state, batch_shape=_batch_shape(segment)),
        run_forward(model, loss_fn, params, segment, state, keys),
        params,
        len(ways),
    )
    grads = _gradients(run)
    total = jax.tree.map(lambda x: x.sum(axis=0), grads)

    def split(x: Array, *masks: Any) -> Array:
        return jnp.stack([jnp.where(mask, x, 0) for mask in masks])

    products = _products(run, jax.tree.map(split, total, *masks.values()), count)
    square = sum(jnp.sum(x * x) for x in jax.tree.leaves(total))
    return PathGradients(grads, products / square, tuple(ways), tuple(masks))


class _Run(NamedTuple):
    """What both ways back over a segment start from.

    Attributes:
      linearise: `(previous, inputs) -> Ways` of a step.
      start: `(params) -> state` that a sequence starts from.
      record: of the way forward.
      params: of the model.
      num_routes: R.
    """

    linearise: Callable[[Any, Inputs], Ways]
    start: Callable[[ModelParams], Any]
    record: Record
    params: ModelParams
    num_routes: int

    def zeros(self, tree: PyTree, *axes: int) -> PyTree:
        """Returns zeros [*axes, R, ...] of the shapes of a tree's leaves."""
        shape = *axes, self.num_routes
        return jax.tree.map(lambda x: jnp.zeros((*shape, *x.shape), x.dtype), tree)

    def route(self, q: Any) -> Any:
        """Puts a tree at the route of the step itself, zeros at others, [R, ...]."""
        return jax.tree.map(lambda x, y: x.at[0].set(y), self.zeros(q), q)

    def scan_back(self, body: Callable[[Any, Any], tuple[Any, None]], init: Any) -> Any:
        """Scans from the last step to the first over (inputs, previous, q)."""
        record = self.record
        xs = record.inputs, record.previous, record.q
        return jax.lax.scan(body, init, xs, reverse=True)[0]

    @property
    def example_state(self) -> Any:
        """A state, leaves [B, ...]."""
        return jax.tree.map(lambda x: x[0], self.record.q)


def _gradients(run: _Run) -> PyTree:
    """Returns the gradient by route, leaves [R, ...]."""

    def body(carry: Any, xs: Any) -> tuple[Any, None]:
        sums, starts, reached = carry
        inputs, previous, q = xs
        ways = run.linearise(previous, inputs)
        reached = _add(reached, run.route(q))
        to_start, before = ways.back(reached)
        return (_add(sums, ways.pull(reached)), _add(starts, to_start), before), None

    nothing = run.zeros(run.example_state)
    init = run.zeros(run.params.recurrent), nothing, nothing
    sums, starts, _ = run.scan_back(body, init)
    _, pull = jax.vjp(run.start, run.params)
    (grads,) = jax.vmap(pull)(starts)
    grads = grads._replace(recurrent=_add(grads.recurrent, sums))
    return _add(grads, run.route(run.record.direct))


def _products(run: _Run, parts: ModelParams, num_lags: int) -> Array:
    """Returns the products of parts of the gradient, by route and lag, with vectors.

    The gradient that lambda gives a step's weights, times v, is lambda times what the
    step does along v: (I^T lambda).v = lambda.(I v). So no gradient by lag is made.

    Args:
      run: the segment.
      parts: the vectors v, leaves [N, ...] of the parameters' structure.
      num_lags: K.

    Returns:
      [R, K + 1, N], the last lag for all from K on.
    """
    along_start = jax.vmap(lambda v: jax.jvp(run.start, (run.params,), (v,))[1])(parts)

    def body(carry: Any, xs: Any) -> tuple[Any, None]:
        sums, reached = carry
        inputs, previous, q = xs
        ways = run.linearise(previous, inputs)
        reached = shift_lags(run.route(q), reached)
        along = jax.vmap(ways.push)(parts.recurrent)
        to_start, before = jax.vmap(ways.back)(reached)
        sums = sums + _dot(reached, along) + _dot(to_start, along_start)
        return (sums, before), None

    nothing = run.zeros(run.example_state, num_lags + 1)
    init = _dot(nothing, along_start), nothing
    sums, _ = run.scan_back(body, init)
    direct = jax.tree.map(
        lambda part, r: jnp.sum((part * r).reshape(len(part), -1), axis=1),
        parts,
        jax.tree.map(lambda r: r[None], run.record.direct),
    )
    sums = sums.at[0, 0].add(sum(jax.tree.leaves(direct)))
    return jnp.swapaxes(sums, 0, 1)


def _dot(reached: Any, along: Any) -> Array:
    """Returns the products [K + 1, R, N] of [K + 1, R, B, ...] with [N, B, ...]."""

    def dot(x: Array, y: Array) -> Array:
        return x.reshape(*x.shape[:2], -1) @ y.reshape(len(y), -1).T

    return sum(jax.tree.leaves(jax.tree.map(dot, reached, along)), jnp.zeros(()))


def _add(first: PyTree, second: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, first, second)


def _batch_shape(segment: Segment) -> tuple[int, ...]:
    return jax.tree.leaves(segment.inputs)[0].shape[1:2]
