"""Parameters that stay as they are."""

import functools
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import chex
import jax
import numpy as np
import optax
import pytest

from jaxlstm.lab import UserError, load_run
from jaxlstm.lab.config import load_config
from jaxlstm.lab.experiment import build
from jaxlstm.lab.optimizers import make_trained
from tests.helpers import jit
from tests.lab import moods

TREE = {"recurrent": {"w": np.ones(2), "wide": np.ones(1)}, "readout": np.ones(3)}
MODEL: Any = SimpleNamespace(init=lambda key: TREE)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "nt_asgd"])
def test_frozen_parameters_stay_and_are_not_counted(optimizer, config):
    frozen = ["readout.b", "recurrent.layers.0.w_x"]
    load = functools.partial(load_config, config)
    options = [
        *("devices=1", f"optimizer.name={optimizer}", "optimizer.weight_decay=0.5")
    ]
    clip = "optimizer.clip.norm=1e-3"
    whole = build(load([*options, clip])).trainer
    part = build(load([*options, clip, f"optimizer.frozen={frozen}"]))
    state = part.trainer.init(jax.random.key(1), 2)
    segment = jax.tree.map(lambda x: x[0], part.source.segments(0, 1))
    after, metrics = jit(part.trainer.update)(state, segment)
    sums, _ = jit(whole.estimator.estimate)(state.params, state.estimator, segment)
    grads = jax.tree.map(lambda g: g / sums.weight, sums.grads)
    held = {"b": grads.readout.b, "w_x": grads.recurrent.layers[0].w_x}
    assert all(np.abs(g).max() > 0 for g in held.values())
    squares = optax.tree.norm(grads) ** 2 - optax.tree.norm(held) ** 2
    np.testing.assert_allclose(metrics.gradient_norm**2, squares, rtol=1e-5)
    before, now = state.params, after.params
    np.testing.assert_array_equal(now.readout.b, before.readout.b)
    np.testing.assert_array_equal(
        now.recurrent.layers[0].w_x, before.recurrent.layers[0].w_x
    )
    for name in ("w_h", "b"):
        was, is_now = (getattr(p.recurrent.layers[0], name) for p in (before, now))
        assert np.abs(was - is_now).max() > 0
    if optimizer == "nt_asgd":
        # A step along the gradient, clipped by the norm of what is trained alone.
        rate = 0.05
        w, g = before.readout.w, grads.readout.w
        expected = w - rate * (1e-3 * g / metrics.gradient_norm + 0.5 * w)
        np.testing.assert_allclose(now.readout.w, expected, rtol=1e-4, atol=1e-7)


def test_names_are_whole_as_far_as_a_dot():
    held = make_trained(["recurrent.w"], MODEL)(TREE)
    assert [float(np.sum(x)) for x in jax.tree.leaves(held)] == [3, 0, 1]
    held = make_trained(["recurrent"], MODEL)(TREE)
    assert [float(np.sum(x)) for x in jax.tree.leaves(held)] == [3, 0, 0]
    assert make_trained([], MODEL)(TREE) is TREE


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (["recurrent.wi"], r'"recurrent.wi" is no parameter; there are readout, rec'),
        ([""], '"" is no parameter; there are'),
        (["readout", "recurrent"], "no parameter is left to train; leave one out"),
    ],
)
def test_names_that_cannot_be_frozen_are_refused(frozen, message):
    with pytest.raises(UserError, match=rf"\[optimizer\] frozen: {message}"):
        make_trained(frozen, MODEL)


@pytest.mark.slow
def test_frozen_vectors_stay_over_a_stop(command, monkeypatch):
    Path("labels.txt").write_text("sad happy")
    Path("moods.toml").write_text(moods.CONFIG)
    options = [
        *("optimizer.name=adamw", "optimizer.weight_decay=0.5", "devices=1"),
        *("optimizer.frozen=['recurrent.embedding']", "task.vectors=2.0"),
        *("train.num_updates=6", "train.updates_per_call=1", "checkpoint.every=2"),
    ]
    assert command("run", "moods.toml", *options, "--out", "whole").code == 0
    draw = moods.Moods.split

    def split(self, name, **given):
        def segments(start, count):
            if name == "train" and start == 4:
                signal.raise_signal(signal.SIGTERM)
            return source.segments(start, count)

        source = draw(self, name, **given)
        return source._replace(segments=segments)

    with monkeypatch.context() as patch:
        patch.setattr(moods.Moods, "split", split)
        outcome = command("run", "moods.toml", *options, "--out", "stopped")
    assert outcome.code == 128 + signal.SIGTERM
    stopped = load_run("stopped", "latest")
    assert stopped.update == 4
    before = stopped.params
    assert command("resume", "stopped").code == 0
    whole, resumed = (load_run(run, "latest") for run in ("whole", "stopped"))
    assert whole.update == resumed.update == 6
    for params in (before, resumed.params, whole.params):
        embedding = params.recurrent.embedding
        np.testing.assert_array_equal(embedding[2:4], 2.0)
        np.testing.assert_array_equal(embedding, before.recurrent.embedding)
    w_h, later = (p.recurrent.layers[0].w_h for p in (before, resumed.params))
    assert np.abs(w_h - later).max() > 0
    chex.assert_trees_all_equal(resumed.params, whole.params)
