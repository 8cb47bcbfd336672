"""The graph of an ONNX file: its nodes, its constants, and what feeds what.

Nothing in a file is executed, nothing beside it is opened, and what is made of its
tensors is bounded by its size.
"""

import collections
import importlib
import os
import stat
from typing import Any

import numpy as np

from jaxlstm.interop.files import FilePath
from jaxlstm.interop.onnx.folds import FOLDS
from jaxlstm.interop.weights import LONGEST_REASON, WeightsError, show

# What a protocol buffer can have, and how far back a tensor is followed.
LARGEST_FILE, MOST_STEPS = 2**31 - 1, 100
# How many times its size all tensors may have that follow from those of a file.
MOST_FOLDS = 16
DOMAINS = "", "ai.onnx"
# What has the numbers of its first input, moved, repeated or left out.
PASSING = {
    "Cast",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "OneHot",
    "Reshape",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
REPEATING = {"Expand", "Identity"}
MIXING = {"Add", "Concat", "Sum"}
RECURRENT, OUTPUTS = {"LSTM", "GRU", "RNN"}, ("Y", "Y_h", "Y_c")


def import_onnx() -> Any:
    """Returns the package onnx, with its helpers.

    Raises:
      ModuleNotFoundError: it is not installed.
    """
    try:
        library = importlib.import_module("onnx")
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise ModuleNotFoundError(
            "ONNX files need the package onnx: pip install onnx", name="onnx"
        ) from None
    for part in ("checker", "helper", "defs", "numpy_helper"):
        importlib.import_module(f"onnx.{part}")
    return library


class Graph:
    """The graph of a model file.

    Attributes:
      nodes: in the order of the file, which is one in which they can run.
      inputs: names of what it is given when it runs.
      ranks: how many axes each of these has, None where the file does not say it.
      outputs: names of what it gives.
      metadata: of the model, text by name.
    """

    def __init__(self, path: FilePath):
        """Reads a file.

        Raises:
          ModuleNotFoundError: the package onnx is not installed.
          OSError: the file cannot be read.
          WeightsError: it is no ONNX model.
        """
        self._onnx = import_onnx()
        model = _parse(self._onnx, path)
        graph = model.graph
        self.nodes = list(graph.node)
        _check_text(path, model)
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = [i.name for i in graph.input if i.name not in self._initializers]
        self.ranks = {i.name: _count_axes(i) for i in graph.input}
        self.outputs = [output.name for output in graph.output]
        self._producers = {name: n for n in self.nodes for name in n.output if name}
        self._consumers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)
        self._constants: dict[str, np.ndarray | None] = {}
        self._room = MOST_FOLDS * graph.ByteSize()
        count = collections.Counter(node.name for node in self.nodes)
        self._names = {
            id(node): node.name
            if node.name and count[node.name] == 1
            else next(filter(None, node.output), "")
            for node in self.nodes
        }

    def name(self, node: Any) -> str:
        """Returns the name of a node; that of its first output if it has none."""
        return self._names[id(node)]

    def attributes(self, node: Any) -> dict[str, Any]:
        """Returns the attributes of a node as numbers, text, and lists of these.

        Raises:
          WeightsError: one is damaged.
        """
        found = {}
        for attribute in node.attribute:
            try:
                value = self._onnx.helper.get_attribute_value(attribute)
                found[attribute.name] = _decode(value)
            except (ValueError, TypeError) as error:
                reason = show(str(error), LONGEST_REASON)
                where = show(f"{self.name(node)}.{attribute.name}")
                raise WeightsError(f"{where}: is no attribute: {reason}") from None
        return found

    def consumers(self, name: str) -> list[Any]:
        """Returns the nodes that read a tensor."""
        return self._consumers.get(name, [])

    def constant(self, name: str, steps: int = MOST_STEPS) -> np.ndarray | None:
        """Returns a tensor that the file has or that follows from such; or None.

        Raises:
          WeightsError: it is damaged, or its numbers are in another file.
        """
        if name not in self._constants:
            self._constants[name] = None  # Of itself a tensor cannot follow.
            self._constants[name] = self._find_constant(name, steps)
        return self._constants[name]

    def sources(self, name: str) -> tuple[str, ...]:
        """Returns the names of the nodes, or inputs, that a tensor comes from.

        Those that only move numbers, add or join them are passed. A second output of
        a node has its number, or what ONNX calls it, behind the name: `lstm.Y_h`.
        """
        found, waiting, seen = set(), [name], {name}
        while waiting:
            name = waiting.pop()
            node = self._producers.get(name)
            if node is None:
                found.add(name)
                continue
            first = next(iter(node.input), "")
            passing = node.op_type in PASSING and node.domain in DOMAINS
            if passing and first and self.constant(first) is None:
                parts = [first]
            elif node.op_type in MIXING and node.domain in DOMAINS:
                parts = [part for part in node.input if self.constant(part) is None]
            else:
                found.add(self.name(node) + _name_output(node, name))
                continue
            waiting += [part for part in parts if part not in seen]
            seen.update(parts)
        return tuple(sorted(found))

    def spread(self, name: str) -> np.ndarray | None:
        """Returns the constant that a tensor repeats; or None.

        Of zeros a single one is given, however they are moved.
        """
        moved = False
        for _ in range(MOST_STEPS):
            array, node = self.constant(name), self._producers.get(name)
            if array is not None:
                return None if moved and array.any() else array
            if node is None or node.domain not in DOMAINS or not node.input:
                return None
            if node.op_type == "ConstantOfShape":
                value = self.attributes(node).get("value")
                filled = np.zeros(1) if value is None else self._read(value, "value")
                return None if filled.any() else np.zeros(())
            if node.op_type not in PASSING - {"OneHot"}:
                return None
            moved = moved or node.op_type not in REPEATING
            name = node.input[0]
        return None

    def _find_constant(self, name: str, steps: int) -> np.ndarray | None:
        if name in self._initializers:
            return self._read(self._initializers[name], name)
        node = self._producers.get(name)
        if node is None or not steps or node.domain not in DOMAINS:
            return None
        if node.op_type == "Constant":
            given = self.attributes(node)
            value = given.get("value")
            if value is not None:
                return self._read(value, name)
            numbers = [
                v for k, v in given.items() if k.startswith(("value_f", "value_i"))
            ]
            return np.array(numbers[0]) if numbers else None
        if node.op_type not in FOLDS:
            return None
        parts = []
        for tensor in node.input:
            part = self.constant(tensor, steps - 1)
            if part is None:
                return None
            parts.append(part)
        self._room -= sum(part.nbytes for part in parts)
        if self._room < 0:
            raise WeightsError(
                f"{show(self.name(node))}: constants would take more than "
                f"{MOST_FOLDS} times the size of the file"
            )
        try:
            return FOLDS[node.op_type](self.attributes(node), *parts)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            reason = show(str(error), LONGEST_REASON)
            raise WeightsError(
                f"{show(self.name(node))}: {node.op_type} cannot be done: {reason}"
            ) from None

    def _read(self, tensor: Any, name: str) -> np.ndarray:
        if tensor.data_location == tensor.EXTERNAL:
            raise WeightsError(
                f"{show(name)}: has its numbers in another file, which is not opened; "
                "onnx.save(onnx.load(file), other_file) writes all to one"
            )
        try:
            return np.array(self._onnx.numpy_helper.to_array(tensor))
        except (ValueError, TypeError, KeyError, NotImplementedError) as error:
            reason = show(str(error), LONGEST_REASON)
            raise WeightsError(f"{show(name)}: is no tensor: {reason}") from None


