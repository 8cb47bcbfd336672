"""Features of a text that a unit may follow, such as being inside quotes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Below this correlation a feature does not explain a unit.
EXPLAINS = 0.4
# Of the steps at which a feature has to be known; on a few, much correlates by chance.
KNOWN = 0.5


class Explanation(NamedTuple):
    """The feature that a unit follows most.

    Attributes:
      feature: its name.
      correlation: with the unit.
    """

    feature: str
    correlation: float


def features(pieces: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns features [T] of what has been read up to each symbol, itself included.

    A place in a line, word, sentence or paragraph is NaN until the first of them begins
    within the text: counted from the text's beginning it would tell time alone.

    Args:
      pieces: the text of each symbol.
    """
    found = {
        "white space": [piece.isspace() for piece in pieces],
        "capitals": [piece[:1].isupper() for piece in pieces],
        "vowels": [piece.lower() in set("aeiou") for piece in pieces],
        "digits": [piece[:1].isdigit() for piece in pieces],
        "punctuation": [not any(s.isalnum() or s.isspace() for s in p) for p in pieces],
    }
    values = {name: np.array(signs, float) for name, signs in found.items()}
    lines, blanks, stops, quotes, opening, closing = (
        np.array([sum(sign in signs for sign in piece) for piece in pieces])
        for signs in ("\n", " \n\t", ".!?", '"“”', "([{", ")]}")
    )
    line_feeds, lines = np.cumsum(lines), lines > 0
    # An empty line ends what was left open.
    paragraphs = lines & np.roll(lines, 1)
    paragraphs[:1] = False
    values["position in the line"] = _since(lines)
    values["position in the word"] = _since(blanks > 0)
    values["position in the sentence"] = _since(stops > 0)
    values["position in the paragraph"] = _since(paragraphs)
    first_line = _count(line_feeds, paragraphs) == 0
    values["a paragraph's first line"] = _after_first(paragraphs, first_line)
    values["inside quotes"] = _count(np.cumsum(quotes), paragraphs) % 2
    values["inside brackets"] = _count(np.cumsum(opening - closing), paragraphs) > 0
    begun = _count(np.cumsum(blanks == 0), lines) > 0
    values["a line's indentation"] = _after_first(lines, ~begun & ~lines)
    return {name: np.asarray(x, float) for name, x in values.items()}


def explain(values: np.ndarray, rows: Sequence[Sequence[str]]) -> Explanation | None:
    """Returns the feature that explains a unit, if one does.

    Args:
      values: [T, B] of the unit.
      rows: the text of each symbol, by row.
    """
    by_row = [features(pieces) for pieces in rows]
    best = None
    for name in by_row[0]:
        column = np.stack([found[name] for found in by_row], axis=1)
        correlation = _correlation(column, values)
        if abs(correlation) > (abs(best.correlation) if best else EXPLAINS):
            best = Explanation(name, correlation)
    return best


def _since(event: np.ndarray) -> np.ndarray:
    """Returns how many symbols ago the last event was [T], NaN before the first."""
    steps = np.arange(len(event))
    last = np.maximum.accumulate(np.where(event, steps, -1))
    return _after_first(event, steps - last)


def _count(total: np.ndarray, event: np.ndarray) -> np.ndarray:
    """Returns how much a running total [T] has grown since the last event.

    Before the first event it is the total itself.
    """
    last = np.maximum.accumulate(np.where(event, np.arange(len(event)), -1))
    return total - np.where(last >= 0, total[last], 0)


def _after_first(event: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns values [T], NaN before the first event."""
    return np.where(np.logical_or.accumulate(event), values, np.nan)


def _correlation(feature: np.ndarray, values: np.ndarray) -> float:
    """Returns the correlation where a feature is known, 0 if that is seldom."""
    known = ~np.isnan(feature)
    if known.sum() < KNOWN * known.size:
        return 0.0
    one, other = (x[known] - x[known].mean() for x in (feature, values))
    scale = np.sqrt(np.sum(one**2) * np.sum(other**2))
    return float(np.sum(one * other) / scale) if scale > 1e-9 else 0.0
