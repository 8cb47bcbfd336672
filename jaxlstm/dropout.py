"""The dropout family: what is dropped where, and the draws of it."""

from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.cells.base import Cell, StepNoise
from jaxlstm.noise import Keys, draw, dropout, fold_in
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array

# What draws are for: folded into a key, the number of the layer beside it. The way into
# a layer has the layer's number alone.
EMBEDDING, OUTPUT, CANDIDATE, STAY_H, STAY_C, *WEIGHTS = (n << 20 for n in range(1, 9))
BACKWARD = 1 << 19
# The weights that multiply what a step has of the one before.
RECURRENT_WEIGHTS = dict(zip(("w_h", "w_mh", "w_gates"), WEIGHTS, strict=True))


class Dropout(NamedTuple):
    """What is dropped in training. Without a key nothing is.

    Each rate is a probability in [0, 1); 0 is none.

    Attributes:
      between: of the outputs of a layer on their way into the next one [1].
      input: of the entries of what goes into the first layer.
      embedding: of whole symbols, before they are embedded [2].
      output: of the entries of what goes into the readout.
      recurrent: of the candidate for the memory, so that what is remembered stays [3].
        For cells with a `scaled_update`.
      weights: of the recurrent weights, one mask for the whole batch, as long as the
        key [4]; estimators give each segment its own. Of variants of the LSTM `w_mh`
        and `w_gates` too; never of peepholes.
      zoneout_h, zoneout_c: of the new values of h and c, where the old ones stay in
        their place; at evaluation both are mixed as is expected [5]. At each step anew.
      variational: whether a mask stays the same over time, and for a symbol, [2], or is
        drawn at each step anew.
      mask_steps: for how many steps, counted from time 0 on; None: as long as the key.

    References:
      [1] Zaremba, Sutskever and Vinyals, Recurrent Neural Network Regularization, 2014.
      [2] Gal and Ghahramani, A Theoretically Grounded Application of Dropout in
      Recurrent Neural Networks, NIPS 2016.
      [3] Semeniuta, Severyn and Barth, Recurrent Dropout without Memory Loss, COLING
      2016.
      [4] Merity, Keskar and Socher, Regularizing and Optimizing LSTM Language Models,
      ICLR 2018.
      [5] Krueger et al., Zoneout: Regularizing RNNs by Randomly Preserving Hidden
      Activations, ICLR 2017.
    """

    between: float = 0.0
    input: float = 0.0
    embedding: float = 0.0
    output: float = 0.0
    recurrent: float = 0.0
    weights: float = 0.0
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    variational: bool = False
    mask_steps: int | None = None

    @property
    def kept_for(self) -> int | None:
        """How many steps a mask is kept: 1, `mask_steps`, or None for all."""
        return self.mask_steps if self.variational else 1


RATES = Dropout._fields[:8]


def check_dropout(given: float | Dropout, cell: Cell, num_layers: int) -> Dropout:
    """Returns dropout as a `Dropout`; a number is the rate between layers.

    Raises:
      OptionError: a rate is none, or the cell or the stack has no place for it.
    """
    if not isinstance(given, Dropout):
        _check_rate("dropout", given)
        given = Dropout(between=given)
    for name in RATES:
        _check_rate(f"dropout.{name}", getattr(given, name))
    steps = given.mask_steps
    if steps is not None and not (isinstance(steps, Integral) and steps > 0):
        raise OptionError(f"dropout.mask_steps: {steps!r} is not a positive integer")
    if given.between and num_layers == 1:
        raise OptionError(
            f"dropout: {given.between} acts between layers, and num_layers is 1; "
            "leave it out"
        )
    for name in ("recurrent", "weights", "zoneout_h", "zoneout_c"):
        if getattr(given, name) and cell.gated is None:
            raise OptionError(
                f"dropout.{name}: acts inside a gated cell, and this one has no gated "
                "form; leave it out"
            )
    if given.recurrent and (cell.gated is None or cell.gated.scaled_update is None):
        raise OptionError(
            f"dropout.recurrent: {given.recurrent} acts on the candidate for a "
            "memory, and the cell has none; leave it out"
        )
    return given


def _check_rate(name: str, rate: Any) -> None:
    try:
        inside = bool(0 <= rate < 1)
    except (TypeError, ValueError):
        raise OptionError(f"{name}: {rate!r} is not a number in [0, 1)") from None
    if not inside:
        raise OptionError(f"{name}: {rate} is not in [0, 1)")


