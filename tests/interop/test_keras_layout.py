"""Lists of arrays as Keras has them, against its formulas; faults by name."""

import numpy as np
import pytest

from jaxlstm import interop
from jaxlstm.cells import GRUParams, LSTMParams, LSTMVariantParams, make_gru, make_lstm
from jaxlstm.layers import Directions
from tests.helpers import assert_close, jit

T, B, X, H = 4, 2, 3, 2


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_of_keras(weights, x):
    """Returns outputs [B, T, H], gates in the order i, f, c, o."""
    kernel, recurrent_kernel, bias = weights
    h = c = np.zeros((len(x), H))
    outputs = []
    for t in range(T):
        z = x[:, t] @ kernel + h @ recurrent_kernel + bias
        i, f, candidate, o = np.split(z, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(candidate)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, 1)


def gru_of_keras(weights, x):
    """Returns outputs [B, T, H], gates in the order z, r, h, with reset_after."""
    kernel, recurrent_kernel, bias = weights
    h, outputs = np.zeros((len(x), H)), []
    for t in range(T):
        x_z, x_r, x_h = np.split(x[:, t] @ kernel + bias[0], 3, axis=-1)
        h_z, h_r, h_h = np.split(h @ recurrent_kernel + bias[1], 3, axis=-1)
        z = sigmoid(x_z + h_z)
        h = z * h + (1 - z) * np.tanh(x_h + sigmoid(x_r + h_r) * h_h)
        outputs.append(h)
    return np.stack(outputs, 1)


def draw_layer(gates, seed=0, input_size=X):
    rows = (2,) if gates == 3 else ()
    shapes = (input_size, gates * H), (H, gates * H), (*rows, gates * H)
    return [draw(seed + n, *shape) for n, shape in enumerate(shapes)]


def test_layers_compute_what_keras_computes(x64):
    both, x = (draw_layer(4), draw_layer(3)), draw(9, B, T, X)
    params = interop.from_keras(*both)
    layers = [
        interop.KerasRecurrent("", kind, make(), own, return_sequences=True)
        for kind, make, own in zip(
            ("LSTM", "GRU"), (make_lstm, make_gru), params, strict=True
        )
    ]
    outputs = jit(lambda x: [interop.apply_keras(layer, x) for layer in layers])(x)
    wanted = [lstm_of_keras(both[0], x), gru_of_keras(both[1], x)]
    assert_close([np.asarray(y) for y in outputs], wanted)


def test_lists_come_back_as_they_were(x64):
    layers = [
        draw_layer(4),
        draw_layer(4, 10, H) + draw_layer(4, 20, H),
        draw_layer(4, 30, 2 * H)[:2],
        draw_layer(1, 40, H),
    ]
    params = interop.from_keras(*layers)
    assert isinstance(params[1], Directions)
    assert isinstance(params[2], LSTMParams) and params[2].b is None
    assert_close(interop.to_keras(params), layers)
    variant = LSTMVariantParams(*params[0])
    assert_close(interop.to_keras(variant), layers[:1])
    # The sum of the two biases of a gate of the GRU alone acts.
    gru = draw_layer(3)
    ((kernel, recurrent_kernel, bias),) = interop.to_keras(interop.from_keras(gru))
    assert_close([kernel, recurrent_kernel, bias.sum(0)], [*gru[:2], gru[2].sum(0)])
    assert_close(bias[1, 2 * H :], gru[2][1, 2 * H :])
    (narrow,) = interop.from_keras(gru, dtype="float32")
    assert isinstance(narrow, GRUParams) and narrow.w_x.dtype == np.float32


