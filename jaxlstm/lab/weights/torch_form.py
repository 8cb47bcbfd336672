"""A model's parameters under the names of PyTorch's modules, and back."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxlstm import interop
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.weights.plain import Layout
from jaxlstm.lab.weights.torch_names import Prefixes
from jaxlstm.model import ModelParams

NAMES = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}


def to_names(
    params: ModelParams, layout: Layout, prefixes: Prefixes | None = None
) -> dict[str, np.ndarray]:
    """Returns parameters by the names that PyTorch gives them.

    Args:
      params: of a model of plain layers.
      layout: of the model.
      prefixes: of the names; by default those of `own_prefixes`.
    """
    prefixes = prefixes or own_prefixes(layout)
    return interop.model_to_torch(params, **prefixes._asdict())


def own_prefixes(layout: Layout) -> Prefixes:
    """Returns the prefixes of what is written here: the layers' is their kind."""
    return Prefixes(lstm=f"{layout.kind}.")


def from_names(
    arrays: Mapping[str, Any], template: ModelParams, prefixes: Prefixes, where: str
) -> ModelParams:
    """Returns parameters of arrays whose names and shapes are known to be right.

    Args:
      arrays: by name.
      template: of the parameters, or their shapes.
      prefixes: of the names.
      where: the file, for errors.

    Raises:
      UserError: the readout is tied here, and has weights of its own there.
    """
    table, (w, b) = template.recurrent.embedding, template.readout
    params = interop.model_from_torch(
        arrays,
        lstm=prefixes.lstm,
        embedding=None if table is None else prefixes.embedding,
        linear=None if b is None else prefixes.linear,
        dtype=jax.tree.leaves(template)[0].dtype,
    )
    if b is not None and w is None:
        if not np.array_equal(params.readout.w, params.recurrent.embedding.T):
            raise UserError(
                f"{where}: {prefixes.linear}weight is not {prefixes.embedding}weight, "
                "and the config has model.tied = true; use model.tied=false"
            )
        return params._replace(readout=params.readout._replace(w=None))
    return params


def write_module(layout: Layout) -> list[str]:
    """Returns a module of PyTorch that a model's state_dict loads into, line by line.

    Its forward takes [T, B] symbols or [T, B, X] vectors, and returns predictions and
    the last state. Of a net that reads in both directions it may be given the lengths
    [B] of sequences, and returns the prediction at their end.
    """
    layer, kind = NAMES[layout.kind], layout.kind
    options = [str(layout.input_size), str(layout.hidden_size)]
    options += [f"num_layers={layout.num_layers}"] if layout.num_layers > 1 else []
    options += ["bidirectional=True"] if layout.bidirectional else []
    options += ["bias=False"] if not layout.bias else []
    options += [f"proj_size={layout.projection_size}"] if layout.projection_size else []
    parts, feed = [], []
    if layout.embedding_size is not None:
        parts.append(
            f"self.embedding = torch.nn.Embedding({layout.symbols}, "
            f"{layout.embedding_size})"
        )
        feed.append("x = self.embedding(x)")
    elif layout.symbols is not None:
        feed.append(f"x = torch.nn.functional.one_hot(x, {layout.symbols})")
        feed.append(f"x = x.to(self.{kind}.weight_ih_l0)")
    parts.append(f"self.{kind} = torch.nn.{layer}({', '.join(options)})")
    width = (layout.projection_size or layout.hidden_size) * (1 + layout.bidirectional)
    if layout.output_size is not None:
        parts.append(f"self.fc = torch.nn.Linear({width}, {layout.output_size})")
    if layout.tied:
        parts.append("self.fc.weight = self.embedding.weight")
    takes = "state"
    if layout.bidirectional:
        h = "(h, _)" if kind == "lstm" else "h"
        takes = "lengths"
        forward = [
            "if lengths is not None:",
            "    x = torch.nn.utils.rnn.pack_padded_sequence(",
            "        x, lengths, enforce_sorted=False",
            "    )",
            f"_, {h} = self.{kind}(x)",
            "top = torch.cat([h[-2], h[-1]], dim=-1)",
        ]
        result = "top"
    else:
        forward = [f"top, state = self.{kind}(x, state)"]
        result = "top, state"
    if layout.output_size is not None:
        result = result.replace("top", "self.fc(top)")
    return [
        "import torch",
        "",
        "",
        "class Net(torch.nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        *[f"        {part}" for part in parts],
        "",
        f"    def forward(self, x, {takes}=None):",
        *[f"        {line}" for line in (*feed, *forward)],
        f"        return {result}",
        "",
        "",
        "net = Net().double()" if layout.dtype == "float64" else "net = Net()",
    ]
