"""Influence balancing: the cell by its matrix, its fixed point, and where it is led."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.influence_balancing import (
    SCORED_STEPS,
    BalanceState,
    InfluenceBalancing,
    influence_by_horizon,
    make_cell,
)
from jaxlstm.lab import UserError, load_run
from jaxlstm.lab.commands import main
from jaxlstm.shapes import OptionError
from tests.experiments.streams import count_scored, join, read
from tests.experiments.test_sine_cosine import ROOT

N = 23
A = np.eye(N) / 2 + np.eye(N, k=1) / 2
SIGNS = np.array([1.0] * 10 + [-1.0] * 13)
X = jnp.zeros(1)


def make_params(theta):
    params = make_cell().init(jax.random.key(0), 1, N, dtype=jnp.float64)
    return params._replace(theta=jnp.asarray(theta))


def test_step_is_that_of_the_matrix(x64):
    cell, params = make_cell(), make_params(0.3)
    assert cell.init(jax.random.key(0), 1, N).theta == 0.5
    start = cell.initial_state(params, (2,))
    np.testing.assert_array_equal(start.s, np.ones((2, N)))
    s = np.random.default_rng(0).normal(size=(2, N))
    state, output = cell.step(params, BalanceState(jnp.asarray(s)), X)
    np.testing.assert_allclose(state.s, s @ A.T + 0.3 * SIGNS, atol=1e-15)
    np.testing.assert_array_equal(output, state.s[:, :1])


def test_rest_is_minus_six_theta():
    rest = np.linalg.solve(np.eye(N) - A, SIGNS)
    np.testing.assert_allclose(rest[0], -6, rtol=1e-12)
    np.testing.assert_allclose(
        influence_by_horizon(10, 13, 300)[-1], rest[0], rtol=1e-12
    )


def test_influence_first_has_the_right_sign_at_41_steps(x64):
    cell = make_cell()
    rest = jnp.asarray(0.5 * np.linalg.solve(np.eye(N) - A, SIGNS))

    @jax.jit
    def influences(theta):
        """Returns the derivatives of the output after 1, 2, ... steps from rest."""

        def step(state, _):
            return cell.step(make_params(theta), state, X)

        return jax.lax.scan(step, BalanceState(rest), length=60)[1][:, 0]

    found = jax.jacfwd(influences)(0.5)
    powers = [np.linalg.matrix_power(A, k)[0] @ SIGNS for k in range(60)]
    np.testing.assert_allclose(found, np.cumsum(powers), rtol=1e-11)
    np.testing.assert_allclose(influence_by_horizon(10, 13, 60), found, rtol=1e-11)
    assert np.all(found[:40] > 0) and np.all(found[40:] < 0)


def test_segments_hold_nothing_but_the_target():
    task = InfluenceBalancing(target=2.0, unscored_steps=15)
    segment = read(task, count=2)
    np.testing.assert_array_equal(segment.inputs, np.zeros((2, 12, 3, 1)))
    np.testing.assert_array_equal(segment.targets, np.full((2, 12, 3, 1), 2))
    assert segment.weights is None and segment.resets is None
    weights = join(read(task, "test", count=3)).weights
    np.testing.assert_array_equal(weights, np.arange(36) >= 15)
    assert SCORED_STEPS <= count_scored(task) < SCORED_STEPS + 7


def test_loss_is_half_the_square():
    prediction, target = jnp.array([[3.0]]), jnp.array([[1.0]])
    task = InfluenceBalancing()
    np.testing.assert_array_equal(task.loss(prediction, target), [2])
    np.testing.assert_array_equal(task.scores(prediction, target)["output"], [3])


@pytest.mark.parametrize("sizes", [(-1, 13), (10, -1), (0, 0)])
def test_numbers_of_units_have_to_make_sense(sizes):
    with pytest.raises(OptionError, match="there cannot be"):
        make_cell(num_positive=sizes[0], num_negative=sizes[1])


def test_hidden_size_has_to_be_the_number_of_units(tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="is not num_positive"):
        make_cell().init(jax.random.key(0), 1, 22)
    monkeypatch.chdir(tmp_path)
    config = str(ROOT / "configs/influence_balancing.toml")
    with pytest.raises(SystemExit, match="2"):
        main(["run", config, "--out", "out", "model.num_positive=9"])
    assert capsys.readouterr().err == (
        "jaxlstm: [model] hidden_size = 23: is not num_positive + num_negative = 22; "
        "use that, or change them\n"
    )


def train(tmp_path, monkeypatch, *overrides):
    """Returns theta, and the outputs of validation."""
    monkeypatch.chdir(tmp_path)
    config = str(ROOT / "configs/influence_balancing.toml")
    main(["run", config, "--out", "out", *overrides])
    run = load_run("out", "latest")
    assert (tmp_path / "out/plots/balance.png").is_file()
    lines = [line for line in run.metrics if line["split"] == "validation"]
    theta = float(run.params.recurrent.layers[0].theta)
    return theta, [line["output"] for line in lines]


@pytest.mark.slow
def test_exact_gradients_find_the_balance(tmp_path, monkeypatch):
    theta, outputs = train(tmp_path, monkeypatch, "train.eval_every=1500")
    assert abs(theta + 1 / 6) < 1e-6
    assert outputs[-1] == pytest.approx(-6 * theta, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("horizon", "way"), [(40, -1), (41, 1)])
def test_truncated_gradients_lead_the_right_way_from_41_steps_on(
    tmp_path, monkeypatch, horizon, way
):
    overrides = [
        *("estimator.name=tbptt", f"estimator.horizon={horizon}"),
        *("estimator.stride=1", "train.eval_every=1500"),
    ]
    _, (middle, end) = train(tmp_path, monkeypatch, *overrides)
    # Far below 1 at rest, the output has to rise.
    assert middle < 0
    assert way * (end - middle) > 0.1