def drop_symbols(
    x: Array, symbols: Array, options: Dropout, keys: Keys | None, time: int | Array
) -> Array:
    """Sets the embeddings of some symbols to zero, and scales those of the others.

    Args:
      x: [T, ..., E] embeddings, or [..., E] of a single step.
      symbols: [T, ...] what they embed.
      options: give the rate.
      keys: [...] of the examples, or None for no noise.
      time: [] the number of the first step.
    """
    rate = options.embedding
    if keys is None or not rate:
        return x
    own = fold_in(keys.own, EMBEDDING)
    kept_for = options.kept_for
    steps, number = jnp.asarray(time), jnp.zeros((), jnp.int32)
    if x.ndim > own.ndim + 1:
        own = own[None]
        steps = steps + jnp.arange(x.shape[0]).reshape(-1, *[1] * (own.ndim - 1))
    if kept_for is not None:
        number = steps // kept_for
    keyed = fold_in(fold_in(own, number), symbols)
    one = lambda key: jax.random.bernoulli(key, 1 - rate)  # noqa: E731
    kept = jax.vmap(one)(keyed.reshape(-1)).reshape(*keyed.shape, 1)
    return jnp.where(kept, x / (1 - rate), 0)


def drop_feed(
    x: Array, layer: int, options: Dropout, keys: Keys | None, time: int | Array
) -> Array:
    """Drops entries of what goes into a layer, [T, ..., H] or [..., H]."""
    rate = options.between if layer else options.input
    return _drop(x, rate, layer, options, keys, time)


def drop_output(
    x: Array, options: Dropout, keys: Keys | None, time: int | Array
) -> Array:
    """Drops entries of what goes into the readout, [T, ..., H] or [..., H]."""
    return _drop(x, options.output, OUTPUT, options, keys, time)


def _drop(
    x: Array,
    rate: float,
    purpose: int,
    options: Dropout,
    keys: Keys | None,
    time: int | Array,
) -> Array:
    if keys is None or not rate:
        return x
    own = fold_in(keys.own, purpose)
    return dropout(x, rate, own, time, options.kept_for)


def drop_weights(params: Any, place: int, options: Dropout, keys: Keys | None) -> Any:
    """Drops entries of the recurrent weights of a layer, for the whole batch alike.

        w_h' = w_h m / (1 - rate)

    Likewise w_mh and w_gates, where they are there, by masks of their own.

    Args:
      params: of the layer, with a field w_h [R, K].
      place: of the layer and direction.
      options: give the rate.
      keys: [...] of the examples, or None for no noise.

    Raises:
      OptionError: the parameters have no such field.
    """
    rate = options.weights
    if keys is None or not rate:
        return params
    if getattr(params, "w_h", None) is None:
        raise OptionError(
            f"dropout.weights: {rate} is of the recurrent weights w_h, and the cell's "
            f"{type(params).__name__} has none; leave it out"
        )
    if not keys.shared.size:
        return params
    dropped = {}
    for name, purpose in RECURRENT_WEIGHTS.items():
        w = getattr(params, name, None)
        if w is not None:
            key = fold_in(keys.shared.reshape(-1)[0], purpose + place)
            kept = draw(1 - rate, key, 0, None, w.shape, None)
            dropped[name] = jnp.where(kept, w / (1 - rate), 0)
    return params._replace(**dropped)


def draw_noise(
    state: Any,
    place: int,
    options: Dropout,
    keys: Keys | None,
    time: int | Array,
    length: int | None = None,
) -> StepNoise | None:
    """Draws what disturbs the updates of a layer.

    Args:
      state: of the layer, leaves [..., H].
      place: of the layer and direction.
      options: give the rates.
      keys: [...] of the examples; None for none: what is expected stands in its place.
      time: [] the number of the first step.
      length: T, how many steps; None for a single one, without an axis for time.

    Returns:
      The noise, leaves [T, ..., H] or [..., H]; None where there is none.

    Raises:
      OptionError: the state has no field that is to stay.
    """
    fields = state._asdict() if hasattr(state, "_asdict") else {}
    leaf = fields.get("c", jax.tree.leaves(state)[-1])
    candidate, stay = None, {}
    if options.recurrent and keys is not None:
        keep = 1 - options.recurrent
        own = fold_in(keys.own, CANDIDATE + place)
        kept_for = options.kept_for
        kept = draw(keep, own, time, length, leaf.shape[-1:], kept_for)
        candidate = _over_time(kept.astype(leaf.dtype) / keep, length)
    for name, purpose in (("h", STAY_H), ("c", STAY_C)):
        rate = getattr(options, f"zoneout_{name}")
        if not rate:
            continue
        if name not in fields:
            raise OptionError(
                f"dropout.zoneout_{name}: {rate} is of {name}, and the cell's "
                f"{type(state).__name__} has no such field; leave it out"
            )
        field = fields[name]
        if keys is None:
            stays = jnp.full((1,) * (field.ndim + (length is not None)), rate)
        else:
            own = fold_in(keys.own, purpose + place)
            stays = draw(rate, own, time, length, field.shape[-1:])
        stay[name] = _over_time(stays.astype(field.dtype), length)
    if candidate is None and not stay:
        return None
    return StepNoise(candidate, stay or None)


def _over_time(x: Array, length: int | None) -> Array:
    """Repeats an axis of time that is 1."""
    if length is None or len(x) == length:
        return x
    return jnp.broadcast_to(x, (length, *x.shape[1:]))
