"""Valid files and overrides, mutated: what is not refused in clean words is harmless.

In the quick tests each format has some dozens of mutants; `-m slow` draws 10,000.
"""

import copy
import datetime
import functools
import importlib
import itertools
import json
import math
import os
import resource
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.text.corpus import Corpus, Reading, read_corpus
from experiments.text.raw import open_texts
from jaxlstm.lab import ModelParts, UserError
from jaxlstm.lab.checkpoints import Checkpoints
from jaxlstm.lab.config import load_config
from jaxlstm.lab.metrics import read_metrics
from jaxlstm.lab.runs import Facts, Run
from jaxlstm.lab.training import TrainState
from jaxlstm.lab.vocabulary import Unit, Vocabulary, split_words
from tests.fuzzing import FUZZ, QUICK, Tally, mutants
from tests.lab import tiny

CONFIGS = {
    name: (tiny.ROOT / "configs" / f"{name}.toml").read_bytes()
    for name in ("sine_cosine", "tiny_shakespeare")
}
# What a config may name by a path here, whatever a mutant names. To import a module is
# to run it.
MODULES = "experiments.sine_cosine", "experiments.text", "jaxlstm.cells"
PATHS = (
    *("experiments.sine_cosine:SineCosine", "experiments.text:Text", "lstm", "gru"),
    *("adam", "sgd", "bptt", "jaxlstm.cells:make_lstm", "math:sin", "a:b", ":", ""),
)
NAMES = {("task", "use"), ("model", "cell"), ("estimator", "name")}
NAMES |= {("optimizer", "name")}
TEXT = "Thé quick “brown”\tfox\r\njumps  over\n\nthe lazy dog 🦊 <unk> again\n" * 6
# Far above what any of these files, and drawing its mutants, takes; and below what the
# sizes in a mutant ask for.
MEMORY = 2**28
SECONDS = 20

MANY = pytest.param(
    FUZZ, marks=[pytest.mark.slow, pytest.mark.timeout(1800)], id="many"
)
SOME = pytest.param(QUICK, id="some")
amounts = pytest.mark.parametrize("amount", [SOME, MANY])

Recorder = Callable[[str, object], None]


@pytest.fixture(autouse=True)
def _imports_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets configs import a few modules, and find no other one."""

    def import_module(name: str) -> Any:
        if name not in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return sys.modules.get(name) or importlib.import_module(name)

    guarded = type(importlib)("importlib")
    guarded.import_module = import_module  # type: ignore[attr-defined]
    guarded.__file__ = importlib.__file__
    monkeypatch.setattr("jaxlstm.lab.imports.importlib", guarded)


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    """Fails a test in which the process came to hold much more memory than before."""

    def most() -> int:
        unit = 1 if sys.platform == "darwin" else 2**10
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = most()
    yield
    assert most() - before < MEMORY


def fuzz(
    name: str,
    amount: settings,
    record: Recorder,
    valid: Sequence[Any],
    strategy: st.SearchStrategy,
    read: Callable[[Any], None],
) -> None:
    """Feeds a reader, which checks that what it accepts is harmless, with mutants."""
    for original in valid:
        read(original)
    limit = datetime.timedelta(seconds=SECONDS)
    with Tally(name, record) as tally:

        @settings(amount, deadline=limit)
        @given(strategy)
        def check(mutant: Any) -> None:
            try:
                read(mutant)
            except UserError as error:
                for line in error.lines:
                    assert line and line.isprintable()
                tally.refuse()
            else:
                tally.accept()

        check()
    assert tally.refused and tally.total >= amount.max_examples // 2


# Configs.


def check_config(path: Path, overrides: tuple[str, ...] = ()) -> None:
    """Loads a config, and again from what it says of itself."""
    config = load_config(path, overrides)
    text = config.to_toml()
    again = path.with_name("again.toml")
    again.write_text(text, encoding="utf-8")
    loaded = load_config(again)
    assert loaded.resolved() == config.resolved() == tomllib.loads(text)
    assert loaded.task == config.task


@amounts
@pytest.mark.parametrize("name", CONFIGS)
def test_bytes_of_configs(name, amount, tmp_path, record_property):
    path = tmp_path / "mutant.toml"

    def read(mutant: bytes) -> None:
        path.write_bytes(mutant)
        check_config(path)

    valid = [CONFIGS[name]]
    strategy = mutants(*valid)
    fuzz(f"bytes of {name}.toml", amount, record_property, valid, strategy, read)


words = st.text("aZ0_-.:/~ =#[]{}\"'\\\0\n\x1b\x7fé\u2028🦊", max_size=12)
numbers = st.one_of(
    st.integers(-3, 70),
    st.integers(-(2**80), 2**80),
    st.floats(-2, 2),
    st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 1e-320, 1e300, 2**31, 2**63]),
)
values = st.recursive(
    st.one_of(
        numbers,
        words,
        st.booleans(),
        st.datetimes(),
        st.dates(),
        st.times(),
        st.sampled_from(["constant", "cosine", "steps", "epochs", "all", "one_hot"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)
    ),
    max_leaves=4,
)


def places(table: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Returns the paths of all keys of a table and the tables in it."""
    found = []
    for key, value in table.items():
        found.append((*above, key))
        if isinstance(value, dict):
            found += places(value, (*above, key))
    return found


