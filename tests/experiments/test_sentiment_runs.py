"""Whole runs: of the configs, on texts as small as they can be, and what is left."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlstm.lab import load_run
from jaxlstm.lab.commands import main

CONFIGS = Path(__file__).parents[2] / "configs"
PLOTS = {"confusion.png", "lengths.png", "loss.png", "mistakes.png"}


@pytest.fixture
def reviews(tmp_path, monkeypatch) -> Path:
    """Makes a folder as aclImdb is unpacked, and vectors as GloVe's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXLSTM_DATA", str(tmp_path))
    rng = np.random.default_rng(0)
    words = {"pos": ["good", "fine", "film"], "neg": ["bad", "poor", "film"]}
    for split, count in (("train", 12), ("test", 6)):
        for label, (first, *others) in words.items():
            folder = tmp_path / "aclImdb" / split / label
            folder.mkdir(parents=True)
            for n in range(count):
                text = [first, *rng.choice(others, n % 4)]
                # A review that nobody can read rightly.
                odd = n == 0 and split == "test"
                (folder / f"{n}_9.txt").write_text("film" if odd else " ".join(text))
    (tmp_path / "aclImdb/train/unsup").mkdir()
    (tmp_path / "aclImdb/train/unsup/0_0.txt").write_text("unlabelled")
    vectors = rng.normal(size=(3, 100)).round(4)
    names = "good", "bad", "the"
    lines = [" ".join([w, *map(str, v)]) for w, v in zip(names, vectors, strict=True)]
    (tmp_path / "glove.6B.100d.txt").write_text("".join(f"{x}\n" for x in lines))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sentiment_imdb", "sentiment_imdb_d2l"])
def test_configs_on_reviews(reviews, name, capsys):
    """The config as it stands, but for its size, and for spaCy."""
    overrides = [
        *("task.tokenizer=basic", "task.min_count=1", "task.num_buckets=1"),
        *("model.hidden_size=4", "model.num_layers=1", "train.num_epochs=1"),
        *("train.batch_size=4", "train.eval_every=", "devices=1"),
    ]
    if name == "sentiment_imdb":
        overrides.append("model.dropout={ input = 0.5, output = 0.5 }")
    main(["run", str(CONFIGS / f"{name}.toml"), "--out", "out", *overrides])
    run: Any = load_run("out", "latest")
    facts = run.facts["data"]
    assert facts["splits"]["test"] == 12
    assert sum(facts["splits"].values()) == 36
    assert facts["glove"]["types"] == pytest.approx(2 / 5, abs=1e-4)
    assert {path.name for path in (reviews / "out/plots").iterdir()} == PLOTS
    (test,) = (line for line in run.metrics if line["split"] == "test")
    assert test["accuracy"] >= facts["bag_of_words"]["test"] - 0.5
    assert {"precision", "recall", "f1"} <= test.keys()

    drawn = (reviews / "glove.6B.100d.txt").read_text().splitlines()
    vector = np.array(drawn[0].split()[1:], np.float32)
    good = run.vocabulary.symbols.index("good")
    frozen = name == "sentiment_imdb_d2l"
    same = np.array_equal(run.params.recurrent.embedding[good], vector)
    assert same == frozen

    # What a run makes of a text needs neither reviews nor vectors.
    (reviews / "aclImdb").rename(reviews / "moved")
    (reviews / "glove.6B.100d.txt").unlink()
    capsys.readouterr()
    main(["predict", "out", "--text", "A good, good film"])
    said = capsys.readouterr().out
    assert "pos" in said or "neg" in said
