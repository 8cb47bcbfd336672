"""Character models in PyTorch: the loop that one writes."""

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks.base import Prepared, Size, Work
from benchmarks.char_lm import read_config
from benchmarks.peers.torch_nets import make_net
from benchmarks.problems import draw_stack
from jaxlstm.lab.config import Config


def make_optimizer(
    config: Config, weights: list[torch.nn.Parameter], *, foreach: bool
) -> torch.optim.Optimizer:
    """Returns the optimizer of a config."""
    section, own = config.sections.optimizer, config.optimizer_options
    rate = section.learning_rate
    if section.name == "sgd":
        return torch.optim.SGD(weights, rate, own["momentum"], foreach=foreach)
    assert section.name == "rmsprop" and not own["eps_in_sqrt"]
    return torch.optim.RMSprop(weights, rate, own["decay"], own["eps"], foreach=foreach)


def prepare(size: Size, *, config: str, foreach: bool = False) -> Prepared:
    """Makes the net and its optimizer, on as many threads as PyTorch takes by itself.

    Args:
      size: T, B, X symbols, H, L layers, and how many updates are timed at once.
      config: name of the run's file.
      foreach: whether clipping and optimizer take all weights at once.
    """
    settings = read_config(config, size)
    train, clip = settings.sections.train, settings.sections.optimizer.clip
    source = settings.task.split(
        "train", batch_size=size["B"], segment_length=size["T"], seed=0
    )
    net, readout = make_net(*draw_stack(size))
    # Of the two biases of a layer one trains, as in the cell: two would take twice its
    # step.
    for name, weight in net.named_parameters():
        weight.requires_grad_(not name.startswith("bias_hh"))
    weights = [w for w in (*net.parameters(), *readout.parameters()) if w.requires_grad]
    optimizer = make_optimizer(settings, weights, foreach=foreach)
    one_hot = torch.eye(size["X"])
    zeros = torch.zeros(size["L"], size["B"], size["H"])
    state, done, count = (zeros, zeros), 0, size["updates"]
    # The mean over the batch of the sum over time, or over both.
    factor = size["T"] if train.average == "batch" else 1

    def update(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal state
        outputs, (h, c) = net(one_hot[inputs], state)
        loss = cross_entropy(readout(outputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        (factor * loss).backward()
        if clip.value is not None:
            torch.nn.utils.clip_grad_value_(weights, clip.value, foreach=foreach)
        if clip.norm is not None:
            torch.nn.utils.clip_grad_norm_(weights, clip.norm, foreach=foreach)
        optimizer.step()
        state = h.detach(), c.detach()
        return loss.detach()

    def run() -> list[torch.Tensor]:
        nonlocal done, state
        segments = source.segments(done, count)
        inputs = torch.from_numpy(segments.inputs).long()
        targets = torch.from_numpy(segments.targets).long()
        losses = []
        for number in range(count):
            if segments.resets is not None and segments.resets[number, 0]:
                state = zeros, zeros
            losses.append(update(inputs[number], targets[number]))
        done += count
        return losses

    def outputs(losses: list[torch.Tensor]) -> dict[str, np.ndarray]:
        return {"loss": torch.stack(losses).numpy()}

    return Prepared(
        {"training": Work(run, outputs, count)},
        device=f"cpu, {torch.get_num_threads()} threads",
    )
