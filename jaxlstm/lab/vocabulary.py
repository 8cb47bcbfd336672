"""Vocabularies: symbols of a text and their numbers."""

import codecs
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic

from jaxlstm.lab.errors import UserError

Unit = Literal["characters", "bytes", "words"]

UNKNOWN = "<unk>"
END_OF_LINE = "<eos>"

# How many symbols that are missing an error names.
_NAMED = 3


@dataclass(frozen=True)
class Vocabulary:
    """The symbols that a text is made of; a symbol's place is its number.

    Attributes:
      unit: what a symbol is. Words are what white space separates, and a line feed is
        the word "<eos>".
      symbols: characters or words; of bytes, their values.
      unknown: the number of the symbol "<unk>", which stands for whatever is not in
        the vocabulary; None where that is refused.
    """

    unit: Unit
    symbols: tuple[str, ...] | tuple[int, ...]
    unknown: int | None = None

    def __post_init__(self) -> None:
        """Refuses symbols that are not of the unit, or not told apart."""
        if not self.symbols:
            raise ValueError("there is no symbol")
        if len(set(self.symbols)) < len(self.symbols):
            raise ValueError("a symbol stands in it twice")
        unknown = None
        for number, symbol in enumerate(self.symbols):
            if self.unit != "bytes" and symbol == UNKNOWN:
                unknown = number
            elif not _is_of(self.unit, symbol):
                raise ValueError(f"{symbol!r} is none of the {self.unit}")
        if self.unknown != unknown:
            raise ValueError(
                f"unknown is {self.unknown}, where {UNKNOWN!r} stands at {unknown}"
            )

    def __len__(self) -> int:
        """Returns how many symbols there are."""
        return len(self.symbols)

    def encode(self, text: str) -> np.ndarray:
        """Returns the numbers [n] of a text's symbols, int32.

        Raises:
          UserError: a symbol is not in the vocabulary, and none stands for it.
        """
        if self.unit == "words":
            words = split_words(text)
            number = self._numbers.get
            ids = np.fromiter((number(word, -1) for word in words), np.int32)
        else:
            codes = code_points(text) if self.unit == "characters" else _bytes(text)
            # The table's last entry is that of every code beyond it.
            ids = self._table[np.minimum(codes, len(self._table) - 1)]
        missing = ids < 0
        if missing.any():
            if self.unknown is None:
                raise UserError(self._complaint(text, np.flatnonzero(missing)))
            ids[missing] = self.unknown
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text of symbols [n]; bytes that are not UTF-8 become U+FFFD."""
        if self.unit == "bytes":
            return self._join(ids).decode(errors="replace")
        return self.decoder()(ids)

    def decoder(self) -> Callable[[Sequence[int] | np.ndarray], str]:
        """Returns a decoder of a stream: a piece of symbols in, a piece of text out.

        It remembers what the piece before ended in: the first bytes of a character,
        or a word, after which a blank has to come.
        """
        if self.unit == "bytes":
            decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
            return lambda ids: decoder.decode(self._join(ids))
        symbols = [str(symbol) for symbol in self.symbols]
        if self.unit == "characters":
            return lambda ids: "".join([symbols[n] for n in ids])
        line_begins = True

        def decode(ids: Sequence[int] | np.ndarray) -> str:
            nonlocal line_begins
            pieces: list[str] = []
            for word in (symbols[n] for n in ids):
                if word == END_OF_LINE:
                    pieces.append("\n")
                else:
                    pieces.append(word if line_begins else f" {word}")
                line_begins = word == END_OF_LINE
            return "".join(pieces)

        return decode

    def save(self, path: Path) -> None:
        """Writes a JSON file."""
        values = {"unit": self.unit, "unknown": self.unknown, "symbols": self.symbols}
        path.write_text(json.dumps(values, indent=0) + "\n", encoding="ascii")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Reads what `save` wrote.

        Raises:
          UserError: the file is missing or damaged.
        """
        try:
            return pydantic.TypeAdapter(cls).validate_json(
                path.read_bytes(), strict=True
            )
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; a run on text has one") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            place = first["loc"][:1]
            message = " ".join(first["msg"].removeprefix("Value error, ").split())
            raise UserError(
                f"{path}: damaged: {': '.join(map(str, [*place, message]))}; put back "
                "the file that the run was made with"
            ) from None

    @functools.cached_property
    def _numbers(self) -> dict[Any, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols)}

    @functools.cached_property
    def _table(self) -> np.ndarray:
        """Numbers by code point or byte; -1 where there is none, as for the last."""
        codes: dict[int, int] = {
            symbol if isinstance(symbol, int) else ord(symbol): number
            for number, symbol in enumerate(self.symbols)
            if number != self.unknown
        }
        table = np.full(max(codes, default=0) + 2, -1, np.int32)
        table[list(codes)] = list(codes.values())
        return table

    def _join(self, ids: Sequence[int] | np.ndarray) -> bytes:
        return bytes(np.array(self.symbols, np.uint8)[np.asarray(ids, np.int64)])

    def _complaint(self, text: str, places: np.ndarray) -> str:
        """Returns what is said of missing symbols, of which the first are named."""
        if self.unit == "words":
            parts, show = split_words(text), repr
        elif self.unit == "bytes":
            parts, show = _bytes(text), lambda value: f"0x{value:02X}"
        else:
            parts, show = text, lambda sign: f"{sign!r} (U+{ord(sign):04X})"
        first: dict[Any, int] = {}
        for place in places.tolist():
            first.setdefault(parts[place], place)
        named = [
            f"{show(part)} at position {place}"
            for part, place in list(first.items())[:_NAMED]
        ]
        more = len(first) - len(named)
        if more:
            named.append(f"{more} more")
        *others, last = named
        listed = f"{', '.join(others)} and {last}" if others else last
        return (
            f"{listed}: not among the {len(self)} {self.unit} of the vocabulary; leave "
            f"{'it' if len(first) == 1 else 'them'} out"
        )


def split_words(text: str) -> list[str]:
    """Returns what white space separates; a line feed is the word "<eos>"."""
    return text.replace("\n", f" {END_OF_LINE} ").split()


def code_points(text: str) -> np.ndarray:
    """Returns the code points [n] of a text, uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _bytes(text: str) -> np.ndarray:
    """Returns the bytes [n] of a text, as code points are."""
    # Bytes of a command line that are not UTF-8 stand in a string as surrogates.
    data = np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
    return data.astype(np.uint32)


def _is_of(unit: Unit, symbol: str | int) -> bool:
    if unit == "bytes":
        return isinstance(symbol, int) and 0 <= symbol < 256
    if not isinstance(symbol, str):
        return False
    return len(symbol) == 1 if unit == "characters" else symbol.split() == [symbol]
