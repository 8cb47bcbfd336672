"""Where weights of Flax stand in a model, what is refused, and carries."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlstm import Directions, interop
from jaxlstm.cells import GRUState, LSTMState, RNNParams
from jaxlstm.interop import WeightsError
from jaxlstm.model import ReadoutParams
from tests.helpers import assert_close, draw_like
from tests.interop.flax_nets import THERE, B, H, X, draw_arrays

LSTM, GRU = draw_arrays(THERE["linen lstm"]), draw_arrays(THERE["linen gru"])


class Encoder(nn.Module):
    """A model of linen whose cells stand beside other modules."""

    @nn.compact
    def __call__(self, symbols):
        x = nn.Embed(7, X)(symbols)
        layer = nn.RNN(nn.GRUCell(H)), nn.RNN(nn.GRUCell(H))
        x = nn.Bidirectional(*layer)(x)
        x = nn.RNN(nn.OptimizedLSTMCell(H), name="top")(x)
        return nn.Dense(2)(x)


@pytest.mark.slow
def test_parts_of_a_model_of_linen():
    shapes = jax.eval_shape(
        Encoder().init, jax.random.key(0), jnp.zeros((B, 1), jnp.int32)
    )
    weights = jax.tree.map(np.float32, draw_like(shapes, 0))
    paths = [Directions("GRUCell_0", "GRUCell_1"), "OptimizedLSTMCell_0"]
    params = interop.from_linen(weights, paths)
    assert isinstance(params[0], Directions)
    assert params[0].backward.w_x.shape == (X, 3 * H)
    table = interop.embedding_from_flax(weights, "Embed_0")
    readout = interop.linear_from_flax(weights, "Dense_0")
    again = interop.to_linen(params, paths)["params"]
    again["Embed_0"] = interop.embedding_to_flax(table)
    again["Dense_0"] = interop.linear_to_flax(readout)
    assert_close({"params": again}, weights, 0)


def test_paths_at_which_nothing_stands(x64):
    there = {"GRUCell_0": GRU, "encoder": {"cell": LSTM}}
    tree = there | {"Dense_0": {"kernel": np.ones((H, 2))}}
    with pytest.raises(WeightsError) as caught:
        interop.from_linen({"params": tree}, ["Dense_0", "top", "GRUCell_0"])
    advice = "layers there are 'GRUCell_0', 'encoder'"
    cells = "LSTMCell, GRUCell, SimpleCell"
    assert list(caught.value.lines) == [
        f"layers: 'Dense_0' is no cell, RNN or Bidirectional of {cells}; {advice}",
        f"layers: 'top' is not in the tree; {advice}",
    ]
    with pytest.raises(WeightsError, match=r"^layers: the tree is no cell"):
        interop.from_linen(tree)
    cell, dense = {"cell": draw_arrays(THERE["nnx gru"])}, tree["Dense_0"]
    assert len(interop.from_nnx({"layers": {0: cell, 1: cell}})) == 2
    for sequence in (
        {"layers": {0: cell, 1: dense}},
        {"layers": {0: cell}, "readout": dense},
    ):
        with pytest.raises(WeightsError, match=r"tree is no cell, .*'layers/0'$"):
            interop.from_nnx(sequence)
    with pytest.raises(WeightsError, match=r"^path: 'Dense' is not in .*'Dense_0'"):
        interop.linear_from_flax(tree, "Dense")


@pytest.mark.slow
def test_parts_of_a_model_of_nnx():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List(
                nnx.RNN(cell(X, X, rngs=rngs))
                for cell in (nnx.OptimizedLSTMCell, nnx.LSTMCell)
            )
            self.readout = nnx.Linear(X, 2, rngs=rngs)

    model, other = Model(nnx.Rngs(0)), Model(nnx.Rngs(1))
    paths = ["layers/0", "layers/1"]
    params = interop.from_nnx(model, paths)
    assert_close(interop.from_nnx(nnx.state(model), paths), params, 0)
    state = nnx.state(model, nnx.Param)
    readout = interop.linear_from_flax(state, "readout")
    first, second = (
        interop.to_nnx(layer, f"layers/{n}/cell", optimized=not n)
        for n, layer in enumerate(params)
    )
    nnx.update(other, {"layers": first["layers"] | second["layers"]})
    nnx.update(other.readout, interop.linear_to_flax(readout))
    found, wanted = (
        nnx.to_pure_dict(nnx.state(each, nnx.Param)) for each in (other, model)
    )
    assert_close(found, wanted, 0)
    with pytest.raises(WeightsError, match=r"layers there are 'layers/0', 'layers/1'$"):
        interop.from_nnx(model)


@pytest.mark.slow
def test_options_that_weights_do_not_show_are_refused():
    options = {"activation_fn": nnx.relu, "residual": True, "rngs": nnx.Rngs(0)}
    module = nnx.RNN(nnx.SimpleCell(X, H, **options))
    with pytest.raises(WeightsError) as caught:
        interop.from_nnx(module)
    first, second = caught.value.lines
    assert first.startswith("cell/activation_fn: is relu, and tanh in the cell here")
    assert second.startswith("cell/residual: is True, and False in the cell here")
    (params,) = interop.from_nnx(nnx.state(module))
    assert isinstance(params, RNNParams)
    with pytest.raises(WeightsError, match=r"^cell/activation_fn: is relu"):
        interop.layers_from_nnx(module)


@pytest.mark.slow
def test_what_modules_around_cells_do_is_refused():
    def rnn(seed, reverse=False, **options):
        cell = nnx.LSTMCell(X, H, rngs=nnx.Rngs(seed), **options)
        return nnx.RNN(cell, reverse=reverse, keep_order=True)

    low = rnn(1, dtype=jnp.bfloat16)
    refused = {
        "reverse: is True, and a single direction is forward here": rnn(0, True),
        "merge_fn: is add, and two directions are side by side here": nnx.Bidirectional(
            rnn(0), rnn(1), merge_fn=jnp.add
        ),
        "backward_rnn/cell/dtype: is bfloat16, and what weights": nnx.Bidirectional(
            rnn(0), low
        ),
    }
    for line, module in refused.items():
        for read in (interop.from_nnx, interop.layers_from_nnx):
            with pytest.raises(WeightsError) as caught:
                read(module)
            assert [one.startswith(line) for one in caught.value.lines] == [True]
        assert len(interop.from_nnx(nnx.state(module))) == 1
    # Of a pair the second reads backwards here as well.
    pair = nnx.List([rnn(0), rnn(1, True)])
    both = interop.from_nnx(nnx.Bidirectional(*pair))
    assert_close(interop.from_nnx(pair, [Directions("0", "1")]), both, 0)


@pytest.mark.slow
def test_what_stands_between_layers_is_refused():
    def rnn(size):
        return nnx.RNN(nnx.LSTMCell(size, H, rngs=nnx.Rngs(0)))

    module = nnx.Sequential(jnp.sin, rnn(X), jnp.tanh, rnn(H), jnp.cos)
    with pytest.raises(WeightsError) as caught:
        interop.from_nnx(module, ["layers/1/cell", "layers/3/cell"])
    (line,) = caught.value.lines
    assert line.startswith("layers/2: is tanh, and nothing stands between two layers")
    assert len(interop.from_nnx(nnx.Sequential(rnn(X), rnn(H), jnp.tanh))) == 2


def change(arrays, path, array):
    """Returns arrays with another at a path, or, for None, without any there."""
    module, name = path.split("/")
    inner = {key: value for key, value in arrays[module].items() if key != name}
    return arrays | {module: inner if array is None else inner | {name: array}}


WRONG = {
    "ii/kernel": (None, r"^cell/ii/kernel: is missing$"),
    "ii/bias": (np.ones(H), r"^cell/ii/bias: is not of this layer$"),
    "hf/kernel": (np.ones((H, 2)), r"^cell/hf/kernel: shape \(5, 2\) .*\[H, H\] for X"),
    "if/kernel": (np.ones((2, H)), r"^cell/if/kernel: shape \(2, 5\) .*\[X, H\] for X"),
    "ho/bias": (np.ones(2), r"^cell/ho/bias: shape \(2,\) is not \(5,\)"),
    "hi/bias": (np.ones(H, np.float32), r"^cell/hi/bias: dtype float32 is not that"),
    "ig/kernel": (np.ones((X, H), int), r"^cell/ig/kernel: int64 is no floating"),
}


@pytest.mark.parametrize("path", WRONG)
def test_arrays_that_do_not_fit(x64, path):
    array, message = WRONG[path]
    arrays = change(LSTM, path, array)
    with pytest.raises(WeightsError, match=message):
        interop.from_linen({"params": {"cell": arrays}})


def test_dtypes():
    with pytest.raises(WeightsError, match=r"^dtype: float64 needs .*dtype='float32'$"):
        interop.from_linen(LSTM)
    for dtype in ("float32", "bfloat16"):
        (params,) = interop.from_linen(LSTM, dtype=dtype)
        back = interop.to_linen(params, "")
        again = interop.from_linen(back)
        for tree in (params, back, again):
            assert {leaf.dtype.name for leaf in jax.tree.leaves(tree)} == {dtype}
        assert_close(again, (params,), 0)


def test_what_is_no_layer():
    mgu = {name: {"kernel": np.ones((H, H))} for name in ("if", "in", "hf", "hn")}
    with pytest.raises(WeightsError, match=r"is an MGUCell, for which there is no"):
        interop.from_linen({"MGUCell_0": mgu}, "MGUCell_0")
    fused = {f"dense_{side}": {"kernel": np.ones((H, 2 * H))} for side in "ih"}
    with pytest.raises(WeightsError, match=r"^dense_h/kernel: shape \(5, 10\) is "):
        interop.from_nnx(fused)
    with pytest.raises(WeightsError, match=r"^module: SimpleCell is neither an nnx"):
        interop.from_nnx(nn.SimpleCell(H))
    both = {"forward_rnn": {"cell": fused}, "backward_rnn": {"cell": fused}}
    with pytest.raises(WeightsError, match=r"^layers: 'a' has two directions already$"):
        interop.from_nnx({"a": both}, Directions("a", "a/forward_rnn"))
    for wrong in ([0], [Directions("a", None)]):
        with pytest.raises(WeightsError, match=r"is neither a path nor Direc"):
            interop.from_nnx({"a": both}, wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(WeightsError, match=r"layers there are none$"):
        interop.from_linen({"a": {"b": np.ones(2)}}, "a/b/c")


def test_what_flax_does_not_have(x64):
    (gru,) = interop.from_linen(GRU)
    with pytest.raises(WeightsError, match=r"^params: layer 1 has a b_h that is not"):
        interop.to_nnx((gru._replace(b_h=np.zeros(H)), gru))
    with pytest.raises(TypeError, match=r"^params: layer 0 is ReadoutParams; Flax"):
        interop.to_linen((ReadoutParams(None, None),))
    with pytest.raises(WeightsError, match=r"^layers: .* does not name a cell for"):
        interop.to_linen((gru, gru), "cell")
    (lstm,) = interop.from_linen(LSTM)
    plain = interop.to_linen(lstm._replace(b=None), "")["params"]
    assert all(not plain[f"h{gate}"]["bias"].any() for gate in "ifgo")


def test_carries(x64):
    (lstm,) = interop.from_linen(LSTM)
    (gru,) = interop.from_linen(GRU)
    c, h = np.zeros((B, H)), np.ones((B, H))
    state = interop.state_from_flax((c, h), lstm)
    assert_close(state, LSTMState(h=jnp.ones((B, H)), c=jnp.zeros((B, H))), 0)
    both = interop.state_from_flax((c, h), Directions(gru, gru))
    assert_close(
        both, Directions(GRUState(jnp.asarray(c)), GRUState(jnp.asarray(h))), 0
    )
    assert_close(interop.state_to_flax((both, state)), ((c, h), (c, h)), 0)
    wrong = {
        "carry: is a tuple of 1; give a tuple of 2, one for each layer": (
            (c,),
            (gru,) * 2,
        ),
        "carry: is a ndarray; give a tuple of 2, (c, h)": (c, lstm),
        "carry 0: h has shape (5, 2), which does not fit [..., H] for H = 5": (
            (c.T,),
            (gru,),
        ),
        "carry, backward: h is a str; give an array": (
            (c, "h"),
            Directions(gru, gru),
        ),
    }
    for message, given in wrong.items():
        with pytest.raises(ValueError) as caught:
            interop.state_from_flax(*given)
        assert str(caught.value).startswith(message)


def test_dense_layers_without_a_bias_and_wrong_ones(x64):
    kernel = np.ones((H, 2))
    params = interop.linear_from_flax({"kernel": kernel})
    assert_close(params, ReadoutParams(jnp.ones((H, 2)), jnp.zeros(2)), 0)
    for wrong, message in (
        ({"kernel": kernel, "bias": np.ones(H)}, r"^bias: shape \(5,\) is not \(2,\)"),
        ({"kernel": np.ones(2)}, r"^kernel: shape \(2,\) is not that of a matrix"),
        ({"embedding": kernel}, r"^kernel: is missing\nembedding: is not of"),
    ):
        with pytest.raises(WeightsError, match=message):
            interop.linear_from_flax(wrong)
    with pytest.raises(ValueError, match=r"^params: the readout has no weights"):
        interop.linear_to_flax(ReadoutParams(None, None))
    boxed = {"embedding": nn.Partitioned(jnp.ones((H, 2)), names=("symbols", None))}
    assert_close(interop.embedding_from_flax(boxed), jnp.ones((H, 2)), 0)
