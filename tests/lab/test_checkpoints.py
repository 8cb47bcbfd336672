"""Checkpoints: what counts, and what is saved beside what was cut short."""

import shutil
import sys
import threading
import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.lab import checkpoints as module
from jaxlstm.lab import manifest
from jaxlstm.lab.checkpoints import Checkpoints
from jaxlstm.lab.quiet import hide_what_follows
from jaxlstm.lab.signals import StopRequest
from jaxlstm.lab.training import TrainState


def state_after(update):
    params = {"w": jnp.full((2, 3), 1.0 * update)}
    return TrainState(params, {}, {}, jnp.asarray(update))


def test_one_cut_short_is_in_nobodys_way(tmp_path):
    """Killed while 12 was saved, gone on with from 10, and stopped at 11."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for update in (10, 12):
        checkpoints.save(state_after(update))
    checkpoints.close()
    (tmp_path / "latest/12/manifest.json").unlink()

    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.number("latest") == 10
    checkpoints.save(state_after(11))
    checkpoints.close()

    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.number("latest") == 11
    restored, _ = checkpoints.restore(state_after(0))
    checkpoints.close()
    np.testing.assert_array_equal(restored.params["w"], np.full((2, 3), 11.0))
    assert int(restored.num_updates) == 11
    assert {path.name for path in (tmp_path / "latest").iterdir()} == {"10", "11"}


@pytest.mark.parametrize(
    ("place", "name"),
    [(manifest, "hash_file"), (module, "find_damage"), (Checkpoints, "_restore")],
)
def test_what_is_dropped_while_it_is_read_is_not_missed(
    place, name, tmp_path, monkeypatch
):
    """The reader begins with 1, and the writer drops it in the midst, for 2."""
    writer, reader = Checkpoints(tmp_path, keep=1), Checkpoints(tmp_path)
    writer.save(state_after(1))
    writer.wait()
    work = getattr(place, name)

    def late(*arguments, **options):
        monkeypatch.setattr(place, name, work)
        writer.save(state_after(2))
        writer.wait()
        return work(*arguments, **options)

    monkeypatch.setattr(place, name, late)
    restored, _ = reader.restore(state_after(0))
    for checkpoints in (reader, writer):
        checkpoints.close()
    assert int(restored.num_updates) == 2


def test_file_that_cannot_be_read_is_damage(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(state_after(1))
    checkpoints.close()
    path = tmp_path / "latest/1"
    (path / "notes.json").unlink()
    (path / "notes.json").symlink_to(path / "absent")
    assert manifest.find_damage(path) == "notes.json is missing"
    shutil.copy(tmp_path / "latest/1/manifest.json", path / "more")
    assert manifest.find_damage(path) == "more is not what was saved"


def test_threads_that_outlive_a_failed_read_are_not_heard(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    hide_what_follows()
    hide_what_follows()
    for text in ("Event loop is closed", "something else"):
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(text)))  # type: ignore[arg-type]
    assert [str(each.exc_value) for each in heard] == ["something else"]


def test_what_is_hidden_while_signals_are_heeded_stays_hidden(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    with StopRequest():
        hide_what_follows()
    late = types.SimpleNamespace(exc_value=RuntimeError("Event loop is closed"))
    sys.unraisablehook(late)  # type: ignore[arg-type]
    assert not heard


@pytest.mark.slow
def test_readers_of_a_run_that_goes_on_read_what_was_saved(tmp_path):
    writer = Checkpoints(tmp_path, keep=1)
    writer.save(state_after(1))
    writer.wait()
    ended = threading.Event()

    def write():
        for update in range(2, 60):
            writer.save(state_after(update))
        writer.wait()
        ended.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = []
    while not ended.is_set():
        reader = Checkpoints(tmp_path)
        restored, _ = reader.restore(state_after(0))
        reader.close()
        seen.append(int(restored.num_updates))
        np.testing.assert_array_equal(
            restored.params["w"], np.full((2, 3), 1.0 * seen[-1])
        )
    thread.join()
    writer.close()
    assert seen == sorted(seen) and len(set(seen)) > 5
