"""The next symbol of a text: how segments lie, what is scored, that it is learnt."""

import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.files import divide
from experiments.text import Text
from experiments.text.sources import KNOWN_TEXTS, KnownText
from jaxlstm.lab import Reference, UserError, generator, load_run
from jaxlstm.lab.commands import main
from jaxlstm.lab.data import DataFile

B, T = 3, 4


def write(path: Path, size: int, first: int = 0) -> str:
    """Writes a text whose symbol number n is n, and returns its path."""
    path.write_text("".join(chr(0x4E00 + first + n) for n in range(size)))
    return str(path)


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Names a text of 200 symbols, each another one."""
    return write(tmp_path / "text.txt", 200)


def open_split(task: Text, name: str, *, seed: int = 0) -> Any:
    return task.split(name, batch_size=B, segment_length=T, seed=seed)


def lay_out(symbols, *, first=0, count, offset=0):
    """Returns inputs and targets [count, T, B], by their definition."""
    row = (len(symbols) - offset - 1) // B
    inputs = np.zeros((count, T, B), int)
    targets = np.zeros((count, T, B), int)
    for k, t, b in itertools.product(range(count), range(T), range(B)):
        place = offset + b * row + (first + k) * T + t
        inputs[k, t, b], targets[k, t, b] = symbols[place], symbols[place + 1]
    return inputs, targets


def assert_segments(segments, expected):
    for found, wanted in zip(
        (segments.inputs, segments.targets), expected, strict=True
    ):
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("options", [{}, {"unit": "bytes"}])
def test_splits_are_stretches_of_the_text(options, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(50, 250)))
    source = str(path) if options else write(path, 200)
    task = Text(source=source, validation=0.1, test=0.15, **options)
    assert task.splits == ("validation", "test")
    # 150 symbols: 49 steps in a row; 20: 6; 30: 9.
    stretches = {
        "train": (0, 150, 12),
        "validation": (150, 170, 1),
        "test": (170, 200, 2),
    }
    for name, (begin, end, count) in stretches.items():
        split = open_split(task, name)
        assert split.num_segments == count
        expected = lay_out(range(begin, end), count=count)
        assert_segments(split.segments(0, count), expected)
        # Each is predicted once.
        assert len(np.unique(expected[1])) == expected[1].size == count * T * B


def test_rows_divide_the_segments_of_the_whole_text(source):
    task = Text(source=source, validation=0.1, test=0.2, split_by="rows")
    # 199 // 3 = 66 steps in a row, 16 segments: 11.2, 12.8 and 16 are the bounds.
    bounds = {"train": (0, 11), "validation": (11, 12), "test": (12, 16)}
    for name, (begin, end) in bounds.items():
        split = open_split(task, name)
        assert split.num_segments == end - begin
        expected = lay_out(range(200), first=begin, count=end - begin)
        assert_segments(split.segments(0, end - begin), expected)


@pytest.mark.parametrize(
    ("count", "validation", "test", "parts"),
    [
        (446, 0.05, 0.0, (423, 23, 0)),
        (100, 0.05, 0.05, (90, 5, 5)),
        (1000, 0.1, 0.2, (700, 100, 200)),
        (10, 0.0, 0.25, (7, 0, 3)),
        (7, 0.0, 0.0, (7, 0, 0)),
        (10**9, 0.001, 1e-9, (998_999_999, 1_000_000, 1)),
    ],
)
def test_fractions_are_taken_as_they_are_written(count, validation, test, parts):
    assert divide(count, validation, test) == parts


@pytest.mark.parametrize("options", [{}, {"random_offset": True}, {"split_by": "rows"}])
def test_segments_depend_on_their_number_alone(options, source):
    split = open_split(
        Text(source=source, validation=0.1, test=0.1, **options), "train"
    )
    singles = [split.segments(n, 1) for n in range(4 * split.num_segments)]
    for start, count in ((0, 5), (3, len(singles) - 3), (split.num_segments - 1, 2)):
        block = split.segments(start, count)
        for name in ("inputs", "targets", "resets"):
            expected = [getattr(s, name)[0] for s in singles[start : start + count]]
            np.testing.assert_array_equal(getattr(block, name), expected)
    far = split.segments(10**6 * split.num_segments + 2, 1)
    assert far.inputs.shape == (1, T, B)
    if not options:
        np.testing.assert_array_equal(far.inputs, singles[2].inputs)


def test_rows_go_on_from_segment_to_segment(source):
    split = open_split(Text(source=source, validation=0.0, test=0.0), "train")
    segments = split.segments(0, split.num_segments)
    inputs = segments.inputs.reshape(-1, B)
    np.testing.assert_array_equal(np.diff(inputs, axis=0), 1)
    np.testing.assert_array_equal(segments.targets.reshape(-1, B)[:-1], inputs[1:])


def test_epochs_begin_some_symbols_into_the_text(source):
    task = Text(source=source, random_offset=True, validation=0.1, test=0.1)
    split = open_split(task, "train", seed=5)
    # The largest offset leaves 157 symbols: 52 steps in a row.
    assert split.num_segments == 13
    found = []
    for epoch in range(30):
        offset = int(generator(5, "train", epoch).integers(T))
        block = split.segments(13 * epoch, 13)
        assert_segments(block, lay_out(range(160), count=13, offset=offset))
        found.append(offset)
    assert set(found) == set(range(T))
    other = open_split(task, "train", seed=6)
    firsts = [other.segments(13 * epoch, 1).inputs[0, 0, 0] for epoch in range(30)]
    assert firsts != found
    for name in ("validation", "test"):
        begin = {"validation": 160, "test": 180}[name]
        expected = lay_out(range(begin, begin + 20), count=1)
        assert_segments(open_split(task, name).segments(0, 1), expected)


def test_largest_offset_stays_within_the_text(tmp_path):
    # One symbol fewer, and an offset of T - 1 would leave no segment.
    size = B * T + 1 + T - 1
    options = {"random_offset": True, "validation": 0.0, "test": 0.0}
    task = Text(source=write(tmp_path / "a.txt", size), **options)
    split = open_split(task, "train")
    assert split.num_segments == 1
    assert split.segments(0, 40).targets.max() == size - 1
    shorter = Text(source=write(tmp_path / "b.txt", size - 1), **options)
    with pytest.raises(UserError, match="has 15 symbols"):
        open_split(shorter, "train")


def test_state_starts_anew_with_an_epoch_of_training_unless_carried(source):
    held_out = {"validation": 0.1, "test": 0.1}
    split = open_split(Text(source=source, **held_out), "train")
    assert split.num_segments == 13
    expected = np.zeros((60, T))
    expected[[3, 16, 29, 42, 55], 0] = 1
    np.testing.assert_array_equal(split.segments(10, 60).resets, expected)
    np.testing.assert_array_equal(split.segments(0, 1).resets, [[1, 0, 0, 0]])
    carried = Text(source=source, carry_over_epochs=True, **held_out)
    assert open_split(carried, "train").segments(10, 60).resets is None
    for name in ("validation", "test"):
        evaluated = open_split(Text(source=source, **held_out), name)
        assert evaluated.segments(0, 1).resets is None


def test_splits_that_have_no_part_are_not_there(source):
    names = {
        (validation, test): Text(source=source, validation=validation, test=test).splits
        for validation, test in itertools.product((0.0, 0.1), repeat=2)
    }
    assert names == {
        (0.0, 0.0): (),
        (0.0, 0.1): ("test",),
        (0.1, 0.0): ("validation",),
        (0.1, 0.1): ("validation", "test"),
    }


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Names a known text that comes with splits."""
    files = []
    for name, size, first in (("a", 40, 0), ("b", 20, 30), ("c", 14, 50)):
        write(tmp_path / name, size, first)
        files.append(DataFile(name=name))
    known = KnownText(name="three", title="", rights="", files=tuple(files))
    monkeypatch.setitem(KNOWN_TEXTS, "three", known)
    monkeypatch.setenv("JAXLSTM_DATA", str(tmp_path))
    return "three"


