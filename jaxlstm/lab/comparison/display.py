"""How far a comparison is: a line for each piece, or a display on a terminal."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from jaxlstm.lab.progress import SECONDS_BETWEEN_LINES, Live


class Display(Live):
    """Shows which part is measured, which piece of it, and what is left.

    Attributes:
      console: where.
      names: of all parts, in order.
      done: how many of them are.
    """

    def __init__(
        self,
        console: Console,
        names: Sequence[str],
        *,
        done: int = 0,
        live: bool = True,
    ):
        self.console, self.names, self.done = console, names, done
        self._progress = None
        if live and console.is_terminal:
            self._progress = Progress(
                TextColumn("parts"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[now]}", markup=False),
                console=console,
            )
            self._task = self._progress.add_task(
                "", total=len(names), completed=done, now=""
            )

    def begin(self, name: str) -> None:
        """Shows that a part begins."""
        self.name, self._said = name, 0.0
        if self._progress:
            self._progress.update(self._task, now=f"{name}{self._left()}")
        else:
            self._print(f"{self._number()} {name}{self._left()}")

    def say(self, text: str) -> None:
        """Shows what is measured."""
        if self._progress:
            self._progress.update(self._task, now=f"{self.name}: {text}{self._left()}")
        elif time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            self._print(f"{self._number()} {self.name}: {text}")

    def end(self, seconds: float) -> None:
        """Shows that a part is there.

        Args:
          seconds: that it took, now or when it was measured.
        """
        self._print(f"{self._number()} {self.name}: {seconds:.1f} s")
        self.done += 1
        if self._progress:
            self._progress.update(self._task, completed=self.done)

    def _number(self) -> str:
        return f"{self.done + 1}/{len(self.names)}"

    def _left(self) -> str:
        left = self.names[self.done + 1 :]
        return f"; then {', '.join(left)}" if left else ""

    def _print(self, text: str) -> None:
        self.console.print(Text(text), highlight=False, soft_wrap=True)
