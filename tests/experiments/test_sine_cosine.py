"""Sine to cosine: its data, and that it is learnt."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.sine_cosine import EVALUATED_SEGMENTS, SineCosine
from jaxlstm.lab import UserError, load_run
from jaxlstm.lab.commands import main

ROOT = Path(__file__).parents[2]


def segments(task, split, start, count, *, batch_size=4, length=12, seed=0) -> Any:
    source = task.split(split, batch_size=batch_size, segment_length=length, seed=seed)
    return source.segments(start, count)


def phases(segment):
    """Returns the phases [K, T, B] of a segment, in turns."""
    angle = np.arctan2(np.float64(segment.inputs), np.float64(segment.targets))
    return angle[..., 0] / (2 * np.pi) % 1


@pytest.mark.parametrize("windows", ["carried", "independent"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_segments_are_the_same_however_they_are_asked_for(windows, split):
    task = SineCosine(windows=windows)
    whole = segments(task, split, 0, 9)
    assert whole.inputs.shape == whole.targets.shape == (9, 12, 4, 1)
    for start, count in ((0, 1), (1, 3), (4, 5), (8, 1)):
        part = segments(task, split, start, count)
        for leaf, expected in zip(part, whole, strict=True):
            if expected is None:
                assert leaf is None
            else:
                np.testing.assert_array_equal(leaf, expected[start : start + count])
    np.testing.assert_allclose(whole.inputs**2 + whole.targets**2, 1, rtol=1e-5)


@pytest.mark.parametrize("split", ["train", "test"])
def test_carried_windows_go_on_where_the_last_one_ended(split):
    task = SineCosine(period=40)
    joined = phases(segments(task, split, 0, 50)).reshape(-1, 4)
    np.testing.assert_allclose(
        (np.diff(joined, axis=0) - 1 / 40 + 0.5) % 1, 0.5, atol=1e-6
    )
    # A late window is as exact as the first.
    late = segments(task, split, 10**9, 1)
    first = segments(task, split, 10**9 % 10, 1)
    np.testing.assert_allclose(late.inputs, first.inputs, atol=1e-6)


@pytest.mark.parametrize(
    ("period", "batch_size"), [(40, 1), (40, 4), (41, 2), (40, 80), (40, 3), (7, 64)]
)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_phases_of_evaluation_are_not_among_those_of_training(
    split, period, batch_size
):
    task = SineCosine(period=period)
    # How many phases training has, and where the others stand between two of them.
    number = np.lcm(period, batch_size)
    seen, unseen = (
        phases(segments(task, s, 0, 12, batch_size=batch_size)).ravel() * number % 1
        for s in ("train", split)
    )
    np.testing.assert_allclose((seen + 0.5) % 1, 0.5, atol=1e-3)
    between = {"validation": 0.25, "test": 0.5}[split]
    np.testing.assert_allclose(unseen, between, atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_held_out_periods_are_in_evaluation_alone(seed):
    task = SineCosine(windows="independent")

    def periods(split):
        segment = segments(task, split, 0, 200, seed=seed)
        turns = np.diff(phases(segment)[:, :2], axis=1) % 1
        return 1 / turns.ravel()

    train, test = periods("train"), periods("test")
    assert len(train) == len(test) == 800
    # A period is read off float32 values; 1e-3 covers their rounding.
    assert np.all((train < 25 + 1e-3) | (train > 35 - 1e-3))
    assert np.all((test > 25 - 1e-3) & (test < 35 + 1e-3))
    assert train.min() < 16 and train.max() > 58
    assert np.any((train > 23) & (train < 25)) and np.any((train > 35) & (train < 38))
    assert test.min() < 26 and test.max() > 34


def test_seeds_and_splits_differ():
    task = SineCosine(windows="independent")
    drawn = [
        segments(task, split, 0, 1, seed=seed).inputs
        for split in ("train", "validation", "test")
        for seed in (0, 1)
    ]
    for n, one in enumerate(drawn):
        assert all(not np.any(one == other) for other in drawn[n + 1 :])


def test_first_steps_are_not_scored():
    carried = SineCosine(unscored_steps=15)
    assert segments(carried, "train", 0, 2).weights is None
    weights = segments(carried, "test", 0, 3).weights
    np.testing.assert_array_equal(weights.ravel(), np.arange(36) >= 15)
    np.testing.assert_array_equal(segments(carried, "test", 1, 2).weights, weights[1:])
    assert segments(carried, "test", 0, 3).resets is None

    independent = SineCosine(windows="independent", unscored_steps=5)
    for split in ("train", "test"):
        segment = segments(independent, split, 0, 2)
        np.testing.assert_array_equal(segment.weights, [np.arange(12) >= 5] * 2)
        np.testing.assert_array_equal(segment.resets, [np.arange(12) == 0] * 2)


def test_only_training_has_no_end():
    ends = {
        split: SineCosine()
        .split(split, batch_size=1, segment_length=10, seed=0)
        .num_segments
        for split in ("train", "validation", "test")
    }
    assert ends == {
        "train": None,
        "validation": EVALUATED_SEGMENTS,
        "test": EVALUATED_SEGMENTS,
    }


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({"windows": "independent", "unscored_steps": 12}, 12),
        ({"windows": "carried", "unscored_steps": 1200}, 12),
    ],
)
def test_windows_without_a_scored_step_are_refused(options, length):
    with pytest.raises(UserError, match="nothing is left of"):
        segments(SineCosine(**options), "train", 0, 1, length=length)


@pytest.mark.parametrize("held_out", [[10.0, 35.0], [35.0, 25.0], [25.0, 60.0]])
def test_band_has_to_lie_within_the_periods(held_out):
    with pytest.raises(ValueError, match="is not a band between"):
        SineCosine(held_out=held_out)


def train(tmp_path, monkeypatch, *overrides):
    monkeypatch.chdir(tmp_path)
    main(["run", str(ROOT / "configs/sine_cosine.toml"), "--out", "out", *overrides])
    run = load_run("out")
    assert sorted(p.name for p in (tmp_path / "out/plots").iterdir()) == [
        "loss.png",
        "prediction.png",
    ]
    (test,) = (line for line in run.metrics if line["split"] == "test")
    return test["loss"]


def test_cosine_is_learnt(tmp_path, monkeypatch):
    loss = train(
        tmp_path,
        monkeypatch,
        "train.num_updates=500",
        "optimizer.learning_rate=0.01",
        "model.hidden_size=8",
    )
    # The mean square of what is to be predicted is 0.5.
    assert loss < 1e-2


@pytest.mark.slow
def test_cosine_is_learnt_to_the_figure_of_the_config(tmp_path, monkeypatch):
    assert train(tmp_path, monkeypatch) < 1e-3
