"""Stacks of layers taken apart, alike for all frameworks."""

from typing import Any

import numpy as np

from jaxlstm.layers import Directions
from jaxlstm.model import ReadoutParams


def layers_of(stack: Any) -> tuple[Any, ...]:
    """Returns the layers of a stack; or of a single layer, which is a tuple too, it.

    Args:
      stack: parameters or states of a layer, which is a NamedTuple, or a sequence of
        layers.
    """
    return (stack,) if hasattr(stack, "_fields") else tuple(stack)


def directions_of(layer: Any) -> tuple[Any, ...]:
    """Returns what a layer has of each direction, one or two."""
    return tuple(layer) if isinstance(layer, Directions) else (layer,)


def cells_of(stack: Any) -> list[Any]:
    """Returns what a stack has of each layer and direction, in turn."""
    return [cell for layer in layers_of(stack) for cell in directions_of(layer)]


def readout_of(params: ReadoutParams) -> tuple[np.ndarray, np.ndarray]:
    """Returns copies of w [H, Y] and b [Y] of a readout.

    Raises:
      ValueError: the readout has no weights of its own.
    """
    if params.w is None or params.b is None:
        raise ValueError(
            "params: the readout has no weights of its own; one that is tied has those "
            "of the embedding"
        )
    return np.array(params.w), np.array(params.b)
