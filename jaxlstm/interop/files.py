"""Files that appear whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

FilePath = str | os.PathLike[str]


def write_file(path: FilePath, data: bytes) -> None:
    """Writes a file, which appears whole or not at all.

    Raises:
      OSError: it cannot be written; then it is as it was.
    """
    with replacement(path) as new, new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacement(path: FilePath) -> Iterator[Path]:
    """Gives an empty file to write to, which takes the place of another in the end.

    It stands beside that one, ends as it does, and has a name that no file had. If
    anything is raised meanwhile, it is removed, and the other is as it was.

    Args:
      path: of the file whose place is taken.

    Raises:
      OSError: there is no room for a file, or its place cannot be taken.
    """
    root, ending = os.path.splitext(path)
    new = Path(f"{root}.{secrets.token_hex(8)}{ending}")
    new.open("xb").close()
    try:
        yield new
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
