"""Blocks: the segments of one compiled call, and how many of them it takes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.estimators import Segment
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.task import Source
from jaxlstm.types import Array


class Pace:
    """How many segments a compiled call takes, so that a signal is soon heeded.

    Attributes:
      most: the size of a block.
      count: of the next call. The first one takes a single segment.
    """

    # What is aimed at; a call that turns out slower is still short enough.
    SECONDS = 1.0

    def __init__(self, most: int):
        self.most, self.count = most, 1

    def took(self, count: int, seconds: float) -> None:
        """Learns from a call that took some seconds for `count` segments."""
        possible = int(count * self.SECONDS / max(seconds, 1e-9))
        self.count = max(1, min(self.most, possible))


def next_block(
    source: Source, start: int, most: int, capacity: int
) -> tuple[Segment, int]:
    """Returns segments filled up to a capacity, and how many there are."""
    segments = _take(source, start, most)
    count = len(jax.tree.leaves(segments)[0])
    missing = capacity - count

    def fill(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])

    return (jax.tree.map(fill, segments) if missing else segments), count


def _take(source: Source, start: int, count: int) -> Segment:
    """Returns segments of a source, at least one."""
    segments = source.segments(start, count)
    if len(jax.tree.leaves(segments)[0]) < 1:
        raise UserError(
            f"the task's source gave no segment where {count} from number {start} on "
            "were asked for; it has to give at least one"
        )
    return segments


def scan_first(step: Any, carry: Any, block: Segment, count: Array) -> Any:
    """Scans a step over the first `count` segments of a block [K, ...].

    Returns:
      What is carried, and the numbers that each step reports, [K]: 0 from `count` on.
    """
    capacity = len(jax.tree.leaves(block)[0])

    def take(n: Array | int) -> Segment:
        return jax.tree.map(lambda x: x[n], block)

    def body(n: Array, both: Any) -> Any:
        carry, reports = both
        carry, report = step(carry, take(n))
        write = lambda all, one: all.at[n].set(one)  # noqa: E731
        return carry, jax.tree.map(write, reports, report)

    shapes = jax.eval_shape(lambda: step(carry, take(0))[1])
    empty = jax.tree.map(lambda x: jnp.zeros((capacity,), x.dtype), shapes)
    return jax.lax.fori_loop(0, count, body, (carry, empty))
