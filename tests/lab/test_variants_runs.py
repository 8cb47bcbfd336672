"""Variants of the cell named by configs: their options, their errors, their runs."""

import tomllib

import jax
import pytest

from jaxlstm.cells import CELLS
from jaxlstm.lab import load_run
from jaxlstm.lab.config import load_config

HEADS = "multi_head_lstm", "slstm"


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.cell=cifg_lstm", "model.peepholes=false", "model.chrono=20"],
        ["model.cell=lstm_variant", "model.heads=diagonal", "model.layer_norm=gates"],
        ["model.cell=slstm", "model.heads=2", "model.exponential=exp"],
        ["model.cell=niaf_lstm", "model.output_activation=hard_sigmoid_0.2"],
    ],
)
def test_options_of_a_variant_are_keys(config, overrides):
    found = load_config(config, overrides)
    written = tomllib.loads(found.to_toml())["model"]
    for override in overrides:
        key, _, text = override.removeprefix("model.").partition("=")
        known = {"false": False, "20": 20, "2": 2}
        assert written[key] == known.get(text, text)
    again = CELLS[written["cell"]](**found.cell_options)
    shapes, expected = (
        jax.eval_shape(lambda init=cell.init: init(jax.random.key(0), 3, 4))
        for cell in (found.cell, again)
    )
    assert shapes == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.heads=2"], "heads: 2 do not divide hidden_size = 3"),
        (["model.layer_norm=both"], 'layer_norm = "both"'),
        (["model.gate_activation=sigmoit"], "gate_activation: 'sigmoit' is unknown"),
        (["model.coupled=true", "model.forget_gate=false"], "coupled: is f = 1 - i"),
        (["model.chrono=2"], "chrono: 2 is too short a time"),
        (["model.peephole=true"], "unknown key; did you mean peepholes?"),
    ],
)
def test_wrong_options_get_a_line(config, command, overrides, message):
    outcome = command("show", config, "model.cell=lstm_variant", *overrides)
    assert outcome.code == 2
    [line] = outcome.faults
    assert message in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "estimator"), [("slstm", "bptt"), ("fgr_lstm", "rtrl")]
)
def test_variant_is_trained_by_a_config(config, command, name, estimator):
    overrides = [f"model.cell={name}", "model.hidden_size=4"]
    if name == "slstm":
        overrides.append("model.dropout={ recurrent = 0.2, zoneout_c = 0.2 }")
    named = f"estimator.name={estimator}"
    outcome = command("run", config, "--out", "out", named, *overrides)
    assert outcome.code == 0, outcome.err
    run = load_run("out")
    losses = [line["loss"] for line in run.metrics if line["split"] == "validation"]
    assert len(losses) == 2
    assert losses[0] != losses[1]
    # The best parameters are loaded, and give what the run measured of them.
    source = run.experiment.split("validation")
    found = run.experiment.evaluator(run.params, source, run.experiment.batch_size)
    assert found["loss"] == pytest.approx(min(losses), rel=1e-5)
