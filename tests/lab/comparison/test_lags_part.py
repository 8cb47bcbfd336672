"""What a comparison measures by lag and way, against the library and measured runs."""

import json

import jax
import numpy as np
import pytest

from jaxlstm.diagnostics import parameter_blocks
from jaxlstm.diagnostics.alignment import align
from jaxlstm.estimators import bptt, tbptt
from jaxlstm.lab.comparison import lags
from jaxlstm.lab.comparison.problem import Problem, Snapshot, as_dtype
from jaxlstm.lab.comparison.windows import Window, read_window
from jaxlstm.lab.config import load_config
from jaxlstm.lab.experiment import build
from tests.helpers import draw_like, jit

UPDATES = 0, 7
# Of the tiny task: two segments of four steps, a batch of two.
T = 8


def make_problem(path, *overrides):
    """Returns a problem of the tiny task, and what it says of its progress."""
    experiment, said = build(load_config(path, overrides)), []
    model = experiment.trainer.model
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    snapshots = tuple(
        Snapshot(update, as_dtype(draw_like(shapes, update, 0.7), "float32"))
        for update in UPDATES
    )
    return Problem(experiment, (), snapshots, said.append), said


def estimate(problem, make, snapshot, **options):
    """Returns the gradient by an estimator on the window, in float64."""
    member = make(problem.model("float64"), problem.config.task.loss, **options)
    params = as_dtype(snapshot.params, "float64")
    segment = as_dtype(read_window(problem, 0, 2).whole, "float64")
    state = member.init(params, (2,), jax.random.key(0))
    return jax.device_get(jit(member.estimate)(params, state, segment)[0].grads)


def check_sums(snapshot):
    """Shares add up to 1, whichever way they are added."""
    shares = snapshot["path_shares"]
    by_lag, by_gate = (
        np.array(shares[f"by_route_and_{name}"]) for name in ("lag", "gate")
    )
    by_route = np.array([shares["by_route"][name] for name in snapshot["routes"]])
    beyond, lag_shares = np.array(shares["beyond"]), np.array(snapshot["lag_shares"])
    assert by_gate.shape == (len(snapshot["routes"]), len(snapshot["gates"]))
    assert by_lag.shape == (len(snapshot["routes"]), snapshot["num_lags"])
    assert abs(by_route.sum() - 1) < 1e-12
    assert abs(lag_shares.sum() + snapshot["share_beyond"] - 1) < 1e-12
    np.testing.assert_allclose(by_gate.sum(1), by_route, atol=1e-12)
    np.testing.assert_allclose(by_lag.sum(1) + beyond, by_route, atol=1e-12)
    np.testing.assert_allclose(by_lag.sum(0), lag_shares, atol=1e-12)
    assert abs(beyond.sum() - snapshot["share_beyond"]) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("horizon", range(1, T + 1))
def test_figures_are_those_of_a_measured_truncation(config, horizon):
    problem, said = make_problem(config)
    part = lags.measure(problem, num_segments=2)
    assert json.loads(json.dumps(part.values, allow_nan=False)) == part.values
    assert [s["update"] for s in part.values["snapshots"]] == list(UPDATES)
    assert said == [f"the gradient by lag and way after update {n}" for n in UPDATES]
    found, snapshot = part.values["snapshots"][1], problem.snapshots[1]
    assert (found["num_steps"], found["num_lags"]) == (T, T)
    assert found["horizons"] == list(range(1, T + 1))
    assert found["gates"][:4] == ["input", "forget", "candidate", "output"]
    check_sums(found)
    with jax.enable_x64(True):
        exact = estimate(problem, bptt, snapshot)
        cut = estimate(problem, tbptt, snapshot, horizon=horizon, stride=1)
    for figures, g, r in (
        (found, cut, exact),
        (found["recurrent"], cut.recurrent, exact.recurrent),
    ):
        expected = align(g, r)[""]
        for name in ("cosine", "norm_ratio"):
            assert abs(figures[name][horizon - 1] - expected[name]) < 1e-12
    cosines = np.array(found["cosine"])
    for level, steps in found["keeps"].items():
        assert np.all(cosines[steps - 1 :] >= float(level))
        assert steps == 1 or cosines[steps - 2] < float(level)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "routes", "gates"),
    [
        (
            ["model.num_layers=2", "model.dropout=0.5"],
            ["same step", "state alone", "through h: input"],
            ["layer 1: input", "layer 1: forget", "layer 1: candidate"],
        ),
        (
            ["model.cell='gru'"],
            ["same step", "state alone", "through h: reset"],
            ["candidate by x", "reset", "update"],
        ),
        (
            ["model.cell='rnn'", "model.learned_initial_state=true"],
            ["same step", "state alone", "through h: candidate"],
            ["candidate", "initial state", "readout"],
        ),
    ],
)
def test_models_of_all_kinds(config, overrides, routes, gates):
    problem, _ = make_problem(config, *overrides)
    part = lags.measure(problem, num_segments=2)
    for found in part.values["snapshots"]:
        assert (found["routes"][:3], found["gates"][:3]) == (routes, gates)
        assert len(found["gates"]) == len(parameter_blocks(problem.model()))
        check_sums(found)


@pytest.mark.slow
def test_long_windows_are_resolved_as_far_as_can_be(config):
    problem, said = make_problem(config)
    whole = lags.measure(problem, num_segments=2).values["snapshots"][1]
    said.clear()
    found = lags.measure(problem, num_segments=2, most_lags=3).values["snapshots"][1]
    assert (found["num_steps"], found["num_lags"]) == (T, 3)
    assert said[0].endswith("after update 0, 3 of 8 lags")
    check_sums(found)
    for name in ("horizons", "cosine", "norm_ratio", "relative_bias", "lag_norms"):
        np.testing.assert_allclose(found[name], whole[name][:3], rtol=1e-12)
    assert abs(found["share_beyond"] - sum(whole["lag_shares"][3:])) < 1e-12
    assert found["keeps"]["0.99"] is None or found["keeps"]["0.99"] <= 3


def test_lags_are_as_many_as_memory_holds(config, monkeypatch):
    """A hidden size of 3 has 76 parameters, and 6 numbers of an example's state."""
    problem, _ = make_problem(config)
    with jax.enable_x64(True):
        model = problem.model("float64")
        assert lags.choose_lags(model, 1000, 2) == 1000
        monkeypatch.setattr(lags, "MOST_BYTES", 5 * 8 * (76 + 6 * 2 * 6))
        assert lags.choose_lags(model, 1000, 2) == 5
        monkeypatch.setattr(lags, "MOST_BYTES", 0)
        assert lags.choose_lags(model, 1000, 2) == 1


@pytest.mark.slow
def test_no_gradient_has_no_figures(config, monkeypatch):
    problem, _ = make_problem(config)
    whole = read_window(problem, 0, 2).whole
    unscored = Window((whole._replace(weights=np.zeros_like(whole.weights)),))
    monkeypatch.setattr(lags, "read_window", lambda *place: unscored)
    found = lags.measure(problem, num_segments=2).values["snapshots"][0]
    json.dumps(found, allow_nan=False)
    assert found["cosine"] == [None] * T and found["lag_norms"] == [0.0] * T
    assert found["keeps"] == {"0.9": None, "0.99": None}
    assert set(found["path_shares"]["by_route"].values()) == {None}
    assert found["advice"].startswith("The exact gradient is zero")
