"""Persistent evolution strategies: gradients from the losses of perturbed weights."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxlstm.estimators.base import (
    Estimate,
    GradientEstimator,
    LossFn,
    Segment,
    Traits,
    check_online_form,
)
from jaxlstm.estimators.draws import Sample, normal
from jaxlstm.estimators.forward import forward
from jaxlstm.model import Model
from jaxlstm.noise import Keys, split
from jaxlstm.select import like
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array, Key, PyTree


class PESState(NamedTuple):
    """What PES remembers between two segments.

    Attributes:
      hidden: the model's state of each particle, leaves [B, N, ...]. Particle
        n + N/2 is the mirror image of particle n.
      perturbations: [B, N/2, P] what the first half's states were perturbed by, summed
        over the segments since the last reset; the other half's is minus this.
      keys: [B] a key for each example.
      num_steps: [] how many steps were seen.
    """

    hidden: Any
    perturbations: Array
    keys: Keys
    num_steps: Array


class Outcome(NamedTuple):
    """What a segment did to one example.

    Attributes:
      hidden: the state of each particle after it, leaves [N, ...].
      epsilon: [N/2, P] the perturbations of the first half.
      perturbations: [N/2, P] their sums after the segment.
      losses: [N] sum of weight times loss.
      losses_before: [N] the same, up to the first reset.
      weight: [] sum of the weights.
    """

    hidden: Any
    epsilon: Array
    perturbations: Array
    losses: Array
    losses_before: Array
    weight: Array


def pes(
    model: Model,
    loss_fn: LossFn,
    *,
    num_particles: int,
    sigma: float,
    sample: Sample | None = None,
) -> GradientEstimator:
    """Correlates losses with all the perturbations that the state has gone through.

        g = 1/(N sigma^2) sum_n sum_t l_t(theta + eps_{n,t}) xi_{n,t}
        xi_{n,t} = sum_{tau <= t} eps_{n,tau},     eps ~ normal(0, sigma^2)

    Each example has N particles of its own, with perturbed copies of all parameters.
    A perturbation is drawn for a segment and stands for it once in the sums, which
    reach back to the example's last reset, not to the start of the segment: as far as
    the state does. Particles come in mirrored pairs, eps and -eps, so that what is
    even in eps cancels. A segment that is masked for an example adds nothing.

    *Biased* for the gradient of the loss, by O(sigma^2); *unbiased* for that of the
    smoothed loss, E_eps L(theta + eps) with an eps of its own for each segment, and
    exact in the mean where the loss is quadratic in the parameters. No truncation.
    The loss returned is the mean over the particles. Nothing is differentiated, so
    that model and loss may have steps and jumps.

    Costs O(N P) time a step and O(N (P + sqrt(T) H)) memory, for each example.

    Args:
      model: the model.
      loss_fn: `(prediction [..., Y], target [...]) -> loss of each example [...]`.
      num_particles: N, even.
      sigma: the standard deviation of a perturbation.
      sample: draws the perturbations of an example's first half of particles, in units
        of sigma: `sample(key, time, (N/2, P))` at the first step of each segment. By
        default normal. The parameters stand in it as `ravel_pytree` puts them.

    Returns:
      The estimator; its state is a `PESState`.

    Raises:
      ValueError: the number of particles is odd or none, sigma not positive, or the
        model without an online form.

    References:
      Vicol, Metz and Sohl-Dickstein, Unbiased Gradient Estimation in Unrolled
      Computation Graphs with Persistent Evolution Strategies, ICML 2021.
    """
    check_online_form(model)
    if num_particles < 2 or num_particles % 2:
        raise OptionError(
            f"num_particles: value is {num_particles}, and particles come in pairs; "
            "use an even number, 2 or more"
        )
    if not 0 < sigma < math.inf:
        raise OptionError(f"sigma: value is {sigma}; use a positive number")
    draw, half = sample or normal, num_particles // 2

    def init(params: PyTree, batch_shape: tuple[int, ...], key: Key) -> PESState:
        flat, _ = ravel_pytree(params)
        return PESState(
            hidden=model.initial_state(params, (*batch_shape, num_particles)),
            perturbations=jnp.zeros((*batch_shape, half, flat.size), flat.dtype),
            keys=split(key, batch_shape),
            num_steps=jnp.zeros((), jnp.int32),
        )

    def estimate(
        params: PyTree, state: PESState, segment: Segment
    ) -> tuple[Estimate, PESState]:
        time = state.num_steps
        length = len(jax.tree.leaves(segment.inputs)[0])
        flat, unravel = ravel_pytree(params)

        def run(
            hidden: Any, perturbations: Array, keys: Keys, segment: Segment
        ) -> Outcome:
            epsilon = sigma * draw(keys.own, time, (half, flat.size)).astype(flat.dtype)

            def particle(epsilon: Array, hidden: Any) -> tuple[Any, Array, Array]:
                perturbed = unravel(flat + epsilon)
                return forward(
                    *(model, loss_fn, perturbed, hidden, segment, keys, time),
                    chunks=True,
                )

            both = jnp.concatenate([epsilon, -epsilon])
            hidden, losses, weights = jax.vmap(particle)(both, hidden)
            losses = weights * losses
            unbroken, touched = _reach(segment, length)
            touched = touched | (time == 0)
            kept = unbroken[-1] if length else True
            return Outcome(
                hidden,
                epsilon,
                jnp.where(kept, perturbations, 0) + jnp.where(touched, epsilon, 0),
                jnp.sum(losses, axis=1),
                jnp.sum(jnp.where(unbroken, losses, 0), axis=1),
                jnp.sum(weights[0]),
            )

        past = jnp.where(time == 0, 0, state.perturbations)
        outcome = _map_examples(run, state.keys.ndim)(
            state.hidden, past, state.keys, _spread(segment, state.keys.shape)
        )
        slope, slope_before = (
            (losses[..., :half] - losses[..., half:]).astype(flat.dtype)
            for losses in (outcome.losses, outcome.losses_before)
        )
        axes = slope.ndim
        grads = (
            jnp.tensordot(slope, outcome.epsilon, axes)
            + jnp.tensordot(slope_before, past, axes)
        ) / (num_particles * sigma**2)
        loss = jnp.sum(outcome.losses) / num_particles
        state = state._replace(
            hidden=outcome.hidden,
            perturbations=outcome.perturbations,
            num_steps=time + length,
        )
        return Estimate(loss, unravel(grads), jnp.sum(outcome.weight)), state

    traits = Traits(kind="biased", segment_invariant=False, online=False)
    return GradientEstimator(init, estimate, traits)


def _reach(segment: Segment, length: int) -> tuple[Array, Array]:
    """Returns where no reset has come yet [T], and whether any step or reset is there.

    Args:
      segment: of one example, its controls [T].
      length: T.
    """
    none = jnp.zeros(length, bool)
    resets = none if segment.resets is None else segment.resets != 0
    present = ~none if segment.mask is None else segment.mask != 0
    return jnp.cumsum(resets) == 0, jnp.any(present | resets)


def _spread(segment: Segment, batch_shape: tuple[int, ...]) -> Segment:
    """Gives every control all of the batch axes."""

    def spread(control: Array | None) -> Array | None:
        if control is None:
            return None
        control = jnp.asarray(control)
        axes = control.shape[:1] + batch_shape
        return jnp.broadcast_to(like(control, jnp.empty((1,) * len(axes))), axes)

    controls = {name: spread(getattr(segment, name)) for name in _CONTROLS}
    return segment._replace(**controls)


_CONTROLS = "mask", "resets", "weights"


def _map_examples(run: Any, num_axes: int) -> Any:
    """Maps `(hidden, perturbations, key, segment [T, ...])` over the batch axes."""
    for _ in range(num_axes):
        run = jax.vmap(run, in_axes=(0, 0, 0, 1))
    return run
