"""What is measured of gradient flow and vanishing gradients, against the library."""

import json

import jax
import numpy as np
import pytest

from jaxlstm.diagnostics import (
    flow_norms,
    forget_products,
    gradient_flow,
    jacobian_products,
    lstm_terms,
    saturation,
)
from jaxlstm.estimators import Segment
from jaxlstm.lab.comparison import flow, vanishing
from jaxlstm.lab.comparison.flow import as_figures, choose_lags
from jaxlstm.lab.comparison.problem import Problem, Snapshot, as_dtype
from jaxlstm.lab.comparison.windows import read_window
from jaxlstm.lab.config import load_config
from jaxlstm.lab.experiment import build
from tests.helpers import assert_close, draw_like


def make_problem(path, *overrides, updates=(0, 7)):
    """Returns a problem of the tiny task, and what it says of its progress."""
    experiment, said = build(load_config(path, overrides)), []
    model = experiment.trainer.model
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    snapshots = tuple(
        Snapshot(update, as_dtype(draw_like(shapes, update, 0.7), "float32"))
        for update in updates
    )
    return Problem(experiment, (), snapshots, said.append), said


def norm(x, axis):
    return np.sqrt(np.sum(np.asarray(x) ** 2, axis=axis))


def check_flow(problem, part, num_segments):
    """Compares a part with the library's figures, taken one by one."""
    json.dumps(part.values, allow_nan=False)
    assert [s["update"] for s in part.values["snapshots"]] == [0, 7]
    snapshot = part.values["snapshots"][1]
    with jax.enable_x64(True):
        model = problem.model("float64")
        params = as_dtype(problem.snapshots[1].params, "float64")
        segment = as_dtype(read_window(problem, 0, num_segments).whole, "float64")
        loss = problem.config.task.loss
        norms = jax.jit(lambda p: flow_norms(gradient_flow(model, loss, p, segment)))(
            params
        )
        num_steps = len(segment.inputs)
        assert snapshot["steps"] == list(range(num_steps))
        for layer, states, x in zip(
            snapshot["layers"], norms.states, norms.inputs, strict=True
        ):
            assert_close(np.array(layer["h"]), states.h)
            assert_close(np.array(layer["x"]), x)
            if hasattr(states, "c"):
                assert_close(np.array(layer["c"]), states.c)
            else:
                assert layer["c"] is None
        found, k = snapshot["jacobians"], snapshot["jacobians"]["k"]
        assert k == list(range(1, num_steps))
        products = jax.jit(lambda p: jacobian_products(model, p, segment, lags=k))(
            params
        )
        mean = np.mean(np.exp(products.log_norms), axis=1)
        assert_close(np.array(found["spectral"]), mean)
        for name, curve in products.by_field.items():
            mean = np.mean(np.exp(curve), axis=1)
            assert_close(np.array(found["by_state"][name]), mean)
        forget = forget_products(model, params, segment, lags=k)
        if forget is None:
            assert found["forget_product"] is None
        else:
            mean = np.mean(np.exp(forget), axis=1)
            assert_close(np.array(found["forget_product"]), mean)
        return snapshot, saturation(model, params, segment)


@pytest.mark.slow
def test_flow_of_an_lstm(config):
    problem, said = make_problem(config)
    part = flow.measure(problem, num_segments=2)
    snapshot, (shares,) = check_flow(problem, part, 2)
    assert said == ["gradient flow after update 0", "gradient flow after update 7"]
    assert list(snapshot["saturation"]) == ["input", "forget", "candidate", "output"]
    for name, ends in snapshot["saturation"].items():
        expected = {end: float(x) for end, x in shares[name]._asdict().items()}
        assert ends == pytest.approx(expected)
    assert list(snapshot["jacobians"]["by_state"]) == ["h", "c"]
    assert "terms_by_layer" not in snapshot
    assert snapshot["terms"]["dc/dc"]["output"] is None
    assert snapshot["terms"]["dh/dh"]["direct"] is None


@pytest.mark.slow
def test_flow_of_a_stack_of_grus(config):
    problem, _ = make_problem(config, "model.cell=gru", "model.num_layers=2")
    part = flow.measure(problem)
    snapshot, shares = check_flow(problem, part, 1)
    assert snapshot["terms"] is None
    expected = np.mean([float(layer["update"].low) for layer in shares])
    assert snapshot["saturation"]["update"]["low"] == pytest.approx(expected)
    assert len(snapshot["saturation_by_layer"]) == 2


@pytest.mark.slow
def test_flow_of_shares(config):
    problem, _ = make_problem(config, "model.cell=min_lstm")
    part = flow.measure(problem)
    snapshot, (shares,) = check_flow(problem, part, 1)
    assert list(snapshot["saturation"]) == ["input", "forget"]
    for name, ends in snapshot["saturation"].items():
        expected = {end: float(x) for end, x in shares[name]._asdict().items()}
        assert ends == pytest.approx(expected)
    assert snapshot["jacobians"]["forget_product"] is not None


