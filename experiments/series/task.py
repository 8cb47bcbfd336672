"""Forecasting the next steps of a series: the task."""

import functools
from collections.abc import Sequence
from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from pydantic import (
    AfterValidator,
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

from experiments.files import check_fractions, divide, make_absolute
from experiments.series.figures import draw_forecasts
from experiments.series.forecasts import SCALED
from experiments.series.frame import (
    Missing,
    Numbers,
    Reading,
    Scale,
    Scaling,
    apply_scaling,
    fit_scaling,
    read_series,
    scale_inputs,
)
from experiments.series.metrics import Names, derive, measure, squared_error
from experiments.series.synthetic import NOISE
from experiments.series.table import SYNTHETIC
from experiments.series.windows import LAST_SEASON, LAST_VALUE, SPLITS, Windows
from jaxlstm.lab import ModelParts, Reference, Run, Source, Task, UserError


def _check_names(names: list[str] | str | None) -> list[str] | str | None:
    if names == []:
        raise ValueError("names no column; name one, or leave it out")
    if isinstance(names, list):
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f'"{name}" is named twice; name each column once')
    return names


def _check_delimiter(delimiter: str | None) -> str | None:
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '\r\n"'):
        raise ValueError(
            f'{delimiter!r} cannot delimit; write one character, such as ";" or "\\t"'
        )
    return delimiter


