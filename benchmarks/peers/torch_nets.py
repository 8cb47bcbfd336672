"""Stacks of LSTM layers under a readout, in PyTorch."""

from collections.abc import Sequence

import torch

from benchmarks.peers.torch_training_step import to_torch
from benchmarks.problems import Readout, Weights


def make_net(
    layers: Sequence[Weights], readout: Readout
) -> tuple[torch.nn.LSTM, torch.nn.Linear]:
    """Returns layers, from the input up, and a readout of the given weights."""
    input_size, hidden_size = len(layers[0].w_x), len(layers[0].w_h)
    net = torch.nn.LSTM(input_size, hidden_size, len(layers))
    net.load_state_dict(
        {
            name.replace("_l0", f"_l{number}"): weight
            for number, weights in enumerate(layers)
            for name, weight in to_torch(weights).items()
        }
    )
    linear = torch.nn.Linear(*readout.w.shape)
    linear.load_state_dict(
        {"weight": torch.tensor(readout.w.T), "bias": torch.tensor(readout.b)}
    )
    return net, linear
