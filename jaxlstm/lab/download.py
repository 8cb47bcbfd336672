"""What a download is made of: fetching, unpacking, cleaning. It checks no hash."""

import codecs
import contextlib
import gzip
import io
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
)

CHUNK = 1 << 16
SECONDS = 30
ZIP, GZIP = b"PK\x03\x04", b"\x1f\x8b"
# Bytes that an archive may have, packed or unpacked, to find one member in it.
MOST = 2**30


class Unfit(Exception):
    """What came, or did not come, is not the file; the text says why."""


def fetch(url: str, target: Path, *, title: str, limit: int) -> None:
    """Fetches a URL over HTTP or HTTPS, with progress on a terminal.

    Args:
      url: the address.
      target: the file to write.
      title: what to call it meanwhile.
      limit: the most bytes to take.

    Raises:
      Unfit: there is no such file, no connection, or more than the limit.
    """
    # They take a tenth of a second, and most runs fetch nothing.
    import pooch
    import requests

    try:
        with (
            target.open("wb") as stream,
            _progress(title) as progress,
            contextlib.ExitStack() as stack,
        ):

            def close_in_the_end(answer: Any, **_: object) -> None:
                # Pooch leaves an answer open when it gives up on it.
                stack.callback(answer.close)

            download = pooch.HTTPDownloader(
                progressbar=progress,
                chunk_size=CHUNK,
                timeout=SECONDS,
                # As it is: an encoding could blow it up.
                headers={"Accept-Encoding": "identity"},
                hooks={"response": close_in_the_end},
            )
            download(url, _Bounded(stream, limit), None)
    except requests.HTTPError as error:
        answer = str(error).partition(" for url")[0]
        raise Unfit(f"cannot be fetched: {answer}") from error
    except requests.Timeout as error:
        raise Unfit(f"cannot be fetched: no answer in {SECONDS} s") from error
    except requests.exceptions.SSLError as error:
        raise Unfit("cannot be fetched: the connection is not secure") from error
    except requests.ConnectionError as error:
        # So requests calls an answer that stops in the middle as well.
        late = "timed out" in str(error)
        reason = f"no answer in {SECONDS} s" if late else "no connection"
        raise Unfit(f"cannot be fetched: {reason}") from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise Unfit("cannot be fetched: the connection broke off") from error
    except requests.RequestException as error:
        raise Unfit(f"cannot be fetched: {type(error).__name__}") from error


def unpack(archive: Path, target: Path, *, member: str, limit: int) -> None:
    """Copies one member out of a zip or tar.gz archive; no other one is written.

    Args:
      archive: the archive, told by its first bytes.
      target: the file to write.
      member: the name inside the archive. Links are not followed.
      limit: the most bytes to unpack.

    Raises:
      Unfit: it is no such archive, is damaged, or holds no such plain file within the
        limit.
    """
    with archive.open("rb") as stream:
        start = stream.read(1024)
    if start.startswith(ZIP):
        opened = _open_zipped
    elif start.startswith(GZIP):
        opened = _open_tarred
    elif looks_like_html(start):
        raise Unfit("what came is an HTML page in place of an archive")
    else:
        raise Unfit("what came is neither zip nor tar.gz")
    try:
        with opened(archive, member) as source, target.open("wb") as stream:
            shutil.copyfileobj(source, _Bounded(stream, limit), CHUNK)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        gzip.BadGzipFile,
        zlib.error,
        EOFError,
        # Encrypted, or packed by a method that Python lacks.
        RuntimeError,
    ) as error:
        raise Unfit(f"the archive cannot be unpacked: {error}") from error


def clean(source: Path, target: Path, *, newlines: bool, ends: bool) -> None:
    """Copies a text, in memory.

    Args:
      source: the file to read.
      target: the file to write.
      newlines: make CRLF LF.
      ends: drop a byte order mark in front and white space at the end.
    """
    text = source.read_bytes()
    if ends:
        text = text.removeprefix(codecs.BOM_UTF8).rstrip()
    if newlines:
        text = text.replace(b"\r\n", b"\n")
    target.write_bytes(text)


def looks_like_html(start: bytes) -> bool:
    """Says whether a file begins as an HTML page does."""
    start = start.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))


class _Bounded:
    """Writes to a file, up to a limit."""

    def __init__(self, stream: IO[bytes], limit: int):
        self.stream, self.limit, self.written = stream, limit, 0

    def write(self, chunk: bytes) -> int:
        self.written += len(chunk)
        if self.written > self.limit:
            raise Unfit(f"what came is longer than {self.limit:,} bytes")
        return self.stream.write(chunk)

    def flush(self) -> None:
        self.stream.flush()


class _BoundedReader:
    """Reads from a file, up to a limit."""

    def __init__(self, stream: io.BufferedIOBase, limit: int):
        self.stream, self.limit, self.left = stream, limit, limit

    def read(self, size: int) -> bytes:
        chunk = self.stream.read(size)
        self.left -= len(chunk)
        if self.left < 0:
            raise Unfit(f"the archive is longer than {self.limit:,} bytes, unpacked")
        return chunk


@contextlib.contextmanager
def _open_zipped(path: Path, member: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive:
        try:
            entry = archive.getinfo(member)
        except KeyError:
            raise Unfit(f"the archive has no {member}") from None
        # Zero is what an archive made elsewhere than on Unix says.
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if entry.is_dir() or kind not in (0, stat.S_IFREG):
            raise Unfit(f"{member} in the archive is no plain file")
        # Others take as much memory as the archive says.
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Unfit(f"{member} in the archive is not packed by deflate")
        with archive.open(entry) as stream:
            yield stream


@contextlib.contextmanager
def _open_tarred(path: Path, member: str) -> Iterator[IO[bytes]]:
    with gzip.open(path) as unpacked, contextlib.ExitStack() as stack:
        # As a stream: what stands before the member is unpacked as well.
        bounded: Any = _BoundedReader(unpacked, MOST)
        archive = stack.enter_context(tarfile.open(fileobj=bounded, mode="r|"))
        entry = next((entry for entry in archive if entry.name == member), None)
        if entry is None:
            raise Unfit(f"the archive has no {member}")
        stream = archive.extractfile(entry) if entry.isreg() else None
        if stream is None:
            raise Unfit(f"{member} in the archive is no plain file")
        with stream:
            yield stream


class _Bar:
    """A progress bar as pooch drives it."""

    total = 0

    def __init__(self, progress: Progress, name: str):
        self._progress, self._task = progress, progress.add_task(name, total=None)

    def update(self, count: int) -> None:
        self._progress.update(self._task, advance=count, total=self.total or None)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        self._progress.stop()


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Any]:
    console = Console(stderr=True)
    with Progress(
        TextColumn("fetching {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        yield _Bar(progress, name)