@pytest.mark.slow
def test_terms_are_those_of_the_steps_that_have_one_before(config, monkeypatch):
    problem, _ = make_problem(config, "model.num_layers=2")
    # A segment without holes, so that the terms of all steps but the first count.
    inputs = np.random.default_rng(0).normal(size=(4, 2, 2))
    targets = np.zeros((4, 2, 1))
    segment = Segment(np.float32(inputs), np.float32(targets))
    monkeypatch.setattr(Problem, "window", lambda self, number, count: [segment])
    last = problem._replace(snapshots=problem.snapshots[1:])
    (snapshot,) = flow.measure(last).values["snapshots"]
    with jax.enable_x64(True):
        model = problem.model("float64")
        params = as_dtype(problem.snapshots[1].params, "float64")
        x = as_dtype(segment, "float64").inputs
        _, states = model.unroll(params.recurrent, model.initial_state(params, (2,)), x)
        for n, layer in enumerate(params.recurrent.layers):
            memory, hidden = lstm_terms(layer, x)
            for name, terms in (("dc/dc", memory), ("dh/dh", hidden)):
                for term, values in terms._asdict().items():
                    norms = np.linalg.norm(np.asarray(values)[1:], 2, axis=(2, 3))
                    found = snapshot["terms_by_layer"][n][name][term]
                    assert found == pytest.approx(norms.mean(), rel=1e-12)
            x = states[n].h
    by_layer = [layer["dh/dh"]["output"] for layer in snapshot["terms_by_layer"]]
    assert snapshot["terms"]["dh/dh"]["output"] == pytest.approx(np.mean(by_layer))


def test_single_step_has_no_terms(config):
    problem, _ = make_problem(config, "train.segment_length=1", updates=(0,))
    (snapshot,) = flow.measure(problem).values["snapshots"]
    assert snapshot["jacobians"]["k"] == [1]
    assert snapshot["jacobians"]["spectral"] == [0.0]
    assert snapshot["terms"] is None


def test_lags_are_all_or_evenly_spaced():
    assert choose_lags(1) == [1]
    assert choose_lags(5) == [1, 2, 3, 4]
    many = choose_lags(1000)
    assert many[0] == 1 and many[-1] == 999 and len(many) <= 48
    assert many == sorted(set(many))


def test_figures_that_no_float_holds_are_none():
    assert as_figures([0.0, 800.0, -np.inf, np.nan]) == [1.0, None, 0.0, None]


@pytest.mark.slow
def test_vanishing_is_measured_on_fresh_nets(config, monkeypatch):
    monkeypatch.setattr(vanishing, "LAGS", (1, 2, 5, 10))
    problem, said = make_problem(config)
    values = vanishing.measure(
        problem, gains=[0.9, 2.0], forget_biases=[3.0], num_examples=1
    ).values
    assert said == ["nets of 3 units, at rest and driven"]
    json.dumps(values, allow_nan=False)
    assert values["k"] == [1, 2, 5, 10]
    assert values["num_examples"] == 1
    curves = {curve["label"]: curve for curve in values["curves"]}
    cells = "RNN", "GRU", "LSTM"
    labels = [f"{cell}, gain {gain}" for cell in cells for gain in ("0.9", "2")]
    assert list(curves) == [*labels, "LSTM, forget bias 3"]
    rnn = curves["RNN, gain 0.9"]
    assert rnn["rate"] == pytest.approx(0.9, rel=1e-12)
    assert rnn["predicted"] == pytest.approx(0.9, rel=1e-12)
    assert rnn["norms"] == pytest.approx([0.9**k for k in values["k"]], rel=1e-12)
    assert rnn["driven_predicted"] == pytest.approx(0.9 * rnn["slope"], rel=1e-12)
    assert 0 < rnn["driven"] < 0.9
    lstm = curves["LSTM, forget bias 3"]
    assert (lstm["gain"], lstm["forget_bias"]) == (None, 3.0)
    assert list(lstm["saturation"]) == ["input", "forget", "candidate", "output"]
    assert len(lstm["forget_product"]) == 4


def test_inputs_that_drive_are_vectors_without_holes(config):
    problem, _ = make_problem(config)
    with jax.enable_x64(True):
        x = np.asarray(vanishing.read_vectors(problem, 10))
    whole = read_window(problem, 0, 3).whole
    assert x.shape == (10, 2, 2) and np.isfinite(x).all()
    there = whole.mask[:10]
    assert_close(x[there], np.float64(whole.inputs[:10][there]))
    assert not x[~there].any()
