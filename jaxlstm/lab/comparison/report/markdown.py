"""Markdown that reads well before it is rendered: tables, figures, labels."""

import math
import re
import unicodedata
from collections.abc import Sequence

from jaxlstm.lab.errors import printable

NOT_AVAILABLE = "n/a"


def show(value: float | None) -> str:
    """Returns three significant digits of a figure, or n/a where there is none."""
    if value is None or not math.isfinite(value):
        return NOT_AVAILABLE
    if value == 0:
        return "0"
    rounded = float(f"{value:.2e}")
    if 1000 <= abs(rounded) < 1e7:
        return f"{rounded:,.0f}"
    # An exponent is left to what is very large or very small.
    return f"{value:#.3g}".rstrip(".").replace(".e", "e")


def show_count(value: int | None) -> str:
    """Returns a whole number, all of its digits."""
    return NOT_AVAILABLE if value is None else f"{value:,}"


def show_number(number: int, noun: str) -> str:
    """Returns a number of things: "1 seed", "2 seeds"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def code(text: str) -> str:
    """Returns a text as it stands, whatever it holds, between backticks."""
    text = printable(text)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{fence}{space}{text}{space}{fence}"


def plain(text: str) -> str:
    """Returns a text on one line whose characters mean nothing to Markdown."""
    text = re.sub(r"([\\`*\[\]<>$])", r"\\\1", printable(text))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\_", text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table, its columns aligned, and an empty line.

    The first column stands to the left, as do those of words; figures stand to the
    right.
    """
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (header, *rows)]
    columns = list(zip(*cells, strict=True))
    right = [n > 0 and _is_of_figures(column[1:]) for n, column in enumerate(columns)]
    widths = [max(3, *map(_width, column)) for column in columns]
    rule = [
        "-" * (width - 1) + (":" if figures else "-")
        for width, figures in zip(widths, right, strict=True)
    ]
    return [_line(row, widths, right) for row in (cells[0], rule, *cells[1:])] + [""]


def join(words: Sequence[str]) -> str:
    """Returns "a", "a and b" or "a, b and c"."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = [
        " " * (width - _width(cell)) + cell
        if figures
        else cell + " " * (width - _width(cell))
        for cell, width, figures in zip(row, widths, right, strict=True)
    ]
    return f"| {' | '.join(padded)} |"


def _is_of_figures(column: Sequence[str]) -> bool:
    figure = re.compile(r"n/a|[<>-]? ?\d|$")
    return any(column) and all(map(figure.match, column))


def _width(text: str) -> int:
    """Returns how many columns of a terminal a text takes."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    combining = sum(unicodedata.combining(c) > 0 for c in text)
    return len(text) + wide - combining
