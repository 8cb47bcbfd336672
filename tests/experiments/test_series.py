"""Forecasting a series: its windows, its splits, its scaling, its figures."""

from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.series import Series
from experiments.series.figures import COLOURS, draw_errors
from experiments.series.forecasts import Forecasts, forecast_split
from experiments.series.synthetic import make_csv
from experiments.series.windows import SPLITS
from jaxlstm.lab import UserError, load_run
from jaxlstm.lab.commands import main
from tests.helpers import assert_close, jit

WINDOW, HORIZON, BATCH = 5, 3, 4
# 40 rows: 28 of training, 4 of validation, 8 of test.
COUNTS = (28, 4, 8)


def write(folder, rows: np.ndarray, names=("a", "b"), name="series.csv") -> str:
    """Writes rows [N, C] as a CSV, NaN as an empty cell, and returns its path."""
    cells = [["" if np.isnan(x) else repr(float(x)) for x in row] for row in rows]
    lines = [",".join(line) for line in [names, *cells]]
    (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder / name)


def make(source: str, **options: Any) -> Series:
    settings = {"window": WINDOW, "horizon": HORIZON, "target": "a"} | options
    return Series(source=source, **settings)


def read(task: Series, split: str, start: int = 0, count: int | None = None) -> Any:
    """Returns segments of a split; by default all of an epoch."""
    source = task.split(split, batch_size=BATCH, segment_length=task.window, seed=0)
    assert source.num_segments is not None
    return source.segments(start, source.num_segments if count is None else count)


def real(segment: Any) -> Any:
    """Returns the windows [n, T, ...] of segments that are not filled up."""
    rows = (np.moveaxis(x, 2, 1) for x in segment)
    leaves = [x.reshape(-1, *x.shape[2:]) for x in rows]
    kept = leaves[2].any(axis=1)
    return type(segment)(*(x[kept] for x in leaves))


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(3.0, 2.0, (40, 2))


def test_windows_are_those_of_the_rows(tmp_path, rows):
    task = make(write(tmp_path, rows), season=4)
    train, begin = rows[: COUNTS[0]], 0
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    scaled = (rows - mean) / deviation
    for split, count in zip(SPLITS, COUNTS, strict=True):
        segment = read(task, split)
        windows = real(segment)
        inputs, targets, last = [], [], []
        for first in range(begin, begin + count - HORIZON + 1):
            if first < WINDOW:
                continue
            inputs.append(scaled[first - WINDOW : first])
            targets.append(scaled[first : first + HORIZON, 0])
            last.append(scaled[first - 1, 0])
        order = np.argsort(windows.inputs[:, -1, 0])
        expected = np.argsort([x[-1, 0] for x in inputs])
        np.testing.assert_allclose(
            windows.inputs[order], np.array(inputs)[expected], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            windows.targets[order, -1, :, 0], np.array(targets)[expected], atol=1e-6
        )
        if split != "train":
            # By time, beside the last value and that of four rows before.
            np.testing.assert_array_equal(order, expected)
            naive = windows.targets[:, -1, :, 1]
            np.testing.assert_allclose(
                naive, np.array(last)[:, None] + [0] * HORIZON, atol=1e-6
            )
            for n, first in enumerate(range(begin, begin + count - HORIZON + 1)):
                np.testing.assert_allclose(
                    windows.targets[n, -1, :, 2],
                    scaled[first - 4 : first - 4 + HORIZON, 0],
                    atol=1e-6,
                )
        begin += count
        steps = np.arange(WINDOW)[:, None]
        assert np.all(segment.resets == (steps == 0))
        assert np.all(segment.weights == segment.mask * (steps == WINDOW - 1))
        assert np.all(np.ptp(segment.targets, axis=1) == 0)


def test_a_season_shorter_than_the_horizon_is_repeated(tmp_path, rows):
    task = make(write(tmp_path, rows), season=2)
    scaled = task.windows.targets[:, 0]
    (seasonal,) = task.windows.forecast_naively(np.array([30]))["seasonal"]
    np.testing.assert_array_equal(seasonal[:, 0], scaled[[29, 30, 29]])


