"""Weights and states of PyTorch, against its equations in NumPy, without PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import Directions, LSTMParams, ProjectedLSTMParams, interop, lstm_stack
from jaxlstm.cells import CELLS, GRUParams
from jaxlstm.interop import WeightsError
from jaxlstm.layers import Wiring, unroll_stack
from jaxlstm.model import ModelParams, ReadoutParams, RecurrentParams
from jaxlstm.shapes import OptionError
from tests.helpers import assert_close, jit
from tests.interop.torch_nets import Net, run

T, B = 3, 2
LENGTHS = np.array([3, 2])

NETS = {
    "lstm": Net("lstm", 2, True, proj_size=2),
    "plain lstm": Net("lstm", bias=False),
    "gru": Net("gru", 1, True),
    "rnn": Net("rnn", 2),
}


def draw_problem(net):
    """Returns inputs, h_0 and c_0 as PyTorch takes them."""
    rng = np.random.default_rng(1)
    width, hidden_size = net.sizes
    count = sum(map(len, net.suffixes))
    h = rng.normal(size=(count, B, net.proj_size or hidden_size))
    return rng.normal(size=(T, B, width)), h, rng.normal(size=(count, B, hidden_size))


def run_stack(net, params, inputs, state):
    """Returns outputs and last state, by the functions of the package."""
    if net.kind == "lstm":
        last, outputs = lstm_stack(params, inputs, state, lengths=LENGTHS)
        return outputs, last
    wiring, mask = Wiring(CELLS[net.kind]()), np.arange(T)[:, None] < LENGTHS
    last, states = unroll_stack(wiring, params, inputs, state, mask=mask)
    return jnp.where(mask[..., None], wiring.output(states), 0), last


def test_nets_by_their_equations(x64):
    weights = {name: net.draw() for name, net in NETS.items()}
    params = {name: interop.from_torch(arrays) for name, arrays in weights.items()}
    problems = {name: draw_problem(net) for name, net in NETS.items()}

    @jit
    def run_all(params):
        found = {}
        for name, net in NETS.items():
            inputs, h, c = problems[name]
            given = (h, c) if net.kind == "lstm" else h
            state = interop.state_from_torch(given, params[name])
            outputs, last = run_stack(net, params[name], inputs, state)
            found[name] = outputs, interop.state_to_torch(last)
        return found

    expected = {}
    for name, net in NETS.items():
        outputs, h, c = run(net, weights[name], *problems[name], LENGTHS)
        expected[name] = outputs, (h, c) if net.kind == "lstm" else h
    assert_close(run_all(params), expected)


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_both_ways(x64, net):
    arrays = net.draw()
    params = interop.from_torch(arrays)
    there = interop.to_torch(params, "encoder.")
    assert {name: array.shape for name, array in there.items()} == {
        f"encoder.{name}": array.shape for name, array in arrays.items()
    }
    again = interop.from_torch(there | {"decoder.bias": np.ones(1)}, "encoder.")
    assert_close(again, params, 0.0)
    for name in filter(lambda name: name.startswith("bias_hh"), arrays):
        first = name.replace("hh", "ih")
        merged = there[f"encoder.{first}"] + there[f"encoder.{name}"]
        assert_close(merged, arrays[first] + arrays[name])


def test_layers_take_the_form_that_their_stack_has(x64):
    both, above = interop.from_torch(NETS["lstm"].draw())
    assert isinstance(both, Directions) and isinstance(above, Directions)
    assert {type(layer) for layer in (*both, *above)} == {ProjectedLSTMParams}
    assert above.forward.w_x.shape == (2 * 2, 4 * 4)
    (plain,) = interop.from_torch(NETS["plain lstm"].draw())
    assert isinstance(plain, LSTMParams) and plain.b is None
    assert_close(interop.to_torch(plain), interop.to_torch((plain,)), 0.0)
    assert not any("bias" in name for name in interop.to_torch(plain))
    (gru,) = interop.from_torch(Net("gru", bias=False).draw())
    assert isinstance(gru, GRUParams)
    assert not gru.b.any() and not gru.b_h.any()
    assert set(interop.to_torch(both.forward, num_biases=1)) == {
        "weight_ih_l0",
        "weight_hh_l0",
        "weight_hr_l0",
        "bias_ih_l0",
    }


def test_dtypes():
    arrays = NETS["rnn"].draw()
    with pytest.raises(WeightsError, match=r"^dtype: float64 needs .*dtype='float32'$"):
        interop.from_torch(arrays)
    for dtype in ("float32", "bfloat16"):
        params = interop.from_torch(arrays, dtype=dtype)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {dtype}
        back = interop.to_torch(params)
        assert {array.dtype.name for array in back.values()} == {dtype}
        kept = jax.tree.leaves(interop.from_torch(back))
        assert {leaf.dtype.name for leaf in kept} == {dtype}


def refuse(arrays, prefix="", read=interop.from_torch):
    """Returns the lines of what is refused."""
    with pytest.raises(WeightsError) as caught:
        read(arrays, prefix)
    return list(caught.value.lines)


def test_names_that_differ_are_listed_at_once(x64):
    arrays = {f"a.{name}": w for name, w in NETS["lstm"].draw().items()}
    del arrays["a.bias_hh_l1"], arrays["a.weight_ih_l0"]
    arrays |= {"a.norm.weight": np.ones(2), "a.weight_ih_l01": np.ones(2)}
    lines = refuse(arrays, "a.")
    missing = [line for line in lines if line.endswith(": is missing")]
    assert "a.weight_ih_l0: is missing" in missing
    assert "a.bias_hh_l1: is missing" in missing
    assert set(lines) - set(missing) == {
        "a.norm.weight: is not of this layer",
        "a.weight_ih_l01: is not of this layer",
    }


def test_shapes_that_differ_are_listed_at_once(x64):
    arrays = NETS["lstm"].draw()
    arrays |= {"bias_ih_l0": np.ones(3), "weight_ih_l1_reverse": np.ones((16, 2))}
    sizes = "X = 3, H = 4, P = 2"
    assert refuse(arrays) == [
        f"bias_ih_l0: shape (3,) is not (16,), which is [4H] for {sizes}",
        "weight_ih_l1_reverse: shape (16, 2) is not (16, 4), which is [4H, 2P] for "
        + sizes,
    ]


class Meta:
    """As a tensor of PyTorch on the device meta."""

    def detach(self):
        return self

    def cpu(self):
        raise NotImplementedError("Cannot copy out of meta tensor; no data!")


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"weight_hh_l0": np.ones((8, 4))},
            "weight_hh_l0: shape (8, 4) is neither",
        ),
        (
            {"weight_hh_l0": np.ones((0, 0))},
            "weight_hh_l0: shape (0, 0) is neither",
        ),
        ({"weight_ih_l0": np.ones(4)}, "weight_ih_l0: shape (4,) is not that of"),
        (
            {"bias_hh_l0": np.ones(4, int)},
            "bias_hh_l0: int64 is no floating",
        ),
        ({"bias_hh_l0": "text"}, "bias_hh_l0: str is no floating-point tensor"),
        ({"bias_hh_l0": {}}, "bias_hh_l0: dict is no floating-point tensor"),
        ({"bias_hh_l0": Meta()}, "bias_hh_l0: Meta is no floating-point tensor"),
        (
            {"bias_hh_l0": np.ones(4, np.float32)},
            "bias_hh_l0: dtype float32 is not that of the others, float64; give dtype=",
        ),
    ],
)
def test_a_tensor_that_is_wrong_is_named(x64, changed, line):
    (found,) = refuse(Net("rnn").draw() | changed)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("weights", "prefix", "line"),
    [
        (
            {"a.lstm.weight_ih_l0": 0, "b.weight_ih_l0": 0, "weight": 0},
            "lstm.",
            "prefix: 'lstm.' has no weight_ih_l0; prefixes of one are 'a.lstm.', 'b.'",
        ),
        (
            {"epoch": 3, "model": {"weight_ih_l0": 0}},
            "",
            "prefix: '' has no weight_ih_l0; give the entry that holds the tensors: "
            "'model'",
        ),
        ({}, "x", "prefix: 'x' has no weight_ih_l0; nor has any other"),
        ([], "", "weights: list has no names and tensors; a mapping is needed"),
    ],
)
def test_a_wrong_prefix_is_told_from_those_there_are(weights, prefix, line):
    assert refuse(weights, prefix) == [line]


def test_what_pytorch_does_not_have_is_refused():
    (layer,) = interop.from_torch(Net("gru").draw(), dtype="float32")
    with pytest.raises(OptionError, match=r"^num_biases: is 1, and the candidate"):
        interop.to_torch(layer, num_biases=1)
    with pytest.raises(OptionError, match=r"^num_biases: 3 is neither 1 nor 2$"):
        interop.to_torch(layer, num_biases=3)
    with pytest.raises(TypeError, match=r"^params: layer 1 is dict; PyTorch has"):
        interop.to_torch((layer, {}))


def test_states_that_do_not_fit_are_refused():
    params = interop.from_torch(NETS["lstm"].draw(), dtype="float32")
    h, c = np.ones((4, B, 2)), np.ones((4, B, 4))
    for given, message in (
        (h, r"^state: has 1 part; that of ProjectedLSTMParams is \(h, c\)$"),
        ((h, c[1:]), r"^c: shape \(3, 2, 4\) does not fit .* \(4, \.\.\., 4\) by"),
        ((c, h), r"^h: shape \(4, 2, 4\) does not fit .* \(4, \.\.\., 2\) by"),
        ((h[:, 0], "c"), r"^c: str is no array$"),
    ):
        with pytest.raises(ValueError, match=message):
            interop.state_from_torch(given, params)


def test_a_single_layer_is_a_stack_of_one(x64):
    (layer,) = interop.from_torch(Net("rnn").draw())
    h = np.ones((1, B, 4))
    (state,) = interop.state_from_torch(h, layer)
    assert_close(state.h, h[0], 0)
    assert_close(interop.state_to_torch(state), h, 0)


def test_time_and_batch_change_places():
    array = np.arange(2 * 3 * 4, dtype=np.int32).reshape(2, 3, 4)
    assert_close(interop.time_major(array), np.moveaxis(array, 1, 0), 0)
    assert_close(interop.batch_first(interop.time_major(array)), array, 0)


def draw_model():
    """Returns the state_dict of an embedding, two layers both ways, and a readout."""
    net, rng = Net("lstm", 2, True), np.random.default_rng(3)
    return {
        "embedding.weight": rng.normal(size=(7, 3)),
        **{f"lstm.{name}": w for name, w in net.draw().items()},
        "fc.weight": rng.normal(size=(2, 8)),
        "fc.bias": rng.normal(size=2),
    }


def test_a_whole_model_both_ways(x64):
    weights = draw_model()
    params = interop.model_from_torch(weights)
    assert isinstance(params, ModelParams)
    recurrent, (w, b) = params
    assert isinstance(recurrent, RecurrentParams) and recurrent.initial_state is None
    assert_close(recurrent.embedding, weights["embedding.weight"], 0)
    assert_close(recurrent.layers, interop.from_torch(weights, "lstm."), 0)
    assert_close((w, b), (weights["fc.weight"].T, weights["fc.bias"]), 0)
    there = interop.model_to_torch(params, lstm="rnn.", embedding="e.", linear="out.")
    again = interop.model_from_torch(there, lstm="rnn.", embedding="e.", linear="out.")
    assert_close(again, params, 0)
    del weights["fc.bias"]
    _, no_bias = interop.linear_from_torch(weights, "fc.")
    assert_close(no_bias, np.zeros(2))
    assert_close(interop.embedding_from_torch(weights, "embedding."), params[0][0], 0)
    layers = {name: w for name, w in weights.items() if name.startswith("lstm.")}
    alone = interop.model_from_torch(layers, embedding=None, linear=None)
    assert alone == ModelParams(alone.recurrent, ReadoutParams(None, None))
    assert alone.recurrent.embedding is None
    assert set(interop.model_to_torch(alone)) == set(layers)


def test_a_tied_readout_is_written_with_the_weights_of_the_embedding(x64):
    params = interop.model_from_torch(draw_model())
    tied = params._replace(readout=params.readout._replace(w=None))
    there = interop.model_to_torch(tied)
    assert_close(there["fc.weight"], there["embedding.weight"], 0)
    with pytest.raises(ValueError, match=r"^params: the readout has no weights of its"):
        interop.linear_to_torch(tied.readout)
    started = tied.recurrent._replace(initial_state=())
    with pytest.raises(ValueError, match=r"^params: the initial state is learned"):
        interop.model_to_torch(tied._replace(recurrent=started))


def test_what_is_wrong_in_a_model_is_listed_at_once(x64):
    def read(weights, prefix):
        return interop.model_from_torch(weights)

    weights = draw_model()
    narrow = {"embedding.weight": np.ones((7, 2)), "fc.weight": np.ones((2, 4))}
    assert refuse(weights | narrow, read=read) == [
        "embedding: gives 2 numbers a symbol, and the first layer takes 3",
        "linear: takes 4 numbers, and the last layer gives 8",
    ]
    weights |= {"fc.bias": np.ones(3), "norm.weight": np.ones(2)}
    weights |= {"embedding.weight": np.ones(3), "lstm.bias_ih_l0": np.ones(3)}
    assert refuse(weights, read=read) == [
        "embedding.weight: shape (3,) is not that of a matrix",
        "lstm.bias_ih_l0: shape (3,) is not (16,), which is [4H] for X = 3, H = 4",
        "fc.bias: shape (3,) is not (2,), which is [Y] by the weight [Y, H] of shape "
        "(2, 8)",
        "norm.weight: is under none of the prefixes embedding., lstm., fc.",
    ]
    del weights["fc.weight"]
    line = "prefix: 'fc.' has no weight; prefixes of one are 'embedding.', 'norm.'"
    assert line in refuse(weights, read=read)
