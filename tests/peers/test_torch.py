"""Values and gradients of PyTorch's recurrent layers, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from jaxlstm import LSTMParams, LSTMState, lstm, textbook, unroll
from jaxlstm.cells import CELLS, GRUParams, GRUState, RNNParams, RNNState
from jaxlstm.textbook import TextbookReadout
from tests.helpers import assert_close

pytestmark = pytest.mark.peers

T, B, X, H, Y = 6, 4, 3, 5, 2
LENGTHS = [4, 6, 1, 3]


def make_layer(kind, num_layers=1):
    """Returns a layer in float64, all of its weights and biases drawn at random."""
    layer = kind(X, H, num_layers, dtype=torch.float64)
    rng = np.random.default_rng(0)
    for weights in layer.parameters():
        weights.data = torch.tensor(0.5 * rng.normal(size=tuple(weights.shape)))
    return layer


def make_problem(state_fields, num_layers=1):
    """Returns inputs [T, B, X] and a tuple of states [L, B, H]."""
    rng = np.random.default_rng(1)
    state = tuple(rng.normal(size=(state_fields, num_layers, B, H)))
    return rng.normal(size=(T, B, X)), state


def along(outputs, state):
    """Returns a random linear function of outputs and last state, to differentiate."""
    rng = np.random.default_rng(2)
    total = 0.0
    for found in (outputs, *state):
        direction = rng.normal(size=tuple(found.shape))
        as_found = torch.tensor if isinstance(found, torch.Tensor) else jnp.asarray
        total += (found * as_found(direction)).sum()
    return total


def leaves_of(inputs, state):
    leaf = torch.tensor(inputs, requires_grad=True)
    return leaf, tuple(torch.tensor(field, requires_grad=True) for field in state)


def gradients_of(layer, inputs, state):
    """Returns the gradients left by `backward`, the weights' in PyTorch's layout."""
    weights = [[w.grad.numpy() for w in number] for number in layer.all_weights]
    return weights, inputs.grad.numpy(), tuple(field.grad.numpy() for field in state)


def run_torch(layer, inputs, state, lengths=None):
    """Returns (outputs, state), and the gradients of weights, inputs and state."""
    inputs, state = leaves_of(inputs, state)
    given = state if isinstance(layer, torch.nn.LSTM) else state[0]
    if lengths is None:
        outputs, last = layer(inputs, given)
    else:
        packed = pack_padded_sequence(inputs, lengths, enforce_sorted=False)
        packed, last = layer(packed, given)
        outputs, _ = pad_packed_sequence(packed, total_length=T)
    last = last if isinstance(layer, torch.nn.LSTM) else (last,)
    along(outputs, last).backward()
    values = outputs.detach().numpy(), tuple(field.detach().numpy() for field in last)
    return values, gradients_of(layer, inputs, state)


def run_jax(run, layer, inputs, state):
    """Returns what `run_torch` does, of `run(weights, inputs, state)`.

    The weights are PyTorch's own, so that their gradients are by its layout as well.
    """
    weights = [[w.detach().numpy() for w in number] for number in layer.all_weights]

    @jax.jit
    def both(*arguments):
        def total(*arguments):
            outputs, last = run(*arguments)
            return along(outputs, last), (outputs, last)

        grad = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)
        (_, values), gradients = grad(*arguments)
        return values, gradients

    return both(weights, inputs, state)


def lstm_params(w_x, w_h, b_x, b_h):
    return LSTMParams(w_x.T, w_h.T, b_x + b_h)


def gru_params(w_x, w_h, b_x, b_h):
    b_h, b_candidate = b_h[: 2 * H], b_h[2 * H :]
    b = b_x + jnp.concatenate([b_h, jnp.zeros_like(b_candidate)])
    return GRUParams(w_x.T, w_h.T, b, b_candidate)


def rnn_params(w_x, w_h, b_x, b_h):
    return RNNParams(w_x.T, w_h.T, b_x + b_h)


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_lstm(x64, num_layers, lengths):
    layer = make_layer(torch.nn.LSTM, num_layers)
    problem = make_problem(2, num_layers)
    options = {} if lengths is None else {"lengths": jnp.asarray(lengths)}

    def run(weights, outputs, state):
        last = []
        for weights_of_layer, h, c in zip(weights, *state, strict=True):
            params = lstm_params(*weights_of_layer)
            end, outputs = lstm(params, outputs, LSTMState(h, c), **options)
            last.append(end)
        return outputs, tuple(jnp.stack(field) for field in zip(*last, strict=True))

    assert_close(run_jax(run, layer, *problem), run_torch(layer, *problem, lengths))


@pytest.mark.parametrize(
    ("kind", "name", "convert", "make_state"),
    [
        (torch.nn.GRU, "gru", gru_params, GRUState),
        (torch.nn.RNN, "rnn", rnn_params, RNNState),
    ],
)
def test_other_cells(x64, kind, name, convert, make_state):
    layer, problem = make_layer(kind), make_problem(1)

    def run(weights, inputs, state):
        params, start = convert(*weights[0]), make_state(state[0][0])
        last, states = unroll(CELLS[name](), params, inputs, start)
        return states.h, (last.h[None],)

    assert_close(run_jax(run, layer, *problem), run_torch(layer, *problem))


@pytest.mark.parametrize("loss", ["squared_error", "softmax_cross_entropy"])
def test_textbook(loss):
    layer, readout = make_layer(torch.nn.LSTM), torch.nn.Linear(H, Y).double()
    inputs, state = make_problem(2)
    rng = np.random.default_rng(3)
    real, classes = rng.normal(size=(T, B, Y)), rng.integers(Y, size=(T, B))
    targets = real if loss == "squared_error" else classes

    leaves = leaves_of(inputs, state)
    outputs, _ = layer(*leaves)
    outputs.retain_grad()
    prediction = readout(outputs)
    prediction.retain_grad()
    if loss == "squared_error":
        losses = ((prediction - torch.tensor(real)) ** 2).sum((1, 2)) / 2
    else:
        log_q = torch.log_softmax(prediction, dim=-1)
        losses = -log_q.gather(-1, torch.tensor(classes)[..., None]).sum((1, 2))
    losses.sum().backward()
    [weights], d_inputs, d_state = gradients_of(layer, *leaves)

    params = lstm_params(*(w.detach().numpy() for w in layer.all_weights[0]))
    linear = TextbookReadout(
        readout.weight.detach().numpy().T, readout.bias.detach().numpy()
    )
    start = LSTMState(*(field[0] for field in state))
    cache = textbook.forward(params, linear, inputs, start)
    found = textbook.backward(params, linear, cache, targets, loss=loss)

    d_w_x, d_w_h, d_b, d_b_again = weights
    d_params = LSTMParams(d_w_x.T, d_w_h.T, d_b)
    assert_close(found.params, d_params)
    assert_close(found.params.b, d_b_again)
    d_readout = TextbookReadout(
        readout.weight.grad.numpy().T, readout.bias.grad.numpy()
    )
    assert_close(found.readout, d_readout)
    assert_close(found.delta_x, d_inputs)
    assert_close(found.initial_state, LSTMState(*(field[0] for field in d_state)))
    assert_close(found.delta_h_now, outputs.grad.numpy())
    assert_close(found.delta_prediction, prediction.grad.numpy())
    assert_close(cache.h, outputs.detach().numpy())
    assert_close(cache.prediction, prediction.detach().numpy())
    assert_close(found.loss, losses.detach().numpy())