def test_an_epoch_has_every_window_once_in_another_order(tmp_path, rows):
    task = make(write(tmp_path, rows))
    # 28 - 5 - 3 + 1 windows, six batches of four, three of which are filled up.
    epochs = [read(task, "train", start, 6) for start in (0, 6)]
    assert epochs[0].mask.shape == (6, WINDOW, BATCH)
    first, second = (real(epoch).inputs for epoch in epochs)
    assert len(first) == 21
    assert len(np.unique(first[:, -1, 0])) == 21
    np.testing.assert_array_equal(np.sort(first[:, -1, 0]), np.sort(second[:, -1, 0]))
    assert np.any(first != second)
    assert not epochs[0].mask[-1, :, 1:].any() and epochs[0].mask[-1, :, 0].all()
    # The same wherever a run begins, and another one for another seed.
    late = read(task, "train", 7, 2)
    np.testing.assert_array_equal(late.inputs, epochs[1].inputs[1:3])
    source = task.split("train", batch_size=BATCH, segment_length=WINDOW, seed=1)
    other: Any = source.segments(0, 6)
    assert np.any(real(other).inputs != first)


@pytest.mark.parametrize("scaling", ["standard", "minmax", "none"])
def test_scaling_knows_the_training_part_alone(tmp_path, rows, scaling):
    changed = rows.copy()
    changed[COUNTS[0] :] *= 100
    tasks = [
        make(write(tmp_path, x, name=f"{n}.csv"), scaling=scaling)
        for n, x in enumerate((rows, changed))
    ]
    seen, other = (task.scaling_of_inputs for task in tasks)
    np.testing.assert_array_equal(seen, other)
    trained, again = (read(task, "train") for task in tasks)
    np.testing.assert_array_equal(trained.inputs, again.inputs)
    np.testing.assert_array_equal(trained.targets, again.targets)
    train = rows[: COUNTS[0]]
    offset, scale = {
        "standard": (train.mean(axis=0), train.std(axis=0)),
        "minmax": (train.min(axis=0), np.ptp(train, axis=0)),
        "none": ([0, 0], [1, 1]),
    }[scaling]
    assert_close(np.array(seen), np.array([offset, scale], np.float64))
    assert (
        read(tasks[1], "test").inputs.max() > 10 * read(tasks[0], "test").inputs.max()
    )


