"""What a comparison's pictures show is what the parts say."""

import itertools
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes

from jaxlstm.lab.comparison.report import (
    accuracy_pictures,
    cost_pictures,
    lag_pictures,
)
from jaxlstm.lab.comparison.report.looks import make_looks, pick_snapshots
from jaxlstm.lab.plots import STYLE
from tests.lab.comparison import parts

LOOKS = make_looks(list(parts.MEMBERS))
LABELS = [label for label in parts.MEMBERS if label != parts.REFUSED]


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context(STYLE):
        yield


def read_lines(axes: Axes) -> dict[str, Any]:
    """Returns the curves of the estimators by label."""
    lines = {str(line.get_label()): line for line in axes.lines}
    return {label: line for label, line in lines.items() if label in parts.MEMBERS}


def as_numbers(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.float64)  # None is NaN.


def test_twelve_estimators_can_be_told_apart():
    looks = [LOOKS[label] for label in LABELS]
    assert len(looks) == 12
    for keys in (("color", "linestyle"), ("marker",)):
        assert len({tuple(look[key] for key in keys) for look in looks}) == 12


def test_estimator_looks_alike_in_all_pictures():
    figures = [
        accuracy_pictures.draw_reach(parts.make_accuracy(), LOOKS),
        accuracy_pictures.draw_bias_and_variance(parts.make_accuracy(), LOOKS)[
            "bias_variance"
        ],
        cost_pictures.draw_scaling(parts.make_costs(), LOOKS),
        cost_pictures.draw_races(parts.make_races(), LOOKS),
    ]
    for figure in figures:
        shown = set()
        for axes in figure.axes:
            for label, line in read_lines(axes).items():
                assert line.get_color() == LOOKS[label]["color"]
                assert line.get_marker() == LOOKS[label]["marker"]
                shown.add(label)
        assert shown == set(LABELS)
        (legend,) = figure.legends
        assert set(LABELS) <= {text.get_text() for text in legend.get_texts()}


def test_reach_is_that_of_the_part():
    values = parts.make_accuracy()
    left, right = accuracy_pictures.draw_reach(values, LOOKS).axes
    for axes, name in ((left, "cosine"), (right, "norm_ratio")):
        lines = read_lines(axes)
        assert list(lines) == LABELS
        for label, line in lines.items():
            expected = as_numbers(values["reach"]["members"][label][name])
            np.testing.assert_array_equal(line.get_ydata(), expected)
            assert (line.get_alpha() is not None) == bool(parts.MEMBERS[label][3])
        ticks = [int(text.get_text()) for text in axes.get_xticklabels()]
        assert ticks == parts.LAGS


def test_bias_stands_at_its_variances_and_hidden_ones_at_twice_the_floor():
    values = parts.make_accuracy()
    (figure,) = accuracy_pictures.draw_bias_and_variance(values, LOOKS).values()
    fixed, draws, data = map(read_lines, figure.axes)
    members = values["snapshots"][-1]["members"]
    assert set(fixed) | set(draws) == set(data) == set(LABELS)
    for label in LABELS:
        frozen = members[label]["frozen"]
        ((x, y),) = data[label].get_xydata()
        assert x == frozen["data_variance"]
        if label == "bptt":
            assert 0 < y < 0.01  # Where rounding is drawn.
            continue
        size, floor = frozen["relative_bias"], frozen["noise_floor"] or 0
        assert y == (size if size > 2 * floor else 2 * floor)
        if frozen["draw_variance"]:
            ((x, again),) = draws[label].get_xydata()
            assert (x, again) == (frozen["draw_variance"], y)
    arrows = [text for text in figure.axes[1].texts if text.get_text() == ""]
    unbiased = {x for x in LABELS if parts.MEMBERS[x][0] == "unbiased"}
    assert len(arrows) == len(unbiased | {"pes"})
    # No figure stands beside the band of those that are exact.
    figure.canvas.draw()
    axes = figure.axes[0]
    band: Any = axes.patches[0]
    told = [tick for tick in axes.yaxis.get_ticklabels() if tick.get_text()]
    assert told and min(float(tick.get_text()) for tick in told) > band.get_y()


def test_panels_that_would_show_nothing_are_left_out():
    def draw(labels: tuple[str, ...], **figures: Any) -> list[str]:
        values = parts.only(parts.make_accuracy(), labels)
        for label in labels:
            values["snapshots"][-1]["members"][label]["frozen"] |= figures
        drawn = accuracy_pictures.draw_bias_and_variance(values, LOOKS)
        return [a.get_title() for figure in drawn.values() for a in figure.axes]

    still, noisy, data = accuracy_pictures.TITLES.values()
    assert draw(("bptt", "eprop")) == [still, data]
    assert draw(("uoro",), data_variance=None) == [noisy]
    # One draw does not tell its noise.
    assert draw(("uoro",), debiased=None) == []


def test_alignment_shows_every_cosine():
    values = parts.make_accuracy()
    axes, _ = accuracy_pictures.draw_alignment(values, LOOKS).axes
    alignment = values["snapshots"][-1]["alignment"]
    np.testing.assert_array_equal(axes.images[0].get_array(), alignment["cosine"])
    shown = [float(text.get_text()) for text in axes.texts]
    np.testing.assert_allclose(shown, np.ravel(alignment["cosine"]), atol=0.0051)
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == alignment["labels"]


