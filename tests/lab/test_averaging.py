"""Averages of parameters: against a loop in NumPy, in a run, and over a stop."""

import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlstm.lab import load_run
from jaxlstm.lab.averaging import (
    averaged_params,
    begin_average,
    find_average,
    is_time_to_average,
)
from jaxlstm.lab.config import load_config
from jaxlstm.lab.experiment import build
from jaxlstm.lab.optimizers import OPTIMIZERS
from tests.helpers import jit
from tests.lab import tiny
from tests.lab.test_runs import assert_same

RATE, DECAY, WINDOW = 0.3, 0.1, 2
# So large a rate that the loss goes up and down.
OPTIONS = (
    *("optimizer.name=nt_asgd", "optimizer.non_monotone=1"),
    *("optimizer.learning_rate=0.3", "optimizer.weight_decay=0.01"),
    *("train.eval_every=1", "train.updates_per_call=1", "checkpoint.every=100"),
    *("devices=1", "logging.every=100"),
)


def loss_of(w):
    """A valley whose walls are too steep for the rate."""
    return float(2.9 * w[0] ** 2 + 0.3 * (w[1] - 1) ** 2)


def slope_of(w, n):
    """With what looks like noise."""
    slope = np.array([5.8 * w[0], 0.6 * (w[1] - 1)])
    return slope + np.array([np.cos(3 * n), np.sin(5 * n)])


def descend(steps):
    """Algorithm 1 of Merity et al., with what is evaluated after each step."""
    w, logs, since, evaluated = np.array([1.0, -1.0]), [], None, []
    iterates = []
    for k in range(steps):
        w = w - RATE * (slope_of(w, k) + DECAY * w)
        iterates.append(w)
        shown = w if since is None else np.mean(iterates[since:], axis=0)
        evaluated.append(shown)
        value = loss_of(shown)
        if since is None:
            t = len(logs)
            if t > WINDOW and value > min(logs[: t - WINDOW]):
                since = k
            logs.append(value)
    return evaluated, since


def test_averages_are_those_of_a_loop(x64):
    expected, since = descend(16)
    assert since is not None and 3 < since < 12
    optimizer = OPTIMIZERS["nt_asgd"](
        optax.constant_schedule(RATE), non_monotone=WINDOW, weight_decay=DECAY
    )

    @jit
    def update(w, state, slope):
        updates, state = optimizer.update(slope, state, w)
        return optax.apply_updates(w, updates), state

    w = jnp.array([1.0, -1.0])
    state, losses, begun = optimizer.init(w), [], None
    for k, wanted in enumerate(expected):
        w, state = update(w, state, slope_of(np.asarray(w), k))
        shown = np.asarray(averaged_params(w, state))
        np.testing.assert_allclose(shown, wanted, rtol=1e-12)
        losses.append(loss_of(shown))
        if begun is None and is_time_to_average(losses, WINDOW):
            begun, state = k, begin_average(state)
    assert begun == since
    average = find_average(state)
    assert average is not None and int(average.num_params) == 15 - since


@pytest.mark.parametrize(
    ("losses", "window", "expected"),
    [
        ([1.0, 2.0], 1, False),
        ([1.0, 2.0, 3.0], 1, True),
        ([2.0, 1.0, 2.0], 1, False),
        ([2.0, 1.0, 2.5], 1, True),
        ([3.0, 1.0, 1.0, 2.0], 2, False),
        ([1.0, 3.0, 3.0, 2.0], 2, True),
        ([1.0, 3.0, 3.0, 2.0], 3, False),
    ],
)
def test_the_last_loss_is_held_to_those_well_before_it(losses, window, expected):
    assert is_time_to_average(losses, window) is expected


def test_others_average_nothing():
    params = {"w": jnp.ones(2)}
    state = OPTIMIZERS["adam"](optax.constant_schedule(RATE)).init(params)
    assert find_average(state) is None
    assert averaged_params(params, state) is params


def begun_at(run):
    lines = [line for line in run.metrics if line["split"] == "validation"]
    return next(line["update"] for line in lines if line["averaging"])


@pytest.fixture
def whole(config, command):
    """A run that averages from some update on."""
    outcome = command("run", config, *OPTIONS, "--out", "whole")
    assert outcome.code == 0, outcome.err
    run = load_run("whole", "latest")
    assert 2 < begun_at(run) < 10
    assert (
        f"update {begun_at(run)}  the average of the parameters begins" in outcome.out
    )
    return run


@pytest.mark.slow
def test_what_is_measured_and_loaded_is_the_average(whole, config, command):
    experiment = build(load_config(config, OPTIONS))
    trainer, source = experiment.trainer, experiment.source
    state = trainer.init(jax.random.key(0), 2)
    update, iterates = jit(trainer.update), []
    for n in range(12):
        segment = jax.tree.map(lambda x: x[0], source.segments(n, 1))
        state, _ = update(state, segment)
        iterates.append(jax.device_get(state.params))
    since, best = begun_at(whole), load_run("whole")
    assert best.update is not None
    for found, which in ((whole, 12), (best, best.update)):
        first = since - 1 if which > since else which - 1
        mean = jax.tree.map(lambda *w: np.mean(w, axis=0), *iterates[first:which])
        for a, b in zip(*map(jax.tree.leaves, (found.params, mean)), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
        line = next(
            x
            for x in whole.metrics
            if x["split"] == "validation" and x["update"] == which
        )
        values = experiment.evaluator(found.params, experiment.split("validation"), 2)
        assert values["loss"] == pytest.approx(line["loss"], rel=1e-5)
    latest = whole.state
    for a, b in zip(*map(jax.tree.leaves, (latest.params, iterates[-1])), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    assert "validation loss" in command("eval", "whole").out


@pytest.mark.slow
@pytest.mark.parametrize("beside", [0, 1])
def test_a_stop_about_the_trigger_changes_no_byte(whole, beside, config, command):
    """The segment of an update is asked for before that of the one before is made."""
    at = begun_at(whole) + beside
    tiny.on_segment = lambda n: n == at and signal.raise_signal(signal.SIGTERM)
    try:
        assert command("run", config, *OPTIONS, "--out", "stopped").code == 143
    finally:
        tiny.on_segment = None
    assert [path.name for path in Path("stopped/checkpoints/latest").iterdir()] == [
        str(at)
    ]
    assert command("resume", "stopped").code == 0
    assert_same(load_run("stopped"), load_run("whole"))


def test_an_average_waits_for_evaluations(config, command):
    outcome = command("run", config, "optimizer.name=nt_asgd", "train.eval_every=")
    assert outcome.faults == [
        '[optimizer] name = "nt_asgd": waits for the validation loss, and '
        "train.eval_every is not set; set it"
    ]
