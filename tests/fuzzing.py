"""Mutants of valid files, and a count of what becomes of them.

A reader of files is fed what a disk, a transfer or an editor may make of a valid one:

    def test_nonsense_is_refused(record_property):
        with Tally("config", record_property) as tally:

            @FUZZ
            @given(mutants(VALID))
            def check(mutant: bytes) -> None:
                try:
                    value = read(mutant)
                except UserError:
                    tally.refuse()
                else:
                    assert_harmless(value)
                    tally.accept()

            check()

Any other exception fails the test, and hypothesis shows a small mutant that raises it.
The same mutants are drawn every time, whatever ran before, and nothing is left on disk.
"""

import atexit
import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import Self

import hypothesis.configuration
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

# What hypothesis keeps beside its database is not left in the folder of the tests.
_FOLDER = tempfile.TemporaryDirectory(prefix="hypothesis-")
atexit.register(_FOLDER.cleanup)
hypothesis.configuration.set_hypothesis_home_dir(_FOLDER.name)

# It would also draw constants of the modules that happen to be loaded.
providers._get_local_constants = Constants

FUZZ = settings(
    max_examples=10_000,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
QUICK = settings(FUZZ, max_examples=60)

# The longest stretch of bytes that one edit touches, but for a truncation.
LONGEST = 64
# Where a decoder changes its mind: ends of ranges, white space, quotes, brackets.
TELLING = b"\x00\x01\x7f\x80\xff\n\r\t \"'\\{}[],:=-+.0129eE#"

Draw = Callable[[st.SearchStrategy], int]


def mutants(original: bytes) -> st.SearchStrategy[bytes]:
    """Returns what draws the original with one to four edits, never as it was.

    Args:
      original: a valid file, of one byte at least.
    """
    return _edit(original).filter(lambda mutant: mutant != original)


@st.composite
def _edit(draw: Callable, original: bytes) -> bytes:
    mutant = original
    for _ in range(draw(st.integers(1, 4))):
        edit = draw(st.sampled_from(EDITS))
        mutant = edit(draw, mutant)
    return mutant


def _stretch(draw: Draw, data: bytes) -> tuple[int, int]:
    """Draws begin and end of a stretch, empty only where there are no bytes."""
    begin = draw(st.integers(0, max(0, len(data) - 1)))
    length = draw(st.integers(1, LONGEST))
    return begin, min(begin + length, len(data))


def flip(draw: Draw, data: bytes) -> bytes:
    """Turns over one bit."""
    at = draw(st.integers(0, max(0, len(data) - 1)))
    bit = 1 << draw(st.integers(0, 7))
    return data[:at] + bytes(b ^ bit for b in data[at : at + 1]) + data[at + 1 :]


def overwrite(draw: Draw, data: bytes) -> bytes:
    """Puts a telling byte in place of one."""
    at = draw(st.integers(0, max(0, len(data) - 1)))
    byte = draw(st.sampled_from(TELLING))
    return data[:at] + bytes([byte]) + data[at + 1 :]


def truncate(draw: Draw, data: bytes) -> bytes:
    """Cuts off the end."""
    return data[: draw(st.integers(0, len(data)))]


def insert(draw: Draw, data: bytes) -> bytes:
    """Puts in any bytes."""
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(st.binary(min_size=1, max_size=16)) + data[at:]


def delete(draw: Draw, data: bytes) -> bytes:
    """Takes out a stretch."""
    begin, end = _stretch(draw, data)
    return data[:begin] + data[end:]


def duplicate(draw: Draw, data: bytes) -> bytes:
    """Writes a stretch twice."""
    begin, end = _stretch(draw, data)
    return data[:end] + data[begin:]


def splice(draw: Draw, data: bytes) -> bytes:
    """Writes a stretch over another place."""
    begin, end = _stretch(draw, data)
    at = draw(st.integers(0, len(data)))
    return data[:at] + data[begin:end] + data[at + end - begin :]


def swap(draw: Draw, data: bytes) -> bytes:
    """Lets two neighbouring stretches change places."""
    begin, middle = _stretch(draw, data)
    end = middle + draw(st.integers(1, LONGEST))
    return data[:begin] + data[middle:end] + data[begin:middle] + data[end:]


EDITS = flip, overwrite, truncate, insert, delete, duplicate, splice, swap


class Tally:
    """Counts the mutants that a reader accepted and refused, as a context manager.

    At its end it prints the share that was accepted, and records it as a property of
    the test.

    Attributes:
      name: of what is read.
      accepted: how many mutants were read as if they were valid.
      refused: how many ended in the error that is meant for them.
    """

    def __init__(self, name: str, record_property: Callable[[str, object], None]):
        self.name = name
        self.accepted = self.refused = 0
        self._record = record_property

    def accept(self) -> None:
        """Counts a mutant that was read."""
        self.accepted += 1

    def refuse(self) -> None:
        """Counts a mutant that was refused."""
        self.refused += 1

    @property
    def total(self) -> int:
        """How many were counted."""
        return self.accepted + self.refused

    def __str__(self) -> str:
        """Says how many were accepted, of how many."""
        share = self.accepted / max(1, self.total)
        return f"{self.name}: accepted {self.accepted} of {self.total} ({share:.2%})"

    def __enter__(self) -> Self:
        """Begins to count."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """States the share."""
        print(self)
        self._record(f"{self.name}: accepted", self.accepted)
        self._record(f"{self.name}: refused", self.refused)
