"""What the files of a run directory say, read without its task.

A run can be listed and compared though its task cannot be imported any more, its data
are gone, or its checkpoints.
"""

import json
import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxlstm.lab.errors import UserError
from jaxlstm.lab.fingerprint import flatten
from jaxlstm.lab.metrics import is_finite, read_metrics
from jaxlstm.lab.runs import CONFIG, FACTS, METRICS

Lines = list[dict[str, Any]]


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the values of a run's config by `section.key`.

    Raises:
      UserError: the file is missing or damaged.
    """
    return _read(folder / CONFIG, tomllib.loads, "TOML")


def read_facts(folder: Path) -> dict[str, Any]:
    """Returns what run.json holds, by `group.key`.

    Raises:
      UserError: the file is missing or damaged.
    """
    path = folder / FACTS
    facts = _read(path, json.loads, "JSON")
    if not isinstance(facts.get("status"), str):
        raise UserError(f"{path}: has no status; bring back what it held")
    return facts


def read_lines(folder: Path) -> Lines:
    """Returns the lines of a run's metrics.jsonl; none where it has not come to any.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / METRICS
    return read_metrics(path) if os.path.exists(path) else []


def best_line(lines: Lines) -> dict[str, Any] | None:
    """Returns the first line with the lowest validation loss."""
    measured = [line for line in lines if line["split"] == "validation"]
    return min(measured, key=lambda line: line["loss"], default=None)


def time_spent(facts: Mapping[str, Any], lines: Lines) -> float:
    """Returns the seconds that a run took, or as many as there is a note of.

    What run.json notes at the end of a session misses the sessions that were killed;
    lines of metrics.jsonl miss what a session did after its last one.
    """
    total = last = 0.0
    for line in lines:
        clock = line.get("seconds")
        elapsed = clock.get("elapsed") if isinstance(clock, dict) else None
        if is_finite(elapsed):
            # Each session has a clock of its own.
            total += elapsed - last if elapsed > last else elapsed
            last = elapsed
    noted = facts.get("seconds")
    return max(total, noted) if is_finite(noted) else total


def _read(path: Path, parse: Callable[[str], Any], form: str) -> dict[str, Any]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path}: is not a file; bring back what it was")
        values = parse(path.read_bytes().decode("utf-8-sig"))
        if isinstance(values, dict):
            return flatten(values)
        raise ValueError(values)
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; bring it back") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(
            f"{path}: is not a {form} file; bring back what it held"
        ) from None
