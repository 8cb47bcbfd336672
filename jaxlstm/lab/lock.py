"""One process at a time trains a run."""

import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from jaxlstm.lab.errors import UserError

try:
    import fcntl
except ImportError:  # Not a POSIX system: nothing is locked there.
    fcntl = None

LOCK = ".lock"


class RunLock:
    """Holds a run directory while it is in use, as a context manager.

    The lock is the system's (flock): it ends with the process, however that ends. The
    file stays, and means nothing by itself.

    Attributes:
      folder: the run directory.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._file: int | None = None

    def __enter__(self) -> Self:
        """Takes the lock.

        Raises:
          UserError: another process has it, or the folder cannot be written to.
        """
        path = self.folder / LOCK
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"{path}: cannot be opened: {error.strerror}") from None
        if not _take(file, patience=0.2):
            holder = os.read(file, 200).decode(errors="replace").strip()
            os.close(file)
            raise UserError(
                f"{self.folder}: is in use by {holder or 'another process'}; wait "
                "until it ends, or stop it"
            )
        self._file = file
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Gives the lock back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def is_locked(folder: Path) -> bool:
    """Returns whether a process is training the run of that directory."""
    try:
        file = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _take(file, shared=True)
    finally:
        os.close(file)


def _take(file: int, *, shared: bool = False, patience: float = 0.0) -> bool:
    """Takes a lock, and returns whether it is had.

    Args:
      file: the lock file.
      shared: whether others may look as well.
      patience: seconds to wait: who only looks is gone at once.
    """
    if fcntl is None:
        return True
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        else:
            return True
