"""Runs for which the disk is too small: one line, and the last good checkpoint."""

import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jaxlstm.lab import load_run
from tests.lab import children
from tests.lab.children import Process, Starter
from tests.lab.kills import assert_same_run, assert_same_state

pytestmark = pytest.mark.slow
shared, undisturbed, start = children.shared, children.undisturbed, children.start
stopped = children.stopped


def limit_files(process: Process, size: int) -> None:
    """Lets a process write no file beyond a size, as where the disk is full.

    Python ignores the signal that comes of it; what is left is the error.
    """
    limits = size, resource.RLIM_INFINITY
    resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, limits)


def check_line(process: Process, where: str, reason: str = "File too large") -> None:
    """Sees that a process ended with one line on what is full."""
    assert process.end() == 2, process.said
    (line,) = process.err.read_text().splitlines()
    assert line.startswith(f"jaxlstm: {where}")
    assert reason in line


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A run that was stopped on the way."""
    return Path(shutil.copytree(stopped, tmp_path / "out"))


@pytest.fixture
def check_end(
    start: Starter, stopped: Path, undisturbed: Path
) -> Callable[[Path], None]:
    """Sees that a run has a good checkpoint, and goes on once there is room."""

    def check(run: Path) -> None:
        state, at_stop = load_run(run).state, load_run(stopped).state
        assert int(state.num_updates) >= int(at_stop.num_updates)
        if int(state.num_updates) == int(at_stop.num_updates):
            assert_same_state(state, at_stop)
        process = start("resume", run)
        assert process.end() == 0, process.said
        assert_same_run(run, undisturbed)

    return check


def wait_for_updates(process: Process) -> None:
    assert process.wait_for(lambda: process.count("train") >= 2), process.said


def test_full_during_a_save(run, start, check_end):
    process = start("resume", "out")
    wait_for_updates(process)
    # All files are smaller but those of a checkpoint.
    limit_files(process, 20_000)
    check_line(process, "out/checkpoints/")
    check_end(run)


def test_full_during_a_line_of_metrics(run, start, check_end):
    # Nothing is saved before a line is written.
    config = (run / "config.toml").read_text()
    assert "every = 20\n" in config
    (run / "config.toml").write_text(config.replace("every = 20\n", "every = 1000\n"))
    process = start("resume", "out")
    wait_for_updates(process)
    # A line more is longer than that.
    limit_files(process, (run / "metrics.jsonl").stat().st_size + 40)
    check_line(process, "out/metrics.jsonl: ", "no space is left for all of a line")
    assert not (run / "metrics.jsonl").read_text().endswith("\n")
    check_end(run)


def test_full_during_pictures(run, start, check_end):
    process = start("resume", "out")
    assert process.wait_for(lambda: process.count("figures") > 0), process.said
    limit_files(process, 8_000)
    check_line(process, "out/plots/")
    check_end(run)


@pytest.mark.parametrize("name", ["samples.txt", "README.md"])
def test_what_is_written_last_cannot_be(name, run, start, check_end):
    (run / name).mkdir()
    check_line(start("resume", "out"), f"out/{name}: ", "Is a directory")
    (run / name).rmdir()
    check_end(run)


def test_full_at_the_start(start, tmp_path, undisturbed):
    limited = "bash", "-c", 'ulimit -f 1; exec "$@"', "bash"
    check_line(start("run", "text.toml", "--out", "out", prefix=limited), "out")
    assert not (tmp_path / "out").exists()
    process = start("run", "text.toml", "--out", "out")
    assert process.end() == 0, process.said
    assert_same_run(tmp_path / "out", undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A disk of 4 MiB; None where nothing may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = "-t", "tmpfs", "-o", "size=4m", "tmpfs"
    done = subprocess.run(["mount", *options, folder], capture_output=True)
    if done.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Leaves no room on a disk; returns the file that takes it."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return path
    raise AssertionError("there is still room")


def test_disk_that_is_full(small_disk, run, stopped, start, check_end):
    """In fact where it may be mounted; by limits where not."""
    if small_disk is not None:
        run = Path(shutil.copytree(stopped, small_disk / "out"))
    process = start("resume", run)
    wait_for_updates(process)
    if small_disk is None:
        limit_files(process, 3_000)
        check_line(process, f"{run}/")
    else:
        ballast = fill(small_disk)
        check_line(process, f"{run}/", "No space left on device")
        ballast.unlink()
    check_end(run)
