"""What a task's segments are checked for."""

import numpy as np
import pytest

from jaxlstm.lab import ModelParts, Segment, Source, UserError
from jaxlstm.lab.task import check_source

SYMBOLS = ModelParts(5, 4, symbols=True)
VECTORS = ModelParts(5, 4)


def take(parts, inputs, targets=None, **rest):
    if targets is None:
        targets = np.zeros(np.shape(inputs), np.int32)
    segment = Segment(np.asarray(inputs), np.asarray(targets), **rest)
    source = Source(lambda start, count: segment, num_segments=7)
    checked = check_source(source, parts)
    assert checked.num_segments == 7
    return checked.segments(3, 1), segment


def test_what_fits_passes_as_it_is():
    for parts, inputs in (
        (SYMBOLS, np.array([[[0, 4], [3, 1]]], np.int32)),
        (VECTORS, np.zeros((1, 3, 2, 5), np.float32)),
    ):
        taken, segment = take(parts, inputs)
        assert taken is segment
    # What has no weight may be anything.
    masked = [[[-1, 9]]]
    taken, segment = take(SYMBOLS, [[[0, 4]]], masked, weights=np.zeros((1, 1, 2)))
    assert taken is segment


@pytest.mark.parametrize(
    ("parts", "inputs", "targets", "message"),
    [
        (
            *(SYMBOLS, [[[0, 5]]], None),
            r"inputs: 5 is no symbol; by its parts there are 5, from 0 to 4",
        ),
        (SYMBOLS, [[[-2, 9]]], None, "inputs: -2 is no symbol"),
        (SYMBOLS, [[[0, 1]]], [[[4, 0]]], "targets: 4 is no symbol; .* there are 4"),
        (
            *(SYMBOLS, [[[0.0, 1.0]]], None),
            r"inputs: float64\[1, 1, 2\] are not symbols, integers \[count, T, B\]",
        ),
        (SYMBOLS, [[0, 1]], None, r"inputs: int64\[1, 2\] are not symbols"),
        (
            *(VECTORS, np.zeros((1, 3, 2, 4)), None),
            r"inputs: shape \[1, 3, 2, 4\] is not \[count, T, B, X\], with X = 5",
        ),
        (VECTORS, np.zeros((3, 2, 5)), None, r"inputs: shape \[3, 2, 5\] is not"),
    ],
)
def test_what_does_not_fit_is_named(parts, inputs, targets, message):
    with pytest.raises(UserError, match=f"the task's {message}"):
        take(parts, inputs, targets)
