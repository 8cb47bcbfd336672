"""The shadow: what it compares, that it changes nothing, and what it refuses."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxlstm.estimators import ESTIMATORS, GradientEstimator, bptt
from jaxlstm.estimators.draws import Sample
from jaxlstm.lab import UserError, load_run, memory
from jaxlstm.lab.config import load_config
from jaxlstm.lab.experiment import build
from jaxlstm.lab.memory import check_memory
from jaxlstm.lab.metrics import SHADOW
from jaxlstm.lab.options import options_model
from jaxlstm.lab.plots import shadow_curves
from jaxlstm.lab.shadow import Shadow, align
from jaxlstm.lab.training import fit
from jaxlstm.shapes import OptionError
from tests.helpers import jit
from tests.lab import tiny
from tests.lab.test_runs import assert_same

HERE = "tests.lab.test_shadow"
TURNED = f"estimator.shadow=['bptt', '{HERE}:turned']"


def turned(model, loss_fn) -> GradientEstimator:
    """Gives twice the gradient of bptt, turned by the angle whose cosine is 3/5."""
    inner = bptt(model, loss_fn)

    def estimate(params, state, segment):
        estimate, state = inner.estimate(params, state, segment)
        flat, unravel = ravel_pytree(estimate.grads)
        x, y = flat.reshape(-1, 2).T
        both = jnp.stack([0.6 * x - 0.8 * y, 0.8 * x + 0.6 * y], axis=1)
        return estimate._replace(grads=unravel(2 * both.ravel())), state

    return GradientEstimator(inner.init, estimate, inner.traits)


class BareState(NamedTuple):
    inner: Any


def bare(model, loss_fn) -> GradientEstimator:
    """Is bptt with a state that cannot be begun in the midst of a sequence."""
    inner = bptt(model, loss_fn)

    def init(params, batch_shape, key):
        return BareState(inner.init(params, batch_shape, key))

    def estimate(params, state, segment):
        estimate, state = inner.estimate(params, state.inner, segment)
        return estimate, BareState(state)

    return GradientEstimator(init, estimate, inner.traits)


def refuses(model, loss_fn, *, depth: int = 1) -> GradientEstimator:
    """Takes no model at all."""
    raise OptionError(f"depth: value is {depth}; take bptt")


def demanding(model, loss_fn, *, weigh: Callable[[Any], Any]) -> GradientEstimator:
    """Needs what no config can give."""
    raise AssertionError


def weighed(
    model,
    loss_fn,
    *,
    weigh: Callable[[Any], Any] | None = None,
    sample: Sample | None = None,
    scale: int | Callable[[Any], Any] = 1,
    example: Any = None,
    bare=3,
) -> GradientEstimator:
    """Takes functions beside an option."""
    raise AssertionError


def compare(config, *overrides, updates=0, name="bptt"):
    """Returns the line of a comparison after some updates, and what it is made of."""
    experiment = build(load_config(config, [f"estimator.name={name}", *overrides]))
    shadow, trainer = experiment.shadow, experiment.trainer
    assert shadow is not None
    state = trainer.init(jax.random.key(0), experiment.batch_size)
    stop = lambda done: updates  # noqa: E731
    for block in fit(trainer, state, experiment.source, stop, 1):
        state = block.state
    line = shadow(state, experiment.source)
    assert line is not None
    return line, experiment, state


X64 = "model.dtype=float64"


@pytest.mark.parametrize(
    "devices", [pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)]
)
def test_known_gradients_have_known_figures(config, devices):
    options = TURNED, X64, f"devices={devices}", "estimator.shadow_segments=3"
    line, experiment, state = compare(config, *options, updates=2)
    assert line["bptt/cosine"] == line["bptt/norm_ratio"] == 1
    assert line[f"{HERE}:turned/cosine"] == pytest.approx(0.6, rel=1e-12)
    assert line[f"{HERE}:turned/norm_ratio"] == pytest.approx(2, rel=1e-12)
    by_parameter = line["parameters"]["bptt"]
    assert by_parameter["readout.b"] == {"cosine": 1, "norm_ratio": 1}
    assert len(by_parameter) == len(jax.tree.leaves(state.params))
    assert line["loss"] == pytest.approx(loss_by_hand(experiment, state), rel=1e-12)


def loss_by_hand(experiment, state, first=2, count=3):
    """Runs the next segments one by one, the weights standing still."""
    trainer, sums = experiment.trainer, []
    estimator = jax.device_get(state.estimator)
    params = jax.device_get(state.params)
    for n in range(first, first + count):
        segment = jax.tree.map(lambda x: x[0], experiment.source.segments(n, 1))
        estimate, estimator = jit(trainer.estimator.estimate)(
            params, estimator, segment
        )
        sums.append([float(estimate.loss), float(estimate.weight)])
    loss, weight = np.sum(sums, axis=0)
    return loss / weight


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("name", ["bptt", "rtrl"])
def test_exact_gradients_of_one_segment_agree(config, name, devices):
    """From one hidden state: the initial one, though learned, has no part in it."""
    options = X64, f"devices={devices}", "model.learned_initial_state=true"
    shadows = "estimator.shadow=['rtrl', 'bptt']", "estimator.shadow_segments=1"
    line, *_ = compare(config, *options, *shadows, updates=2, name=name)
    for shadow in ("rtrl", "bptt"):
        for figures in line["parameters"][shadow].values():
            assert figures["cosine"] == pytest.approx(1, abs=1e-12)
            assert figures["norm_ratio"] == pytest.approx(1, abs=1e-12)


@pytest.mark.slow
def test_influence_is_carried_over_segments(config):
    """So bptt, cut at each segment, parts from rtrl, and agrees over all at once."""
    shadows = "estimator.shadow=['rtrl']", "estimator.shadow_segments=3"
    line, experiment, state = compare(config, X64, *shadows, updates=1)
    assert abs(line["rtrl/norm_ratio"] - 1) > 1e-3
    assert experiment.shadow is not None
    block = experiment.source.segments(1, 3)
    whole = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), block)
    estimate = jit(experiment.trainer.estimator.estimate)
    params, estimator = jax.device_get((state.params, state.estimator))
    exact = estimate(params, estimator, whole)[0].grads
    own = jax.tree.map(jnp.zeros_like, params)
    for n in range(3):
        segment = jax.tree.map(lambda x, n=n: x[n], block)
        made, estimator = estimate(params, estimator, segment)
        own = jax.tree.map(jnp.add, own, made.grads)
    for figure, value in align(exact, own)[""].items():
        assert line[f"rtrl/{figure}"] == pytest.approx(value, rel=1e-11)


@pytest.mark.slow
def test_state_that_cannot_be_placed_begins_anew(config):
    """Beside one that can be: neither changes the figures of the other."""
    shadows = f"estimator.shadow=['{HERE}:bare', 'rtrl']"
    line, *_ = compare(config, X64, shadows, updates=2)
    assert line[f"{HERE}:bare/cosine"] == line[f"{HERE}:bare/norm_ratio"] == 1
    alone, *_ = compare(config, X64, "estimator.shadow=['rtrl']", updates=2)
    assert alone["rtrl/cosine"] == pytest.approx(line["rtrl/cosine"], rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("devices", [1, 2])
def test_every_estimator_can_be_a_shadow(config, name, devices):
    options = {
        "artbp": "p=0.5",
        "clipped_bptt": "z=1.0",
        "h_detach": "p=0.5",
        "pes": "num_particles=4, sigma=0.1",
        "tbptt": "horizon=3",
    }
    entry = f"{{name='{name}', {options.get(name, '')}}}".replace(", }", "}")
    cell = ["model.cell=leaky_rnn"] if name == "rflo" else []
    shadow = f"estimator.shadow=[{entry}]"
    line, *_ = compare(config, shadow, f"devices={devices}", *cell, updates=1)
    values = [value for key, value in line.items() if key.endswith("/norm_ratio")]
    assert len(values) == 1 and values[0] > 0


@pytest.mark.slow
def test_own_draws_stay(config):
    """Random weights of the feedback are those that training has."""
    option, devices = "estimator.feedback=random", "devices=1"
    shadows = "estimator.shadow=['bptt']", "estimator.shadow_segments=1"
    line, experiment, state = compare(
        config, X64, option, devices, *shadows, updates=1, name="eprop"
    )
    assert experiment.shadow is not None
    own = experiment.shadow.begin(state).states[0]
    assert jnp.array_equal(
        *map(jax.random.key_data, (own.feedback, state.estimator.feedback))
    )
    assert line["bptt/cosine"] < 1


def test_figures_of_two_gradients():
    tree = {"a": np.array([3.0, 4.0]), "b": np.zeros(2), "c": np.full(2, 1e-200)}
    other = {"a": np.array([-6.0, -8.0]), "b": np.ones(2), "c": np.full(2, 1e-200)}
    found = align(tree, other)
    assert found["['a']"] == {"cosine": -1, "norm_ratio": 0.5}
    assert found["['b']"] == {"cosine": None, "norm_ratio": 0}
    assert found["['c']"] == {"cosine": 1, "norm_ratio": 1}
    assert found[""]["cosine"] == pytest.approx(-50 / (5 * 102**0.5))
    assert found[""]["norm_ratio"] == pytest.approx(5 / 102**0.5)
    nothing = {"cosine": None, "norm_ratio": None}
    assert align(other, tree)["['b']"] == nothing
    tree["a"][0] = np.nan
    assert align(tree, other)["['a']"] == align(other, tree)["['a']"] == nothing


def without(run, *keys):
    return [
        {k: v for k, v in line.items() if k not in ("seconds", *keys)}
        for line in run.metrics
        if line["split"] != SHADOW
    ]


@pytest.mark.slow
def test_training_does_not_change(config, command):
    assert command("run", config, "--out", "alone").code == 0
    outcome = command("run", config, TURNED, "--out", "watched")
    assert outcome.code == 0, outcome.err
    assert f"update 6  shadow bptt/cosine 1  bptt/norm_ratio 1  {HERE}:" in outcome.out
    alone, watched = map(load_run, ("alone", "watched"))
    chex.assert_trees_all_equal(alone.params, watched.params)
    for leaves in zip(
        *(jax.tree.leaves(x.state) for x in (alone, watched)), strict=True
    ):
        np.testing.assert_array_equal(*map(as_numbers, leaves))
    assert without(alone) == without(watched)
    lines = [line for line in watched.metrics if line["split"] == SHADOW]
    assert [line["update"] for line in lines] == [6, 12]
    assert lines[1]["bptt/cosine"] == 1
    label = f"{HERE}:turned"
    text = Path("watched/README.md").read_text()
    assert "| bptt | 1 | 1 |" in text and f"| {label} | 0.6 | 2 |" in text
    assert "![shadow](plots/shadow.png)" in text
    figure = shadow_curves(watched)
    assert figure is not None and shadow_curves(alone) is None
    (above, below) = figure.axes
    curves = {line.get_label(): np.asarray(line.get_ydata()) for line in above.lines}
    np.testing.assert_allclose(curves[label], 0.6, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(below.lines[-1].get_ydata()), 2, rtol=1e-5)


def as_numbers(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_stopped_at_a_comparison_goes_on_to_the_same_lines(
    moment, config, command, monkeypatch
):
    options = "estimator.shadow=['bptt']", "model.dropout=0.5", "model.num_layers=2"
    assert command("run", config, *options, "--out", "whole").code == 0
    compare, calls = Shadow.__call__, []

    def interrupted(self, state, source, **keywords):
        calls.append(int(state.num_updates))
        line = None
        if moment == "after":
            line = compare(self, state, source, **keywords)
        if calls == [6]:
            signal.raise_signal(signal.SIGTERM)
        return line or compare(self, state, source, **keywords)

    monkeypatch.setattr(Shadow, "__call__", interrupted)
    assert command("run", config, *options, "--out", "out").code == 143
    assert command("resume", "out").code == 0
    assert calls == ([6, 6, 12] if moment == "before" else [6, 12])
    assert_same(load_run("out"), load_run("whole"))


@pytest.mark.slow
def test_lines_after_the_checkpoint_are_made_again(config, command, monkeypatch):
    """It fails at update 9; the checkpoint is of update 5, and 6 has been compared."""
    assert command("run", config, TURNED, "--out", "whole").code == 0

    def fail(number):
        if number == 9:
            raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(tiny, "on_segment", fail)
        with pytest.raises(RuntimeError):
            # One segment alone is asked for, lest a comparison meet the ninth.
            options = TURNED, "estimator.shadow_segments=2"
            command("run", config, *options, "--out", "out")
    assert any(x["split"] == SHADOW for x in load_run("out").metrics)
    allowed = "--allow-change", "estimator.shadow_segments"
    path = Path("out/config.toml")
    path.write_text(
        path.read_text().replace("shadow_segments = 2", "shadow_segments = 8")
    )
    assert command("resume", "out", *allowed).code == 0
    assert_same(load_run("out"), load_run("whole"))


@pytest.mark.slow
def test_without_evaluations_the_end_is_compared(config, command):
    outcome = command("run", config, TURNED, "train.eval_every=", "--out", "out")
    assert outcome.code == 0, outcome.err
    lines = [x["update"] for x in load_run("out").metrics if x["split"] == SHADOW]
    assert lines == [12]


def test_config_is_resolved_to_the_same(config, tmp_path):
    shadows = (
        "[{name='tbptt', horizon=4}, 'tbptt', 'bptt', {name='bptt', remat='sqrt'}]"
    )
    with pytest.raises(UserError, match="horizon: is missing"):
        load_config(config, [f"estimator.shadow={shadows}"])
    shadows = "[{name='tbptt', horizon=4}, 'bptt', {name='bptt', remat='sqrt'}]"
    first = load_config(config, [f"estimator.shadow={shadows}"])
    labels = [shadow.label for shadow in first.shadows]
    assert labels == ["tbptt(horizon=4)", "bptt", "bptt(remat=sqrt)"]
    path = tmp_path / "again.toml"
    path.write_text(first.to_toml())
    again = load_config(path)
    assert again.shadows == first.shadows
    assert again.resolved() == first.resolved()
    assert "shadow" not in first.estimator_options


@pytest.mark.parametrize(
    ("shadow", "place", "words"),
    [
        ("['rtlr']", "shadow[0]", '= "rtlr": unknown; did you mean rtrl?'),
        ("['bptt', 'bppt']", "shadow[1]", '= "bppt": unknown; did you mean bptt?'),
        ("['math:sin']", "shadow[0]", '= "math:sin": is built into Python'),
        ("'rtrl'", "shadow", '= "rtrl": is not a list'),
        ("[3]", "shadow[0]", ': is no estimator; write "rtrl", or {'),
        ("[{horizon=3}]", "shadow[0].name", ": is missing; set it"),
        ("[{name=3}]", "shadow[0].name", "= 3: is not a string"),
        (
            "[{name='bptt', remaat='sqrt'}]",
            "shadow[0].remaat",
            ": unknown key; did you mean remat?",
        ),
        (
            "['bptt', {name='bptt', remat='all'}]",
            "shadow[1].remat",
            "= \"all\": use 'none', 'step'",
        ),
        ("[{name='tbptt'}]", "shadow[0].horizon", ": is missing; set it"),
        ("['bptt', {name='bptt'}]", "shadow", ": bptt is there more than once"),
        (
            "[{name='uoro', sample='signs'}]",
            "shadow[0].sample",
            ": unknown key",
        ),
    ],
)
def test_faults_are_named_by_their_place(shadow, place, words, config):
    with pytest.raises(UserError) as caught:
        load_config(config, [f"estimator.shadow={shadow}"])
    [line] = caught.value.lines
    assert line.startswith(
        f"override estimator.{place}{' ' if words[0] == '=' else ''}{words}"
    )
    config.write_text(f"{config.read_text()}\n[estimator]\nshadow = {shadow}\n")
    with pytest.raises(UserError) as caught:
        load_config(config)
    [line] = caught.value.lines
    assert line.startswith(f"{config}: [estimator] {place}")


def test_estimator_that_refuses_says_so_by_its_place(config, command):
    shadow = f"estimator.shadow=['bptt', {{name='{HERE}:refuses', depth=3}}]"
    (fault,) = command("run", config, shadow, "--out", "out").faults
    assert fault == (
        f'[estimator] shadow[1] = "{HERE}:refuses": depth: value is 3; take bptt'
    )
    assert not Path("out").exists()


def test_functions_are_no_keys_of_a_config(config):
    assert list(options_model(weighed).model_fields) == ["scale", "bare"]
    with pytest.raises(UserError, match="needs weigh, which no config can give"):
        load_config(config, [f"estimator.name={HERE}:demanding"])


def test_schema_of_shadows_is_that_of_names_and_tables(command):
    schema = json.loads(command("show", "--schema").out)["$defs"]
    items = schema["EstimatorSection"]["properties"]["shadow"]["items"]["anyOf"]
    assert {"type": "string"} in items
    assert {"$ref": "#/$defs/ShadowSection"} in items


def test_memory_of_a_comparison_is_counted(config, monkeypatch):
    """Influences of RTRL: [B, S, P] floats, of 4 H (X + H + 1) weights and more."""
    options = "model.hidden_size=100", "devices=1"
    experiment = build(load_config(config, options))
    watched = build(load_config(config, [*options, "estimator.shadow=['rtrl']"]))
    influence = 4 * 2 * (200 * 400 * 103)
    monkeypatch.setattr(memory, "memory_limit", lambda: influence)
    check_memory(experiment)
    with pytest.raises(UserError, match=r"\[estimator\] shadow = \[rtrl\]: comparing"):
        check_memory(watched)
    monkeypatch.setattr(memory, "memory_limit", lambda: 2 * influence)
    check_memory(watched)
