"""The sentiment task: what it reads, how it splits, and what it measures."""

import json
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.sentiment import Sentiment, figures
from experiments.sentiment.buckets import Encoded
from experiments.sentiment.measures import count_outcomes, derive_measures
from jaxlstm.lab.vocabulary import Vocabulary
from jaxlstm.model import ModelParams, RecurrentParams
from tests.experiments.test_sentiment_buckets import read_one
from tests.helpers import jit

GOOD = ["good film", "a good one", "Good, good!", "it's fine", "good plot"]
BAD = ["bad film", "a bad one", "Bad, bad!", "it isn't fine", "bad plot"]
LABELLED = [*[(text, "pos") for text in GOOD], *[(text, "neg") for text in BAD]]


@pytest.fixture
def write(tmp_path) -> Any:
    """Writes a file, and returns its path."""

    def write(name: str, *lines: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def small(write) -> Any:
    """Returns a task on ten texts."""
    source = write("texts.txt", *("\t".join(pair) for pair in LABELLED))

    def make(**options: Any) -> Sentiment:
        options = {"validation": 0.2, "bag_of_words": False, **options}
        return Sentiment(source=source, **options)

    return make


def read(task: Sentiment, split: str) -> list[tuple[str, str]]:
    """Returns the texts of a split as the net reads them, and their classes."""
    source: Any = task.split(split, batch_size=2, segment_length=50, seed=0)
    symbols, found = task.vocabulary().symbols, []
    for number in range(source.num_segments):
        inputs, targets, mask, _, weights = (x[0] for x in read_one(source, number))
        for column in np.flatnonzero(weights[-1]):
            words = inputs[mask[:, column] > 0, column]
            label = task.labels()[targets[-1, column]]
            found.append((" ".join(str(symbols[n]) for n in words.tolist()), label))
    return found


def test_every_format_reads_the_same(write, small):
    expected = [sorted(read(small(), split)) for split in ("train", "test")]
    rows = [f'"{text}",x,{label}' for text, label in LABELLED]
    objects = [json.dumps({"words": t, "mood": k}) for t, k in LABELLED]
    for n, (text, label) in enumerate(LABELLED):
        write(f"folder/train/{label}/{n}.txt", text)
    write("folder/train/unsup/0.txt", "nobody knows")
    columns = {"text_column": "words", "label_column": "mood"}
    tasks = [
        Sentiment(
            source=write("l.tsv", *(f"{k}\t{t}\r" for t, k in LABELLED)),
            format="label_text",
            validation=0.2,
        ),
        Sentiment(
            source=write("t.CSV", "words,more,mood", *rows), validation=0.2, **columns
        ),
        Sentiment(source=write("t.jsonl", *objects), validation=0.2, **columns),
    ]
    for task in tasks:
        assert [sorted(read(task, split)) for split in ("train", "test")] == expected
    root = write("folder/train/note", "").removesuffix("/note")
    folder = Sentiment(source=root, validation=0)
    assert folder.labels() == ("neg", "pos")
    texts = sum(len(read(folder, split)) for split in ("train", *folder.splits))
    assert texts == len(LABELLED)


def test_a_folder_with_a_test_part_keeps_it(write):
    for n, (text, label) in enumerate(LABELLED):
        part = "test" if n % 5 == 4 else "train"
        write(f"a/{part}/{label}/{n}.txt", text)
    root = write("a/note").removesuffix("/note")
    options: Any = {"validation": 0, "bag_of_words": False}
    task = Sentiment(source=root, **options)
    assert task.splits == ("test",)
    expected = [("bad <unk>", "neg"), ("good <unk>", "pos")]
    assert sorted(read(task, "test")) == expected
    both = Sentiment(source=f"{root}/train", test_source=f"{root}/test", **options)
    assert read(both, "test") == read(task, "test")
    assert both.describe_data()["sha256"] == task.describe_data()["sha256"]


def test_texts_hold_whatever_is_no_tabulator(write):
    """Only a line feed ends a line, whatever else Python would take for its end."""
    lines = "one\u2028two\x85three\t1", "\ufeff four \x1c\t0 "
    task = Sentiment(
        source=write("t.txt", *lines), validation=0, test=0, bag_of_words=False
    )
    assert sorted(read(task, "train")) == [("four", "0"), ("one two three", "1")]


def test_csv_may_hold_line_feeds(write):
    source = write("t.csv", "text,label", '"good ""x""', 'one",1', "", "bad,0")
    task = Sentiment(source=source, validation=0, test=0, bag_of_words=False)
    assert sorted(read(task, "train")) == [("bad", "0"), ('good " x " one', "1")]


def test_splits_have_the_classes_of_the_whole_and_nothing_twice(small):
    parts = {name: read(small(), name) for name in ("train", "validation", "test")}
    sizes = {name: len(part) for name, part in parts.items()}
    assert sizes == {"train": 6, "validation": 2, "test": 2}
    for part in parts.values():
        assert [label for _, label in part].count("pos") * 2 == len(part)
    others = [read(small(split_seed=seed), "test") for seed in range(1, 5)]
    assert any(sorted(other) != sorted(parts["test"]) for other in others)
    assert read(small(), "test") == parts["test"]


def test_the_vocabulary_is_of_the_texts_that_train(write):
    train = write("train.txt", *["a b b\t0", "b c <pad> <unk>\t1"])
    test = write("test.txt", "d a <pad>\t1", "b <unk>\t0")
    options: Any = {"source": train, "test_source": test, "tokenizer": "whitespace"}
    options |= {"validation": 0, "bag_of_words": False}
    task = Sentiment(**options)
    # By how often they are there, and by letters.
    assert task.vocabulary().symbols == ("<pad>", "<unk>", "b", "a", "c")
    assert task.vocabulary().unknown == 1
    assert sorted(read(task, "test")) == [("<unk> a <unk>", "1"), ("b <unk>", "0")]
    assert task.parts() == (5, 1, True)
    facts = task.describe_data()
    assert facts["words"] == 7
    assert facts["unknown"] == {"train": round(2 / 7, 4), "test": 0.6}
    fewer = Sentiment(vocabulary_size=4, **options).vocabulary()
    assert fewer.symbols == ("<pad>", "<unk>", "b", "a")
    common = Sentiment(min_count=2, **options).vocabulary()
    assert common.symbols == ("<pad>", "<unk>", "b")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10", "9", "10", "-1"], ("-1", "9", "10")),
        (["neg", "pos", "10", "neg"], ("10", "neg", "pos")),
        (["nan", "1", "inf", "0", "a"] * 2, ("0", "1", "a", "inf", "nan")),
        (["-inf", "nan", "1", "NaN", "0"] * 2, ("0", "1", "-inf", "NaN", "nan")),
    ],
)
def test_classes_are_in_order(write, labels, classes):
    source = write("t.txt", *(f"text\t{label}" for label in labels))
    task = Sentiment(source=source, validation=0, test=0, bag_of_words=False)
    assert task.labels() == classes
    assert task.parts().output_size == len(classes)
    given = Sentiment(source=source, test=0, validation=0, classes=[*classes[::-1]])
    assert given.labels() == classes[::-1]


