"""Going on with a run: what it is held to, what it falls back to, what is skipped."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import pytest

from jaxlstm.cells import make_rnn
from jaxlstm.lab import UserError, load_run
from jaxlstm.lab.checkpoints import Checkpoints, DamagedCheckpoint
from jaxlstm.lab.fingerprint import Change, check_changes
from jaxlstm.lab.finite import Guard, NotFinite
from jaxlstm.lab.lock import hold, is_locked
from jaxlstm.lab.manifest import MANIFEST, make_manifest
from jaxlstm.lab.signals import Interrupted, StopRequest
from jaxlstm.lab.training import Metrics, TrainState
from tests.lab import tiny
from tests.lab.test_runs import assert_same


@pytest.fixture
def stopped(config, command, monkeypatch):
    """A run that was stopped after update 5."""
    signals = {5: signal.SIGTERM}
    monkeypatch.setattr(
        tiny, "on_segment", lambda n: n in signals and signal.raise_signal(signals[n])
    )
    options = "train.updates_per_call=1", "logging.every=4"
    assert command("run", config, *options, "--out", "stopped").code == 143
    monkeypatch.setattr(tiny, "on_segment", None)
    return load_run("stopped")


def edit(run, old, new):
    path = run.path / "config.toml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_a_changed_key_is_refused_by_name_and_allowed_by_name(stopped, command):
    edit(stopped, "learning_rate = 0.05", "learning_rate = 0.5")
    edit(stopped, "every = 4", "every = 3")
    before = {p: p.read_bytes() for p in stopped.path.rglob("*") if p.is_file()}
    outcome = command("resume", "stopped")
    assert outcome.code == 2
    assert outcome.faults == [
        f"stopped: {key} was {was} when the run began and is {now}; bring it back, or "
        f"go on, no longer to the same bytes, with --allow-change {key}"
        for key, was, now in [
            ("optimizer.learning_rate", 0.05, 0.5),
            ("logging.every", 4, 3),
        ]
    ]
    assert before == {p: p.read_bytes() for p in stopped.path.rglob("*") if p in before}
    assert load_run("stopped").facts["status"] == "stopped"

    (line,) = command("resume", "stopped", "--allow-change", "optimizer").faults
    assert "logging.every was 4" in line
    outcome = command(
        *("resume", "stopped", "--allow-change", "optimizer"),
        *("--allow-change", "logging.every"),
    )
    assert outcome.code == 0
    assert "stopped: optimizer.learning_rate is now 0.5, and was 0.05\n" in outcome.out
    run = load_run("stopped")
    assert run.facts["changes"] == [
        {"update": 5, "key": "optimizer.learning_rate", "was": 0.05, "now": 0.5},
        {"update": 5, "key": "logging.every", "was": 4, "now": 3},
    ]
    assert run.facts["settings"]["optimizer.learning_rate"] == 0.5
    assert [x["update"] for x in run.metrics if x["split"] == "train"] == [4, 6, 9, 12]


@pytest.mark.slow
def test_keys_without_effect_may_change(stopped, config, command):
    edit(stopped, "every = 5", "every = 2")
    edit(stopped, "updates_per_call = 1", "updates_per_call = 3")
    assert command("resume", "stopped").code == 0
    command("run", config, "logging.every=4", "--out", "whole")
    assert_same(load_run("stopped"), load_run("whole"))


@pytest.mark.parametrize(
    ("group", "key", "was"),
    [
        ("versions", "jax", "0.0.1"),
        ("flags", "XLA_FLAGS", "--xla_cpu_enable_fast_math=true"),
        ("devices", "cores", 3),
        ("devices", "instructions", "z80"),
    ],
)
def test_other_surroundings_are_refused(group, key, was, stopped, command):
    facts = {**stopped.facts, group: {**stopped.facts[group], key: was}}
    stopped.note(**facts)
    (line,) = command("resume", "stopped").faults
    assert line.startswith(f"stopped: {group}.{key} was {was!r} when the run began")
    assert line.endswith(f"--allow-change {group}.{key}")
    stopped.note_changes(stopped.check_unchanged([group]), 5)
    assert load_run("stopped").facts[group][key] != was


def test_what_is_allowed_has_to_be_there(stopped, command):
    for key in ("optimizer.lerning_rate", "device", "checkpoint.every"):
        (line,) = command("resume", "stopped", "--allow-change", key).faults
        assert line.startswith(
            f"--allow-change {key}: is no key of a config and no part of the "
            "fingerprint in run.json; "
        )


def test_what_is_allowed_is_named_whole():
    changes = [Change("train.num_updates_more", 1, 2), Change("train.seed", 1, 2)]
    with pytest.raises(UserError) as caught:
        check_changes("run", changes, ["train.num_updates", "train.seed"])
    (line,) = caught.value.lines
    assert line.startswith("run: train.num_updates_more was 1 when the run began")
    check_changes("run", changes, ["train"])


def test_another_model_is_refused_by_the_leaf(stopped, command):
    edit(stopped, "hidden_size = 3", "hidden_size = 4")
    outcome = command("resume", "stopped", "--allow-change", "model.hidden_size")
    assert outcome.code == 2
    assert outcome.faults[0] == (
        "stopped/checkpoints/latest/5: recurrent.layers[0].w_x is float32[2, 12], and "
        "the config asks for float32[2, 16] (and 3 leaves more); bring config.toml "
        "back to what the run began with"
    )
    # What was allowed and did not come to pass is not noted.
    assert load_run("stopped").facts["settings"]["model.hidden_size"] == 3
    assert "changes" not in load_run("stopped").facts


@pytest.mark.slow
def test_a_finished_run_is_prolonged(config, command):
    short = "train.num_updates=6"
    assert command("run", config, short, "--out", "out").code == 0
    edit(load_run("out"), "num_updates = 6", "num_updates = 12")
    assert "train.num_updates was 6" in command("resume", "out").err
    outcome = command("resume", "out", "--allow-change", "train.num_updates")
    assert outcome.code == 0
    command("run", config, "--out", "whole")
    assert_same(load_run("out"), load_run("whole"))


@pytest.mark.slow
def test_the_clock_decides_when_it_is_saved_and_nothing_else(config, command):
    often = "checkpoint.every_minutes=1e-9", "checkpoint.keep=20"
    assert command("run", config, *often, "--out", "often").code == 0
    saved = {path.name for path in Path("often/checkpoints/latest").iterdir()}
    assert {"0", "1", "5", "6", "12"} <= saved
    # From the middle of what a line averages over.
    for name in saved - {"0", "1"}:
        shutil.rmtree(Path("often/checkpoints/latest", name))
    load_run("often").note(status="failed")
    assert command("resume", "often").code == 0
    command("run", config, "--out", "whole")
    assert_same(load_run("often"), load_run("whole"))


def state_after(update, dtype=jnp.float32):
    params = {"w": jnp.full((2, 3), 1.0 * update, dtype)}
    keys = jax.random.split(jax.random.key(0), 2)
    return TrainState(params, {"m": jnp.ones(2)}, keys, jnp.asarray(update))


@pytest.fixture
def saved(tmp_path):
    """Checkpoints after updates 10, 20 and 30."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3)
    for update in (10, 20, 30):
        checkpoints.save(state_after(update), {"window": [[1.0, 2.0, update]]})
    checkpoints.close()
    return tmp_path / "checkpoints"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_passed_over_and_put_aside(saved):
    flip(saved / "latest/30/manifest.json")
    (saved / "latest/20/notes.json").write_bytes(b"")
    reader = Checkpoints(saved)
    with pytest.warns(DamagedCheckpoint) as caught:
        state, notes = reader.restore(state_after(0))
    reader.close()
    assert (int(state.num_updates), notes["window"]) == (10, [[1.0, 2.0, 10]])
    np.testing.assert_array_equal(
        *map(jax.random.key_data, (state.estimator, state_after(0).estimator))
    )
    assert [str(w.message) for w in caught] == [
        f"{saved}/latest/30: is damaged: manifest.json is not what was written; the "
        "one before it is taken, 10",
        f"{saved}/latest/20: is damaged: notes.json is not what was saved; the one "
        "before it is taken, 10",
    ]
    # Who only reads moves nothing. Who goes on saves 20 anew.
    assert (saved / "latest/30").is_dir()
    checkpoints = Checkpoints(saved, keep=3)
    with pytest.warns(DamagedCheckpoint):
        checkpoints.restore(state_after(0), put_aside=True)
    assert {path.name for path in (saved / "damaged").iterdir()} == {
        "latest-20",
        "latest-30",
    }
    checkpoints.save(state_after(20), {})
    checkpoints.close()
    assert Checkpoints(saved).number("latest") == 20


