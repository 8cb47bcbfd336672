"""Word vectors of GloVe, read strictly."""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.sentiment.sources import KNOWN_VECTORS
from jaxlstm.lab import UserError
from jaxlstm.lab.data import find_file
from jaxlstm.lab.errors import suggest


class Vectors(NamedTuple):
    """The vectors of some words.

    Attributes:
      numbers: [N] of the words that have one, ascending.
      values: [N, E] their vectors, float32.
    """

    numbers: np.ndarray
    values: np.ndarray


class Coverage(NamedTuple):
    """How much of a text has vectors.

    Attributes:
      types: share of the words, each counted once.
      tokens: share of all that is read.
    """

    types: float
    tokens: float


def find_vectors(where: str, name: str) -> Path:
    """Returns the path of vectors.

    Args:
      where: the key and its value, for errors.
      name: of known vectors, or a path.

    Raises:
      UserError: there are none.
    """
    if name in KNOWN_VECTORS:
        try:
            return find_file(KNOWN_VECTORS[name])
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(
            f"{where}: no such file, nor known vectors; put the file there, or set "
            f"task.glove to another; {suggest(path.name, KNOWN_VECTORS)}"
        )
    return path


def read_vectors(path: Path, numbers: Mapping[str, int]) -> Vectors:
    """Reads the vectors of words from a text file of GloVe.

    A line of it is a word and E numbers, with single blanks in between; there is no
    line of names. Every line is checked, whether its word is asked for or not.

    Args:
      path: of the file.
      numbers: of the words that are asked for.

    Raises:
      UserError: the file is no such file; names the line.
    """
    found: dict[int, list[float]] = {}
    seen: set[str] = set()
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for where, word, vector in _parse(path, file):
                if word in seen:
                    raise UserError(
                        f"{where}: the word {word!r} is there a second time; remove one"
                    )
                seen.add(word)
                if word in numbers:
                    found[numbers[word]] = vector
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: line {len(seen) + 1} or soon after: not UTF-8: {error.reason}; "
            "fetch the file anew"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not seen:
        raise UserError(f"{path}: is empty; fetch the file anew")
    if not found:
        raise UserError(
            f"{path}: covers no word of the vocabulary; use vectors of the same "
            "language, and task.lower_case as they have it"
        )
    order = sorted(found)
    return Vectors(
        np.array(order), np.array([found[number] for number in order], np.float32)
    )


def measure_coverage(vectors: Vectors, counts: np.ndarray) -> Coverage:
    """Returns how much of a text has vectors.

    Args:
      vectors: of its words.
      counts: [V] how often each number is read; 0 is not counted among the words.
    """
    return Coverage(
        float(np.sum(counts[vectors.numbers] > 0) / np.sum(counts > 0)),
        float(counts[vectors.numbers].sum() / counts.sum()),
    )


def _parse(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, str, list[float]]]:
    """Yields where a line stands, its word, and its numbers."""
    length = 0
    for number, line in enumerate(lines, 1):
        where = f"{path}: line {number}"
        if not line.endswith("\n"):
            raise UserError(
                f"{where}: the file is cut short: no line feed ends it; fetch it anew"
            )
        word, *fields = line[:-1].split(" ")
        if number == 1 and len(fields) == 1 and word.isdigit() and fields[0].isdigit():
            raise UserError(
                f"{where}: is a header, {line.strip()!r}, which GloVe's files have "
                "not; remove the line"
            )
        length = length or len(fields)
        if len(fields) < length or not fields:
            raise UserError(
                f"{where}: is cut short: {len(fields)} numbers, where "
                f"{length or 'some'} are due; fetch the file anew"
            )
        if len(fields) > length:
            raise UserError(
                f"{where}: is of another dimension: {len(fields)} numbers, where "
                f"{length} are due; remove the line, or fetch the file anew"
            )
        vector = [_to_number(field) for field in fields]
        if not all(map(math.isfinite, vector)):
            wrong = fields[[math.isfinite(value) for value in vector].index(False)]
            raise UserError(
                f"{where}: {wrong!r} is not a number; remove the line, or fetch the "
                "file anew"
            )
        yield where, word, vector


def _to_number(field: str) -> float:
    """Returns a number in plain digits, NaN for what is none."""
    # Python would also read 1_000, and digits of any script.
    if "_" in field or not field.isascii():
        return math.nan
    try:
        return float(field)
    except ValueError:
        return math.nan
