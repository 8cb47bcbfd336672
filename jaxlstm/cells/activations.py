"""Activation functions by name."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxlstm.shapes import OptionError
from jaxlstm.types import Array

# A name of `ACTIVATIONS`, or a function that goes element by element.
Activation = str | Callable[[Array], Array]


def _hard_sigmoid_02(z: Array) -> Array:
    return jnp.clip(0.2 * z + 0.5, 0, 1)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "identity": lambda z: z,
    "relu": jax.nn.relu,
    # Piecewise linear, clip(z / 6 + 1/2, 0, 1): that of Keras 3 and of PyTorch.
    "hard_sigmoid": jax.nn.hard_sigmoid,
    # clip(z / 5 + 1/2, 0, 1): that of Keras 1 and 2, and the one of ONNX by default.
    "hard_sigmoid_0.2": _hard_sigmoid_02,
    "hard_tanh": jax.nn.hard_tanh,
    "softsign": jax.nn.soft_sign,
    "softplus": jax.nn.softplus,
    "elu": jax.nn.elu,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
}


def find_activation(option: str, activation: Activation) -> Callable[[Array], Array]:
    """Returns the function of that name, or the given one.

    Args:
      option: names it in the error.
      activation: a name, or a function.

    Raises:
      OptionError: no activation has that name.
    """
    if callable(activation):
        return activation
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise OptionError(
            f"{option}: {activation!r} is unknown; use one of {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[activation]
