"""Runs that are killed, wherever they are, and go on to the same bytes."""

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.lab import children
from tests.lab.children import Starter, kill_at
from tests.lab.kills import assert_same_run

shared, undisturbed, start = children.shared, children.undisturbed, children.start

# What each of the runs is killed in, ten times; those in the middle in another order.
MIDDLE = "compile", "save", "save", "save", "update", "update", "evaluation"
CHAINS = {
    "by count": [],
    "by count, densely": ["checkpoint.every=8"],
    "by the clock": ["checkpoint.every=1000", "checkpoint.every_minutes=0.003"],
    "by both": ["checkpoint.every_minutes=0.002"],
    "three are kept": ["checkpoint.keep=3", "checkpoint.every=9"],
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(len(CHAINS)), ids=CHAINS)
def test_killed_ten_times(
    seed: int,
    start: Starter,
    undisturbed: Path,
    tmp_path: Path,
):
    draw = random.Random(seed)
    options = list(CHAINS.values())[seed]
    places = ["start", *draw.sample(MIDDLE, len(MIDDLE)), "end", "end"]
    run = tmp_path / "out"
    hit = []
    for place in places:
        begun = (run / "run.json").exists()
        new = "run", "text.toml", *options, "--out", run
        process = start(*(("resume", run) if begun else new))
        hit.append(kill_at(process, run, place, draw))
        assert "Traceback" not in process.said
    last = start("resume", run)
    assert last.end() == 0, last.said
    print(f"hit in {dict(Counter(hit))}")

    assert_same_run(run, undisturbed)
    # The middle is hit: of saves at least one, and the end is not reached too early.
    assert None not in hit[:-2]
    assert sum("save" in (place or "") for place in hit) >= 1
