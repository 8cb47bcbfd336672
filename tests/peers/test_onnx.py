"""Operators of ONNX as onnxruntime and the reference evaluator of onnx run them.

onnxruntime has float32 alone, and layout 0 alone. The reference evaluator has float64
and both layouts; it takes no notice of lengths, activations and coupled gates. So each
runs what it can, and the loop in NumPy by the specification, which both bear out, runs
all of it.
"""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.helpers import assert_close, jit
from tests.interop.onnx_operators import (
    FUNCTIONS,
    OPERATORS,
    TAKES_ALPHA,
    TAKES_BETA,
    H,
    Operator,
    run_here,
    run_operator,
    with_numbers,
)

pytestmark = pytest.mark.peers

RUNTIME = {name: op for name, op in OPERATORS.items() if not op.layout}
REFERENCE = {
    name: op
    for name, op in OPERATORS.items()
    if not op.lengths and not {"activations", "input_forget"} & op.attributes.keys()
} | {
    "peepholes both ways": OPERATORS["peepholes"]._replace(lengths=False),
    "gru both ways": OPERATORS["gru"]._replace(lengths=False),
}


def make_node(operator, draw):
    """Returns a model of one node, and what it is fed."""
    tensors, x, lengths, start = draw
    fed = {"X": x}
    if lengths is not None:
        fed["sequence_lens"] = lengths
    fed |= dict(zip(("initial_h", "initial_c"), start, strict=False))
    names = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    names = names[: 8 if operator.kind == "LSTM" else 6]
    there = [name if name in {**fed, **tensors} else "" for name in names]
    outputs = ["Y", "Y_h", "Y_c"][: 3 if operator.kind == "LSTM" else 2]
    node = helper.make_node(
        operator.kind, there, outputs, "node", hidden_size=H, **operator.attributes
    )

    def describe(name, dtype, shape):
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        [node],
        "graph",
        [describe(name, array.dtype, array.shape) for name, array in fed.items()],
        [
            describe(name, x.dtype, [None] * (4 - bool(n)))
            for n, name in enumerate(outputs)
        ],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return save(graph), fed


def save(graph):
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def run_runtime(model, fed):
    """Runs a model, of bytes or a file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(model, options).run(None, fed)


def run_reference(model, fed):
    loaded = model if isinstance(model, bytes) else str(model)
    return ReferenceEvaluator(loaded).run(None, fed)


@pytest.mark.parametrize("name", RUNTIME)
def test_specification_as_onnxruntime_has_it(name):
    operator = RUNTIME[name]
    draw = operator.draw(np.float32)
    found = run_runtime(*make_node(operator, draw))
    assert_close(found, run_operator(operator, *draw), 1e-5)


@pytest.mark.parametrize("name", REFERENCE)
def test_specification_as_the_reference_evaluator_has_it(name):
    operator = REFERENCE[name]
    draw = operator.draw()
    found = run_reference(*make_node(operator, draw))
    assert_close(found, run_operator(operator, *draw))


def test_cells_against_onnxruntime():
    run, params = run_here(RUNTIME, np.float32)
    found = jit(run)(params)
    for name, operator in RUNTIME.items():
        expected = run_runtime(*make_node(operator, operator.draw(np.float32)))
        assert_close([np.asarray(part) for part in found[name]], expected, 1e-5)


def test_cells_against_the_reference_evaluator(x64):
    run, params = run_here(REFERENCE)
    found = jit(run)(params)
    for name, operator in REFERENCE.items():
        expected = run_reference(*make_node(operator, operator.draw()))
        assert_close([np.asarray(part) for part in found[name]], expected)


def test_reference_evaluator_takes_no_notice_of_lengths():
    # Where this fails, it runs what `REFERENCE` leaves out.
    operator = OPERATORS["lstm"]
    draw = operator.draw()
    found = run_reference(*make_node(operator, draw))
    without = operator._replace(lengths=False)
    assert_close(found, run_operator(without, *without.draw()))


@pytest.mark.parametrize("given", [True, False], ids=["given", "default"])
def test_numbers_of_activations(given):
    """Each in the place of the candidate."""
    operators = {}
    for name in FUNCTIONS:
        if not given and name in ("Affine", "ScaledTanh", "ThresholdedRelu"):
            continue  # These have no default.
        alpha = [0.75] if given and name in TAKES_ALPHA else None
        beta = [0.25] if given and name in TAKES_BETA else None
        attributes = with_numbers(["Sigmoid", name, "Tanh"], alpha, beta)
        operators[name] = Operator(attributes=attributes)
    run, params = run_here(operators, np.float32)
    found = jit(run)(params)
    for name, operator in operators.items():
        expected = run_runtime(*make_node(operator, operator.draw(np.float32)))
        assert_close([np.asarray(part) for part in found[name]], expected, 1e-5)
