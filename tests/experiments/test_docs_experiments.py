"""The page on experiments names every key of each task, and its default."""

import re
import tomllib

import pytest

from experiments.add import Add
from experiments.adding import Adding
from experiments.anbn import AnBn
from experiments.copying import Copy
from experiments.influence_balancing import InfluenceBalancing, make_cell
from experiments.recall import Recall
from experiments.sine_cosine import SineCosine
from jaxlstm.lab.options import options_model
from tests.experiments.test_sine_cosine import ROOT

PAGE = (ROOT / "docs/experiments.md").read_text()
TASKS = {
    task.__name__: task
    for task in (SineCosine, Add, AnBn, Adding, Copy, Recall, InfluenceBalancing)
}


@pytest.mark.parametrize("name", TASKS)
def test_keys_and_defaults_are_those_of_the_task(name):
    (chapter,) = (part for part in PAGE.split("\n## ") if f":{name}`" in part)
    shown = {
        key: tomllib.loads(f"value = {default}")["value"]
        for key, default in re.findall(r"`(\w+)`\s\((\[.*?\]|[^\s:;)]+)", chapter)
    }
    fields = dict(TASKS[name].model_fields)
    if TASKS[name] is InfluenceBalancing:
        options = options_model(make_cell).model_fields
        # Those of the cell stand in its config.
        fields["initial_theta"] = options["initial_theta"]
        for key in ("num_positive", "num_negative"):
            assert f"{key} ({options[key].default})" in chapter
    expected = {key: field.default for key, field in fields.items()}
    assert shown == expected


def test_every_config_is_named():
    named = set(re.findall(r"`(\w+\.toml)`", PAGE))
    tasks = {
        path.name
        for path in (ROOT / "configs").glob("*.toml")
        if not re.search(r'"experiments\.(text|sentiment|series):', path.read_text())
    }
    assert named == tasks
