"""Progress on the terminal, or as plain lines where there is none."""

import contextlib
import os
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 2.0


class Terminal(Console):
    """A console that falls silent where nobody reads any more.

    A pipe whose reader has ended, or a terminal that was closed, ends no run.
    """

    def on_broken_pipe(self) -> None:
        """Says nothing more."""
        self.quiet = True
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints, if there is still somebody to read it."""
        try:
            super().print(*objects, **options)
        except OSError:
            self.on_broken_pipe()


class Live:
    """What is shown while something goes on, and ends with it."""

    _progress: Progress | None

    def __enter__(self) -> Self:
        """Starts the display."""
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the display."""
        if self._progress:
            with contextlib.suppress(OSError):
                self._progress.stop()


class Meter(Live):
    """Shows the loss, updates a second and the time left."""

    def __init__(self, console: Console, done: int, num_updates: int):
        self.console = console
        self.first, self.num_updates = done, num_updates
        self.began = self._shown = self._base = time.perf_counter()
        self._progress = None
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("update"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}"),
                TextColumn("{task.fields[rate]} updates/s"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._progress.add_task(
                "", total=num_updates, completed=done, loss="-", rate="-"
            )

    def compiled(self) -> None:
        """Notes that all is compiled: the rate is counted from here on."""
        self._base = self._shown = time.perf_counter()

    def rate(self, done: int) -> float:
        """Returns updates a second, compilation left out."""
        return (done - self.first) / max(time.perf_counter() - self._base, 1e-9)

    def show(self, done: int, loss: float) -> None:
        """Shows where training stands."""
        rate = self.rate(done)
        if self._progress:
            self._progress.update(
                self._task, completed=done, loss=f"{loss:.4g}", rate=f"{rate:,.0f}"
            )
            return
        now = time.perf_counter()
        if now - self._shown >= SECONDS_BETWEEN_LINES or done == self.num_updates:
            self._shown = now
            self.console.print(
                f"update {done}/{self.num_updates}  loss {loss:.4g}  "
                f"{rate:,.0f} updates/s  {(self.num_updates - done) / rate:.0f} s left",
                highlight=False,
                soft_wrap=True,
            )

    def say(self, text: str) -> None:
        """Prints a line above the display."""
        self.console.print(text, highlight=False, soft_wrap=True)
