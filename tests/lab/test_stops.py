"""Runs in processes of their own: signals, other machines, other processes."""

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import children
from tests.lab.children import Process, Starter
from tests.lab.kills import assert_same_run, write_config

shared, undisturbed, start = children.shared, children.undisturbed, children.start
stopped = children.stopped
pytestmark = pytest.mark.slow

STOPPED = "stopped; go on with: jaxlstm resume out\n"
# One update takes some seconds.
LONG_CALL = "model.hidden_size=1024", "train.segment_length=200"


def status(run: Path) -> str:
    return json.loads((run / "run.json").read_text())["status"]


def hashes(run: Path) -> dict[str, str]:
    """Returns a hash of each file but the lock."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def at_segment(process: Process, count: int, name: str = "train") -> None:
    """Waits until so many blocks of a split were asked for."""
    assert process.wait_for(lambda: process.count(name) >= count), process.said


@pytest.fixture
def goes_on(start: Starter, undisturbed: Path) -> Callable[[Path], None]:
    """Resumes a run, and compares it with the one that nobody disturbed."""

    def resume(run: Path) -> None:
        process = start("resume", run)
        assert process.end() == 0, process.said
        assert_same_run(run, undisturbed)

    return resume


@pytest.mark.parametrize(
    ("name", "place", "count"),
    [
        ("SIGTERM", "train", 14),
        ("SIGINT", "train", 25),
        ("SIGHUP", "train", 9),
        ("SIGTERM", "validation", 1),
    ],
)
def test_signal_on_the_way(name, place, count, start, goes_on, tmp_path):
    process = start("run", "text.toml", "--out", "out")
    at_segment(process, count, place)
    number = getattr(signal, name)
    seconds = process.signal(number)
    print(f"ended after {seconds:.2f} s")
    assert process.popen.returncode == 128 + number
    assert process.said.endswith(STOPPED)
    assert seconds < 5
    assert status(tmp_path / "out") == "stopped"
    goes_on(tmp_path / "out")


def test_signal_while_it_compiles(start, goes_on, tmp_path):
    nothing_kept = Starter(tmp_path, tmp_path / "cache")
    process = nothing_kept("run", "text.toml", "--out", "out")
    at_segment(process, 1)
    seconds = process.signal(signal.SIGTERM)
    print(f"ended after {seconds:.2f} s")
    assert process.popen.returncode == 143
    assert process.said.endswith(STOPPED)
    assert process.count("train") == 1
    goes_on(tmp_path / "out")


@pytest.mark.parametrize("names", [("SIGTERM", "SIGTERM"), ("SIGHUP", "SIGINT")])
def test_second_signal_ends_a_compilation(names, goes_on, tmp_path, start):
    nothing_kept = Starter(tmp_path, tmp_path / "cache")
    process = nothing_kept("run", "text.toml", "--out", "out")
    at_segment(process, 1)
    first, second = (getattr(signal, name) for name in names)
    process.popen.send_signal(first)
    time.sleep(0.2)
    assert process.popen.poll() is None
    seconds = process.signal(second)
    assert process.popen.returncode == 128 + second
    assert seconds < 1
    assert process.count("train") == 1 and status(tmp_path / "out") == "running"
    goes_on(tmp_path / "out")


def test_second_signal_ends_a_compiled_call(start, tmp_path):
    write_config(tmp_path, tmp_path / "text.txt")
    (tmp_path / "text.txt").write_text("the net is long. " * 1200)
    process = start("run", "text.toml", "--out", "out", *LONG_CALL)
    # The second block is asked for while the first update is under way.
    at_segment(process, 2)
    process.popen.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert process.popen.poll() is None
    assert process.signal(signal.SIGTERM) < 1
    assert process.popen.returncode == 143
    assert status(tmp_path / "out") == "running"


def test_nohup(start, tmp_path):
    options = "train.num_updates=30", "train.eval_every=30"
    process = start(
        "run", "text.toml", "--out", "out", *options, prefix=("nohup",), heed=""
    )
    at_segment(process, 3)
    process.popen.send_signal(signal.SIGHUP)
    assert process.end() == 0, process.said
    assert status(tmp_path / "out") == "finished"


def test_two_processes(start, goes_on, tmp_path):
    first = start("run", "text.toml", "--out", "out")
    at_segment(first, 4)
    # It stands still, and holds its lock, however long the others take to start.
    first.popen.send_signal(signal.SIGSTOP)
    for tokens, words in [
        (("resume", "out"), f"jaxlstm: out: is in use by process {first.popen.pid} "),
        (("run", "text.toml", "--out", "out"), "jaxlstm: --out out: holds another run"),
    ]:
        second = start(*tokens)
        assert second.end() == 2
        assert second.said.startswith(words)
        assert len(second.said.splitlines()) == 1
    assert first.popen.poll() is None
    first.signal(signal.SIGKILL)
    goes_on(tmp_path / "out")


def test_run_of_two_devices_on_one_core(start, stopped, tmp_path):
    run = tmp_path / "out"
    shutil.copytree(stopped, run)
    before = hashes(run)
    core = ("taskset", "-c", str(min(os.sched_getaffinity(0))))
    process = start("resume", "out", prefix=core)
    assert process.end() == 2
    lines = process.said.splitlines()
    for line, key in zip(lines, ("devices.count", "devices.cores"), strict=True):
        was = "2" if key.endswith("count") else len(os.sched_getaffinity(0))
        assert line.startswith(f"jaxlstm: out: {key} was {was} when the run began and")
        assert line.endswith(f" with --allow-change {key}")
    assert hashes(run) == before

    process = start("resume", "out", "--allow-change", "devices", prefix=core)
    assert process.end() == 0, process.said
    assert "devices.count is now 1, and was 2" in process.said
    facts = json.loads((run / "run.json").read_text())
    assert facts["status"] == "finished" and facts["updates"] == 150
    assert facts["devices"]["count"] == facts["devices"]["cores"] == 1
    assert {change["key"] for change in facts["changes"]} == {
        "devices.count",
        "devices.cores",
    }
