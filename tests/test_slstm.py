"""The stabilised sLSTM beside the plain formula, which overflows, in long decimals."""

import decimal
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import unroll
from jaxlstm.cells import LSTMVariantParams, make_lstm_variant
from tests.helpers import assert_close, jit

T = 9
# Digits that hold what a difference of 1e-45 changes, and exponents past e^9000.
CONTEXT = decimal.Context(prec=120, Emax=10**6, Emin=-(10**6))
STEP = Decimal("1e-45")
W_H = np.array([0.3, -0.4, 0.5, 0.2])


def plain(inputs: list[list[Decimal]], forget: str) -> Decimal:
    """Sums h_t / t of one unit, by the plain formula; z_t = inputs_t + h_{t-1} W_h.

    c' = f c + exp(i) tanh(z)       n' = f n + exp(i)       h' = sigma(o) c' / n'
    """
    h = c = n = total = Decimal(0)
    w_h = [Decimal(float(w)) for w in W_H]
    for t, row in enumerate(inputs):
        i, f, z, o = (x + h * w for x, w in zip(row, w_h, strict=True))
        i, f = i.exp(), f.exp() if forget == "exp" else sigma(f)
        c, n = f * c + i * (2 * sigma(2 * z) - 1), f * n + i
        h = sigma(o) * c / n
        total += h / (t + 1)
    return total


def sigma(x: Decimal) -> Decimal:
    return 1 / (1 + (-x).exp())


def differentiate(inputs: np.ndarray, forget: str) -> tuple[float, np.ndarray]:
    """Returns the sum, and its gradient [T, 4] by central differences."""
    with decimal.localcontext(CONTEXT):
        exact = [[Decimal(float(x)) for x in row] for row in inputs]
        gradient = np.zeros(inputs.shape)
        for t, k in np.ndindex(inputs.shape):
            sums = []
            for sign in (1, -1):
                moved = [list(row) for row in exact]
                moved[t][k] += sign * STEP
                sums.append(plain(moved, forget))
            gradient[t, k] = float((sums[0] - sums[1]) / (2 * STEP))
        return float(plain(exact, forget)), gradient


def make_inputs(size: float) -> np.ndarray:
    """Draws inputs of the blocks i, f, z, o; some of i and f are as large as `size`."""
    rng = np.random.default_rng(int(size))
    inputs = rng.normal(size=(T, 4))
    inputs[::2, :2] += size * rng.choice([-1, 1], size=inputs[::2, :2].shape)
    return inputs


@pytest.mark.parametrize(
    ("forget", "size"),
    [
        pytest.param(forget, size, marks=[] if quick else pytest.mark.slow)
        for forget, size, quick in [
            ("sigmoid", 1000.0, True),
            ("exp", 1000.0, False),
            ("sigmoid", 1.0, False),
            ("exp", 30.0, False),
        ]
    ],
)
def test_stabilised_is_the_plain_formula(forget, size, x64):
    cell = make_lstm_variant(exponential=forget, output_activation="identity")
    params = LSTMVariantParams(jnp.eye(4), W_H[None])
    weights = 1 / (1 + np.arange(T))

    def total(inputs):
        states = unroll(cell, params, inputs)[1]
        return weights @ states.h[:, 0], states

    inputs = make_inputs(size)
    (loss, states), gradient = jit(jax.value_and_grad(total, has_aux=True))(inputs)
    expected, exact = differentiate(inputs, forget)
    assert np.isfinite(jax.tree.leaves(states)).all()
    assert abs(loss - expected) < 1e-12 * abs(expected)
    assert_close(gradient, exact)
    for column in np.delete(exact, 0, axis=0).T:
        assert np.any(column)


@pytest.mark.slow
def test_far_steps_stay_finite_in_float32():
    cell = make_lstm_variant(exponential="exp", output_activation="identity", heads=2)
    params = cell.init(jax.random.key(0), 3, 4)
    params = params._replace(b=params.b.at[:8].set(1000.0))

    def total(params, inputs):
        return jnp.sum(unroll(cell, params, inputs)[1].h ** 2)

    inputs = 100 * jax.random.normal(jax.random.key(1), (50, 2, 3))
    gradient = jit(jax.grad(total, (0, 1)))(params, inputs)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert all(jnp.any(leaf) for leaf in jax.tree.leaves(gradient))
