"""The sweep over variants of the cell: what it trains, what it keeps, what it says."""

import json

import numpy as np
import pytest

from benchmarks import sweep, variants
from jaxlstm.lab import Segment, Source

TINY = (
    *("task.source=python-docs", "task.vocabulary_size=5", "train.batch_size=2"),
    *("train.segment_length=4", "train.updates_per_call=2"),
)


def run(cell, seed, rate, validation):
    return {
        "cell": cell,
        "seed": seed,
        "learning_rate": rate,
        "updates": 7,
        "validation": validation,
    }


@pytest.mark.slow
def test_sweep_makes_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "TIMED", 2)
    command = [
        *("--out", str(tmp_path), "--cells", "lstm", "rnn", "--parameters", "400"),
        *("--seconds", "0.002", "--rounds", "2", "--rates", "0.01", "--set", *TINY),
    ]
    variants.main(command)
    speeds = json.loads((tmp_path / "speeds.json").read_text())["cells"]
    runs = (tmp_path / "runs.jsonl").read_text()
    for found in speeds.values():
        assert abs(found["parameters"] - 400) <= 20
        assert found["seconds"] > 0 and len(found["rounds"]) == 2
    for made in map(json.loads, runs.splitlines()):
        updates = 0.002 / speeds[made["cell"]]["seconds"]
        assert made["updates"] == max(1, round(updates))
        assert 0 < made["validation"] < 5
    assert [json.loads(line)["cell"] for line in runs.splitlines()] == ["lstm", "rnn"]
    first, second = runs.splitlines(keepends=True)
    (tmp_path / "runs.jsonl").write_text(second)
    variants.main(command)
    again = (tmp_path / "runs.jsonl").read_text().splitlines(keepends=True)
    assert again[0] == second
    # The same run, but for the time it took.
    remade, made = (json.loads(line) | {"seconds": None} for line in (again[1], first))
    assert remade == made
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out


def test_best_rate_is_that_of_the_first_seed():
    runs = [
        run("a", 0, 0.1, 3.0),
        run("a", 0, 0.2, 2.0),
        run("b", 1, 0.1, 2.5),
        run("b", 0, 0.1, 1.0),
        run("b", 0, 0.2, 1.5),
    ]
    best = variants.find_best(runs)
    assert list(best) == ["b", "a"]
    assert best["a"] == [runs[1]]
    assert best["b"] == [runs[3], runs[2]]


def test_rates_are_climbed_while_they_get_better(tmp_path, monkeypatch):
    losses = {0.1: 3.0, 0.2: 2.0, 0.4: 2.5, 0.8: 1.0}
    made = []

    def train(self, job, speed, seconds):
        made.append((job.seed, job.learning_rate))
        return job._asdict() | {"validation": losses[job.learning_rate]}

    monkeypatch.setattr(sweep.Sweep, "train", train)
    own = sweep.Sweep(tmp_path, [], 400)
    rest = "lstm", [0.8, 0.1, 0.2, 0.4], 3, {}, 1.0
    runs = list(own.climb(*rest))
    assert made == [(0, 0.1), (0, 0.2), (0, 0.4), (1, 0.2), (2, 0.2)]
    # What is there already is read.
    assert list(own.climb(*rest)) == runs == own.read_runs()
    assert len(made) == 5


def test_table_shows_mean_and_each():
    speeds = {"b": {"hidden_size": 12, "parameters": 99_500, "seconds": 0.0125}}
    runs = [run("b", 0, 0.1, 1.0), run("b", 1, 0.1, 2.5)]
    *_, row = variants.write_table(speeds, runs).splitlines()
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    expected = ["`b`", "12", "99,500", "12.5", "7", "0.1", "1.750", "1.000, 2.500"]
    assert cells == expected


@pytest.mark.parametrize("start", [0, 3, 8, 15])
def test_states_begin_anew_before_every_eighth_segment(start):
    def segments(start, count):
        targets = np.arange(start, start + count)[:, None, None] + np.zeros((3, 2))
        resets = np.zeros((count, 3))
        resets[-start % 5 :: 5, 0] = 1
        return Segment(None, targets, resets=resets)

    found = sweep.begin_anew(Source(segments, 20)).segments(start, 5)
    for number, resets in zip(found.targets[:, 0, 0], found.resets, strict=True):
        assert resets.tolist() == [number % 8 == 0 or number % 5 == 0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cells", "lstm", "lstn"], "--cells lstn: unknown"),
        (["--cells", "gru"], "leaves out lstm"),
        (["--seconds", "0"], "--seconds 0.0: is not positive"),
        (["--seeds", "0"], "--seeds 0: is not positive"),
        (["--rounds", "-1"], "--rounds -1: is not positive"),
        (["--part", "3/2"], "3/2: write 1/2"),
        (["--part", "a"], "a: write 1/2"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        variants.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
