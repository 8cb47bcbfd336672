"""Noise that depends on the example, its purpose and the time, and on nothing else.

A key belongs to an example: a batch has an array of keys of its shape. The draws of a
step come from `fold_in(key, time)`. So they are the same whether a sequence is run at
once, in chunks or step by step, and however a batch is spread over devices.
"""

import jax
import jax.numpy as jnp

from jaxlstm.types import Array, Key

fold_in = jnp.vectorize(jax.random.fold_in)
fold_in.__doc__ = "Folds integers into keys, broadcasting one against the other."


def dropout(x: Array, rate: float, key: Key, time: int | Array) -> Array:
    """Sets entries to zero at random, and scales the others so that the mean stays.

        x' = x m / (1 - rate),    m = 1 with probability 1 - rate, else 0

    Args:
      x: [T, ..., H], or [..., H] for a single step.
      rate: the probability of zero, below 1.
      key: [...] a key for each example.
      time: [] the number of the first step.

    Returns:
      An array of the shape of x.

    References:
      Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
      Overfitting, JMLR 15, 2014.
    """
    if x.ndim == key.ndim + 1:
        keys = fold_in(key, time)
    else:
        steps = time + jnp.arange(x.shape[0])
        keys = fold_in(key[None], steps.reshape(-1, *[1] * key.ndim))
    draw = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[-1:]))
    kept = draw(keys.reshape(-1)).reshape(x.shape)
    return jnp.where(kept, x / (1 - rate), 0)
