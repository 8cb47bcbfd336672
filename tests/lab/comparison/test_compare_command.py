"""The command that compares: what it refuses, how it is stopped, how it goes on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlstm.lab import commands, load_run
from jaxlstm.lab.comparison import course, plan
from jaxlstm.lab.comparison.problem import Part
from jaxlstm.lab.signals import Interrupted
from tests.lab import children, tiny

SECTION = """
[compare]
estimators = ["bptt", "uoro", { name = "tbptt", horizon = 2 }]
num_windows = 2
segments_per_window = 1
num_draws = 4
learning_rates = [0.01, 0.1]
num_seeds = 2
lengths = [2, 4]
gains = [0.9]
forget_biases = [1.0]
"""
SUFFIX = "json", "npz"
NO_SECTION = (
    "[compare] is missing; write [compare] and, below it, estimators = "
    '["rtrl", { name = "tbptt", horizon = 8 }] or others'
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The config of a comparison on the tiny task."""
    path = tmp_path / "tiny.toml"
    path.write_text(tiny.CONFIG + SECTION)
    return path


@pytest.fixture
def quick(monkeypatch) -> list[str]:
    """Puts quick measurements in the place of all; returns what was measured."""
    measured: list[str] = []

    def make(name: str):
        def measure(problem: Any, section: Any) -> Part:
            del section
            members = {}
            for member in problem.members:

                def piece(label: str = member.label) -> Part:
                    problem.progress(label)
                    measured.append(f"{name}: {label}")
                    return Part({"label": label})

                members[member.label] = problem.keep(member.label, piece).values
            params = problem.snapshots[-1].params.readout.w
            return Part({"members": members}, {"last": np.asarray(params)})

        return measure

    made = {name: make(name) for name in ("costs", "races")}
    monkeypatch.setattr(course, "MEASUREMENTS", made)
    monkeypatch.setattr(course, "write_report", lambda folder: [folder / "report.md"])
    monkeypatch.setattr(plan, "check_feasible", lambda problem, member: None)
    return measured


