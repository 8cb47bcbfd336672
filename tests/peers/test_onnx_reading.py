"""Files of ONNX that others write: PyTorch, and whoever edits what is written here."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from jaxlstm import interop, lstm
from jaxlstm.interop import WeightsError
from tests.helpers import assert_close
from tests.peers.test_onnx import run_runtime
from tests.peers.test_onnx_files import Stack, draw_model, write_model

pytestmark = pytest.mark.peers


class Net(torch.nn.Module):
    def __init__(self, kind="LSTM", last=False, **options):
        super().__init__()
        self.embedding = torch.nn.Embedding(9, 3)
        self.lstm = getattr(torch.nn, kind)(3, 4, **options)
        both = options.get("bidirectional", False)
        self.fc = torch.nn.Linear(8 if both else 4, 5)
        self.last = last

    def forward(self, x):
        y, _ = self.lstm(self.embedding(x))
        return self.fc(y[-1] if self.last else y)


def export(path, module, inputs, fold=True):
    torch.onnx.export(
        module,
        (inputs,),
        path,
        dynamo=False,
        do_constant_folding=fold,
        input_names=["x"],
        dynamic_axes={"x": {0: "T", 1: "B"}},
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LSTM", {}),
        ("LSTM", {"num_layers": 2, "bidirectional": True}),
        ("LSTM", {"num_layers": 2, "bias": False}),
        ("GRU", {"bidirectional": True}),
        ("RNN", {"num_layers": 2}),
    ],
)
@pytest.mark.parametrize("fold", [True, False], ids=["folded", "not folded"])
def test_layers_that_torch_exports(tmp_path, kind, options, fold):
    path = tmp_path / "model.onnx"
    module = getattr(torch.nn, kind)(3, 4, **options)
    export(path, module, torch.zeros(5, 2, 3), fold)
    model = interop.load_onnx(path)
    expected = interop.from_torch(module.state_dict())
    found = tuple(layer.params for layer in model.layers.values())
    assert_close(found, expected, 0.0)
    assert model.states == {}
    names = list(model.layers)
    sources = [model.inputs[name] for name in names]
    assert sources == [{"X": (source,)} for source in ["x", *names[:-1]]]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("last", [False, True], ids=["every step", "last step"])
def test_models_that_torch_exports(tmp_path, last):
    path = tmp_path / "model.onnx"
    net = Net(last=last, num_layers=2, bidirectional=True)
    export(path, net, torch.zeros(5, 2, dtype=torch.int64))
    expected = interop.model_from_torch(net.state_dict())
    assert_close(interop.model_from_onnx(path), expected, 0.0)


@pytest.mark.filterwarnings("ignore")
def test_relu_of_torch_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    export(path, torch.nn.RNN(3, 4, nonlinearity="relu"), torch.zeros(5, 2, 3))
    with pytest.raises(WeightsError, match=r"activations: are relu; the RNN here has"):
        interop.load_onnx(path)


def write_stack(path, **options):
    """Writes two layers, and returns their model as onnx has it."""
    stack = Stack(**options)
    params = stack.draw()
    interop.save_onnx(path, params, **stack.options)
    return onnx.load(path)


def node_of(model, name):
    (node,) = (node for node in model.graph.node if node.name == name)
    return node


def tensor_of(model, name):
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    return tensor


def replace(model, name, array):
    tensor_of(model, name).CopyFrom(numpy_helper.from_array(array, name))


def refuse(path, model, read=interop.load_onnx):
    """Returns the lines of what is refused, without the path."""
    onnx.save(model, path)
    with pytest.raises(WeightsError) as caught:
        read(path)
    lines = caught.value.lines
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def test_output_that_is_not_given(x64, tmp_path):
    path = tmp_path / "model.onnx"
    model = write_stack(path)
    names = [node.name for node in model.graph.node]
    node_of(model, "layers.1").output[0] = ""
    for name in ("layers.1", "layers.0"):
        node_of(model, name).name = ""
    for node in [n for n in model.graph.node if n.name in ("layers.1.output", "Y")]:
        model.graph.node.remove(node)
    del model.graph.output[0]
    onnx.save(model, path)
    found = interop.load_onnx(path)
    assert list(found.layers) == ["layers.0.Y", "layers.1.Y_h"]
    assert found.inputs["layers.1.Y_h"] == {"X": ("layers.0.Y",)}
    assert "layers.1" in names


def test_last_output_into_a_linear_layer(tmp_path):
    """As converters of Keras write a layer that returns no sequences, and Dense."""
    path, rng = tmp_path / "model.onnx", np.random.default_rng(0)
    shapes = {"W": (1, 16, 3), "R": (1, 16, 4), "B": (1, 32), "w": (5, 4), "b": (1, 5)}
    arrays = {n: rng.normal(size=s).astype("float32") for n, s in shapes.items()}
    nodes = [
        helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        helper.make_node(
            "LSTM", ["steps", "W", "R", "B"], ["", "h"], "lstm", hidden_size=4
        ),
        helper.make_node("Squeeze", ["h", "axes"], ["last"]),
        helper.make_node(
            "Gemm", ["last", "w", "b"], ["y"], "dense", transB=1, alpha=0.5, beta=2.0
        ),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    tensors.append(numpy_helper.from_array(np.array([0]), "axes"))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [2, 7, 3]), ("y", [2, 5]))
    ]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)

    params = interop.model_from_onnx(path)
    x = rng.normal(size=(2, 7, 3)).astype("float32")
    (layer,) = params.recurrent.layers
    state, _ = lstm(layer, x.swapaxes(0, 1))
    y = state.h @ params.readout.w + params.readout.b[None]
    (expected,) = run_runtime(path, {"x": x})
    assert_close(np.asarray(y), expected, 1e-5)


def test_states_that_a_layer_starts_from(x64, tmp_path):
    path = tmp_path / "model.onnx"
    model = write_stack(path, num_layers=1, start=True)
    h = np.arange(8.0).reshape(1, 2, 4)
    model.graph.initializer.append(numpy_helper.from_array(h, "initial_h"))
    for name in ("initial_c", "initial_h"):
        (value,) = (i for i in model.graph.input if i.name == name)
        model.graph.input.remove(value)
    zero = helper.make_node("ConstantOfShape", ["shape"], ["initial_c"], "zero")
    model.graph.node.insert(0, zero)
    shape = numpy_helper.from_array(np.array([1, 2, 4]), "shape")
    model.graph.initializer.append(shape)
    onnx.save(model, path)
    found = interop.load_onnx(path)
    assert_close(np.asarray(found.states["layers.0"].h), h[0], 0.0)
    assert not found.states["layers.0"].c.any()
    assert set(found.inputs["layers.0"]) == {"X"}
    # Of a table that is chosen from when the model runs, nothing is known.
    node_of(model, "layers.0").input[5] = "chosen"
    chosen = helper.make_node("Gather", ["initial_h", "which"], ["chosen"], "chosen")
    model.graph.node.insert(0, chosen)
    onnx.save(model, tmp_path / "other.onnx")
    other = interop.load_onnx(tmp_path / "other.onnx")
    assert other.states == {}
    assert other.inputs["layers.0"]["initial_h"] == ("chosen",)
    with pytest.raises(WeightsError, match=r"starts from another state in each seq"):
        interop.model_from_onnx(path)


def test_models_put_together_otherwise(x64, tmp_path):
    path = tmp_path / "model.onnx"
    read = interop.model_from_onnx
    model = write_stack(path, num_layers=3, connections="residual")
    (line,) = refuse(path, model, read)
    assert line == (
        'layers.2: is fed by layers.0 + layers.1; with connections="none" a model has '
        "layers.1"
    )
    model = write_stack(path)
    node_of(model, "layers.1").input[0] = "layers.0.Y_h"
    (line,) = refuse(path, model, read)
    assert line.startswith("layers.1: is fed by layers.0.Y_h; with connections=")
    interop.save_onnx(path, Stack(num_layers=1).draw(), reverse=True)
    (line,) = refuse(path, onnx.load(path), read)
    assert line == "layers.0: reads from the last step to the first alone"
    model = write_stack(path)
    node_of(model, "layers.1").attribute.append(
        helper.make_attribute("activations", ["Sigmoid", "Relu", "Tanh"])
    )
    (line,) = refuse(path, model, read)
    assert line == "layers.1: is not of the same cell as the first layer"


def test_models_of_too_many_parts(tmp_path):
    path = tmp_path / "model.onnx"
    _, params, _ = draw_model("both ways")
    write_model(path, "both ways", params)
    model = onnx.load(path)
    for name, output in (("embedding", "e"), ("readout", "r")):
        twin = helper.make_node("", [], [])
        twin.CopyFrom(node_of(model, name))
        twin.name, twin.output[0] = output, output
        model.graph.node.append(twin)
    assert refuse(path, model, interop.model_from_onnx) == [
        "has 2 embeddings, embedding, e; a model has one at most",
        "has 2 linear layers, readout, r; a model has one at most",
    ]
