"""What must hold of every task whose data are a stream."""

from typing import Any

import numpy as np

from jaxlstm.lab import Task


def read(
    task: Task,
    split: str = "train",
    start: int = 0,
    count: int = 1,
    *,
    batch_size: int = 3,
    length: int = 12,
    seed: int = 0,
) -> Any:
    """Returns segments of a split."""
    source = task.split(split, batch_size=batch_size, segment_length=length, seed=seed)
    return source.segments(start, count)


def join(segment: Any) -> Any:
    """Returns segments [count, T, ...] as one stretch [count T, ...]; None stays."""
    leaves = (x if x is None else x.reshape(-1, *x.shape[2:]) for x in segment)
    return type(segment)(*leaves)


def count_scored(task: Task) -> float:
    """Returns how many steps of a row of the test are scored, in segments of 7."""
    source = task.split("test", batch_size=1, segment_length=7, seed=0)
    assert source.num_segments is not None
    segments: Any = source.segments(0, source.num_segments)
    return segments.weights.sum()


def assert_same(actual: Any, expected: Any) -> None:
    """Compares two segments, bit by bit."""
    for leaf, other in zip(actual, expected, strict=True):
        assert (leaf is None) == (other is None)
        if leaf is not None:
            np.testing.assert_array_equal(leaf, other)


def check_stream(task: Task, split: str) -> None:
    """Compares a stream asked for in parts, and cut into other segments, with itself.

    It also has to differ between seeds, splits, rows and segments.
    """
    whole = read(task, split, 0, 9)
    for start, count in ((0, 1), (1, 3), (4, 5), (8, 1)):
        part = read(task, split, start, count)
        cut = type(whole)(
            *(x if x is None else x[start : start + count] for x in whole)
        )
        assert_same(part, cut)
    for length in (1, 4, 27, 108):
        assert_same(
            join(read(task, split, 0, 108 // length, length=length)), join(whole)
        )
    late = 10**5
    assert_same(
        join(read(task, split, 4 * late, 8, length=3)),
        join(read(task, split, late, 2, length=12)),
    )
    stream = join(whole).inputs
    others = [
        join(read(task, split, 0, 9, seed=1)).inputs,
        join(read(task, "test" if split == "train" else "train", 0, 9)).inputs,
        join(read(task, split, 9, 9)).inputs,
        np.roll(stream, 1, axis=1),
    ]
    assert all(np.any(stream != other) for other in others)