def read_figures(folder: Path) -> dict[str, bytes]:
    """Returns what a comparison has measured, by file."""
    files = [*folder.glob("parts/**/*.*"), *folder.glob("snapshots/*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def read_facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "comparison.json").read_text())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["compare="], NO_SECTION),
        (
            ["train.patience=3"],
            "[train] patience = 3: the reference run of a comparison trains to its "
            "end; leave it out",
        ),
        (
            ["compare.snapshots=[0,13]"],
            "[compare] snapshots: 13 is above the number of updates, 12; lower it, or "
            "train for longer",
        ),
        (
            ["compare.snapshots=[5,2]"],
            "compare.snapshots: [5, 2] does not ascend; sort it, and name each once",
        ),
        (
            ["compare.learning_rates=[0.1,0.1]"],
            "compare.learning_rates: [0.1, 0.1] does not ascend; sort it, and name "
            "each once",
        ),
        (["compare.num_draw=3"], "num_draw: unknown key; did you mean num_draws?"),
        (["compare.num_seeds=0"], "= 0: use a number greater than 0"),
        (
            ["compare.estimators=['rtrll']"],
            'compare.estimators[0] = "rtrll": unknown; did you mean rtrl? (or write '
            '"package.module:name" for one of your own)',
        ),
        (
            ["compare.estimators=['rtrl',{name='tbptt',horizn=3}]"],
            "compare.estimators[1].horizn: unknown key; did you mean horizon?",
        ),
        (
            ["compare.estimators=['rtrl','bptt','rtrl']"],
            "compare.estimators: rtrl is there more than once; leave one",
        ),
        (
            ["compare.estimators=[{name='artbp',p=1.5}]"],
            "[compare] artbp(p=1.5): p: 1.5 is not a probability below 1; use one in ",
        ),
        (["compare.estimators=['tests.lab.tiny:Tiny']"], "name a function of the form"),
    ],
)
def test_fault_is_told_before_anything_is_made(
    overrides, message, config, command, tmp_path
):
    before = set(tmp_path.iterdir())
    outcome = command("compare", config, *overrides, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert any(message in line for line in outcome.faults), outcome.faults
    assert set(tmp_path.iterdir()) == before


def test_run_makes_nothing_of_the_section(config, command):
    found = command("show", config).out
    assert 'name = "tbptt", horizon = 2' in found.replace("\n", " ")
    assert "[compare]" not in command("show", config, "compare=").out


@pytest.mark.slow
def test_what_is_there_is_gone_on_with(quick, config, command, tmp_path):
    out = tmp_path / "out"
    assert command("compare", config, "--out", out).code == 0
    labels = ["bptt", "uoro", "tbptt(horizon=2)"]
    assert quick == [f"{n}: {x}" for n in ("costs", "races") for x in labels]
    facts, figures = read_facts(out), read_figures(out)
    assert facts["status"] == "finished" and facts["members"] == labels
    assert set(figures) == {
        *(f"parts/{name}.{suffix}" for name in ("costs", "races") for suffix in SUFFIX),
        *(f"snapshots/{update}.npz" for update in (0, 6, 12)),
    }
    # The reference is a run like any other, and has passed the snapshots.
    run = load_run(out / "reference", "latest")
    assert run.facts["status"] == "finished" and run.update == 12
    with np.load(out / "parts/races.npz") as arrays:
        np.testing.assert_array_equal(arrays["last"], run.params.readout.w)

    # Finished: nothing is measured again, by either command.
    assert command("compare", config, "--out", out).code == 0
    assert command("resume", out).code == 0
    assert len(quick) == 6 and read_figures(out) == figures

    # A part that is damaged, and a snapshot: these alone.
    (out / "parts/costs.json").write_text("{")
    outcome = command("resume", out)
    assert outcome.code == 0 and quick[6:] == [f"costs: {x}" for x in labels]
    assert "parts/costs.json: is damaged; it is measured again" in outcome.err
    (out / "snapshots/6.npz").unlink()
    outcome = command("resume", out)
    assert outcome.code == 0 and len(quick) == 9
    assert "the run has passed it; it begins anew" in outcome.err
    assert read_figures(out) == figures

    # Another config, or another folder's contents.
    (fault,) = command("compare", config, "seed=3", "--out", out).faults
    assert fault.startswith(f"{out}: seed was 0 when the comparison began and is 3; ")
    (fault,) = command("compare", config, "compare.num_draws=5", "--out", out).faults
    assert "compare.num_draws was 4 when the comparison began and is 5" in fault
    (fault,) = command("resume", out, "--allow-change", "seed").faults
    assert fault.startswith("--allow-change seed: ")
    (fault,) = command("run", config, "--out", out).faults
    assert "holds a comparison" in fault
    assert read_figures(out) == figures


@pytest.mark.slow
def test_stopped_anywhere_it_comes_to_the_same_bytes(
    quick, config, command, tmp_path, monkeypatch
):
    assert command("compare", config, "--out", tmp_path / "whole").code == 0
    whole = read_figures(tmp_path / "whole")

    out, stops = tmp_path / "out", 0
    say = course.Display.say
    seen: set[str] = set()

    def stop(self: Any, text: str) -> None:
        say(self, text)
        where = f"{self.name}: {text}"
        if where not in seen:
            seen.add(where)
            raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(course.Display, "say", stop)
    outcome = command("compare", config, "--out", out)
    while outcome.out.endswith("stopped; nothing was made\n"):
        assert outcome.code == 128 + signal.SIGTERM and not out.exists()
        outcome = command("compare", config, "--out", out)
    assert len(seen) == 4, "three while it plans, and the first piece"
    while outcome.code:
        stops += 1
        assert outcome.code == 128 + signal.SIGTERM
        assert outcome.out.endswith(f"stopped; go on with: jaxlstm resume {out}\n")
        assert read_facts(out)["status"] == "stopped"
        outcome = command("resume", out)
    assert stops == 6
    # No piece was measured twice.
    assert quick[6:] == quick[:6]
    assert read_figures(out) == whole


@pytest.mark.slow
def test_refused_member_is_told_and_the_others_are_measured(
    quick, config, command, tmp_path, monkeypatch
):
    reason = "would take at least 512.0 GiB of memory, and there are 24.0 GiB"
    refused = {"uoro"}

    def check(problem: Any, member: Any) -> str | None:
        del problem
        return reason if member.label in refused else None

    monkeypatch.setattr(plan, "check_feasible", check)
    outcome = command("compare", config, "--out", tmp_path / "out")
    assert outcome.code == 0
    assert f"warning: [compare] uoro: {reason}; left out" in outcome.err
    assert not any("uoro" in text for text in quick)
    for name in ("costs", "races"):
        values = json.loads((tmp_path / f"out/parts/{name}.json").read_text())
        assert list(values["members"]) == ["bptt", "uoro", "tbptt(horizon=2)"]
        assert values["members"]["uoro"] == {"refused": reason}
    # Going on, it stays so, though there might be more memory now.
    refused.clear()
    (tmp_path / "out/parts/races.json").unlink()
    assert command("resume", tmp_path / "out").code == 0
    assert not any("uoro" in text for text in quick)

    refused |= {"bptt", "uoro", "tbptt(horizon=2)"}
    outcome = command("compare", config, "--out", tmp_path / "none")
    assert outcome.code == 2 and len(outcome.faults) == 3
    assert all(line.endswith(reason) for line in outcome.faults)
    assert not (tmp_path / "none").exists()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts command lines, none of which outlives the test."""
    environment = os.environ | {
        "PYTHONPATH": str(tiny.ROOT),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    with contextlib.ExitStack() as started:

        def start(*tokens: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", children.HEED + children.COMMAND, *tokens],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            started.enter_context(process)
            started.callback(process.kill)
            return process

        yield start


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("config")
def test_process_that_is_stopped_and_killed_goes_on(start, tmp_path):
    """The real parts, in processes of their own."""
    out = tmp_path / "out"
    process = start("compare", "tiny.toml", 'compare.estimators=["uoro"]', "--out=out")
    while not (out / "parts/accuracy").is_dir():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signal.SIGTERM, said
    assert said.endswith("stopped; go on with: jaxlstm resume out\n")
    before = read_figures(out)
    assert "parts/costs.json" in before

    process = start("resume", "out")
    while not (out / "parts/races").is_dir():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert read_facts(out)["status"] == "running"

    process = start("resume", "out")
    said = process.communicate(timeout=500)[0]
    assert process.returncode == 0, said
    after = read_figures(out)
    assert before["parts/costs.json"] == after["parts/costs.json"]
    names = {name for name in after if name.startswith("parts/")}
    assert {Path(name).stem for name in names} == set(course.MEASUREMENTS)
    assert (out / "report.md").is_file() and read_facts(out)["status"] == "finished"


def test_command_is_documented(capsys):
    commands.main(["compare", "--help"])
    text = capsys.readouterr().out
    assert "[compare] section" in text and "--out" in text
