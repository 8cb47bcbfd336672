"""Weights of Equinox, against its own cells, there and back."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import Directions, interop, lstm_stack
from jaxlstm.cells import CELLS, GRUParams, GRUState, LSTMParams, LSTMState
from jaxlstm.interop import WeightsError
from jaxlstm.model import ReadoutParams
from tests.helpers import assert_close, draw_like, jit

pytestmark = pytest.mark.peers

T, X, H = 5, 3, 4
MAKES = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}


def make_cell(kind, width=X, use_bias=True):
    shapes = eqx.filter_eval_shape(
        MAKES[kind], width, H, use_bias, key=jax.random.key(0)
    )
    return jax.tree.map(jnp.asarray, draw_like(shapes, width, 0.5))


def put_in(cell, arrays):
    """Returns a cell with other arrays, by their names."""
    names, values = zip(*arrays.items(), strict=True)
    return eqx.tree_at(lambda cell: [getattr(cell, n) for n in names], cell, values)


def as_tree(cell):
    return jax.tree.leaves(cell)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", MAKES)
def test_values_states_and_gradients(x64, kind, use_bias):
    """Two layers of cells, scanned as the pages of Equinox do."""
    cells = [make_cell(kind, X, use_bias), make_cell(kind, H, use_bias)]
    rng = np.random.default_rng(1)
    inputs, starts = rng.normal(size=(T, X)), rng.normal(size=(2, 2, H))
    hidden = [tuple(s) if kind == "lstm" else s[0] for s in starts]

    def weigh(values):
        directions = draw_like(values, 2)
        terms = jax.tree.map(lambda a, b: jnp.sum(a * b), values, directions)
        return sum(jax.tree.leaves(terms)), values

    def by_equinox(cells, inputs, hidden):
        lasts, x = [], inputs
        for cell, start in zip(cells, hidden, strict=True):

            def step(state, x, cell=cell):
                state = cell(x, state)
                return state, state[0] if kind == "lstm" else state

            last, x = jax.lax.scan(step, start, x)
            lasts.append(last)
        return weigh((lasts, x))

    def here(params, inputs, hidden):
        make = (lambda s: LSTMState(*s)) if kind == "lstm" else GRUState
        start = tuple(map(make, hidden))
        last, x = lstm_stack(params, inputs, start, cell=CELLS[kind]())
        lasts = [tuple(s) if kind == "lstm" else s.h for s in last]
        return weigh((lasts, x))

    @jit
    def run_both(cells, params, *given):
        return [
            jax.value_and_grad(run, (0, 1, 2), has_aux=True)(first, *given)
            for run, first in ((by_equinox, cells), (here, params))
        ]

    params = interop.from_equinox(cells)
    made = run_both(cells, params, inputs, hidden)
    (_, expected), (d_cells, *d_expected) = made[0]
    (_, found), (d_params, *d_found) = made[1]
    assert_close(found, expected)
    assert_close(d_found, d_expected)
    if kind == "gru" and not use_bias:  # Which has biases here, of zeros at first.
        none = {"b": jnp.zeros(3 * H), "b_h": jnp.zeros(H)}
        d_params = tuple(layer._replace(**none) for layer in d_params)
    assert_close(d_params, interop.from_equinox(d_cells))


@pytest.mark.parametrize("kind", MAKES)
def test_both_ways(x64, kind):
    cell, other = make_cell(kind), make_cell(kind, use_bias=True)
    other = jax.tree.map(jnp.zeros_like, other)
    (params,) = interop.from_equinox(cell)
    assert isinstance(params, {"lstm": LSTMParams, "gru": GRUParams}[kind])
    arrays = interop.to_equinox(params)
    assert_close(as_tree(put_in(other, arrays)), as_tree(cell), 0)
    assert_close(interop.from_equinox(arrays), (params,), 0)
    both = Directions(params, params)
    there = interop.to_equinox((both, params))
    assert_close(there, (Directions(arrays, arrays), arrays), 0)
    assert_close(interop.from_equinox(there), (both, params), 0)


def test_other_parts(x64):
    key = jax.random.key(0)
    embedding, linear = eqx.nn.Embedding(7, X, key=key), eqx.nn.Linear(H, 2, key=key)
    table = interop.embedding_from_equinox(embedding)
    assert_close(table, embedding.weight, 0)
    blank = jax.tree.map(jnp.zeros_like, embedding)
    again = put_in(blank, interop.embedding_to_equinox(table))
    assert_close(as_tree(again), as_tree(embedding), 0)
    readout = interop.linear_from_equinox(linear)
    x = np.random.default_rng(0).normal(size=H)
    assert_close(x @ readout.w + readout.b, linear(jnp.asarray(x)))
    arrays = interop.linear_to_equinox(readout)
    assert_close(as_tree(put_in(linear, arrays)), as_tree(linear), 0)
    plain = eqx.nn.Linear(H, 2, use_bias=False, key=key)
    assert not interop.linear_from_equinox(plain).b.any()


def test_what_does_not_fit(x64):
    arrays = interop.to_equinox(interop.from_equinox(make_cell("lstm"))[0])
    gru = interop.to_equinox(interop.from_equinox(make_cell("gru"))[0])
    wide, short, long = np.ones((4 * H, H + 1)), np.ones((15, X)), np.ones(3 * H)
    wrong = {
        r"^cells\[0\]\.bias: shape \(12,\) is not \(16,\)": [arrays | {"bias": long}],
        r"^weight_hh: shape \(16, 5\) is neither": arrays | {"weight_hh": wide},
        r"^weight_ih: shape \(15, 3\) is not \(16,": arrays | {"weight_ih": short},
        r"^cells\[1\]\.forward\.weight_ih: is missing$": [
            arrays,
            Directions({"weight_hh": wide}, arrays),
        ],
        r"^bias_n: is not of this layer$": arrays | {"bias_n": np.ones(H)},
        r"^bias_n: is missing$": {n: a for n, a in gru.items() if n != "bias_n"},
        r"^bias_ih: is not of this layer$": arrays | {"bias_ih": long},
        r"^Identity: has none of weight_ih, weight_hh, bias": eqx.nn.Identity(),
    }
    for message, given in wrong.items():
        with pytest.raises(WeightsError, match=message):
            interop.from_equinox(given)
    with pytest.raises(TypeError, match=r"^params: ReadoutParams has no cell in Equin"):
        interop.to_equinox(ReadoutParams(None, None))
