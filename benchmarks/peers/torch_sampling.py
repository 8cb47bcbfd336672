"""Sampling in PyTorch: the loop that one writes, one call of `nn.LSTM` a symbol.

On one thread: a second one makes it slower.
"""

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.base import Prepared, Size, Work
from benchmarks.peers.torch_nets import make_net
from benchmarks.problems import draw_stack
from benchmarks.sampling import GAIN, START


def prepare(size: Size) -> Prepared:
    """Makes the net.

    Args:
      size: X symbols, H, L layers, and N symbols that are sampled at once.
    """
    torch.set_num_threads(1)
    net, readout = make_net(*draw_stack(size, GAIN))
    one_hot = torch.eye(size["X"])

    def draw(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        return torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1)

    def take_likeliest(logits: torch.Tensor) -> torch.Tensor:
        return logits.argmax(dim=-1, keepdim=True)

    @torch.inference_mode()
    def sample(choose: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        symbol, state, symbols = torch.tensor([START]), None, []
        for _ in range(size["N"]):
            output, state = net(one_hot[symbol], state)
            symbol = choose(readout(output[0]))
            symbols.append(symbol)
        return torch.cat(symbols)

    def outputs(symbols: torch.Tensor) -> dict[str, np.ndarray]:
        return {"symbols": symbols.numpy().astype(np.int32)}

    # Draws differ from one library to the other; greedy text does not.
    works = {
        "sampling": Work(lambda: sample(draw), lambda _: {}, size["N"]),
        "greedy": Work(lambda: sample(take_likeliest), outputs, size["N"]),
    }
    return Prepared(works, device="cpu, 1 thread")
