"""A CSV file, read strictly: what is wrong in it is told with its line."""

import csv
import hashlib
import io
import itertools
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.files import decode
from experiments.series.synthetic import make_csv
from jaxlstm.lab import UserError

SYNTHETIC = "synthetic"
# The first that fits as well as any is taken: a comma may be that of decimals.
DELIMITERS = "\t;|,"
SNIFFED_ROWS = 20
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})
# A cell's characters that are shown.
SHOWN = 40

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_COMMAS = re.compile(r"[+-]?\d+(,\d+)+(\.\d+)?", re.ASCII)


class Table(NamedTuple):
    """The cells of a CSV file.

    Attributes:
      source: its name in errors.
      sha256: of the file.
      lines: [rows] at which line of the file each row ends.
      columns: by name, the cells [rows] of each column.
      header: whether the names are those of the file.
    """

    source: str
    sha256: str
    lines: list[int]
    columns: dict[str, list[str]]
    header: bool

    def place(self, row: int, name: str) -> str:
        """Returns where a cell stands, for errors."""
        return f'{self.source}: line {self.lines[row]}, column "{name}"'


def read_table(source: str, *, delimiter: str | None, header: bool) -> Table:
    """Reads a CSV file in UTF-8, with or without a byte order mark.

    Args:
      source: its path, or "synthetic".
      delimiter: one character; None to find it out.
      header: whether the first row names the columns. They are else "0", "1", ...

    Raises:
      UserError: it cannot be read, or its rows are not of one length.
    """
    data = make_csv() if source == SYNTHETIC else _read(source)
    text = decode(data, source)
    delimiter = delimiter or _find_delimiter(text)
    rows = _parse(source, text, delimiter)
    first = next(rows, None)
    if first is None:
        raise UserError(f"{source}: is empty; name a CSV with a line for each step")
    names = _name_columns(source, first[1]) if header else None
    if names is None:
        names = [str(n) for n in range(len(first[1]))]
        rows = itertools.chain([first], rows)
    lines, cells = [], []
    for line, row in rows:
        if len(row) != len(names):
            raise UserError(
                f"{source}: line {line} has {len(row)} fields by the delimiter "
                f"{delimiter!r}, and line {first[0]} has {len(names)}; mend it, put "
                "what holds the delimiter in quotes, or set task.delimiter"
            )
        lines.append(line)
        cells.append([cell.strip() for cell in row])
    columns = zip(names, zip(*cells, strict=True), strict=True) if cells else ()
    by_name = {name: list(column) for name, column in columns}
    if not by_name:
        raise UserError(f"{source}: has a header and no rows; add a line for each step")
    return Table(source, hashlib.sha256(data).hexdigest(), lines, by_name, header)


def read_numbers(table: Table, name: str) -> np.ndarray:
    """Returns the numbers [rows] of a column, NaN where there is none.

    Raises:
      UserError: a cell is neither a number nor empty.
    """
    values = [_to_number(cell) for cell in table.columns[name]]
    for row, (value, cell) in enumerate(zip(values, table.columns[name], strict=True)):
        if value is None:
            raise UserError(f"{table.place(row, name)}: {_refuse(table, row, cell)}")
    return np.array(values, np.float64)


def find_numeric(table: Table) -> list[str]:
    """Returns the names of the columns most of whose values are numbers.

    A column without a name, such as that of row numbers, is not among them; one of
    numbers with commas is, and is refused when it is read.
    """
    found = []
    for name, cells in table.columns.items():
        values = [cell for cell in cells if not _is_missing(cell)]
        count = sum(
            _to_number(x) is not None or _COMMAS.fullmatch(x) is not None
            for x in values
        )
        if name and 2 * count > len(values):
            found.append(name)
    return found


