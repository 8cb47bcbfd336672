"""Command lines in processes of their own: watched, hit by signals, compared."""

import contextlib
import fcntl
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib
import pytest

from tests.lab.kills import write_config, write_text
from tests.lab.tiny import ROOT

# Who runs the tests in the background, or under nohup, has them ignore signals.
HEED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""
COMMAND = "from jaxlstm.__main__ import main; main()"


class Process(NamedTuple):
    """A command that runs.

    Attributes:
      popen: the process.
      out: the file of what it says.
      err: the file of what goes wrong.
    """

    popen: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def marks(self) -> list[list[str]]:
        """The words of the marks so far."""
        lines = self.out.read_text(errors="replace").split("\n")[:-1]
        return [line[1:].split() for line in lines if line.startswith("@")]

    def count(self, name: str) -> int:
        """Returns how many marks begin with a word."""
        return sum(words[0] == name for words in self.marks)

    def wait_for(self, reached: Callable[[], bool], seconds: float = 120) -> bool:
        """Waits until something holds; returns whether it did before the end."""
        deadline = time.monotonic() + seconds
        while self.popen.poll() is None:
            if reached():
                return True
            assert time.monotonic() < deadline, self.said
            time.sleep(0.001)
        return False

    def signal(self, number: int) -> float:
        """Sends a signal and waits for the end; returns how many seconds it took."""
        began = time.perf_counter()
        self.popen.send_signal(number)
        self.popen.wait(60)
        return time.perf_counter() - began

    def end(self, seconds: float = 200) -> int:
        """Waits for the end, and returns the exit code."""
        return self.popen.wait(seconds)

    @property
    def said(self) -> str:
        """All it said, marks left out, and what went wrong."""
        out = re.sub("^@.*\n", "", self.out.read_text(errors="replace"), flags=re.M)
        return out + self.err.read_text(errors="replace")


class Starter:
    """Starts command lines in a folder.

    Attributes:
      folder: where they run, and where what they say is kept.
      cache: holds what they compile.
    """

    def __init__(self, folder: Path, cache: Path):
        self.folder, self.cache, self.number = folder, cache, 0

    def __call__(
        self, *tokens: object, prefix: tuple[str, ...] = (), heed: str = HEED
    ) -> Process:
        """Starts a command line.

        Args:
          tokens: of the command line.
          prefix: a command that starts it.
          heed: what is done first, so that no signal is ignored.
        """
        self.number += 1
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        out, err = (logs / f"{self.number}.{name}" for name in ("out", "err"))
        # As on a machine of its own: nothing is set but where things are kept.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
        environment |= {
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(self.cache),
            "MPLCONFIGDIR": matplotlib.get_configdir(),
        }
        command = [*prefix, sys.executable, "-c", heed + COMMAND, *map(str, tokens)]
        with out.open("wb") as stdout, err.open("wb") as stderr:
            popen = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        return Process(popen, out, err)


def entries(run: Path) -> set[tuple[Path, int]]:
    """Returns the checkpoints that are there, whole or not, and their inodes."""
    found = set()
    for path in (run / "checkpoints").glob("*/*"):
        try:
            found.add((path, path.stat().st_ino))
        except OSError:
            continue
    return found


def unfinished(run: Path, before: set[tuple[Path, int]]) -> bool:
    """Returns whether a checkpoint is new and not whole."""
    new = entries(run) - before
    return any(not (path / "manifest.json").exists() for path, _ in new)


def kill_at(process: Process, run: Path, place: str, draw: random.Random) -> str | None:
    """Kills a process in some part of a run, or somewhat later.

    Args:
      process: the process, just started.
      run: its run directory.
      place: "start", "compile", "update", "save", "evaluation" or "end".
      draw: of the moment.

    Returns:
      Where it was hit, and whether a checkpoint was being saved or dropped; None if it
      ended before.
    """
    before = entries(run)
    count = draw.randint(2, 12)
    last = draw.choice(["test", "figures", "figures"])
    reached, longest = {
        "start": (lambda: True, 3.0),
        "compile": (lambda: process.count("train") > 0, 0.3),
        "update": (lambda: process.count("train") >= count, 0.02),
        "save": (lambda: unfinished(run, before), 0.1),
        "evaluation": (lambda: process.count("validation") > 0, 0.05),
        "end": (lambda: process.count(last) > 0, 1.5),
    }[place]
    if process.wait_for(reached):
        time.sleep(draw.uniform(0, longest))
    process.signal(signal.SIGKILL)
    if process.popen.returncode != -signal.SIGKILL:
        assert process.popen.returncode == 0, process.said
        return None
    return _place(process, run, before)


def _place(process: Process, run: Path, before: set[tuple[Path, int]]) -> str:
    names = [words[0] for words in process.marks]
    if {"test", "figures"} & set(names):
        place = "end"
    elif not names:
        place = "start"
    elif names[-1] == "validation":
        place = "evaluation"
    else:
        place = "compile" if len(names) == 1 else "update"
    return f"{place} and save" if unfinished(run, before) else place


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of a test session share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / "kills"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def undisturbed(shared: Path) -> Path:
    """A run that nobody disturbed, made once."""
    with _alone(shared / "undisturbed") as folder:
        if not (folder / "out").exists():
            process = _start_run(folder, shared)
            assert process.end() == 0, process.said
    return folder / "out"


@pytest.fixture(scope="session")
def stopped(shared: Path) -> Path:
    """A run that was stopped on the way, made once; a copy of it can go on."""
    with _alone(shared / "stopped") as folder:
        if not (folder / "out").exists():
            process = _start_run(folder, shared)
            assert process.wait_for(lambda: process.count("train") >= 20)
            process.signal(signal.SIGTERM)
            assert process.popen.returncode == 143, process.said
    return folder / "out"


@pytest.fixture
def start(undisturbed: Path, shared: Path, tmp_path: Path) -> Starter:
    """Starts commands in the test's folder, which has the config."""
    write_config(tmp_path, shared / "text.txt")
    return Starter(tmp_path, shared / "cache")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """Makes a folder, in which one worker at a time is at work."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _start_run(folder: Path, shared: Path) -> Process:
    write_text(shared / "text.txt")
    write_config(folder, shared / "text.txt")
    return Starter(folder, shared / "cache")("run", "text.toml", "--out", "out")
