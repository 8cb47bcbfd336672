"""Keras's activation functions by their names in a config."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.cells.activations import Activation
from jaxlstm.interop.weights import WeightsError, show

_gelu = functools.partial(jax.nn.gelu, approximate=False)

# By Keras's name that of `ACTIVATIONS`, or a function that has no name there.
NAMES: dict[str, Activation] = {
    "linear": "identity",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "relu": "relu",
    "softsign": "softsign",
    "softplus": "softplus",
    "elu": "elu",
    "silu": "silu",
    "swish": "silu",
    "hard_tanh": "hard_tanh",
    # The one of `ACTIVATIONS` is approximate.
    "gelu": _gelu,
    "selu": jax.nn.selu,
    "relu6": jax.nn.relu6,
    "exponential": jnp.exp,
}
# Of all units together, which no gate has.
DENSE_NAMES = NAMES | {
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
}


def activation_of_keras(
    value: Any,
    version: int,
    place: str,
    names: Mapping[str, Activation] = NAMES,
) -> Activation:
    """Returns an activation as cells here take it.

    Args:
      value: as it stands in a config.
      version: the major one of Keras, on which the hard sigmoid depends: it was
        clip(z / 5 + 1/2, 0, 1), and is clip(z / 6 + 1/2, 0, 1) since 3.
      place: where it stands, for the message.
      names: those that may stand there.

    Raises:
      WeightsError: it is a function of another kind.
    """
    if value is None:
        return "identity"
    if value == "hard_sigmoid":
        return "hard_sigmoid" if version >= 3 else "hard_sigmoid_0.2"
    if not isinstance(value, str) or value not in names:
        raise WeightsError(
            f"{place}: {show(repr(value))} is none of {', '.join(names)}, hard_sigmoid"
        )
    return names[value]