def test_text_with_splits_of_its_own(given):
    task = Text(source=given)
    assert task.splits == ("validation", "test")
    # Ten are in two of the files.
    assert len(task.vocabulary() or ()) == 64
    parts = {"train": range(40), "validation": range(30, 50), "test": range(50, 64)}
    for name, symbols in parts.items():
        split = open_split(task, name)
        count = (len(symbols) - 1) // B // T
        assert split.num_segments == count
        assert_segments(split.segments(0, count), lay_out(symbols, count=count))
    facts = task.describe_data()
    assert facts["splits"] == {"train": 40, "validation": 20, "test": 14}
    assert facts["symbols"] == 74 and facts["bytes"] == 3 * 74
    assert len(set(facts["sha256"].values())) == 3
    limited = Text(source=given, limit=15)
    assert limited.describe_data()["splits"] == {
        "train": 15,
        "validation": 15,
        "test": 14,
    }


@pytest.mark.parametrize(
    "options", [{"validation": 0.1}, {"test": 0.0}, {"split_by": "rows"}]
)
def test_splits_of_a_texts_own_are_not_divided(given, options):
    with pytest.raises(ValueError, match="has splits of its own; leave out validation"):
        Text(source=given, **options)


def test_split_of_a_texts_own_may_be_too_short(given):
    with pytest.raises(UserError) as caught:
        Text(source=given, limit=12).split(
            "train", batch_size=B, segment_length=T, seed=0
        )
    assert caught.value.lines == (
        '[task] source = "three": its train text has 12 symbols, and one segment of '
        "batch_size 3 x segment_length 4 takes 13; lower either, or raise task.limit",
    )