def test_the_loss_is_cross_entropy(small):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(5, 2)), rng.integers(0, 2, 5)
    task = small()
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(shares[np.arange(5), targets])
    single = logits[:, 1:] - logits[:, :1]
    for prediction in (logits, single):
        losses = jit(task.loss)(prediction, targets)
        np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_measures_are_those_of_counting(num_classes):
    rng = np.random.default_rng(1)
    targets = rng.integers(0, num_classes, 50)
    logits = rng.normal(size=(50, 1 if num_classes == 2 else num_classes))
    said = (logits[:, 0] > 0) if num_classes == 2 else logits.argmax(axis=1)
    classes = [f"k{n}" for n in range(num_classes)]
    count = jit(lambda logits, targets: count_outcomes(logits, targets, classes))
    averages = {name: float(x.mean()) for name, x in count(logits, targets).items()}
    measures = derive_measures(averages, classes)

    triples = []
    for k in [1] if num_classes == 2 else range(num_classes):
        true = sum(1 for s, t in zip(said, targets, strict=True) if s == t == k)
        precision = true / sum(1 for s in said if s == k)
        recall = true / sum(1 for t in targets if t == k)
        f1 = 2 / (1 / precision + 1 / recall)
        triples.append((precision, recall, f1))
    expected = np.mean(triples, axis=0)
    found = [measures[name] for name in ("precision", "recall", "f1")]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert averages["accuracy"] == pytest.approx(np.mean(said == targets))
    assert derive_measures({"loss": 0.3}, classes) == {}
    nothing = dict.fromkeys(averages, 0.0)
    assert set(derive_measures(nothing, classes).values()) == {0.0}


def test_the_embedding_starts_from_vectors(small, write):
    task = small(test=0, validation=0)
    symbols = task.vocabulary().symbols
    vectors = write("v.txt", "good .5 -1e-1", "unheard 1 2", "<pad> 9 9", "one 3 4")
    task = small(test=0, validation=0, glove=vectors)
    drawn = np.random.default_rng(0).normal(size=(len(symbols), 2)).astype(np.float32)
    params = ModelParams(RecurrentParams(jnp.asarray(drawn), (), None), None)
    embedding = np.asarray(jit(task.initial)(params).recurrent.embedding)
    drawn[symbols.index("good")], drawn[symbols.index("one")] = (0.5, -0.1), (3, 4)
    np.testing.assert_array_equal(embedding, drawn)
    words = " ".join(text for text, _ in read(task, "train")).split()
    assert task.describe_data()["glove"] == {
        "types": round(2 / (len(symbols) - 2), 4),
        "tokens": round((words.count("good") + words.count("one")) / len(words), 4),
    }
    assert small(test=0, validation=0).initial(params) is params


