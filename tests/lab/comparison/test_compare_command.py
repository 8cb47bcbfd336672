"""The command that compares: what it refuses, how it is stopped, how it goes on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlstm.estimators import structure
from jaxlstm.lab import commands, load_run, memory
from jaxlstm.lab.comparison import course, plan
from jaxlstm.lab.comparison.problem import Part
from jaxlstm.lab.config import load_config
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.signals import Interrupted, StopRequest
from tests.lab import children, tiny
from tests.lab.comparison import parts

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
        (
            ["compare.learning_rates=[]"],
            "compare.learning_rates = []: name at least 1",
        ),
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


def test_signal_that_comes_inside_of_a_library_stops(
    config, command, tmp_path, monkeypatch
):
    reached = []

    def build(config: Any) -> None:
        del config
        # As JAX does while it looks for a backend.
        with contextlib.suppress(Exception):
            signal.raise_signal(signal.SIGTERM)
        reached.append(True)

    monkeypatch.setattr(plan, "build", build)
    outcome = command("compare", config, "--out", tmp_path / "out")
    assert outcome.code == 128 + signal.SIGTERM
    assert outcome.out.endswith("stopped; nothing was made\n")
    assert not reached and not (tmp_path / "out").exists()


class Dying:
    """Hit by a signal as it dies, where nothing that is raised can be caught."""

    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


def test_signal_as_an_object_dies_is_heeded_later(monkeypatch):
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    with StopRequest() as request:
        request.raise_at_once()
        Dying()
        with pytest.raises(Interrupted):
            request.check()
    assert told == [] and sys.unraisablehook == told.append


def test_structure_is_found_once_of_what_does_not_fit(config, monkeypatch):
    looked, look = [], structure._look

    def count(*arguments: Any) -> Any:
        looked.append(arguments)
        return look(*arguments)

    monkeypatch.setattr(structure, "_look", count)
    # The influence takes 29 MB.
    monkeypatch.setattr(memory, "memory_limit", lambda: 10**7)
    overrides = "model.hidden_size=60", "compare.estimators=['rtrl']"
    with pytest.raises(UserError, match=r"hidden_size$") as caught:
        plan.make_plan(load_config(config, overrides), str(config))
    assert str(caught.value).startswith("[compare] rtrl: would take at least 2")
    assert len(looked) == 1


def unscore(monkeypatch, count: int) -> None:
    """Takes the loss from the first segments, in one way or another."""
    draw = tiny.Tiny._draw

    def draw_unscored(task: Any, split: str, number: int, *options: Any) -> Any:
        segment = draw(task, split, number, *options)
        if number >= count:
            return segment
        name = "mask" if number % 2 else "weights"
        return segment._replace(**{name: np.zeros_like(segment.mask)})

    monkeypatch.setattr(tiny.Tiny, "_draw", draw_unscored)


@pytest.mark.parametrize(
    ("count", "fault"),
    [
        (2, "no step of the first 2 windows is scored; set it to at least 2"),
        (5, "no step of the first 2 windows is scored; set it to at least 3"),
        (
            8,
            "no step of the first 8 training segments is scored; mend the mask and the "
            "weights of the task",
        ),
    ],
)
def test_windows_without_a_loss_are_refused(
    count, fault, config, command, tmp_path, monkeypatch
):
    unscore(monkeypatch, count)
    monkeypatch.setattr(plan, "FURTHEST", 8)
    outcome = command("compare", config, "--out", tmp_path / "out")
    assert outcome.faults == [f"[compare] segments_per_window = 1: {fault}"]
    assert outcome.code == 2 and not (tmp_path / "out").exists()


def test_first_window_without_a_loss_is_told(quick, config, monkeypatch):
    unscore(monkeypatch, 1)
    loaded = load_config(config)
    with pytest.warns(plan.LeftOut, match="the first window .* set it to at least 2"):
        plan.make_plan(loaded, str(config))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unscore(monkeypatch, 0)
        plan.make_plan(load_config(config, ["compare.segments_per_window=2"]), "")
    assert not quick


def test_damaged_part_is_left_out_of_report_and_pictures(command, tmp_path):
    out = tmp_path / "out"
    parts.write(out, names=("vanishing",))
    (out / "parts/vanishing.json").write_text("{")
    (out / "plots").mkdir()
    (out / "plots/vanishing.png").touch()
    outcome = command("plot", out)
    assert outcome.code == 0
    assert outcome.faults == [
        f"warning: {out}/parts/vanishing.json: is damaged and left out; `jaxlstm "
        f"resume {out}` measures it again"
    ]
    assert not list((out / "plots").iterdir())
    assert (
        "vanishing.json is not there, or is damaged" in (out / "report.md").read_text()
    )


def test_comparison_is_no_run(command, tmp_path):
    out = tmp_path / "out"
    parts.write(out, names=())
    for name in ("eval", "sample", "plot"):
        tokens = (out, out) if name == "plot" else (out,)
        assert command(name, *tokens).faults == [
            f"{out}: is a comparison, and not a run; name the run that it trained, "
            f"{out / 'reference'}"
        ]
    (fault,) = command("resume", out, "seed=3").faults
    assert fault.startswith("seed=3: only run, compare, import and show take values; ")
    (fault,) = command("resume", out, "more").faults
    assert fault == "more: is not taken here; leave it out, or see --help"
    (fault,) = command("show", out).faults
    assert fault.endswith(f"such as {out / 'config.toml'}")
    (fault,) = command("show", tmp_path).faults
    assert fault.endswith(f"such as {tmp_path / '*.toml'}")


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
    assert f"warning: [compare] uoro: {reason}; left out: lower " in outcome.err
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
    remedy = "; leave it out, or lower model.hidden_size"
    assert all(line.endswith(reason + remedy) for line in outcome.faults)
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
