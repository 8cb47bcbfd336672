"""The benchmarks: that they compare first, take turns, and report what was measured.

No test looks at a time: contests of toys are held here, and each benchmark at a tiny
size.
"""

import dataclasses
import importlib.metadata
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import rtrl, worker
from benchmarks.base import Benchmark, Contestant, Need, Prepared, Work
from benchmarks.contest import BenchmarkError, Measurement, Result, hold
from benchmarks.report import Spread, describe_machine, summarise, to_json, to_table
from benchmarks.run import choose_size, parse_arguments
from benchmarks.table import BENCHMARKS
from jaxlstm.lab.errors import UserError

ROOT = Path(__file__).parents[1]
TINY = {
    "training_step": "T=4,B=2,X=3,H=5",
    "linear_recurrence": "T=4,B=2,X=3,H=5",
    "flax_modules": "T=4,B=2,X=3,H=5",
    "small_net": "T=4,B=2,H=5,updates=3",
    "sampling": "N=20,X=5,H=4",
    "tiny_shakespeare": "T=4,B=2,X=6,H=5,updates=3",
    # Epochs of two segments: the state begins anew now and then.
    "time_machine": "T=4,B=1000,X=6,H=32,updates=5",
}


def prepare_toy(
    size, *, factor=1.0, rows=0, dtype="float32", quantities="ab", names="xy"
):
    """Counts to N; what is wrong with a toy is among its options."""
    print("what a library prints is no answer")

    def count():
        return factor * np.arange(size["N"] + rows, dtype=dtype)

    work = Work(count, lambda counted: dict.fromkeys(names, counted), 2)
    return Prepared(dict.fromkeys(quantities, work), device="toy")


def fail(size):
    raise RuntimeError("the toy is broken")


def refuse(size):
    raise UserError(f"N = {size['N']}: is too much", "and so is the rest")


def toy(name, use="prepare_toy", *, needs=(), targets=None, **options):
    return Contestant(
        name=name,
        use=f"tests.test_benchmarks:{use}",
        options=options,
        needs=needs,
        targets=targets or {},
    )


def contest(*contestants, **changes):
    benchmark = Benchmark(
        name="toys",
        summary="counting",
        unit="count",
        sizes={"small": {"N": 3}, "large": {"N": 30}},
        quantities=("a", "b"),
        contestants=contestants,
        baseline=contestants[0].name,
        tolerance=1e-3,
    )
    return dataclasses.replace(benchmark, **changes)


def run_contest(benchmark, rounds=1):
    said = []
    size = benchmark.default_size
    return hold(benchmark, size, rounds=rounds, seconds=0, say=said.append), said


@pytest.mark.slow
def test_contestants_take_turns():
    near = toy("near", factor=1 + 1e-5)
    only_b = toy("only b", quantities="b")
    result, said = run_contest(contest(toy("first"), near, only_b), rounds=2)
    order = [(m.round, m.quantity, m.contestant) for m in result.measurements]
    one_round = [
        ("a", "first"),
        ("a", "near"),
        ("b", "first"),
        ("b", "near"),
        ("b", "only b"),
    ]
    assert order == [(n, *turn) for n in (0, 1) for turn in one_round]
    assert all(m.seconds > 0 and m.runs >= 1 for m in result.measurements)
    assert result.differences == {
        "near": pytest.approx(1e-5, rel=0.05),
        "only b": 0.0,
    }
    assert result.devices == {"first": "toy", "near": "toy", "only b": "toy"}
    assert len(said) == 3 + 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (toy("wrong", factor=1.01), "a/x differs from that of first by 0.01 of"),
        (toy("wrong", factor=math.nan), "a/x differs from that of first by inf"),
        (toy("wrong", rows=1), "a/x differs"),
        (toy("wrong", dtype="float64"), "a/x differs"),
        (toy("wrong", names="x"), "a/y differs"),
        (toy("wrong", names="xyz"), "a/z differs"),
        (toy("wrong", quantities="c"), "c/x differs"),
        (toy("wrong", quantities=""), "outputs differs"),
    ],
)
def test_other_outputs_are_refused(wrong, message):
    with pytest.raises(BenchmarkError, match=f"^wrong: its {message}"):
        run_contest(contest(toy("first"), wrong))


