"""Checkpoints that are not what was saved: passed over or refused, never believed."""

import functools
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import pytest

from jaxlstm.lab import load_run
from jaxlstm.lab.checkpoints import Checkpoints
from jaxlstm.lab.experiment import Experiment
from jaxlstm.lab.training import Trainer
from tests.lab import tiny
from tests.lab.kills import assert_same_state

DROPOUT = (
    "devices=1",
    "model.num_layers=2",
    "model.dropout=0.3",
    "optimizer.clip.norm=0.1",
    "train.updates_per_call=1",
)
# Cases of each kind of damage, in so many parts.
CASES, PARTS = 30, 3


def truncate(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def zero(data: bytes, draw: random.Random) -> bytes:
    """Overwrites a part by zeros, or all of it, or leaves nothing."""
    first, last = sorted(draw.sample(range(len(data) + 1), 2))
    ways = [bytes(len(data)), b"", data[:first] + bytes(last - first) + data[last:]]
    return draw.choice([*ways, ways[-1], ways[-1]])


def flip(data: bytes, draw: random.Random) -> bytes:
    flipped = bytearray(data)
    flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(flipped)


def files(folder: Path) -> list[Path]:
    """Returns the files that hold something."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if path.stat().st_size]


def content(run: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def lines(run: str | Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name != "seconds"}
        for line in load_run(run).metrics
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs that are made once."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def killed(made, config, command, monkeypatch) -> Path:
    """A run that ended after update 11, with checkpoints of 5 and 10.

    The whole one is linked to as `whole`.
    """

    def end(number: int) -> None:
        if number == 11:
            raise RuntimeError

    if not any(made.iterdir()):
        outcome = command("run", config, *DROPOUT, "--out", made / "whole")
        assert outcome.code == 0, outcome.err
        with monkeypatch.context() as patch:
            patch.setattr(tiny, "on_segment", end)
            with pytest.raises(RuntimeError):
                command("run", config, *DROPOUT, "--out", made / "killed")
    latest = made / "killed/checkpoints/latest"
    assert {path.name for path in latest.iterdir()} == {"5", "10"}
    Path("whole").symlink_to(made / "whole")
    return made / "killed"


@functools.cache
def state_of(run: Path) -> Any:
    return load_run(run).state


@pytest.fixture
def built_once(killed, monkeypatch) -> None:
    """Lets runs share what is built and compiled, which takes nearly all their time."""
    experiment, update = built(killed)
    monkeypatch.setattr("jaxlstm.lab.runs.build", lambda config: experiment)
    monkeypatch.setattr(Trainer, "compile", lambda self, state, block: update)


@functools.cache
def built(run: Path) -> tuple[Experiment, Callable[..., Any]]:
    loaded = load_run(run)
    segments = loaded.experiment.source.segments(0, 1)
    update = loaded.experiment.trainer.compile(loaded.template, segments)
    return loaded.experiment, update


def resume(command: Any) -> str:
    """Resumes `out`; returns what came of it, which is nothing wrong."""
    run = Path("out")
    kept = content(run)
    outcome = command("resume", "out")
    if outcome.code == 2:
        assert outcome.faults
        for fault in outcome.faults:
            assert fault.startswith("out/checkpoints/latest/")
        # It is as it was, but for what it says of itself.
        kept.pop("run.json")
        assert kept.items() <= content(run).items()
        return "refused"
    assert outcome.code == 0, outcome.err
    assert_same_state(load_run("out").state, state_of(Path("whole").resolve()))
    chex.assert_trees_all_equal(load_run("out").params, load_run("whole").params)
    assert lines("out") == lines("whole")
    return "passed over" if outcome.err else "taken"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("damage", [truncate, zero, flip])
def test_newest_checkpoint_is_damaged(damage, part, killed, built_once, command):
    draw = random.Random(f"{damage.__name__} {part}")
    results = Counter()
    for number in range(CASES // PARTS):
        shutil.rmtree("out", ignore_errors=True)
        shutil.copytree(killed, "out")
        folder = Path("out/checkpoints/latest/10")
        path = draw.choice(files(folder))
        if number < 2:
            path = folder / ["manifest.json", "notes.json"][number]
        data = path.read_bytes()
        while (damaged := damage(data, draw)) == data:
            pass
        path.write_bytes(damaged)
        results[resume(command)] += 1
        assert Path("out/checkpoints/damaged/latest-10").is_dir()
    print(f"{damage.__name__}: {dict(results)}")
    assert results == {"passed over": CASES // PARTS}


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def copy_manifest(path: Path) -> None:
    """Takes the manifest of the checkpoint before."""
    shutil.copy(path.parent / "5/manifest.json", path / "manifest.json")


def copy_all(path: Path) -> None:
    """Takes the checkpoint before whole."""
    shutil.rmtree(path)
    shutil.copytree(path.parent / "5", path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: remove(path / "notes.json"), "notes.json is missing"),
        (lambda path: remove(path / "params/_METADATA"), "params/_METADATA is missing"),
        (lambda path: remove(path / "training"), "training/_METADATA is missing"),
        (lambda path: (path / "more").write_text(""), "more is not what was saved"),
        (copy_manifest, "manifest.json is that of update 5"),
        (copy_all, "manifest.json is that of update 5"),
    ],
)
def test_newest_checkpoint_has_other_files(damage, reason, killed, built_once, command):
    shutil.copytree(killed, "out")
    path = Path("out/checkpoints/latest/10")
    damage(path)
    outcome = command("resume", "out")
    assert outcome.code == 0
    assert outcome.faults == [
        f"warning: {path}: is damaged: {reason}; the one before it is taken, 5"
    ]
    assert lines("out") == lines("whole")
    assert_same_state(load_run("out").state, state_of(Path("whole").resolve()))


@pytest.mark.slow
def test_both_checkpoints_are_damaged(killed, command):
    shutil.copytree(killed, "out")
    draw = random.Random(0)
    for path in Path("out/checkpoints/latest").iterdir():
        file = draw.choice(files(path))
        file.write_bytes(flip(file.read_bytes(), draw))
    assert resume(command) == "refused"
    shutil.rmtree("out/checkpoints/latest/10")
    assert resume(command) == "refused"
    # What it is told to do.
    shutil.rmtree("out/checkpoints/latest")
    assert resume(command) == "taken"


def plant(state: Any) -> None:
    """Puts a state in place of the newest checkpoint of `out`, as its own."""
    other = Checkpoints(Path("other"), keep=1, run=load_run("out").facts["id"])
    other.save(state)
    other.wait()
    other.close()
    shutil.rmtree("out/checkpoints/latest/10")
    shutil.copytree("other/latest/10", "out/checkpoints/latest/10")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.astype(jnp.bfloat16), "bfloat16[3, 12], and the config asks for "),
        (lambda w: w[:-1], "float32[2, 12], and the config asks for float32[3, 12]"),
    ],
)
def test_checkpoint_of_another_kind_is_refused(change, words, killed, command):
    shutil.copytree(killed, "out")
    state = load_run(killed).state

    def replace(path: Any, leaf: Any) -> Any:
        return change(leaf) if "w_h" in jax.tree_util.keystr(path) else leaf

    params = jax.tree_util.tree_map_with_path(replace, state.params)
    plant(state._replace(params=params))
    outcome = command("resume", "out")
    assert outcome.code == 2
    (fault,) = outcome.faults
    assert fault.startswith("out/checkpoints/latest/10: recurrent")
    assert "w_h is " + words in fault


@pytest.mark.slow
def test_checkpoint_of_another_model_is_refused(killed, command, config):
    shutil.copytree(killed, "out")
    options = "model.hidden_size=5", "train.num_updates=10"
    assert command("run", config, *options, "--out", "larger").code == 0
    plant(load_run("larger").state)
    outcome = command("resume", "out")
    assert outcome.code == 2
    (fault,) = outcome.faults
    assert fault.startswith("out/checkpoints/latest/10: recurrent")
    assert "20], and the config asks for" in fault
