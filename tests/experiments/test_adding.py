"""The adding problem: its sequences, what is scored, and what guessing costs."""

from typing import Any

import numpy as np
import pytest

from experiments.adding import Adding
from jaxlstm.lab import load_run
from jaxlstm.lab.commands import main
from tests.experiments.streams import check_stream, count_scored, read
from tests.experiments.test_sine_cosine import ROOT


@pytest.fixture(scope="module")
def sequences() -> Any:
    """12,000 sequences, T = 24, leaves [26, 12000, ...]."""
    whole = read(Adding(length=24), count=4, batch_size=3000, length=26)
    return type(whole)(*(np.moveaxis(x, 0, 1).reshape(26, 12000, -1) for x in whole))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_stream_is_the_same_however_it_is_cut(split):
    check_stream(Adding(length=20), split)


def test_lengths_are_from_t_to_a_tenth_more(sequences):
    lengths = sequences.mask[..., 0].sum(axis=0)
    np.testing.assert_array_equal(
        sequences.mask[..., 0], np.arange(26)[:, None] < lengths
    )
    numbers, counts = np.unique(lengths, return_counts=True)
    np.testing.assert_array_equal(numbers, [24, 25, 26])
    # 4,000 of each, with a standard deviation of 52.
    assert np.abs(counts - 4000).max() < 260


def test_markers_and_targets_are_those_of_the_paper(sequences):
    values, markers = np.moveaxis(sequences.inputs.astype(float), -1, 0)
    lengths = sequences.mask[..., 0].sum(axis=0)
    assert np.all(np.abs(values) <= 1)
    places = set()
    for n in range(values.shape[1]):
        end = int(lengths[n]) - 1
        minus = np.flatnonzero(markers[:, n] == -1)
        marked = np.flatnonzero(markers[:, n] == 1)
        np.testing.assert_array_equal(minus, [0, end])
        np.testing.assert_allclose(
            sequences.targets[end, n, 0], 0.5 + values[marked, n].sum() / 4, atol=1e-6
        )
        places.add(tuple(marked))
    # One of the first ten; another of the first 11 that are still unmarked. One of them
    # may be the first step, whose marker stays -1 and whose value is 0.
    pairs = {
        tuple(sorted({first, second} - {0}))
        for first in range(10)
        for second in [k for k in range(12) if k != first][:11]
    }
    assert places == pairs


def test_the_end_alone_is_scored(sequences):
    lengths = sequences.mask[..., 0].sum(axis=0)
    steps = np.arange(26)[:, None]
    np.testing.assert_array_equal(sequences.weights[..., 0], steps == lengths - 1)
    np.testing.assert_array_equal(
        sequences.resets[..., 0], np.broadcast_to(steps == 0, (26, 12000))
    )


def test_cost_of_guessing_is_the_variance(sequences):
    (reference,) = Adding(length=24).references()
    counted = [
        len({first, second} - {0})
        for first in range(10)
        for second in [k for k in range(12) if k != first][:11]
    ]
    # Values uniform in [-1, 1] have a variance of 1/3; a quarter of them counts.
    assert reference.loss == pytest.approx(np.mean(counted) / 3 / 16, rel=1e-12)
    targets = sequences.targets[sequences.weights > 0].astype(float)
    # The squares have a standard deviation of .042: five standard errors of 12,000.
    assert abs(np.mean((targets - 0.5) ** 2) - reference.loss) < 0.002


def test_a_sequence_is_right_within_the_tolerance():
    task = Adding(tolerance=0.125)
    target = np.float32([[0.5], [0.5], [0.5], [0.5]])
    prediction = np.float32([[0.5], [0.6], [0.625], [0.3]])
    np.testing.assert_array_equal(
        task.scores(prediction, target)["accuracy"], [1, 1, 0, 0]
    )
    np.testing.assert_allclose(task.loss(prediction, target)[3], 0.04, rtol=1e-6)


def test_evaluation_has_a_hundred_sequences_a_row():
    # The last segment may begin another sequence, and not end it.
    assert count_scored(Adding(length=20)) == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 19}, "greater than or equal to 20"),
        ({"tolerance": 0.0}, "greater than 0"),
    ],
)
def test_bad_fields_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Adding(**options)


def train(tmp_path, monkeypatch, *overrides):
    monkeypatch.chdir(tmp_path)
    main(["run", str(ROOT / "configs/adding.toml"), "--out", "out", *overrides])
    run = load_run("out")
    assert (tmp_path / "out/plots/answers.png").is_file()
    (test,) = (line for line in run.metrics if line["split"] == "test")
    return run, test


@pytest.mark.slow
def test_accuracy_is_of_what_is_scored(tmp_path, monkeypatch):
    overrides = "task.length=20", "train.segment_length=22", "train.num_updates=20"
    run, test = train(tmp_path, monkeypatch, *overrides, "train.eval_every=")
    # Who answers .5 is right where |X1 + X2| < .16: where both count, 15 in 100.
    assert 0.05 < test["accuracy"] < 0.3
    assert 0.5 < test["loss"] / run.task.references()[0].loss < 2


@pytest.mark.slow
def test_adding_is_learnt_to_the_figure_of_the_config(tmp_path, monkeypatch):
    assert train(tmp_path, monkeypatch)[1]["accuracy"] > 0.99