def test_texts_are_encoded_without_the_data():
    """As `jaxlstm predict` does, from the vocabulary that a run has kept."""
    task = Sentiment(source="gone.txt", cut="start")
    vocabulary = Vocabulary("words", ("<pad>", "<unk>", "good", "n't", "is"), 1)
    texts = ["Isn't GOOD <pad>", "good", " "]
    inputs, mask = task.encode(texts, vocabulary, 4)
    np.testing.assert_array_equal(inputs.T, [[2, 1, 1, 1], [0, 0, 0, 2], [0] * 4])
    np.testing.assert_array_equal(mask, inputs > 0)
    kept, _ = Sentiment(source="gone.txt").encode(texts, vocabulary, 3)
    np.testing.assert_array_equal(kept.T, [[4, 3, 2], [0, 0, 2], [0] * 3])


@pytest.mark.slow
def test_what_is_said_of_the_data(small):
    task = small(bag_of_words=True)
    task.split("train", batch_size=2, segment_length=3, seed=0)
    facts = task.describe_data()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["splits"] == {"train": 6, "validation": 2, "test": 2}
    assert facts["buckets"][-1] <= 3
    assert facts["padding"]["bucketed"] <= facts["padding"]["single"]
    assert set(facts["bag_of_words"]) == {"validation", "test", "strength"}
    assert facts["segment_length"] == 3
    # A run that goes on finds the same.
    again = small(bag_of_words=True)
    again.split("train", batch_size=2, segment_length=3, seed=0)
    assert again.describe_data() == facts


def test_the_bag_of_words_reads_what_the_net_reads(write):
    """Only the end tells the classes apart, and only where it is not cut off."""
    texts = [f"the film is {word}\t{word}" for word in ("bad", "good")] * 10
    source = write("ends.txt", *texts)

    def measure(cut: Any) -> float:
        task = Sentiment(source=source, cut=cut)
        task.split("train", batch_size=2, segment_length=3, seed=0)
        return task.describe_data()["bag_of_words"]["test"]

    assert (measure("end"), measure("start")) == (0.5, 1)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_pictures_have_the_probabilities_of_each_text(monkeypatch, num_outputs):
    def last_number(model, params, segment, batch_shape):
        last = segment.inputs[-1].astype(jnp.float32)
        return jnp.outer(last, jnp.arange(1.0, num_outputs + 1)), None

    monkeypatch.setattr(figures, "predict_sequences", last_number)
    train = SimpleNamespace(batch_size=2)
    config = SimpleNamespace(sections=SimpleNamespace(train=train))
    run: Any = SimpleNamespace(model=None, params=None, config=config)
    texts = [np.array(text, np.int32) for text in ([1, 1, 2], [3], [2, 1])]
    encoded = Encoded(texts, np.zeros(3, np.int32))
    shares = figures.predict(run, encoded, [1, 3])
    weights = np.array([0, 1] if num_outputs == 1 else [1, 2, 3])
    logits = np.outer([2, 3, 1], weights)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, expected, rtol=1e-12)


def test_shuffling_goes_by_the_seed(small):
    def order(seed):
        source: Any = small().split("train", batch_size=2, segment_length=50, seed=seed)
        numbers = range(6 * source.num_segments)
        return [read_one(source, n).inputs.tolist() for n in numbers]

    assert order(0) == order(0)
    assert order(0) != order(1)


@pytest.mark.slow
def test_uci_sentences():
    """The real files: a fifth held out, and little padding at a batch of 30."""
    task = Sentiment(bag_of_words=False)
    source: Any = task.split("train", batch_size=30, segment_length=60, seed=0)
    facts = task.describe_data()
    assert facts["splits"] == {"train": 2100, "validation": 300, "test": 600}
    masks = [read_one(source, n).mask for n in range(source.num_segments)]
    padded = 1 - sum(m.sum() for m in masks) / sum(m.size for m in masks)
    assert facts["padding"]["bucketed"] == pytest.approx(padded, abs=1e-4)
    assert padded < 0.15 < 0.5 < facts["padding"]["drawn"]
    assert facts["classes"] == ["0", "1"]
    for name in ("train", *task.splits):
        part: Any = task.split(name, batch_size=30, segment_length=60, seed=0)
        lasts = [
            (segment.weights[0, -1], segment.targets[0, -1])
            for segment in (read_one(part, n) for n in range(part.num_segments))
        ]
        weights, targets = (
            np.concatenate(leaves) for leaves in zip(*lasts, strict=True)
        )
        assert 2 * weights @ targets == weights.sum() == facts["splits"][name]
