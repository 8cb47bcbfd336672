"""Gates by name against those of the backward pass by hand, and how many are shut."""

import jax
import numpy as np
import pytest

from jaxlstm import textbook
from jaxlstm.cells import CELLS, LSTMState, make_gru, make_lstm, make_rnn
from jaxlstm.diagnostics import (
    cell_gates,
    forget_products,
    gate_values,
    saturation,
)
from jaxlstm.estimators import Segment
from jaxlstm.model import Model
from jaxlstm.shapes import OptionError
from tests.estimators.problems import B, make_segment, problem
from tests.helpers import assert_close, draw_like, jit


def test_gates_of_the_lstm_are_those_of_the_forward_pass_by_hand(x64):
    model, params = problem(make_lstm(), num_layers=2, learned_initial_state=False)
    inputs = np.nan_to_num(make_segment().inputs)
    state = draw_like(jax.eval_shape(lambda: model.initial_state(params, (B,))), 5)
    below, above = jit(
        lambda p: gate_values(model, p, Segment(inputs, None), state=state)
    )(params)
    readout = textbook.TextbookReadout(*params.readout)
    for values, layer, start in zip(
        (below, above), params.recurrent.layers, state, strict=True
    ):
        cache = textbook.forward(layer, readout, inputs, LSTMState(*start))
        by_hand = {
            "input": cache.i,
            "forget": cache.f,
            "candidate": cache.g,
            "output": cache.o,
        }
        assert_close(values, by_hand)
        inputs = cache.h


def test_gates_after_holes_and_resets_are_those_of_what_is_there(x64):
    model, params = problem(make_gru())
    segment = make_segment()
    (values,) = jit(lambda p: gate_values(model, p, segment))(params)
    assert set(values) == {"reset", "update"}
    inputs, _, mask, resets, _ = segment
    assert model.layers is not None
    (layer,), start = params.recurrent.layers, model.initial_state(params, ())
    for n in range(B):
        (state,) = start
        for t in range(len(inputs)):
            if resets[t, n]:
                (state,) = start
            if not mask[t, n]:
                assert not values["update"][t, n].any()
                continue
            h, x = np.asarray(state.h), inputs[t, n]
            z = x @ layer.w_x + h @ layer.w_h + layer.b
            r, u, _ = np.split(z, 3)
            assert_close(values["reset"][t, n], textbook.sigmoid(r))
            assert_close(values["update"][t, n], textbook.sigmoid(u))
            state, _ = model.layers.cell.step(layer, state, x)


@pytest.mark.parametrize(
    ("cell", "left_out"),
    [
        ("lstm", set()),
        pytest.param("peephole_lstm", set(), marks=pytest.mark.slow),
        pytest.param("niaf_lstm", {"candidate"}, marks=pytest.mark.slow),
        pytest.param("min_lstm", {"candidate"}, marks=pytest.mark.slow),
    ],
)
def test_saturation_counts_units_steps_and_examples_that_are_there(cell, left_out, x64):
    model, params = problem(CELLS[cell]())
    params = jax.tree.map(lambda x: 4 * x, params)
    segment = make_segment()
    (values,), (shares,) = jit(
        lambda p: (gate_values(model, p, segment), saturation(model, p, segment))
    )(params)
    there = segment.mask != 0
    assert values.keys() - shares.keys() == left_out
    for name in shares:
        value = values[name]
        value = np.asarray(value)[there]
        low = value < (-0.9 if name == "candidate" else 0.1)
        assert shares[name].low == pytest.approx(low.mean(), rel=1e-12)
        assert shares[name].high == pytest.approx((value > 0.9).mean(), rel=1e-12)
        assert 0 < shares[name].low < 1


@pytest.mark.slow
def test_forget_products_of_coupled_gates_are_of_what_the_input_gate_leaves(x64):
    model, params = problem(CELLS["cifg_lstm"](), num_layers=2)
    segment, lags = Segment(np.nan_to_num(make_segment().inputs), None), [1, 3]
    layers, found = jit(
        lambda p: (
            gate_values(model, p, segment),
            forget_products(model, p, segment, lags=lags),
        )
    )(params)
    kept = np.concatenate([1 - np.asarray(gates["input"]) for gates in layers], axis=-1)
    expected = [np.log(kept[-k:].prod(axis=0).mean(axis=-1)) for k in lags]
    assert_close(found, np.stack(expected))


def test_model_whose_gates_are_not_known_is_refused(x64):
    model, params = problem(make_rnn())
    own = Model(*model[:5])
    with pytest.raises(OptionError, match="one of its own"):
        gate_values(own, params, make_segment())
    assert model.layers is not None
    without = model.layers.cell._replace(gated=None)
    with pytest.raises(OptionError, match="no gated form"):
        cell_gates(without, params, None, np.zeros(3))
