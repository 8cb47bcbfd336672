"""What feeds what in the graph of an ONNX model, in which order and unchanged.

A tensor is followed from the inputs of the model up, as long as all that happens to it
is understood: layers read it, or its numbers are moved, joined or added.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxlstm.interop.onnx.graph import DOMAINS, PASSING, Graph
from jaxlstm.interop.onnx.layer import OnnxLayer
from jaxlstm.interop.onnx.moves import (
    BOTH,
    FEATURES,
    MOVES,
    Parts,
    Value,
    add,
    concatenate,
)
from jaxlstm.interop.onnx.operators import directions_of, hidden_size_of
from jaxlstm.interop.weights import WeightsError, show

STARTS = "initial_h", "initial_c"


class Wiring(NamedTuple):
    """How the layers of a model are put together.

    Attributes:
      feeds: of each recurrent layer, embedding and linear layer, by the name of its
        node, what it is fed: for each stretch of the features the names of what is
        added up. Of a layer of two directions the second is `NODE backward`.
      outputs: of each output of the model, likewise.
      faults: a line for each node that is not understood and on which these depend.
    """

    feeds: dict[str, Parts]
    outputs: dict[str, Parts]
    faults: tuple[str, ...]


def name_parts(name: str, layer: OnnxLayer, output: str = "") -> Parts:
    """Returns the parts of an output of a recurrent layer."""
    ends = ("", " backward")[: len(directions_of(layer.params))]
    return tuple((f"{name}{output}{end}",) for end in ends)


def trace(
    graph: Graph,
    layers: Mapping[str, OnnxLayer],
    embeddings: Mapping[str, Any],
    linears: Mapping[str, Any],
) -> Wiring:
    """Returns how the layers of a graph are put together.

    Args:
      graph: of the file.
      layers: recurrent ones, by the names of their nodes.
      embeddings: their tables [X, E], likewise.
      linears: their weights w [H, Y] and b [Y], likewise.
    """
    tracer = _Tracer(graph)
    for node in graph.nodes:
        name = graph.name(node)
        if name in layers:
            tracer.follow_layer(name, node, layers[name])
        elif name in embeddings:
            tracer.follow_embedding(name, node, embeddings[name].shape[1])
        elif name in linears:
            tracer.follow_linear(name, node, linears[name].w.shape[1])
        else:
            tracer.follow(name, node)
    return tracer.finish()


class _Tracer:
    """Follows tensors from node to node; what is not understood is a line of text."""

    def __init__(self, graph: Graph):
        self._graph = graph
        self._values: dict[str, Value | str] = {}
        self._feeds: dict[str, Parts] = {}
        self._faults: list[str] = []
        # What is an argument of the model, whole or in parts.
        self._given = set(graph.inputs)
        self._time: set[str] = set()
        self._lengths: set[str] = set()
        # Products to which a bias is yet to be added.
        self._products: set[str] = set()
        for name in graph.inputs:
            rank = graph.ranks[name]
            self._values[name] = (
                Value(("0", "1", FEATURES)[:rank], ((name,),), (0,))
                if rank in (1, 2, 3)
                else f"{show(name)}: has {rank} axes; an input has [T, B] or [T, B, X]"
            )

    def finish(self) -> Wiring:
        """Returns what was found, with the outputs of the model."""
        found = {name: self._look_up(name) for name in self._graph.outputs}
        self._faults += [value for value in found.values() if isinstance(value, str)]
        outputs = {k: v.parts for k, v in found.items() if isinstance(v, Value)}
        return Wiring(self._feeds, outputs, tuple(dict.fromkeys(self._faults)))

    def follow(self, name: str, node: Any) -> None:
        """Follows what a node does that is no layer."""
        passing = node.op_type in PASSING | {"Split"} and node.domain in DOMAINS
        if passing and node.input and node.input[0] in self._given:
            self._given.update(node.output)
        value = None
        if node.domain in DOMAINS:
            try:
                if self._graph.constant(next(iter(node.output), "")) is not None:
                    return
                value = self._apply(node)
            except WeightsError as error:
                value = error.lines[0]
            except (
                ArithmeticError,
                AttributeError,
                LookupError,
                TypeError,
                ValueError,
            ):
                value = None
        fed = node.input[:1] if node.op_type in MOVES else node.input
        unknown = next(
            (v for v in map(self._values.get, fed) if isinstance(v, str)), None
        )
        reason = unknown or (
            f"{show(name)}: this {show(node.op_type)} has no place in a model here, or "
            "none where it stands; load_onnx reads the layers by themselves"
        )
        self._values |= dict.fromkeys(node.output, reason)
        if value is not None and node.output:
            self._values[node.output[0]] = value

    def follow_layer(self, name: str, node: Any, layer: OnnxLayer) -> None:
        """Follows a recurrent layer."""
        value = self._feed(name, node.input[0])
        inputs = dict(enumerate(node.input))
        lengths = inputs.get(4, "")
        fed = self._values.get(lengths)
        self._lengths.add(fed.parts[0][0] if isinstance(fed, Value) else lengths)
        foreign = len(self._lengths) > 1 or (lengths and lengths not in self._given)
        if foreign:
            self._faults.append(
                f"{show(name)}.sequence_lens: is not one input of the model, the same "
                "for all layers"
            )
        for key, place in zip(STARTS, (5, 6), strict=True):
            start = inputs.get(place, "")
            if start and start not in self._given and self._graph.spread(start) is None:
                self._faults.append(f"{show(name)}.{key}: is no input of the model")
        places = (1, 0) if layer.layout else (0, 1)
        known = isinstance(value, Value)
        if known and len(value.axes) == 3 and value.axes[2] == FEATURES:
            time, batch = (value.axes[n] for n in places)
            self._time.add(time)
            if {time, batch} == {"0", "1"} and len(self._time) == 1:
                self._give(node, name, layer, time, batch)
                return
        reason = value
        if known:
            letters = "[B, T, X]" if layer.layout else "[T, B, X]"
            reason = f"{show(name)}.X: is not {letters} of what feeds it"
            self._faults.append(reason)
        self._values |= dict.fromkeys(node.output, reason)

    def follow_embedding(self, name: str, node: Any, size: int) -> None:
        """Follows the rows of a table."""
        value = self._feed(name, node.input[1])
        if isinstance(value, Value):
            value = (
                f"{show(name)}: is fed by {', '.join(value.parts[0])}, not by symbols"
                if FEATURES in value.axes
                else Value((*value.axes, FEATURES), ((name,),), (size,), value.time)
            )
        self._values[node.output[0]] = value

    def follow_linear(self, name: str, node: Any, size: int) -> None:
        """Follows a linear layer, whose bias is added behind a MatMul."""
        value = self._feed(name, node.input[0])
        if isinstance(value, Value):
            value = (
                f"{show(name)}: does not run along the features that feed it"
                if value.axes[-1:] != (FEATURES,) or BOTH in value.axes
                else Value(value.axes, ((name,),), (size,), value.time)
            )
        self._values[node.output[0]] = value
        if node.op_type == "MatMul":
            self._products.add(node.output[0])

    def _look_up(self, tensor: str) -> Value | str:
        return self._values.get(tensor, f"{show(tensor)}: is constant")

    def _feed(self, name: str, tensor: str) -> Value | str:
        """Returns what feeds a layer, and notes it."""
        value = self._look_up(tensor)
        if isinstance(value, Value):
            self._feeds[name] = value.parts
        else:
            self._faults.append(value)
        return value

    def _give(
        self, node: Any, name: str, layer: OnnxLayer, time: str, batch: str
    ) -> None:
        """Notes the outputs of a recurrent layer."""
        count = len(directions_of(layer.params))
        widths = (hidden_size_of(directions_of(layer.params)[0]),) * count
        y = (batch, time, BOTH) if layer.layout else (time, BOTH, batch)
        last = (batch, BOTH) if layer.layout else (BOTH, batch)
        ends = ("", y), (".Y_h", last), (".Y_c", last)
        for tensor, (output, axes) in zip(node.output, ends, strict=False):
            parts = name_parts(name, layer, output)
            self._values[tensor] = Value((*axes, FEATURES), parts, widths, time)

    def _apply(self, node: Any) -> Value | None:
        """Returns what a node makes of what is known, or None."""
        constants = [
            self._graph.constant(part) if part else None for part in node.input
        ]
        known = [self._values.get(part) for part in node.input]
        values = [value for value in known if isinstance(value, Value)]
        if node.op_type in ("Add", "Sum") and len(values) == len(known):
            return add(values)
        if node.op_type == "Add" and len(values) == 1:
            (product,) = {*node.input} & self._products
            alone = len(self._graph.consumers(product)) == 1
            biased = any(constant is not None for constant in constants)
            return values[0] if alone and biased else None
        given = self._graph.attributes(node)
        if node.op_type == "Concat" and len(values) == len(known):
            return concatenate(values, given["axis"])
        move = MOVES.get(node.op_type)
        chosen = any(
            part and constant is None
            for part, constant in zip(node.input[1:], constants[1:], strict=True)
        )
        if move is None or chosen or not isinstance(known[0], Value):
            return None
        return move(known[0], given, *constants[1:])
