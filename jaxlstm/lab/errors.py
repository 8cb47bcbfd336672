"""Errors that are the user's to mend."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What is wrong, where, and what to do: one line for each thing that is wrong.

    The command line prints the lines without a traceback and exits with code 2.
    """

    def __init__(self, *lines: str):
        self.lines = tuple(map(printable, lines))
        super().__init__("\n".join(self.lines))


def printable(text: str) -> str:
    """Returns a text on one line: what moves a cursor, or is no text, is escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def suggest(word: str, choices: Iterable[str]) -> str:
    """Returns "did you mean ...?" if a choice is close, else a list of all."""
    choices = list(choices)
    close = difflib.get_close_matches(word, choices, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"use one of {', '.join(choices)}" if choices else "there are none"
