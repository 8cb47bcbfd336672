"""Batches of whole sequences of about the same length."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxlstm.lab import Segment, Source

# Numbers of the symbols that stand where no word does, and for unknown words.
PADDING, UNKNOWN = 0, 1

# Which end of a longer text is left out.
CutEnd = Literal["end", "start"]


class Encoded(NamedTuple):
    """Texts as numbers.

    Attributes:
      texts: [n] each, int32, n >= 1.
      labels: [N] the number of each text's class, int32.
    """

    texts: Sequence[np.ndarray]
    labels: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """[N] of the texts."""
        return np.array([len(text) for text in self.texts])

    def cut(self, length: int, end: CutEnd) -> "Encoded":
        """Returns texts of a length at most, their beginnings or their ends."""
        part = slice(length) if end == "end" else slice(-length, None)
        return self._replace(texts=[text[part] for text in self.texts])

    def take(self, rows: np.ndarray) -> "Encoded":
        """Returns some of the texts."""
        return Encoded([self.texts[row] for row in rows], self.labels[rows])


class Batch(NamedTuple):
    """Some texts of a bucket.

    Attributes:
      length: T, of the bucket.
      rows: [n] which texts, n <= B.
    """

    length: int
    rows: np.ndarray


def choose_bounds(
    lengths: np.ndarray, *, num_buckets: int, batch_size: int, longest: int
) -> list[int]:
    """Chooses the lengths to which batches are padded, so that least is computed.

    Sequences are ranked by length and cut into M batches of B, as in `make_batches`,
    with longest sequences m_1 <= ... <= m_M. A bucket of batches i, ..., j is padded to
    m_j, and computes (j - i + 1) B m_j steps. The sum over at most `num_buckets`
    buckets is the least that there is, by dynamic programming over the batches.

    Args:
      lengths: [N] of the sequences, at most `longest`.
      num_buckets: the most bounds.
      batch_size: B.
      longest: the last bound, which other splits may need.

    Returns:
      The bounds, ascending.
    """
    maxima = np.append(np.sort(lengths)[::-batch_size][::-1], longest)
    count = len(maxima)
    # The last one stands for the batches of other splits, and costs nothing here.
    sums = np.append(np.arange(count), count - 1)
    # costs[i, j]: of a bucket for the batches i, ..., j - 1, from 0.
    steps = (sums[None, :] - sums[:, None]) * np.append(0, maxima)[None, :]
    costs = np.where(np.tri(count + 1, k=-1, dtype=bool), np.inf, steps)
    least, begins = costs[0], []
    for _ in range(num_buckets - 1):
        totals = least[:, None] + costs
        begins.append(totals.argmin(axis=0))
        least = totals.min(axis=0)
    ends = [count]
    for begin in reversed(begins):
        ends.append(int(begin[ends[-1]]))
    return sorted({int(maxima[end - 1]) for end in ends if end > 0})


def make_batches(
    lengths: np.ndarray,
    bounds: Sequence[int],
    batch_size: int,
    random: np.random.Generator | None = None,
) -> list[Batch]:
    """Returns the batches of an epoch, in which each sequence is once.

    Sequences are ranked by length and cut into batches. One batch may not be full: that
    of the shortest, where least is lost.

    Args:
      lengths: [N] of the sequences.
      bounds: of the buckets, ascending.
      batch_size: B.
      random: draws which sequences of a bucket are together, and the order of batches;
        None: all are ranked.
    """
    numbers = np.arange(len(lengths))
    if random is not None:
        numbers = random.permutation(numbers)
    ranked = numbers[np.argsort(lengths[numbers], kind="stable")]
    ends = np.arange(len(ranked), 0, -batch_size)[::-1]
    padded = np.array(bounds)[np.searchsorted(bounds, lengths[ranked[ends - 1]])]
    begins = np.append(0, ends[:-1])
    if random is not None:
        for bound in np.unique(padded):
            (bucket,) = np.nonzero(padded == bound)
            random.shuffle(ranked[begins[bucket[0]] : ends[bucket[-1]]])
    batches = [
        Batch(int(bound), ranked[begin:end])
        for bound, begin, end in zip(padded, begins, ends, strict=True)
    ]
    if random is None:
        return batches
    return [batches[n] for n in random.permutation(len(batches))]


def make_source(
    encoded: Encoded,
    bounds: Sequence[int],
    batch_size: int,
    random: Callable[[int], np.random.Generator] | None = None,
) -> Source:
    """Returns the batches of texts as segments, each a whole sequence.

    Args:
      encoded: the texts.
      bounds: of the buckets, ascending.
      batch_size: B.
      random: a generator, by the epoch's number; None: no epoch is shuffled.
    """
    lengths = encoded.lengths

    @functools.lru_cache(maxsize=2)
    def epoch(number: int) -> list[Batch]:
        drawn = None if random is None else random(number)
        return make_batches(lengths, bounds, batch_size, drawn)

    num_segments = len(epoch(0))

    def batch(number: int) -> Batch:
        return epoch(number // num_segments)[number % num_segments]

    def segments(start: int, count: int) -> Segment:
        batches = [batch(start)]
        for number in range(start + 1, start + count):
            following = batch(number)
            if following.length != batches[0].length:
                break
            batches.append(following)
        return assemble(encoded, batches, batch_size)

    return Source(segments, num_segments)


def assemble(encoded: Encoded, batches: Sequence[Batch], batch_size: int) -> Segment:
    """Returns batches of one length as segments, leaves [count, T, B].

    Sequences end with the last step, where alone there is a weight, and padding stands
    before them. A row that fills up a batch is padding alone, and has no weight.
    """
    shape = len(batches), batches[0].length, batch_size
    inputs, targets = np.full(shape, PADDING, np.int32), np.zeros(shape, np.int32)
    mask, resets, weights = np.zeros((3, *shape), np.float32)
    resets[:, 0] = 1
    for number, (length, rows) in enumerate(batches):
        joined = join([encoded.texts[row] for row in rows], length)
        inputs[number, :, : len(rows)], mask[number, :, : len(rows)] = joined
        targets[number, :, : len(rows)] = encoded.labels[rows]
        weights[number, -1, : len(rows)] = 1
    controls: Any = mask, resets, weights
    return Segment(inputs, targets, *controls)


def join(
    texts: Sequence[np.ndarray], length: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns texts side by side, with padding before the shorter ones.

    Args:
      texts: [n] each.
      length: T; by default that of the longest text, and at least 1.

    Returns:
      Their numbers [T, N], int32, and the mask [T, N], 0 at the padding.
    """
    if length is None:
        length = max([1, *map(len, texts)])
    inputs = np.full((length, len(texts)), PADDING, np.int32)
    mask = np.zeros(inputs.shape, np.float32)
    for column, text in enumerate(texts):
        begin = length - len(text)
        inputs[begin:, column], mask[begin:, column] = text, 1
    return inputs, mask


class Padding(NamedTuple):
    """Shares of what is computed that is padding, rows that fill up batches included.

    Attributes:
      bucketed: in buckets.
      drawn: in batches drawn from all texts, each as long as its longest text.
      single: with all batches as long as the longest text.
    """

    bucketed: float
    drawn: float
    single: float


def measure_padding(
    lengths: np.ndarray,
    bounds: Sequence[int],
    batch_size: int,
    random: np.random.Generator,
) -> Padding:
    """Measures the padding of an epoch.

    Args:
      lengths: [N] of the sequences.
      bounds: of the buckets, ascending.
      batch_size: B.
      random: draws the batches that are not bucketed.
    """

    def share(steps: int) -> float:
        return round(1 - float(lengths.sum()) / (steps * batch_size), 4)

    alike = make_batches(lengths, bounds, batch_size)
    begins = range(0, len(lengths), batch_size)
    drawn = np.maximum.reduceat(random.permutation(lengths), begins)
    return Padding(
        share(sum(batch.length for batch in alike)),
        share(int(drawn.sum())),
        share(bounds[-1] * len(drawn)),
    )
