"""Many runs in a table, a line each."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.table import Table

from jaxlstm.lab.errors import UserError, printable
from jaxlstm.lab.lock import is_locked
from jaxlstm.lab.records import (
    best_line,
    read_config,
    read_facts,
    read_lines,
    time_spent,
)
from jaxlstm.lab.runs import CHECKPOINTS, FACTS, METRICS

Sort = Literal["time", "loss"]

MISSING = "-"

# Folders below the one that is listed: runs, or folders of runs.
_DEPTH = 2

# Text that is not for a terminal is as wide as it needs to be.
_WITHOUT_END = 1_000_000


class Row(NamedTuple):
    """A run in a list.

    Attributes:
      name: its path from the folder that is listed.
      status: as in run.json; "running" while a process trains it, and "killed" where
        run.json says so and none does.
      updates: how many were made, as far as the files tell, and of how many.
      best: the line of metrics.jsonl with the lowest validation loss; without any, the
        last of training, or nothing.
      seconds: spent, as far as the files tell.
      written: when it was last written to, in seconds since the epoch.
      fault: what is wrong with its files, in a few words, or nothing.
    """

    name: str
    status: str
    updates: str
    best: Mapping[str, Any]
    seconds: float
    written: float
    fault: str


def list_runs(folder: Path, sort: Sort = "time") -> list[Row]:
    """Returns the runs in a folder and in the folders in it, or the one that it is.

    Links to folders are not followed.

    Args:
      folder: where to look.
      sort: "time", the one last written to at the end; or "loss", the lowest there.

    Raises:
      UserError: there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; name the one that holds the runs, as in "
            "`jaxlstm list DIR`"
        )
    if _is_run(folder):
        rows = [_read_row(folder, str(folder))]
    else:
        paths = _find(folder, _DEPTH)
        rows = [_read_row(path, str(path.relative_to(folder))) for path in paths]
    if not rows:
        raise UserError(
            f"{folder}: holds no run; name another folder, or make a run by "
            f"`jaxlstm run CONFIG --out {folder / 'NAME'}`"
        )
    rows.sort(key=lambda row: (row.written, row.name))
    if sort == "loss":
        rows.sort(key=lambda row: row.best.get("loss", math.inf), reverse=True)
    return rows


def print_runs(console: Console, rows: list[Row]) -> None:
    """Prints a table of runs."""
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("updates", no_wrap=True)
    table.add_column("best validation\nloss", overflow="fold")
    table.add_column("time", no_wrap=True, justify="right")
    table.add_column("written", no_wrap=True)
    for row in rows:
        table.add_row(
            printable(row.name),
            printable(row.status),
            row.updates,
            row.fault or _loss(row.best),
            _duration(row.seconds),
            _date(row.written),
        )
    print_table(console, table)


def print_table(console: Console, table: Table) -> None:
    """Prints a table, folded to the width of a terminal and not at all elsewhere."""
    if not console.is_terminal:
        console = Console(
            file=console.file, width=_WITHOUT_END, markup=False, emoji=False
        )
    console.print(table, highlight=False)


def _find(folder: Path, depth: int) -> Iterator[Path]:
    """Yields the runs below a folder."""
    try:
        with os.scandir(folder) as entries:
            inner = [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False)]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    for path in inner:
        if _is_run(path):
            yield path
        elif depth > 1:
            yield from _find(path, depth - 1)


def _is_run(folder: Path) -> bool:
    return any(os.path.lexists(folder / name) for name in (FACTS, METRICS))


def _read_row(folder: Path, name: str) -> Row:
    faults: list[str] = []

    def attempt(read: Callable[[Path], Any], default: Any) -> Any:
        try:
            return read(folder)
        except UserError as error:
            # The file and what is wrong with it, but not what to do.
            fault = str(error).removeprefix(f"{folder}{os.sep}").partition(";")[0]
            faults.append(fault)
            return default

    facts, config = attempt(read_facts, {}), attempt(read_config, {})
    lines = attempt(read_lines, [])
    status = facts.get("status", "damaged")
    if status != "finished" and is_locked(folder):
        status = "running"
    elif status == "running":
        status = "killed"
    last_train = [line for line in lines if line["split"] == "train"][-1:]
    return Row(
        name,
        status,
        _updates(facts, config, [*_saved(folder), *(x["update"] for x in lines)]),
        best_line(lines) or (last_train or [{}])[0],
        time_spent(facts, lines),
        _written(folder),
        ", ".join(faults),
    )


def _updates(
    facts: Mapping[str, Any], config: Mapping[str, Any], counts: list[int]
) -> str:
    noted = facts.get("updates")
    known = [*counts, noted] if type(noted) is int else counts
    done = f"{max(known, default=0):,}"
    goal = facts.get("num_updates", config.get("train.num_updates"))
    if type(goal) is int and f"{goal:,}" != done:
        return f"{done}/{goal:,}"
    return done


def _saved(folder: Path) -> list[int]:
    """Returns the numbers of the checkpoints."""
    paths = (folder / CHECKPOINTS / "latest").glob("*")
    return [int(path.name) for path in paths if path.name.isdecimal()]


def _loss(line: Mapping[str, Any]) -> str:
    if not line:
        return MISSING
    if line["split"] == "validation":
        return f"{line['loss']:.4g} at {line['update']:,}"
    return f"{line['split']} {line['loss']:.4g}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _date(seconds: float) -> str:
    if not seconds:
        return MISSING
    date, now = time.localtime(seconds), time.localtime()
    this_year = date.tm_year == now.tm_year
    return time.strftime("%m-%d %H:%M" if this_year else "%Y-%m-%d", date)


def _written(folder: Path) -> float:
    """Returns when a run was last written to; 0 where that cannot be told."""
    times = []
    for name in (FACTS, METRICS):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)
