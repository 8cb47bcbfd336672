"""Numbers that all contestants are given, drawn by NumPy."""

from typing import NamedTuple

import numpy as np

from benchmarks.base import Size

DTYPE = "float32"


class Weights(NamedTuple):
    """Weights of an LSTM layer, gates in the order i, f, g, o.

    Attributes:
      w_x: [X, 4H] input weights.
      w_h: [H, 4H] recurrent weights.
      b: [4H] bias.
    """

    w_x: np.ndarray
    w_h: np.ndarray
    b: np.ndarray


class Readout(NamedTuple):
    """A linear readout: w [H, Y], b [Y]."""

    w: np.ndarray
    b: np.ndarray


class Layer(NamedTuple):
    """A layer, what it reads, and directions to differentiate along.

    Attributes:
      weights: of the layer.
      inputs: [T, B, X].
      cotangent: [T, B, H], by which the outputs are pulled back.
      weights_tangent: as `weights`.
      inputs_tangent: [T, B, X].
    """

    weights: Weights
    inputs: np.ndarray
    cotangent: np.ndarray
    weights_tangent: Weights
    inputs_tangent: np.ndarray


def draw_layer(size: Size) -> Layer:
    """Returns a layer of a size T, B, X, H; the same whenever it is called."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(DTYPE)

    steps = size["T"], size["B"]
    return Layer(
        _draw_weights(random, size["X"], size["H"]),
        normal(*steps, size["X"]),
        normal(*steps, size["H"]),
        _draw_weights(random, size["X"], size["H"]),
        normal(*steps, size["X"]),
    )


def draw_net(size: Size, output_size: int) -> tuple[Weights, Readout]:
    """Returns a layer of a size X, H with a readout; the same on every call."""
    random = np.random.default_rng(0)
    weights = _draw_weights(random, size["X"], size["H"])
    readout = Readout(
        _uniform(random, size["H"], (size["H"], output_size)),
        _uniform(random, size["H"], (output_size,)),
    )
    return weights, readout


def draw_stack(size: Size, gain: float = 1.0) -> tuple[list[Weights], Readout]:
    """Returns L layers, from the input up, and a readout of X symbols.

    Args:
      size: X, H, L.
      gain: by which all weights are larger.
    """
    widths = [size["X"], *[size["H"]] * (size["L"] - 1)]
    nets = [draw_net({"X": width, "H": size["H"]}, size["X"]) for width in widths]
    scale = np.float32(gain)
    layers = [Weights(*[scale * weight for weight in layer]) for layer, _ in nets]
    return layers, Readout(*[scale * weight for weight in nets[0][1]])


def _draw_weights(
    random: np.random.Generator, input_size: int, hidden_size: int
) -> Weights:
    columns = 4 * hidden_size
    shapes = (input_size, columns), (hidden_size, columns), (columns,)
    return Weights(*[_uniform(random, hidden_size, shape) for shape in shapes])


def _uniform(
    random: np.random.Generator, hidden_size: int, shape: tuple[int, ...]
) -> np.ndarray:
    bound = hidden_size**-0.5
    return random.uniform(-bound, bound, shape).astype(DTYPE)