@st.composite
def rebuilt(draw: Callable, original: dict[str, Any]) -> bytes:
    """Draws a config with one to three keys changed, removed, renamed or moved."""
    config = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places(config) or [("seed",)]))
        table = functools.reduce(dict.__getitem__, place[:-1], config)
        key = place[-1]
        edit = draw(st.sampled_from(("change", "change", "remove", "rename", "move")))
        if edit != "change" and key in table:
            value = table.pop(key)
            if edit == "rename":
                table[draw(st.one_of(words, st.sampled_from(sorted(original))))] = value
            if edit == "move":
                config[key] = value
        elif place in NAMES:
            table[key] = draw(st.sampled_from(PATHS))
        else:
            table[key] = draw(values)
    return tomli_w.dumps(config).encode()


@amounts
@pytest.mark.parametrize("name", CONFIGS)
def test_keys_of_configs(name, amount, tmp_path, record_property):
    original = tomllib.loads(CONFIGS[name].decode())
    original |= {"devices": 1, "logging": {"every": 5, "tensorboard": False}}
    original["model"] |= {"dropout": 0.1, "num_layers": 2, "dtype": "float32"}
    original["optimizer"]["clip"] = {"norm": 1.0}
    path = tmp_path / "mutant.toml"

    def read(mutant: bytes) -> None:
        path.write_bytes(mutant)
        check_config(path)

    valid = [tomli_w.dumps(original).encode()]
    strategy = rebuilt(original)
    fuzz(f"keys of {name}.toml", amount, record_property, valid, strategy, read)


OVERRIDES = (
    *("train.num_updates=1_000", "optimizer.learning_rate=3e-4", "model.cell=gru"),
    *('optimizer.schedule={ name = "cosine", warmup = 10 }', "seed=0x10"),
    *("train.num_epochs=", 'task.windows="independent"', "optimizer.clip.norm=1.0"),
    "task.held_out=[25.0, 35.0]",
)


@amounts
def test_overrides(amount, tmp_path, record_property):
    path = tmp_path / "config.toml"
    path.write_bytes(CONFIGS["sine_cosine"])

    def read(mutant: bytes) -> None:
        # As the system hands on what was typed.
        check_config(path, (os.fsdecode(mutant),))

    valid = [text.encode() for text in OVERRIDES]
    strategy = st.sampled_from(valid).flatmap(mutants)
    fuzz("overrides", amount, record_property, valid, strategy, read)


# Texts and vocabularies.


def check_bytes(data: bytes, corpus: Corpus) -> None:
    assert corpus.table is not None
    numbers = corpus.table[corpus.texts[0]]
    assert np.array(corpus.vocabulary.symbols, np.uint8)[numbers].tobytes() == data


def check_characters(data: bytes, corpus: Corpus) -> None:
    text = data.decode("utf-8-sig").replace("\r\n", "\n")
    assert corpus.vocabulary.decode(corpus.texts[0]) == text
    np.testing.assert_array_equal(corpus.vocabulary.encode(text), corpus.texts[0])


def check_words(data: bytes, corpus: Corpus) -> None:
    text = data.decode("utf-8-sig").replace("\r\n", "\n")
    written = corpus.vocabulary.decode(corpus.texts[0])
    assert split_words(written) == split_words(text)
    np.testing.assert_array_equal(corpus.vocabulary.encode(written), corpus.texts[0])


CHECKS: dict[Unit, Callable[[bytes, Corpus], None]] = {
    "bytes": check_bytes,
    "characters": check_characters,
    "words": check_words,
}


@amounts
@pytest.mark.parametrize("unit", CHECKS)
def test_texts(unit, amount, tmp_path, record_property):
    numbers = itertools.count()

    def read(mutant: bytes) -> None:
        # A text is a map of its file, which must not change under it.
        path = tmp_path / f"{next(numbers)}.txt"
        path.write_bytes(mutant)
        try:
            corpus = read_corpus(open_texts(str(path)), Reading(unit=unit))
            CHECKS[unit](mutant, corpus)
        finally:
            path.unlink()

    valid = [TEXT.encode(), "\N{BYTE ORDER MARK}a b\n".encode()]
    strategy = st.sampled_from(valid).flatmap(mutants)
    fuzz(f"{unit} of a text", amount, record_property, valid, strategy, read)


VOCABULARIES = (
    Vocabulary("characters", ("\n", " ", "a", "é", "🦊")),
    Vocabulary("characters", ("<unk>", "\n", "a", "b"), 0),
    Vocabulary("bytes", (10, 32, 97, 195, 255)),
    Vocabulary("words", ("<unk>", "<eos>", "one", "zwei"), 0),
)


