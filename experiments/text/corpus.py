"""From characters, bytes or words of a text to numbers of symbols."""

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from experiments.text.raw import CHUNK, RawText, find_words, keep_letters
from jaxlstm.lab import UserError
from jaxlstm.lab.vocabulary import UNKNOWN, Unit, Vocabulary, code_points

Piece = TypeVar("Piece", str, list[str])


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a text is read.

    Attributes:
      unit: what a symbol is.
      vocabulary_size: the most symbols that are told apart, the unknown one included;
        the most frequent are kept.
      unknown: whether there is an unknown symbol even where none is left over.
      letters_only: whether all becomes lower case, and every run of characters other
        than a to z one space.
      limit: how many symbols are read, at most.
    """

    unit: Unit = "characters"
    vocabulary_size: int | None = None
    unknown: bool = False
    letters_only: bool = False
    limit: int | None = None


class Corpus(NamedTuple):
    """Texts as numbers.

    Attributes:
      vocabulary: of all texts together.
      texts: [n] each, in the smallest integers that hold the symbols; of bytes, the
        bytes as they are.
      table: the number of a symbol [256] by its byte; None where texts hold numbers.
    """

    vocabulary: Vocabulary
    texts: Sequence[np.ndarray]
    table: np.ndarray | None = None


def read_corpus(raw: Sequence[RawText], reading: Reading) -> Corpus:
    """Reads texts, with one vocabulary for all of them.

    Raises:
      UserError: a text is empty or not UTF-8, or there is but one symbol.
    """
    for text in raw:
        if len(text.data) == 0:
            raise UserError(f"{text.where}: is empty; name a file that holds a text")
    read = {"bytes": _read_bytes, "characters": _read_characters, "words": _read_words}
    return read[reading.unit](raw, reading)


def _pieces(raw: RawText, reading: Reading) -> Iterator[str]:
    return keep_letters(raw.decode()) if reading.letters_only else raw.decode()


def _first(pieces: Iterable[Piece], limit: int | None) -> Iterator[Piece]:
    """Yields pieces up to so many symbols in all."""
    if limit is None:
        yield from pieces
        return
    for piece in pieces:
        yield piece[:limit]
        limit -= len(piece)
        if limit <= 0:
            return


def _read_bytes(raw: Sequence[RawText], reading: Reading) -> Corpus:
    texts = [text.data[: reading.limit] for text in raw]
    counts = np.zeros(256, np.int64)
    for text in texts:
        for start in range(0, len(text), CHUNK):
            counts += np.bincount(text[start : start + CHUNK], minlength=256)
    symbols = np.flatnonzero(counts)
    _check(raw, [len(text) for text in texts], symbols.tolist(), reading)
    table = np.zeros(256, np.int32)
    table[symbols] = np.arange(len(symbols))
    return Corpus(Vocabulary("bytes", tuple(symbols.tolist())), texts, table)


def _read_characters(raw: Sequence[RawText], reading: Reading) -> Corpus:
    # Read twice, to count and to number, so that no text is ever held as characters.
    counts, sizes = np.zeros(0x110000, np.int64), []
    for text in raw:
        before = counts.sum()
        for piece in _first(_pieces(text, reading), reading.limit):
            found = np.bincount(code_points(piece))
            counts[: len(found)] += found
        sizes.append(counts.sum() - before)
    codes = np.flatnonzero(counts)
    frequencies = {chr(code): int(counts[code]) for code in codes}
    _check(raw, sizes, list(frequencies), reading)
    kept, unknown = _choose(frequencies, reading)
    vocabulary = _vocabulary("characters", sorted(kept), unknown)
    texts = []
    for text, size in zip(raw, sizes, strict=True):
        symbols, done = np.empty(size, _smallest_type(len(vocabulary))), 0
        for piece in _first(_pieces(text, reading), reading.limit):
            symbols[done : done + len(piece)] = vocabulary.encode(piece)
            done += len(piece)
        texts.append(symbols)
    return Corpus(vocabulary, texts)


def _read_words(raw: Sequence[RawText], reading: Reading) -> Corpus:
    # Numbered as they come; the order of their frequency is known at the end.
    numbers: collections.defaultdict[str, int] = collections.defaultdict()
    numbers.default_factory = numbers.__len__
    read = []
    for text in raw:
        words = _first(find_words(_pieces(text, reading)), reading.limit)
        number = numbers.__getitem__
        read.append([np.fromiter(map(number, piece), np.int32) for piece in words])
    sizes = [sum(map(len, pieces)) for pieces in read]
    _check(raw, sizes, list(numbers), reading)
    counts = np.zeros(len(numbers), np.int64)
    for pieces in read:
        for piece in pieces:
            counts += np.bincount(piece, minlength=len(counts))
    frequencies = dict(zip(numbers, counts.tolist(), strict=True))
    kept, unknown = _choose(frequencies, reading)
    vocabulary = _vocabulary("words", kept, unknown)
    final = np.full(len(numbers), vocabulary.unknown or 0)
    order = {word: number for number, word in enumerate(vocabulary.symbols)}
    for word, number in numbers.items():
        final[number] = order.get(word, vocabulary.unknown)
    final = final.astype(_smallest_type(len(vocabulary)))
    texts = [
        np.concatenate([final[:0], *(final[p] for p in pieces)]) for pieces in read
    ]
    return Corpus(vocabulary, texts)


def _check(
    raw: Sequence[RawText],
    sizes: Sequence[int],
    symbols: Sequence[str | int],
    reading: Reading,
) -> None:
    """Refuses a text without symbols, and texts of one symbol."""
    for text, size in zip(raw, sizes, strict=True):
        if size == 0:
            raise UserError(f"{text.where}: holds no {reading.unit}; use another text")
    if len(symbols) == 1:
        cut = reading.limit in sizes
        raise UserError(
            f"{raw[0].where}: holds one symbol only, {symbols[0]!r}: nothing is left "
            f"to predict; {'raise task.limit' if cut else 'use another text'}"
        )


def _choose(frequencies: Mapping[str, int], reading: Reading) -> tuple[list[str], bool]:
    """Returns symbols by falling frequency, and whether there is an unknown one."""
    # A text may have been prepared with words that it calls unknown.
    unknown = reading.unknown or UNKNOWN in frequencies
    ranked = sorted(frequencies.keys() - {UNKNOWN}, key=lambda s: (-frequencies[s], s))
    size = reading.vocabulary_size
    if size is not None and len(ranked) + unknown > size:
        return ranked[: size - 1], True
    return ranked, unknown


def _vocabulary(unit: Unit, symbols: Sequence[str], unknown: bool) -> Vocabulary:
    if unknown:
        return Vocabulary(unit, (UNKNOWN, *symbols), 0)
    return Vocabulary(unit, tuple(symbols))


def _smallest_type(size: int) -> type[np.integer]:
    return next(
        (t for t in (np.uint8, np.uint16) if size <= np.iinfo(t).max + 1), np.int32
    )
