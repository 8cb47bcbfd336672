"""A run on text that says where it stands, and what it must come to."""

import os
import random
import re
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.text import Text
from jaxlstm.lab import Run, Source, load_run

# Dropout, carried state, clipping, and best checkpoints that are not the last ones. A
# line of training loss falls between two checkpoints, and patience is not reached.
CONFIG = """
seed = 3

[task]
use = "tests.lab.kills:Marked"
source = "SOURCE"
contrast = []
random_offset = true
validation = 0.1
test = 0.1

[model]
hidden_size = 32
num_layers = 2
inputs = "embedding"
embedding_size = 6
dropout = 0.3

[optimizer]
name = "adam"
learning_rate = 0.03
clip = { norm = 0.5 }

[train]
num_updates = 150
batch_size = 4
segment_length = 16
eval_every = 25
patience = 1000
updates_per_call = 3

[checkpoint]
every = 20

[logging]
every = 7
"""
WORDS = (
    *("the a net gate cell state opens holds forgets keeps old new long short".split()),
    *("memory of and then, while it learns. reads writes".split()),
)


class Marked(Text):
    """Says on stdout which part of a run begins, for who watches from outside."""

    def split(
        self, name: str, *, batch_size: int, segment_length: int, seed: int
    ) -> Source:
        """Returns the segments of a split, with a mark for each look at them."""
        source = super().split(
            name, batch_size=batch_size, segment_length=segment_length, seed=seed
        )

        def segments(start: int, count: int) -> Any:
            mark(name, start)
            return source.segments(start, count)

        return source._replace(segments=segments)

    def figures(self, run: Run) -> dict[str, Figure]:
        """Draws what a text has."""
        mark("figures")
        return super().figures(run)


def mark(*words: object) -> None:
    """Writes a line that cannot be held back."""
    os.write(1, ("@" + " ".join(map(str, words)) + "\n").encode())


def write_text(path: Path) -> None:
    """Writes the text to train on."""
    path.write_text(" ".join(random.Random(0).choices(WORDS, k=1200)))


def write_config(folder: Path, source: Path, *replacements: tuple[str, str]) -> Path:
    """Writes the config into a folder."""
    text = CONFIG.replace("SOURCE", str(source))
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    path = folder / "text.toml"
    path.write_text(text)
    return path


def assert_same_run(run: Path, other: Path) -> None:
    """Compares all that two runs came to, but what depends on the clock."""
    one, two = load_run(run), load_run(other)
    assert one.facts["status"] == two.facts["status"] == "finished"
    for which in ("best", "latest"):
        one_of, two_of = load_run(run, which), load_run(other, which)
        assert one_of.update == two_of.update
        chex.assert_trees_all_equal(one_of.params, two_of.params)
    assert_same_state(one.state, two.state)
    drop = lambda lines: [  # noqa: E731
        {name: value for name, value in line.items() if name != "seconds"}
        for line in lines
    ]
    assert drop(one.metrics) == drop(two.metrics)
    for name in ("samples.txt", "vocabulary.json"):
        assert (run / name).read_bytes() == (other / name).read_bytes()
    for picture in (other / "plots").iterdir():
        assert (run / "plots" / picture.name).read_bytes() == picture.read_bytes()
    assert figures(run) == figures(other)
    assert files(run) == files(other)


def assert_same_state(one: Any, two: Any) -> None:
    """Compares training states, bit for bit."""
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    for leaf, same in leaves:
        assert leaf.dtype == same.dtype
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf, same = jax.random.key_data(leaf), jax.random.key_data(same)
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(same))


def figures(run: Path) -> list[str]:
    """Returns the lines of README.md but that of the seconds it took."""
    lines = (run / "README.md").read_text().splitlines()
    kept = [line for line in lines if not re.match(r"[\d.]+ s on ", line)]
    assert len(kept) == len(lines) - 1
    return kept


def files(run: Path) -> set[str]:
    """Returns the names of what a run leaves, without what differs between any two.

    Of the latest checkpoints but the last, the number follows the clock; of all, orbax
    draws the names of some files.
    """
    last = str(max(int(path.name) for path in (run / "checkpoints/latest").iterdir()))
    found = set()
    for path in run.rglob("*"):
        parts = list(path.relative_to(run).parts)
        if parts[:2] == ["checkpoints", "latest"] and len(parts) > 2:
            parts[2] = parts[2] if parts[2] == last else "earlier"
        found.add(re.sub(r"/[0-9a-f]{32}$", "/*", "/".join(parts)))
    return found