def test_scaling_is_in_its_units():
    values = parts.make_costs()
    left, right = cost_pictures.draw_scaling(values, LOOKS).axes
    members = values["scaling"]["members"]
    for label, line in read_lines(left).items():
        expected = 1e3 * as_numbers(members[label]["seconds"])
        np.testing.assert_allclose(line.get_ydata(), expected)
        np.testing.assert_array_equal(line.get_xdata(), parts.LENGTHS)
    for label, line in read_lines(right).items():
        expected = as_numbers(members[label]["temporary_bytes"]) / 1024
        np.testing.assert_allclose(line.get_ydata(), expected)
    assert left.get_ylabel().endswith("[ms]") and right.get_ylabel().endswith("[KiB]")


def test_races_show_the_mean_over_seeds_and_end_where_one_diverges():
    values = parts.make_races()
    left, right = cost_pictures.draw_races(values, LOOKS).axes
    updates = as_numbers(values["updates"])
    for label, line in read_lines(left).items():
        member = values["members"][label]
        np.testing.assert_array_equal(line.get_xdata(), updates)
        mean = as_numbers(member["losses"]).mean(axis=0)
        np.testing.assert_allclose(line.get_ydata(), mean)
        seconds = read_lines(right)[label]
        expected = updates * member["seconds_per_update"]
        np.testing.assert_allclose(seconds.get_xdata(), expected)
        np.testing.assert_allclose(seconds.get_ydata(), mean)
    assert np.isnan(read_lines(left)["pes"].get_ydata()[4:]).all()
    labels = [str(line.get_label()) for line in left.lines]
    assert {"knowing neither: 0.6616", "both: 0.4545"} <= set(labels)


@pytest.mark.parametrize(
    ("references", "scale", "in_view"),
    [([0.2, 0.9], 1.0, [0.2, 0.9]), ([1e-3, 0.0, 2.0], 1e-3, [1e-3, 2.0])],
    ids=["linear", "logarithmic"],
)
def test_references_are_in_view_or_not_in_the_legend(references, scale, in_view):
    values = parts.make_races()
    for member in values["members"].values():
        for curve in member.get("losses", ()):
            curve[-1] = curve[-1] and scale * curve[-1]
    values["references"] = [{"label": f"{x}", "loss": x} for x in references]
    axes = cost_pictures.draw_races(values, LOOKS).axes[0]
    low, high = axes.get_ylim()
    assert axes.get_yscale() == ("log" if scale < 1 else "linear")
    lines = [line for line in axes.lines if ": " in str(line.get_label())]
    shown = [float(np.asarray(line.get_ydata())[0]) for line in lines]
    assert shown == in_view
    assert all(low < loss < high for loss in shown)


def test_advice_marks_what_keeps():
    values = parts.make_lags()
    left, _ = lag_pictures.draw_advice(values, LOOKS).axes
    lines = {str(line.get_label()): line for line in left.lines}
    for snapshot in values["snapshots"]:
        update = snapshot["update"]
        curve = lines[f"update {update}"]
        np.testing.assert_array_equal(curve.get_ydata(), snapshot["cosine"])
        np.testing.assert_array_equal(curve.get_xdata(), snapshot["horizons"])
        for level, steps in snapshot["keeps"].items():
            if steps is None:
                assert f"update {update}: no horizon keeps {level}" in lines
            else:
                mark = lines[f"update {update}: {steps} steps keep {level}"]
                expected = [[steps, snapshot["cosine"][steps - 1]]]
                np.testing.assert_array_equal(mark.get_xydata(), expected)


def test_path_bars_add_up_to_the_whole_gradient():
    values = parts.make_lags()
    panels = lag_pictures.draw_paths(values, LOOKS).axes
    assert len(panels) == 2 * len(parts.SNAPSHOTS)
    for n, axes in enumerate(panels):
        shares = values["snapshots"][n // 2]["path_shares"]["by_route"]
        assert [bars.get_label() for bars in axes.containers] == list(shares)
        for bars, share in zip(axes.containers, shares.values(), strict=True):
            total = sum(bar.get_height() for bar in bars)
            np.testing.assert_allclose(total, 100 * share, rtol=1e-12)
        # No two bars lie upon each other.
        for x in range(len(axes.containers[0])):
            spans = [
                sorted((b[x].get_y(), b[x].get_y() + b[x].get_height()))
                for b in axes.containers
            ]
            spans = sorted(span for span in spans if span[0] < span[1])
            for (_, end), (start, _) in itertools.pairwise(spans):
                assert end <= start + 1e-9


@pytest.mark.parametrize(
    ("count", "most", "places"),
    [(1, 3, [0]), (3, 3, [0, 1, 2]), (5, 3, [0, 2, 4]), (7, 1, [0]), (2, 3, [0, 1])],
)
def test_snapshots_are_picked_evenly(count, most, places):
    assert pick_snapshots(list(range(count)), most) == places
