"""Sequential batches: rows of a text that go on from segment to segment."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.files import divide
from jaxlstm.lab import Segment, Source


class Stretch(NamedTuple):
    """What the segments of a split are cut from.

    A stretch of n symbols gives B rows of (n - 1) // B steps, which begin one where
    the other ends; the target of a step is the next symbol.

    Attributes:
      symbols: [n].
      first: the number of the first segment in the rows.
      num_segments: how many there are.
    """

    symbols: np.ndarray
    first: int
    num_segments: int


def count_segments(size: int, batch_size: int, segment_length: int) -> int:
    """Returns how many whole segments a stretch of so many symbols has."""
    return max(0, size - 1) // batch_size // segment_length


def divide_text(
    symbols: np.ndarray, validation: float, test: float
) -> list[np.ndarray]:
    """Returns the parts of a text that train, validate and test."""
    first, second, _ = divide(len(symbols), validation, test)
    return np.split(symbols, [first, first + second])


def divide_rows(
    symbols: np.ndarray,
    validation: float,
    test: float,
    batch_size: int,
    segment_length: int,
) -> list[Stretch]:
    """Returns which segments of a text's rows train, validate and test."""
    total = count_segments(len(symbols), batch_size, segment_length)
    counts = divide(total, validation, test)
    return [Stretch(symbols, sum(counts[:n]), count) for n, count in enumerate(counts)]


def make_source(
    stretch: Stretch,
    *,
    batch_size: int,
    segment_length: int,
    offset: Callable[[int], int] | None = None,
    reset: bool = False,
    table: np.ndarray | None = None,
) -> Source:
    """Returns the segments of a stretch.

    Args:
      stretch: what they are cut from.
      batch_size: B.
      segment_length: T.
      offset: how many symbols in front are left out, by the epoch's number.
      reset: whether each epoch starts from the initial state.
      table: the numbers of symbols by what stands in the stretch.
    """
    B, T, K = batch_size, segment_length, stretch.num_segments

    def segments(start: int, count: int) -> Segment:
        inputs, targets = np.empty((2, count, T, B), np.int32)
        done = 0
        while done < count:
            epoch, number = divmod(start + done, K)
            size = min(count - done, K - number)
            skipped = offset(epoch) if offset is not None else 0
            steps = (stretch.first + number) * T, size * T
            for block, ahead in ((inputs, 0), (targets, 1)):
                values = cut(skipped, ahead, *steps)
                block[done : done + size] = values.T.reshape(size, T, B)
            done += size
        if not reset:
            return Segment(inputs, targets)
        resets: Any = np.zeros((count, T), np.float32)
        resets[-start % K :: K, 0] = 1
        return Segment(inputs, targets, resets=resets)

    def cut(skipped: int, ahead: int, begin: int, length: int) -> np.ndarray:
        """Returns a part [B, length] of the rows, some symbols ahead."""
        symbols = stretch.symbols[skipped:]
        row = (len(symbols) - 1) // B
        rows = symbols[ahead : ahead + B * row].reshape(B, row)
        part = rows[:, begin : begin + length]
        return part if table is None else table[part]

    return Source(segments, K)
