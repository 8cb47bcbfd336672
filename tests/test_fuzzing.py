"""Mutants are drawn by every edit, the same ones every time, and leave nothing."""

import subprocess
import sys

import pytest
from hypothesis import given

from tests import fuzzing
from tests.fuzzing import QUICK, Tally, mutants
from tests.lab import tiny

ORIGINAL = bytes(range(97, 123)) * 4

DRAW = """
import hashlib
from hypothesis import given
from tests.fuzzing import QUICK, mutants

drawn = hashlib.sha256()

@QUICK
@given(mutants(bytes(range(97, 123)) * 4))
def collect(mutant):
    drawn.update(len(mutant).to_bytes(8, "big") + mutant)

collect()
print(drawn.hexdigest())
"""


def draw_mutants() -> list[bytes]:
    drawn = []

    @QUICK
    @given(mutants(ORIGINAL))
    def collect(mutant: bytes) -> None:
        drawn.append(mutant)

    collect()
    return drawn


def test_mutants_differ_from_the_original():
    drawn = draw_mutants()
    assert len(drawn) >= QUICK.max_examples
    assert ORIGINAL not in drawn
    assert len(set(drawn)) > 0.8 * len(drawn)
    # Longer, shorter, and of the same length.
    lengths = [(len(m) > len(ORIGINAL)) - (len(m) < len(ORIGINAL)) for m in drawn]
    assert min(map(lengths.count, (-1, 0, 1))) > 0.1 * len(drawn)


def test_every_edit_is_drawn(monkeypatch):
    used = set()

    def spy(edit):
        def edited(draw, data):
            used.add(edit)
            return edit(draw, data)

        return edited

    edits = fuzzing.EDITS
    monkeypatch.setattr(fuzzing, "EDITS", tuple(map(spy, edits)))
    draw_mutants()
    assert used == set(edits) and len(edits) == 8


@pytest.mark.slow
def test_the_same_mutants_are_drawn_whatever_is_loaded(tmp_path):
    (tmp_path / "loaded.py").write_text(
        "A = [*range(3, 60, 7), 98, 101]\nB = b'abcx'\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", first + DRAW],
            cwd=tmp_path,
            env={"PYTHONPATH": str(tiny.ROOT), "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for first, seed in [("", "0"), ("import loaded", "1")]
    }
    assert len(outputs) == 1 and len(outputs.pop().strip()) == 64
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"loaded.py", "__pycache__"}


def test_a_tally_states_the_share(capsys):
    properties = {}
    with Tally("text", properties.__setitem__) as tally:
        for _ in range(3):
            tally.refuse()
        tally.accept()
    assert tally.total == 4
    assert capsys.readouterr().out == "text: accepted 1 of 4 (25.00%)\n"
    assert properties == {"text: accepted": 1, "text: refused": 3}


def test_a_tally_states_the_share_where_a_test_fails(capsys):
    with pytest.raises(KeyError), Tally("text", lambda *_: None) as tally:
        tally.accept()
        raise KeyError
    assert "accepted 1 of 1" in capsys.readouterr().out