class Series(Task):
    """Forecasts the next `horizon` steps of a series from the last `window` of it.

    All steps of the horizon are forecast at once. A window is a sequence: it starts
    from the initial state, and the prediction of its last step is scored.

    The series is divided by time: training, then validation, then test. A window's
    horizon lies in one split as a whole, and its inputs may reach back into the one
    before. Columns are scaled by the training part alone.

    Attributes:
      source: path of a CSV in UTF-8, from the current folder on, or "synthetic"
        (`experiments.series.synthetic`).
      columns: the inputs; by default all columns of numbers but the time's.
      target: the column, or columns, to forecast; by default the only input.
      time_column: numbers or ISO dates, which ascend; the axis of pictures. By default
        rows are counted.
      delimiter: of the CSV; by default found out.
      header: whether the first line names the columns, which else are "0", "1", ...
      window: T, steps that are seen, and `train.segment_length`.
      horizon: steps that are forecast.
      season: steps after which the series is taken to repeat itself, for the forecast
        of the last season's value to compare with; or none.
      scaling: "standard": to mean 0 and standard deviation 1; "minmax": to 0 ... 1.
      missing: what becomes of an empty cell. "error": it is refused; "mask": inputs
        skip the step; "forward": inputs repeat the value before. A target that is
        missing is never scored.
      validation, test: fractions at the end of the series that are kept from training;
        0: there is no such split.
    """

    source: str = SYNTHETIC
    columns: Annotated[list[str] | None, AfterValidator(_check_names)] = None
    target: Annotated[str | list[str] | None, AfterValidator(_check_names)] = None
    time_column: str | None = None
    delimiter: Annotated[str | None, AfterValidator(_check_delimiter)] = None
    header: bool = True
    window: PositiveInt = 48
    horizon: PositiveInt = 12
    season: PositiveInt | None = None
    scaling: Scale = "standard"
    missing: Missing = "error"
    validation: float = Field(default=0.1, ge=0, lt=1)
    test: float = Field(default=0.2, ge=0, lt=1)

    @field_validator("source")
    @classmethod
    def _make_absolute(cls, source: str) -> str:
        """Lets a run find the file again from any folder."""
        if source == SYNTHETIC:
            return source
        if not source:
            raise ValueError(f'is empty; name a CSV file, or "{SYNTHETIC}"')
        return make_absolute(source)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_fractions(self.validation, self.test)
        return self

    @property
    def splits(self) -> tuple[str, ...]:
        """Validation and test, where they have a part of the series."""
        return tuple(name for name in SPLITS[1:] if getattr(self, name) > 0)

    def parts(self) -> ModelParts:
        """Columns in, and the horizon of each target out."""
        numbers = self.numbers
        return ModelParts(
            input_size=len(numbers.columns),
            output_size=self.horizon * len(numbers.target),
        )

    def split(
        self, name: str, *, batch_size: int, segment_length: int, seed: int
    ) -> Source:
        """Returns the windows of a split."""
        if segment_length != self.window:
            raise UserError(
                f"[train] segment_length = {segment_length}: differs from [task] "
                f"window = {self.window}, and a segment is a window; set both alike"
            )
        return self.windows.make_source(name, batch_size=batch_size, seed=seed)

    def loss(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Squared error in scaled units, averaged over what is known of the horizon."""
        return squared_error(prediction, target)

    def scores(self, prediction: jax.Array, target: jax.Array) -> dict[str, jax.Array]:
        """Errors in units of the data, beside those of forecasts without a net."""
        scale = jnp.asarray(self.scaling_of_targets.scale, prediction.dtype)
        return measure(prediction, target, scale, self._metric_names)

    def derive(self, averages: dict[str, float]) -> dict[str, float]:
        """The root of the squared error, and how much of a naive error is saved."""
        return derive(averages, self._metric_names)

    def describe_data(self) -> dict[str, Any]:
        """Name or path, hash, rows, columns, splits, and how columns are scaled."""
        numbers = self.numbers
        scaled = {}
        for names, scaling in (
            (numbers.target, self.scaling_of_targets),
            (numbers.columns, self.scaling_of_inputs),
        ):
            pairs = np.stack(scaling, axis=1).tolist()
            scaled |= dict(zip(names, pairs, strict=True))
        return {
            "source": self.source,
            "sha256": numbers.sha256,
            "rows": len(numbers.inputs),
            "columns": list(numbers.columns),
            "target": list(numbers.target),
            "splits": self._counts_by_split,
            SCALED: scaled,
        }

    def references(self) -> Sequence[Reference]:
        """The loss of who knows all of the synthetic series but its noise."""
        if self.source != SYNTHETIC:
            return []
        (scale,) = self.scaling_of_targets.scale
        return [Reference("noise alone", float(NOISE / scale) ** 2)]

    def figures(self, run: Run) -> dict[str, Figure]:
        """Draws forecasts of the test against the truth, and the errors by step."""
        return draw_forecasts(self, run) if "test" in self.splits else {}

    @functools.cached_property
    def numbers(self) -> Numbers:
        """The columns, in units of the data."""
        return read_series(self.reading)

    @property
    def reading(self) -> Reading:
        """How the CSV is read."""
        target = [self.target] if isinstance(self.target, str) else self.target
        return Reading(
            source=self.source,
            columns=None if self.columns is None else tuple(self.columns),
            target=None if target is None else tuple(target),
            time_column=self.time_column,
            delimiter=self.delimiter,
            header=self.header,
            missing=self.missing,
        )

    @functools.cached_property
    def scaling_of_inputs(self) -> Scaling:
        """Of the columns, by the training part alone."""
        values = self.numbers.inputs[: self._counts[0]]
        return fit_scaling(values, self.numbers.columns, self.scaling)

    @functools.cached_property
    def scaling_of_targets(self) -> Scaling:
        """Of the targets, by the training part alone."""
        values = self.numbers.targets[: self._counts[0]]
        return fit_scaling(values, self.numbers.target, self.scaling)

    @functools.cached_property
    def windows(self) -> Windows:
        """The scaled series; every split has a window.

        Raises:
          UserError: the series is too short.
        """
        self._check_lengths()
        numbers = self.numbers
        windows = Windows(
            scale_inputs(numbers, self.scaling_of_inputs, self.missing),
            apply_scaling(numbers.targets, self.scaling_of_targets, numbers.target),
            self._counts,
            self.window,
            self.horizon,
            self.season,
        )
        for name in ("train", *self.splits):
            if not len(windows.find_ends(name)):
                raise UserError(
                    f"[task] missing: no window of {name} has both inputs and a target "
                    "that are not missing; fill them in, or leave columns out"
                )
        return windows

    @property
    def _counts(self) -> tuple[int, int, int]:
        return divide(len(self.numbers.inputs), self.validation, self.test)

    @property
    def _counts_by_split(self) -> dict[str, int]:
        return dict(zip(SPLITS, self._counts, strict=True))

    @property
    def _metric_names(self) -> Names:
        target = self.numbers.target
        return Names(
            forecasts=("", LAST_VALUE, LAST_SEASON)[: 3 if self.season else 2],
            targets=("",) if len(target) == 1 else target,
        )

    def _check_lengths(self) -> None:
        rows, counts = len(self.numbers.inputs), self._counts_by_split
        if counts["train"] < self.window + self.horizon:
            raise UserError(
                f"{self.source}: has {rows:,} rows, {counts['train']:,} of them to "
                f"train on, and task.window = {self.window} and task.horizon = "
                f"{self.horizon} take {self.window + self.horizon:,}; lower them, or "
                "use a longer series"
            )
        for name in self.splits:
            if counts[name] < self.horizon:
                raise UserError(
                    f"[task] {name} = {getattr(self, name)}: is {counts[name]:,} of "
                    f"{rows:,} rows, and a horizon of {self.horizon} is longer; lower "
                    "the horizon, set a larger fraction, or 0 for no such split"
                )
        if self.season and self.splits:
            first = counts["train"] - self.season
            known = ~np.isnan(self.numbers.targets)
            if first < 0 or not known[: first + 1].any(axis=0).all():
                raise UserError(
                    f"[task] season = {self.season}: is not in the {counts['train']:,} "
                    "rows of training, or a target is not known that early; lower it, "
                    "or leave it out"
                )
