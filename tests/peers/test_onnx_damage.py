"""Files of ONNX that are damaged or hold something else, refused by name."""

import numpy as np
import pytest
from hypothesis import given
from onnx import TensorProto, helper

from jaxlstm import interop
from jaxlstm.interop import WeightsError
from tests.fuzzing import QUICK, Tally, mutants
from tests.helpers import assert_close
from tests.peers.test_onnx_files import Stack, draw_model, write_model
from tests.peers.test_onnx_reading import (
    node_of,
    refuse,
    replace,
    tensor_of,
    write_stack,
)

pytestmark = pytest.mark.peers


def test_what_is_no_model(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(FileNotFoundError):
        interop.load_onnx(path)
    with pytest.raises(WeightsError, match=rf"^{tmp_path}: is no file$"):
        interop.load_onnx(tmp_path)
    for data in (b"", b"weights\n", b"\x80\x02}", b"PK\x03\x04"):
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=rf"^{path}: is no ONNX model: "):
            interop.load_onnx(path)


def test_model_without_recurrent_layers(x64, tmp_path):
    path = tmp_path / "model.onnx"
    model = write_stack(path)
    for node in list(model.graph.node):
        if node.op_type == "LSTM":
            model.graph.node.remove(node)
    (line,) = refuse(path, model)
    assert line == "has no node LSTM, GRU or RNN; it has Concat, Identity, Squeeze"


def test_numbers_in_another_file_are_not_opened(x64, tmp_path):
    path = tmp_path / "model.onnx"
    model = write_stack(path)
    tensor = tensor_of(model, "layers.0.W")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/dev/zero")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        WeightsError, match=r"0.W: has its numbers in another file, whi"
    ):
        interop.load_onnx(path)


def test_damage_is_named(x64, tmp_path):
    path = tmp_path / "model.onnx"
    model = write_stack(path, cell="peephole_lstm")
    tensor_of(model, "layers.0.W").raw_data = b"12345678"
    replace(model, "layers.1.P", np.full((1, 12), np.nan))
    (first, second) = refuse(path, model)
    assert first.startswith("layers.0.W: is no tensor: ")
    assert second.startswith("layers.1.P: 12 of 12 values are not finite")
    model = write_stack(path)
    replace(model, "layers.0.R", np.zeros((1, 16, 3)))
    replace(model, "layers.1.B", np.zeros((1, 16)))
    assert refuse(path, model) == [
        "layers.0.R: shape (1, 16, 3) is not [D, 4H, H] of the operator LSTM",
        "layers.1.B: shape (1, 16) is not (1, 32), which is [D, 8H] for D = 1, X = 4, "
        "H = 4",
    ]


def test_what_no_cell_does_is_named(x64, tmp_path):
    path = tmp_path / "model.onnx"
    model = write_stack(path)
    node_of(model, "layers.0").attribute.append(helper.make_attribute("clip", 5.0))
    node_of(model, "layers.1").attribute.append(helper.make_attribute("swing", 1))
    first, second = refuse(path, model)
    assert first.startswith("layers.0: clip: is 5.0, and no cell here clips")
    assert second.startswith("layers.1: attributes: swing is not of LSTM, GRU or RNN")


def test_weights_that_are_given_when_it_runs(x64, tmp_path):
    path = tmp_path / "model.onnx"
    model = write_stack(path)
    model.graph.initializer.remove(tensor_of(model, "layers.0.R"))
    value = helper.make_tensor_value_info("layers.0.R", TensorProto.DOUBLE, [1, 16, 4])
    model.graph.input.append(value)
    node_of(model, "layers.1").input[2] = ""
    assert refuse(path, model) == [
        "layers.0.R: is no constant of the file; it comes from layers.0.R",
        "layers.1.R: is missing",
    ]


def test_layers_inside_a_body_are_not_passed_over(x64, tmp_path):
    path = tmp_path / "model.onnx"
    model = write_stack(path)
    body = helper.make_graph([node_of(model, "layers.0")], "body", [], [])
    inner = helper.make_node("If", ["x"], ["y"], "inner", then_branch=body)
    outer = helper.make_graph([inner], "body", [], [])
    loop = helper.make_node("Loop", ["n", "x"], ["z"], "loop", body=outer)
    model.graph.node.append(loop)
    assert refuse(path, model) == ["loop: has an LSTM in its body, where none is read"]


def test_constants_do_not_grow(x64, tmp_path):
    path = tmp_path / "model.onnx"
    model = write_stack(path)
    name = "layers.0.W"
    for n in range(60):
        node = helper.make_node("Concat", [name, name], [f"w{n}"], f"c{n}", axis=0)
        model.graph.node.insert(n, node)
        name = f"w{n}"
    node_of(model, "layers.0").input[1] = name
    (line,) = refuse(path, model)
    assert "constants would take more than 16 times the size of the file" in line


def test_constants_that_follow_from_each_other(x64, tmp_path):
    path = tmp_path / "model.onnx"
    model = write_stack(path)
    for one, other in (("a", "b"), ("b", "a")):
        model.graph.node.append(helper.make_node("Identity", [one], [other], one))
    node_of(model, "layers.0").input[1] = "a"
    (line,) = refuse(path, model)
    assert line.startswith("layers.0.W: is no constant of the file; it comes from")


def test_what_cannot_be_written(x64, tmp_path):
    path = tmp_path / "model.onnx"
    params = Stack().draw()
    for options, message in (
        ({"cell": "slstm"}, r"^cell: 'slstm' has exponential = 'sigmoid', for which"),
        ({"opset": 13}, r"^opset: 13 is not from 14 to "),
        ({"layout": 2}, r"^layout: 2 is unknown"),
        ({"connections": "dense"}, r"^connections: 'dense' is unknown"),
        ({"cell": "cifg_lstm"}, r"^params: layer 0: params: LSTMParams has no coupled"),
    ):
        with pytest.raises(ValueError, match=message):
            interop.save_onnx(path, params, **options)
    with pytest.raises(TypeError, match=r"^params: layer 0 is LSTMParams; the cell 'g"):
        interop.save_onnx(path, params, cell="gru")
    mixed = (params[0], *Stack(both=True).draw()[1:])
    with pytest.raises(WeightsError, match=r"^params: layers have 1 x 4 and 2 x 4 dir"):
        interop.save_onnx(path, mixed)
    with pytest.raises(OSError, match=r"No such file"):
        interop.save_onnx(tmp_path / "none" / "model.onnx", params)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes_of_files(tmp_path, dtype):
    path = tmp_path / "model.onnx"
    params = interop.from_onnx(np.ones((1, 16, 3)), np.ones((1, 16, 4)), dtype=dtype)
    interop.save_onnx(path, params, opset=22)
    found = interop.load_onnx(path).layers["layers.0"].params
    assert found.w_x.dtype.name == dtype
    assert_close(found, params, 0.0)


def test_nonsense_is_refused(tmp_path, record_property):
    path = tmp_path / "model.onnx"
    _, params, _ = draw_model("both ways")
    write_model(path, "both ways", params, lengths=True)
    valid = path.read_bytes()
    with Tally("onnx", record_property) as tally:

        @QUICK
        @given(mutants(valid))
        def check(mutant):
            path.write_bytes(mutant)
            try:
                interop.model_from_onnx(path)
            except WeightsError as error:
                assert all("\n" not in line for line in error.lines)
                tally.refuse()
            else:
                tally.accept()

        check()
    assert tally.refused > tally.accepted
