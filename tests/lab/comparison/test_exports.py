"""A comparison's figures for programs, read back and held against the parts."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jaxlstm.lab.comparison.report.exports import Row, rows, to_csv, to_json
from jaxlstm.lab.comparison.report.material import NAMES, read_material
from tests.lab.comparison import parts


@pytest.fixture
def values() -> dict[str, parts.Values]:
    return parts.write(Path("c"))


def find(values: dict[str, parts.Values], row: dict[str, str]) -> Any:
    """Returns what a row of the table stands for, looked up in the parts."""
    value: Any = values[row["part"]]
    known, depth = dict(value), 0
    if row["snapshot"]:
        update = int(row["snapshot"])
        found = [s for s in value["snapshots"] if s["update"] == update]
        # The reach has an update of its own, outside the snapshots.
        value = value if row["figure"].startswith("reach/") else found[0]
    estimator = row["estimator"]
    for escaped in row["figure"].split("/"):
        key = escaped.replace("~1", "/").replace("~0", "~")
        if estimator and key not in value:
            value, estimator = value["members"][estimator], ""
        if isinstance(value, list):
            axis = find_axis(row["part"], row["figure"], depth)
            names = [v.get("label", v.get("name")) for v in value if type(v) is dict]
            if not names and axis:
                names, depth = [str(name) for name in known[axis]], depth + 1
            value = value[names.index(key) if names else int(key)]
        else:
            known |= value if type(value) is dict else {}
            value = value[key]
        known |= value if type(value) is dict else {}
    assert not estimator
    return value


def find_axis(part: str, figure: str, depth: int) -> str:
    """Returns which list names the items of another one, if one does."""
    words = re.sub(r"curves/.*?/", "", figure).split("/")
    # These are names themselves.
    if {"lags", "lengths", "horizons", "k"} & set(words):
        return ""
    match part, words[0]:
        case "accuracy", "alignment":
            return "labels"
        case "accuracy", "reach":
            return "lags"
        case "costs", _:
            return "lengths"
        case "races", "tuning":
            return "learning_rates"
        case "races", "losses":
            return ("seeds", "updates")[depth]
        case "lags", "path_shares":
            lags = "by_route_and_lag" in words
            return ("routes", "" if lags else "gates")[depth]
        case "lags", "cosine" | "norm_ratio" | "relative_bias" | "recurrent":
            return "horizons"
        case ("flow", "jacobians") | ("vanishing", _):
            return "k"
    return ""


def count_figures(value: Any, key: str = "") -> int:
    """Returns how many figures there are below, updates of snapshots aside."""
    if key == "refused" or (key == "update" and isinstance(value, int)):
        return key == "refused"
    if isinstance(value, dict):
        return sum(count_figures(item, name) for name, item in value.items())
    if isinstance(value, list):
        return sum(map(count_figures, value))
    return not isinstance(value, str)


def read_rows(text: str) -> Iterator[dict[str, str]]:
    return csv.DictReader(text.splitlines())


def test_every_figure_is_a_row(values):
    found = list(read_rows(to_csv(read_material(Path("c")))))
    assert list(found[0]) == ["part", "snapshot", "estimator", "figure", "value"]
    assert len(found) == count_figures(values)
    places = Counter(tuple(row[name] for name in list(row)[:-1]) for row in found)
    assert set(places.values()) == {1}
    for row in found:
        value = find(values, row)
        if value is None:
            assert row["value"] == ""
        elif row["figure"].endswith("refused"):
            assert (value, row["value"]) == (parts.REASON, "1")
        else:
            assert float(row["value"]) == value


def test_figures_of_an_estimator_are_found_by_name(values):
    found = rows(read_material(Path("c")))
    row = Row("accuracy", 250, "h_detach", "frozen/blocks/layer 2: forget/cosine", 0)
    frozen = values["accuracy"]["snapshots"][1]["members"]["h_detach"]["frozen"]
    expected = frozen["blocks"]["layer 2: forget"]["cosine"]
    assert row._replace(value=expected) in list(found)


def test_items_have_the_names_of_the_part(values):
    found = {
        (row.part, row.snapshot, row.estimator, row.figure): row.value
        for row in rows(read_material(Path("c")))
    }
    accuracy, lags = values["accuracy"], values["lags"]["snapshots"][0]
    alignment = accuracy["snapshots"][1]["alignment"]
    place = alignment["labels"].index("h_detach")
    figure = "alignment/cosine/exact/h_detach"
    assert found["accuracy", 250, None, figure] == alignment["cosine"][0][place]
    reach = accuracy["reach"]["members"]["eprop"]["cosine"]
    assert found["accuracy", 500, "eprop", "reach/cosine/16"] == reach[-2]
    assert found["lags", 0, None, "cosine/4"] == lags["cosine"][3]
    assert found["lags", 0, None, "recurrent/keeps/0.9"] == 38
    shares = lags["path_shares"]["by_route_and_gate"]
    figure = "path_shares/by_route_and_gate/state alone/forget"
    assert found["lags", 0, None, figure] == shares[1][1]
    losses = values["races"]["members"]["eprop"]["losses"]
    assert found["races", None, "eprop", "losses/2/50"] == losses[2][1]


def test_items_of_one_name_are_numbered():
    curves = [{"label": "a", "rate": 1.0}, {"label": "a", "rate": 2.0}]
    parts.write(Path("c"), names=())
    material = read_material(Path("c"))._replace(
        parts={"vanishing": {"curves": curves}}
    )
    assert [(row.figure, row.value) for row in rows(material)] == [
        ("curves/0/rate", 1.0),
        ("curves/1/rate", 2.0),
    ]


def test_document_holds_everything(values):
    text = to_json(read_material(Path("c")))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    document = json.loads(text, parse_constant=refuse)
    assert document["parts"] == values
    assert list(document) == ["comparison", "config", "parts"]
    assert list(document["parts"]) == list(NAMES)
    for name, part in values.items():
        assert json.dumps(document["parts"][name]) == json.dumps(part)
    assert document["comparison"]["seed"] == 0
    assert document["config"]["model"]["hidden_size"] == 16


def test_documents_of_one_directory_are_the_same(values):
    first, second = (read_material(Path("c")) for _ in range(2))
    assert to_json(first) == to_json(second)
    assert to_csv(first) == to_csv(second)


def test_figures_that_are_not_finite_are_null():
    def spoil(values: Any) -> Any:
        if isinstance(values, dict):
            return {key: spoil(item) for key, item in values.items()}
        return float("nan") if isinstance(values, float) else values

    parts.write(Path("c"), names=())
    spoilt = {"costs": spoil(parts.make_costs())}
    parts.save(Path("c"), spoilt)
    text = to_json(read_material(Path("c")))
    member = json.loads(text)["parts"]["costs"]["members"]["bptt"]
    assert member["compile_seconds"] is None and member["flops"] > 0
    assert "NaN" not in text
