"""Ctrl-C and SIGTERM: a flag that the loop reads between compiled calls."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequest:
    """Notes the first SIGINT or SIGTERM; a second one acts as it always does.

    Attributes:
      signal: the number of the signal that came, or None.
    """

    def __init__(self):
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Takes over the signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:
                pass  # Only the main thread may; elsewhere signals stay as they are.
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Gives the signals back."""
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
