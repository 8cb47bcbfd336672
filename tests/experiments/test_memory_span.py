"""The sweep over lags: its runs are those of the laboratory; where it stops."""

import functools
import json
from typing import Any

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from benchmarks import memory_span
from benchmarks.memory_picture import draw
from benchmarks.memory_span import (
    Point,
    find_failure,
    initial_norm,
    main,
    measure,
    prepare,
    sweep,
)
from jaxlstm.lab import load_run
from jaxlstm.lab.commands import main as lab
from tests.experiments.test_sine_cosine import ROOT
from tests.helpers import jit

SMALL = "model.hidden_size=5", "train.batch_size=4"


def point(lag, *accuracy):
    return Point(lag, 1e-3, list(accuracy), [1.0], 0.5, 1.0)


def test_sweep_ends_where_every_seed_fails():
    reached = {5: (1.0, 1.0), 10: (0.9, 0.2), 20: (0.89, 0.1), 40: (1.0, 1.0)}
    points = list(sweep(reached, lambda lag: point(lag, *reached[lag])))
    assert [p.lag for p in points] == [5, 10, 20]
    assert find_failure(points) == 10
    assert find_failure(points[:1]) is None


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_initial_norm_is_that_of_the_whole_jacobian(cell):
    """By one derivative of the last state by the one that the first step leaves."""
    (run,) = prepare("recall", cell, 3, 1, SMALL)
    model: Any = run.trainer.model
    params = run.trainer.init(jax.random.key(0), 4).params
    segment = jax.tree.map(lambda x: x[0], run.source.segments(0, 1))

    def step(state, x):
        return model.step(params.recurrent, state, x)

    def jacobian(inputs):
        start = step(model.initial_state(params, ()), inputs[0])
        flat, unravel = ravel_pytree(start)

        def last(flat):
            return ravel_pytree(functools.reduce(step, inputs[1:], unravel(flat)))[0]

        return jax.jacobian(last)(flat)

    norms = np.linalg.norm(jit(jax.vmap(jacobian))(segment.inputs.T), 2, axis=(1, 2))
    # The middle two of four are averaged as logarithms.
    expected = np.exp(np.median(np.log(norms)))
    assert initial_norm([run], [params]) == pytest.approx(expected, rel=1e-5)


def test_picture_has_what_the_files_hold():
    accuracies = {"rnn": [(1.0, 0.8), (0.2, 0.4)], "lstm": [(1.0, 1.0)]}
    cells = {
        cell: [
            point(lag, *x)._asdict() for lag, x in zip((5, 10), values, strict=False)
        ]
        for cell, values in accuracies.items()
    }
    result = {
        "task": "recall",
        "num_seeds": 2,
        "num_updates": 1000,
        "words": ["steps between", "symbols"],
        "guessed": 0.125,
        "cells": cells,
    }
    left, right = draw([result, result | {"task": "adding"}]).axes
    assert (left.get_title()[:6], right.get_title()[:6]) == ("Recall", "Adding")
    assert left.get_xlabel() == "steps between"
    lines: Any = {line.get_label(): line.get_ydata() for line in left.lines}
    np.testing.assert_allclose(lines["RNN"], [0.9, 0.3])
    np.testing.assert_allclose(lines["LSTM"], [1.0])
    np.testing.assert_allclose(lines["90%"], 0.9)
    np.testing.assert_allclose(lines["guessed"], 0.125)
    drawn = np.concatenate([line.get_ydata() for line in left.lines])
    assert all(np.isin(x, drawn).all() for x in accuracies.values())


@pytest.mark.slow
@pytest.mark.parametrize(("task", "lag"), [("recall", 3), ("adding", 20)])
def test_runs_are_those_of_the_laboratory(task, lag, tmp_path, monkeypatch):
    """A rate of its own is a factor on the updates: the same but for rounding."""
    found = measure(
        *(task, "gru", lag),
        **{"rates": [1e-4, 0.02], "num_seeds": 2, "num_updates": 130},
        overrides=SMALL,
    )
    monkeypatch.chdir(tmp_path)
    path = str(ROOT / f"configs/{task}.toml")
    overrides = *SMALL, *memory_span.TASKS[task].overrides(lag), "model.cell=gru"
    common = *overrides, "train.num_updates=130", "devices=1", "train.eval_every="
    ran = {}
    for rate, seed in ((1e-4, 0), (0.02, 0), (0.02, 1)):
        out = f"{rate}-{seed}"
        rest = f"optimizer.learning_rate={rate}", f"seed={seed}", "--out", out
        lab(["run", path, *common, *rest])
        lines = {line["split"]: line for line in load_run(out).metrics}
        ran[rate, seed] = lines["validation"]["loss"], lines["test"]["accuracy"]
    tuning: Any = found.tuning
    expected = [ran[rate, 0][0] for rate in (1e-4, 0.02)]
    np.testing.assert_allclose(tuning, expected, rtol=1e-3)
    assert found.rate == 0.02
    # Of 400 sequences, rounding may turn a few.
    np.testing.assert_allclose(
        found.accuracy, [ran[0.02, seed][1] for seed in (0, 1)], atol=0.01
    )


@pytest.mark.slow
def test_script_measures_and_draws(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # At the first rate nothing is learnt.
    small = "--lags 2 3 --seeds 2 --updates 100 --rates 1e-9 3e-2 --set".split()
    options = "model.hidden_size=8", "task.num_symbols=2", "--cells", "rnn", "gru"
    main([*small, *options, "--out", "found.json"])
    printed = capsys.readouterr().out.splitlines()
    result = json.loads((tmp_path / "found.json").read_text())
    assert list(result["cells"]) == ["rnn", "gru"]
    for points in result["cells"].values():
        assert [p["lag"] for p in points] == [2, 3]
        assert all(p["rate"] == 3e-2 and min(p["accuracy"]) > 0.9 for p in points)
    assert len(printed) == 1 + 2 * 3
    assert printed[3] == "rnn     under 90% on average: at no lag"
    main(["--draw", "found.json", "--out", "picture.png"])
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "copy"], "invalid choice: 'copy'"),
        (["--updates", "0"], "--updates 0: is not positive"),
        (["--seeds", "0"], "--seeds 0: is not positive"),
        (["--rates", "1e-3", "-1"], "--rates -1: is not positive"),
        (["--lags", "0"], "lag = 0"),
        (["--cells", "lstn"], "did you mean lstm?"),
        (["--set", "model.hidden=5"], "did you mean"),
        (["--draw", "absent.json"], "name the picture with --out FILE"),
        (["--draw", "absent.json", "--out", "x.png"], "No such file"),
    ],
)
def test_script_refuses_what_it_cannot_do(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
