"""Files of Keras's own models, read and run; and what must not be read."""

import h5py
import jax
import numpy as np
import pytest

from jaxlstm import interop, make_model
from jaxlstm.cells import CELLS
from tests.helpers import assert_close, jit
from tests.peers.keras_peer import FILTER, draw, in_float64, keras

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings(FILTER)]

T, B, X = 6, 3, 5
L = keras.layers
SYMBOLS = np.array([[0, 0, 3, 1, 0, 4], [1, 2, 3, 4, 1, 2], [4, 1, 0, 0, 0, 0]])


@pytest.fixture(autouse=True)
def _exact():
    with in_float64():
        yield


def make_layers():
    """Returns layers of which each thing that a file can tell is used."""
    return [
        L.Embedding(X, 4, mask_zero=True),
        L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode="mul"),
        L.SpatialDropout1D(0.3),
        L.TimeDistributed(L.Dense(3, activation="gelu")),
        L.LSTM(
            2,
            go_backwards=True,
            recurrent_activation="hard_sigmoid",
            return_sequences=True,
            recurrent_dropout=0.2,
        ),
        L.GRU(3, return_sequences=True, dropout=0.1),
        L.Activation("relu"),
        L.LSTM(4, activation="softsign", return_sequences=True),
        L.SimpleRNN(3, use_bias=False),
        L.Dropout(0.5),
        L.Dense(2, activation="softmax"),
    ]


def draw_weights(model):
    for n, layer in enumerate(model.layers):
        shapes = [w.shape for w in layer.get_weights()]
        layer.set_weights([draw(10 * n + k, *s) for k, s in enumerate(shapes)])
    return model


def sequential():
    return draw_weights(
        keras.Sequential([keras.Input((None,), dtype="int32"), *make_layers()])
    )


def functional():
    inputs = outputs = keras.Input((None,), dtype="int32")
    for layer in make_layers():
        outputs = layer(outputs)
    return draw_weights(keras.Model(inputs, outputs))


def masking():
    inputs = keras.Input((None, 2))
    hidden = L.Masking(1.0)(inputs)
    hidden = L.Bidirectional(L.GRU(2), merge_mode="ave")(hidden)
    return draw_weights(keras.Model(inputs, L.Dense(1)(hidden)))