def test_nothing_is_left_to_fall_back_to(saved):
    for update in (10, 20, 30):
        flip(saved / f"latest/{update}/notes.json")
    reader = Checkpoints(saved)
    with pytest.raises(UserError, match=r"latest/30: is damaged: .* none left to take"):
        reader.restore(state_after(0))
    reader.close()


def test_another_dtype_is_refused(saved):
    reader = Checkpoints(saved)
    with pytest.raises(
        UserError, match=r"\['w'\] is float32\[2, 3\], and the config asks for bfloat16"
    ):
        reader.restore(state_after(0, jnp.bfloat16))
    reader.close()


def test_a_manifest_vouches_for_itself(saved):
    path = saved / "latest/30"
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["leaves"]["params"]["['w']"] = "float32[6]"
    (path / MANIFEST).write_text(json.dumps(manifest))
    reader = Checkpoints(saved)
    with pytest.warns(DamagedCheckpoint, match=r"manifest\.json is not what"):
        state, _ = reader.restore(state_after(0))
    reader.close()
    assert int(state.num_updates) == 20
    # One that was made anew for other files is right again.
    (path / MANIFEST).write_text(make_manifest(path, {"params": {}, "training": {}}))
    reader = Checkpoints(saved)
    with pytest.raises(UserError, match=r"\['w'\] is not there, and the config asks"):
        reader.restore(state_after(0))
    reader.close()


