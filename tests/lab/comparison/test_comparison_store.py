"""The directory of a comparison: what is kept in it, and what is not believed."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from jaxlstm.lab import UserError
from jaxlstm.lab.checkpoints import DamagedCheckpoint
from jaxlstm.lab.comparison.problem import Part
from jaxlstm.lab.comparison.store import Store

LABELS = "tbptt(horizon=4)", "tbptt/horizon=4/", "mine:é(p=0.5)", "../../out", "x" * 300


class Measurement:
    """Counts how often it is made."""

    def __init__(self, values=None, **arrays):
        self.part = Part(values or {}, arrays)
        self.times = 0

    def __call__(self):
        self.times += 1
        return self.part


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path, {"status": "running"})


def again(store: Store) -> Store:
    """Opens the directory as another process does."""
    return Store(store.path, json.loads((store.path / "comparison.json").read_text()))


def read_all(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != "comparison.json"
    }


def test_part_is_measured_once_and_read_back_alike(store):
    draws = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    values = {"loss": 0.1 + 0.2, "steps": (1, 2), "lost": [np.nan, np.inf, None]}
    measure = Measurement(values | {"mean": np.float64(1) / 3}, draws=draws)

    first = store.part("costs", measure)
    found = again(store).part("costs", measure)

    assert measure.times == 1
    assert (
        first.values
        == found.values
        == {
            "loss": 0.30000000000000004,
            "steps": [1, 2],
            "lost": [None, None, None],
            "mean": 1 / 3,
        }
    )
    for part in (first, found):
        assert part.arrays["draws"].dtype == np.float32
        np.testing.assert_array_equal(part.arrays["draws"], draws)
    assert set(read_all(store.path)) == {"parts/costs.json", "parts/costs.npz"}


def test_same_figures_are_the_same_bytes(tmp_path):
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        store = Store(tmp_path / name, {})
        store.part("flow", Measurement({"x": [1.5]}, curve=np.arange(5.0)))
        written.append(read_all(tmp_path / name))
    assert written[0] == written[1]
    assert set(written[0]) == {"parts/flow.json", "parts/flow.npz"}


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_what_is_damaged_is_measured_again(store, damage, suffix):
    measure = Measurement({"x": 1}, y=np.ones(3))
    store.part("lags", measure)
    before = read_all(store.path)
    damage(store.path / f"parts/lags{suffix}")

    fault = "missing" if damage is Path.unlink else "damaged"
    with pytest.warns(DamagedCheckpoint, match=f"lags{suffix}: is {fault}; it is mea"):
        again(store).part("lags", measure)

    assert measure.times == 2 and read_all(store.path) == before


def test_what_was_cut_short_before_it_was_noted_does_not_count(store):
    store.note()
    (store.path / "parts").mkdir()
    (store.path / "parts/costs.json").write_text('{"x": 3}')
    measure = Measurement({"x": 1})
    assert store.part("costs", measure).values == {"x": 1}
    assert measure.times == 1


def test_pieces_are_kept_until_their_part_is_whole(store):
    pieces = [Measurement({"label": label}, n=np.arange(3)) for label in LABELS]

    def stopped_after(count):
        def measure():
            for label, piece in list(zip(LABELS, pieces, strict=True))[:count]:
                kept = store.piece("races", label, piece)
                assert kept.values["label"] == label
            if count < len(LABELS):
                raise KeyboardInterrupt
            return Part({"all": True})

        return measure

    store.note()
    for count in range(len(LABELS)):
        with pytest.raises(KeyboardInterrupt):
            store.part("races", stopped_after(count))
        store = again(store)
        files = read_all(store.path)
        assert len(files) == 2 * count
        assert all(name.startswith("parts/races/") for name in files)
    store.part("races", stopped_after(len(LABELS)))

    assert [piece.times for piece in pieces] == [1] * len(LABELS)
    assert set(read_all(store.path)) == {"parts/races.json"}
    assert list(again(store).facts["measured"]) == ["parts/races"]


def test_seconds_of_pieces_found_count_as_well(store, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))

    def first():
        store.piece("races", "a", Measurement({"x": 1}))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.part("races", first)
    store = again(store)
    (piece,) = store.facts["measured"].values()

    def second():
        return store.piece("races", "a", Measurement({"x": 2}))

    assert store.part("races", second).values == {"x": 1}
    # One tick of the clock now, and what the piece took before.
    assert store.facts["measured"]["parts/races"]["seconds"] == 1 + piece["seconds"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "is damaged: status is missing; bring back what it held"),
        ('{"status": "stopped"}', "is damaged: settings is missing"),
    ],
)
def test_facts_that_are_none_are_told(tmp_path, text, message):
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(UserError, match=message):
        Store.open(tmp_path)


def test_folder_that_cannot_be_made_is_told(store):
    (store.path / "parts").write_text("is a file")
    with pytest.raises(UserError, match=r"parts: cannot be written: .*; make room"):
        store.part("costs", Measurement({"x": 1}))
    assert not store.facts["measured"]
