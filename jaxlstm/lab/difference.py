"""How two runs differ: in their configs, in what they were made with, in figures."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from jaxlstm.lab.errors import UserError, printable
from jaxlstm.lab.listing import MISSING, print_table
from jaxlstm.lab.metrics import figures, is_finite
from jaxlstm.lab.records import (
    Lines,
    best_line,
    read_config,
    read_facts,
    read_lines,
    time_spent,
)
from jaxlstm.lab.runs import Run

# What run.json holds of what a run was made with. Its settings are those of the config.
_GROUPS = "versions", "flags", "devices", "data"


class Difference(NamedTuple):
    """A key and its values in two runs; None where one has none."""

    key: str
    first: Any
    second: Any


class Comparison(NamedTuple):
    """How two runs differ.

    Attributes:
      config: the keys of config.toml that differ.
      surroundings: what differs of versions, flags, devices and data.
      figures: all final figures, whether they differ or not.
      seconds: the time that each took.
      parting: the update of the first line of metrics.jsonl that differs in more than
        the clock; None where none does.
    """

    config: list[Difference]
    surroundings: list[Difference]
    figures: list[Difference]
    seconds: Difference
    parting: int | None


def compare_runs(first: Path, second: Path) -> Comparison:
    """Compares two run directories.

    Raises:
      UserError: one is not a run directory, or is damaged.
    """
    sides, faults = [], []
    for folder in (first, second):
        try:
            path = Run(folder).path
            sides.append((read_config(path), read_facts(path), read_lines(path)))
        except UserError as error:
            faults.extend(error.lines)
    if faults:
        raise UserError(*dict.fromkeys(faults))
    configs, facts, lines = zip(*sides, strict=True)
    return Comparison(
        _differing(*configs),
        _differing(*map(_surroundings, facts)),
        _pair(*map(_figures, lines)),
        Difference("seconds", *map(time_spent, facts, lines)),
        _parting(*lines),
    )


def print_comparison(
    console: Console, first: Path, second: Path, comparison: Comparison
) -> None:
    """Prints how two runs differ, side by side."""
    table = Table(box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    for folder in (first, second):
        table.add_column(printable(str(folder)), overflow="fold")
    table.add_column("difference", no_wrap=True)
    for title, differences in [
        ("config", comparison.config),
        ("made with", comparison.surroundings),
    ]:
        table.add_row(title, *([] if differences else ["no difference"]))
        for key, *values in differences:
            table.add_row(f"  {printable(key)}", *map(_shown, values))
    table.add_row("figures")
    for key, *values in [*comparison.figures, comparison.seconds]:
        cells = [*map(_number, values), _gap(*values)]
        table.add_row(f"  {printable(key)}", *cells)
    print_table(console, table)
    if comparison.parting is not None:
        text = f"metrics.jsonl differs from update {comparison.parting:,} on"
    elif comparison.config or comparison.surroundings:
        text = "metrics.jsonl does not differ, but in seconds"
    else:
        text = "nothing differs but time"
    console.print(text, highlight=False, soft_wrap=True)


def _pair(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    keys = dict.fromkeys([*first, *second])
    return [Difference(key, first.get(key), second.get(key)) for key in keys]


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    # Compared as they are shown: 1, 1.0 and true are equal in Python.
    pairs = _pair(first, second)
    return [pair for pair in pairs if _shown(pair.first) != _shown(pair.second)]


def _surroundings(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a run was made with, be it in a section `fingerprint` or not."""
    bare = {key.removeprefix("fingerprint."): value for key, value in facts.items()}
    return {k: value for k, value in bare.items() if k.partition(".")[0] in _GROUPS}


def _figures(lines: Lines) -> dict[str, Any]:
    """Returns the final figures: of the best validation, else the last of a split."""
    finals = {line["split"]: line for line in lines}
    found = {"updates": max((line["update"] for line in lines), default=0)}
    best = best_line(lines)
    if best is not None:
        finals["validation"] = best
        found["best at update"] = best["update"]
    for split, line in finals.items():
        name = "last train" if split == "train" else split
        for measure, value in figures(line).items():
            if value is None or is_finite(value):
                # JSON has no numbers that are not finite.
                found[f"{name} {measure}"] = math.nan if value is None else value
    return found


def _parting(first: Lines, second: Lines) -> int | None:
    bare = [[{**line, "seconds": None} for line in lines] for lines in (first, second)]
    same = 0
    for line, other in zip(*bare, strict=False):
        if line != other:
            break
        same += 1
    rest = [lines[same]["update"] for lines in (first, second) if len(lines) > same]
    return min(rest, default=None)


def _shown(value: Any) -> str:
    if value is None:
        return MISSING
    return printable(json.dumps(value, ensure_ascii=False, default=str))


def _number(value: float | None) -> str:
    if value is None:
        return MISSING
    if math.isnan(value):
        return "not finite"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _gap(first: float | None, second: float | None) -> str:
    if first is None or second is None:
        return MISSING
    gap = second - first
    if math.isnan(gap):
        return MISSING
    if gap == 0:
        return "0"
    return f"{gap:+,}" if isinstance(gap, int) else f"{gap:+.3g}"