def test_a_save_that_fails_in_the_background_is_raised(saved, monkeypatch):
    checkpoints = Checkpoints(saved, keep=3)

    def full(path, text):
        raise UserError(
            f"{path}: cannot be written: No space left on device; make room"
        )

    with monkeypatch.context() as patch:
        patch.setattr("jaxlstm.lab.checkpoints.write_text", full)
        checkpoints.save(state_after(40), {})
        deadline = time.monotonic() + 30
        with pytest.raises(UserError, match=r"latest/40: cannot be saved: .*No space"):
            while time.monotonic() < deadline:
                checkpoints.check()
                time.sleep(0.01)
    # It does not count, and is not in the way.
    assert checkpoints.number("latest") == 30
    checkpoints.save(state_after(40), {})
    checkpoints.wait()
    assert checkpoints.number("latest") == 40
    assert {p.name for p in (saved / "latest").iterdir()} == {"20", "30", "40"}
    checkpoints.close()


@pytest.mark.slow
def test_a_failed_save_ends_the_run(config, command, monkeypatch):
    saves = []

    def save(self, which, step, items, notes, prune):
        saves.append((which, step))
        if step == 5:
            raise UserError(f"{which}/{step}: cannot be saved: No space left on device")
        return original(self, which, step, items, notes, prune=prune)

    original = Checkpoints._save
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_save", save)
        outcome = command("run", config, "--out", "out")
    assert outcome.code == 2
    assert outcome.faults == ["latest/5: cannot be saved: No space left on device"]
    assert ("latest", 12) not in saves
    assert load_run("out").facts["status"] == "failed"
    command("run", config, "--out", "whole")
    assert command("resume", "out").code == 0
    assert_same(load_run("out"), load_run("whole"))


class Poisoned(tiny.Tiny):
    """Some of its training segments hold what no loss survives."""

    poisoned: tuple[int, ...] = pydantic.Field((), strict=False)
    poisoned_split: str = "train"

    def split(self, name, *, batch_size, segment_length, seed):
        source = super().split(
            name, batch_size=batch_size, segment_length=segment_length, seed=seed
        )

        def segments(start, count):
            block = source.segments(start, count)
            for n in range(count):
                if name == self.poisoned_split and start + n in self.poisoned:
                    block.targets[n][-1] = np.inf
            return block

        return source._replace(segments=segments)


POISONED = 'task.use="tests.lab.test_resume:Poisoned"'


