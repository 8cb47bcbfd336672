"""What a run's model forecasts, in units of the data."""

from typing import TYPE_CHECKING, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from experiments.series.frame import Scaling, read_series, scale_inputs
from experiments.series.windows import Windows
from jaxlstm.lab import Run, UserError

if TYPE_CHECKING:
    from experiments.series.task import Series

# The fact of a run that says how its columns are scaled.
SCALED = "offset and scale"
# Windows that one call takes.
CHUNK = 256


class Forecasts(NamedTuple):
    """Forecasts of a split, in units of the data.

    Attributes:
      ends: [n] the last row that each of them has seen.
      truth: [n, horizon, J], NaN where it is not known.
      by: name, to forecasts [n, horizon, J]: "net", and those without one.
    """

    ends: np.ndarray
    truth: np.ndarray
    by: dict[str, np.ndarray]


def forecast_split(task: "Series", run: Run, split: str) -> Forecasts:
    """Returns what is forecast for every window of a split, by time."""
    windows, scaling = task.windows, task.scaling_of_targets
    ends = windows.find_ends(split)
    by = {
        "truth": windows.cut_truth(ends),
        "net": _predict(run, windows, ends),
        **windows.forecast_naively(ends),
    }
    back = {name: x * scaling.scale + scaling.offset for name, x in by.items()}
    return Forecasts(ends, back.pop("truth"), back)


def forecast_next(run: Run, source: str | None = None) -> np.ndarray:
    """Forecasts what comes after the end of a series.

    Args:
      run: of a series.
      source: path of a CSV with the columns that the run was trained on; by default
        that of the run. Both may have grown since: the scaling is that of the run.

    Returns:
      [horizon, J] in units of the data, the targets as the task names them.

    Raises:
      UserError: the CSV cannot be read, or is shorter than a window.
    """
    task, facts = cast("Series", run.task), run.facts["data"]
    reading = task.reading._replace(
        source=task.source if source is None else source,
        columns=tuple(facts["columns"]),
        target=tuple(facts["target"]),
    )
    numbers, window = read_series(reading), task.window
    if len(numbers.inputs) < window:
        raise UserError(
            f"{reading.source}: has {len(numbers.inputs):,} rows, and the run sees "
            f"{window}, its task.window; name a CSV that has them"
        )
    scaling, back = (
        Scaling(*np.array([facts[SCALED][name] for name in names]).T)
        for names in (numbers.columns, numbers.target)
    )
    last = scale_inputs(numbers, scaling, task.missing)[-window:]
    if np.isnan(last).any(axis=1).all():
        raise UserError(
            f"{reading.source}: an input is missing in each of the last {window} rows, "
            "all that the run sees; fill them in"
        )
    windows = Windows(
        inputs=last,
        targets=numbers.targets[-window:].astype(np.float32),
        counts=(window, 0, 0),
        window=window,
        horizon=task.horizon,
        season=None,
    )
    (forecast,) = _predict(run, windows, np.array([window - 1]))
    return forecast * back.scale + back.offset


def _predict(run: Run, windows: Windows, ends: np.ndarray) -> np.ndarray:
    """Returns scaled forecasts [n, horizon, J] after rows [n], in float64."""
    model, params = run.model, run.params

    @jax.jit
    def predict(inputs: jax.Array, mask: jax.Array) -> jax.Array:
        state = model.initial_state(params, mask.shape[1:])
        last, _ = model.unroll(params.recurrent, state, inputs, mask=mask)
        return model.readout(params, last)

    size = min(CHUNK, len(ends))
    found = []
    for start in range(0, len(ends), size):
        # The last call goes back to take as many as the others.
        begin = min(start, len(ends) - size)
        inputs, mask = windows.cut_inputs(ends[begin : begin + size])
        predicted = predict(jnp.moveaxis(inputs, 0, 1), jnp.moveaxis(mask, 0, 1))
        found.append(np.asarray(predicted, np.float64)[start - begin :])
    return np.concatenate(found).reshape(len(ends), windows.horizon, -1)
