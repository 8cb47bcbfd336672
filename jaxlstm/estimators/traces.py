"""The engine of estimators that go forward in time.

What the parameters have done to the state, the influence M_t = ds_t/dtheta, is carried
along with the state itself:

    M_t = J_t M_{t-1} + I_t         J = ds_t/ds_{t-1},  I = ds_t/dtheta at fixed s_{t-1}
      g = sum_t q_t M_t + r_t       q = dl_t/ds_t,      r = dl_t/dtheta at fixed s_t

M is that of the step's *output*, and q is the *direct* partial: in an LSTM, c reaches h
inside the step, and a q that held that way as well would count it twice. Members differ
in how they store M. Each example has its own, and members see one example at a time.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxlstm.estimators.base import (
    Estimate,
    GradientEstimator,
    LossFn,
    Segment,
    Traits,
    check_online_form,
    score,
)
from jaxlstm.interface import Model, StepFn
from jaxlstm.noise import Keys, fold_in, of_segment, split
from jaxlstm.select import keep, like, select
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array, Key, PyTree
from jaxlstm.varying import like_varying, vary_together


class LinearStep(NamedTuple):
    """Where a step of one example is made, and how it is linearised there.

    Attributes:
      recurrent: the parameters.
      previous: the state before the step, leaves [H].
      x: [X] the input.
      key: [] of the example's noise; None for none.
      time: [] number of the step.
    """

    recurrent: Any
    previous: Any
    x: Array
    key: Key | None
    time: Array

    def push_forward(self, step: StepFn, tangent: Any) -> Any:
        """Returns J ds, of a model's step."""

        def advance(state: Any) -> Any:
            return step(self.recurrent, state, self.x, key=self.key, time=self.time)

        return jax.jvp(advance, (self.previous,), (tangent,))[1]

    def pull_back(self, step: StepFn, cotangent: Any) -> Any:
        """Returns v I, of a model's step and the structure of its parameters."""

        def advance(recurrent: Any) -> Any:
            return step(recurrent, self.previous, self.x, key=self.key, time=self.time)

        return jax.vjp(advance, self.recurrent)[1](cotangent)[0]


class StartFn(Protocol):
    """Returns the influence on a state that a sequence starts from."""

    def __call__(self, params: PyTree, key: Key, time: Array) -> Any:
        """Takes the example's key, and the number of the step that comes first."""
        ...


class AdvanceFn(Protocol):
    """Returns the influence after a step."""

    def __call__(self, influence: Any, step: LinearStep, key: Key) -> Any:
        """Takes the influence before the step, the step, and the example's key."""
        ...


class PullBackFn(Protocol):
    """Returns q M, in any form; the engine sums it over steps and examples."""

    def __call__(self, influence: Any, q: Any, step: LinearStep) -> Any:
        """Takes the influence after the step and q, of the structure of the state."""
        ...


class FinishFn(Protocol):
    """Turns sums of what `pull_back` gave into gradients."""

    def __call__(self, recurrent: Any, sums: Any) -> Any:
        """Returns a tree of the structure of the recurrent parameters."""
        ...


class Trace(NamedTuple):
    """One way to store the influence, as pure functions of one example.

    Attributes:
      start: `(params, key, time) -> influence`.
      advance: `(influence, step, key) -> influence`.
      pull_back: `(influence, q, step) -> sums`.
      finish: `(recurrent, sums) -> gradient by the recurrent parameters`.
    """

    start: StartFn
    advance: AdvanceFn
    pull_back: PullBackFn
    finish: FinishFn = lambda recurrent, sums: sums


class OnlineState(NamedTuple):
    """What an estimator that goes forward in time remembers.

    Attributes:
      hidden: the model's state after the last step, leaves [B, ...].
      influence: of the parameters on it, leaves [B, ...].
      keys: [B] a key for each example.
      num_steps: [] how many steps were seen.
      feedback: [] key of the feedback weights, or None.
    """

    hidden: Any
    influence: Any
    keys: Keys
    num_steps: Array
    feedback: Key | None


