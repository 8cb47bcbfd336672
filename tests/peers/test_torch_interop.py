"""Stacks against PyTorch's recurrent layers: weights in and out, values, gradients."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from jaxlstm import interop
from jaxlstm.cells import CELLS
from jaxlstm.layers import Wiring, unroll_stack
from jaxlstm.stack import lstm_stack
from tests.helpers import assert_close, jit
from tests.interop.torch_nets import GATES, Net

pytestmark = pytest.mark.peers

KINDS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
T, B, X, H, P = 5, 3, 3, 4, 2


class Setting(NamedTuple):
    """A net, and what it is run on.

    Attributes:
      net: which.
      inputs: [T, B, X].
      state: h_0 [L D, B, R], and c_0 [L D, B, H] of an LSTM; None for PyTorch's zeros.
      lengths: [B], or None where nothing is packed.
      batch_first: whether PyTorch is given [B, T, X].
    """

    net: Net
    inputs: np.ndarray
    state: tuple[np.ndarray, ...] | None
    lengths: np.ndarray | None
    batch_first: bool


def draw_setting(kind, seed):
    """Draws a setting of which everything is left to chance."""
    rng = np.random.default_rng(seed)
    num_layers, options = rng.integers(1, 4), rng.integers(2, size=6)
    bidirectional, bias, projected, packed, with_state, batch_first = map(bool, options)
    projection = P if projected and kind == "lstm" else 0
    net = Net(kind, int(num_layers), bidirectional, bias, projection, (X, H))
    state = zero_state(net)
    return Setting(
        net,
        rng.normal(size=(T, B, X)),
        tuple(rng.normal(size=part.shape) for part in state) if with_state else None,
        rng.integers(1, T + 1, size=B) if packed else None,
        batch_first,
    )


def zero_state(net):
    sizes = [net.proj_size or H, H] if net.kind == "lstm" else [H]
    count = sum(map(len, net.suffixes))
    return tuple(np.zeros((count, B, size)) for size in sizes)


def make_module(net, batch_first=False):
    """Returns the module of PyTorch in float64, all of its weights drawn at random."""
    options = {"proj_size": net.proj_size} if net.kind == "lstm" else {}
    module = KINDS[net.kind](
        X,
        H,
        net.num_layers,
        bias=net.bias,
        bidirectional=net.bidirectional,
        batch_first=batch_first,
        dtype=torch.float64,
        **options,
    )
    module.load_state_dict({n: torch.tensor(w) for n, w in net.draw().items()})
    return module


def weigh(values):
    """Returns a random linear function of arrays, to differentiate."""
    rng = np.random.default_rng(2)
    total = 0.0
    for found in values:
        direction = rng.normal(size=tuple(found.shape))
        as_found = torch.tensor if isinstance(found, torch.Tensor) else jnp.asarray
        total += (found * as_found(direction)).sum()
    return total


def run_torch(module, setting):
    """Returns outputs and last state, and the gradients of weights, inputs and state.

    All in the order of time first, the state zeros where the setting has none.
    """
    net, first = setting.net, setting.batch_first
    inputs = torch.tensor(setting.inputs, requires_grad=True)
    parts = zero_state(net) if setting.state is None else setting.state
    state = tuple(torch.tensor(part, requires_grad=True) for part in parts)
    given = state if net.kind == "lstm" else state[0]
    fed = inputs.transpose(0, 1) if first else inputs
    if setting.lengths is not None:
        lengths = torch.tensor(setting.lengths)
        fed = pack_padded_sequence(fed, lengths, first, enforce_sorted=False)
    outputs, last = module(fed) if setting.state is None else module(fed, given)
    if setting.lengths is not None:
        outputs, _ = pad_packed_sequence(outputs, first, total_length=T)
    last = last if net.kind == "lstm" else (last,)
    outputs = outputs.transpose(0, 1) if first else outputs
    weigh((outputs, *last)).backward()
    values = tuple(value.detach().numpy() for value in (outputs, *last))
    weights = {name: w.grad.numpy() for name, w in module.named_parameters()}
    # A state that PyTorch was not given has no gradient there.
    d_state = [part.grad.numpy() for part in state if setting.state is not None]
    return values, (weights, inputs.grad.numpy(), d_state)


def run_jax(kind, params, inputs, state, lengths):
    """Returns what `run_torch` does, the gradients of weights in the package's form."""

    def total(params, inputs, state):
        given = state if kind == "lstm" else state[0]
        start = interop.state_from_torch(given, params)
        if kind == "lstm":
            last, outputs = lstm_stack(params, inputs, start, lengths=lengths)
            values = outputs, *interop.state_to_torch(last)
        else:
            wiring, mask = Wiring(CELLS[kind]()), jnp.arange(T)[:, None] < lengths[None]
            last, states = unroll_stack(wiring, params, inputs, start, mask=mask)
            outputs = jnp.where(mask[..., None], wiring.output(states), 0)
            values = outputs, interop.state_to_torch(last)
        return weigh(values), values

    grad = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)
    (_, values), gradients = grad(params, inputs, state)
    return values, gradients


