"""Weights and states of Haiku, against its own modules."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import Directions, interop, lstm_stack
from jaxlstm.cells import GRUState
from jaxlstm.interop import WeightsError
from tests.helpers import assert_close, draw_like, jit

pytestmark = pytest.mark.peers

T, B, X, H = 5, 2, 3, 4
LAYERS = ["tagger/~/lstm", "tagger/~/lstm_1"]


class Tagger(hk.Module):
    """Two layers between an embedding and a readout."""

    def __init__(self):
        super().__init__()
        self.embed = hk.Embed(7, X)
        self.core = hk.DeepRNN([hk.LSTM(H), hk.LSTM(H + 1)])
        self.readout = hk.Linear(2)

    def __call__(self, symbols, state):
        outputs, state = hk.dynamic_unroll(self.core, self.embed(symbols), state)
        return self.readout(outputs), state


def make_tagger():
    """Returns the function of Haiku, its weights, symbols and a state."""
    tagger = hk.without_apply_rng(hk.transform(lambda *args: Tagger()(*args)))
    rng = np.random.default_rng(0)
    symbols = rng.integers(7, size=(T, B))
    sizes = H, H + 1
    state = tuple(hk.LSTMState(*rng.normal(size=(2, B, size))) for size in sizes)
    shapes = jax.eval_shape(tagger.init, jax.random.key(0), symbols, state)
    return tagger.apply, draw_like(shapes, 1, 0.5), symbols, state


def run_here(parts, symbols, state):
    """Returns outputs and last state by the functions of this package."""
    table, layers, readout = parts
    start = interop.state_from_haiku(state)
    last, outputs = lstm_stack(layers, table[symbols], start)
    last = interop.state_to_haiku(last)
    return outputs @ readout.w + jnp.broadcast_to(readout.b, (T, B, 2)), last


def read(weights):
    return (
        interop.embedding_from_haiku(weights, "tagger/~/embed"),
        interop.from_haiku(weights, LAYERS),
        interop.linear_from_haiku(weights, "tagger/~/linear"),
    )


def test_values_states_and_gradients(x64):
    apply, weights, symbols, state = make_tagger()

    def weigh(run):
        def total(weights, state):
            values = run(weights, symbols, state)
            products = jax.tree.map(lambda a, b: (a * b).sum(), values, directions)
            return sum(jax.tree.leaves(products)), values

        return jax.value_and_grad(total, (0, 1), has_aux=True)

    shapes = jax.eval_shape(apply, weights, symbols, state)
    directions = draw_like(shapes, 2)

    @jit
    def run_both(weights, parts, state):
        return weigh(apply)(weights, state), weigh(run_here)(parts, state)

    made = run_both(weights, read(weights), state)
    (_, expected), (d_weights, d_state) = made[0]
    (_, found), (d_parts, d_found) = made[1]
    assert_close(found, expected)
    assert_close(d_found, d_state)
    # A gradient has no forget bias to be added.
    table, layers, readout = read(d_weights)
    sizes = H, H + 1
    layers = tuple(
        layer._replace(b=layer.b.at[size : 2 * size].add(-1))
        for layer, size in zip(layers, sizes, strict=True)
    )
    assert_close(d_parts, (table, layers, readout))


def test_names_of_modules(x64):
    _, weights, _, _ = make_tagger()
    first, second = interop.from_haiku(weights, LAYERS)
    (whole,) = interop.from_haiku(weights, f"{LAYERS[0]}/linear")
    assert_close(whole, first, 0)
    (both,) = interop.from_haiku(weights, Directions(*LAYERS))
    assert_close(both, Directions(first, second), 0)
    with pytest.raises(WeightsError) as caught:
        interop.from_haiku(weights, ["lstm", LAYERS[0], "tagger/~/embed"])
    first, second = caught.value.lines
    assert first.startswith("'lstm': is not in the parameters; modules there are ")
    assert f"'{LAYERS[1]}/linear'" in first
    assert second.startswith("tagger/~/embed: is not an hk.LSTM, but has embeddings")
    with pytest.raises(WeightsError, match=r"^'linear': is not in the parameters"):
        interop.linear_from_haiku(weights)


def test_both_ways(x64):
    _, weights, _, _ = make_tagger()
    table, layers, readout = read(weights)
    there = interop.to_haiku(layers, LAYERS)
    there["tagger/~/embed"] = interop.embedding_to_haiku(table)
    there["tagger/~/linear"] = interop.linear_to_haiku(readout)
    # Adding 1 to a bias and taking it away again loses its last bits.
    assert_close(there, weights)
    assert list(interop.to_haiku((Directions(*layers), layers[0]))) == [
        "lstm/linear",
        "lstm_1/linear",
        "lstm_2/linear",
    ]
    plain = interop.to_haiku(layers[0]._replace(b=None))["lstm/linear"]
    assert_close(plain["b"], np.repeat([0.0, 0.0, -1.0, 0.0], H), 0)
    with pytest.raises(WeightsError, match=r"^layers: a, b are 2, and the layers and"):
        interop.to_haiku(layers[0], ["a", "b"])
    with pytest.raises(TypeError, match=r"^params: ReadoutParams has no module in Hai"):
        interop.to_haiku([readout])


@pytest.mark.parametrize("core", [hk.GRU, hk.VanillaRNN])
def test_cores_that_have_no_cell_here(core):
    def run(x):
        made = core(H)
        return made(x, made.initial_state(B))

    shapes = jax.eval_shape(hk.transform(run).init, jax.random.key(0), jnp.ones((B, X)))
    name = {hk.GRU: "gru", hk.VanillaRNN: "vanilla_rnn"}[core]
    with pytest.raises(WeightsError, match=rf"^{name}: is an hk.{core.__name__}, wh"):
        interop.from_haiku(draw_like(shapes, 0), name)


WRONG = {
    "w": (np.ones((X + H, 4 * H - 1)), r"^lstm/linear/w: shape \(7, 15\) is not"),
    "b": (np.ones(H), r"^lstm/linear/b: shape \(4,\) is not \(16,\), which is \[4H\]"),
    "offset": (np.ones(H), r"^lstm/linear/offset: is not of this layer$"),
}


@pytest.mark.parametrize("name", WRONG)
def test_arrays_that_do_not_fit(x64, name):
    array, message = WRONG[name]
    linear = {"w": np.ones((X + H, 4 * H)), "b": np.ones(4 * H)}
    with pytest.raises(WeightsError, match=message):
        interop.from_haiku({"lstm/linear": linear | {name: array}})
    with pytest.raises(WeightsError, match=r"^lstm/linear/b: is missing$"):
        interop.from_haiku({"lstm/linear": {"w": linear["w"]}})


def test_states_both_ways():
    *_, state = make_tagger()
    there = interop.state_to_haiku(interop.state_from_haiku(state))
    assert [type(layer) for layer in there] == [hk.LSTMState] * 2
    assert_close(there, state, 0)
    first = interop.state_from_haiku(state[0])
    both = interop.state_to_haiku([Directions(first, first)])
    assert_close(both, ((state[0], state[0]),), 0)


def test_what_is_no_state():
    with pytest.raises(TypeError, match=r"^state: GRUState is of no module of Haiku"):
        interop.state_to_haiku(GRUState(np.ones((B, H))))
    with pytest.raises(ValueError, match=r"^state: is a dict; give an hk.LSTMState"):
        interop.state_from_haiku({"hidden": 0, "cell": 0})
