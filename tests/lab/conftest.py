"""What the tests of the laboratory share: a folder, a config, the command line."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

from jaxlstm.lab import commands
from tests.lab import tiny


class Outcome(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def faults(self) -> list[str]:
        """The lines on stderr, without the name of the program."""
        lines = self.err.splitlines()
        assert all(line.startswith("jaxlstm: ") for line in lines)
        return [line.removeprefix("jaxlstm: ") for line in lines]


@pytest.fixture(autouse=True)
def _own_surroundings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Runs a test in a folder of its own, and undoes what configs set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    x64 = jax.config.read("jax_enable_x64")
    # Who runs the tests in the background, or under nohup, has them ignore signals.
    heeded = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, way) for number, way in heeded.items()}
    yield
    for number, way in before.items():
        signal.signal(number, way)
    jax.config.update("jax_enable_x64", x64)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The config file of the tiny task."""
    path = tmp_path / "tiny.toml"
    path.write_text(tiny.CONFIG)
    return path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a command line in this process."""

    def run(*tokens: object) -> Outcome:
        code = 0
        try:
            commands.main([str(token) for token in tokens])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        return Outcome(code, *capsys.readouterr())

    return run