RUNS = {kind: jit(functools.partial(run_jax, kind)) for kind in KINDS}


def merge_biases(net, gradients):
    """Returns gradients as of merged biases, checked to be the same for both.

    A second bias that was merged into the first has zeros.
    """
    merged = dict(gradients)
    rows = 2 * H if net.kind == "gru" else GATES[net.kind] * H
    for name in gradients:
        if name.startswith("bias_hh"):
            both = gradients[name.replace("hh", "ih")][:rows], gradients[name][:rows]
            assert_close(*both)
            kept = gradients[name][rows:]
            merged[name] = np.concatenate([np.zeros(rows), kept])
    return merged


def compare(setting):
    module = make_module(setting.net, setting.batch_first)
    expected, (d_weights, d_inputs, d_state) = run_torch(module, setting)
    lengths = np.full(B, T) if setting.lengths is None else setting.lengths
    state = zero_state(setting.net) if setting.state is None else setting.state
    params = interop.from_torch(module.state_dict())
    inputs = setting.inputs
    if setting.batch_first:
        inputs = interop.time_major(np.swapaxes(inputs, 0, 1))
    values, found = RUNS[setting.net.kind](params, inputs, state, lengths)
    assert_close(values, expected)
    of_weights = interop.to_torch(found[0])
    if not setting.net.bias:  # PyTorch has none, and here the other cells have zeros.
        of_weights = {n: g for n, g in of_weights.items() if "bias" not in n}
    assert_close(of_weights, merge_biases(setting.net, d_weights))
    assert_close(found[1], d_inputs)
    if setting.state is not None:
        assert_close(list(found[2]), d_state)


LSTMS = [draw_setting("lstm", seed) for seed in range(200)]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_lstm(x64, num_layers, bidirectional):
    chosen = num_layers, bidirectional
    settings = [s for s in LSTMS if (s.net.num_layers, s.net.bidirectional) == chosen]
    assert len(settings) > 20
    for setting in settings:
        compare(setting)


@pytest.mark.parametrize("kind", ["gru", "rnn"])
def test_other_cells(x64, kind):
    for seed in range(20):
        compare(draw_setting(kind, seed))


NETS = [
    Net("lstm", 2, True, proj_size=P),
    Net("lstm", bias=False),
    Net("gru", 2),
    Net("rnn", 1, True),
]


def pick_kind(net):
    return net.kind


@pytest.mark.parametrize("net", NETS, ids=pick_kind)
def test_weights_go_out_and_give_the_same_function(x64, net):
    module, inputs = make_module(net), torch.ones(T, B, X, dtype=torch.float64)
    arrays = interop.to_torch(interop.from_torch(dict(module.named_parameters())))
    again = make_module(net)
    for weights in again.parameters():
        torch.nn.init.zeros_(weights)
    tensors = {name: torch.tensor(w) for name, w in arrays.items()}
    again.load_state_dict(tensors, strict=True)
    assert list(arrays) == list(module.state_dict())
    assert_close(again(inputs)[0].detach().numpy(), module(inputs)[0].detach().numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_of_every_kind_come_in_as_they_are(dtype, tmp_path):
    module = make_module(NETS[0]).to(dtype)
    path = tmp_path / "weights.pt"
    torch.save(module.state_dict(), path)
    saved = torch.load(path, weights_only=True)
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    from_file = interop.read_safetensors(tmp_path / "weights.safetensors")
    name = str(dtype).removeprefix("torch.")
    for given in (saved, from_file, dict(module.named_parameters())):
        there = interop.to_torch(interop.from_torch(given))
        assert {array.dtype.name for array in there.values()} == {name}
        for key, tensor in saved.items():
            if "bias" not in key:
                exact = tensor.double().numpy()
                assert_close(there[key].astype(np.float64), exact, 0)
    wide = interop.from_torch(saved, dtype="float32")
    merged = (saved["bias_ih_l0"].float() + saved["bias_hh_l0"].float()).numpy()
    assert_close(np.asarray(wide[0].forward.b), merged, 0)


def test_a_module_in_place_of_its_weights_is_refused():
    with pytest.raises(interop.WeightsError) as caught:
        interop.from_torch(torch.nn.LSTM(X, H))
    message = "weights: LSTM has no names and tensors; give its state_dict()"
    assert str(caught.value) == message
