"""docs/cells.md says of each variant what the code makes of its name."""

import functools
import math
import re
import tomllib
from pathlib import Path

import jax
import pytest

from benchmarks.variants import LEFT_OUT
from jaxlstm.cells import CELLS, LSTMVariantParams, make_lstm_variant
from jaxlstm.cells.activations import ACTIVATIONS
from jaxlstm.cells.variants import VARIANTS
from tests.pages import read_tables

PAGE = (Path(__file__).parents[1] / "docs/cells.md").read_text()
X, H, P = 3, 4, 2
OPTIONS = {
    "always": {},
    "unless `bias = false`": {},
    "`projection_size`; `w_h` is [P, G H]": {"projection_size": P},
    "`peepholes`": {"peepholes": True},
    "`gate_recurrence`": {"gate_recurrence": True},
    "`multiplicative`": {"multiplicative": True},
    "`layer_norm`": {"layer_norm": "joint"},
}


def find_table(header):
    """Returns the rows of the table whose first row has such a second cell."""
    [table] = [table for table in read_tables(PAGE) if header in table[0][1]]
    return table


def read_options(cell):
    """Returns the options that a cell of a table lists, each written as in TOML."""
    lines = "\n".join(re.findall(r"`([^`]+)`", cell))
    return tomllib.loads(lines)


def test_names_stand_for_the_options_that_are_listed():
    [rows] = [table for table in read_tables(PAGE) if table[0][0] == "`lstm_variant`"]
    listed = {name.strip("`"): read_options(options) for name, options in rows}
    assert list(listed) == list(VARIANTS)
    for name, make in VARIANTS.items():
        assert isinstance(make, functools.partial)
        assert listed[name] == make.keywords


def test_sweep_is_of_all_cells_and_nearly_as_many_parameters():
    [rows] = [table for table in read_tables(PAGE) if len(table[0]) == 8]
    assert {row[0].strip("`") for row in rows} == set(CELLS) - set(LEFT_OUT)
    for row in rows:
        assert abs(int(row[2].replace(",", "")) - 100_000) < 1000
        losses = [float(loss) for loss in row[7].split(",")]
        assert abs(float(row[6]) - sum(losses) / len(losses)) < 1.5e-3
    means = [float(row[6]) for row in rows]
    assert means == sorted(means)


def test_every_cell_is_told_of():
    told = set(re.findall(r"`(\w+)`", PAGE))
    assert set(CELLS) <= told
    assert {"hard_sigmoid", "hard_sigmoid_0.2"} <= set(ACTIVATIONS)


def test_fields_have_the_shapes_that_are_listed():
    rows = find_table("[X, G H]")
    shapes = {}
    for names, listed, where in rows:
        letters = re.findall(r"\[([^\]]+)\]", listed.partition(";")[0])
        for name, shape in zip(re.findall(r"`(\w+)`", names), letters, strict=False):
            shapes[name] = shape, where
    assert set(shapes) == set(LSTMVariantParams._fields)
    sizes = {"X": X, "H": H, "P": P, "G": 4, "p": 3}
    for name, (shape, where) in shapes.items():
        cell = make_lstm_variant(**OPTIONS[where])
        params = jax.eval_shape(lambda init=cell.init: init(jax.random.key(0), X, H))
        axes = [part for part in shape.split(", ") if "from" not in part]
        expected = [math.prod(sizes[n] for n in axis.split()) for axis in axes]
        assert list(getattr(params, name).shape) == expected
        if where.startswith("`"):
            assert getattr(make_params(), name) is None


def make_params():
    return jax.eval_shape(lambda: make_lstm_variant().init(jax.random.key(0), X, H))


@pytest.mark.parametrize(
    ("name", "blocks"), [("nig_lstm", 3), ("cifg_lstm", 3), ("fgr_lstm", 4)]
)
def test_blocks_are_those_that_there_are(name, blocks):
    params = jax.eval_shape(lambda: CELLS[name]().init(jax.random.key(0), X, H))
    assert params.w_x.shape == (X, blocks * H)
    assert params.peepholes.shape == (blocks - 1, H)