def test_split_that_is_not_cut_is_too_short_all_the_same(given):
    with pytest.raises(UserError, match=r"20 symbols, .* takes 31; lower either$"):
        Text(source=given).split("train", batch_size=3, segment_length=10, seed=0)


def test_loss_is_the_cross_entropy():
    random = np.random.default_rng(0)
    logits, targets = random.normal(size=(2, 3, 5)), random.integers(0, 5, (2, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, targets[..., None], -1)[..., 0])
    task = Text()
    # As one array, as rows and one by one.
    found = task.loss(np.float32(logits), targets)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    each = [task.loss(np.float32(logits[0, b]), targets[0, b]) for b in range(3)]
    np.testing.assert_allclose(each, expected[0], rtol=1e-5)

    def total(logits: Any) -> Any:
        return task.loss(logits, targets).sum()

    gradient = jax.grad(total)(jnp.float32(logits))
    np.testing.assert_allclose(gradient, p - np.eye(5)[targets], atol=1e-6)


def test_loss_of_large_numbers_is_finite():
    logits = jnp.float32([[1e4, 0, -1e4], [-1e4, -1e4, -1e4]])
    loss, gradient = jax.value_and_grad(
        lambda logits: Text().loss(logits, jnp.int32([2, 0])).sum()
    )(logits)
    # The second is uniform: the logarithm of three, to the digits of 10,000.
    np.testing.assert_allclose(loss, 2e4 + np.log(3), atol=2e-3)
    assert np.isfinite(gradient).all()


def test_scores_and_what_is_derived():
    prediction = jnp.float32([[[0, 1, 2], [3, 1, 2]], [[0, 5, 4], [1, 0, 0]]])
    accuracy = Text().scores(prediction, jnp.int32([[2, 1], [1, 0]]))["accuracy"]
    np.testing.assert_array_equal(accuracy, [[1, 0], [1, 1]])
    for unit in ("character", "byte", "word"):
        derived = Text(unit=f"{unit}s").derive({"loss": np.log(8.0)})
        assert derived == pytest.approx({"perplexity": 8, f"bits_per_{unit}": 3})
    assert Text().derive({"loss": 1e4}) == {
        "bits_per_character": pytest.approx(1e4 / np.log(2))
    }