def test_masked_steps_stand_in_front_and_leave_the_others_in_order(tmp_path, rows):
    rows[[10, 11, 20], [0, 1, 1]] = np.nan
    task = make(write(tmp_path, rows), missing="mask", columns=["a", "b"])
    assert np.isnan(task.windows.inputs).sum() == 3
    inputs, mask = task.windows.cut_inputs(np.array([11, 12, 14, 16]))
    np.testing.assert_array_equal(
        mask, [[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [1] * 5]
    )
    scaled = task.windows.inputs
    np.testing.assert_array_equal(inputs[0], [[0, 0], [0, 0], *scaled[7:10]])
    np.testing.assert_array_equal(inputs[2], [[0, 0], [0, 0], *scaled[12:15]])
    for split in SPLITS:
        assert np.all(
            read(task, split).mask[:, -1] == (read(task, split).weights[:, -1] > 0)
        )


def test_missing_targets_are_never_scored_whatever_inputs_do(tmp_path, rows):
    rows[[12, 25, 33], 0] = np.nan
    source = write(tmp_path, rows)
    for missing in "mask", "forward":
        task = make(source, missing=missing)
        ends = np.arange(WINDOW - 1, 40 - HORIZON)
        truth = task.windows.cut_truth(ends)[..., 0]
        hole = [[e + k in (12, 25, 33) for k in range(1, HORIZON + 1)] for e in ends]
        np.testing.assert_array_equal(np.isnan(truth), hole)
        windows = real(read(task, "test"))
        known = ~np.isnan(windows.targets[:, -1, :, 0])
        np.testing.assert_allclose(
            windows.weights[:, -1], known.mean(axis=1), rtol=1e-6
        )
    # The last task repeats the value before.
    np.testing.assert_array_equal(
        task.windows.inputs[12],
        [task.windows.inputs[11, 0], task.windows.inputs[12, 1]],
    )


def test_a_column_has_one_scaling_whatever_is_missing(tmp_path, rows):
    rows[5:20, 0] = np.nan
    for missing in "mask", "forward":
        task = make(write(tmp_path, rows), missing=missing)
        mean = np.nanmean(rows[: COUNTS[0], 0])
        assert task.scaling_of_inputs.offset[0] == pytest.approx(mean)
        assert task.scaling_of_targets.offset[0] == pytest.approx(mean)


def test_windows_that_see_or_know_nothing_are_left_out(tmp_path, rows):
    rows[10:16, 1] = rows[20:23, 0] = np.nan
    task = make(write(tmp_path, rows), missing="mask", columns=["b"])
    ends = task.windows.find_ends("train")
    assert set(range(4, 25)) - set(ends) == {14, 15, 19}


def test_figures_are_those_of_the_data(tmp_path, rows):
    rows[33, 0] = np.nan
    task = make(write(tmp_path, rows), target=["a", "b"], season=4, missing="mask")
    segment = real(read(task, "test"))
    targets, weights = segment.targets[:, -1], segment.weights[:, -1]
    random = np.random.default_rng(1)
    predictions = random.normal(size=(len(targets), HORIZON * 2)).astype(np.float32)

    @jit
    def score(predictions, targets):
        return task.loss(predictions, targets), task.scores(predictions, targets)

    loss, scores = score(predictions, targets)
    averages = {
        name: float(np.average(x, weights=weights)) for name, x in scores.items()
    }
    averages |= task.derive(averages)
    offset, scale = task.scaling_of_targets
    in_units = predictions.reshape(-1, HORIZON, 2) * scale + offset
    ends = np.arange(31, 31 + len(targets))
    truth = rows[ends[:, None] + np.arange(1, HORIZON + 1)]
    # A step at which one target is missing counts for none.
    truth[np.isnan(truth).any(axis=2)] = np.nan
    filled = rows.copy()
    filled[33, 0] = rows[32, 0]
    for n, name in enumerate("ab"):
        error = in_units[..., n] - truth[..., n]
        naive = filled[ends, n][:, None] - truth[..., n]
        seasonal = filled[ends[:, None] + np.arange(-3, 0), n] - truth[..., n]
        mae = np.nanmean(np.abs(error))
        expected = {
            "mae": mae,
            "rmse": np.sqrt(np.nanmean(error**2)),
            "naive_mae": np.nanmean(np.abs(naive)),
            "skill": 1 - mae / np.nanmean(np.abs(naive)),
            "seasonal_mae": np.nanmean(np.abs(seasonal)),
            "seasonal_skill": 1 - mae / np.nanmean(np.abs(seasonal)),
        }
        for metric, value in expected.items():
            assert averages[f"{metric}_{name}"] == pytest.approx(value, rel=1e-5)
    assert len(averages) == 12
    squares = (predictions.reshape(-1, HORIZON, 2) - (truth - offset) / scale) ** 2
    average = np.average(loss, weights=weights)
    assert average == pytest.approx(np.nanmean(squares), rel=1e-5)
    assert task.derive({"loss": 1.0}) == {}


def test_one_target_has_plain_names_and_the_defaults_serve_one_column(tmp_path, rows):
    task = make(write(tmp_path, rows[:, :1], names="a"), target=None)
    assert task.parts() == (1, HORIZON, False)
    prediction = np.zeros((1, HORIZON), np.float32)
    scores = jit(task.scores)(prediction, np.zeros((1, HORIZON, 2), np.float32))
    assert set(scores) == {"mae", "rmse", "naive_mae"}
    averages = {name: float(x[0]) for name, x in scores.items()}
    # Where the naive forecast is right there is nothing to save.
    assert set(task.derive(averages)) == {"rmse"}


def test_facts_tell_the_data_apart(tmp_path, rows):
    facts = make(write(tmp_path, rows)).describe_data()
    assert facts["rows"] == 40
    assert facts["splits"] == dict(zip(SPLITS, COUNTS, strict=True))
    assert facts["columns"] == ["a", "b"] and facts["target"] == ["a"]
    rows[-1] += 1
    assert make(write(tmp_path, rows)).describe_data()["sha256"] != facts["sha256"]


def test_the_synthetic_series_is_that_of_its_formula():
    task = Series(time_column="time")
    assert task.numbers.columns == task.numbers.target == ("value",)
    hours = np.arange(52 * 168)
    week = 2 * np.pi * hours / 168
    known = 100 + hours / 2000 + 6 * np.sin(week)
    known += (10 + 4 * np.cos(week)) * np.sin(2 * np.pi * hours / 24)
    noise = task.numbers.targets[:, 0] - known
    # 8,736 draws: five standard errors.
    assert abs(noise.mean()) < 5 * 2 / 93
    assert abs(noise.std() / 2 - 1) < 5 / 93 / np.sqrt(2)
    np.testing.assert_array_equal(np.diff(task.numbers.times), np.timedelta64(1, "h"))
    assert make_csv() == make_csv()
    (reference,) = task.references()
    assert reference.loss == pytest.approx((2 / task.scaling_of_targets.scale[0]) ** 2)


def test_a_segment_is_a_window():
    with pytest.raises(UserError, match=r"segment_length = 47: .* window = 48"):
        Series().split("train", batch_size=2, segment_length=47, seed=0)


CONFIG = f"""
[task]
use = "experiments.series:Series"
source = "series.csv"
target = ["a", "b"]
window = {WINDOW}
horizon = {HORIZON}
season = 4
missing = "mask"

[model]
hidden_size = 4
bidirectional = true

[estimator]
name = "whole_sequence"

[train]
num_updates = 5
batch_size = 3
segment_length = {WINDOW}
"""


def test_errors_of_a_short_horizon_are_drawn_clear_of_the_legend():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40, 3, 1))
    by = {name: truth + rng.normal(size=truth.shape) for name in COLOURS}
    figure = Figure(figsize=(9, 6))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(2, 3, 6)
    draw_errors(axes, Forecasts(np.arange(40), truth, by), 0)
    figure.draw_without_rendering()
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    legend: Any = axes.get_legend()
    points = [line.get_transform().transform(line.get_xydata()) for line in axes.lines]
    assert len(points) == 3
    assert np.concatenate(points)[:, 1].max() < legend.get_window_extent().y0


@pytest.mark.slow
def test_evaluation_and_picture_have_the_same_forecasts(tmp_path, monkeypatch, rows):
    monkeypatch.chdir(tmp_path)
    rows[[9, 30, 35, 36], [0, 1, 0, 1]] = np.nan
    write(tmp_path, rows)
    (tmp_path / "series.toml").write_text(CONFIG)
    main(["run", "series.toml", "--out", "out"])
    run = load_run("out")
    names = {path.stem for path in (tmp_path / "out/plots").iterdir()}
    assert names == {"loss", "forecast", "forecast_2"}
    (line,) = (line for line in run.metrics if line["split"] == "test")
    forecasts = forecast_split(run.task, run, "test")
    for n, name in enumerate("ab"):
        for metric, by in (("", "net"), ("naive_", "naive"), ("seasonal_", "seasonal")):
            error = np.abs(forecasts.by[by] - forecasts.truth)[..., n]
            expected = pytest.approx(np.nanmean(error), rel=1e-5)
            assert line[f"{metric}mae_{name}"] == expected
