"""Weights as textbooks write them, against the equations on [a_prev; x] in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import LSTMParams, LSTMState, lstm_cell
from jaxlstm.cells import GRUParams
from jaxlstm.interop.textbook import from_textbook, to_textbook
from jaxlstm.interop.weights import WeightsError
from tests.helpers import assert_close, jit

B, X, H = 2, 3, 5


def draw_weights(**shapes):
    rng = np.random.default_rng(0)
    wanted = {}
    for gate in "fico":
        wanted |= {f"W{gate}": (H, H + X), f"b{gate}": (H, 1)}
    return {name: rng.normal(size=shape) for name, shape in (wanted | shapes).items()}


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def step(a_prev, c_prev, x, *, Wf, bf, Wi, bi, Wc, bc, Wo, bo):
    """Makes a step on columns, [H, B] and [X, B]."""
    concat = np.concatenate([a_prev, x])
    forget = sigmoid(Wf @ concat + bf)
    update = sigmoid(Wi @ concat + bi)
    c = forget * c_prev + update * np.tanh(Wc @ concat + bc)
    return sigmoid(Wo @ concat + bo) * np.tanh(c), c


def test_a_step_by_the_equations(x64):
    weights = draw_weights()
    rng = np.random.default_rng(1)
    a, c, x = (rng.normal(size=(size, B)) for size in (H, H, X))
    params = from_textbook(**weights)
    state, _ = jit(lstm_cell)(params, LSTMState(a.T, c.T), x.T)
    assert_close(state, LSTMState(*(leaf.T for leaf in step(a, c, x, **weights))))


def test_both_ways(x64):
    flat = draw_weights(bf=(H,), bo=(H,))
    params = from_textbook(**flat)
    there = to_textbook(params)
    assert {name: array.shape for name, array in there.items()} == {
        name: array.shape for name, array in draw_weights().items()
    }
    assert_close(there, {n: a.reshape(there[n].shape) for n, a in flat.items()}, 0.0)
    assert_close(from_textbook(**there), params, 0.0)
    zeros = to_textbook(params._replace(b=None))
    assert_close(zeros, there | {n: 0 * there[n] for n in ("bf", "bi", "bc", "bo")})


def test_dtypes():
    weights = draw_weights()
    whole = {name: np.ones(array.shape, int) for name, array in weights.items()}
    for given, dtype, expected in (
        (weights, None, "float32"),
        (whole, None, "float32"),
        (weights, jnp.bfloat16, "bfloat16"),
    ):
        leaves = jax.tree.leaves(from_textbook(**given, dtype=dtype))
        assert [leaf.dtype.name for leaf in leaves] == 3 * [expected]


def test_what_does_not_fit_is_listed_at_once():
    weights = draw_weights(Wi=(H + X, H), bo=(4 * H,), bc=(1, H))
    with pytest.raises(WeightsError) as caught:
        from_textbook(**weights)
    by = "H = 5 and X = 3 by Wf of shape (5, 8)"
    assert sorted(caught.value.lines) == [
        f"Wi: shape (8, 5) is not [H, H + X]; {by}",
        f"bc: shape (1, 5) is not [H, 1] or [H]; {by}",
        f"bo: shape (20,) is not [H, 1] or [H]; {by}",
    ]
    for wrong in ((H,), (H + X, H), (0, X), (H, H)):
        with pytest.raises(WeightsError, match=r"Wf: shape .* is not \[H, H \+ X\]$"):
            from_textbook(**draw_weights(Wf=wrong))


@pytest.mark.parametrize("kind", [GRUParams, tuple])
def test_other_layers_have_no_textbook_form(kind):
    params = GRUParams(*[np.ones(1)] * 4)
    if kind is tuple:
        params = (LSTMParams(*jax.tree.leaves(params)[:3]),)
    with pytest.raises(TypeError, match=f"params: {kind.__name__} has no textbook"):
        to_textbook(params)
