"""Random draws of the estimators, by example and step.

They come from `fold_in(fold_in(key, 2), time)`; a model's own noise has 0 and 1.
"""

from typing import Protocol

import jax
import jax.numpy as jnp

from jaxlstm.types import Array, Key


class Sample(Protocol):
    """Draws what an estimator needs at a step of one example.

    Every estimator that draws takes one as `sample`, so that its draws can be
    prescribed: with a batch of all possible draws, its mean is computed exactly.
    """

    def __call__(self, key: Key, time: int | Array, shape: tuple[int, ...]) -> Array:
        """Returns a floating-point array of that shape.

        Args:
          key: [] of the example, as it stands in the state, the same at all its steps.
          time: [] the number of the step.
          shape: what is needed.
        """
        ...


def _fold_in(key: Key, time: int | Array) -> Key:
    return jax.random.fold_in(jax.random.fold_in(key, 2), time)


def signs(key: Key, time: int | Array, shape: tuple[int, ...]) -> Array:
    """Draws 1 or -1, as likely."""
    return jax.random.rademacher(_fold_in(key, time), shape, jnp.result_type(float))


def normal(key: Key, time: int | Array, shape: tuple[int, ...]) -> Array:
    """Draws from the standard normal distribution."""
    return jax.random.normal(_fold_in(key, time), shape)


def bernoulli(probability: float) -> Sample:
    """Returns a sample of 1 with that probability, and else 0."""

    def sample(key: Key, time: int | Array, shape: tuple[int, ...]) -> Array:
        draws = jax.random.bernoulli(_fold_in(key, time), probability, shape)
        return draws.astype(jnp.result_type(float))

    return sample
