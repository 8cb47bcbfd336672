"""Keras over JAX, made to compute in float64."""

import contextlib
import os
from collections.abc import Iterator

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras as keras
import numpy as np
from keras.src.backend.common import dtypes

# Keras's variables, as NumPy 2 reads them.
FILTER = "ignore:__array__ implementation:DeprecationWarning"


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Lets Keras compute in float64, and add arrays of unlike rank as it does.

    Over JAX the dtype of a result that is float64 is float32 by a table, whatever the
    dtype of a layer.
    """
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    table = dtypes.BIT64_TO_BIT32_DTYPE
    before = table["float64"]
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    table["float64"] = "float64"
    try:
        with jax.numpy_rank_promotion("allow"):
            yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
        table["float64"] = before


def draw(seed: int, *shape: int) -> np.ndarray:
    """Draws normal values."""
    return np.random.default_rng(seed).normal(size=shape)
