"""Whole models out of ONNX files."""

from typing import Any

import jax

from jaxlstm.interop.files import FilePath
from jaxlstm.interop.onnx.read import OnnxModel, load_onnx
from jaxlstm.interop.weights import LONGEST_REASON, prefix, show
from jaxlstm.layers import Connections
from jaxlstm.model import ModelParams, ReadoutParams, RecurrentParams
from jaxlstm.shapes import check_choice


def model_from_onnx(
    path: FilePath, *, connections: Connections = "none", dtype: Any = None
) -> ModelParams:
    """Returns a whole model: embedding, recurrent layers and readout.

    Args:
      path: of a file with a stack of recurrent layers, at most one embedding, below
        them, and at most one linear layer, above them, as `model_to_onnx` and exporters
        of PyTorch write it.
      connections: as in `make_model`: what feeds each layer.
      dtype: of the parameters; by default that of the tensors.

    Returns:
      The parameters of a `make_model` of the same sizes. Where the linear layer has the
      weights of the embedding, they are there twice.

    Raises:
      ModuleNotFoundError: the package onnx is not installed.
      OSError: the file cannot be opened.
      WeightsError: as of `load_onnx`; or there is more than such a model has, or it is
        put together in another way.
    """
    check_choice("connections", connections, Connections)
    model = load_onnx(path, dtype=dtype)
    faults = _check_parts(model) or _check_wiring(model, connections)
    if faults:
        raise prefix(path, faults)
    layers = tuple(layer.params for layer in model.layers.values())
    table = next(iter(model.embeddings.values()), None)
    readout = next(iter(model.linears.values()), ReadoutParams(None, None))
    start = None
    if model.states:
        start = tuple(model.states[name] for name in model.layers)
        start = jax.tree.map(lambda leaf: leaf[0], start)
    return ModelParams(RecurrentParams(table, layers, start), readout)


def _check_parts(model: OnnxModel) -> list[str]:
    """Returns a line for each part that a model of `make_model` does not have."""
    faults = [
        f"has {len(part)} {what}, {show(', '.join(part), LONGEST_REASON)}; a model has "
        "one at most"
        for what, part in (
            ("embeddings", model.embeddings),
            ("linear layers", model.linears),
        )
        if len(part) > 1
    ]
    first = next(iter(model.layers.values()))
    for name, layer in model.layers.items():
        if layer.direction == "reverse":
            faults.append(f"{show(name)}: reads from the last step to the first alone")
        if (layer.name, layer.options) != (first.name, first.options):
            faults.append(f"{show(name)}: is not of the same cell as the first layer")
        state = model.states.get(name)
        if (state is None) != (not model.states):
            faults.append(f"{show(name)}: starts from zero, and others do not")
        elif state is not None and len(jax.tree.leaves(state)[0]) != 1:
            faults.append(f"{show(name)}: starts from another state in each sequence")
    return faults


def _check_wiring(model: OnnxModel, connections: Connections) -> list[str]:
    """Returns a line for each part that is fed by others than in `make_model`."""
    names, faults = list(model.layers), []
    bottom = set(model.embeddings)
    if not bottom:
        bottom = set(model.inputs[names[0]]["X"]) & set(model.arguments)
    wanted: dict[str, set[str]] = {name: set(model.arguments) for name in bottom}
    for place, name in enumerate(names):
        below = names[:place] if connections == "residual" else names[:place][-1:]
        wanted[name] = {*below, *(bottom if connections == "skip" else ())} or bottom
    for name in model.linears:
        wanted[name] = set(names if connections != "none" else names[-1:])
    for name in (*model.layers, *model.embeddings, *model.linears):
        found = set(model.inputs[name]["X"])
        if name in model.linears:
            found = {source.removesuffix(".Y_h") for source in found}
        fits = found <= wanted[name] if name in bottom else found == wanted[name]
        if not fits or not found:
            said = ", ".join(sorted(found)) or "constants"
            needs = ", ".join(sorted(wanted[name])) or "an input"
            faults.append(
                f"{show(name)}: is fed by {show(said, LONGEST_REASON)}; with "
                f'connections="{connections}" a model has {show(needs, LONGEST_REASON)}'
            )
    return faults