@amounts
def test_vocabularies(amount, tmp_path, record_property):
    path, again = tmp_path / "vocabulary.json", tmp_path / "again.json"

    def read(mutant: bytes) -> None:
        path.write_bytes(mutant)
        vocabulary = Vocabulary.load(path)
        vocabulary.save(again)
        assert Vocabulary.load(again) == vocabulary
        # Of bytes, a text has only what is UTF-8.
        known = [
            number
            for number, symbol in enumerate(vocabulary.symbols)
            if number != vocabulary.unknown
            and not (type(symbol) is int and symbol > 127)
        ]
        text = vocabulary.decode(known)
        np.testing.assert_array_equal(vocabulary.encode(text), known)

    valid = []
    for vocabulary in VOCABULARIES:
        vocabulary.save(path)
        valid.append(path.read_bytes())
    strategy = st.sampled_from(valid).flatmap(mutants)
    fuzz("vocabulary.json", amount, record_property, valid, strategy, read)


# Runs.


@pytest.fixture
def facts() -> dict[str, Any]:
    """What a run.json holds."""
    required = [
        name for name, field in Facts.model_fields.items() if field.is_required()
    ]
    return {name: {} for name in required} | {
        "status": "finished",
        "config": "tiny",
        "seed": 0,
        "import_path": [str(tiny.ROOT), "configs"],
        "parts": {"input_size": 2, "output_size": 1, "symbols": False},
        "data": {"source": "text.txt", "sha256": "5a" * 32, "symbols": 440},
        "versions": {"jax": "0.10.2", "python": "3.11.7"},
        "devices": {"platform": "cpu", "kind": "cpu", "count": 2, "cores": 2},
        "seconds": 1.5,
    }


@amounts
def test_facts(amount, facts, tmp_path, record_property):
    (tmp_path / "config.toml").write_bytes(CONFIGS["sine_cosine"])
    path, before = tmp_path / "run.json", sys.path.copy()

    def read(mutant: bytes) -> None:
        path.write_bytes(mutant)
        try:
            run = Run(tmp_path)
            held = run.facts
            # Modules are looked for where it says.
            assert run.config.sections.seed == 0
        finally:
            sys.path[:] = before
        assert json.loads(json.dumps(held)) == held
        assert Facts.model_validate(held).config == held["config"]
        assert isinstance(ModelParts(**held["parts"]).symbols, bool | int)

    valid = [json.dumps(facts, indent=2).encode()]
    strategy = mutants(*valid)
    fuzz("run.json", amount, record_property, valid, strategy, read)


LINES = (
    {"update": 3, "split": "train", "loss": 0.25, "seconds": {"elapsed": 0.5}},
    {"update": 3, "split": "validation", "loss": 1, "accuracy": 0.5},
    {"update": 12, "split": "test", "loss": 1e-3, "perplexity": 2.5},
)


@amounts
def test_metrics(amount, tmp_path, record_property):
    path = tmp_path / "metrics.jsonl"

    def read(mutant: bytes) -> None:
        path.write_bytes(mutant)
        for line in read_metrics(path):
            assert type(line["update"]) is int
            assert type(line["split"]) is str
            assert line["loss"] is None or type(line["loss"]) in (int, float)
            assert line["loss"] is None or math.isfinite(line["loss"])

    valid = ["".join(json.dumps(line) + "\n" for line in LINES).encode()]
    strategy = mutants(*valid)
    fuzz("metrics.jsonl", amount, record_property, valid, strategy, read)


# Checkpoints.


@amounts
def test_files_of_a_checkpoint(amount, tmp_path, record_property):
    def state(update: int) -> TrainState:
        key = jax.random.key(update)
        params = {"w": jax.random.normal(key, (3, 4)), "b": jnp.zeros(4, jnp.bfloat16)}
        return TrainState(params, {"count": jnp.asarray(7)}, key, jnp.asarray(update))

    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, keep=1, run="this")
    checkpoints.save(state(20), {"window": [[1.0, 2.0, 3.0]]})
    checkpoints.close()
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    original = {path: path.read_bytes() for path in paths}

    def read(mutant: tuple[Path, bytes]) -> None:
        path, content = mutant
        path.write_bytes(content)
        reader = Checkpoints(folder, run="this")
        try:
            restored, notes = reader.restore(state(0))
        finally:
            reader.close()
            path.write_bytes(original[path])
        assert notes == {"window": [[1.0, 2.0, 3.0]]}
        for leaf, saved in zip(
            *map(jax.tree.leaves, (restored, state(20))), strict=True
        ):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf, saved = jax.random.key_data(leaf), jax.random.key_data(saved)
            assert leaf.dtype == saved.dtype
            np.testing.assert_array_equal(np.asarray(leaf), np.asarray(saved))

    valid = list(original.items())
    strategy = st.sampled_from(paths).flatmap(
        lambda path: st.tuples(st.just(path), mutants(original[path]))
    )
    fuzz("files of a checkpoint", amount, record_property, valid, strategy, read)
