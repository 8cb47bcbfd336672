"""Which layers of a Functional model feed which, by its config."""

from collections.abc import Iterator
from typing import Any

from jaxlstm.interop.weights import WeightsError, show

# What Keras 3 makes masks of, which stands among the layers.
MASKS = "NotEqual", "Any"

# A layer or operation, and the value that a mask compares it to.
Mask = tuple[str, str, Any]


def find_branches(layers: list[Any], config: Any) -> str | None:
    """Returns why the layers of a Functional model are no chain, or None.

    In a chain each layer is fed by the one before it, and by the mask of an Embedding
    or a Masking layer further down, which it would be given in a Sequential too.

    Args:
      layers: of the config, from the input up.
      config: of the model.

    Raises:
      WeightsError: the config does not say what a layer is fed by.
    """
    before: str | None = None
    mask: Mask | None = None
    masks: dict[str, Mask] = {}
    for layer in layers:
        name, kind = layer.get("name"), layer["class_name"]
        options, nodes = layer.get("config", {}), layer.get("inbound_nodes")
        if not isinstance(name, str) or not isinstance(nodes, list):
            raise WeightsError("config: a layer has no name and inbound_nodes")
        fed = list(_find_tensors(nodes))
        if kind == "InputLayer" and before is None:
            before = name
        elif kind in MASKS:
            masks[name] = _describe(kind, fed, nodes, masks)
        elif [source for source in fed if source not in masks] != [before] or any(
            masks[source] != mask for source in fed if source in masks
        ):
            sources = " and ".join(show(repr(source)) for source in fed) or "nothing"
            return f"{show(repr(name))} is fed by {sources}"
        else:
            if kind == "Embedding" and options.get("mask_zero"):
                mask = "NotEqual", str(before), 0
            elif kind == "Masking":
                mask = "Any", str(before), options.get("mask_value", 0)
            before = name
    if not isinstance(config, dict):
        raise WeightsError("config: does not say what its outputs are")
    outputs = list(_find_names(config.get("output_layers")))
    if outputs != [before]:
        return f"its outputs are of {' and '.join(map(show, outputs)) or 'no layer'}"
    return None


def _describe(kind: str, fed: list[str], nodes: Any, masks: dict[str, Mask]) -> Mask:
    """Returns what an operation that makes a mask compares."""
    source = fed[0] if fed else ""
    if kind == "Any":
        _, source, value = masks.get(source, ("", source, None))
        return kind, source, value
    args = nodes[0].get("args") if nodes and isinstance(nodes[0], dict) else None
    value = args[1] if isinstance(args, list) and len(args) == 2 else None
    return kind, source, value


def _find_tensors(value: Any) -> Iterator[str]:
    """Yields the layers by which one is fed; what is not their first output, as NAME:n.

    Keras 3 has a `__keras_tensor__` for each, Keras 1 and 2 a list [NAME, 0, 0, {}].
    """
    if isinstance(value, dict):
        history = value.get("config")
        if value.get("class_name") == "__keras_tensor__" and isinstance(history, dict):
            yield from _find_names(history.get("keras_history"))
            return
        for item in value.values():
            yield from _find_tensors(item)
    elif isinstance(value, list):
        if len(value) > 2 and isinstance(value[0], str):
            yield from _find_names(value[:3])
            yield from _find_tensors(value[3:])
            return
        for item in value:
            yield from _find_tensors(item)


def _find_names(value: Any) -> Iterator[str]:
    """Yields the names in [NAME, 0, 0], or in a list of such."""
    if not isinstance(value, list):
        return
    if len(value) == 3 and isinstance(value[0], str):
        name, *place = value
        yield name if place == [0, 0] else f"{name}:{place}"
        return
    for item in value:
        yield from _find_names(item)
