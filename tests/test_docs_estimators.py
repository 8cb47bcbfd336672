"""The page on estimators says what the table and the traits say."""

import inspect
import re
from pathlib import Path

import pytest

from benchmarks.estimators import OPTIONS
from jaxlstm.cells import make_leaky_rnn, make_lstm
from jaxlstm.checks import squared_error
from jaxlstm.estimators import ESTIMATORS
from jaxlstm.model import make_model

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "estimators.md").read_text()

# What is not an option of a config.
ARGUMENTS = {"model", "loss_fn", "sample", "example_input"}


def read_table(first: str) -> dict[str, dict[str, str]]:
    """Returns the rows of the table whose header begins so, by the name in them."""
    table = PAGE[PAGE.index(f"| estimator | {first}") :].split("\n\n")[0]
    header, _, *rows = (
        [cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()
    )
    return {
        name.strip("`"): dict(zip(header[1:], row, strict=True)) for name, *row in rows
    }


def make_traits(name):
    cell = make_leaky_rnn() if name == "rflo" else make_lstm()
    model = make_model(cell, input_size=2, hidden_size=2, output_size=2)
    return ESTIMATORS[name](model, squared_error, **OPTIONS.get(name, {})).traits


@pytest.mark.parametrize("first", ["class", "the identity", "options"])
def test_tables_have_every_estimator(first):
    assert list(read_table(first)) == list(ESTIMATORS)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_columns_are_the_traits(name):
    row, traits = read_table("class")[name], make_traits(name)
    assert row["class"].split(";")[0] == traits.kind
    assert row["adds up"] == ("yes" if traits.segment_invariant else "no")
    assert (row["in time"] == "forward") == traits.online


def test_reweighted_h_detach_is_unbiased():
    model = make_model(make_lstm(), input_size=2, hidden_size=2, output_size=2)
    make = ESTIMATORS["h_detach"]
    assert make(model, squared_error, p=0.3, reweighted=True).traits.kind == "unbiased"
    assert "unbiased if `reweighted`" in read_table("class")["h_detach"]["class"]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_named_tests_are_there(name):
    (column,) = (
        c for c in read_table("the identity")[name] if c.startswith("its test")
    )
    file, test = read_table("the identity")[name][column].strip("`").split("::")
    source = (ROOT / "tests" / "estimators" / file).read_text()
    assert re.search(rf"^def {test}\(", source, re.MULTILINE)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_options_are_those_of_the_factory(name):
    text = read_table("options")[name]["options"]
    without_values = re.sub(r'"\w+"', "", text)
    named = set(re.findall(r"`(\w+)`", without_values))
    assert named == set(inspect.signature(ESTIMATORS[name]).parameters) - ARGUMENTS


def test_figures_have_every_estimator():
    rows = read_table("cosine")
    assert list(rows) == list(ESTIMATORS)
    for name in "bptt", "rtrl":
        assert {float(x) for x in rows[name].values() if x} == {1.0}
