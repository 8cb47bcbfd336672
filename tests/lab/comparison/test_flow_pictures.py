"""Pictures of gradient flow hold the figures that they are drawn from."""

import io
from typing import Any

import matplotlib
import numpy as np
import pytest

from jaxlstm.lab.comparison.report.flow_pictures import draw_flow, draw_vanishing
from jaxlstm.lab.plots import STYLE

K = [1, 2, 5, 10]


@pytest.fixture(autouse=True)
def _style():
    with matplotlib.rc_context(STYLE):
        yield


def make_curve(cell, gain, bias, rate, **rest) -> dict[str, Any]:
    norms = [None if rate is None else rate**k for k in K]
    values = {
        "norms": norms,
        "rate": rate,
        "predicted": rate,
        "driven": rate and 0.8 * rate,
        "driven_norms": [None if rate is None else (0.8 * rate) ** k for k in K],
    }
    return {"cell": cell, "gain": gain, "forget_bias": bias, **values, **rest}


CURVES = [
    *(make_curve("rnn", gain, None, gain) for gain in (0.5, 2.0)),
    make_curve("gru", 0.5, None, 0.625),
    make_curve("lstm", 0.5, None, 0.85),
    *(make_curve("lstm", None, bias, 0.75 + bias / 10) for bias in (0.0, 3.0)),
]


def lines_of(axes) -> dict[str, np.ndarray]:
    """Returns the curves that a legend names."""
    return {
        line.get_label(): line.get_ydata()
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def heights_of(axes: Any) -> list[float]:
    return [bar.get_height() for bar in axes.patches]


@pytest.mark.slow
def test_vanishing_has_a_column_for_each_cell_and_a_row_for_each_regime():
    figure = draw_vanishing({"k": K, "curves": CURVES})["vanishing"]
    rest, driven = figure.axes[:4], figure.axes[4:]
    titles = ["RNN: recurrent gain", "GRU: recurrent gain", "LSTM: recurrent gain"]
    assert [a.get_title() for a in rest] == [*titles, "LSTM: forget bias, gain 1"]
    assert [a.get_ylabel() for a in (rest[0], driven[0])] == [
        "at rest (zero input)",
        "driven by inputs",
    ]
    rnn = lines_of(rest[0])
    assert list(rnn) == ["0.5: 0.50 a step", "2: 2.00 a step"]
    np.testing.assert_array_equal(rnn["2: 2.00 a step"], CURVES[1]["norms"])
    biased = lines_of(driven[3])
    assert list(biased) == ["0: 0.60 a step", "3: 0.84 a step"]
    np.testing.assert_array_equal(biased["3: 0.84 a step"], CURVES[-1]["driven_norms"])
    # What is predicted lies on what is measured.
    (dots,) = [a for a in rest[1].lines if a.get_marker() == "."]
    first = np.asarray(dots.get_ydata())[0]
    assert first == pytest.approx(CURVES[2]["norms"][0])
    assert not [a for a in driven[1].lines if a.get_marker() == "."]
    figure.savefig(io.BytesIO())


@pytest.mark.parametrize("curves", [[make_curve("rnn", 0.0, None, None)], CURVES[-1:]])
def test_vanishing_draws_what_is_there(curves):
    figure = draw_vanishing({"k": K, "curves": curves})["vanishing"]
    assert not draw_vanishing({"k": K, "curves": []})
    assert len(figure.axes) == 2
    figure.savefig(io.BytesIO())


def make_snapshot(update, **rest) -> dict[str, Any]:
    curve = [0.5, 0.0, 2.0 + update]
    norms = {"direct": 0.7, "forget": 0.1, "output": None}
    return {
        "update": update,
        "steps": [0, 1, 2],
        "layers": [
            {"name": "layer 1", "h": curve, "c": None, "x": curve},
            {"name": "layer 2", "h": curve, "c": None, "x": [1.0, None, 3.0]},
        ],
        "jacobians": {
            "k": [1, 2],
            "spectral": [0.9, 0.8],
            "by_state": {"h": [0.5, 0.25], "c": [0.7, None]},
            "forget_product": [0.6, 0.36],
        },
        "saturation": {"forget": {"low": 0.25, "high": 0.5}},
        "terms": {"dc/dc": norms, "dh/dh": {**norms, "direct": None, "output": 0.2}},
        **rest,
    }


def test_flow_of_an_lstm_has_four_pictures():
    figures = draw_flow({"snapshots": [make_snapshot(n) for n in (0, 5, 9)]})
    assert list(figures) == ["flow", "jacobians", "gates", "terms"]
    titles = [axes.get_title() for axes in figures["flow"].axes]
    assert titles == [
        "|dL/dh_t|, layer 1",
        "|dL/dx_t|, layer 1",
        "|dL/dh_t|, layer 2",
        "|dL/dx_t|, layer 2",
    ]
    h, *_, x = (lines_of(axes) for axes in figures["flow"].axes)
    assert list(h) == ["update 0", "update 5", "update 9"]
    # Zero has no logarithm.
    np.testing.assert_array_equal(h["update 9"], [0.5, np.nan, 11.0])
    np.testing.assert_array_equal(x["update 9"], [1.0, np.nan, 3.0])
    products = lines_of(figures["jacobians"].axes[2])
    np.testing.assert_array_equal(products["h by h"], [0.5, 0.25])
    np.testing.assert_array_equal(products["product of forget gates"], [0.6, 0.36])
    (gates,) = figures["gates"].axes
    assert heights_of(gates) == [0.5] * 3 + [-0.25] * 3
    assert gates.get_ylim() == pytest.approx((-0.65, 0.65))
    memory, hidden = figures["terms"].axes
    labels = [text.get_text() for text in memory.get_xticklabels()]
    assert labels == ["direct", "forget"]
    assert heights_of(hidden) == [0.1, 0.2] * 3
    for figure in figures.values():
        figure.savefig(io.BytesIO())


def test_flow_of_a_net_without_known_gates_has_two_pictures():
    snapshot = make_snapshot(0, saturation={}, terms=None)
    snapshot["jacobians"] |= {"by_state": {"h": [1.0, 1.0]}, "forget_product": None}
    figures = draw_flow({"snapshots": [snapshot]})
    assert list(figures) == ["flow", "jacobians"]
    assert list(lines_of(figures["jacobians"].axes[0])) == ["all of it"]
    assert len(figures["flow"].axes) == 4