def read_times(table: Table, name: str) -> np.ndarray:
    """Returns the times [rows] of a column: float64, or datetime64 in UTC.

    Raises:
      UserError: a cell is no time, or not later than the one before.
    """
    times = []
    for row, cell in enumerate(table.columns[name]):
        time = _to_time(cell)
        if time is None:
            raise UserError(
                f"{table.place(row, name)}: {_quote(cell)} is no time; write numbers, "
                "or dates as 2024-01-31 or 2024-01-31 13:00, or leave out "
                "task.time_column"
            )
        if times and type(time) is not type(times[-1]):
            raise UserError(
                f"{table.place(row, name)}: {_quote(cell)} and the time before are not "
                "both numbers or both dates; write all of them alike"
            )
        if times and time <= times[-1]:
            raise UserError(
                f"{table.place(row, name)}: {_quote(cell)} does not come after "
                f"{_quote(table.columns[name][row - 1])} of line "
                f"{table.lines[row - 1]}; sort the lines by time, and leave one for "
                "each time"
            )
        times.append(time)
    return np.array(times)


def _read(source: str) -> bytes:
    path = Path(source)
    if path.is_dir():
        raise UserError(f"{source}: is a folder; name a CSV file in it")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{source}: no such file; set task.source to the path of a CSV, or to "
            f'"{SYNTHETIC}"'
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{source}: cannot be read: {reason}") from None


def _parse(source: str, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yields each row that is not blank, and the line at which it ends."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            # A quoted nothing is a cell, and a line of blanks is not.
            if len(row) > 1 or (row and not row[0].isspace()):
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(
            f"{source}: line {reader.line_num}: {error}; mend its quotes"
        ) from None


def _find_delimiter(text: str) -> str:
    """Returns the delimiter by which the first rows are most often of one length."""

    def share(delimiter: str) -> float:
        rows = _parse("", text, delimiter)
        try:
            lengths = [len(row) for _, row in itertools.islice(rows, SNIFFED_ROWS)]
        except UserError:
            return 0
        if not lengths or lengths[0] == 1:
            return 0
        return lengths.count(lengths[0]) / len(lengths)

    found = max(DELIMITERS, key=share)
    return found if share(found) else ","


def _name_columns(source: str, first: list[str]) -> list[str]:
    names = [cell.strip() for cell in first]
    if all(_to_number(name) is not None for name in names):
        raise UserError(
            f"{source}: its first line holds numbers, and no names of columns; set "
            "task.header = false, or name the columns"
        )
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"{source}: has {names.count(name)} columns named {_quote(name)}; give "
                "each a name of its own"
            )
    return names


def _is_missing(cell: str) -> bool:
    return cell.lower() in MISSING


def _to_number(cell: str) -> float | None:
    """Returns a number, NaN for a cell that is empty, or None for what is neither."""
    if _NUMBER.fullmatch(cell):
        value = float(cell)
        return value if math.isfinite(value) else None
    return math.nan if _is_missing(cell) else None


def _refuse(table: Table, row: int, cell: str) -> str:
    """Returns what is wrong with a cell that is not a number."""
    if _COMMAS.fullmatch(cell):
        return (
            f"{_quote(cell)} has a comma; write decimals with a point, and thousands "
            "with nothing between"
        )
    if row == 0 and not table.header:
        return f"{_quote(cell)} is not a number; if it is a name, set task.header"
    return (
        f"{_quote(cell)} is not a finite number; mend it, empty it, or leave the "
        "column out of task.columns"
    )


def _to_time(cell: str) -> float | np.datetime64 | None:
    number = _to_number(cell)
    if number is not None:
        return None if math.isnan(number) else number
    # A month, which ISO 8601 knows and `fromisoformat` does not.
    if re.fullmatch(r"\d{4}-\d{2}", cell, re.ASCII):
        cell = f"{cell}-01"
    try:
        time = datetime.fromisoformat(cell)
        if time.tzinfo is not None:
            time = time.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None
    return np.datetime64(time, "us")


def _quote(cell: str) -> str:
    return f'"{cell}"' if len(cell) <= SHOWN else f'"{cell[:SHOWN]}..."'