@pytest.mark.slow
def test_gradients_that_are_not_finite_are_skipped(config, command, monkeypatch):
    options = POISONED, "task.poisoned=[3, 4, 8]", "optimizer.skip_non_finite=2"
    outcome = command("run", config, *options, "--out", "out")
    assert outcome.code == 0, outcome.err
    run = load_run("out")
    lines = {x["update"]: x for x in run.metrics if x["split"] == "train"}
    assert {n: line.get("skipped", 0) for n, line in lines.items()} == {
        **{3: 0, 6: 2, 9: 1, 12: 0}
    }
    assert "skipped" not in (run.path / "README.md").read_text()

    assert int(run.state.optimizer.total_notfinite) == 3
    assert int(run.state.optimizer.inner_state[1][0].count) == 9

    # Going on counts on.
    monkeypatch.setattr(
        tiny, "on_segment", lambda n: n == 5 and signal.raise_signal(signal.SIGINT)
    )
    one = "train.updates_per_call=1"
    assert command("run", config, *options, one, "--out", "stopped").code == 130
    monkeypatch.setattr(tiny, "on_segment", None)
    assert command("resume", "stopped").code == 0
    assert_same(load_run("stopped"), run)


def test_too_many_in_a_row_end_the_run(config, command):
    options = POISONED, "task.poisoned=[2, 3, 4]", "optimizer.skip_non_finite=2"
    outcome = command("run", config, *options, "--out", "out")
    (line,) = outcome.faults
    assert outcome.code == 2
    assert line.startswith(
        "update 5 after 2 that were left out: the loss is not finite; its batch is in "
        "out/non_finite/update-5.npz, and the state before it is saved; "
    )
    run = load_run("out")
    assert int(run.state.num_updates) == 4
    chex.assert_tree_all_finite(run.state.params)
    # It ends there again: a bad batch is not believed at the second reading.
    assert command("resume", "out").faults == [line]


def test_a_validation_loss_that_is_not_finite_ends_the_run(config, command):
    poison = "task.poisoned=[1]", "task.poisoned_split=validation"
    outcome = command("run", config, POISONED, *poison, "--out", "out")
    assert outcome.code == 2
    assert outcome.faults == [
        "update 6: the validation loss is inf, and the training loss is finite; lower "
        "optimizer.learning_rate, or look at the validation data"
    ]
    assert load_run("out").facts["status"] == "failed"


def test_one_process_trains_a_run(stopped, command):
    folder = stopped.path
    assert not is_locked(folder)
    with hold(folder):
        assert is_locked(folder)
        (line,) = command("resume", "stopped").faults
        assert line == (
            f"stopped: is in use by process {os.getpid()} on {os.uname().nodename}; "
            "wait until it ends, or stop it"
        )
        # Who only reads is not kept out.
        assert command("eval", "stopped").code == 0
    assert not is_locked(folder)
    assert command("resume", "stopped").code == 0


@pytest.mark.slow
def test_runs_of_one_second_have_folders_of_their_own(config, command, monkeypatch):
    monkeypatch.setattr("jaxlstm.lab.start.time.strftime", lambda *_: "now")
    for _ in range(2):
        assert command("run", config, "train.num_updates=1").code == 0
    assert {p.name for p in Path("runs").iterdir()} == {"tiny-now", "tiny-now-2"}


def test_signals_are_noted_once_and_given_back():
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest() as request:
        request.check()
        signal.raise_signal(signal.SIGTERM)
        assert request.signal == signal.SIGTERM
        with pytest.raises(Interrupted):
            request.check()
        with pytest.raises(Interrupted):
            request.raise_at_once()
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]


def test_ignored_signals_stay_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest() as request:
        signal.raise_signal(signal.SIGHUP)
        assert request.signal is None


class Replay:
    """A block of updates whose parameters, or figures, go wrong at a number."""

    def __init__(self, count, *, params=math.inf, loss=(), skipped=()):
        self.looked = 0
        self.bad, self.finite = params, count <= params
        figures = np.ones((3, count))
        figures[0, list(loss)] = np.nan
        figures[2, list(skipped)] = np.inf
        self.metrics = Metrics(*figures)
        self.state = self.until(count)

    def until(self, count):
        self.looked += 1
        value = np.nan if count > self.bad else 0.0
        return TrainState({"w": np.full(2, value)}, {}, {}, count)


