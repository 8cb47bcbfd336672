"""The layer against LSTMs of others: JAX's reference for cuDNN, and Flax's cell."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

from jaxlstm import LSTMParams, LSTMState, lstm
from tests.helpers import assert_close

T, B, X, H = 5, 3, 4, 6
LENGTHS = [3, 5, 1]


def make_arguments(seed=0):
    """Returns params, inputs and state, in float64."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Any:
        return 0.5 * rng.normal(size=shape)

    params = LSTMParams(draw(X, 4 * H), draw(H, 4 * H), draw(4 * H))
    return params, draw(T, B, X), LSTMState(draw(B, H), draw(B, H))


def values_and_gradients(run, arguments, seed=1):
    """Returns (state, outputs), and the gradients along a random direction of them."""

    def values(*arguments):
        state, outputs = run(*arguments)
        return (state.h, state.c), outputs

    @jax.jit
    def both(*arguments):
        found, pull_back = jax.vjp(values, *arguments)
        rng = np.random.default_rng(seed)
        direction = jax.tree.map(
            lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), found
        )
        return found, pull_back(direction)

    return both(*arguments)


def run_reference(lengths, *, reverse=False):
    """Returns JAX's reference LSTM, with the arguments and results of `lstm`."""

    def run(params, inputs, state):
        # Batch first, [4H, X] weights, two biases; its second direction is the reversed
        # one, and the first is left out here.
        directions = range(2) if reverse else range(1)
        outputs, h, c = rnn.lstm_ref(
            jnp.swapaxes(inputs, 0, 1),
            jnp.stack([state.h for _ in directions]),
            jnp.stack([state.c for _ in directions]),
            {n: params.w_x.T for n in directions},
            {n: params.w_h.T for n in directions},
            {n: 0.25 * params.b for n in directions},
            {n: 0.75 * params.b for n in directions},
            lengths,
            input_size=X,
            hidden_size=H,
            num_layers=1,
            dropout=0.0,
            bidirectional=reverse,
        )
        return LSTMState(h[-1], c[-1]), jnp.swapaxes(outputs, 0, 1)[..., -H:]

    return run


@pytest.mark.parametrize(
    ("lengths", "reverse"), [(None, False), (LENGTHS, False), (LENGTHS, True)]
)
def test_layer_equals_the_reference_for_cudnn(x64, lengths, reverse):
    ends = jnp.asarray([T] * B if lengths is None else lengths, jnp.int32)

    def run(params, inputs, state):
        options = {} if lengths is None else {"lengths": ends}
        return lstm(params, inputs, state, reverse=reverse, **options)

    reference = run_reference(ends, reverse=reverse)

    expected = values_and_gradients(reference, make_arguments())
    assert_close(values_and_gradients(run, make_arguments()), expected)


def test_layer_equals_flax():
    def run(params, inputs, state):
        blocks = (jnp.split(w, 4, axis=-1) for w in params)
        weights = {}
        for gate, w_x, w_h, b in zip("ifgo", *blocks, strict=True):
            weights[f"i{gate}"] = {"kernel": w_x}
            weights[f"h{gate}"] = {"kernel": w_h, "bias": b}
        layer = nn.RNN(nn.OptimizedLSTMCell(H), time_major=True, return_carry=True)
        (c, h), outputs = layer.apply(
            {"params": {"cell": weights}}, inputs, initial_carry=(state.c, state.h)
        )
        return LSTMState(h, c), outputs

    arguments = jax.tree.map(lambda x: x.astype(np.float32), make_arguments())
    expected = values_and_gradients(run, arguments)
    assert_close(values_and_gradients(lstm, arguments), expected, tolerance=1e-5)
