"""The neuron of docs/own_cell.md: by its equations, by every estimator, by config."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxlstm import Segment, check_estimator, make_model
from jaxlstm.checks import squared_error
from jaxlstm.estimators import ESTIMATORS, eprop
from tests.estimators.test_interface import OPTIONS
from tests.helpers import assert_close, draw_like, jit

DOCS = Path(__file__).parents[1] / "docs"
TITLED = re.compile(
    r'^```\w+ title="(?P<name>[\w.]+)"\n(?P<code>.*?)^```', re.MULTILINE | re.DOTALL
)
X, H, Y, T, B = 3, 4, 2, 7, 2
QUICK = ("eprop",)


@pytest.fixture
def project(tmp_path):
    """A folder with nothing in it but the titled blocks of two documents."""
    for page in "tasks.md", "own_cell.md":
        for match in TITLED.finditer((DOCS / page).read_text()):
            with (tmp_path / match["name"]).open("a") as file:
                file.write(match["code"])
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"my_tasks.py", "echo.toml", "words.py", "my_cells.py", "alif.toml"}
    return tmp_path


@pytest.fixture
def my_cells(project):
    spec = importlib.util.spec_from_file_location("my_cells", project / "my_cells.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_equations(my_cells, params, inputs, targets):
    """E-prop by the equations of the paper, for one sequence [T, X], in NumPy.

    Returns:
      The spikes [T, H], and the gradients by w_x [X, H], w_h [H, H] and b [H].
    """
    layer, readout = params.recurrent.layers[0], params.readout
    alpha, rho, beta = my_cells.ALPHA, my_cells.RHO, my_cells.BETA
    theta, gamma = my_cells.THETA, my_cells.GAMMA
    w = np.concatenate([layer.w_x, layer.w_h, layer.b[None]])
    h, v, a = np.zeros((3, H))
    eps_v, eps_a = np.zeros((2, *w.shape))
    gradient, spikes = np.zeros_like(w), []
    for x, y in zip(inputs, targets, strict=True):
        u = np.concatenate([x, h, [1]])
        v = alpha * v + u @ w - theta * h
        a = rho * a + h
        h = (v > theta + beta * a).astype(float)
        spikes.append(h)
        eps_v = alpha * eps_v + u[:, None]
        psi = gamma / theta * np.maximum(0, 1 - np.abs(v - theta - beta * a) / theta)
        eligibility = psi * (eps_v - beta * eps_a)
        learning_signal = readout.w @ (2 * (h @ readout.w + readout.b - y))
        gradient += learning_signal * eligibility
        eps_a = psi * eps_v + (rho - psi * beta) * eps_a
    return np.stack(spikes), np.split(gradient, [X, X + H])


def test_eprop_of_the_neuron_is_that_of_the_paper(my_cells, x64):
    model = make_model(
        my_cells.adaptive_lif,
        input_size=X,
        hidden_size=H,
        output_size=Y,
        dtype=np.float64,
    )
    params = draw_like(jax.eval_shape(model.init, jax.random.key(0)), 0)
    random = np.random.default_rng(1)
    inputs, targets = (2 * random.normal(size=(T, B, n)) for n in (X, Y))
    found = [
        by_equations(my_cells, params, inputs[:, n], targets[:, n]) for n in (0, 1)
    ]
    spikes = np.stack([each for each, _ in found])
    assert 0.1 < spikes.mean() < 0.9
    estimator = eprop(model, squared_error)
    state = estimator.init(params, (B,), jax.random.key(0))
    sums, after = jit(estimator.estimate)(params, state, Segment(inputs, targets))
    np.testing.assert_array_equal(after.hidden[0].h, spikes[:, -1])
    gradients = (gradients for _, gradients in found)
    expected = [a + b for a, b in zip(*gradients, strict=True)]
    w_x, w_h, b = sums.grads.recurrent.layers[0]
    assert_close([w_x, w_h, b[None]], expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in ESTIMATORS
        if name != "rflo"
    ],
)
def test_every_estimator_takes_the_neuron(my_cells, name):
    model = make_model(
        my_cells.adaptive_lif, input_size=X, hidden_size=H, output_size=Y
    )
    estimator = ESTIMATORS[name](model, squared_error, **OPTIONS.get(name, {}))
    params = jax.tree.map(lambda w: 2 * w, model.init(jax.random.key(0)))
    report = check_estimator(
        estimator, model, params=params, exact_loss=name != "pes", num_draws=20_000
    )
    assert report.passed, str(report)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["eprop", pytest.param("bptt", marks=pytest.mark.slow)]
)
def test_neuron_is_trained_by_config(project, name):
    command = [sys.executable, "-P", "-m", "jaxlstm", "run", "alif.toml"]
    overrides = "--out", "out", f"estimator.name={name}", "logging.every=100"
    done = subprocess.run(
        [*command, *overrides], cwd=project, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text = (project / "out" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    # Who guesses has a squared error of 1.
    assert len(losses) == 5
    assert losses[0] > 0.3
    assert losses[-1] < 0.1
