"""Keras's recurrent layers: weights, states and outputs of each, in and out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import interop, lstm
from jaxlstm.cells import CELLS
from jaxlstm.layers import Directions
from tests.helpers import assert_close, jit
from tests.peers.keras_peer import FILTER, draw, in_float64, keras

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings(FILTER)]

T, B, X, H = 5, 4, 3, 2
MASKS = {
    "left": [[0, 0, 1, 1, 1], [1] * 5, [0, 0, 0, 0, 1], [0] * 5],
    "right": [[1, 1, 1, 0, 0], [1] * 5, [1, 0, 0, 0, 0], [0] * 5],
    "holes": [[0, 1, 0, 1, 0], [1] * 5, [1, 0, 0, 1, 1], [0] * 5],
}
# Layer, its options; "mask" and "merge_mode" are none of these.
CASES = {
    "lstm": ("LSTM", {}),
    "last output": ("LSTM", {"return_sequences": False}),
    "no bias": ("LSTM", {"use_bias": False, "mask": "left"}),
    "hard sigmoid": ("LSTM", {"recurrent_activation": "hard_sigmoid"}),
    "gelu": ("LSTM", {"activation": "gelu", "mask": "holes"}),
    "no activation": ("LSTM", {"activation": None, "recurrent_activation": "softsign"}),
    "backwards": ("LSTM", {"go_backwards": True, "mask": "left"}),
    "backwards, last output": (
        "LSTM",
        {"go_backwards": True, "mask": "holes", "return_sequences": False},
    ),
    "zeros on masked steps": (
        "LSTM",
        {"go_backwards": True, "mask": "right", "zero_output_for_mask": True},
    ),
    "last of zeros": (
        "LSTM",
        {"return_sequences": False, "mask": "right", "zero_output_for_mask": True},
    ),
    "gru": ("GRU", {"mask": "holes"}),
    "gru without bias": ("GRU", {"use_bias": False, "go_backwards": True}),
    "rnn": ("SimpleRNN", {"mask": "right"}),
    "concat": ("LSTM", {"merge_mode": "concat", "mask": "holes"}),
    "sum": ("LSTM", {"merge_mode": "sum", "mask": "left"}),
    "mul": ("GRU", {"merge_mode": "mul"}),
    "ave": ("SimpleRNN", {"merge_mode": "ave"}),
    "none": ("LSTM", {"merge_mode": None, "recurrent_activation": "hard_sigmoid"}),
    "ave of last outputs": (
        "LSTM",
        {"merge_mode": "ave", "mask": "right", "return_sequences": False},
    ),
}


@pytest.fixture(autouse=True)
def _exact():
    with in_float64():
        yield


def make_layer(kind, options, input_size=X):
    """Returns a layer of Keras in float64, all of its weights drawn at random."""
    options = {"return_sequences": True, "return_state": True, **options}
    options.pop("mask", None)
    both = "merge_mode" in options
    merge_mode = options.pop("merge_mode", None)
    layer = getattr(keras.layers, kind)(H, dtype="float64", **options)
    if both:
        layer = keras.layers.Bidirectional(layer, merge_mode, dtype="float64")
    layer.build((None, T, input_size))
    layer.set_weights([draw(n, *w.shape) for n, w in enumerate(layer.get_weights())])
    return layer


def call(layer, weights, x, mask=None, state=None):
    """Returns outputs and last states of a layer of Keras, as a pure function."""
    others = [v.value for v in layer.non_trainable_variables]
    outputs, _ = layer.stateless_call(
        weights, others, x, mask=mask, initial_state=state
    )
    outputs = list(outputs)
    pair = getattr(layer, "merge_mode", "") is None
    y = tuple(outputs[:2]) if pair else outputs[0]
    return y, outputs[2 if pair else 1 :]


def values(layer):
    return [jnp.asarray(v.value) for v in layer.trainable_variables]


def read(layer, tmp_path):
    """Returns a layer by way of a file."""
    inputs = keras.Input((None, X), dtype="float64")
    path = tmp_path / "layer.keras"
    keras.Model(inputs, layer(inputs)).save(path)
    (read,) = interop.load_keras(path).recurrent
    return read


@pytest.mark.parametrize("name", CASES)
def test_runs_as_keras_runs_it(name, x64, tmp_path):
    kind, options = CASES[name]
    layer = make_layer(kind, options)
    ours, x = read(layer, tmp_path), draw(100, B, T, X)
    mask = np.array(MASKS[options["mask"]], bool) if "mask" in options else None
    sizes = [H] * (2 if kind == "LSTM" else 1) * (2 if "merge_mode" in options else 1)
    state = [draw(200 + n, B, size) for n, size in enumerate(sizes)]

    def run(x, state):
        start = interop.state_from_keras([state], ours.params)
        last, y = interop.run_keras(ours, x, mask, start)
        made = y, interop.state_to_keras(last)[0]
        return made, call(layer, values(layer), x, mask, state)

    assert_close(*jit(run)(x, state))
    merge_mode = options.get("merge_mode", "absent")
    assert isinstance(ours.params, Directions) == (merge_mode != "absent")
    # What came in goes out as it was, but for the biases of what has none in Keras.
    for wrote, own in zip(
        interop.to_keras(ours.params)[0], layer.get_weights(), strict=False
    ):
        if kind != "GRU" or own.ndim != 2 or own.shape[0] != 2:
            np.testing.assert_array_equal(wrote, own)


def test_stacks_in_and_out(x64):
    layers = [
        make_layer("LSTM", {"merge_mode": "concat"}),
        make_layer("GRU", {"merge_mode": "concat"}, 2 * H),
        make_layer("LSTM", {"use_bias": False}, 2 * H),
        make_layer("SimpleRNN", {}, H),
    ]
    params = interop.from_keras(*(layer.get_weights() for layer in layers))
    again = [
        make_layer(*kind)
        for kind in (
            ("LSTM", {"merge_mode": "concat"}),
            ("GRU", {"merge_mode": "concat"}, 2 * H),
            ("LSTM", {"use_bias": False}, 2 * H),
            ("SimpleRNN", {}, H),
        )
    ]
    for layer, weights in zip(again, interop.to_keras(params), strict=True):
        layer.set_weights(weights)
    x = draw(100, B, T, X)

    def run(x):
        outputs = []
        for stack in (layers, again):
            y = x
            for layer in stack:
                y, _ = call(layer, values(layer), y)
            outputs.append(y)
        return outputs

    assert_close(*jit(run)(x))
    # The two biases of a GRU's gates are one here, and the other is zero.
    gru = interop.from_keras(again[1].get_weights())
    assert_close(gru, params[1:2])


def test_gradients_are_those_of_keras(x64):
    layer = make_layer("LSTM", {"merge_mode": "sum"})
    x, mask = draw(100, B, T, X), np.array(MASKS["holes"], bool)
    ours = interop.KerasRecurrent(
        "lstm",
        "LSTM",
        cell=CELLS["lstm"](),
        params=interop.from_keras(layer.get_weights())[0],
        merge_mode="sum",
        return_sequences=True,
        zero_output_for_mask=True,
    )

    def of_keras(weights, x):
        return (call(layer, weights, x, mask)[0] * draw(101, B, T, H)).sum()

    def of_ours(params, x):
        y = interop.apply_keras(ours._replace(params=params), x, mask)
        return (y * draw(101, B, T, H)).sum()

    def run(x):
        d_params, d_x = jax.grad(of_ours, (0, 1))(ours.params, x)
        return (d_params, d_x), jax.grad(of_keras, (0, 1))(values(layer), x)

    (d_params, d_x), (d_weights, d_x_keras) = jit(run)(x)
    wanted = [np.asarray(w) for w in d_weights]
    assert_close(interop.to_keras(d_params)[0], wanted)
    assert_close(d_x, d_x_keras)


@pytest.mark.parametrize("padding", ["pre", "post"])
def test_padding_makes_the_mask_of_an_embedding(padding, x64):
    sequences = [[3, 1], [4, 2, 1, 1, 5], [2]]
    symbols = keras.utils.pad_sequences(sequences, maxlen=T, padding=padding)
    embedding = keras.layers.Embedding(6, X, mask_zero=True, dtype="float64")
    embedding.build()
    layer = make_layer("LSTM", {})
    mask = interop.mask_from_padding(symbols.T)
    table = interop.embedding_from_keras(embedding.get_weights())
    (params,) = interop.from_keras(layer.get_weights())

    def run(symbols):
        y, state = call(
            layer, values(layer), embedding(symbols), embedding.compute_mask(symbols)
        )
        last, outputs = lstm(params, table[symbols.T], mask=mask)
        return (y, state), (outputs, last)

    (y, state), (outputs, last) = jit(run)(symbols)
    there = np.asarray(mask)[..., None]
    y = np.swapaxes(np.asarray(y), 0, 1)
    assert_close(np.where(there, outputs, 0.0), np.where(there, y, 0.0))
    assert_close(interop.state_to_keras(last)[0], [np.asarray(s) for s in state])
    # On masked steps Keras repeats an output, and zeros are given here.
    if padding == "post":
        assert_close(y[2:, 0], np.repeat(y[1:2, 0], T - 2, axis=0))
    assert not np.asarray(outputs)[~np.asarray(mask)].any()


def test_dense_and_embedding_go_in_and_out(x64):
    dense = keras.layers.Dense(2, use_bias=False)
    dense.build((None, H))
    readout = interop.linear_from_keras(dense.get_weights())
    assert not np.asarray(readout.b).any() and readout.b.shape == (2,)
    with_bias = keras.layers.Dense(2)
    with_bias.build((None, H))
    with_bias.set_weights(interop.linear_to_keras(readout._replace(b=jnp.ones(2))))
    x = draw(0, B, H)
    assert_close(np.asarray(with_bias(x)), np.asarray(x @ readout.w + 1))
    table = keras.layers.Embedding(5, X)
    table.build()
    arrays = interop.embedding_to_keras(np.ones((5, X)))
    table.set_weights(arrays)
    assert_close(interop.embedding_from_keras(table.get_weights()), arrays[0])
