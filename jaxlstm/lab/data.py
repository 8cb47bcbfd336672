"""Data files: looked for here, fetched from there, and never believed unchecked."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jaxlstm.lab.download import MOST, Unfit, clean, fetch, looks_like_html, unpack
from jaxlstm.lab.errors import UserError

VARIABLE = "JAXLSTM_DATA"
HASH = re.compile(r"sha256:[0-9a-f]{64}|sha1:[0-9a-f]{40}|md5:[0-9a-f]{32}")
# How much longer a text may be before it is cleaned, beside one CR for each LF.
SLACK = 1024


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """A file of data: what it is called, where it comes from, and what it must be.

    Attributes:
      name: of the file that is looked for.
      url: where it is fetched from, over HTTP or HTTPS. Without a hash it is not.
      hash: "sha256:...", "sha1:..." or "md5:..." of the file itself: unpacked and
        cleaned, where these are asked for.
      size: of the file itself, in bytes. What is longer is not fetched whole; without
        it, and of an archive, what is longer than 1 GiB.
      member: its name inside the zip or tar.gz archive at the URL.
      normalise_newlines: CRLF in what is fetched becomes LF.
      strip_ends: a byte order mark in front of what is fetched, and white space at its
        end, are dropped.
      note: how to get it where there is no URL, such as under a licence.
    """

    name: str
    url: str | None = None
    hash: str | None = None
    size: int | None = None
    member: str | None = None
    normalise_newlines: bool = False
    strip_ends: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        """Refuses what could lead out of a folder, or could not be checked."""
        if self.name in ("", ".", "..") or re.search(r"[/\\\0]", self.name):
            raise ValueError(f"name = {self.name!r}: not the name of a file")
        if self.hash is not None and not HASH.fullmatch(self.hash):
            raise ValueError(f"hash = {self.hash!r}: not sha256:, sha1: or md5:")
        if self.member is not None:
            path = PurePosixPath(self.member)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"member = {self.member!r}: leads out of the archive")
            if self.size is None:
                raise ValueError(f"member = {self.member!r}: needs a size as its bound")


def find_file(file: DataFile) -> Path:
    """Returns where a file lies, and fetches it if it lies nowhere.

    It is looked for in the folder that the environment variable JAXLSTM_DATA names,
    then in the cache of the user. Wherever it is found, it is checked.

    Raises:
      UserError: JAXLSTM_DATA names no folder; the file that was found, or came, is not
        the one expected; or it can neither be found nor fetched.
    """
    for folder, remedy in _places():
        path = folder / file.name
        if os.path.lexists(path):
            fault = _find_fault(path, file)
            if fault and not (file.url and file.hash):
                steps = ", ".join(_steps(file))
                remedy = f"replace it: {steps}" if steps else "replace it"
            if fault:
                raise UserError(f"{path}: {fault}; {remedy}")
            return path
    path = _cache() / file.name
    if file.url is None:
        raise UserError(f"{file.name}: not found; {_by_hand(file, path)}")
    if file.hash is None:
        raise UserError(
            f"{file.name}: not found, and not fetched, for its hash is not known; "
            f"{_by_hand(file, path)}"
        )
    _download(file, file.url, path)
    return path


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """Returns the hash of a file in hexadecimal; its size does not matter to memory."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _cache() -> Path:
    # Imported where a file is not at hand already.
    import pooch

    return pooch.os_cache("jaxlstm")


def _places() -> Iterator[tuple[Path, str]]:
    named = os.environ.get(VARIABLE)
    if named:
        if not os.path.isdir(named):
            raise UserError(
                f"{VARIABLE} = {named}: not a folder; name the one that holds the "
                "data, or unset the variable"
            )
        yield Path(named), f"replace it, or unset {VARIABLE} to have it fetched"
    yield _cache(), "delete it to have it fetched anew"


def _find_fault(path: Path, file: DataFile) -> str | None:
    """Returns what is wrong with a file, if anything is."""
    try:
        with path.open("rb") as stream:
            start = stream.read(1024)
        if not start:
            return "is empty"
        algorithm, _, expected = (file.hash or "").partition(":")
        found = hash_file(path, algorithm) if expected else ""
        if expected and found == expected:
            return None
        if looks_like_html(start):
            return "is an HTML page in place of data"
        if expected:
            return f"is another file: its {algorithm} is {found}, not {expected}"
        return None
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _steps(file: DataFile) -> list[str]:
    """Returns how a user gets the file without this program: a step each."""
    steps = [file.note] if file.note else []
    if file.url:
        steps.append("fetch it by hand")
    if file.member:
        steps.append(f"take {file.member} out of it")
    if file.normalise_newlines:
        steps.append("make its CRLF LF")
    if file.strip_ends:
        steps.append("drop the byte order mark and the white space at its end")
    return steps


def _by_hand(file: DataFile, path: Path) -> str:
    place = f"put it at {path}, or as {file.name} in a folder that {VARIABLE} names"
    return ", ".join([*_steps(file), place])


def _download(file: DataFile, url: str, path: Path) -> None:
    """Fetches a file; at its path it is either whole and checked, or not there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{file.name}-", dir=path.parent
        ) as folder:
            os.replace(_prepare(file, url, Path(folder)), path)
    except Unfit as fault:
        raise UserError(f"{url}: {fault}; {_by_hand(file, path)}") from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {error.strerror}; {_by_hand(file, path)}"
        ) from None


def _prepare(file: DataFile, url: str, folder: Path) -> Path:
    """Fetches a file into a folder, step by step, and returns the last step's path."""
    path = folder / "fetched"
    limit = MOST if file.size is None else file.size
    cleaned = file.normalise_newlines or file.strip_ends
    if cleaned:
        limit = 2 * limit + SLACK
    fetch(url, path, title=file.name, limit=MOST if file.member else limit)
    if file.member:
        archive, path = path, folder / "member"
        unpack(archive, path, member=file.member, limit=limit)
    if cleaned:
        raw, path = path, folder / "cleaned"
        clean(raw, path, newlines=file.normalise_newlines, ends=file.strip_ends)
    fault = _find_fault(path, file)
    if fault:
        raise Unfit(f"what came {fault}")
    return path
