"""What figures with a spread can bear: their digits, and what may be said of them."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxlstm.lab.comparison.report.looks import numbers
from jaxlstm.lab.comparison.report.markdown import NOT_AVAILABLE
from jaxlstm.lab.comparison.report.material import Values

# Between its bounds a power differs by no more, or it says nothing of how costs grow.
CLEAR = 0.5


class Range(NamedTuple):
    """A figure and the bounds that it may as well be at.

    Attributes:
      middle: the figure.
      low: the least.
      high: the largest.
    """

    middle: float
    low: float
    high: float


def rank(ranges: Mapping[str, Range]) -> list[str]:
    """Returns the label of the least figure, and then those it cannot be told from.

    These are the ones whose range begins below the end of its own.
    """
    best = min(ranges, key=lambda label: ranges[label].middle)
    end = ranges[best].high
    others = (x for x, range_ in ranges.items() if x != best and range_.low <= end)
    return [best, *others]


def power(
    lengths: Sequence[int],
    low: Sequence[float | None],
    high: Sequence[float | None] | None = None,
) -> float | None:
    """Returns the slope of logarithms of costs, from the first to the last length.

    Args:
      lengths: T.
      low: the costs.
      high: what they may as well be; the same if they have no spread.

    Returns:
      The slope of `low`; None where there is none, or where the costs' spread leaves
      it in doubt by more than `CLEAR` from end to end.
    """
    first, last = numbers(low)[[0, -1]]
    if len(lengths) < 2 or not (first > 0 and last > 0):
        return None
    first_high, last_high = numbers(low if high is None else high)[[0, -1]]
    scale = math.log(lengths[-1] / lengths[0])
    # Both ends in doubt: from the flattest slope to the steepest.
    doubt = math.log(last_high / last * first_high / first) / scale
    return math.log(last / first) / scale if doubt <= CLEAR else None


def start(member: Values) -> float | None:
    """Returns the mean loss over seeds at the first point; None if one has none."""
    first = [curve[0] for curve in member["losses"]]
    return None if not first or None in first else float(np.mean(first))


def has_learnt(member: Values, end: Values) -> bool:
    """Returns whether a race ended with a loss, and not above that of its start."""
    began = start(member)
    return None not in (end["mean"], began) and end["mean"] <= began


def show_loss(races: Values, member: Values, end: Values) -> str:
    """Returns the mean loss that a race ended with.

    At a point of the curves it has four digits, in which estimators differ; between two
    as many as a line through them can bear.

    Args:
      races: the whole part.
      member: of which the race is.
      end: `at_equal_updates` or `at_equal_seconds`.
    """
    return _losses(races, member, end)[0]


def show_end(races: Values, member: Values, end: Values) -> str:
    """Returns that loss and its range, and whether anything was learnt."""
    if end["mean"] is None:
        return NOT_AVAILABLE
    told = show_range(*_losses(races, member, end))
    return told if has_learnt(member, end) else f"did not learn: {told}"


def show_range(middle: str, low: str, high: str) -> str:
    """Returns a figure with its range, unless there is none or it is all one."""
    if NOT_AVAILABLE in (middle, low, high) or middle == low == high:
        return middle
    return f"{middle} ({low} to {high})"


def _losses(races: Values, member: Values, end: Values) -> list[str]:
    digits = 4
    if end.get("updates", races["num_updates"]) not in races["updates"]:
        digits = _digits_between(races["updates"], member["losses"], end)
    figures = (f"{end[name]:#.{digits}g}" for name in ("mean", "low", "high"))
    return [figure.rstrip(".") for figure in figures]


def _digits_between(
    updates: Sequence[int], curves: Sequence[Sequence[float | None]], end: Values
) -> int:
    """Returns the digits, two or three, of a loss between two points of curves.

    A curve that falls three times as much in the first half between its points as in
    the second is a quarter of the whole fall away from the line.
    """
    after = next(n for n, update in enumerate(updates) if update > end["updates"])
    ends = np.array([numbers(curve)[[after - 1, after]] for curve in curves])
    doubt = np.abs(np.diff(ends, axis=1)).max() / 4
    return 3 if doubt <= 0.01 * abs(end["mean"]) else 2
