"""Model files of ONNX: what is written runs, and what is read is what was written."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import interop, lstm_stack, make_model, unroll
from jaxlstm.cells import CELLS
from jaxlstm.layers import init_layers
from jaxlstm.model import ReadoutParams
from tests.helpers import assert_close, draw_like, jit
from tests.interop.onnx_operators import B, H, T, X
from tests.peers.test_onnx import run_reference, run_runtime

pytestmark = pytest.mark.peers

LENGTHS = np.array([T, 2, 3], np.int32)


class Stack(NamedTuple):
    """A stack, and how it is written.

    Attributes:
      cell: its name.
      num_layers: L.
      both: whether it reads in both directions.
      connections: what feeds each layer.
      lengths: whether it takes these.
      start: whether it takes a state to start from.
    """

    cell: str = "lstm"
    num_layers: int = 2
    both: bool = False
    connections: str = "none"
    lengths: bool = False
    start: bool = False

    @property
    def options(self):
        return {
            "cell": self.cell,
            "connections": self.connections,
            "lengths": self.lengths,
            "initial_state": self.start,
        }

    def draw(self):
        """Returns parameters in float64."""
        keys = list(jax.random.split(jax.random.key(0), self.num_layers))
        options = {"bidirectional": self.both, "connections": self.connections}
        shapes = jax.eval_shape(
            lambda: init_layers(CELLS[self.cell](), keys, X, H, **options)
        )
        return draw_like(shapes, 1, 0.5)

    def run(self, params, fed, layout=0):
        """Returns what the model gives, by the functions of the package."""
        inputs, state = jnp.asarray(fed["X"]), None
        if self.start:
            parts = [fed[name] for name in ("initial_h", "initial_c") if name in fed]
            given = tuple(parts) if len(parts) == 2 else parts[0]
            state = interop.state_from_onnx(given, params, layout=layout)
        last, outputs = lstm_stack(
            params,
            inputs.swapaxes(0, 1) if layout else inputs,
            state,
            cell=CELLS[self.cell](),
            connections=self.connections,
            lengths=fed.get("sequence_lens"),
        )
        last = interop.state_to_onnx(last, layout=layout)
        outputs = outputs.swapaxes(0, 1) if layout else outputs
        return [outputs, *(last if isinstance(last, tuple) else [last])]

    def feed(self, dtype, layout=0):
        """Draws what the model is fed."""
        rng = np.random.default_rng(2)
        fed = {"X": rng.normal(size=(T, B, X))}
        if self.start:
            count = self.num_layers * (2 if self.both else 1)
            for name in ("h",) if self.cell in ("gru", "rnn") else ("h", "c"):
                fed[f"initial_{name}"] = rng.normal(size=(count, B, H))
        if layout:
            fed = {name: array.swapaxes(0, 1) for name, array in fed.items()}
        fed = {name: array.astype(dtype) for name, array in fed.items()}
        return fed | ({"sequence_lens": LENGTHS} if self.lengths else {})


STACKS = {
    "one layer": Stack(num_layers=1, start=True),
    "both ways": Stack(both=True, lengths=True, start=True),
    "residual": Stack(num_layers=3, connections="residual", lengths=True),
    "peepholes": Stack("peephole_lstm", both=True, lengths=True, start=True),
    "peepholes, no start": Stack("peephole_lstm", 1),
    "coupled": Stack("cifg_lstm", 3, connections="skip", lengths=True, start=True),
    "linear candidate": Stack("niaf_lstm"),
    "heads": Stack("multi_head_lstm", lengths=True),
    "gru": Stack("gru", 2, True, "residual", True, True),
    "rnn": Stack("rnn", 2, True, "skip", True, False),
}
# The reference evaluator takes no notice of the rest.
EXACT = {
    name: stack._replace(lengths=False)
    for name, stack in STACKS.items()
    if stack.cell not in ("cifg_lstm", "niaf_lstm")
}


def to_numpy(values):
    return [np.asarray(value) for value in values]


def test_stacks_run_in_onnxruntime(tmp_path):
    params, fed = {}, {}
    for name, stack in STACKS.items():
        drawn = jax.tree.map(lambda leaf: leaf.astype(np.float32), stack.draw())
        params[name], fed[name] = drawn, stack.feed(np.float32)
        interop.save_onnx(tmp_path / name, drawn, **stack.options)

    @jit
    def run_all(params):
        return {name: s.run(params[name], fed[name]) for name, s in STACKS.items()}

    found = run_all(params)
    for name in STACKS:
        expected = run_runtime(tmp_path / name, fed[name])
        assert_close(to_numpy(found[name]), expected, 1e-5)


@pytest.mark.parametrize("layout", [0, 1])
def test_stacks_run_in_the_reference_evaluator(x64, tmp_path, layout):
    params, fed = {}, {}
    for name, stack in EXACT.items():
        params[name], fed[name] = stack.draw(), stack.feed(np.float64, layout)
        options = stack.options | {"layout": layout}
        interop.save_onnx(tmp_path / name, params[name], **options)

    @jit
    def run_all(params):
        return {n: s.run(params[n], fed[n], layout) for n, s in EXACT.items()}

    found = run_all(params)
    for name in EXACT:
        expected = run_reference(tmp_path / name, fed[name])
        assert_close(to_numpy(found[name]), expected)


def test_layers_are_read_as_they_were_written(x64, tmp_path):
    path = tmp_path / "model.onnx"
    for name, stack in STACKS.items():
        params = stack.draw()
        interop.save_onnx(path, params, **stack.options)
        model = interop.load_onnx(path)
        layers = list(model.layers.values())
        expected = ["bidirectional" if stack.both else "forward"] * stack.num_layers
        assert [layer.direction for layer in layers] == expected
        if name == "heads":
            continue  # They come back as one matrix, which runs above.
        same = type(layers[0].params) is type(params[0])
        found = tuple(layer.params for layer in layers)
        if not same:  # A variant that has nothing beside the LSTM.
            found = jax.tree.unflatten(
                jax.tree.structure(params), jax.tree.leaves(found)
            )
        assert_close(found, params, 0.0)
        given = {"X", *stack.feed(np.float64)}
        assert all(set(model.inputs[layer]) == given for layer in model.layers)


def test_a_layer_that_reads_backwards(x64, tmp_path):
    path = tmp_path / "model.onnx"
    stack = Stack(num_layers=1)
    (params,), fed = stack.draw(), stack.feed(np.float64)
    interop.save_onnx(path, params, reverse=True)
    layer = interop.load_onnx(path).layers["layers.0"]
    assert layer.direction == "reverse"
    last, states = unroll(layer.cell, layer.params, fed["X"], reverse=True)
    expected = run_reference(path, fed)
    assert_close(to_numpy([states.h, *interop.state_to_onnx(last)]), expected)


MODELS = {
    "language": {"inputs": "embedding", "num_layers": 2, "tied": True},
    "characters": {"inputs": "one_hot", "learned_initial_state": True},
    "both ways": {"inputs": "embedding", "embedding_size": 3, "bidirectional": True},
    "numbers": {"inputs": "float", "num_layers": 2, "connections": "skip"},
    "no readout": {"inputs": "float", "readout": "none", "output_size": H},
}
CELL_OF = {"characters": "gru", "numbers": "cifg_lstm", "both ways": "peephole_lstm"}


def draw_model(name, dtype=jnp.float32):
    """Returns a model, its parameters, and X."""
    sizes = {"input_size": 6, "output_size": 6, "hidden_size": H, "dtype": dtype}
    options = sizes | MODELS[name]
    model = make_model(CELLS[CELL_OF.get(name, "lstm")](), **options)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = draw_like(shapes, 3)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    rng = np.random.default_rng(4)
    if options["inputs"] == "float":
        return model, params, rng.normal(size=(T, B, 6)).astype(np.float32)
    return model, params, rng.integers(0, 6, size=(T, B))


def write_model(path, name, params, **options):
    given = {
        key: MODELS[name][key]
        for key in ("inputs", "connections")
        if key in MODELS[name]
    }
    cell = CELL_OF.get(name, "lstm")
    interop.model_to_onnx(path, params, cell=cell, **given, **options)


def test_models_run_in_onnxruntime(tmp_path):
    drawn = {name: draw_model(name) for name in MODELS}

    @jit
    def run_all(params):
        found = {}
        for name, (model, _, x) in drawn.items():
            start = model.initial_state(params[name], (B,))
            last, states = model.unroll(params[name].recurrent, start, x)
            last = interop.state_to_onnx(last)
            last = last if isinstance(last, tuple) else [last]
            found[name] = [model.readout(params[name], states), *last]
        return found

    found = run_all({name: params for name, (_, params, _) in drawn.items()})
    for name, (_, params, x) in drawn.items():
        write_model(tmp_path / name, name, params)
        expected = run_runtime(tmp_path / name, {"X": x})
        assert_close(to_numpy(found[name]), expected, 1e-5)


def test_a_model_runs_in_the_reference_evaluator(x64, tmp_path):
    path = tmp_path / "model.onnx"
    model, params, x = draw_model("characters", jnp.float64)
    write_model(path, "characters", params)

    @jit
    def run(params):
        start = model.initial_state(params, (B,))
        last, states = model.unroll(params.recurrent, start, x)
        return [model.readout(params, states), interop.state_to_onnx(last)]

    assert_close(to_numpy(run(params)), run_reference(path, {"X": x}))


@pytest.mark.parametrize("name", ["both ways", "numbers"])
def test_predictions_of_whole_sequences(tmp_path, name):
    path = tmp_path / "model.onnx"
    model, params, x = draw_model(name)
    write_model(path, name, params, lengths=True, last=True)

    @jit
    def predict(params):
        start = model.initial_state(params, (B,))
        mask = np.arange(T)[:, None] < LENGTHS
        last, _ = model.unroll(params.recurrent, start, x, mask=mask)
        return model.readout(params, last)

    found, *_ = run_runtime(path, {"X": x, "sequence_lens": LENGTHS})
    assert_close(found, np.asarray(predict(params)), 1e-5)
    connections = MODELS[name].get("connections", "none")
    again = interop.model_from_onnx(path, connections=connections)
    assert_close(again, params, 0.0)


def test_a_model_goes_on_from_a_state(tmp_path):
    path = tmp_path / "model.onnx"
    _, params, x = draw_model("language")
    write_model(path, "language", params, initial_state=True, opset=21)
    zero = np.zeros((2, B, H), np.float32)
    whole = run_runtime(path, {"X": x, "initial_h": zero, "initial_c": zero})
    _, h, c = run_runtime(path, {"X": x[:2], "initial_h": zero, "initial_c": zero})
    rest = run_runtime(path, {"X": x[2:], "initial_h": h, "initial_c": c})
    assert_close(rest, [whole[0][2:], *whole[1:]], 1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_models_are_read_as_they_were_written(tmp_path, name):
    path = tmp_path / "model.onnx"
    _, params, _ = draw_model(name)
    write_model(path, name, params, metadata={"task": "text"})
    connections = MODELS[name].get("connections", "none")
    assert interop.load_onnx(path).metadata == {"task": "text"}
    found = interop.model_from_onnx(path, connections=connections)
    if params.readout.w is None and params.readout.b is not None:
        assert_close(found.readout.w, params.recurrent.embedding.T, 0.0)
        found = found._replace(readout=ReadoutParams(None, found.readout.b))
    assert_close(found, params, 0.0)
