"""Whole models out of ONNX files."""

from typing import Any

import jax

from jaxlstm.interop.files import FilePath
from jaxlstm.interop.onnx.moves import Parts
from jaxlstm.interop.onnx.read import OnnxModel, load_onnx
from jaxlstm.interop.onnx.wiring import name_parts
from jaxlstm.interop.weights import LONGEST_REASON, WeightsError, prefix, show
from jaxlstm.layers import Connections
from jaxlstm.model import ModelParams, ReadoutParams, RecurrentParams
from jaxlstm.shapes import check_choice


def model_from_onnx(
    source: FilePath | OnnxModel,
    *,
    connections: Connections = "none",
    dtype: Any = None,
) -> ModelParams:
    """Returns a whole model: embedding, recurrent layers and readout.

    Args:
      source: path of a file with a stack of recurrent layers, at most one embedding,
        below them, and at most one linear layer, above them, as `model_to_onnx` and
        exporters of PyTorch write it; or what `load_onnx` gives of it.
      connections: as in `make_model`: what feeds each layer.
      dtype: of the parameters; by default that of the tensors. What has been loaded
        has its dtype already.

    Returns:
      The parameters of a `make_model` of the same sizes. Where the linear layer has the
      weights of the embedding, they are there twice.

    Raises:
      ModuleNotFoundError: the package onnx is not installed.
      OSError: the file cannot be opened.
      WeightsError: as of `load_onnx`; or there is more than such a model has, or it is
        put together in another way, or something on the way from its inputs to its
        outputs is not known to leave the numbers as they are.
    """
    check_choice("connections", connections, Connections)
    loaded = isinstance(source, OnnxModel)
    model = source if loaded else load_onnx(source, dtype=dtype)
    faults = _check_parts(model) or _check_wiring(model, connections)
    if faults:
        raise WeightsError(*faults) if loaded else prefix(source, faults)
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
    feeds, faults = model.wiring.feeds, []
    wanted = _find_feeds(model, connections)
    for name, parts in wanted.items():
        fits = name in feeds and _as_steps(feeds[name], name, model) == parts
        if name in feeds and not fits:
            faults.append(
                f"{show(name)}: is fed by {_show_parts(feeds[name])}; with "
                f'connections="{connections}" a model has {_show_parts(parts)}'
            )
    faults = faults or list(model.wiring.faults)
    top = wanted.pop("")
    outputs = model.wiring.outputs.values()
    if not faults and top not in [_as_steps(parts, "", model) for parts in outputs]:
        faults.append(f"gives no output that is {_show_parts(top)}")
    return faults


def _find_feeds(model: OnnxModel, connections: Connections) -> dict[str, Parts]:
    """Returns what each part is fed in `make_model`, and by "" what that gives."""
    names = list(model.layers)
    tops = [name_parts(name, layer) for name, layer in model.layers.items()]
    wanted: dict[str, Parts] = {}
    feeds = model.wiring.feeds
    argument = feeds.get(next(iter(model.embeddings), names[0]), ())
    if len(argument) != 1 or argument[0] not in {(name,) for name in model.arguments}:
        argument = (("an input",),)
    bottom = argument
    for name in model.embeddings:
        wanted[name], bottom = argument, ((name,),)
    for place, name in enumerate(names):
        if not place:
            wanted[name] = bottom
        elif connections == "skip":
            wanted[name] = bottom + tops[place - 1]
        else:
            wanted[name] = _join(tops[:place], connections)
    given = _join(tops, connections)
    for name in model.linears:
        wanted[name], given = given, ((name,),)
    return wanted | {"": given}


def _join(outputs: list[Parts], connections: Connections) -> Parts:
    """Returns the outputs of layers as they are joined above them."""
    if connections == "skip":
        return tuple(part for parts in outputs for part in parts)
    if connections == "residual":
        columns = zip(*outputs, strict=False)
        return tuple(tuple(sorted(sum(column, ()))) for column in columns)
    return outputs[-1]


def _as_steps(parts: Parts, name: str, model: OnnxModel) -> Parts:
    """Returns last states, which a prediction may be by, as the outputs they are of."""
    if name in model.layers or name in model.embeddings:
        return parts
    whole = {
        state: output
        for key, layer in model.layers.items()
        for (state,), (output,) in zip(
            name_parts(key, layer, ".Y_h"), name_parts(key, layer), strict=True
        )
    }
    if not all(part in whole for added in parts for part in added):
        return parts
    return tuple(tuple(sorted(whole[part] for part in added)) for added in parts)


def _show_parts(parts: Parts) -> str:
    return show(", ".join(" + ".join(added) for added in parts), LONGEST_REASON)
