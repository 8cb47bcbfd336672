"""ONNX's operators that move constants: transposed, cut or joined, never more of them.

Each takes the attributes of its node and its inputs.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np


def _transpose(given: dict[str, Any], x: np.ndarray) -> np.ndarray:
    return x.transpose(given.get("perm"))


def _axes(given: dict[str, Any], axes: tuple[np.ndarray, ...]) -> tuple[int, ...]:
    """Returns the axes, which older files have as an attribute."""
    return tuple(int(n) for n in (axes[0] if axes else given["axes"]))


def _unsqueeze(given: dict[str, Any], x: np.ndarray, *axes: np.ndarray) -> np.ndarray:
    return np.expand_dims(x, _axes(given, axes))


def _squeeze(given: dict[str, Any], x: np.ndarray, *axes: np.ndarray) -> np.ndarray:
    every = not axes and "axes" not in given
    return x.squeeze() if every else x.squeeze(_axes(given, axes))


def _concat(given: dict[str, Any], *parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts, axis=given["axis"])


def list_cuts(
    given: Mapping[str, Any], *bounds: np.ndarray
) -> Iterator[tuple[int, int, int, int]]:
    """Yields axis, start, end and step of each cut of a Slice."""
    if not bounds:
        given = {"axes": range(len(given["starts"])), **given}
        bounds = given["starts"], given["ends"], given["axes"]
    starts, ends, *rest = (np.asarray(bound).tolist() for bound in bounds)
    axes = rest[0] if rest else range(len(starts))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    yield from zip(axes, starts, ends, steps, strict=True)


def _slice(given: dict[str, Any], x: np.ndarray, *bounds: np.ndarray) -> np.ndarray:
    for axis, *window in list_cuts(given, *bounds):
        x = x.swapaxes(0, axis)[slice(*window)].swapaxes(0, axis)
    return x


FOLDS: dict[str, Callable[..., np.ndarray]] = {
    "Identity": lambda given, x: x,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Concat": _concat,
    "Slice": _slice,
}
