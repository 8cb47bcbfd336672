"""What estimates cost, beside what the device says, and what is refused beforehand."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxlstm.diagnostics.operations import count_operations
from jaxlstm.lab import UserError, memory
from jaxlstm.lab.comparison import costs
from jaxlstm.lab.comparison.costs import check_feasible, measure
from jaxlstm.lab.comparison.problem import Member, Problem, Snapshot
from jaxlstm.lab.config import load_config
from jaxlstm.lab.experiment import build
from tests.helpers import draw_like

GIB = 2**30
B, T, X, H, Y = 2, 4, 2, 3, 1


def make_problem(config: Path, *members: str, **overrides: Any) -> Problem:
    experiment = build(load_config(config, [f"{k}={v}" for k, v in overrides.items()]))
    shapes = jax.eval_shape(experiment.trainer.model.init, jax.random.key(0))
    params = jax.tree.map(np.float32, draw_like(shapes, 0))
    named = tuple(Member(name, name, {}) for name in members)
    return Problem(experiment, named, (Snapshot(0, params),))


def limit(monkeypatch: pytest.MonkeyPatch, size: int | None) -> None:
    monkeypatch.setattr(memory, "memory_limit", lambda: size)


def test_influence_that_does_not_fit_is_refused_unmade(
    config: Path, monkeypatch: pytest.MonkeyPatch
):
    problem = make_problem(config, "rtrl", **{"model.hidden_size": 60})
    # B S P floats of float64, with S = 2H and P of the layer and the readout.
    params = 4 * 60 * (X + 60 + 1)
    influence = 8 * B * 120 * params
    limit(monkeypatch, influence)
    # What would be lowered is not looked at.
    monkeypatch.setattr(costs, "as_dtype", None)
    reason = check_feasible(problem, problem.members[0])
    words = r"would take at least (.+) MiB of memory, and there are (.+) MiB"
    found = re.fullmatch(words, reason or "")
    assert found is not None
    taken, there = map(float, found.groups())
    assert there == pytest.approx(influence / 2**20, abs=0.1)
    assert influence < taken * 2**20 < 1.02 * influence + 20 * params


def test_what_cannot_be_known_is_not_refused(
    config: Path, monkeypatch: pytest.MonkeyPatch
):
    problem = make_problem(config, "rtrl", **{"model.hidden_size": 10})
    limit(monkeypatch, None)
    assert check_feasible(problem, problem.members[0]) is None


@pytest.mark.slow
def test_what_the_compiled_call_needs_is_refused(
    config: Path, monkeypatch: pytest.MonkeyPatch
):
    options = {"train.segment_length": 2000, "model.hidden_size": 8}
    problem = make_problem(config, "bptt", "eprop", **options)
    limit(monkeypatch, 64 * GIB)
    assert [check_feasible(problem, member) for member in problem.members] == [None] * 2
    # The states of 2,000 steps alone take that much, and those of eprop are not kept.
    limit(monkeypatch, 8 * 2000 * B * 2 * 8)
    reasons = [check_feasible(problem, member) for member in problem.members]
    assert reasons[0] is not None and "and there are 500.0 KiB" in reasons[0]
    assert reasons[1] is None


def test_a_member_that_does_not_take_the_model_is_a_fault(config: Path):
    problem = make_problem(config, "rflo")
    with pytest.raises(UserError, match="rflo"):
        check_feasible(problem, problem.members[0])


@pytest.mark.slow
def test_figures_are_those_of_the_compiled_call(
    config: Path, monkeypatch: pytest.MonkeyPatch
):
    told = []
    problem = make_problem(config, "bptt", "rtrl")._replace(progress=told.append)
    part = measure(problem, lengths=[2, 8, 14], repeats=3)
    values = part.values
    assert (values["segment_length"], values["batch_size"]) == (T, B)
    assert list(values["members"]) == ["bptt", "rtrl"]
    assert values["scaling"]["lengths"] == [2, 8, 14]
    model, flops = problem.model(), None
    params = problem.snapshots[0].params
    for member in problem.members:
        estimator = problem.estimator(member, model)
        state = estimator.init(params, (B,), jax.random.key(0))
        arguments = params, state, problem.window(0, 1)[0]
        found = values["members"][member.label]
        compiled = jax.jit(estimator.estimate).lower(*arguments).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        assert found["temporary_bytes"] == analysis.temp_size_in_bytes > 0
        flops = count_operations(estimator.estimate, *arguments).flops
        assert found["flops"] == flops
        assert found["compile_seconds"] > 0
        seconds = found["seconds"]
        assert 0 < seconds["low"] <= seconds["median"] <= seconds["high"]
        scaling = values["scaling"]["members"][member.label]
        assert len(scaling["seconds"]) == 3 and min(scaling["seconds"]) > 0
        both = zip(scaling["seconds"], scaling["seconds_median"], strict=True)
        assert all(least <= median for least, median in both)
        short, middle, long = scaling["flops"]
        assert long - middle == middle - short > 0
    # h and c, the influence of P weights on both, two keys, the number of the step.
    hidden = 4 * B * 2 * H
    influence = hidden * 4 * H * (X + H + 1)
    carried = [values["members"][name]["carried_bytes"] for name in ("bptt", "rtrl")]
    assert carried == [hidden + 16 * B + 4, hidden + influence + 16 * B + 4]
    assert told[0] == "compiling bptt, 2 steps"
    assert "compiling rtrl, 14 steps" in told

    # What would not fit is not run.
    limit(monkeypatch, 1)
    values = measure(problem, lengths=[2], repeats=1).values
    nothing = {"median": None, "low": None, "high": None}
    assert values["members"]["rtrl"]["seconds"] == nothing
    assert values["scaling"]["members"]["rtrl"]["seconds"] == [None]
    assert values["members"]["rtrl"]["flops"] == flops


def test_nothing_is_taken_from_a_cache(tmp_path: Path):
    def entries() -> int:
        return len(list(tmp_path.iterdir()))

    def compile_one(scale: float) -> None:
        jax.jit(lambda x: x * scale).lower(1.0).compile()

    folder = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    with costs.nothing_cached():
        compile_one(3.0)
        assert not jax.config.values["jax_enable_compilation_cache"]
    assert entries() == 0
    try:
        compile_one(5.0)
        assert entries() > 0
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)
        with costs.nothing_cached():
            pass
