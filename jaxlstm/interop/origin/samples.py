"""A batch that an LSTM of unknown form has read, and how far off a known form is."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlstm.interop.tensors import as_array
from jaxlstm.interop.weights import WeightsError
from jaxlstm.shapes import OptionError

# Where exp(-z) is not yet too large for float64.
LEAST_LOGIT = -700.0
# Of w_x [X, 4H], w_h [H, 4H] and b [4H].
Weights = tuple[np.ndarray, np.ndarray, np.ndarray]


class Sample(NamedTuple):
    """What went into a layer and what came out, in float64.

    Attributes:
      inputs: [T, B, X].
      outputs: [T, B, H], or [1, B, H] where the last step alone is known.
      h: [B, H] before the first step.
      c: [B, H] before the first step.
      batch_first: whether that is how it was given.
      floor: errors below this are those of the coarsest dtype among the arrays.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    h: np.ndarray
    c: np.ndarray
    batch_first: bool
    floor: float

    @property
    def size(self) -> float:
        """The sum of the squares of all outputs."""
        return float((self.outputs**2).sum())

    @property
    def step_by_step(self) -> bool:
        """Whether the output of every step is known, and the first from zeros."""
        zeros = not (self.h.any() or self.c.any())
        return zeros and len(self.outputs) == len(self.inputs)

    def first_examples(self) -> "Sample":
        """Returns the first two examples, which sort out what is far off."""
        few = self._replace(inputs=self.inputs[:, :2], outputs=self.outputs[:, :2])
        return few._replace(h=self.h[:2], c=self.c[:2])

    def relative(self, squared: float) -> float:
        """Returns the error relative to the outputs, root mean square of both."""
        return float(np.sqrt(squared / self.size))


def read_samples(
    inputs: Any,
    outputs: Any,
    state: Any,
    last: bool,
    batch_first: bool | None,
    epsilon: float,
) -> list[Sample]:
    """Returns the ways to read a batch: time first, batch first, or both.

    Args:
      inputs: [T, B, X] or [B, T, X]; or [T, X].
      outputs: the same with H; of the last step alone [B, H] or [H].
      state: (h, c), [B, H] or [H] each; None for zeros.
      last: whether the last step alone is known.
      batch_first: whether the batch is before time; None where that is to be found.
      epsilon: of the dtype of the weights.

    Raises:
      OptionError: a shape does not fit, or one step is all there is.
      WeightsError: numbers are not finite, or all outputs zero.
    """
    x, y = _read("inputs", inputs), _read("outputs", outputs)
    floor = 10 * max(
        epsilon, *(_epsilon(as_array(given)) for given in (inputs, outputs))
    )
    steps = y.ndim + 1 if last else y.ndim
    if x.ndim not in (2, 3) or steps != x.ndim:
        letters = "[B, H] or [H]" if last else "[T, B, H] or [T, H]"
        raise OptionError(
            f"outputs: shape {y.shape} is not {letters} for inputs of shape {x.shape}, "
            "[T, B, X] or [T, X]; with last=True give the last step alone"
        )
    if x.ndim == 2:
        if batch_first:
            raise OptionError("batch_first: is True, and inputs [T, X] have no batch")
        x, y, batch_first = x[:, None], y[..., None, :], False
    if last:
        y = y[None]
    ways = (False, True) if batch_first is None else (batch_first,)
    samples, fault = [], None
    for way in ways:
        inside = x.swapaxes(0, 1) if way else x
        out = y.swapaxes(0, 1) if way and not last else y
        lead = inside.shape[1:2] if last else inside.shape[:2]
        if (out.shape[1:2] if last else out.shape[:2]) != lead:
            continue
        try:
            h, c = _read_state(state, (*inside.shape[1:2], out.shape[-1]))
        except OptionError as error:
            fault = error
            continue
        samples.append(Sample(inside, out, h, c, way, floor))
    if not samples and fault is not None:
        raise fault
    if not samples:
        raise OptionError(
            f"outputs: shape {np.shape(outputs)} has other steps or examples than the "
            f"inputs of shape {np.shape(inputs)}"
        )
    # From zeros one step shows neither recurrent weights nor forget gate.
    told = [s for s in samples if len(s.inputs) > 1 or s.h.any() or s.c.any()]
    if not told:
        raise OptionError(
            f"inputs: shape {np.shape(inputs)} is of one step, which shows nothing of "
            "the recurrent weights; give two or more"
        )
    if not told[0].size:
        raise WeightsError("outputs: are all zero, which shows nothing")
    return told


def _read(name: str, value: Any) -> np.ndarray:
    array = as_array(value)
    if array is None:
        raise OptionError(f"{name}: {type(value).__name__} is no array of numbers")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise WeightsError(f"{name}: hold what is not finite")
    return array


def _read_state(state: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    if state is None:
        return np.zeros(shape), np.zeros(shape)
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise OptionError(f"state: {type(state).__name__} is not (h, c)")
    h, c = (_read(f"state.{n}", part) for n, part in zip("hc", state, strict=True))
    for name, part in (("h", h), ("c", c)):
        if part.shape not in (shape, shape[1:]):
            raise OptionError(
                f"state.{name}: shape {part.shape} is not {shape}, which is [B, H] by "
                "inputs and outputs"
            )
    return np.broadcast_to(h, shape), np.broadcast_to(c, shape)


def _epsilon(array: Any) -> float:
    """Returns how far apart numbers of an array's dtype are at 1; 0 of integers."""
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return float(jnp.finfo(array.dtype).eps) if floating else 0.0


def sigmoid(z: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + exp(-z)), all digits of small values too."""
    return 1 / (1 + np.exp(-np.maximum(z, LEAST_LOGIT)))


def run(sample: Sample, weights: Weights) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields h [B, H] after each step whose output is known, and that output."""
    w_x, w_h, b = weights
    first = len(sample.inputs) - len(sample.outputs)
    h, c = sample.h, sample.c
    for t, z_x in enumerate(sample.inputs @ w_x + b):
        i, f, g, o = (z_x + h @ w_h).reshape(len(h), 4, -1).swapaxes(0, 1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        if t >= first:
            yield h, sample.outputs[t - first]


def squared_error(
    sample: Sample, weights: Weights, limit: float = np.inf
) -> tuple[float, int]:
    """Runs the LSTM over a sample until its error is too large.

    Args:
      sample: what it should give.
      weights: of the LSTM.
      limit: of the sum of squared errors, beyond which nothing more is computed.

    Returns:
      The sum of squared errors, and how many steps kept within the limit.
    """
    total, steps = 0.0, 0
    for h, output in run(sample, weights):
        total += float(((h - output) ** 2).sum())
        if total > limit:
            break
        steps += 1
    return total, steps
