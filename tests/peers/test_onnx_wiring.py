"""What stands between parts of ONNX models: moves pass, what computes does not."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from jaxlstm import interop
from jaxlstm.interop import WeightsError
from tests.helpers import assert_close
from tests.interop.onnx_operators import H
from tests.peers.test_onnx_files import Stack, draw_model, write_model
from tests.peers.test_onnx_reading import export, node_of, write_stack

pytestmark = pytest.mark.peers

END = np.iinfo(np.int64).max
LAST, BELOW, PRODUCT = "layers.1.output", "X", "readout"


def insert(model, tensor, operator, *constants, twice=False, **attributes):
    """Puts a node behind a tensor; all that read the tensor read the node."""
    graph = model.graph
    name = f"new.{len(graph.node)}"
    for node in graph.node:
        for place, part in enumerate(node.input):
            if part == tensor:
                node.input[place] = name
    inputs = [tensor] * (1 + twice)
    for n, constant in enumerate(constants):
        inputs.append(f"{name}.{n}")
        tensor_of = numpy_helper.from_array(np.asarray(constant), inputs[-1])
        graph.initializer.append(tensor_of)
    node = helper.make_node(operator, inputs, [name], name, **attributes)
    places = [n for n, old in enumerate(graph.node) if tensor in old.output]
    graph.node.insert(places[0] + 1 if places else 0, node)
    return name


@pytest.fixture
def model(tmp_path):
    """Two layers below a readout, of numbers [T, B, 6]."""
    path = tmp_path / "model.onnx"
    _, params, _ = draw_model("numbers")
    write_model(path, "numbers", params)
    return onnx.load(path)


@pytest.fixture
def stack(tmp_path):
    """Two layers, of numbers [T, B, X]."""
    return write_stack(tmp_path / "stack.onnx")


CHANGES = {
    "a constant added above": (LAST, "Add", (np.ones(H),), {}),
    "a constant added below": (BELOW, "Add", (np.ones(3),), {}),
    "the same twice": (LAST, "Add", (), {"twice": True}),
    "steps backwards": (BELOW, "Slice", ([-1], [-END], [0], [-1]), {}),
    "the first step left out": (BELOW, "Slice", ([1], [END], [0]), {}),
    "the first step alone": (LAST, "Gather", ([0],), {"axis": 0}),
    "features in another order": (BELOW, "Gather", ([2, 0, 1],), {"axis": 2}),
    "the last feature": (LAST, "Gather", ([-1],), {"axis": 2}),
    "a function": (LAST, "Relu", (), {}),
    "features as sequences": (LAST, "Reshape", ([0, -1, 2],), {}),
    "whole numbers": (BELOW, "Cast", (), {"to": TensorProto.INT64}),
    "dropout as in training": (LAST, "Dropout", (0.5, True), {}),
    "axes swapped between layers": (
        "layers.0.output",
        "Transpose",
        (),
        {"perm": [1, 0, 2]},
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_computes_something_else_is_refused(x64, tmp_path, stack, case):
    path = tmp_path / "model.onnx"
    tensor, operator, constants, options = CHANGES[case]
    name = insert(stack, tensor, operator, *constants, **options)
    onnx.save(stack, path)
    assert len(interop.load_onnx(path).layers) == 2
    with pytest.raises(WeightsError) as caught:
        interop.model_from_onnx(path)
    (line,) = caught.value.lines
    named = {
        "the same twice": "gives no output that is layers.1",
        "axes swapped between layers": "layers.1.X: is not [T, B, X] of what feeds it",
    }
    assert line.startswith(f"{path}: ")
    assert named.get(case, f"{name}: this {operator} has no place") in line


MOVED = {
    "as it is": (LAST, ("Identity", (), {})),
    "the last step": (LAST, ("Gather", (-1,), {"axis": 0})),
    "the last step cut": (LAST, ("Slice", ([-1], [END], [0]), {})),
    "all steps cut": (BELOW, ("Slice", ([0], [END], [0], [1]), {})),
    "batch-first outputs": (LAST, ("Transpose", (), {"perm": [1, 0, 2]})),
    "one axis more": (
        BELOW,
        ("Unsqueeze", ([1],), {}),
        ("Squeeze", ([-3],), {}),
        ("Cast", (), {"to": TensorProto.DOUBLE}),
        ("Dropout", (), {}),
    ),
    "sequences behind one another": (LAST, ("Reshape", ([-1, H],), {})),
}


def test_what_is_moved_alone_is_read(x64, tmp_path):
    path = tmp_path / "model.onnx"
    params = Stack().draw()
    for tensor, *nodes in MOVED.values():
        model = write_stack(path)
        for operator, constants, options in nodes:
            tensor = insert(model, tensor, operator, *constants, **options)
        onnx.save(model, path)
        assert_close(interop.model_from_onnx(path).recurrent.layers, params, 0.0)


def test_joined_in_another_order(tmp_path, model):
    path = tmp_path / "model.onnx"
    for name, line in (
        ("layers.1.feed", "layers.1: is fed by layers.0, X; with"),
        ("layers.all", "readout: is fed by layers.1, layers.0; with"),
    ):
        edited = onnx.ModelProto.FromString(model.SerializeToString())
        node = node_of(edited, name)
        node.input[:] = node.input[::-1]
        onnx.save(edited, path)
        with pytest.raises(WeightsError) as caught:
            interop.model_from_onnx(path, connections="skip")
        assert caught.value.lines[0].startswith(f"{path}: {line}")


@pytest.mark.parametrize("operator", ["Relu", "Mul", "Softmax"])
def test_what_stands_above_the_readout(tmp_path, model, operator):
    path = tmp_path / "model.onnx"
    node_of(model, "Y").output[0] = "prediction"
    inputs = ["prediction", "readout.b"][: 1 + (operator == "Mul")]
    model.graph.node.append(helper.make_node(operator, inputs, ["Y"], "above"))
    onnx.save(model, path)
    with pytest.raises(WeightsError, match=f"model.onnx: above: this {operator} has"):
        interop.model_from_onnx(path, connections="skip")


def test_states_and_lengths_of_others(x64, tmp_path):
    path = tmp_path / "model.onnx"
    model = write_stack(path, lengths=True, start=True)
    node_of(model, "layers.1").input[5] = "layers.0.Y_h"
    node_of(model, "layers.1").input[4] = ""
    onnx.save(model, path)
    with pytest.raises(WeightsError) as caught:
        interop.model_from_onnx(path)
    assert [line.removeprefix(f"{path}: ") for line in caught.value.lines] == [
        "layers.1.sequence_lens: is not one input of the model, the same for all "
        "layers",
        "layers.1.initial_h: is no input of the model",
    ]


@pytest.mark.parametrize("operator", ["Concat", "Sum"])
def test_what_grows_without_end(x64, tmp_path, stack, operator):
    """Doubled sixty times it would fill any memory, were it followed."""
    path, tensor = tmp_path / "model.onnx", LAST
    options = {"axis": -1} if operator == "Concat" else {}
    for _ in range(60):
        tensor = insert(stack, tensor, operator, twice=True, **options)
    onnx.save(stack, path)
    with pytest.raises(WeightsError, match=f"this {operator} has no place"):
        interop.model_from_onnx(path)


def test_what_is_chosen_when_the_model_runs(x64, tmp_path, stack):
    path = tmp_path / "model.onnx"
    insert(stack, LAST, "Gather", 0, axis=0)
    (node,) = (n for n in stack.graph.node if n.op_type == "Gather")
    node.input[1] = "which"
    which = helper.make_tensor_value_info("which", TensorProto.INT64, [])
    stack.graph.input.append(which)
    onnx.save(stack, path)
    with pytest.raises(WeightsError, match="this Gather has no place"):
        interop.model_from_onnx(path)


def test_a_model_that_has_been_loaded(tmp_path, model):
    path = tmp_path / "model.onnx"
    loaded = interop.load_onnx(path)
    expected = interop.model_from_onnx(path, connections="skip")
    again = interop.model_from_onnx(loaded, connections="skip")
    assert_close(again, expected, 0.0)
    with pytest.raises(WeightsError) as caught:
        interop.model_from_onnx(loaded)
    assert caught.value.lines[0].startswith("layers.1: is fed by X, layers.0; with")


class Tagger(torch.nn.Module):
    def __init__(self, way, **options):
        super().__init__()
        self.embedding = torch.nn.Embedding(9, 3)
        self.lstm = torch.nn.LSTM(3, 4, num_layers=2, **options)
        both = options.get("bidirectional", False)
        self.fc = torch.nn.Linear(8 if both else 4, 5)
        self.way = way

    def forward(self, x):
        x = x.flip(0) if self.way == "backwards" else x
        x = self.embedding(x)
        x = x + 0.5 if self.way == "shifted" else x
        y, (h, _) = self.lstm(x)
        if self.way == "last states":
            return self.fc(torch.cat([h[-2], h[-1]], dim=-1))
        if self.way == "last states, turned":
            return self.fc(torch.cat([h[-1], h[-2]], dim=-1))
        return self.fc(y[:, -1, :] if self.way == "last step" else y), h


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("way", "options", "fault"),
    [
        ("last states", {"bidirectional": True}, None),
        ("last step", {"batch_first": True}, None),
        ("last states, turned", {"bidirectional": True}, "is fed by"),
        ("backwards", {}, "this Slice has no place"),
        ("shifted", {}, "this Add has no place"),
    ],
)
def test_models_of_torch(tmp_path, way, options, fault):
    path = tmp_path / "model.onnx"
    net = Tagger(way, **options)
    export(path, net.eval(), torch.zeros(5, 2, dtype=torch.int64))
    if fault:
        with pytest.raises(WeightsError, match=fault):
            interop.model_from_onnx(path)
    else:
        expected = interop.model_from_torch(net.state_dict())
        assert_close(interop.model_from_onnx(path), expected, 0.0)
