"""Optimizers, schedules and clipping, by optax."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
from pydantic import Field

from jaxlstm.interop.weights import name_leaves
from jaxlstm.lab.averaging import average_params
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.schema import ClipSection, Count, ScheduleSection
from jaxlstm.model import Model
from jaxlstm.types import PyTree

# No run comes to more, and JAX counts no further.
LAST_UPDATE = 2**31 - 1

Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


def sgd(
    learning_rate: optax.Schedule, *, momentum: Fraction = 0.0, nesterov: bool = False
) -> optax.GradientTransformation:
    """Stochastic gradient descent."""
    return optax.sgd(learning_rate, momentum or None, nesterov)


def adam(
    learning_rate: optax.Schedule,
    *,
    b1: Fraction = 0.9,
    b2: Fraction = 0.999,
    eps: Positive = 1e-8,
) -> optax.GradientTransformation:
    """Adam."""
    return optax.adam(learning_rate, b1, b2, eps)


def adamw(
    learning_rate: optax.Schedule,
    *,
    b1: Fraction = 0.9,
    b2: Fraction = 0.999,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 1e-4,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay."""
    return optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay)


def rmsprop(
    learning_rate: optax.Schedule,
    *,
    decay: Fraction = 0.9,
    eps: Positive = 1e-8,
    eps_in_sqrt: bool = False,
    momentum: Fraction = 0.0,
) -> optax.GradientTransformation:
    """RMSProp, with eps outside the square root as in Torch and char-rnn, or inside."""
    return optax.rmsprop(
        learning_rate, decay, eps, eps_in_sqrt=eps_in_sqrt, momentum=momentum or None
    )


def nt_asgd(
    learning_rate: optax.Schedule,
    *,
    non_monotone: Count = 5,
    weight_decay: NonNegative = 0.0,
) -> optax.GradientTransformation:
    """Stochastic gradient descent whose iterates are averaged once it gets no further.

        w_{k+1} = w_k - rate (g_k + decay w_k)
        T       = the first evaluation whose loss is above the least of those more than
                  n evaluations before it
        result  = mean of w_T ... w_k, from T on

    Whoever trains says when the average begins.

    References:
      Merity, Keskar and Socher, Regularizing and Optimizing LSTM Language Models, ICLR
      2018, algorithm 1, with the minimum as in its published code; Polyak and Juditsky,
      Acceleration of Stochastic Approximation by Averaging, SIAM Journal on Control and
      Optimization 30(4), 1992.
    """
    del non_monotone
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(learning_rate),
        average_params(),
    )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
    "nt_asgd": nt_asgd,
}


def make_schedule(
    section: ScheduleSection,
    learning_rate: float,
    num_updates: int,
    updates_per_epoch: int | None,
) -> optax.Schedule:
    """Returns the learning rate by the number of the update.

    Args:
      section: of the config.
      learning_rate: what the factor of the schedule multiplies.
      num_updates: where "cosine" ends.
      updates_per_epoch: None for a stream without end.

    Raises:
      UserError: the schedule counts epochs, and there are none.
    """
    unit = 1
    if section.unit == "epochs":
        if updates_per_epoch is None:
            raise UserError(
                '[optimizer] schedule.unit = "epochs": the task\'s stream has no end; '
                'use "updates"'
            )
        unit = updates_per_epoch

    def updates(count: int) -> int:
        return min(count * unit, LAST_UPDATE)

    every = updates(section.every or (1000 if section.unit == "updates" else 1))
    warmup = updates(section.warmup)
    if section.name == "cosine":
        steps = max(1, min(num_updates, LAST_UPDATE) - warmup)
        schedule = optax.cosine_decay_schedule(learning_rate, steps, section.final)
    elif section.name == "exponential":
        schedule = optax.exponential_decay(
            learning_rate,
            every,
            section.rate,
            transition_begin=max(0, updates(section.begin) - warmup),
            staircase=True,
        )
    elif section.name == "steps":
        schedule = optax.piecewise_constant_schedule(
            learning_rate, {updates(n) - warmup: section.rate for n in section.at}
        )
    else:
        schedule = optax.constant_schedule(learning_rate)
    if not warmup:
        return schedule
    rise = optax.linear_schedule(0.0, learning_rate, warmup)
    return optax.join_schedules([rise, schedule], [warmup])


def make_clip(section: ClipSection) -> optax.GradientTransformation:
    """Returns the clipping of the gradient, by entry and then by norm.

    Its state has one form, so that a run can be gone on with under another clipping.
    """
    value, norm = section.value, section.norm
    return optax.chain(
        optax.identity() if value is None else optax.clip(value),
        optax.identity() if norm is None else optax.clip_by_global_norm(norm),
    )


def apply_all(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns an optimizer with the state of `optax.apply_if_finite`, but not its test.

    So a run can be gone on with under another `skip_non_finite`.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, inner_state = inner.update(updates, state.inner_state, params)
        return updates, state._replace(inner_state=inner_state)

    return optax.GradientTransformation(optax.apply_if_finite(inner, 1).init, update)


def make_trained(frozen: Sequence[str], model: Model) -> Callable[[PyTree], PyTree]:
    """Returns `(tree) -> tree`, which puts to zero what belongs to frozen parameters.

    Args:
      frozen: names of parameters, or the beginnings of names, as far as a dot.
      model: has the parameters.

    Raises:
      UserError: a name is that of no parameter, or nothing is left to train.
    """
    if not frozen:
        return lambda tree: tree
    names = list(name_leaves(jax.eval_shape(model.init, jax.random.key(0))))
    for prefix in frozen:
        if not any(_begins(name, prefix) for name in names):
            raise UserError(
                f'[optimizer] frozen: "{prefix}" is no parameter; there are '
                f"{', '.join(names)}, and what these begin with, up to a dot"
            )
    held = [any(_begins(name, prefix) for prefix in frozen) for name in names]
    if all(held):
        raise UserError(
            "[optimizer] frozen: no parameter is left to train; leave one out"
        )

    def trained(tree: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(tree)
        return structure.unflatten(
            jnp.zeros_like(leaf) if still else leaf
            for leaf, still in zip(leaves, held, strict=True)
        )

    return trained


def _begins(name: str, prefix: str) -> bool:
    return f"{name}.".startswith(f"{prefix}.")
