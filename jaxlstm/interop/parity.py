"""Where two nets that should be one differ, layer by layer, and what that tells."""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.interop.tensors import as_array, check_mapping
from jaxlstm.interop.weights import WeightsError, show
from jaxlstm.shapes import OptionError

GATES = "ifgo"
# What stands in the names of arrays, and their gradients, that have a block for each
# gate: layers.0.w_x, weight_ih_l0, lstm/kernel, dz.
GATED = re.compile(r"d?[wrubz]|weights?|kernel|bias|gates")


class Difference(NamedTuple):
    """How far an array differs from the one that it should be.

    Attributes:
      name: of both.
      absolute: the largest error; None where the arrays cannot be compared.
      relative: that, by the largest entry of theirs.
      where: the first place beyond the tolerance, (t, b, unit) in an array over time,
        in the order in which it is read; None where there is none.
      cause: what can be told of the difference.
      passed: whether it is within the tolerance.
    """

    name: str
    absolute: float | None
    relative: float | None
    where: tuple[int, ...] | None
    cause: str
    passed: bool


class ParityReport(NamedTuple):
    """What a comparison found. `str` makes a table of it.

    Attributes:
      rows: of all arrays that both have.
      tolerance: of relative errors.
      left_out: names that they have not.
    """

    rows: tuple[Difference, ...]
    tolerance: float
    left_out: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all are within the tolerance."""
        return all(row.passed for row in self.rows)

    def __str__(self) -> str:
        """Returns a table, a line an array, and where the first difference is."""
        lines = [("array", "absolute", "relative", "first at", "")]
        for row in self.rows:
            absolute, relative = (
                "-" if e is None else f"{e:.1e}" for e in (row.absolute, row.relative)
            )
            where = "" if row.where is None else str(row.where)
            verdict = "agrees" if row.passed else f"DIFFERS: {row.cause}"
            lines.append(
                (show(row.name), absolute, relative, where, verdict.rstrip(": "))
            )
        widths = [max(len(line[n]) for line in lines) for n in range(4)]
        table = [
            "  ".join(
                [*(c.ljust(w) for c, w in zip(line[:4], widths, strict=True)), line[4]]
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*table, "", self._conclude()])

    def _conclude(self) -> str:
        wrong = [row.name for row in self.rows if not row.passed]
        count = f"{len(self.rows) - len(wrong)} of {len(self.rows)} arrays agree"
        text = f"{count} to {self.tolerance:g} of their largest entry"
        if self.left_out:
            text += f"; {len(self.left_out)} more were not compared"
        if not wrong:
            return text
        first = self.rows.index(next(row for row in self.rows if not row.passed))
        before = f", after {first} that agree" if first else ""
        return f"{text}\nthe first that differs is {show(wrong[0])}{before}"


def compare_layers(
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    *,
    lengths: Any = None,
    tolerance: float = 1e-5,
) -> ParityReport:
    """Compares what two nets computed: outputs, states, gates, gradients.

    Args:
      ours: arrays by name, such as `trace_layers` returns them. Those with three axes
        are [T, B, H], over time; names with "backward" in them are read from the last
        step to the first.
      theirs: of the same names and shapes, some of them or all, in the order in which
        the net computes them.
      lengths: [B], where sequences have ends, to tell what lies past them.
      tolerance: the largest error that passes, relative to the largest entry of theirs.

    Raises:
      OptionError: the tolerance is not positive and finite, or lengths are not [B].
      WeightsError: theirs are none, or have a name that ours lack, or an array has no
        numbers.
    """
    check_mapping(ours)
    check_mapping(theirs)
    if not 0 < tolerance < np.inf:
        raise OptionError(f"tolerance: {tolerance} is not positive and finite")
    if not theirs:
        raise WeightsError("theirs: has no arrays, so nothing is compared")
    pairs, faults = {}, []
    for name, value in theirs.items():
        both = as_array(ours[name]) if name in ours else None, as_array(value)
        if name not in ours:
            faults.append(f"{show(str(name))}: is not among ours")
        elif both[0] is None or both[1] is None:
            faults.append(f"{show(str(name))}: is no array of numbers")
        else:
            pairs[name] = both
    if faults:
        raise WeightsError(*faults)
    ends = None if lengths is None else np.asarray(lengths)
    for name, (_, array) in pairs.items():
        if ends is not None and array.ndim == 3 and ends.shape != array.shape[1:2]:
            raise OptionError(
                f"lengths: shape {ends.shape} is not [B], {array.shape[1:2]} by "
                f"{show(name)} [T, B, H]"
            )
    rows = tuple(
        _compare(name, a.astype(np.float64), b.astype(np.float64), ends, tolerance)
        for name, (a, b) in pairs.items()
    )
    left_out = tuple(name for name in ours if name not in theirs)
    return ParityReport(rows, tolerance, left_out)


class _Pair(NamedTuple):
    """Two arrays of one shape that differ, and how to tell that others do not."""

    ours: np.ndarray
    theirs: np.ndarray
    bound: float

    def close(self, ours: np.ndarray, theirs: np.ndarray | None = None) -> bool:
        other = self.theirs if theirs is None else theirs
        return ours.shape == other.shape and bool(
            (np.abs(ours - other) <= self.bound).all()
        )


def _compare(
    name: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    lengths: np.ndarray | None,
    tolerance: float,
) -> Difference:
    size = float(np.max(np.abs(theirs), initial=0.0))
    pair = _Pair(ours, theirs, tolerance * size)
    if ours.shape != theirs.shape:
        cause = f"ours are {ours.shape} and theirs {theirs.shape}"
        if ours.ndim > 1 and pair.close(ours.swapaxes(0, 1)):
            swap = "batch and time" if ours.ndim > 2 else "rows and columns"
            cause += f", equal but for {swap}"
        return Difference(name, None, None, None, cause, False)
    for whose, array in (("ours", ours), ("theirs", theirs)):
        if not np.isfinite(array).all():
            where = _first(~np.isfinite(array), name)
            return Difference(name, None, None, where, f"{whose} are not finite", False)
    errors = np.abs(ours - theirs)
    absolute = float(errors.max(initial=0.0))
    relative = absolute / size if size else float(absolute > 0) * np.inf
    wrong = errors > pair.bound
    if not wrong.any():
        return Difference(
            name, absolute, absolute / size if size else 0.0, None, "", True
        )
    where = _first(wrong, name)
    found = itertools.chain(
        _compare_whole(pair, name), _compare_places(wrong, name, lengths)
    )
    return Difference(name, absolute, relative, where, next(found, ""), False)


def _first(wrong: np.ndarray, name: str) -> tuple[int, ...]:
    """Returns the first place in the order in which a sequence is read."""
    backward = wrong.ndim == 3 and "backward" in name
    place = np.argwhere(wrong[::-1] if backward else wrong)[0].tolist()
    if backward:
        place[0] = len(wrong) - 1 - place[0]
    return tuple(place)


def _compare_whole(pair: _Pair, name: str) -> Iterator[str]:
    """Yields by what the whole of two arrays differs."""
    ours, theirs, _ = pair
    for whose, array in (("ours", ours), ("theirs", theirs)):
        if not array.any():
            yield f"{whose} are all zero"
            return
    factor = float((ours * theirs).sum() / (theirs**2).sum())
    if pair.close(ours, factor * theirs):
        yield f"ours are {_write_factor(factor)} times theirs"
    if not ours.ndim:
        return
    if ours.ndim == 3 and pair.close(ours[::-1]):
        yield "theirs run backwards in time"
    if ours.ndim > 1 and pair.close(ours.swapaxes(0, 1)):
        yield "equal but for the first two axes, which are swapped"
    if ours.shape[-1] % 4 == 0 and _is_of_gates(name):
        blocks = np.split(ours, 4, axis=-1)
        for order in itertools.permutations(range(4)):
            if pair.close(np.concatenate([blocks[n] for n in order], axis=-1)):
                gates = ", ".join(GATES[n] for n in order)
                yield f"in four blocks, ours being i, f, g, o, theirs are {gates}"
    if ours.shape[-1] % 2 == 0:
        first, second = np.split(ours, 2, axis=-1)
        if pair.close(np.concatenate([second, first], axis=-1)):
            yield "the two halves are swapped, as directions may be"


def _write_factor(factor: float) -> str:
    """Returns a factor with digits enough to tell it from 1."""
    digits = 4
    while float(f"{factor:.{digits}g}") == 1 and digits < 17:
        digits += 1
    return f"{factor:.{digits}g}"


def _is_of_gates(name: str) -> bool:
    """Returns whether an array has a block for each gate, by its name."""
    own = re.split(r"[./]", name.lower())[-1]
    return any(map(GATED.fullmatch, re.split(r"[^a-z]+", own)))


def _compare_places(
    wrong: np.ndarray, name: str, lengths: np.ndarray | None
) -> Iterator[str]:
    """Yields what the places tell at which two arrays over time differ."""
    if wrong.ndim != 3:
        return
    steps, _, size = wrong.shape
    if lengths is not None:
        inside = np.arange(steps)[:, None] < lengths
        if not wrong[inside].any():
            yield "equal within the lengths: what stands past the ends differs"
        elif (lengths >= steps).any() and not wrong[:, lengths >= steps].any():
            yield (
                f"examples of length {steps} are equal, shorter ones differ: masks, or "
                "padding that is read"
            )
    halves = wrong[..., : size // 2].any(), wrong[..., size // 2 :].any()
    if size % 2 == 0 and halves.count(False) and "outputs" in name:
        which = "second" if halves[1] else "first"
        yield f"in the {which} half of the units alone, that of one direction"
    t = _first(wrong, name)[0]
    first, last = ("last", "first") if "backward" in name else ("first", "last")
    begin = steps - 1 if "backward" in name else 0
    if t == begin:
        yield f"from the {first} step on: weights, gates or state"
    elif t == steps - 1 - begin:
        yield f"in the {last} step alone"
    else:
        yield f"equal until t = {t}"
