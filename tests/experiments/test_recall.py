"""Recall: its sequences, what is scored, and what no memory costs."""

import itertools
import math

import jax
import numpy as np
import pytest

from experiments.recall import Recall
from jaxlstm.lab import load_run
from jaxlstm.lab.commands import main
from tests.experiments.streams import check_stream, count_scored, read
from tests.experiments.test_sine_cosine import ROOT


@pytest.mark.parametrize("split", ["train", "validation"])
def test_stream_is_the_same_however_it_is_cut(split):
    check_stream(Recall(lag=7), split)


def test_sequences_are_those_of_the_definition():
    task = Recall(num_symbols=5, num_distractors=3, lag=4)
    whole = read(task, count=1000, batch_size=3, length=6)
    assert np.all(whole.inputs[:, 0] < 5)
    between = whole.inputs[:, 1:-1]
    assert np.all((between >= 5) & (between < 8))
    np.testing.assert_array_equal(whole.inputs[:, -1], 8)
    np.testing.assert_array_equal(whole.targets[:, -1], whole.inputs[:, 0])
    # The last of the steps alone has a weight, and the first one resets the state.
    controls = np.moveaxis(whole.weights, 1, -1), np.moveaxis(whole.resets, 1, -1)
    for control, step in zip(controls, (5, 0), strict=True):
        np.testing.assert_array_equal(
            control, np.broadcast_to(np.arange(6) == step, (1000, 3, 6))
        )


def test_all_draws_are_as_likely_and_independent():
    task = Recall(num_symbols=4, num_distractors=2, lag=2)
    inputs = read(task, count=100, batch_size=80, length=4).inputs
    draws = np.moveaxis(inputs[:, :3], 1, 0).reshape(3, -1) - [[0], [4], [4]]
    counts = np.zeros((4, 2, 2))
    np.add.at(counts, tuple(draws), 1)
    # 500 of each, with a standard deviation of 21.7.
    assert np.abs(counts - 500).max() < 108


def test_lag_is_of_the_steps_between():
    """The state that the symbol leaves is advanced lag + 1 times before the answer."""
    task = Recall(lag=3)
    (inputs,) = read(task, length=task.num_steps).inputs[..., 0]
    (symbol,) = np.flatnonzero(inputs < 8)
    (cue,) = np.flatnonzero(inputs == 16)
    assert cue - symbol - 1 == 3


def test_evaluation_has_a_hundred_sequences_a_row():
    # The last segment may begin another sequence, and not end it.
    assert count_scored(Recall(lag=5)) == 100


def test_cost_of_no_memory_is_that_of_all_symbols():
    task = Recall(num_symbols=3)
    targets = np.arange(3)
    even = np.zeros((3, 3), np.float32)
    assert float(task.loss(even, targets).mean()) == pytest.approx(math.log(3))
    (reference,) = task.references()
    assert reference.loss == pytest.approx(math.log(3), rel=1e-12)


def test_accuracy_is_of_the_named_symbols():
    task = Recall(num_symbols=3)
    said, symbols = np.array(list(itertools.product(range(3), repeat=2))).T
    logits = jax.nn.one_hot(said, 3)
    np.testing.assert_array_equal(
        task.scores(logits, symbols)["accuracy"], said == symbols
    )


def test_parts_are_what_the_data_need():
    parts = Recall(num_symbols=4, num_distractors=5).parts()
    assert (parts.input_size, parts.output_size, parts.symbols) == (10, 4, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_symbols": 1}, "greater than or equal to 2"),
        ({"num_distractors": 0}, "greater than or equal to 1"),
        ({"lag": 0}, "greater than 0"),
    ],
)
def test_bad_fields_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Recall(**options)


def train(tmp_path, monkeypatch, *overrides):
    monkeypatch.chdir(tmp_path)
    main(["run", str(ROOT / "configs/recall.toml"), "--out", "out", *overrides])
    run = load_run("out")
    assert (tmp_path / "out/plots/recall.png").is_file()
    (test,) = (line for line in run.metrics if line["split"] == "test")
    return run, test


@pytest.mark.slow
def test_short_lags_are_bridged(tmp_path, monkeypatch):
    overrides = [
        *("task.num_symbols=2", "task.lag=2", "train.segment_length=4"),
        *("train.eval_every=", "train.num_updates=150", "model.hidden_size=8"),
    ]
    run, test = train(tmp_path, monkeypatch, *overrides, "optimizer.learning_rate=0.05")
    assert test["accuracy"] == 1
    assert test["loss"] < 0.2 * run.task.references()[0].loss


@pytest.mark.slow
def test_recall_is_learnt_to_the_figure_of_the_config(tmp_path, monkeypatch):
    assert train(tmp_path, monkeypatch)[1]["accuracy"] > 0.99
