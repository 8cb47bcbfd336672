"""The LSTM layer of PyTorch, on as many threads as it takes by itself."""

import warnings
from typing import Any

import numpy as np
import torch

from benchmarks.base import Prepared, Size, Work
from benchmarks.problems import Weights, draw_layer


def make_layer(weights: Weights) -> torch.nn.LSTM:
    """Returns `nn.LSTM` with the given weights: its gates stand in the same order.

    Of its two biases the first is b, and the second zero.
    """
    layer = torch.nn.LSTM(weights.w_x.shape[0], weights.w_h.shape[0])
    layer.load_state_dict(to_torch(weights))
    return layer


def to_torch(weights: Weights) -> dict[str, torch.Tensor]:
    """Returns weights by PyTorch's names and in its layout."""
    return {
        "weight_ih_l0": torch.tensor(weights.w_x.T),
        "weight_hh_l0": torch.tensor(weights.w_h.T),
        "bias_ih_l0": torch.tensor(weights.b),
        "bias_hh_l0": torch.zeros(weights.b.shape),
    }


def prepare(size: Size) -> Prepared:
    """Makes the layer.

    Args:
      size: T, B, X, H.
    """
    # About GPUs, when oneDNN is switched off for `jvp`.
    warnings.filterwarnings("ignore", message="TF32 acceleration")
    problem = draw_layer(size)
    layer = make_layer(problem.weights)
    inputs = torch.tensor(problem.inputs, requires_grad=True)
    cotangent = torch.tensor(problem.cotangent)
    weights = dict(layer.named_parameters())
    fixed = {name: weight.detach() for name, weight in weights.items()}
    tangents = to_torch(problem.weights_tangent), torch.tensor(problem.inputs_tangent)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return layer(inputs)[0]

    def gradient() -> tuple[torch.Tensor, ...]:
        outputs, _ = layer(inputs)
        return torch.autograd.grad(outputs, [*weights.values(), inputs], cotangent)

    def jvp() -> tuple[torch.Tensor, torch.Tensor]:
        def run(weights: dict[str, torch.Tensor], inputs: torch.Tensor) -> Any:
            return torch.func.functional_call(layer, weights, (inputs,))[0]

        # The kernel of oneDNN has no forward mode.
        with torch.backends.mkldnn.flags(enabled=False):
            return torch.func.jvp(run, (fixed, inputs.detach()), tangents)

    def name_gradient(found: tuple[torch.Tensor, ...]) -> dict[str, np.ndarray]:
        w_x, w_h, b, _, d_inputs = (gradient.numpy() for gradient in found)
        return {"w_x": w_x.T, "w_h": w_h.T, "b": b, "inputs": d_inputs}

    def name_jvp(found: tuple[torch.Tensor, torch.Tensor]) -> dict[str, np.ndarray]:
        outputs, tangent = found
        return {"outputs": outputs.numpy(), "tangent": tangent.numpy()}

    return Prepared(
        {
            "gradient": Work(gradient, name_gradient),
            "forward": Work(forward, lambda found: {"outputs": found.numpy()}),
            "jvp": Work(jvp, name_jvp),
        },
        device=f"cpu, {torch.get_num_threads()} threads",
    )
