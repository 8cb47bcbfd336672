"""Sine to cosine in PyTorch: the loop that one writes, on one thread."""

import numpy as np
import torch

from benchmarks.base import Prepared, Size, Work
from benchmarks.peers.torch_training_step import make_layer
from benchmarks.problems import draw_net
from benchmarks.small_net import read_config


def prepare(size: Size, *, fused: bool = False) -> Prepared:
    """Makes the net and its optimizer.

    The gradient's norm, which the laboratory reports, is not computed here.

    Args:
      size: T, B, X, H, and how many updates are timed at once.
      fused: whether Adam is PyTorch's fused one.
    """
    torch.set_num_threads(1)
    config = read_config(size)
    source = config.task.split(
        "train", batch_size=size["B"], segment_length=size["T"], seed=0
    )
    weights, readout_weights = draw_net(size, config.task.parts().output_size)
    layer = make_layer(weights)
    # One bias trains, as in the cell: two would take twice its step.
    layer.bias_hh_l0.requires_grad_(False)
    readout = torch.nn.Linear(*readout_weights.w.shape)
    readout.load_state_dict(
        {
            "weight": torch.tensor(readout_weights.w.T),
            "bias": torch.tensor(readout_weights.b),
        }
    )
    trained = [
        weight
        for weight in (*layer.parameters(), *readout.parameters())
        if weight.requires_grad
    ]
    optimizer = torch.optim.Adam(
        trained, lr=config.sections.optimizer.learning_rate, fused=fused
    )
    count, done = size["updates"], 0
    zeros = torch.zeros(1, size["B"], size["H"])
    state = zeros, zeros

    def run() -> list[torch.Tensor]:
        nonlocal done, state
        segments = source.segments(done, count)
        losses = []
        for inputs, targets in zip(
            torch.from_numpy(segments.inputs),
            torch.from_numpy(segments.targets),
            strict=True,
        ):
            outputs, (h, c) = layer(inputs, state)
            loss = torch.nn.functional.mse_loss(readout(outputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            state = h.detach(), c.detach()
            losses.append(loss.detach())
        done += count
        return losses

    def outputs(losses: list[torch.Tensor]) -> dict[str, np.ndarray]:
        return {"loss": torch.stack(losses).numpy()}

    work = Work(run, outputs, count)
    return Prepared({"training": work}, device="cpu, 1 thread")
