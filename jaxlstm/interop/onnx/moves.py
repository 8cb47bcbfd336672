"""Operators of ONNX that leave the numbers of a tensor as they are, and where they are.

Each takes what is known of its first input, the attributes of its node and its other
inputs, and returns what is known of its output; None where it cuts or stirs what a
model here has whole.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.interop.onnx.folds import list_cuts

# Names of what is added up, for each stretch of the features.
Parts = tuple[tuple[str, ...], ...]
# Labels of axes: the directions of a layer, features, and one of size 1.
BOTH, FEATURES, UNIT = "d", "x", ""
# By ONNX's numbers: FLOAT and DOUBLE; INT32 and INT64.
REALS, WHOLES = {1, 11}, {6, 7}
# A file may ask for more than any model has.
MOST_PARTS, MOST_AXES = 10_000, 16
# From here on, the end of a slice is that of every axis.
ENDLESS = 2**31 - 1


class Value(NamedTuple):
    """What is known of a tensor.

    Attributes:
      axes: a label for each: those of the model's input that they run along, or one of
        `BOTH`, `FEATURES` and `UNIT`.
      parts: along the directions if there are such, else along the features.
      widths: of each part; 0 where it is not known.
      time: the label of the axis along which recurrent layers read; None below them.
    """

    axes: tuple[str, ...]
    parts: Parts
    widths: tuple[int, ...]
    time: str | None = None

    def relabel(self, place: int, *labels: str) -> "Value":
        """Returns the value with other labels, or none, in the place of one."""
        axes = list(self.axes)
        axes[place : place + 1] = labels
        return self._replace(axes=tuple(axes))

    def pick(self, chosen: Any) -> "Value":
        """Returns the value with some of its directions."""
        places = np.arange(len(self.parts))[chosen]
        return self._replace(
            parts=tuple(self.parts[n] for n in places),
            widths=tuple(self.widths[n] for n in places),
        )


Move = Callable[..., Value | None]


def _identity(value: Value, given: Mapping[str, Any], *rest: Any) -> Value:
    return value


def _cast(value: Value, given: Mapping[str, Any]) -> Value | None:
    fits = REALS if FEATURES in value.axes else REALS | WHOLES
    return value if given["to"] in fits else None


def _dropout(value: Value, given: Mapping[str, Any], *rest: Any) -> Value | None:
    training = rest[1:] and not (rest[1] is not None and not rest[1].any())
    return None if training else value


def _transpose(value: Value, given: Mapping[str, Any]) -> Value:
    order = given.get("perm", range(len(value.axes))[::-1])
    return value._replace(axes=tuple(value.axes[n] for n in order))


def _squeeze(
    value: Value, given: Mapping[str, Any], axes: np.ndarray | None = None
) -> Value | None:
    single = {UNIT, BOTH} if len(value.parts) == 1 else {UNIT}
    chosen = given.get("axes") if axes is None else axes.tolist()
    if chosen is None:
        chosen = [n for n, axis in enumerate(value.axes) if axis in single]
    places = {range(len(value.axes))[n] for n in chosen}
    if not {value.axes[n] for n in places} <= single:
        return None
    return value._replace(
        axes=tuple(axis for n, axis in enumerate(value.axes) if n not in places)
    )


def _unsqueeze(
    value: Value, given: Mapping[str, Any], axes: np.ndarray | None = None
) -> Value | None:
    chosen = given["axes"] if axes is None else axes.tolist()
    rank = len(value.axes) + len(chosen)
    if rank > MOST_AXES:
        return None
    for place in sorted(range(rank)[n] for n in chosen):
        value = value._replace(axes=(*value.axes[:place], UNIT, *value.axes[place:]))
    return value


def _gather(value: Value, given: Mapping[str, Any], index: np.ndarray) -> Value | None:
    """Takes the last step, or some of the directions."""
    place = range(len(value.axes))[given.get("axis", 0)]
    label, left = value.axes[place], [UNIT] * index.ndim
    if label == BOTH and index.ndim < 2:
        left = [BOTH] * index.ndim
        return value.pick(np.atleast_1d(index)).relabel(place, *left)
    ends = {UNIT: {0, -1}, value.time: {-1}}.get(label, set())
    if index.size == 1 and int(index.reshape(())) in ends:
        return value.relabel(place, *left)
    return None


def _slice(value: Value, given: Mapping[str, Any], *bounds: np.ndarray) -> Value | None:
    """Takes all, the last step, or some of the directions."""
    for axis, start, end, step in list_cuts(given, *bounds):
        place = range(len(value.axes))[axis]
        if value.axes[place] == BOTH:
            value = value.pick(slice(start, end, step))
        elif step != 1 or end < ENDLESS:
            return None
        elif start == -1 and value.axes[place] == value.time:
            value = value.relabel(place, UNIT)
        elif start:
            return None
    return value if value.parts else None


def _reshape(value: Value, given: Mapping[str, Any], shape: np.ndarray) -> Value | None:
    """Puts directions side by side, or steps and sequences behind one another."""
    *before, last = shape.tolist()
    width = sum(value.widths) if all(value.widths) else None
    *axes, features = value.axes
    if features != FEATURES or given.get("allowzero") or last not in (-1, width):
        return None
    if axes[-1:] == [BOTH] and before.count(0) == len(before) == len(axes) - 1:
        return value._replace(axes=(*axes[:-1], FEATURES))
    if BOTH not in axes and before == [-1]:
        return value._replace(axes=(" ".join(axes), FEATURES))
    return None


def _one_hot(
    value: Value, given: Mapping[str, Any], depth: np.ndarray, values: np.ndarray
) -> Value | None:
    last = given.get("axis", -1) in (-1, len(value.axes))
    if FEATURES in value.axes or values.tolist() != [0, 1] or not last:
        return None
    return value._replace(
        axes=(*value.axes, FEATURES), widths=(int(depth.reshape(())),)
    )


MOVES: dict[str, Move] = {
    "Cast": _cast,
    "Dropout": _dropout,
    "Gather": _gather,
    "Identity": _identity,
    "OneHot": _one_hot,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


def concatenate(values: list[Value], axis: int) -> Value | None:
    """Returns values side by side, along their directions or features."""
    first = values[0]
    label = first.axes[axis]
    along = BOTH if BOTH in first.axes else FEATURES
    if sum(len(value.parts) for value in values) > MOST_PARTS:
        return None
    if label != along or any(value.axes != first.axes for value in values):
        return None
    return first._replace(
        parts=tuple(part for value in values for part in value.parts),
        widths=tuple(width for value in values for width in value.widths),
    )


def add(values: list[Value]) -> Value | None:
    """Returns the sum of values of one form."""
    first = values[0]
    forms = {(value.axes, value.widths) for value in values}
    count = sum(len(part) for value in values for part in value.parts)
    if len(forms) > 1 or FEATURES not in first.axes or count > MOST_PARTS:
        return None
    parts = zip(*(value.parts for value in values), strict=True)
    return first._replace(parts=tuple(tuple(sorted(sum(each, ()))) for each in parts))
