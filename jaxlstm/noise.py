"""Noise that depends on the example, its purpose and the time, and on nothing else.

A key belongs to an example: a batch has an array of keys of its shape. The draws of a
step come from `fold_in(key, time)`. So they are the same whether a sequence is run at
once, in chunks or step by step, and however a batch is spread over devices. What the
whole batch shares, which masks of weights do, comes from a key that all its examples
have beside their own, and lasts as long as the key; estimators give each segment one.
"""

from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp

from jaxlstm.types import Array, Key

# `split` numbers its keys from 0.
_SHARED = 2**32 - 1


class Keys(NamedTuple):
    """The keys of a batch.

    Attributes:
      own: [...] a key for each example.
      shared: [...] the same key, for each example too, so that a batch can be taken
        apart.
    """

    own: Key
    shared: Key

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the batch."""
        return self.own.shape

    @property
    def ndim(self) -> int:
        """The number of the batch's axes."""
        return self.own.ndim


def split(key: Key, batch_shape: tuple[int, ...]) -> Keys:
    """Returns the keys of a batch, from one key, consumed whole."""
    shared = jax.random.fold_in(key, _SHARED)
    own = jax.random.split(key, batch_shape)
    return Keys(own, jnp.broadcast_to(shared, batch_shape))


@overload
def of_batch(key: None, batch_shape: tuple[int, ...]) -> None: ...
@overload
def of_batch(key: Key | Keys, batch_shape: tuple[int, ...]) -> Keys: ...
def of_batch(key: Key | Keys | None, batch_shape: tuple[int, ...]) -> Keys | None:
    """Returns the keys of a batch from what a caller has, or None for None.

    Args:
      key: they themselves; a key for each example, of which the first is shared too, so
        that parts of a batch have other shared draws than the whole, where those of
        `split` have the same; or one key for all of a batch.
      batch_shape: of the batch.

    Raises:
      ValueError: keys are of another shape.
      TypeError: they are none.
    """
    if key is None:
        return None
    if isinstance(key, Keys):
        if key.shape != batch_shape:
            raise ValueError(
                f"key: shape {key.shape} is not that of the batch, {batch_shape}"
            )
        return key
    if not jnp.issubdtype(getattr(key, "dtype", int), jax.dtypes.prng_key):
        raise TypeError(f"key: {key!r} is none; use one of jax.random.key")
    if key.shape == batch_shape:
        first = key.reshape(-1)[0] if key.size else key
        return Keys(key, jnp.broadcast_to(first, batch_shape))
    if key.shape:
        raise ValueError(
            f"key: shape {key.shape} is neither [] nor that of the batch, {batch_shape}"
        )
    return split(key, batch_shape)


_fold = jnp.vectorize(jax.random.fold_in)


def fold_in(key: Any, number: Any) -> Any:
    """Folds integers into keys, broadcasting one against the other."""
    return jax.tree.map(lambda key: _fold(key, number), key)


def of_segment(keys: Any, time: int | Array) -> Any:
    """Returns the keys of a batch for a segment, whose shared draws are its own.

    Args:
      keys: `Keys`; what else there is stays as it is.
      time: [] the number of the segment's first step.
    """
    if not isinstance(keys, Keys):
        return keys
    return keys._replace(shared=fold_in(keys.shared, time))


def dropout(
    x: Array,
    rate: float,
    key: Key | Keys,
    time: int | Array,
    kept_for: int | None = 1,
) -> Array:
    """Sets entries to zero at random, and scales the others so that the mean stays.

        x' = x m / (1 - rate),    m = 1 with probability 1 - rate, else 0

    Args:
      x: [T, ..., H], or [..., H] for a single step.
      rate: the probability of zero, below 1.
      key: [...] a key for each example.
      time: [] the number of the first step.
      kept_for: how many steps a mask is kept; None: always.

    Returns:
      An array of the shape of x.

    Raises:
      ValueError: there is not a key for each example.

    References:
      Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
      Overfitting, JMLR 15, 2014.
    """
    if key.shape not in (x.shape[:-1], x.shape[1:-1]):
        raise ValueError(
            f"key: shape {key.shape} is not that of the batch of x {x.shape}; give one "
            "for each example"
        )
    length = None if x.ndim == key.ndim + 1 else x.shape[0]
    kept = draw(1 - rate, key, time, length, x.shape[-1:], kept_for)
    return jnp.where(kept, x / (1 - rate), 0)


def draw(
    probability: float,
    keys: Key | Keys,
    time: int | Array,
    length: int | None,
    shape: tuple[int, ...],
    kept_for: int | None = 1,
) -> Array:
    """Draws masks: true with a probability.

    Args:
      probability: of true.
      keys: [...] a key for each example.
      time: [] the number of the first step.
      length: T, how many steps; None for a single one, without an axis for time.
      shape: of what is drawn for each step and example.
      kept_for: how many steps a mask is kept; None: always.

    Returns:
      [T, ..., *shape], or [..., *shape]. Axes of T may be 1 where a mask always stays.
    """
    own = keys.own if isinstance(keys, Keys) else keys

    def at(numbers: Any) -> Array:
        keyed = fold_in(own[None], numbers.reshape(-1, *[1] * own.ndim))
        one = lambda key: jax.random.bernoulli(key, probability, shape)  # noqa: E731
        drawn = jax.vmap(one)(keyed.reshape(-1))
        return drawn.reshape(*keyed.shape, *shape)

    if kept_for is None:
        drawn = at(jnp.zeros(1, jnp.int32))
    elif length is None or kept_for == 1:
        steps = jnp.asarray(time) + jnp.arange(1 if length is None else length)
        drawn = at(steps // kept_for)
    else:
        # As many masks as these steps may need: fewer than there are steps.
        first = jnp.asarray(time) // kept_for
        count = min(length, (length - 2) // kept_for + 2)
        steps = (jnp.asarray(time) + jnp.arange(length)) // kept_for - first
        drawn = at(first + jnp.arange(count))[steps]
    return drawn[0] if length is None else drawn
