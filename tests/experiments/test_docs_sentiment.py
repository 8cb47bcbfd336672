"""The page on sentiment names every key of the task, its default, and known files."""

import tomllib

from experiments.sentiment import Sentiment
from experiments.sentiment.selection import TEST
from experiments.sentiment.sources import KNOWN_VECTORS
from tests.experiments.test_sentiment_errors import CONFIG
from tests.experiments.test_sentiment_runs import CONFIGS
from tests.pages import FENCE, read_tables

PAGE = (CONFIGS.parent / "docs/sentiment.md").read_text()


def test_keys_and_defaults_are_those_of_the_task():
    keys, *_ = read_tables(PAGE)
    shown = {}
    for names, _, defaults, _ in keys:
        for name, default in zip(names.split(", "), defaults.split(", "), strict=True):
            shown[name.strip("`")] = default.strip("`")
    fields = {name: field.default for name, field in Sentiment.model_fields.items()}
    words = {"none", "by the ending", "those found"}
    found = {
        name: None if default in words else tomllib.loads(f"x = {default}")["x"]
        for name, default in shown.items()
    }
    # None stands for it, as a source may bring its own test.
    assert found.pop("test") == TEST and fields.pop("test") is None
    assert found == fields


def test_the_config_of_the_page_is_one():
    (block,) = (match[3] for match in FENCE.finditer(PAGE) if match[1] == "toml")
    shown, short = tomllib.loads(block), tomllib.loads(CONFIG)
    assert shown["task"].pop("use") == short["task"]["use"]
    task = Sentiment(**shown["task"])
    assert (task.text_column, task.label_column) == ("review", "mood")
    assert shown["model"]["bidirectional"] and shown["estimator"]


def test_known_vectors_are_named():
    assert all(f"`{name}`" in PAGE for name in KNOWN_VECTORS)
