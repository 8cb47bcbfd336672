"""Metrics: JSON lines always, TensorBoard if asked for."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from jaxlstm.lab.errors import UserError


class Writer(Protocol):
    """Takes metrics as they come."""

    def write(self, update: int, split: str, values: Mapping[str, Any]) -> None:
        """Takes the metrics of one split after an update."""
        ...

    def close(self) -> None:
        """Writes what is left."""
        ...


class JsonLines:
    """Appends a line for each call to a file, and flushes it."""

    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8")

    def write(self, update: int, split: str, values: Mapping[str, Any]) -> None:
        """Writes `{"update": ..., "split": ..., **values}`."""
        line = {"update": update, "split": split, **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoard:
    """Writes scalars `split/name` for TensorBoard."""

    def __init__(self, folder: Path, first_update: int):
        try:
            import tensorboardX
        except ImportError:
            raise UserError(
                "logging.tensorboard = true: tensorboardX is not installed; "
                "pip install 'jaxlstm[tensorboard]'"
            ) from None
        self._writer = tensorboardX.SummaryWriter(
            str(folder), purge_step=first_update + 1
        )

    def write(self, update: int, split: str, values: Mapping[str, Any]) -> None:
        """Writes all but what depends on the clock."""
        for name, value in values.items():
            if name != "seconds":
                self._writer.add_scalar(f"{split}/{name}", value, update)

    def close(self) -> None:
        """Closes the files."""
        self._writer.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a metrics file.

    Raises:
      UserError: there is no such file, or a line is not JSON.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; is {path.parent} a run directory?")
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            raise UserError(f"{path}: line {number} is not JSON; remove it") from None
    return lines


def cut_metrics(path: Path, update: int) -> None:
    """Drops the lines written after an update, and a last one cut short."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["update"] > update:
                continue
        except json.JSONDecodeError:
            continue
        kept.append(line + "\n")
    replacement = path.with_suffix(".new")
    replacement.write_text("".join(kept), encoding="utf-8")
    os.replace(replacement, path)
