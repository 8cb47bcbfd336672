"""One process at a time trains a run."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from jaxlstm.lab.errors import UserError

try:
    import fcntl
except ImportError:  # Not a POSIX system: nothing is locked there.
    fcntl = None

LOCK = ".lock"


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Holds a run directory while it is in use.

    The lock is the system's (flock): it ends with the process, however that ends. The
    file stays, and means nothing by itself.

    Args:
      folder: the run directory.

    Raises:
      UserError: another process has it, or the folder cannot be written to.
    """
    path = folder / LOCK
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened: {error.strerror}") from None
    try:
        if not _take(file, patience=0.2):
            holder = os.read(file, 200).decode(errors="replace").strip()
            raise UserError(
                f"{folder}: is in use by {holder or 'another process'}; wait until it "
                "ends, or stop it"
            )
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(file)


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
