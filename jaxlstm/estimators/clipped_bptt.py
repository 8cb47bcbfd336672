"""Backpropagation through time, with gradients clipped on their way."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxlstm.edges import Hooks
from jaxlstm.estimators.base import GradientEstimator, LossFn, Traits
from jaxlstm.estimators.edges import backward, has_gated_form
from jaxlstm.model import Model
from jaxlstm.sequence import Remat
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def clip_gradient(x: Array, bound: float) -> Array:
    """Returns x; each entry of its gradient is clipped to [-bound, bound]."""
    del bound
    return x


clip_gradient.defvjp(
    lambda x, bound: (x, None),
    lambda bound, _, gradient: (jnp.clip(gradient, -bound, bound),),
)


def clipped_bptt(
    model: Model,
    loss_fn: LossFn,
    *,
    z: float | None = None,
    h: float | None = None,
    c: float | None = None,
    remat: Remat = "none",
) -> GradientEstimator:
    """Clips gradients inside the recursion, entry by entry.

        dz_t     = clip_z(dL/dz_t)
        dh_{t-1} = clip_h(dz_t W_h^T)
        dc_{t-1} = clip_c(what update passes back to the state directly)
        ds_{t-1} = q_{t-1} + dh_{t-1} + dc_{t-1},    clip_b(x) = min(max(x, -b), b)

    for every example by itself, and with its weights: bounds do not depend on the size
    of the batch. A later step's large gradient is cut down before it is carried on,
    which clipping the sum afterwards, as an optimizer does, cannot undo.

    *Biased* wherever a bound is met; where none is, the gradient of `bptt`. Clipping is
    not linear: JAX refuses a `jvp` of the states, and differentiates step by step, not
    by the rule of `jaxlstm.rule`. Between segments the state is carried and the
    gradient is cut. Costs O(T H) memory and O(P) time a step, with P weights.

    Args:
      model: the model. For `z` and `c`, its cell has a gated form.
      loss_fn: `(prediction [..., Y], target [...]) -> loss of each example [...]`.
      z: the bound on the gradient by the preactivations. None: not clipped.
      h: the bound on what comes back through the recurrent weights. At 0 the gradient
        is that of e-prop, within a segment.
      c: the bound on what comes back by the state's own way, such as the memory cell.
      remat: as in `bptt`.

    Returns:
      The estimator.

    Raises:
      ValueError: no bound is given, or a negative one, `remat` is unknown, the cell
        lacks a gated form, or the model's engine is not "scan".

    References:
      Graves, Generating Sequences With Recurrent Neural Networks, 2013: the gradient
      by the preactivations, to [-10, 10] or [-1, 1].
    """
    bounds = {"z": z, "h": h, "c": c}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    if not given:
        raise OptionError("z, h, c: none is given; give one, or use bptt")
    for name, bound in given.items():
        if math.isnan(bound) or bound < 0:
            raise OptionError(f"{name}: {bound} is not a bound; use 0 or more")
        if name != "h" and not has_gated_form(model):
            raise OptionError(
                f"{name}: the model's cell has no gated form, and so one way from "
                "step to step, by h; give the bound h instead"
            )

    if model.engine != "scan":
        raise OptionError(
            f'engine: the model\'s is "{model.engine}", whose derivative goes through '
            'all steps at once, so that none can be clipped; use engine = "scan"'
        )

    def clip(bound: float) -> Callable[[Array], Array]:
        return lambda x: clip_gradient(x, bound)

    hooks = Hooks(**{name: clip(bound) for name, bound in given.items()})
    traits = Traits(kind="biased", segment_invariant=False, online=False)
    return backward(model, loss_fn, edges=lambda *_: hooks, remat=remat, traits=traits)
