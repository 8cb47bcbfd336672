"""Operators of ONNX against their specification in NumPy, without the package onnx."""

import jax
import numpy as np
import pytest

from jaxlstm import Directions, LSTMParams, interop
from jaxlstm.cells import GRUParams, LSTMVariantParams, RNNParams
from jaxlstm.interop import WeightsError
from jaxlstm.interop.onnx.activations import read_activations, write_activations
from jaxlstm.interop.onnx.layer import attributes_of
from jaxlstm.shapes import OptionError
from tests.helpers import assert_close, jit
from tests.interop.onnx_operators import (
    BOTH,
    OPERATORS,
    B,
    H,
    Operator,
    X,
    run_here,
    run_operator,
    with_numbers,
)

QUICK = ("batch-first peepholes",)


def compare(names):
    operators = {name: OPERATORS[name] for name in names}
    run, params = run_here(operators)
    expected = {n: run_operator(op, *op.draw()) for n, op in operators.items()}
    assert_close(jit(run)(params), expected)


def test_operators_by_their_specification(x64):
    compare(QUICK)


@pytest.mark.slow
def test_all_operators_by_their_specification(x64):
    compare([name for name in OPERATORS if name not in QUICK])


def merge(array, count):
    """Returns [D, 2 G H] with the two biases of all gates but the last in the first."""
    w_b, r_b = np.split(array, 2, axis=1)
    last = np.arange(array.shape[1] // 2) >= count
    return np.concatenate(
        [w_b + np.where(last, 0, r_b), np.where(last, r_b, 0)], axis=1
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_both_ways(x64, name):
    operator = OPERATORS[name]
    tensors = operator.draw()[0]
    coupled = operator.attributes.get("input_forget", 0)
    layer = interop.layer_from_onnx(tensors, operator.attributes)
    there = interop.to_onnx(layer.params, input_forget=bool(coupled))
    if operator.kind != "LSTM" and "B" not in tensors:
        assert not there.pop("B").any()
    assert list(there) == list(tensors)
    forget = slice(2 * H, 3 * H)
    if coupled:
        tensors = {n: array.copy() for n, array in tensors.items()}
        for array in tensors.values():
            array[:, forget] = 0
        if "B" in tensors:
            tensors["B"][:, 6 * H : 7 * H] = 0
    if "B" in tensors:
        after = 2 * H if operator.kind == "GRU" else 4 * H
        tensors["B"] = merge(tensors["B"], after)
    assert_close(there, tensors, 0.0)
    again = interop.layer_from_onnx(there, operator.attributes)
    assert_close(again.params, layer.params, 0.0)


def test_layers_take_the_form_that_they_need(x64):
    def read(operator):
        return interop.layer_from_onnx(operator.draw()[0], operator.attributes)

    plain = read(Operator(tensors="WR"))
    assert isinstance(plain.params, LSTMParams) and plain.params.b is None
    assert (plain.name, plain.options) == ("lstm", {})
    both = read(Operator(attributes=BOTH)).params
    assert isinstance(both, Directions) and isinstance(both.backward, LSTMParams)
    gru = read(Operator("GRU", {"linear_before_reset": 1}, tensors="WR"))
    assert isinstance(gru.params, GRUParams) and not gru.params.b.any()
    rnn = read(Operator("RNN", {"activations": ["Tanh", "Tanh"]}))
    assert isinstance(rnn.params, RNNParams) and rnn.name == "rnn"
    peepholes = read(Operator(tensors="WRP"))
    assert isinstance(peepholes.params, LSTMVariantParams)
    assert peepholes.options == {"peepholes": True}
    coupled = read(Operator(tensors="WRP", attributes={"input_forget": 1})).params
    assert coupled.w_x.shape == (X, 3 * H) and coupled.peepholes.shape == (2, H)
    relu = read(Operator(attributes={"activations": ["Sigmoid", "Relu", "tanh"]}))
    assert relu.options == {"candidate_activation": "relu"}
    assert isinstance(relu.params, LSTMVariantParams)
    # One cell for both, or each would be traced by itself.
    hard = Operator(attributes=with_numbers(["HardSigmoid"] * 3, [0.3] * 3, [0.5] * 3))
    assert read(hard).cell is read(hard).cell is not relu.cell


def test_dtypes():
    operator = OPERATORS["peepholes"]
    tensors = operator.draw()[0]
    with pytest.raises(WeightsError, match=r"^dtype: float64 needs .*dtype='float32'$"):
        interop.layer_from_onnx(tensors, operator.attributes)
    for dtype in ("float32", "bfloat16"):
        layer = interop.layer_from_onnx(tensors, operator.attributes, dtype=dtype)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(layer.params)} == {dtype}
        there = interop.to_onnx(layer.params)
        assert {array.dtype.name for array in there.values()} == {dtype}


def test_blocks_on_the_diagonal_become_a_matrix(x64):
    rng = np.random.default_rng(0)
    w_h = rng.normal(size=(2, H // 2, 4, H // 2))
    params = LSTMVariantParams(rng.normal(size=(X, 4 * H)), w_h)
    (there,) = interop.to_onnx(params)["R"]
    for block, gate in enumerate((0, 3, 1, 2)):  # i, o, f and c of i, f, g and o.
        wanted = np.zeros((H, H))
        for head in range(2):
            part = slice(2 * head, 2 * head + 2)
            wanted[part, part] = params.w_h[head, :, gate].T
        assert_close(there[block * H : (block + 1) * H], wanted, 0.0)


@pytest.mark.parametrize("name", ["batch first", "gru"])
def test_states_both_ways(x64, name):
    operator = OPERATORS[name]
    layout, rng = operator.layout, np.random.default_rng(1)
    count, parts = operator.num_directions, 1 if operator.kind != "LSTM" else 2
    layer = interop.layer_from_onnx(operator.draw()[0], operator.attributes)

    def draw(layers):
        shape = (B, layers * count, H) if layout else (layers * count, B, H)
        found = tuple(rng.normal(size=shape) for _ in range(parts))
        return found if parts == 2 else found[0]

    given = draw(1)
    state = interop.state_from_onnx(given, layer.params, layout=layout)
    assert_close(interop.state_to_onnx(state, layout=layout), given, 0.0)
    last = state.backward if count == 2 else state
    first = np.asarray(given[0] if parts == 2 else given)
    assert_close(last.h, first[:, -1] if layout else first[-1], 0.0)

    stack = (layer.params, layer.params)
    given = draw(2)
    states = interop.state_from_onnx(given, stack, layout=layout)
    assert type(states) is tuple and len(states) == 2
    assert jax.tree.structure(states[1]) == jax.tree.structure(state)
    assert_close(interop.state_to_onnx(states, layout=layout), given, 0.0)


def test_activations_both_ways():
    places = "gate_activation", "candidate_activation", "output_activation"
    for names in (
        ("hard_sigmoid", "elu", "identity"),
        ("hard_sigmoid_0.2", "softsign", "softplus"),
        ("sigmoid", "relu", "tanh"),
    ):
        there = write_activations(dict(zip(places, names, strict=True)))
        # A file has numbers in float32.
        numbers = [
            np.float32(there.get(f"activation_{letter}", ())).tolist()
            for letter in ("alpha", "beta")
        ]
        assert tuple(read_activations(there["activations"], *numbers)) == names
    with pytest.raises(OptionError, match=r"^output_activation: 'gelu' has no name in"):
        write_activations({"output_activation": "gelu"})


def test_cells_that_have_an_operator():
    affine = {"activation_alpha": [1.0], "activation_beta": [0.0]}
    assert attributes_of("lstm", {"forget_bias": 0.0}) == {}
    assert attributes_of("gru") == {"linear_before_reset": 1}
    assert attributes_of("cifg_lstm") == {"input_forget": 1}
    assert attributes_of("peephole_lstm") == attributes_of("diagonal_lstm") == {}
    assert attributes_of("noaf_lstm") == {
        "activations": ["Sigmoid", "Tanh", "Affine"],
        **affine,
    }
    assert attributes_of("lstm_variant", {"candidate_activation": "relu"}) == {
        "activations": ["Sigmoid", "Relu", "Tanh"]
    }
    for name, option in (
        ("nig_lstm", "input_gate"),
        ("fgr_lstm", "gate_recurrence"),
        ("layer_norm_lstm", "layer_norm"),
        ("multiplicative_lstm", "multiplicative"),
        ("slstm", "exponential"),
    ):
        with pytest.raises(OptionError, match=f"^cell: '{name}' has {option} = "):
            attributes_of(name)
    with pytest.raises(OptionError, match="has projection_size = 3"):
        attributes_of("lstm", {"projection_size": 3})
    with pytest.raises(OptionError, match=r"^cell: 'min_lstm' has no operator"):
        attributes_of("min_lstm")