def test_published_figures():
    task = Text.model_validate(
        {
            "published": [
                {"label": "a", "loss": 1.5, "update": 3},
                {"label": "b", "loss": 2},
            ]
        }
    )
    assert task.references() == [Reference("a", 1.5, 3), Reference("b", 2, None)]


REAL_TEXTS = [
    ("tiny_shakespeare", 65, 1_115_394, {}),
    ("war_and_peace", 82, 3_196_211, {}),
    (
        "time_machine",
        28,
        10_000,
        {"letters_only": True, "unknown": True, "limit": 10_000},
    ),
]


def stand_in(path: Path, name: str) -> str:
    """Names a text of as many symbols, of which as many are different."""
    if name == "time_machine":
        path.write_text(
            "The Time Machine, 1895: quick brown fox jumps over a lazy dog." * 200
        )
    else:
        size, length = {n: (size, length) for n, size, length, _ in REAL_TEXTS}[name]
        signs = "".join(chr(48 + n) for n in range(size))
        path.write_text((signs * (length // size + 1))[:length])
    return str(path)


@pytest.mark.parametrize(("name", "size", "length", "options"), REAL_TEXTS)
def test_known_texts(name, size, length, options, tmp_path):
    source = name
    if "JAXLSTM_DATA" not in os.environ:
        source = stand_in(tmp_path / name, name)
    task = Text(source=source, split_by="rows", test=0.0, **options)
    assert len(task.vocabulary() or ()) == task.parts().input_size == size
    assert task.parts().symbols and task.parts().output_size == size
    assert task.describe_data()["symbols"] == length
    if name == "tiny_shakespeare":
        counts = {
            split: task.split(
                split, batch_size=50, segment_length=50, seed=0
            ).num_segments
            for split in ("train", "validation")
        }
        assert counts == {"train": 423, "validation": 23}


def test_default_text_needs_no_file(monkeypatch):
    monkeypatch.delenv("JAXLSTM_DATA", raising=False)
    facts = Text().describe_data()
    assert facts["source"] == "python-docs" and facts["symbols"] > 400_000
    assert re.fullmatch(r"3\.\d+\.\d+\S*", facts["python"])
    assert len(facts["sha256"]) == 64
    train = Text().split("train", batch_size=4, segment_length=80, seed=0)
    vocabulary = Text().vocabulary()
    assert vocabulary is not None
    assert "statement" in vocabulary.decode(train.segments(0, 1).inputs[0, :, 0])


def test_text_is_learnt_and_the_run_knows_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("abcdefgh\n" * 300)
    (tmp_path / "learn.toml").write_text(
        """
        [task]
        use = "experiments.text:Text"
        source = "text.txt"
        published = [{ label = "nobody", loss = 0.5 }]
        [model]
        hidden_size = 16
        [optimizer]
        learning_rate = 0.05
        [train]
        num_epochs = 4
        batch_size = 8
        segment_length = 10
        """
    )
    main(["run", "learn.toml", "--out", "out"])
    monkeypatch.chdir("/")
    run = load_run(tmp_path / "out")
    task = run.task
    assert isinstance(task, Text)
    # TOML has no word for the update, which is not given.
    assert task.references() == [Reference("nobody", 0.5, None)]
    assert task.source == str(tmp_path / "text.txt")
    assert run.vocabulary == task.vocabulary()
    assert run.facts["data"] == json.loads(json.dumps(task.describe_data()))
    assert run.facts["data"]["splits"] == {
        "train": 2430,
        "validation": 135,
        "test": 135,
    }
    (test,) = (line for line in run.metrics if line["split"] == "test")
    # The uniform guess is log 9 = 2.2.
    assert test["loss"] < 0.1 and test["accuracy"] > 0.95
    assert test["bits_per_character"] == pytest.approx(test["loss"] / np.log(2))
    assert test["perplexity"] == pytest.approx(np.exp(test["loss"]))
