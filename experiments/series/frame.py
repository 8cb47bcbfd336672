"""The columns of a series: read, filled and scaled."""

from typing import Literal, NamedTuple

import numpy as np

from experiments.series.table import (
    Table,
    find_numeric,
    read_numbers,
    read_table,
    read_times,
)
from jaxlstm.lab import UserError
from jaxlstm.lab.errors import suggest

Scale = Literal["standard", "minmax", "none"]
Missing = Literal["error", "mask", "forward"]


class Reading(NamedTuple):
    """How a CSV is read; the keys of the task of the same names.

    Attributes:
      source, columns, target, time_column, delimiter, header, missing: see `Series`.
    """

    source: str
    columns: tuple[str, ...] | None
    target: tuple[str, ...] | None
    time_column: str | None
    delimiter: str | None
    header: bool
    missing: Missing


class Numbers(NamedTuple):
    """The numbers of a CSV, in its units.

    Attributes:
      sha256: of the file.
      columns: names of the X inputs.
      target: names of the J columns that are forecast.
      inputs: [N, X], NaN where there is none.
      targets: [N, J], NaN where there is none.
      times: [N] of the rows.
    """

    sha256: str
    columns: tuple[str, ...]
    target: tuple[str, ...]
    inputs: np.ndarray
    targets: np.ndarray
    times: np.ndarray


class Scaling(NamedTuple):
    """(value - offset) / scale, column by column.

    Attributes:
      offset: [C].
      scale: [C], above 0.
    """

    offset: np.ndarray
    scale: np.ndarray


def read_series(reading: Reading) -> Numbers:
    """Reads the columns that a task names.

    Raises:
      UserError: the file, or what is asked of it, is wrong.
    """
    table = read_table(
        reading.source, delimiter=reading.delimiter, header=reading.header
    )
    time = () if reading.time_column is None else (reading.time_column,)
    named = {
        "columns": reading.columns,
        "target": reading.target,
        "time_column": time,
    }
    for key, names in named.items():
        _check_names(key, names or (), table)
    columns = reading.columns or _find_columns(table, time)
    target = reading.target or columns
    if reading.target is None and len(columns) > 1:
        raise UserError(
            f"[task] target: is missing, and {reading.source} has {len(columns)} "
            f"columns of numbers; name one of {', '.join(columns)}"
        )
    found = {
        name: read_numbers(table, name) for name in dict.fromkeys([*columns, *target])
    }
    if reading.missing == "error":
        for name, values in found.items():
            for row in np.flatnonzero(np.isnan(values))[:1]:
                raise UserError(
                    f"{table.place(row, name)}: is missing; fill it in, or set "
                    'task.missing to "mask" or "forward"'
                )
    inputs = np.stack([found[name] for name in columns], axis=1)
    if reading.missing == "forward":
        empty = np.flatnonzero(np.isnan(inputs[0]))
        if empty.size:
            raise UserError(
                f"{table.place(0, columns[int(empty[0])])}: is missing, with no value "
                'before it; fill it in, or set task.missing to "mask"'
            )
    times = np.arange(len(table.lines), dtype=np.float64)
    if reading.time_column is not None:
        times = read_times(table, reading.time_column)
    targets = np.stack([found[name] for name in target], axis=1)
    return Numbers(table.sha256, columns, target, inputs, targets, times)


def _find_columns(table: Table, time: tuple[str, ...]) -> tuple[str, ...]:
    columns = tuple(name for name in find_numeric(table) if name not in time)
    if not columns:
        raise UserError(
            f"{table.source}: has no column of numbers{' beside the time' * len(time)};"
            " name a CSV that has one, or set task.delimiter if it is another"
        )
    return columns


def _check_names(key: str, names: tuple[str, ...], table: Table) -> None:
    known = [name for name in table.columns if name]
    for name in names:
        if name not in table.columns:
            raise UserError(
                f'[task] {key} = "{name}": {table.source} has no such column; '
                f"{suggest(name, known)}"
            )


def fill_forward(values: np.ndarray) -> np.ndarray:
    """Returns values [N, C] with each NaN replaced by the last number before it."""
    rows = np.where(np.isnan(values), 0, np.arange(len(values))[:, None])
    return np.take_along_axis(values, np.maximum.accumulate(rows), axis=0)


def fit_scaling(values: np.ndarray, names: tuple[str, ...], how: Scale) -> Scaling:
    """Returns the scaling of columns by the values [N, C] of the training part.

    Args:
      values: of the training part alone; NaN where there is none.
      names: of the columns.
      how: "standard": to mean 0 and standard deviation 1; "minmax": to 0 ... 1.

    Raises:
      UserError: a column is empty there, or has one value alone.
    """
    for name, column in zip(names, values.T, strict=True):
        known = column[~np.isnan(column)]
        if not known.size:
            raise UserError(
                f'[task] column "{name}": has no value in the training part; leave it '
                "out, or lower task.validation and task.test"
            )
        if how != "none" and known.min() == known.max():
            raise UserError(
                f'[task] column "{name}": is {known[0]:g} all through the training '
                'part, and cannot be scaled; leave it out, or set task.scaling = "none"'
            )
    if how == "none":
        return Scaling(np.zeros(len(names)), np.ones(len(names)))
    with np.errstate(all="ignore"):
        low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
        scaling = Scaling(low, high - low)
        if how == "standard":
            scaling = Scaling(np.nanmean(values, axis=0), np.nanstd(values, axis=0))
    for name, offset, scale in zip(names, *scaling, strict=True):
        if not (np.isfinite(offset) and 0 < scale < np.inf):
            raise UserError(
                f'[task] column "{name}": has values too large, or too close to each '
                "other, to be scaled; give it in other units"
            )
    return scaling


def scale_inputs(numbers: Numbers, scaling: Scaling, missing: Missing) -> np.ndarray:
    """Returns the inputs [N, X] as a net is given them, NaN where one is missing."""
    # Filled last: so a column has one scaling, be it a target or not.
    inputs = apply_scaling(numbers.inputs, scaling, numbers.columns)
    return fill_forward(inputs) if missing == "forward" else inputs


def apply_scaling(
    values: np.ndarray, scaling: Scaling, names: tuple[str, ...]
) -> np.ndarray:
    """Returns scaled values [N, C] in float32.

    Raises:
      UserError: one is beyond what float32 holds.
    """
    with np.errstate(all="ignore"):
        scaled = ((values - scaling.offset) / scaling.scale).astype(np.float32)
    for column, name in enumerate(names):
        if np.isinf(scaled[:, column]).any():
            largest = np.nanmax(np.abs(values[:, column]))
            raise UserError(
                f'[task] column "{name}": has values that float32 cannot hold, such '
                f"as {largest:g}; give it in larger units"
            )
    return scaled