def _check_text(path: FilePath, model: Any) -> None:
    """Raises WeightsError where a name, or the metadata, are no text."""
    graph = model.graph
    names = [
        text for entry in model.metadata_props for text in (entry.key, entry.value)
    ]
    names += [part.name for part in (*graph.initializer, *graph.input, *graph.output)]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
    damaged = [name for name in names if not isinstance(name, str)]
    if damaged:
        raise WeightsError(
            f"{path}: is no ONNX model: {show(repr(damaged[0]))} is no text"
        )


def _count_axes(value: Any) -> int | None:
    kind = value.type.tensor_type
    return len(kind.shape.dim) if kind.HasField("shape") else None


def _name_output(node: Any, name: str) -> str:
    """Returns what stands behind the name of a node for an output but the first."""
    place = list(node.output).index(name)
    if not place:
        return ""
    known = node.op_type in RECURRENT and place < len(OUTPUTS)
    return f".{OUTPUTS[place] if known else place}"


def _decode(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return [_decode(part) for part in value] if isinstance(value, list) else value


def _parse(library: Any, path: FilePath) -> Any:
    """Returns what is in a file."""
    errors = importlib.import_module("google.protobuf.message")
    # What is no file may have no end, or wait for a writer.
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise WeightsError(f"{path}: is no file")
    if status.st_size > LARGEST_FILE:
        raise WeightsError(
            f"{path}: has {status.st_size} bytes; ONNX has 2 GiB at most"
        )
    with open(path, "rb") as file:
        data = file.read()
    try:
        model = library.load_model_from_string(data)
    except errors.DecodeError as error:
        reason = show(str(error), LONGEST_REASON)
        raise WeightsError(f"{path}: is no ONNX model: {reason}") from None
    if not model.graph.node:
        raise WeightsError(f"{path}: is no ONNX model: it has no nodes")
    return model
