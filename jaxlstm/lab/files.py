"""Writing files so that a reader never sees half of one."""

import contextlib
import os
from pathlib import Path

from jaxlstm.lab.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Writes a file in one step: it is as it was, or as it shall be.

    On return it is on disk.

    Raises:
      UserError: it cannot be written; then it is as it was.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file in one step, as `write_text` does."""
    replacement = path.with_name(f"{path.name}.new")
    try:
        with replacement.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(replacement, path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            replacement.unlink()
        raise cannot_write(path, error) from None


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders.
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def cannot_write(path: Path, error: OSError) -> UserError:
    """Returns what to tell the user of a file that the system did not take."""
    return UserError(
        f"{path}: cannot be written: {error.strerror or error}; make room, or see to "
        "the rights of the folder"
    )