def test_times_are_of_one_unit(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(worker.time, "perf_counter", lambda: float(next(clock)))
    runs = []
    work = Work(lambda: runs.append(None), lambda _: {}, units=4)
    # Every run takes a second of this clock; the first is a warm-up.
    assert worker.measure(work, 2.5) == {"seconds": 0.25, "runs": 3}
    assert len(runs) == 4
    assert worker.measure(work, 0.0)["runs"] == 1


@pytest.mark.slow
def test_failing_contestant_is_named(capfd):
    broken = toy("broken", "fail")
    with pytest.raises(
        BenchmarkError, match=r"^broken: its process ended with exit code 1"
    ):
        run_contest(contest(toy("first"), broken))
    assert "the toy is broken" in capfd.readouterr().err


def test_a_refusal_is_told_without_a_traceback(capfd):
    refusing = toy("refusing", "refuse")
    with pytest.raises(
        BenchmarkError, match=r"^refusing: its process ended with exit code 2"
    ):
        run_contest(contest(refusing))
    assert capfd.readouterr().err.splitlines() == [
        "tests.test_benchmarks:refuse: N = 3: is too much",
        "tests.test_benchmarks:refuse: and so is the rest",
    ]


def test_absent_contestant_is_left_out():
    absent = toy("absent", needs=(Need("numpy", "lab"), Need("no-such-peer", "peers")))
    result, _ = run_contest(contest(absent, toy("first")))
    reason = "no-such-peer not installed; pip install -e '.[peers]'"
    assert result.left_out == {"absent": reason}
    assert {m.contestant for m in result.measurements} == {"first"}
    assert f"left out: absent: {reason}" in to_table(result, describe_machine(), 1)
    # It was the baseline: there is nothing to be faster than.
    assert all(row.times_as_fast is None for row in summarise(result))
    assert "times as fast: as absent" not in to_table(result, describe_machine(), 1)


def test_contest_of_nobody_is_refused():
    absent = toy("absent", needs=(Need("no-such-peer", "peers"),))
    with pytest.raises(BenchmarkError, match=r"nobody .* '\.\[peers\]'"):
        run_contest(contest(absent))


def make_result(size):
    """Returns a contest in which the second is 3, 2 and 4 times as fast."""
    benchmark = contest(toy("slow"), toy("fast", targets={"a": 3.5, "b": 1.0}))
    seconds = {"slow": [3e-3, 8e-3, 8e-3], "fast": [1e-3, 4e-3, 2e-3]}
    measurements = [
        Measurement(n, "a", name, values[n], runs=5)
        for n in range(3)
        for name, values in seconds.items()
    ]
    devices = {"slow": "toy", "fast": "toy"}
    return Result(benchmark, size, devices, {}, {"fast": 1e-6}, {}, measurements)


def test_ratios_are_those_within_one_round():
    slow, fast = summarise(make_result({"N": 3}))
    assert slow.seconds == Spread(8e-3, 3e-3, 8e-3)
    assert slow.times_as_fast == Spread(1.0, 1.0, 1.0)
    assert fast.seconds == Spread(2e-3, 1e-3, 4e-3)
    # The ratio of the medians would be 4.
    assert fast.times_as_fast == pytest.approx((3.0, 2.0, 4.0))
    assert (slow.target, fast.target) == (None, 3.5)


def test_targets_hold_at_the_first_size():
    _, fast = summarise(make_result({"N": 30}))
    assert fast.target is None


def test_table_states_what_figures_depend_on():
    machine = describe_machine()
    table = to_table(make_result({"N": 3}), machine, 3)
    for fact in (
        "toys: counting",
        "N=3, float32, rounds: 3",
        f"{machine['cpu']}, {machine['cores']} cores",
        f"Python {machine['python']}",
        "outputs differ by at most 1e-06",
        "times as fast: as slow",
    ):
        assert fact in table
    [row] = [line for line in table.splitlines() if line.startswith("  fast")]
    cells = [cell.strip() for cell in row.split("  ") if cell]
    assert cells == [
        "fast",
        "2 ms",
        "1 ms .. 4 ms",
        "500",
        "3.00",
        "2.00 .. 4.00",
        "3.5 missed",
        "toy",
    ]


def test_sizes_by_name_or_axis():
    benchmark = contest(toy("first"), sizes={"s": {"T": 1, "B": 2}, "l": {"T": 9}})
    assert choose_size(benchmark, None) == {"T": 1, "B": 2}
    assert choose_size(benchmark, "l") == {"T": 9}
    assert choose_size(benchmark, "B=7") == {"T": 1, "B": 7}
    assert choose_size(benchmark, "B=7,T=3") == {"T": 3, "B": 7}
    for wrong in ("huge", "", "T", "T=0", "T=-1", "T=x", "H=3"):
        with pytest.raises(ValueError, match=f"^--size {wrong}: toys has s, l, or"):
            choose_size(benchmark, wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["training_steps"], "training_steps: no such benchmark; there are"),
        (["--rounds", "0"], "--rounds 0: use 1 or more"),
        (["--seconds", "-1"], "--seconds -1.0: use 0 or more"),
        (["training_step", "--size", "huge"], "training_step has medium, small"),
        (["--out", "no/such/folder/file.json"], "no folder no/such/folder"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_arguments(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_rows_name_one_baseline():
    for benchmark in BENCHMARKS.values():
        names = [contestant.name for contestant in benchmark.contestants]
        assert len(names) == len(set(names))
        assert benchmark.baseline in names
        targets = {q for c in benchmark.contestants for q in c.targets}
        assert targets <= set(benchmark.quantities)


def is_installed(need):
    try:
        return bool(importlib.metadata.version(need.package))
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_runs(name, tmp_path):
    out = tmp_path / "figures.json"
    size = ["--size", TINY[name], "--rounds", "1", "--seconds", "0"]
    done = subprocess.run(
        [sys.executable, "benchmarks/run.py", name, *size, "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    benchmark = BENCHMARKS[name]
    present = {
        contestant.name
        for contestant in benchmark.contestants
        if all(map(is_installed, contestant.needs))
    }
    [result] = report["results"]
    assert report["rounds"] == 1
    assert report["machine"].keys() == describe_machine().keys()
    assert result.keys() == to_json(make_result({"N": 3})).keys()
    assert result["size"] == choose_size(benchmark, TINY[name])
    assert set(result["devices"]) == present
    assert set(result["left_out"]) == {c.name for c in benchmark.contestants} - present
    assert {"jax", "numpy"} <= set(result["versions"])
    assert len(result["differences"]) == len(present) - 1
    turns = {(m["quantity"], m["contestant"]) for m in result["measurements"]}
    assert turns == {(q, c) for q in benchmark.quantities for c in present}
    assert len(result["measurements"]) == len(result["summary"]) == len(turns)
    assert all(m["seconds"] > 0 and m["runs"] == 1 for m in result["measurements"])
    for contestant in present:
        assert f"  {contestant}  " in done.stdout


@pytest.mark.slow
def test_rtrl_is_set_against_its_operations(capsys, monkeypatch):
    monkeypatch.setattr(rtrl, "LARGE", 8)
    rtrl.main(["--size", "T=3,B=2,X=3,H=4", "--rounds", "1", "--devices", "2"])
    first, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("T=3,B=2,X=3,H=4, 2 devices")
    rate, milliseconds, ratio = (float(row[32:41]) for row in rows)
    assert milliseconds > 0
    assert rate >= 0 and ratio >= 0


@pytest.mark.parametrize("size", ["T=3", "T=3,B=2,X=3,H=0", "T=3,B=2,X=3,H=a"])
def test_rtrl_refuses_other_sizes(size, capsys):
    with pytest.raises(SystemExit):
        rtrl.main(["--size", size])
    assert "write sizes above 0 as T=20,B=8,X=32,H=64" in capsys.readouterr().err
