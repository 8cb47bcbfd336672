"""Runs of a model without an online form, and the keys of a config that make one."""

from pathlib import Path

import jax
import numpy as np
import pytest

from jaxlstm.dropout import Dropout
from jaxlstm.lab import UserError
from jaxlstm.lab.comparison import plan
from jaxlstm.lab.comparison.plan import make_plan
from jaxlstm.lab.config import load_config
from jaxlstm.lab.experiment import build, build_model
from tests.lab import moods

BOTH_WAYS = (
    *("model.bidirectional=true", "model.num_layers=2", "model.connections=residual"),
    "estimator.name=whole_sequence",
)


def load(*overrides):
    Path("labels.txt").write_text("sad happy neither")
    Path("moods.toml").write_text(moods.CONFIG)
    return load_config(Path("moods.toml"), overrides)


@pytest.mark.slow
def test_evaluation_predicts_once_a_sequence():
    experiment = build(load(*BOTH_WAYS, "devices=2"))
    model = experiment.trainer.model
    params = model.init(jax.random.key(0))
    source = experiment.split("validation")
    values = experiment.evaluator(params, source, 2)
    block, losses = source.segments(0, 2), []
    for segment in range(2):
        for row in range(2):
            inputs = block.inputs[segment][:, row : row + 1]
            start = model.initial_state(params, (1,))
            last, _ = model.unroll(params.recurrent, start, inputs)
            logits = np.asarray(model.readout(params, last)[0], np.float64)
            label = block.targets[segment][-1, row]
            losses.append(np.log(np.exp(logits).sum()) - logits[label])
    assert values["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_dropout_of_a_config_is_that_of_the_model(monkeypatch):
    found = []
    monkeypatch.setattr(
        "jaxlstm.lab.experiment.make_model", lambda cell, **given: found.append(given)
    )
    rates = "{ embedding = 0.2, variational = true }"
    for text in ("0.0", "0.5", rates, rates.replace(" }", ", mask_steps = 3 }")):
        build_model(load(f"model.dropout={text}", "model.num_layers=2"))
    assert [given["dropout"] for given in found] == [
        Dropout(mask_steps=5),
        Dropout(between=0.5, mask_steps=5),
        Dropout(embedding=0.2, variational=True, mask_steps=5),
        Dropout(embedding=0.2, variational=True, mask_steps=3),
    ]
    assert not found[0]["bidirectional"] and found[0]["connections"] == "none"


def test_a_resolved_config_reads_as_it_is_written():
    config = load(*BOTH_WAYS, "model.dropout.output=0.25")
    assert config.resolved()["model"]["dropout"]["output"] == 0.25
    Path("again.toml").write_text(config.to_toml())
    assert load_config(Path("again.toml")).resolved() == config.resolved()
    alone = load("model.dropout=0.25", "model.num_layers=2").resolved()["model"]
    assert alone["dropout"] == 0.25


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.dropout=1.0", r"model.dropout = 1.0: use a number less than 1.0"),
        ("model.dropout.output=2", r"model.dropout.output = 2: use a number less"),
        ("model.dropout.betwen=0.5", r"dropout.betwen: unknown key; .* between\?"),
        ("model.dropout=true", r"model.dropout = true: is not a number"),
        ("model.dropout.mask_steps=0", r"mask_steps = 0: use a number greater than 0"),
        ("model.connections=dense", r"connections = \"dense\": use 'none', 'residual'"),
        ("model.bidirectional=1", r"model.bidirectional = 1: is not true or false"),
    ],
)
def test_wrong_keys_are_a_line_each(override, message):
    with pytest.raises(UserError, match=message) as caught:
        load(override)
    assert len(caught.value.lines) == 1


def test_another_estimator_is_refused_with_what_to_write():
    config = load("model.bidirectional=true", "model.num_layers=2")
    with pytest.raises(
        UserError, match=r"\[estimator\] name = \"bptt\": the model has"
    ):
        build(config)


def test_a_comparison_is_refused_before_anything_is_made():
    config = load(*BOTH_WAYS, "compare.estimators=['whole_sequence']")
    with pytest.raises(
        UserError, match=r"^moods.toml: \[model\] bidirectional = true: a c"
    ):
        make_plan(config, "moods.toml")


@pytest.mark.parametrize(("control", "step"), [("resets", 0), ("weights", 1)])
def test_a_stream_is_not_compared_as_whole_sequences(control, step, monkeypatch):
    draw = moods.Moods.split

    def split(self, name, **given):
        def segments(start, count):
            block = source.segments(start, count)
            value = getattr(block, control).copy()
            value[:, step] = 1 - value[:, step]
            return block._replace(**{control: value})

        source = draw(self, name, **given)
        return source._replace(segments=segments)

    monkeypatch.setattr(plan, "check_feasible", lambda *_: None)
    config = load("compare.estimators=['bptt', 'whole_sequence']")
    assert len(make_plan(config, "").members) == 2
    monkeypatch.setattr(moods.Moods, "split", split)
    with pytest.raises(UserError) as caught:
        make_plan(config, "")
    (line,) = caught.value.lines
    assert line.startswith("[compare] whole_sequence: takes each example of a segment")