def call(model, x):
    """Returns the outputs of a model of Keras, as a pure function."""
    weights, others = (
        [v.value for v in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )
    return model.stateless_call(weights, others, x, training=False)[0]


def run_both(model, read, x):
    return jit(lambda x: (interop.apply_keras(read, x), call(model, x)))(x)


@pytest.mark.parametrize(
    ("make", "ending"),
    [(sequential, ".keras"), (sequential, ".h5"), (functional, ".keras")],
)
def test_model_runs_as_keras_runs_it(make, ending, x64, tmp_path):
    model, path = make(), tmp_path / f"model{ending}"
    model.save(path)
    read = interop.load_keras(path)
    kinds = [type(layer).__name__.removeprefix("Keras") for layer in read.layers]
    wanted = (
        "Embedding Recurrent Idle Dense Recurrent Recurrent Dense Recurrent Recurrent "
        "Idle Dense"
    )
    assert " ".join(kinds).removeprefix("Idle ") == wanted
    assert [layer.recurrent_dropout for layer in read.recurrent] == [0, 0.2, 0, 0, 0]
    assert [layer.dropout for layer in read.recurrent] == [0, 0, 0.1, 0, 0]
    assert_close(*run_both(model, read, SYMBOLS))


def test_masking_layer_masks(x64, tmp_path):
    model, path = masking(), tmp_path / "model.keras"
    model.save(path)
    read, x = interop.load_keras(path), draw(1, B, T, 2)
    x[0, :3], x[1, 4], x[2, 2, 0] = 1, 1, 1
    assert_close(*run_both(model, read, x))


def test_hard_sigmoid_is_that_of_the_version(x64, tmp_path):
    model = draw_weights(
        keras.Sequential(
            [keras.Input((None, 2)), L.LSTM(3, recurrent_activation="hard_sigmoid")]
        )
    )
    path, x = tmp_path / "model.h5", draw(1, B, T, 2)
    model.save(path)
    with h5py.File(path, "r+") as file:
        file["model_weights"].attrs["keras_version"] = "2.2.4"
        file.attrs["keras_version"] = "2.2.4-tf"
    read = interop.load_keras(path)
    w_x, w_h, b = model.layers[0].get_weights()
    h = c = np.zeros((B, 3))
    for t in range(T):
        z = x[:, t] @ w_x + h @ w_h + b
        i, f, g, o = np.split(z, 4, axis=-1)
        i, f, o = (np.clip(0.2 * gate + 0.5, 0, 1) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
    assert read.version == 2
    assert_close(np.asarray(jit(lambda x: interop.apply_keras(read, x))(x)), h)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_model_goes_out_to_a_file(bidirectional, x64, tmp_path):
    cell = CELLS["gru" if bidirectional else "lstm"]()
    sizes = {"input_size": X, "output_size": 2, "hidden_size": 3, "num_layers": 2}
    model = make_model(
        cell, inputs="embedding", embedding_size=4, bidirectional=bidirectional, **sizes
    )
    params = jax.tree.map(
        lambda leaf: draw(leaf.size, *leaf.shape),
        jax.eval_shape(lambda: model.init(jax.random.key(0))),
    )
    path, mask = tmp_path / "model.keras", interop.mask_from_padding(SYMBOLS.T)
    interop.save_keras(path, params, mask_zero=True)
    theirs = keras.models.load_model(path)

    def run(symbols):
        y = call(theirs, symbols)
        start = model.initial_state(params, (B,))
        _, states = model.unroll(params.recurrent, start, symbols.T, mask=mask)
        return y.swapaxes(0, 1), model.readout(params, states)

    y, outputs = (np.asarray(made) for made in jit(run)(SYMBOLS))
    there = np.asarray(mask)[..., None]
    assert_close(np.where(there, y, 0.0), np.where(there, outputs, 0.0))
    assert_close(
        interop.to_keras(params.recurrent.layers)[0][0], theirs.get_weights()[1]
    )
    read = interop.load_keras(path)
    assert_close(np.asarray(read.layers[-1].params.w), np.asarray(params.readout.w))


def test_stack_goes_out_to_a_file(x64, tmp_path):
    layer = [draw(0, 2, 12), draw(1, 3, 12)]
    params = interop.from_keras(layer, [draw(2, 3, 4), draw(3, 4, 4), draw(4, 4)])
    path = tmp_path / "model.keras"
    options = {"recurrent_activation": "hard_sigmoid", "return_sequences": False}
    interop.save_keras(path, params, **options)
    first, second = interop.load_keras(path).recurrent
    assert_close((first.params.w_x, second.params), (params[0].w_x, params[1]))
    assert first.params.b is None and first.return_sequences
    assert not second.return_sequences
    assert type(first.params).__name__ == "LSTMVariantParams"
    assert_close(interop.to_keras(first.params), [layer])
    with pytest.raises(ValueError, match=r"does not end in \.keras"):
        interop.save_keras(tmp_path / "model.h5", params)


def test_branches_are_told(x64, tmp_path):
    inputs = keras.Input((None, 2))
    first = L.LSTM(2, return_sequences=True, name="first")(inputs)
    path = tmp_path / "model.keras"
    keras.Model(inputs, [first, L.LSTM(2, name="second")(first)]).save(path)
    read = interop.load_keras(path)
    with pytest.raises(ValueError, match="no chain of layers: its outputs are of"):
        interop.apply_keras(read, draw(0, B, T, 2))
    keras.Model(inputs, L.LSTM(2, name="second")(inputs) + first[:, -1]).save(path)
    with pytest.raises(interop.WeightsError, match="is none of LSTM"):
        interop.load_keras(path)
    first_again, second = L.LSTM(2, name="a"), L.LSTM(2, name="b")
    first_again(inputs)
    keras.Model(inputs, [first_again(inputs), second(inputs)]).save(path)
    read = interop.load_keras(path)
    assert read.branches is not None and "is fed by 'input_layer" in read.branches
    assert [layer.name for layer in read.recurrent] == ["a", "b"]