def online(
    model: Model,
    loss_fn: LossFn,
    trace: Trace,
    *,
    traits: Traits,
    random_feedback: bool = False,
) -> GradientEstimator:
    """Carries the influence along, and multiplies it by q.

    Args:
      model: the model.
      loss_fn: `(prediction, target) -> loss of each example`.
      trace: how the influence is stored.
      traits: what the estimator promises.
      random_feedback: whether the loss speaks to the state through a readout of its
        own, drawn once, in place of the one that makes the predictions.

    Returns:
      The estimator; its state is an `OnlineState`.

    Raises:
      OptionError: the model has no step, or a readout without weights of its own.
    """
    check_online_form(model)
    if random_feedback:
        _check_feedback(model)

    def init(params: PyTree, batch_shape: tuple[int, ...], key: Key) -> OnlineState:
        _check_floating(model.initial_state(params, ()))
        keys, time = split(key, batch_shape), jnp.zeros((), jnp.int32)
        # `split` numbers its keys as `fold_in` does, from 0: this is one more.
        feedback = jax.random.fold_in(key, math.prod(batch_shape))
        return OnlineState(
            hidden=model.initial_state(params, batch_shape),
            influence=start(params, keys.own, time),
            keys=keys,
            num_steps=time,
            feedback=feedback if random_feedback else None,
        )

    def start(params: PyTree, keys: Key, time: Array) -> Any:
        return _over_batch(trace.start, keys.ndim, (None, 0, None))(params, keys, time)

    def score_step(
        params: PyTree,
        hidden: Any,
        feedback: Any,
        keys: Keys,
        step: Segment,
        time: Array,
    ) -> tuple[tuple[Array, Array, PyTree], Any]:
        """Returns loss, weight and r of a step, as sums over the batch, and q."""

        def read(params: PyTree, hidden: Any) -> Any:
            return model.readout(params, hidden, key=fold_in(keys, 1), time=time)

        def total(prediction: Any) -> tuple[Array, Array]:
            losses, weights = score(loss_fn, prediction, step)
            return jnp.sum(weights * losses), jnp.sum(weights)

        prediction, pull_back = jax.vjp(read, params, hidden)
        (loss, weight), error = jax.value_and_grad(total, has_aux=True)(prediction)
        direct, q = pull_back(error)
        if feedback is not None:
            other = params._replace(readout=feedback)
            (q,) = jax.vjp(lambda hidden: read(other, hidden), hidden)[1](error)
        return (loss, weight, direct), q

    def trace_step(
        influence: Any, step: LinearStep, q: Any, mask: Array | None, key: Key
    ) -> tuple[Any, Any]:
        """Advances the influence of one example, and pulls q back through it."""
        influence = keep(mask, trace.advance(influence, step, key), influence)
        return influence, trace.pull_back(influence, q, step)

    def estimate(
        params: PyTree, state: OnlineState, segment: Segment
    ) -> tuple[Estimate, OnlineState]:
        assert model.step is not None
        step_fn, keys, first = model.step, state.keys, state.num_steps
        noise = fold_in(of_segment(keys, first), 0)
        feedback = None
        if state.feedback is not None:
            feedback = model.init(state.feedback).readout
        origin = model.initial_state(params, keys.shape)
        hidden, influence = state.hidden, state.influence
        params, hidden, influence, keys, segment, feedback, origin = vary_together(
            (params, hidden, influence, keys, segment, feedback, origin)
        )
        linear_axes: Any = LinearStep(None, *(0, 0, 0), None)  # type: ignore[arg-type]
        trace_all = _over_batch(trace_step, keys.ndim, (0, linear_axes, 0, 0, 0))

        def restart(where: Array, hidden: Any, influence: Any, time: Array) -> Any:
            begun = origin, start(params, keys.own, time)
            return select(where, begun, (hidden, influence))

        def advance(hidden: Any, influence: Any, step: Segment, time: Array) -> Any:
            """Makes a step of all examples; returns what it adds to the sums too."""
            mask, x = None, step.inputs
            if step.resets is not None:
                resets = _broadcast(step.resets, keys)
                hidden, influence = restart(resets, hidden, influence, time)
            if step.mask is not None:
                mask = _broadcast(step.mask, keys)
                x = keep(mask, x, jnp.zeros_like(x))
            linear = LinearStep(params.recurrent, hidden, x, noise, time)
            new = step_fn(params.recurrent, hidden, x, key=noise, time=time)
            hidden = keep(mask, new, hidden)
            scored, q = score_step(params, hidden, feedback, keys, step, time)
            influence, pulled = trace_all(influence, linear, q, mask, keys.own)
            axes = tuple(range(keys.ndim))
            pulled = jax.tree.map(lambda x: jnp.sum(x, axes), pulled)
            return hidden, influence, (*scored, pulled)

        def body(carry: Any, xs: tuple[Segment, Array]) -> tuple[Any, None]:
            hidden, influence, sums = carry
            hidden, influence, terms = advance(hidden, influence, *xs)
            return (hidden, influence, add(sums, terms)), None

        length = len(jax.tree.leaves(segment.inputs)[0])
        xs = segment, first + jnp.arange(length, dtype=first.dtype)
        at_start = jnp.broadcast_to(first == 0, keys.shape)
        begun = restart(at_start, hidden, influence, first)
        # Not the first step itself: a segment may have none.
        some = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), xs)
        shapes = jax.eval_shape(advance, *begun, *like_varying(some, segment))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[2])
        *begun, zeros, _ = vary_together((*begun, zeros, (params, segment)))
        (hidden, influence, sums), _ = jax.lax.scan(body, (*begun, zeros), xs)
        loss, weight, direct, pulled = sums
        through = trace.finish(params.recurrent, pulled)
        grads = direct._replace(recurrent=add(direct.recurrent, through))
        return Estimate(loss, grads, weight), state._replace(
            hidden=hidden, influence=influence, num_steps=first + length
        )

    return GradientEstimator(init, estimate, traits)


def add(first: PyTree, second: PyTree) -> PyTree:
    """Adds two trees leaf by leaf."""
    return jax.tree.map(jnp.add, first, second)


def _over_batch(
    function: Callable[..., Any], ndim: int, in_axes: Any
) -> Callable[..., Any]:
    """Maps a function of one example over `ndim` batch axes."""
    for _ in range(ndim):
        function = jax.vmap(function, in_axes)
    return function


def _broadcast(control: Array, keys: Keys) -> Array:
    """Spreads a control of a step, [...] from the left, over the batch."""
    control = jnp.asarray(control)
    return jnp.broadcast_to(like(control, keys.own), keys.shape)


def _check_floating(state: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise OptionError(
                f"the state's {jax.tree_util.keystr(path)} is {leaf.dtype}, and there "
                "is no influence on it; make it floating-point, or use bptt with "
                'derivative = "autodiff"'
            )


def _check_feedback(model: Model) -> None:
    params = jax.eval_shape(model.init, jax.random.key(0))
    if not any(leaf.ndim > 1 for leaf in jax.tree.leaves(params.readout)):
        raise OptionError(
            'feedback: is "random", and the readout has no weights of its own; use '
            'feedback = "symmetric", or a readout that is neither tied nor "none"'
        )
