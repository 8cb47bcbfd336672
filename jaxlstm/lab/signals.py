"""Ctrl-C, SIGTERM and SIGHUP: a flag that the loop reads between compiled calls."""

import contextlib
import os
import signal
import socket
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupted(BaseException):
    """A signal stopped the run; it was saved.

    No `Exception`: it may be raised inside of libraries, which catch those, as JAX does
    of a backend that does not start.

    Attributes:
      signal: its number.
    """

    def __init__(self, signal: int):
        super().__init__(signal)
        self.signal = signal


def _tell(text: bytes) -> None:
    """Writes to the terminal, if there is one still."""
    with contextlib.suppress(OSError):
        if os.isatty(1):
            os.write(1, text)


class StopRequest:
    """Notes the first signal that asks to stop; the second ends the process at once.

    SIGHUP is no second one: a shell and the system both send it when a terminal closes.
    Signals that are ignored when it begins, as after nohup, stay so. A thread waits for
    the second one, for Python's own handlers wait for a compiled call to end.

    Attributes:
      signal: the number of the signal that came, or None.
    """

    def __init__(self):
        self.signal: int | None = None
        self._at_once = False
        self._before: dict[int, Any] = {}
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Takes over the signals, in the main thread; elsewhere it does nothing."""
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._write.fileno())
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._lose
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Gives the signals back."""
        if self._thread is None:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        # Another hook that came meanwhile stays, and passes on to the one before.
        if sys.unraisablehook == self._lose:
            sys.unraisablehook = self._unraisable
        self._write.close()
        self._thread.join()
        self._read.close()
        self._thread = None

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.signal is not None:
            raise Interrupted(self.signal)

    def raise_at_once(self) -> None:
        """From here on a signal raises Interrupted wherever the main thread is."""
        self._at_once = True
        self.check()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is None:
            self.signal = number
        if self._at_once:
            raise Interrupted(number)

    def _lose(self, fault: Any) -> None:
        """Says nothing of an Interrupted that no one can catch: `check` raises again.

        It is raised so in what Python calls by itself, as when an object dies.
        """
        if not isinstance(fault.exc_value, Interrupted):
            self._unraisable(fault)

    def _watch(self) -> None:
        came_before = False
        while numbers := self._read.recv(1):
            number = numbers[0]
            if number not in self._before:
                continue
            if not came_before:
                came_before = True
                _tell(b"\nstopping after this call; once more ends it at once\n")
            elif number != getattr(signal, "SIGHUP", None):
                _tell(b"\x1b[?25h\n")  # The cursor, which the meter hides.
                os._exit(128 + number)
