"""Batches of whole texts: each once an epoch, padded before, and little."""

import itertools
from typing import Any

import numpy as np
import pytest

from experiments.sentiment.buckets import (
    Encoded,
    choose_bounds,
    join,
    make_batches,
    make_source,
    measure_padding,
)
from jaxlstm.lab import Source, generator
from tests.experiments.streams import assert_same

B = 4


def draw_texts(count: int = 31, longest: int = 12) -> Encoded:
    """Draws texts that begin with numbers of their own."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, longest + 1, count)
    texts = [np.r_[2 + n, rng.integers(1, 9, k - 1)] for n, k in enumerate(lengths)]
    return Encoded(texts, rng.integers(0, 2, count).astype(np.int32))


def read_one(source: Source, number: int) -> Any:
    """Returns a segment, leaves [1, T, B]."""
    return source.segments(number, 1)


def count_steps(lengths, bounds):
    """Returns what is computed, by a loop over ranked batches."""
    ranked, steps = sorted(lengths, reverse=True), 0
    for first in range(0, len(ranked), B):
        steps += B * min(bound for bound in bounds if bound >= ranked[first])
    return steps


@pytest.mark.parametrize("num_buckets", [1, 2, 3, 5, 40])
@pytest.mark.parametrize(("count", "more"), [(31, 0), (32, 3), (1, 1)])
def test_no_bounds_need_less(num_buckets, count, more):
    """All choices of bounds among the lengths are tried."""
    lengths = draw_texts(count).lengths
    longest = int(lengths.max()) + more
    bounds = choose_bounds(
        lengths, num_buckets=num_buckets, batch_size=B, longest=longest
    )
    assert bounds[-1] == longest and len(bounds) <= num_buckets
    others = sorted({*lengths.tolist()} - {longest})
    choices = itertools.chain.from_iterable(
        itertools.combinations(others, size) for size in range(num_buckets)
    )
    least = min(count_steps(lengths, [*choice, longest]) for choice in choices)
    assert count_steps(lengths, bounds) == least


@pytest.mark.parametrize("drawn", [False, True])
def test_each_text_is_in_one_batch(drawn):
    lengths, bounds = draw_texts().lengths, [3, 7, 12]
    random = np.random.default_rng(5) if drawn else None
    batches = make_batches(lengths, bounds, B, random)
    rows = np.concatenate([batch.rows for batch in batches])
    assert sorted(rows) == list(range(31))
    sizes = sorted(len(batch.rows) for batch in batches)
    assert sizes == [3] + [B] * 7
    for length, rows in batches:
        assert lengths[rows].max() <= length
        # Not full is the batch of the shortest, and no batch could be shorter.
        assert len(rows) == B or length == min(batch.length for batch in batches)
    steps = B * sum(batch.length for batch in batches)
    assert steps == count_steps(lengths, bounds)


def test_every_epoch_is_drawn_anew():
    encoded, bounds = draw_texts(), [3, 7, 12]
    source = make_source(encoded, bounds, B, lambda epoch: generator(0, epoch))
    size = source.num_segments
    assert size == 8

    def read(epoch):
        """Returns the texts of each batch, by the numbers that they begin with."""
        found = []
        for number in range(epoch * size, (epoch + 1) * size):
            segment = read_one(source, number)
            present, inputs = segment.mask[0] > 0, segment.inputs[0]
            firsts = present.argmax(axis=0)[present.any(axis=0)]
            found.append([inputs[t, b] - 2 for b, t in enumerate(firsts)])
        return found

    first, second = read(0), read(1)
    for epoch in (first, second):
        assert sorted(itertools.chain(*epoch)) == list(range(31))
    assert {frozenset(batch) for batch in first} != {frozenset(b) for b in second}
    assert [len(batch) for batch in first] != [len(batch) for batch in second]


def test_segments_are_the_same_however_they_are_asked_for():
    source = make_source(
        draw_texts(), [3, 7, 12], B, lambda epoch: generator(1, "train", epoch)
    )
    number, sizes = 0, set()
    while number < 3 * 8:
        block: Any = source.segments(number, 5)
        count = len(block.inputs)
        sizes.add(count)
        for n in range(count):
            alone = read_one(source, number + n)
            assert_same(alone, type(block)(*(leaf[n : n + 1] for leaf in block)))
        number += count
        following = read_one(source, number).inputs.shape
        assert count == 5 or following[1] != block.inputs.shape[1]
    assert len(sizes) > 1


def test_a_segment_is_whole_texts_with_padding_before():
    encoded = Encoded(
        [np.array([5, 6, 7]), np.array([8]), np.array([9, 1])], np.array([1, 0, 1])
    )
    source = make_source(encoded, [4], 5)
    assert source.num_segments == 1
    (inputs, targets, mask, resets, weights) = read_one(source, 0)
    by_length = np.argsort(encoded.lengths)
    assert by_length.tolist() == [1, 2, 0]
    expected = [[0, 0, 0, 8], [0, 0, 9, 1], [0, 5, 6, 7], [0] * 4, [0] * 4]
    np.testing.assert_array_equal(inputs[0].T, expected)
    np.testing.assert_array_equal(mask, inputs > 0)
    np.testing.assert_array_equal(targets[0], [[0, 1, 1, 0, 0]] * 4)
    np.testing.assert_array_equal(weights[0], [[0] * 5] * 3 + [[1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(resets[0], [[1] * 5] + [[0] * 5] * 3)


def test_cut_and_joined():
    encoded = Encoded([np.arange(1, 6), np.array([7])], np.array([0, 1]))
    assert [t.tolist() for t in encoded.cut(2, "end").texts] == [[1, 2], [7]]
    assert [t.tolist() for t in encoded.cut(2, "start").texts] == [[4, 5], [7]]
    inputs, mask = join([np.array([3, 4]), np.array([], np.int32)])
    np.testing.assert_array_equal(inputs, [[3, 0], [4, 0]])
    np.testing.assert_array_equal(mask, [[1, 0], [1, 0]])
    assert join([np.array([], np.int32)])[1].shape == (1, 1)


def test_padding_is_what_the_segments_hold():
    encoded, bounds = draw_texts(), [3, 7, 12]
    lengths = encoded.lengths
    padding = measure_padding(lengths, bounds, B, np.random.default_rng(3))
    found = []
    for kept in (bounds, bounds[-1:]):
        source = make_source(encoded, kept, B)
        masks = [read_one(source, n).mask for n in range(8)]
        found.append(1 - sum(m.sum() for m in masks) / sum(m.size for m in masks))
    assert (padding.bucketed, padding.single) == pytest.approx(found, abs=5e-5)
    order = np.random.default_rng(3).permutation(lengths)
    longest = sum(B * max(order[n : n + B]) for n in range(0, 31, B))
    assert padding.drawn == pytest.approx(1 - lengths.sum() / longest, abs=5e-5)
