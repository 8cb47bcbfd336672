"""Runs that stop where little time is left to: each goes on to the same lines."""

import shutil
import signal
import time
from pathlib import Path

import pytest

from jaxlstm.lab import load_run
from jaxlstm.lab.checkpoints import Checkpoints
from jaxlstm.lab.evaluation import Evaluator

# Of three evaluations the second is the best one.
WORSE = "optimizer.learning_rate=3.0", "train.eval_every=4"
# Without a lower loss, training ends after update 6, where no line is due.
STUCK = (
    "optimizer.learning_rate=1e-30",
    "train.eval_every=2",
    "train.patience=2",
    "logging.every=100",
)


class Killed(Exception):
    """Ends a run where it stands."""


def lines(run: str) -> list[dict]:
    return [
        {name: value for name, value in line.items() if name != "seconds"}
        for line in load_run(run).metrics
    ]


@pytest.fixture
def interrupt(monkeypatch, config, command):
    """Runs a config, and asks it to stop at the start of an evaluation."""

    def run(number: int, *options: str) -> None:
        evaluate, calls = Evaluator.__call__, []

        def interrupted(*args, **keywords):
            calls.append(None)
            if len(calls) == number:
                signal.raise_signal(signal.SIGTERM)
            return evaluate(*args, **keywords)

        with monkeypatch.context() as patch:
            patch.setattr(Evaluator, "__call__", interrupted)
            outcome = command("run", config, *options, "--out", "out")
        assert outcome.code == 143, outcome.err
        assert command("run", config, *options, "--out", "whole").code == 0

    return run


@pytest.mark.slow
def test_best_of_the_last_evaluation_is_measured(interrupt, command, monkeypatch):
    """It is saved in the background, which may take its time."""
    interrupt(2)
    save = Checkpoints._save

    def slowly(self, which, *args):
        time.sleep(0.5)
        save(self, which, *args)

    monkeypatch.setattr(Checkpoints, "_save", slowly)
    assert command("resume", "out").code == 0
    assert load_run("out").update == load_run("whole").update == 12
    assert lines("out") == lines("whole")


@pytest.mark.slow
def test_killed_while_the_best_of_a_repeated_evaluation_is_saved(
    interrupt, command, monkeypatch
):
    interrupt(2, *WORSE)
    assert int(load_run("out").state.num_updates) == 8

    def killed(self, params, update):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save_best", killed)
        with pytest.raises(Killed):
            command("resume", "out")
    assert lines("out")[-1]["split"] == "validation"
    assert command("resume", "out").code == 0
    assert load_run("out").update == load_run("whole").update == 8
    assert lines("out") == lines("whole")


@pytest.mark.slow
def test_patience_that_runs_out_in_a_repeated_evaluation(
    interrupt, command, monkeypatch
):
    interrupt(3, *STUCK)
    assert int(load_run("out").state.num_updates) == 6

    # Killed then, after the line was written.
    def killed(self, state):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("jaxlstm.lab.session.Session._evaluate_all", killed)
        with pytest.raises(Killed):
            command("resume", "out")
    assert command("resume", "out").code == 0
    assert [(line["update"], line["split"]) for line in lines("out")] == [
        *((n, "validation") for n in (2, 4, 6)),
        (6, "train"),
        (2, "test"),
    ]
    assert lines("out") == lines("whole")


@pytest.mark.parametrize("left", ["config.toml", "vocabulary.json"])
def test_start_that_was_cut_short_is_repeated(left, config, command):
    folder = Path("out")
    folder.mkdir()
    (folder / left).write_text("{")
    # Somebody's own, as far as can be told.
    outcome = command("run", config, "--out", "out")
    assert outcome.faults == ["--out out: is not an empty folder; name another one"]
    assert (folder / left).read_text() == "{"
    # Only a start leaves a lock.
    (folder / ".lock").write_text("process 1 on here\n")
    assert command("run", config, "--out", "out").code == 0


@pytest.mark.slow
def test_best_checkpoint_that_is_gone_is_named(config, command):
    assert command("run", config, *WORSE, "--out", "out").code == 0
    best = Path("out/checkpoints/best/8")
    # As if it had been cut short.
    (best / "manifest.json").unlink()
    load_run("out").note(status="failed")
    outcome = command("resume", "out")
    assert f"{best}: is missing, of the lowest validation loss" in outcome.err
    # It is made anew.
    shutil.rmtree("out/checkpoints")
    load_run("out").note(status="failed")
    assert command("resume", "out").code == 0
    assert command("run", config, *WORSE, "--out", "whole").code == 0
    assert lines("out") == lines("whole")


@pytest.mark.slow
def test_checkpoint_under_the_number_of_another_is_passed_over(config, command):
    assert command("run", config, "--out", "out").code == 0
    assert command("run", config, "--out", "whole").code == 0
    run = load_run("out")
    run.note(status="failed")
    latest = run.path / "checkpoints/latest"
    shutil.rmtree(latest / "12")
    shutil.copytree(latest / "10", latest / "12")
    outcome = command("resume", "out")
    assert outcome.faults == [
        "warning: out/checkpoints/latest/12: is damaged: manifest.json is that of "
        "update 10; the one before it is taken, 10"
    ]
    assert int(load_run("out").state.num_updates) == 12
    assert lines("out") == lines("whole")


@pytest.mark.slow
def test_what_a_killed_save_leaves_behind_is_removed(config, command):
    assert command("run", config, "--out", "out").code == 0
    load_run("out").note(status="failed")
    checkpoints = Path("out/checkpoints")
    left = [
        checkpoints / "latest/11.orbax-checkpoint-tmp",
        checkpoints / "latest/11",
        checkpoints / "best/6.orbax-checkpoint-tmp",
        # It was being dropped.
        checkpoints / "best/6",
    ]
    own = checkpoints / "latest/mine"
    for path in (*left, own):
        path.mkdir()
        (path / "file").write_text("")
    assert command("resume", "out").code == 0
    assert own.is_dir() and not any(path.exists() for path in left)
    assert load_run("out").update == load_run("out", "latest").update == 12
