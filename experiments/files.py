"""Files and fractions that a config gives: what is wrong with them, and shares."""

import math
from fractions import Fraction
from pathlib import Path

from jaxlstm.lab import UserError


def make_absolute(path: str) -> str:
    """Returns a path that is found from any folder, so that a run finds it again.

    Raises:
      ValueError: it is empty, or names the folder of a user that there is none of.
    """
    if not path:
        raise ValueError("is empty; name a file or folder, or leave it out")
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError:
        raise ValueError(
            f"{path}: there is no such user, whose folder `~` could name; write the "
            "whole path"
        ) from None


def check_fractions(validation: float, test: float) -> None:
    """Raises ValueError if what is held out leaves nothing to train on."""
    if validation + test >= 1:
        raise ValueError(
            f"validation = {validation} and test = {test} leave nothing to train on; "
            "lower them"
        )


def divide(count: int, validation: float, test: float) -> tuple[int, int, int]:
    """Returns how many of `count` things train, validate and test, in this order."""
    # As written: in binary, 1 - .05 - .05 is less than .9.
    held_out, last = (
        Fraction(str(validation)) + Fraction(str(test)),
        Fraction(str(test)),
    )
    first, second = math.floor(count * (1 - held_out)), math.floor(count * (1 - last))
    return first, second - first, count - second


def shorten(text: str, size: int = 60) -> str:
    """Returns the beginning of a text that is too long to be quoted."""
    return text if len(text) <= size else f"{text[:size]} ..."


def decode(data: bytes, where: str) -> str:
    """Returns the text of a file in UTF-8, without the mark at its beginning.

    Args:
      data: what the file holds.
      where: names the file.

    Raises:
      UserError: it is not UTF-8; says in which line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{where}: line {line}: not UTF-8 (0x{data[error.start]:02X}); save it as "
            "UTF-8"
        ) from None
