"""Runs: their files, and going on with one as if nothing had happened."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.lab import Reference, UserError, load_run
from jaxlstm.lab.evaluation import Evaluator
from jaxlstm.lab.plots import loss_curves
from tests.lab import tiny

RUN_FILES = {
    "config.toml",
    "run.json",
    "metrics.jsonl",
    "README.md",
    "checkpoints/latest/10",
    "checkpoints/latest/12",
    "checkpoints/best/12",
    "plots/loss.png",
}


def without_clock(run):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in run.metrics]


def assert_same(run, other):
    """Compares all that a run comes to but what depends on the clock."""
    chex.assert_trees_all_equal(run.params, other.params)
    for leaf, same in zip(
        jax.tree.leaves(run.state), jax.tree.leaves(other.state), strict=True
    ):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf, same = jax.random.key_data(leaf), jax.random.key_data(same)
        np.testing.assert_array_equal(leaf, same)
    assert without_clock(run) == without_clock(other)


@pytest.fixture
def on_segment(monkeypatch):
    """Sets what happens when a training segment is asked for."""

    def set_hook(hook):
        monkeypatch.setattr(tiny, "on_segment", hook)

    yield set_hook
    monkeypatch.setattr(tiny, "on_segment", None)


@pytest.fixture
def undisturbed(config, command):
    """A finished run."""
    outcome = command("run", config, "--out", "undisturbed")
    assert outcome.code == 0, outcome.err
    return load_run("undisturbed")


def test_finished_run(undisturbed, command, tmp_path):
    folder = tmp_path / "undisturbed"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert found >= RUN_FILES
    assert not found & {
        "checkpoints/latest/5",
        "checkpoints/best/6",
        "run.json.new",
        "metrics.new",
    }
    assert (folder / "plots/loss.png").read_bytes().startswith(b"\x89PNG")

    facts = json.loads((folder / "run.json").read_text())
    assert facts["status"] == "finished" and facts["seconds"] > 0
    assert facts["devices"]["count"] == 2
    assert {"jax", "jaxlstm", "python", "optax"} <= set(facts["versions"])
    assert facts["settings"]["model.hidden_size"] == 3
    assert "checkpoint.every" not in facts["settings"]

    lines = undisturbed.metrics
    assert [(line["update"], line["split"]) for line in lines] == [
        *((n, "train") for n in (3, 6)),
        (6, "validation"),
        *((n, "train") for n in (9, 12)),
        *((12, split) for split in ("validation", "test")),
    ]
    for line in lines:
        assert line["root"] == pytest.approx(line["loss"] ** 0.5)
        keys = {"update", "split", "loss", "root"}
        if line["split"] == "train":
            assert line.keys() == keys | {"gradient_norm", "seconds"}
            assert line["seconds"].keys() == {"elapsed", "updates_per_second"}
        else:
            assert line.keys() == keys | {"error"}

    readme = (folder / "README.md").read_text()
    # [2, 4 3], [3, 4 3] and [12] of the LSTM, [3, 1] and [1] of the readout.
    assert "1 x 3 lstm, 76 parameters, gradient by bptt, adam, 12 updates" in readme
    assert f"| test | loss | {lines[-1]['loss']:.6g} |" in readme
    assert "![loss](plots/loss.png)" in readme

    # It is read back, evaluated and drawn from its folder alone.
    assert undisturbed.config.resolved()["model"]["hidden_size"] == 3
    shapes = jax.eval_shape(undisturbed.model.init, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(undisturbed.params, shapes)
    evaluated = command("eval", "undisturbed")
    for line in lines[-2:]:
        for name in ("loss", "error", "root"):
            assert re.search(
                rf"^{line['split']} {name} +{re.escape(f'{line[name]:.6g}')} *$",
                evaluated.out,
                re.MULTILINE,
            )
    assert evaluated.out.count("loss") == 2
    assert re.search(r"^update +12 *$", evaluated.out, re.MULTILINE)
    only = command("eval", "undisturbed", "--split", "test").out
    assert "test loss" in only and "validation" not in only
    (folder / "plots/loss.png").unlink()
    assert command("plot", "undisturbed").out == "undisturbed/plots/loss.png\n"
    assert (folder / "plots/loss.png").read_bytes().startswith(b"\x89PNG")
    drawn = command("plot", "undisturbed", "undisturbed", "--out", "both.png")
    assert (drawn.code, drawn.out) == (0, "both.png\n")
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    resumed = command("resume", "undisturbed")
    assert resumed.code == 0 and "is finished" in resumed.out

    # What cannot be is said in a line, and changes nothing.
    before = sorted(tmp_path.rglob("*"))
    for tokens, message in [
        (
            ("eval", "undisturbed", "--split", "tset"),
            "split 'tset': the task has train",
        ),
        (
            ("eval", "undisturbed", "--split", "train"),
            "--split train: a stream without",
        ),
        (("plot", "undisturbed", "--out", "x.png"), "--out: one run's pictures go to"),
        (
            ("plot", "undisturbed", "undisturbed", "--out", "x.jpgg"),
            "--out x.jpgg: cannot be written: ",
        ),
        (
            ("run", "tiny.toml", "--out", "undisturbed"),
            "--out undisturbed: holds another run; go on with `jaxlstm resume",
        ),
    ]:
        outcome = command(*tokens)
        assert outcome.code == 2
        (line,) = outcome.faults
        assert line.startswith(message)
    assert sorted(tmp_path.rglob("*")) == before


def test_signal_stops_and_resume_goes_on(
    undisturbed, on_segment, config, command, tmp_path
):
    # At update 4, where neither a checkpoint nor a line is due. Segments are asked for
    # one call ahead: that with number 4 while the update of number 3 is under way.
    on_segment(lambda n: signal.raise_signal(signal.SIGTERM) if n == 4 else None)
    outcome = command("run", config, "train.updates_per_call=1", "--out", "stopped")
    assert outcome.code == 128 + signal.SIGTERM
    assert outcome.out.endswith("stopped; go on with: jaxlstm resume stopped\n")
    assert load_run("stopped").facts["status"] == "stopped"
    assert int(load_run("stopped").state.num_updates) == 4
    on_segment(None)
    assert command("resume", "stopped").code == 0
    assert_same(load_run("stopped"), undisturbed)
    assert load_run("stopped").facts["status"] == "finished"


@pytest.mark.slow
def test_failure_is_gone_on_from_the_last_checkpoint(
    undisturbed, on_segment, config, command
):
    class Broken(Exception):
        pass

    def fail(number):
        if number == 8:
            raise Broken

    on_segment(fail)
    with pytest.raises(Broken):
        command("run", config, "--out", "failed")
    run = load_run("failed")
    assert run.facts["status"] == "failed"
    assert int(run.state.num_updates) == 5
    # As if the process had been killed while it wrote a line.
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 7, "split": "train", "loss": 1.0}\n{"update": 8, "sp')
    on_segment(None)
    assert command("resume", "failed").code == 0
    assert_same(load_run("failed"), undisturbed)


@pytest.mark.slow
def test_failure_after_training_is_gone_on_from(
    undisturbed, config, command, monkeypatch
):
    def figures(self, run):
        raise OSError("no room for a picture")

    with monkeypatch.context() as patch:
        patch.setattr(tiny.Tiny, "figures", figures)
        with pytest.raises(OSError, match="no room"):
            command("run", config, "--out", "undrawn")
    assert load_run("undrawn").facts["status"] != "finished"
    assert command("resume", "undrawn").code == 0
    assert_same(load_run("undrawn"), undisturbed)


@pytest.mark.slow
def test_the_best_parameters_are_kept(config, command):
    """By a rate so high that the first evaluation is the best one."""
    options = "optimizer.learning_rate=3.0", "train.eval_every=1"
    assert command("run", config, *options, "--out", "out").code == 0
    run, latest = load_run("out"), load_run("out", "latest")
    losses = [line["loss"] for line in run.metrics if line["split"] == "validation"]
    best = 1 + int(np.argmin(losses))
    assert len(losses) == 12 and best < 12
    assert (run.update, latest.update) == (best, 12)

    # At the end, the best parameters are measured.
    (test,) = [line for line in run.metrics if line["split"] == "test"]
    assert test["update"] == best
    evaluated = command("eval", "out").out
    for value in (losses[best - 1], test["loss"]):
        assert f"{value:.6g}" in evaluated
    assert re.search(rf"^update +{best} *$", evaluated, re.MULTILINE)
    evaluated = command("eval", "out", "--checkpoint", "latest").out
    assert f"{losses[-1]:.6g}" in evaluated
    chex.assert_trees_all_equal(latest.params, jax.device_get(latest.state.params))
    readme = (run.path / "README.md").read_text()
    assert f"after update {best}, where the validation loss was lowest" in readme

    # They are those of a run that ends there.
    end = f"train.num_updates={best}"
    assert command("run", config, *options, end, "--out", "short").code == 0
    chex.assert_trees_all_equal(load_run("short", "latest").params, run.params)

    with pytest.raises(UserError, match="--checkpoint lates: did you mean latest"):
        load_run("out", "lates")


STUCK = (
    "optimizer.learning_rate=1e-30",
    "train.eval_every=2",
    "train.patience=2",
    "train.updates_per_call=1",
)


@pytest.mark.slow
def test_training_ends_when_patience_is_out(config, command, on_segment):
    assert command("run", config, *STUCK, "--out", "out").code == 0
    run = load_run("out")
    # The first evaluation is the best, and the next two are no better.
    assert [
        (line["update"], line["split"])
        for line in run.metrics
        if line["split"] != "train"
    ] == [*((n, "validation") for n in (2, 4, 6)), (2, "test")]
    assert run.update == 2 and int(run.state.num_updates) == 6
    assert run.facts["updates"] == 6
    assert "6 updates" in (run.path / "README.md").read_text()

    # So it does when the run was stopped on the way, or after its last update.
    on_segment(lambda n: signal.raise_signal(signal.SIGTERM) if n == 5 else None)
    command("run", config, *STUCK, "--out", "stopped")
    assert int(load_run("stopped").state.num_updates) == 5
    on_segment(None)
    assert command("resume", "stopped").code == 0
    load_run("stopped").note(status="failed")
    assert command("resume", "stopped").code == 0
    assert_same(load_run("stopped"), run)


def test_patience_needs_evaluations(config, command):
    text = config.read_text().replace("eval_every = 6", "patience = 2")
    config.write_text(text)
    (line,) = command("run", config).faults
    assert line == (
        f"{config}: [train] patience = 2: counts evaluations, and eval_every is not "
        "set; set it"
    )


@pytest.mark.slow
def test_best_checkpoint_of_what_was_undone_is_forgotten(
    undisturbed, on_segment, config, command
):
    """Killed after the best parameters were saved, and before the latest."""

    def fail_at(last):
        def fail(number):
            if number == last:
                raise RuntimeError

        on_segment(fail)

    options = "train.eval_every=3", "train.updates_per_call=1"
    fail_at(10)
    with pytest.raises(RuntimeError):
        command("run", config, *options, "--out", "failed")
    assert load_run("failed").update == 9
    assert load_run("failed", "latest").update == 5
    fail_at(7)
    with pytest.raises(RuntimeError):
        command("resume", "failed")
    assert load_run("failed").update == 6
    on_segment(None)
    command("run", config, *options, "--out", "whole")
    assert command("resume", "failed").code == 0
    assert_same(load_run("failed"), load_run("whole"))


@pytest.mark.slow
def test_signal_during_the_last_updates(
    undisturbed, on_segment, config, command, monkeypatch
):
    # One call makes all updates; its segments are asked for together.
    on_segment(lambda n: signal.raise_signal(signal.SIGINT) if n == 11 else None)
    options = "train.updates_per_call=2", "checkpoint.every=2"
    assert command("run", config, *options, "--out", "stopped").code == 130
    assert int(load_run("stopped").state.num_updates) == 10
    on_segment(None)
    evaluate = Evaluator.__call__

    def interrupted(*args, **options):
        signal.raise_signal(signal.SIGINT)
        return evaluate(*args, **options)

    # In the evaluation after the last update, and then while pictures are drawn.
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "__call__", interrupted)
        assert command("resume", "stopped").code == 130
    assert load_run("stopped").facts["status"] == "stopped"

    def interrupt(run):
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("jaxlstm.lab.session.draw_run", interrupt)
        outcome = command("resume", "stopped")
    assert outcome.code == 143
    assert outcome.out.endswith("stopped; go on with: jaxlstm resume stopped\n")
    assert load_run("stopped").facts["status"] == "stopped"
    assert command("resume", "stopped").code == 0
    chex.assert_trees_all_equal(load_run("stopped").params, undisturbed.params)
    assert load_run("stopped").facts["updates"] == 12


@pytest.mark.slow
def test_a_resumed_run_keeps_no_more_than_another(config, command, on_segment):
    options = "train.eval_every=2", "checkpoint.every=2", "train.updates_per_call=1"
    on_segment(lambda n: signal.raise_signal(signal.SIGTERM) if n == 5 else None)
    command("run", config, *options, "--out", "out")
    on_segment(None)
    assert command("resume", "out").code == 0
    folder = Path("out/checkpoints")
    assert {path.name for path in (folder / "latest").iterdir()} == {"10", "12"}
    (best,) = (folder / "best").iterdir()
    assert best.name == str(load_run("out").update)


def test_damaged_checkpoints_are_refused_by_name(undisturbed, command):
    folder = undisturbed.path / "checkpoints/best/12"
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(files) > 3
    for file in files:
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 4
        for damaged in (bytes(flipped), content[:-2], b""):
            file.write_bytes(damaged)
            (line,) = command("eval", "undisturbed").faults
            assert line.startswith(f"{folder}: is damaged: ")
            assert line.endswith("--checkpoint latest takes the latest one")
        file.write_bytes(content)
    (folder / "new").write_text("")
    (line,) = command("eval", "undisturbed").faults
    assert line.startswith(f"{folder}: is damaged: new is not what was saved")
    (folder / "new").unlink()
    assert command("eval", "undisturbed").code == 0


@pytest.mark.slow
def test_a_checkpoint_that_was_cut_short_does_not_count(undisturbed, config, command):
    (undisturbed.path / "checkpoints/latest/12/manifest.json").unlink()
    assert load_run("undisturbed", "latest").update == 10
    undisturbed.note(status="failed")
    outcome = command("resume", "undisturbed")
    assert outcome.code == 0
    assert outcome.faults == [
        "warning: undisturbed/checkpoints/latest/12: was cut short; the one before it "
        "is taken, 10"
    ]
    assert load_run("undisturbed", "latest").update == 12
    command("run", config, "--out", "other")
    assert_same(load_run("undisturbed"), load_run("other"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], ""),
        (None, ""),
        ({"import_path": 3}, ": import_path is missing or wrong"),
        ({"parts": {}}, r": parts\.input_size is missing or wrong"),
        ({"parts": {"input_size": 1, "output_size": 1, "symbols": 2}}, r": parts\.sym"),
        ({"data": None}, ": data is missing or wrong"),
        ({"status": 1}, ": status is missing or wrong"),
    ],
)
def test_damaged_facts_are_named(change, message, undisturbed, command):
    facts = {**undisturbed.facts, **change} if isinstance(change, dict) else change
    (undisturbed.path / "run.json").write_text(json.dumps(facts))
    for name in ("eval", "resume"):
        outcome = command(name, "undisturbed")
        assert outcome.code == 2
        (line,) = outcome.faults
        assert re.match(f"undisturbed/run.json: is damaged{message}", line)


def test_facts_that_are_no_text(undisturbed, command):
    (undisturbed.path / "run.json").write_bytes(b"\xff")
    (line,) = command("resume", "undisturbed").faults
    assert line.startswith("undisturbed/run.json: not JSON: ")


def test_data_that_moved_is_the_same(config, command, monkeypatch):
    for place in ("here", "there"):
        facts = {"source": place, "sha256": "5a"}
        monkeypatch.setattr(tiny.Tiny, "describe_data", lambda self, f=facts: f)
        if place == "here":
            assert command("run", config, "--out", "out").code == 0
    assert command("eval", "out").code == 0


def test_model_and_params_need_no_data(config, command, monkeypatch):
    assert command("run", config, "--out", "out").code == 0

    def gone(*args, **options):
        raise UserError("the data are gone")

    monkeypatch.setattr(tiny.Tiny, "split", gone)
    monkeypatch.setattr(tiny.Tiny, "parts", gone)
    run = load_run("out")
    state = run.model.initial_state(run.params, (2,))
    assert run.model.step is not None
    states = run.model.step(run.params.recurrent, state, jnp.ones((2, 2)))
    assert run.model.readout(run.params, states).shape == (2, 1)
    with pytest.raises(UserError, match="the data are gone"):
        _ = run.experiment


def test_data_that_has_changed_is_refused(config, command, monkeypatch):
    def describe(name):
        return lambda self: {"name": name, "symbols": 3}

    monkeypatch.setattr(tiny.Tiny, "describe_data", describe("a"))
    assert command("run", config, "--out", "out").code == 0
    assert "| name | a |" in Path("out/README.md").read_text()
    monkeypatch.setattr(tiny.Tiny, "describe_data", describe("b"))
    (line,) = command("eval", "out").faults
    assert line == (
        "out: the data has changed since the run began: name was a and is b; bring "
        "the data back, or begin a new run"
    )


def test_published_figures_are_lines(undisturbed, monkeypatch):
    references = Reference("theirs", 0.5, update=7), Reference("others'", 0.25)
    monkeypatch.setattr(tiny.Tiny, "references", lambda self: references)
    (axes,) = loss_curves([undisturbed, undisturbed]).axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(lines["theirs: 0.5"]) == [0.5, 0.5]
    assert list(lines["others': 0.25"]) == [0.25, 0.25]
    (marker,) = [line for line in axes.lines if line.get_marker() == "x"]
    np.testing.assert_array_equal(marker.get_xydata(), [[7, 0.5]])


def test_metrics_lost_after_the_last_update(undisturbed, command):
    undisturbed.note(status="failed")
    (undisturbed.path / "metrics.jsonl").unlink()
    outcome = command("resume", "undisturbed")
    assert outcome.code == 0
    assert outcome.faults == [
        "warning: undisturbed/metrics.jsonl: is not what it was after update 12; the "
        "best checkpoint and patience follow what is left of it"
    ]
    assert "test loss" in outcome.out and "last train" not in outcome.out


def test_loss_that_is_not_finite_stops_the_run(config, command):
    outcome = command(
        *("run", config, "--out", "out", "optimizer.learning_rate=1e30"),
        *("optimizer.name=sgd", "task.scale=1e12"),
    )
    assert outcome.code == 2
    (line,) = outcome.faults
    found = re.fullmatch(
        r"update (\d+): the (loss is|gradient is|parameters after it are) not finite; "
        r"its batch is in "
        r"(out/non_finite/update-\d+.npz), and the state before it is saved; lower "
        r"optimizer.learning_rate, or set optimizer.clip.norm or "
        r"optimizer.skip_non_finite, in out/config.toml, and go on with jaxlstm resume "
        r"out --allow-change optimizer",
        line,
    )
    assert found
    run, update = load_run("out"), int(found[1])
    assert run.facts["status"] == "failed"

    # The state before it, and the batch that it was made from.
    assert int(run.state.num_updates) == update - 1
    chex.assert_tree_all_finite(run.state.params)
    with np.load(found[3], allow_pickle=False) as batch:
        segment = run.experiment.source.segments(update - 1, 1)
        for name in ("inputs", "targets", "mask", "resets", "weights"):
            np.testing.assert_array_equal(batch[name], getattr(segment, name)[0])


def test_epochs_and_progress(config, command):
    text = config.read_text().replace("num_updates = 12", "num_epochs = 3")
    config.write_text(text)
    outcome = command("run", config, "task.num_segments=2", "--out", "out")
    assert int(load_run("out").state.num_updates) == 6
    number = r"[\d.e+-]+"
    assert re.match(
        rf"update 6/6  loss {number}  \d+ updates/s  0 s left\n", outcome.out
    )
    assert re.search(r"^run +out *$", outcome.out, re.MULTILINE)
    assert re.search(r"^pictures +out/plots/loss.png *$", outcome.out, re.MULTILINE)
    assert load_run("out").task.model_dump()["num_segments"] == 2


def test_run_is_named_after_its_config(config, command, tmp_path):
    assert command("run", config, "train.num_updates=1").code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"tiny-\d{8}-\d{6}", folder.name)


def test_folders_that_are_no_place_for_a_run(config, command, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    for out, message in [
        ("file", "--out file: is not an empty folder; name another one"),
        ("full", "--out full: is not an empty folder; name another one"),
        ("file/below", "--out file/below: file is no folder; name another one"),
    ]:
        outcome = command("run", config, "--out", out)
        assert (outcome.code, outcome.faults) == (2, [message])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["resume", "eval", "plot"])
def test_folders_that_are_no_run(name, config, command, tmp_path):
    outcome = command(name, "nowhere")
    assert (outcome.code, outcome.faults) == (2, ["nowhere: no such run directory"])
    folder = tmp_path / "folder"
    folder.mkdir()
    message = "folder: not a run directory; it has no {}"
    assert command(name, "folder").faults == [message.format("config.toml")]
    (folder / "config.toml").write_text(config.read_text())
    assert command(name, "folder").faults == [message.format("run.json")]
    (folder / "run.json").write_text("{")
    (line,) = command(name, "folder").faults
    # A picture is made of the metrics, which are read first.
    bad = "metrics.jsonl: no such file" if name == "plot" else "run.json: not JSON: "
    assert line.startswith(f"folder/{bad}")


def test_run_without_a_checkpoint(config, command, on_segment):
    def fail(number):
        raise UserError("the data are gone; fetch them anew")

    on_segment(fail)
    outcome = command("run", config, "--out", "out")
    assert outcome.faults == ["the data are gone; fetch them anew"]
    outcome = command("eval", "out")
    assert outcome.faults == [
        "out/checkpoints: holds no checkpoint; `jaxlstm resume` begins anew"
    ]
    outcome = command("resume", "out")
    assert outcome.faults == ["the data are gone; fetch them anew"]


def test_ctrl_c_outside_of_the_loop_is_quiet(config, command, on_segment):
    def interrupt(number):
        raise KeyboardInterrupt

    on_segment(interrupt)
    outcome = command("run", config, "--out", "out")
    assert (outcome.code, outcome.err) == (130, "")


@pytest.mark.slow
def test_ctrl_c_in_a_process_of_its_own(config, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(tiny.ROOT)}
    command = [sys.executable, "-m", "jaxlstm"]
    long = ["train.num_updates=1000000", "train.updates_per_call=10"]
    with subprocess.Popen(
        [*command, "run", config, "--out", "out", *long],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        metrics = tmp_path / "out" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (metrics.is_file() and metrics.read_text()):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.endswith("stopped; go on with: jaxlstm resume out\n")
    run = load_run("out")
    assert run.facts["status"] == "stopped"
    assert 0 < int(run.state.num_updates) < 1_000_000


def test_path_that_cannot_be_read_back_is_refused(config, command):
    outcome = command("run", config, "--out", "lr[0.1]")
    (fault,) = outcome.faults
    assert outcome.code == 2
    assert fault.startswith("--out lr[0.1]: ") and "name another folder" in fault


def test_run_is_read_by_the_modules_it_was_made_with(config, command, monkeypatch):
    assert command("run", config, "--out", "out").code == 0
    other = config.parent / "other" / "tests" / "lab"
    other.mkdir(parents=True)
    (other / "tiny.py").write_text("raise RuntimeError('the wrong module')\n")
    monkeypatch.chdir(config.parent / "other")
    folders = [Path(name) for name in load_run("../out").facts["import_path"]]
    assert load_run("../out").config.sections.task.use
    # In their order, and not in the way of what is installed.
    looked = [Path(name) for name in sys.path]
    places = [looked.index(folder) for folder in dict.fromkeys(folders)]
    assert places == sorted(places) and Path.cwd() not in folders
