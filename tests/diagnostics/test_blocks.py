"""Blocks of parameters: which entries make which gate."""

import jax
import numpy as np
import pytest

from jaxlstm.cells import make_lstm
from jaxlstm.cells.base import Gate, GatedWeights
from jaxlstm.diagnostics import parameter_blocks
from jaxlstm.diagnostics.blocks import column_gates
from jaxlstm.model import Model
from jaxlstm.shapes import OptionError
from tests.estimators.patterns import CELLS, masked_cell, problem_of
from tests.estimators.problems import H, X, problem
from tests.toy_cells import TOY_CELLS

pytestmark = pytest.mark.usefixtures("x64")


def count(masks):
    return sum(int(np.sum(leaf)) for leaf in jax.tree.leaves(masks))


def assert_each_entry_is_in_one(model, params):
    blocks = parameter_blocks(model)
    sums = jax.tree.map(lambda *x: sum(np.asarray(m, int) for m in x), *blocks.values())
    for leaf, sizes in zip(jax.tree.leaves(sums), jax.tree.leaves(params), strict=True):
        assert leaf.shape == sizes.shape and np.all(leaf == 1)
    return blocks


@pytest.mark.parametrize("name", CELLS)
def test_each_entry_is_in_one_block(name):
    assert_each_entry_is_in_one(*problem_of(name))


def test_gates_of_an_lstm_are_its_columns():
    blocks = parameter_blocks(problem_of("two_layers")[0])
    for n, gate in enumerate(("input", "forget", "candidate", "output")):
        layers = blocks[f"layer 2: {gate}"].recurrent.layers
        assert count(layers[0]) == 0
        for leaf in jax.tree.leaves(layers[1]):
            assert np.all(
                np.any(leaf, axis=tuple(range(leaf.ndim - 1)))
                == (np.arange(4 * H) // H == n)
            )


def test_gates_of_a_gru_follow_its_order():
    """The candidate's two products are apart in z, and its weights are the last."""
    blocks = parameter_blocks(problem_of("gru")[0])
    layer = {name: b.recurrent.layers[0] for name, b in blocks.items()}
    by_x, by_h = layer["layer 1: candidate by x"], layer["layer 1: candidate by h"]
    assert np.all(by_x.w_x[:, 2 * H :]) and count(by_x.w_x[:, : 2 * H]) == 0
    assert np.all(by_x.b[2 * H :]) and count((by_x.w_h, by_x.b_h)) == 0
    assert np.all(by_h.w_h[:, 2 * H :]) and np.all(by_h.b_h) and count(by_h.w_x) == 0
    reset = layer["layer 1: reset"]
    assert np.all(reset.w_x[:, :H]) and np.all(reset.w_h[:, :H]) and np.all(reset.b[:H])


def test_names_are_in_order():
    model, params = problem(
        TOY_CELLS["peephole"], inputs="embedding", output_size=X, num_layers=2
    )
    blocks = assert_each_entry_is_in_one(model, params)
    layers = [f"layer {n}: {x}" for n in (1, 2) for x in ("preactivation", "small")]
    assert list(blocks) == ["embedding", *layers, "initial state", "readout"]
    ungated = parameter_blocks(problem_of("no_gated_form")[0])
    assert list(ungated) == ["layer 1", "initial state", "readout"]


def test_weights_that_make_several_gates_are_others():
    cell = make_lstm()
    gated = cell.gated
    assert gated is not None

    def weights(params):
        made = gated.weights(params)
        # The first row makes all gates, and no longer each its own.
        shared = made.w_x.at[0].set(made.w_x[0].sum())
        return GatedWeights(shared, made.w_h, made.b)

    shared = cell._replace(gated=gated._replace(weights=weights))
    blocks = assert_each_entry_is_in_one(*problem(shared))
    other = blocks["layer 1: other"].recurrent.layers[0]
    assert np.all(other.w_x[0]) and count(other) == 4 * H


def test_weights_that_are_not_there_make_nothing():
    mask = np.ones((H, 4 * H))
    mask[0, 1] = 0
    blocks = assert_each_entry_is_in_one(*problem(masked_cell(make_lstm(), mask)))
    other = blocks["layer 1: other"].recurrent.layers[0]
    np.testing.assert_array_equal(other.w_h, mask == 0)


def test_gates_that_do_not_divide_are_refused():
    gated = make_lstm().gated
    assert gated is not None
    wrong = gated._replace(gates=(Gate("a"), Gate("b"), Gate("c")))
    weights = GatedWeights(np.zeros((X, 4 * H)), np.zeros((H, 4 * H)), None)
    with pytest.raises(OptionError, match="gates: 3 of them do not divide the 16 col"):
        column_gates(wrong, weights)


def test_model_of_ones_own_is_refused():
    with pytest.raises(OptionError, match=r"its `layers` are None.*make_model"):
        parameter_blocks(Model(*problem_of("lstm")[0][:5]))
