"""Metrics: JSON lines always, TensorBoard if asked for."""

import hashlib
import importlib.util
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeGuard

from jaxlstm.lab.data import hash_file
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.files import cannot_write, write_text

# The split of lines that compare gradients.
SHADOW = "shadow"

# What a line holds beside the measures of the model.
_BESIDE = "update", "split", "gradient_norm", "skipped", "seconds"


class Writer(Protocol):
    """Takes metrics as they come."""

    def write(self, update: int, split: str, values: Mapping[str, Any]) -> None:
        """Takes the metrics of one split after an update."""
        ...

    def sync(self) -> None:
        """Waits until all that was written is on disk."""
        ...

    def close(self) -> None:
        """Writes what is left."""
        ...


class JsonLines:
    """Appends a line for each call to a file, and flushes it.

    A number that is not finite is written as null, for JSON has none.
    """

    def __init__(self, path: Path):
        self._path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise cannot_write(path, error) from None

    def write(self, update: int, split: str, values: Mapping[str, Any]) -> None:
        """Writes `{"update": ..., "split": ..., **values}`.

        Raises:
          UserError: the system does not take it, as when the disk is full.
        """
        line = {"update": update, "split": split, **values}
        line = {name: _or_null(value) for name, value in line.items()}
        try:
            data = json.dumps(line, allow_nan=False).encode() + b"\n"
            if self._file.write(data) != len(data):
                raise OSError(None, "no space is left for all of a line")
        except OSError as error:
            raise cannot_write(self._path, error) from None

    def sync(self) -> None:
        """Waits until all of it is on disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from None

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _or_null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class TensorBoard:
    """Writes scalars `split/name` for TensorBoard."""

    def __init__(self, folder: Path, first_update: int):
        require_tensorboard()
        import tensorboardX

        self._writer = tensorboardX.SummaryWriter(
            str(folder), purge_step=first_update + 1
        )

    def write(self, update: int, split: str, values: Mapping[str, Any]) -> None:
        """Writes all numbers but those that depend on the clock."""
        for name, value in values.items():
            if not isinstance(value, dict | None):
                self._writer.add_scalar(f"{split}/{name}", value, update)

    def sync(self) -> None:
        """Hands on what is left to write; a picture of it may be lost, no figure."""
        self._writer.flush()

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
    """Returns the lines of a metrics file; a last one that was cut short is left out.

    Raises:
      UserError: there is no such file, or a line is none of a metrics file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; is {path.parent} a run directory?")
    return [values for _, values in _read(path)]


def _read(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yields the whole lines of a file, and what they hold."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        values = _parse(line)
        if values is None:
            raise UserError(
                f"{path}: line {number} is not a JSON object with update, split and "
                "loss; remove it"
            )
        yield line + b"\n", values


def figures(line: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a line of metrics measures of the model."""
    return {name: value for name, value in line.items() if name not in _BESIDE}


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        values = _DECODER.decode(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    update, split = values.get("update"), values.get("split")
    fits = (
        type(update) is int
        and 0 <= update < 2**63
        and isinstance(split, str)
        and split.isprintable()
        and is_finite(values.get("loss"))
    )
    return values if fits else None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _to_float(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse(digits)


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_to_float)


def is_finite(value: Any) -> TypeGuard[float]:
    """Returns whether a value is a number that can be reckoned with."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def measure(path: Path) -> dict[str, Any]:
    """Returns how long a file is, and its hash."""
    return {"bytes": path.stat().st_size, "sha256": hash_file(path)}


def starts_with(path: Path, written: dict[str, Any]) -> bool:
    """Returns whether a file begins with what was measured by `measure`."""
    data = path.read_bytes() if path.is_file() else b""
    begin = data[: written["bytes"]]
    return hashlib.sha256(begin).hexdigest() == written["sha256"]


def cut_metrics(path: Path, update: int, written: int | None = None) -> None:
    """Drops the lines written after a checkpoint, those of the end, and one cut short.

    Args:
      path: of the file.
      update: from which the run goes on.
      written: bytes of the file when the checkpoint was saved, if that is known: what
        came after may be of the same update.

    Raises:
      UserError: a line is damaged, and not merely cut short at the end.
    """
    if not path.is_file():
        return
    along_the_way, kept, size = ("train", "validation", SHADOW), [], 0
    for line, values in _read(path):
        size += len(line)
        if written is not None and size > written:
            break
        if values["update"] <= update and values["split"] in along_the_way:
            kept.append(line)
    write_text(path, b"".join(kept).decode())
