"""Copy: its sequences, what counts as right, and what no memory costs."""

import itertools
import math

import jax
import numpy as np
import pytest

from experiments.copying import Copy
from jaxlstm.lab import load_run
from jaxlstm.lab.commands import main
from tests.experiments.streams import check_stream, join, read
from tests.experiments.test_sine_cosine import ROOT

BLANK, GO = 8, 9


@pytest.mark.parametrize("split", ["train", "validation"])
def test_stream_is_the_same_however_it_is_cut(split):
    check_stream(Copy(length=3, delay=2), split)


def test_sequences_are_those_of_the_definition():
    task = Copy(length=4, delay=6)
    whole = read(task, count=400, length=14)
    for inputs, targets in zip(whole.inputs, whole.targets, strict=True):
        symbols = inputs[:4]
        assert symbols.max() < BLANK
        np.testing.assert_array_equal(inputs[4:9], BLANK)
        np.testing.assert_array_equal(inputs[9], GO)
        np.testing.assert_array_equal(inputs[10:], BLANK)
        np.testing.assert_array_equal(targets[:10], BLANK)
        np.testing.assert_array_equal(targets[10:], symbols)
    counts = np.bincount(whole.inputs[:, :4].ravel(), minlength=8)
    # 600 of each, with a standard deviation of 23.
    assert len(counts) == 8 and np.abs(counts - 600).max() < 115
    np.testing.assert_array_equal(whole.resets[0, :, 0], np.arange(14) == 0)
    np.testing.assert_array_equal(
        read(Copy(reset=False), count=2).resets, np.zeros((2, 12, 3))
    )


def test_cost_of_no_memory_is_that_of_all_strings():
    """Averages over all strings, with the best prediction that knows the step alone."""
    task = Copy(num_symbols=3, length=2, delay=4)
    strings = np.array(list(itertools.product(range(3), repeat=2))).T
    targets = np.full((8, 9), 3)
    targets[-2:] = strings
    counts = (targets[..., None] == np.arange(4)).mean(axis=1)
    logits = np.log(np.broadcast_to(counts[:, None], (8, 9, 4)).clip(1e-30))
    losses = np.asarray(task.loss(logits, targets))
    (reference,) = task.references()
    assert reference.loss == pytest.approx(2 * math.log(3) / 8, rel=1e-12)
    assert losses.mean() == pytest.approx(reference.loss, rel=1e-6)


def test_accuracy_is_of_the_symbols_to_be_copied():
    task = Copy(length=2, delay=4)
    stream = join(read(task, count=5, length=8))
    perfect = jax.nn.one_hot(stream.targets, 9)

    def accuracy(prediction):
        return float(task.scores(prediction, stream.targets)["accuracy"].mean())

    assert accuracy(perfect) == pytest.approx(1)
    silent = jax.nn.one_hot(np.full_like(stream.targets, BLANK), 9)
    assert accuracy(silent) == 0
    half = np.where((np.arange(40) % 8 == 7)[:, None, None], silent, perfect)
    assert accuracy(half) == pytest.approx(0.5)


def test_parts_are_what_the_data_need():
    parts = Copy(num_symbols=4).parts()
    assert (parts.input_size, parts.output_size, parts.symbols) == (6, 5, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_symbols": 1}, "greater than or equal to 2"),
        ({"length": 0}, "greater than 0"),
        ({"delay": 0}, "greater than 0"),
    ],
)
def test_bad_fields_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Copy(**options)


def train(tmp_path, monkeypatch, *overrides):
    monkeypatch.chdir(tmp_path)
    main(["run", str(ROOT / "configs/copy.toml"), "--out", "out", *overrides])
    run = load_run("out")
    assert (tmp_path / "out/plots/copy.png").is_file()
    (test,) = (line for line in run.metrics if line["split"] == "test")
    return run, test


@pytest.mark.slow
def test_short_strings_are_copied(tmp_path, monkeypatch):
    overrides = [
        *("task.num_symbols=2", "task.length=1", "task.delay=2", "train.eval_every="),
        *("train.segment_length=4", "train.num_updates=150", "model.hidden_size=8"),
    ]
    run, test = train(tmp_path, monkeypatch, *overrides, "optimizer.learning_rate=0.05")
    assert test["accuracy"] == 1
    assert test["loss"] < 0.2 * run.task.references()[0].loss


@pytest.mark.slow
def test_copy_is_learnt_to_the_figure_of_the_config(tmp_path, monkeypatch):
    assert train(tmp_path, monkeypatch)[1]["accuracy"] > 0.99