W_X, W_H, b = draw_layer(4)
REFUSED = {
    "no layer": ((), "weights: there is no layer; give layer.get_weights() of each"),
    "an array": ((W_X,), "weights: ndarray is no list; give layer.get_weights()"),
    "one": (([W_X],), "weights: 1 arrays are not kernel, recurrent_kernel, bias of a"),
    "kernel": (
        ([W_X[:, 1:], W_H, b],),
        "weights: kernel: shape (3, 7) is not (3, 8), which is [X, 4H] for the LSTM",
    ),
    "recurrent": (
        ([W_X, W_H[:, 1:], b],),
        "weights: recurrent_kernel: shape (2, 7) is not [H, 4H] of an LSTM, [H, 3H]",
    ),
    "bias": (
        ([W_X, W_H, b[1:]],),
        "weights: bias: shape (7,) is not (8,), which is [4H] for the LSTM with H = 2",
    ),
    "order": (
        ([b, W_X, W_H],),
        "weights: recurrent_kernel: shape (3, 8) is not [H, 4H",
    ),
    "integers": (
        ([W_X, W_H.astype(int)],),
        "weights: recurrent_kernel: int64 is no fl",
    ),
    "dtypes": (
        ([W_X, W_H.astype("f4")],),
        "weights: recurrent_kernel: dtype float32 is",
    ),
    "reset_after": (
        ([*draw_layer(3)[:2], draw(0, 6)],),
        "weights: bias: shape (6,) is [3H] of a GRU with reset_after=False",
    ),
    "directions": (
        ([W_X, W_H, W_H, W_H],),
        "weights: kernels of shape (3, 8) and (2, 8) are not of the two directions",
    ),
    "second layer": (
        ([W_X, W_H, b], [W_X, W_H, b[1:]]),
        "weights of layer 1: bias: shape (7,) is not (8,)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_lists_that_are_no_layer_are_refused_by_name(name, x64):
    layers, message = REFUSED[name]
    with pytest.raises(interop.WeightsError) as caught:
        interop.from_keras(*layers)
    assert str(caught.value).startswith(message)


def test_what_keras_lacks_is_refused():
    peepholes = LSTMVariantParams(W_X, W_H, b, peepholes=draw(0, 3, H))
    with pytest.raises(TypeError, match="layer 0 has w_x, w_h, b, peepholes of an LST"):
        interop.to_keras(peepholes)
    heads = LSTMVariantParams(W_X, draw(0, 2, 1, 4, 1), b)
    with pytest.raises(TypeError, match="layer 0 has w_x, w_h, b of an LSTM of anothe"):
        interop.to_keras(heads)
    with pytest.raises(TypeError, match="layer 0 is LSTMState; Keras has layers for"):
        interop.to_keras(interop.state_from_keras([[b, b]], LSTMParams(b, b, b))[0])


def test_states_come_back_as_they_were(x64):
    params = interop.from_keras(
        draw_layer(4), draw_layer(3, 10, H) + draw_layer(3, 20, H)
    )
    states = [[draw(n, B, H) for n in range(2)], [draw(n, B, H) for n in (2, 3)]]
    read = interop.state_from_keras(states, params)
    np.testing.assert_array_equal(read[0].c, states[0][1])
    np.testing.assert_array_equal(read[1].backward.h, states[1][1])
    again = interop.state_to_keras(read)
    assert_close([[np.asarray(part) for part in layer] for layer in again], states)
    for wrong, message in (
        (states[:1], "states: 1 are not those of 2 layers"),
        ([states[0], states[1][:1]], r"states\[1\]: has 1 parts, and not 2: h forward"),
        ([states[0][:1], states[1]], r"states\[0\]: has 1 parts, and not 2: h, c"),
        (
            [[b, b], states[1]],
            r"states\[0\]\[0\]: shape \(8,\) does not fit \[..., H\]",
        ),
        ([["h", b], states[1]], r"states\[0\]\[0\]: str is no array"),
    ):
        with pytest.raises(ValueError, match=message):
            interop.state_from_keras(wrong, params)


def test_readout_and_embedding_are_refused_by_name(x64):
    read = interop.linear_from_keras([W_X])
    assert_close(interop.linear_to_keras(read), [W_X, np.zeros(8)])
    assert_close(interop.embedding_from_keras(interop.embedding_to_keras(W_X)), W_X)
    for function, weights, message in (
        (interop.linear_from_keras, [W_X, b[1:]], r"bias: shape \(7,\) is not \(8,\)"),
        (interop.linear_from_keras, [b, b], r"kernel: shape \(8,\) is not \[H, Y\]"),
        (
            interop.linear_from_keras,
            [W_X] * 3,
            "3 arrays are not kernel and bias alone",
        ),
        (interop.linear_from_keras, [], "0 arrays are not kernel alone"),
        (interop.embedding_from_keras, [W_X, W_X], "2 arrays are not embeddings alone"),
    ):
        with pytest.raises(interop.WeightsError, match=message):
            function(weights)


def test_mask_is_that_of_the_padding():
    symbols = np.array([[0, 0, 3], [7, 0, 1]])
    mask = interop.mask_from_padding(symbols)
    np.testing.assert_array_equal(mask, [[0, 0, 1], [1, 0, 1]])
    np.testing.assert_array_equal(interop.mask_from_padding(symbols, 7)[1], [0, 1, 1])
