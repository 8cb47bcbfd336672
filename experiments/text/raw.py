"""Texts as they are found, and their characters and words, piece by piece."""

import codecs
import hashlib
import json
import re
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.text.sources import KNOWN_TEXTS, PYTHON_DOCS
from jaxlstm.lab import UserError
from jaxlstm.lab.data import find_file
from jaxlstm.lab.errors import suggest
from jaxlstm.lab.vocabulary import split_words

CHUNK = 1 << 20

# By byte: itself for a to z, a space for all others.
_LETTERS = bytes(
    byte if chr(byte) in string.ascii_lowercase else 32 for byte in range(256)
)


@dataclass(frozen=True)
class RawText:
    """A text as it was found.

    Attributes:
      where: the key and the file, for errors.
      data: [n] its bytes, uint8; the map of a file.
      strip_lines: whether white space at both ends of a line is no part of it.
    """

    where: str
    data: np.ndarray
    strip_lines: bool = False

    @property
    def sha256(self) -> str:
        """The hash of the bytes."""
        return hashlib.sha256(self.data.data).hexdigest()

    def decode(self) -> Iterator[str]:
        """Yields the text, which is UTF-8, piece by piece, with CRLF as LF.

        A byte order mark in front is dropped.

        Raises:
          UserError: it is not UTF-8; says where.
        """
        pieces = _decode(self)
        return _strip_lines(pieces) if self.strip_lines else pieces


def open_texts(source: str) -> list[RawText]:
    """Returns the text of a name or path: one, or three that are its splits.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    where = f"[task] source = {json.dumps(source, ensure_ascii=False)}"
    if source == PYTHON_DOCS.name:
        return [RawText(where, np.frombuffer(_python_docs(), np.uint8))]
    if source not in KNOWN_TEXTS:
        return [RawText(where, _map_file(where, Path(source)))]
    known = KNOWN_TEXTS[source]
    texts = []
    for file in known.files:
        try:
            path = find_file(file)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        place = f"{where}: {path}"
        texts.append(RawText(place, _map_file(place, path), known.strip_lines))
    return texts


def keep_letters(pieces: Iterable[str]) -> Iterator[str]:
    """Yields lower case, with one space for every run of characters beside a to z."""
    after_space = False
    for piece in pieces:
        ascii_letters = piece.lower().encode("ascii", "replace").translate(_LETTERS)
        letters = re.sub(" {2,}", " ", ascii_letters.decode("ascii"))
        if after_space:
            letters = letters.removeprefix(" ")
        if letters:
            after_space = letters.endswith(" ")
            yield letters


def find_words(pieces: Iterable[str]) -> Iterator[list[str]]:
    """Yields the words of a text that comes in pieces."""
    held = ""
    for piece in pieces:
        text = held + piece
        words = split_words(text)
        # The next piece may go on with the last word.
        held = words.pop() if words and not text[-1].isspace() else ""
        yield words
    if held:
        yield [held]


def _python_docs() -> bytes:
    from pydoc_data.topics import topics

    return "".join(topics[name] for name in sorted(topics)).encode()


def _map_file(where: str, path: Path) -> np.ndarray:
    try:
        if path.is_dir():
            raise UserError(f"{where}: is a folder; name a file in it")
        if not path.exists():
            raise UserError(
                f"{where}: no such file, nor a known text; put the file there, or "
                f"set task.source to another; {suggest(path.name, KNOWN_TEXTS)}"
            )
        if not path.is_file():
            raise UserError(f"{where}: is not a file; name one that holds a text")
        with path.open("rb") as file:
            if not file.seek(0, 2):
                raise UserError(f"{where}: is empty; name a file that holds a text")
            return np.asarray(np.memmap(file, np.uint8, "r"))
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{where}: is not a path: {error}") from None


def _decode(raw: RawText) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    begin = len(codecs.BOM_UTF8)
    if raw.data[:begin].tobytes() != codecs.BOM_UTF8:
        begin = 0
    held = ""
    for start in range(begin, len(raw.data), CHUNK):
        waiting = len(decoder.getstate()[0])
        piece, last = raw.data[start : start + CHUNK], start + CHUNK >= len(raw.data)
        try:
            text = held + decoder.decode(piece.tobytes(), last)
        except UnicodeDecodeError as error:
            offset = start - waiting + error.start
            raise UserError(
                f"{raw.where}: not UTF-8 at byte {offset} "
                f"(0x{raw.data[offset]:02X}); save it as UTF-8, or set task.unit = "
                '"bytes"'
            ) from None
        # Its line feed may come with the next piece.
        held = "\r" if text.endswith("\r") and not last else ""
        yield text.removesuffix(held).replace("\r\n", "\n")


def _strip_lines(pieces: Iterable[str]) -> Iterator[str]:
    held = ""
    for piece in pieces:
        *lines, held = (held + piece).split("\n")
        yield "".join(f"{line.strip()}\n" for line in lines)
    yield held.strip()
