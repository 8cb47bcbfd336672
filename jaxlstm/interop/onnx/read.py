"""Recurrent layers, embeddings and linear layers of ONNX files."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlstm.interop.files import FilePath
from jaxlstm.interop.onnx.graph import DOMAINS, Graph
from jaxlstm.interop.onnx.layer import OnnxLayer, layer_from_onnx
from jaxlstm.interop.onnx.operators import OPERATORS
from jaxlstm.interop.onnx.states import state_from_onnx
from jaxlstm.interop.onnx.wiring import Wiring, trace
from jaxlstm.interop.tensors import as_leaf, check_names, convert
from jaxlstm.interop.weights import (
    LONGEST_REASON,
    WeightsError,
    find_non_finite,
    prefix,
    show,
)
from jaxlstm.model import ReadoutParams
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array

NAMES = "X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"
WEIGHTS, STARTS = ("W", "R", "B", "P"), ("initial_h", "initial_c")
GATES = {operator: gates for gates, operator in OPERATORS.items()}


class OnnxModel(NamedTuple):
    """What an ONNX file has of recurrent nets, each by the name of its node.

    Attributes:
      layers: operators LSTM, GRU and RNN, in the order of the file.
      states: that a layer starts from, if the file says so and it is not zero: leaves
        [B, H], or [1, H] where all sequences start from the same.
      embeddings: [X, E] tables from which rows are gathered.
      linears: w [H, Y] and b [Y] of Gemm, and of MatMul with Add.
      inputs: what feeds each of these: by the name of the operator's input ("X",
        "sequence_lens", ...) the names of nodes, or of inputs of the model, from which
        it comes; `NODE.Y_h` where it is no first output. What is constant is left
        out.
      arguments: names of the inputs of the model.
      metadata: text by name, whatever its writer has put there.
      wiring: how these are put together, as far as that is understood.
    """

    layers: dict[str, OnnxLayer]
    states: dict[str, Any]
    embeddings: dict[str, Array]
    linears: dict[str, ReadoutParams]
    inputs: dict[str, dict[str, tuple[str, ...]]]
    arguments: tuple[str, ...]
    metadata: dict[str, str]
    wiring: Wiring


def load_onnx(
    path: FilePath, *, dtype: Any = None, allow_non_finite: bool = False
) -> OnnxModel:
    """Returns the recurrent layers of an ONNX file, and what stands around them.

    Weights are those that the file has, or that follow from these by being transposed,
    cut or joined.

    Args:
      path: of the file.
      dtype: of the parameters; by default that of the tensors.
      allow_non_finite: whether infinity and NaN are taken as they are.

    Raises:
      ModuleNotFoundError: the package onnx is not installed.
      OSError: the file cannot be opened.
      WeightsError: the file is damaged, has none of the operators, or has one that no
        cell here can be: a line for each thing that is wrong, with the name of the
        node.
    """
    try:
        return _Reader(Graph(path), dtype, allow_non_finite).read()
    except WeightsError as error:
        lines = (line.removeprefix(f"{path}: ") for line in error.lines)
        raise prefix(path, lines) from None


class _Reader:
    """Reads nodes into a model, and notes what is wrong with each.

    Attributes:
      graph: that the nodes are of.
      model: that is filled.
      faults: a line for each thing that is wrong.
    """

    def __init__(self, graph: Graph, dtype: Any, allow_non_finite: bool):
        self.graph, self._dtype = graph, dtype
        self._allow_non_finite = allow_non_finite
        arguments, wiring = tuple(graph.inputs), Wiring({}, {}, ())
        self.model = OnnxModel({}, {}, {}, {}, {}, arguments, graph.metadata, wiring)
        self.faults: list[str] = []

    def read(self) -> OnnxModel:
        """Returns what the nodes are.

        Raises:
          WeightsError: a node is damaged or cannot be a layer, or there is none.
        """
        ways = dict.fromkeys(OPERATORS.values(), self._read_layer) | {
            "Gather": self._read_embedding,
            "Gemm": self._read_gemm,
            "MatMul": self._read_matmul,
        }
        for node in self.graph.nodes:
            name = self.graph.name(node)
            if node.domain not in DOMAINS or not name:
                continue
            try:
                ways.get(node.op_type, self._look_inside)(name, node)
            except WeightsError as error:
                self.faults += [
                    line if line.startswith(show(name)) else f"{show(name)}: {line}"
                    for line in error.lines
                ]
            except OptionError as error:
                self.faults.append(f"{show(name)}: {error}")
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                reason = show(str(error), LONGEST_REASON)
                self.faults.append(
                    f"{show(name)}: is no {show(node.op_type)} of ONNX: {reason}"
                )
        if not self.faults and not self.model.layers:
            there = ", ".join(sorted({node.op_type for node in self.graph.nodes}))
            self.faults.append(
                f"has no node LSTM, GRU or RNN; it has {show(there, LONGEST_REASON)}"
            )
        if self.faults:
            raise WeightsError(*self.faults)
        model = self.model
        wiring = trace(self.graph, model.layers, model.embeddings, model.linears)
        return model._replace(wiring=wiring)

    def _read_layer(self, name: str, node: Any) -> None:
        graph = self.graph
        names = NAMES if node.op_type == "LSTM" else NAMES[:6]
        if len(node.input) > len(names):
            raise WeightsError(
                f"has {len(node.input)} inputs, and {len(names)} at most"
            )
        given = dict(zip(names, node.input, strict=False))
        given = {key: tensor for key, tensor in given.items() if tensor}
        check_names(given, ["X", "W", "R", *given], f"{name}.")
        weights = self._find(given, WEIGHTS, graph.constant)
        missing = [key for key in WEIGHTS if key in given and key not in weights]
        if missing:
            raise WeightsError(
                *(
                    f"{show(name)}.{key}: is no constant of the file; it comes from "
                    f"{show(', '.join(sorted(graph.sources(given[key]))))}"
                    for key in missing
                )
            )
        shape, gates = weights["R"].shape, GATES[node.op_type]
        if len(shape) == 3 and shape[1] != gates * shape[2]:
            raise WeightsError(
                f"{show(name)}.R: shape {shape} is not [D, {gates}H, H] of the "
                f"operator {node.op_type}"
            )
        self._check_finite(name, weights)
        layer = layer_from_onnx(
            weights, graph.attributes(node), prefix=f"{name}.", dtype=self._dtype
        )
        starts = self._find(given, STARTS, graph.spread)
        if all(key in starts for key in STARTS if key in given):
            given = {key: v for key, v in given.items() if key not in starts}
            if any(start.any() for start in starts.values()):
                self._read_state(name, layer, starts)
        self.model.layers[name] = layer
        self.model.inputs[name] = {
            key: graph.sources(tensor)
            for key, tensor in given.items()
            if key not in WEIGHTS
        }

    def _find(
        self,
        given: dict[str, str],
        keys: Sequence[str],
        find: Callable[[str], np.ndarray | None],
    ) -> dict[str, np.ndarray]:
        """Returns those of some inputs of an operator that are constant."""
        found = {key: find(given[key]) for key in keys if key in given}
        return {key: array for key, array in found.items() if array is not None}

    def _read_state(
        self, name: str, layer: OnnxLayer, starts: dict[str, np.ndarray]
    ) -> None:
        """Reads the state that a layer starts from; what is missing is zero."""
        self._check_finite(name, starts)
        shape = max((start.shape for start in starts.values()), key=len)
        wanted = STARTS[: 1 if layer.name in ("gru", "rnn") else 2]
        zero = np.zeros((), next(iter(starts.values())).dtype)
        parts = {key: starts.get(key, zero) for key in wanted}
        for key, part in parts.items():
            if not part.any():
                parts[key] = np.zeros(shape, zero.dtype)
        arrays = convert(parts, f"{name}.", self._dtype)
        try:
            self.model.states[name] = state_from_onnx(
                tuple(arrays.values()), layer.params, layout=layer.layout
            )
        except ValueError as error:
            raise WeightsError(str(error)) from None

    def _read_embedding(self, name: str, node: Any) -> None:
        table = self.graph.constant(node.input[0])
        if table is None or self.graph.constant(node.input[1]) is not None:
            return
        rows = not self.graph.attributes(node).get("axis", 0) and table.ndim == 2
        if not rows or not jnp.issubdtype(table.dtype, jnp.floating):
            return
        self._check_finite(name, {"table": table})
        arrays = convert({"table": table}, f"{name}.", self._dtype)
        self.model.embeddings[name] = as_leaf(arrays["table"])
        self.model.inputs[name] = {"X": self.graph.sources(node.input[1])}

    def _read_gemm(self, name: str, node: Any) -> None:
        given = self.graph.attributes(node)
        w, *b = (self.graph.constant(part) for part in node.input[1:] if part)
        if w is None or (b and b[0] is None) or given.get("transA", 0):
            return
        w = given.get("alpha", 1.0) * (w.T if given.get("transB", 0) else w)
        bias = given.get("beta", 1.0) * b[0] if b else None
        self._add_linear(name, node.input[0], w, bias)

    def _read_matmul(self, name: str, node: Any) -> None:
        w = self.graph.constant(node.input[1])
        if w is None or w.ndim != 2:
            return
        b, readers = None, self.graph.consumers(node.output[0])
        if len(readers) == 1 and readers[0].op_type == "Add":
            others = [part for part in readers[0].input if part != node.output[0]]
            b = self.graph.constant(others[0]) if others else None
        self._add_linear(name, node.input[0], w, b)

    def _add_linear(
        self, name: str, source: str, w: np.ndarray, b: np.ndarray | None
    ) -> None:
        b = np.zeros(1, w.dtype) if b is None else b
        if w.ndim != 2 or b.size not in {1, *w.shape[1:]} & {1, *b.shape[-1:]}:
            raise WeightsError(
                f"weights of shapes {w.shape} and {b.shape} are not [H, Y] and [Y]"
            )
        self._check_finite(name, {"w": w, "b": b})
        arrays = convert({"w": w, "b": b}, f"{name}.", self._dtype)
        bias = np.broadcast_to(arrays["b"].reshape(-1), w.shape[1:])
        self.model.linears[name] = ReadoutParams(as_leaf(arrays["w"]), as_leaf(bias))
        self.model.inputs[name] = {"X": self.graph.sources(source)}

    def _look_inside(self, name: str, node: Any) -> None:
        """Raises WeightsError where a recurrent operator is in a graph of a node."""
        waiting = [node]
        while waiting:
            for attribute in waiting.pop().attribute:
                for graph in (attribute.g, *attribute.graphs):
                    for inner in graph.node:
                        if inner.op_type in OPERATORS.values():
                            raise WeightsError(
                                f"has an {inner.op_type} in its body, where none is "
                                "read"
                            )
                        waiting.append(inner)

    def _check_finite(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        if not self._allow_non_finite:
            faults = find_non_finite({f"{name}.{k}": v for k, v in arrays.items()})
            if faults:
                raise WeightsError(*faults)
