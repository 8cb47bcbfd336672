"""Strings a^n b^n: the text, and its floor by enumeration."""

import collections
import math
import re

import numpy as np
import pytest

from experiments.anbn import EVALUATED_STEPS, AnBn
from jaxlstm.lab import load_run
from jaxlstm.lab.commands import main
from tests.experiments.streams import check_stream, count_scored, join, read
from tests.experiments.test_sine_cosine import ROOT


def texts(task, count, **options):
    """Returns the text of every row."""
    symbols = join(read(task, count=count, **options)).inputs
    return [task.vocabulary().decode(row) for row in symbols.T]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_stream_is_the_same_however_it_is_cut(split):
    check_stream(AnBn(), split)


def test_texts_are_strings_one_after_another():
    task = AnBn(shortest=2, longest=6)
    counts = collections.Counter()
    for text in texts(task, 500, length=24, batch_size=4):
        strings = re.findall(r"(a+)\n(b+)\n", text)
        rest = len(text) - sum(len(a) + len(b) + 2 for a, b in strings)
        assert 0 <= rest < 14 and text.startswith("a")
        assert all(len(a) == len(b) for a, b in strings)
        counts.update(len(a) for a, _ in strings)
    assert set(counts) == {2, 3, 4, 5, 6}
    # About 960 strings of each length, with a standard deviation of 28.
    total = sum(counts.values())
    assert all(abs(c - total / 5) < 140 for c in counts.values())


def test_targets_are_the_next_symbols():
    whole = join(read(AnBn(), count=50))
    np.testing.assert_array_equal(whole.targets[:-1], whole.inputs[1:])


@pytest.mark.parametrize(("shortest", "longest"), [(1, 32), (3, 7)])
def test_floor_is_that_of_all_prefixes(shortest, longest):
    """Counts how each prefix of a string goes on, over all strings."""
    strings = [f"{'a' * n}\n{'b' * n}\n" for n in range(shortest, longest + 1)]
    seen, forgetful = collections.Counter(), collections.Counter()
    # To know where in which run one stands, but not how long the first one was.
    place = [
        [(s[:k].count("\n"), len(s[:k].split("\n")[-1])) for k in range(len(s))]
        for s in strings
    ]
    for string, places in zip(strings, place, strict=True):
        for k, symbol in enumerate(string):
            seen.update([string[:k], string[: k + 1] + "|"])
            forgetful.update([places[k], (places[k], symbol)])
    bits = guessed = 0.0
    for string, places in zip(strings, place, strict=True):
        for k, symbol in enumerate(string):
            bits -= math.log2(seen[string[: k + 1] + "|"] / seen[string[:k]])
            guessed -= math.log2(forgetful[places[k], symbol] / forgetful[places[k]])
    symbols = sum(map(len, strings))
    floors = [
        r.loss / math.log(2)
        for r in AnBn(shortest=shortest, longest=longest).references()
    ]
    np.testing.assert_allclose(floors, [guessed / symbols, bits / symbols], rtol=1e-12)
    if longest == 32:
        assert symbols / len(strings) == 35
        assert floors[1] == pytest.approx(5 / 35, rel=1e-12)


def test_metric_is_bits():
    assert AnBn().derive({"loss": math.log(2)}) == {"bits_per_character": 1}


def test_first_steps_of_an_evaluation_are_not_scored():
    task = AnBn(unscored_steps=20)
    assert read(task).weights is None
    weights = join(read(task, "test", count=3)).weights
    np.testing.assert_array_equal(weights, np.arange(36) >= 20)
    assert EVALUATED_STEPS <= count_scored(task) < EVALUATED_STEPS + 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shortest": 5, "longest": 4}, "is more than longest = 4"),
        ({"shortest": 0}, "greater than or equal to 1"),
        ({"longest": 10**6}, "less than or equal to 1000"),
        ({"unscored_steps": -1}, "greater than or equal to 0"),
    ],
)
def test_bad_fields_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AnBn(**options)


@pytest.mark.slow
def test_counting_is_learnt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [
        *("task.longest=4", "task.unscored_steps=200", "train.segment_length=20"),
        *("train.num_updates=400", "train.eval_every="),
    ]
    main(["run", str(ROOT / "configs/anbn.toml"), "--out", "out", *overrides])
    run = load_run("out")
    (test,) = (line for line in run.metrics if line["split"] == "test")
    guessed, floor = (r.loss for r in run.task.references())
    assert 0.97 * floor < test["loss"] < floor + 0.2 * (guessed - floor)
    assert test["bits_per_character"] == pytest.approx(test["loss"] / math.log(2))
    assert (tmp_path / "out/plots/prediction.png").is_file()