@pytest.mark.parametrize(
    ("block", "most", "number", "what"),
    [
        (Replay(1000, loss=[900]), 0, 900, "the loss is"),
        (Replay(1000, loss=[900], params=900), 0, 900, "the loss is"),
        (Replay(1000, params=437), 0, 437, "the parameters after it are"),
        (Replay(1000, loss=[900], params=0), 0, 0, "the parameters after it are"),
        (Replay(1000, skipped=[3, 4, 8], params=999), 2, 999, "the parameters after"),
        (Replay(9, loss=[6, 7, 8], skipped=[6, 7, 8]), 2, 8, "the loss is"),
    ],
)
def test_what_is_not_finite_is_found_by_halving(block, most, number, what):
    with pytest.raises(NotFinite) as caught:
        Guard(most).check(block)
    assert caught.value.number == number
    assert caught.value.what.startswith(what)
    assert block.looked <= 13


def test_parameters_that_are_finite_are_not_looked_at():
    block: Any = Replay(1000)
    block.state = None
    Guard(0).check(block)
    assert block.looked == 1


def test_parameters_that_are_not_finite_at_the_start_are_named():
    with pytest.raises(NotFinite, match="before it") as caught:
        Guard(0).check(Replay(0, params=-1))
    assert caught.value.number == 0


def broken_cell():
    cell = make_rnn()

    def init(*arguments, **options):
        params = cell.init(*arguments, **options)
        return params._replace(b=jnp.nan * params.b)

    return cell._replace(init=init)


def test_cell_that_draws_what_is_not_finite_is_told_so(config, command):
    cell = "model.cell=tests.lab.test_resume:broken_cell"
    (fault,) = command("run", config, cell, "--out", "out").faults
    assert fault == (
        "update 1: the parameters before it are not finite; mend the init of the cell"
    )


def test_checkpoint_that_is_not_finite_is_named(stopped, command):
    run = load_run("stopped")
    state = run.state
    params = jax.tree.map(lambda leaf: jnp.nan * leaf, state.params)
    shutil.rmtree("stopped/checkpoints/latest/5")
    checkpoints = Checkpoints(Path("stopped/checkpoints"), keep=2, run=run.facts["id"])
    notes = {"window": [], "skipped": 0, "written": None}
    checkpoints.save(state._replace(params=params), notes)
    checkpoints.close()
    (fault,) = command("resume", "stopped").faults
    assert fault == (
        "update 6: the parameters before it are not finite; remove "
        "stopped/checkpoints/latest/5, and go on from the checkpoint before it with "
        "jaxlstm resume stopped"
    )


@pytest.mark.slow
def test_a_reader_that_leaves_ends_no_run(config, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(tiny.ROOT)}
    command = [sys.executable, "-m", "jaxlstm", "run", config, "--out", "out"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert (process.wait(120), process.stderr.read()) == (0, b"")
    assert load_run("out").facts["status"] == "finished"


def test_the_best_of_each_checkpoint_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, best in [(None, 2), (None, 4), (5, 6), (None, 8), (10, 11), (None, 12)]:
        if step:
            checkpoints.save(state_after(step), {})
        checkpoints.save_best({"w": jnp.zeros(2)}, best)
    checkpoints.wait()
    names = lambda: sorted(int(p.name) for p in (tmp_path / "best").iterdir())  # noqa: E731
    assert names() == [4, 6, 8, 11, 12]
    checkpoints.save(state_after(15), {})
    checkpoints.wait()
    # 5 is gone, and with it whoever could go on from before 10.
    assert names() == [8, 11, 12]
    checkpoints.close()


def test_checkpoints_of_another_run_are_not_taken(saved, tmp_path):
    other = Checkpoints(saved, run="another")
    with pytest.raises(UserError, match="latest/30: is damaged: another run has saved"):
        other.restore(state_after(0))
    other.close()


@pytest.mark.slow
def test_skipping_is_decided_anew(stopped, command):
    edit(stopped, "skip_non_finite = 0", "skip_non_finite = 2")
    outcome = command("resume", "stopped", "--allow-change", "optimizer")
    assert outcome.code == 0, outcome.err
    assert int(load_run("stopped").state.optimizer.total_notfinite) == 0


def test_precision_is_part_of_the_fingerprint(stopped, command):
    jax.config.update("jax_enable_x64", True)
    (line,) = command("resume", "stopped").faults
    assert "flags.jax_enable_x64 was False when the run began and is True" in line


def test_a_closed_terminal_signals_twice():
    with StopRequest() as request:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        time.sleep(0.1)
        assert request.signal == signal.SIGHUP
