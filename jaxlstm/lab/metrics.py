"""Metrics: JSON lines always, TensorBoard if asked for."""

import importlib.util
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
        require_tensorboard()
        import tensorboardX

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


def require_tensorboard() -> None:
    """Raises UserError unless TensorBoard's writer is installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError(
            "logging.tensorboard = true: tensorboardX is not installed; "
            "pip install 'jaxlstm[tensorboard]'"
        )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a metrics file.

    Raises:
      UserError: there is no such file, or a line is none of a metrics file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; is {path.parent} a run directory?")
    lines = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        values = _parse(line)
        if values is None:
            raise UserError(
                f"{path}: line {number} is not a JSON object with update, split and "
                "loss; remove it"
            )
        lines.append(values)
    return lines


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    kinds = {"update": int, "split": str, "loss": (int, float)}
    fits = all(isinstance(values.get(name), kind) for name, kind in kinds.items())
    return values if fits else None


def cut_metrics(path: Path, update: int) -> None:
    """Drops the lines written after an update, those of the end, and one cut short.

    Args:
      path: of the file.
      update: from which the run goes on.
    """
    if not path.is_file():
        return
    along_the_way = "train", "validation"
    kept = []
    for line in path.read_bytes().splitlines():
        values = _parse(line)
        if values is None:
            continue
        if values["update"] <= update and values["split"] in along_the_way:
            kept.append(line + b"\n")
    replacement = path.with_suffix(".new")
    replacement.write_bytes(b"".join(kept))
    os.replace(replacement, path)
