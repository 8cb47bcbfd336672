"""Endless streams, of which any segment can be had."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxlstm.lab import Segment, Source, generator

# The generator makes four words of 64 bits at a step, and can be set to any step.
WORDS, WORD_BITS = 4, 64


EVALUATED_SEQUENCES = 100


def draw_sequences(
    split: str,
    draw: Callable[[int], Segment],
    sequence_length: int,
    segment_length: int,
) -> Source:
    """Returns a stream of sequences that follow one another in each row.

    Args:
      split: "train" has no end, others have `EVALUATED_SEQUENCES`.
      draw: `(n) -> ` sequence n of every row, leaves [sequence_length, B, ...].
      sequence_length: of each of them.
      segment_length: T. A segment may hold a part of a sequence, or several.
    """

    def segments(start: int, count: int) -> Segment:
        first, end = start * segment_length, (start + count) * segment_length
        begin = first // sequence_length
        sequences = [draw(n) for n in range(begin, -(-end // sequence_length))]
        skipped = first - begin * sequence_length

        def cut(*leaves: np.ndarray) -> np.ndarray:
            joined = np.concatenate(leaves)[skipped : skipped + end - first]
            return joined.reshape(count, segment_length, *joined.shape[1:])

        return jax.tree.map(cut, *sequences)

    end = -(-EVALUATED_SEQUENCES * sequence_length // segment_length)
    return Source(segments, None if split == "train" else end)


def score_from(first_scored: int, start: int, count: int, segment_length: int) -> Any:
    """Returns weights [count, T] of segments: 0 before a step of the stream, then 1."""
    steps = start * segment_length + np.arange(count * segment_length)
    return np.float32(steps >= first_scored).reshape(count, segment_length)


def draw_bits(
    seed: int, split: str, start: int, num_steps: int, num_rows: int
) -> np.ndarray:
    """Returns fair bits [num_steps, num_rows], those of a step wherever it is drawn.

    Args:
      seed: the run's seed.
      split: its name.
      start: number of the first step.
      num_steps: how many steps.
      num_rows: independent streams.
    """
    random = generator(seed, split).bit_generator
    width = -(-num_rows // (WORDS * WORD_BITS))
    random.advance(start * width)  # type: ignore[attr-defined]
    words = random.random_raw(num_steps * width * WORDS).astype("<u8")
    return np.unpackbits(words.view(np.uint8).reshape(num_steps, -1), 1, num_rows)
