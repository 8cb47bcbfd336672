"""The graph of an ONNX model, put together node by node."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlstm.interop.onnx.graph import import_onnx
from jaxlstm.interop.weights import WeightsError
from jaxlstm.shapes import OptionError

# The first version whose operators have a layout, and the first whose LSTM has
# bfloat16.
FIRST_OPSET, FIRST_BFLOAT16 = 14, 22
# Room that a protocol buffer of 2 GiB has for its tensors.
MOST_BYTES = 2**31 - 2**24


class Builder:
    """Nodes, constants, inputs and outputs of a model.

    Attributes:
      dtype: of all numbers that are not whole.
    """

    def __init__(self, dtype: np.dtype, opset: int):
        """Starts an empty model.

        Raises:
          ModuleNotFoundError: the package onnx is not installed.
          OptionError: the version of the operators is too old or too new.
        """
        self._onnx = import_onnx()
        self.dtype, self._opset = dtype, opset
        first = FIRST_BFLOAT16 if dtype.name == "bfloat16" else FIRST_OPSET
        newest = self._onnx.defs.onnx_opset_version()
        if not first <= opset <= newest:
            raise OptionError(
                f"opset: {opset} is not from {first} to {newest}, the newest of the "
                f"package onnx, which have LSTM in {dtype.name} with a layout"
            )
        self._nodes: list[Any] = []
        self._constants: dict[str, np.ndarray] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def add(
        self,
        operator: str,
        name: str,
        inputs: Sequence[str],
        outputs: Sequence[str] | None = None,
        **attributes: Any,
    ) -> str:
        """Adds a node; returns the name of its first output, by default its own.

        Inputs that are not there are empty.
        """
        outputs = [name] if outputs is None else list(outputs)
        last = max(n for n, part in enumerate(inputs) if part)
        self._nodes.append(
            self._onnx.helper.make_node(
                operator, inputs[: last + 1], outputs, name, **attributes
            )
        )
        return outputs[0]

    def constant(self, name: str, value: Any, dtype: Any = None) -> str:
        """Adds a constant, in the dtype of the model, and returns its name."""
        self._constants[name] = np.asarray(value, dtype or self.dtype)
        return name

    def numbers(self, name: str, *values: int) -> str:
        """Adds a constant of whole numbers and returns its name."""
        return self.constant(name, values, np.int64)

    def take(self, name: str, shape: Sequence[str | int], dtype: Any = None) -> str:
        """Adds an input of the model and returns its name."""
        self._inputs.append(self._describe(name, shape, dtype))
        return name

    def give(self, name: str, shape: Sequence[str | int]) -> None:
        """Makes a tensor an output of the model."""
        self._outputs.append(self._describe(name, shape, None))

    def serialize(self, metadata: Mapping[str, str]) -> bytes:
        """Returns the model as it stands in a file, checked by the package onnx.

        Raises:
          WeightsError: it is larger than a file can be.
        """
        size = sum(array.nbytes for array in self._constants.values())
        if size > MOST_BYTES:
            raise WeightsError(f"params: have {size} bytes, and a file {MOST_BYTES}")
        helper = self._onnx.helper
        tensors = [
            self._onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)
            for name, array in self._constants.items()
        ]
        graph = helper.make_graph(
            self._nodes, "jaxlstm", self._inputs, self._outputs, tensors
        )
        opsets = [helper.make_opsetid("", self._opset)]
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            producer_name="jaxlstm",
            ir_version=helper.find_min_ir_version_for(opsets),
        )
        helper.set_model_props(model, dict(metadata))
        self._onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()

    def _describe(self, name: str, shape: Sequence[str | int], dtype: Any) -> Any:
        helper = self._onnx.helper
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype or self.dtype))
        return helper.make_tensor_value_info(name, kind, list(shape))
