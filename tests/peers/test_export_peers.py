"""Weights of runs in PyTorch, onnxruntime and Keras themselves, out and in."""

import contextlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

from jaxlstm import interop
from jaxlstm.lab import UserError
from jaxlstm.lab.config import load_config
from jaxlstm.lab.experiment import build as experiment_of
from jaxlstm.lab.weights.exporting import export_run
from jaxlstm.lab.weights.importing import read_weights
from tests.helpers import jit
from tests.lab.untrained import SENTENCE, TEXT, draw_params, make_experiment, make_run
from tests.peers.keras_peer import FILTER, keras

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings(FILTER),
    pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested:UserWarning"),
]

T, B = 7, 2
F8 = torch.float8_e4m3fn
WORDS = "model.inputs=embedding", "model.embedding_size=5"
LAYERS, BOTH = "model.num_layers=2", "model.bidirectional=true"
WHOLE = BOTH, "estimator.name=whole_sequence"
NETS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "vectors": (False, (LAYERS,)),
    "one-hot": (True, (LAYERS,)),
    "embedded": (True, WORDS),
    "gru": (True, ("model.cell=gru", *WORDS)),
    "rnn": (False, ("model.cell=rnn",)),
    "without bias": (False, ("model.bias=false",)),
    "whole": (False, (LAYERS, *WHOLE)),
    "whole gru": (False, ("model.cell=gru", *WHOLE)),
}
# What one of the two formats alone has a form for.
TORCH = NETS | {
    "projected": (False, ("model.projection_size=2",)),
    "tied": (True, ("model.inputs=embedding", "model.tied=true")),
}
ONNX = NETS | {
    "peepholes": (False, ("model.cell=peephole_lstm", LAYERS)),
    "coupled": (False, ("model.cell=cifg_lstm",)),
    "residual": (False, (LAYERS, "model.connections=residual")),
    "learned start": (False, ("model.learned_initial_state=true",)),
    "heads": (False, ("model.cell=multi_head_lstm", "model.heads=3")),
    "diagonal": (False, ("model.cell=diagonal_lstm", LAYERS)),
    "tied": (True, ("model.inputs=embedding", "model.tied=true")),
}


def build(folder: Path, symbols: bool, options: tuple[str, ...]) -> Any:
    if symbols:
        return make_experiment(folder, *options, text=TEXT)
    return make_experiment(folder, *options)


def draw_inputs(run) -> np.ndarray:
    parts, random = run.facts["parts"], np.random.default_rng(1)
    if parts["symbols"]:
        return random.integers(0, parts["input_size"], size=(T, B))
    return random.normal(size=(T, B, parts["input_size"])).astype(np.float32)


def predict(model, params, inputs) -> Any:
    """Returns the predictions at all steps, or of whole sequences."""

    @jit
    def unroll(params, inputs):
        start = model.initial_state(params, (B,))
        last, states = model.unroll(params.recurrent, start, inputs)
        return model.readout(params, states if model.step else last)

    return unroll(params, inputs)


def run_note(note: Path) -> dict[str, Any]:
    """Runs the Python of a note beside it, and returns what its names stand for."""
    _, code, _ = note.read_text().replace("```python\n", "```").split("```", 2)
    space: dict[str, Any] = {}
    with contextlib.chdir(note.parent):
        exec(code, space)
    return space


def assert_near(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def assert_identical(params, expected):
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.parametrize(("symbols", "options"), TORCH.values(), ids=TORCH)
def test_a_module_of_pytorch_predicts_the_same(symbols, options, tmp_path):
    experiment = build(tmp_path, symbols, options)
    run = make_run(tmp_path / "run", experiment)
    made = export_run(run, "torch")
    net, inputs = run_note(made.note)["net"], draw_inputs(run)
    with torch.no_grad():
        found = net(torch.tensor(inputs))
    found = found if run.model.step is None else found[0]
    assert_near(found.numpy(), predict(run.model, run.params, inputs))
    read = read_weights(made.path, experiment)
    assert_identical(read.params, run.params)
    assert read.origin["run"] == run.facts["id"]
    if run.config.sections.model.tied:
        assert net.fc.weight is net.embedding.weight


@pytest.mark.parametrize(("symbols", "options"), ONNX.values(), ids=ONNX)
def test_onnxruntime_predicts_the_same(symbols, options, tmp_path):
    experiment = build(tmp_path, symbols, options)
    run = make_run(tmp_path / "run", experiment)
    made = export_run(run, "onnx")
    inputs, whole = draw_inputs(run), run.model.step is None
    text = made.note.read_text()
    given = [line for line in text.splitlines() if line.startswith("feeds = ")]
    made.note.write_text(text.replace(given[0], 'feeds = {"X": INPUTS}'))
    space: dict[str, Any] = {"INPUTS": inputs}
    _, code, _ = made.note.read_text().replace("```python\n", "```").split("```", 2)
    code = code.replace("np.array([7, 5]", f"np.array([{T}, {T}]")
    with contextlib.chdir(made.note.parent):
        exec(code, space)
    found = space["prediction" if whole else "predictions"]
    if whole:  # Shorter ones, whatever stands behind them.
        cut = space["session"].run(
            None,
            {"X": inputs, "sequence_lens": np.array([T, 4], np.int32)},
        )[0]
        expected = predict(run.model, run.params, inputs[:4])
        assert_near(cut, [found[0], expected[1]])
    assert_near(found, predict(run.model, run.params, inputs))
    read = read_weights(made.path, experiment)
    assert_identical(read.params, run.params)
    assert read.origin["run"] == run.facts["id"]


def test_a_note_of_onnx_runs_as_it_stands(tmp_path):
    for n, (symbols, options) in enumerate([NETS["one-hot"], NETS["whole"]]):
        folder = tmp_path / str(n)
        folder.mkdir()
        run = make_run(folder / "run", build(folder, symbols, options))
        space = run_note(export_run(run, "onnx").note)
        shape = B, run.facts["parts"]["output_size"]
        if run.model.step is None:
            assert space["prediction"].shape == shape
        else:
            assert space["predictions"].shape == (T, *shape)


def test_a_module_of_pytorch_takes_lengths_of_symbols(tmp_path):
    experiment = make_experiment(tmp_path, *WORDS, *WHOLE, text=TEXT)
    run = make_run(tmp_path / "run", experiment)
    net, inputs = run_note(export_run(run, "torch").note)["net"], draw_inputs(run)
    with torch.no_grad():
        found = net(torch.tensor(inputs), torch.tensor([4, T]))
    whole, cut = (predict(run.model, run.params, x) for x in (inputs, inputs[:4]))
    assert_near(found.numpy(), [cut[0], whole[1]])


def test_heads_are_taken_apart_where_nothing_is_between_them(tmp_path):
    heads, dense = (
        build(tmp_path, False, ("model.cell=lstm_variant", f"model.heads={n}"))
        for n in (3, 1)
    )
    made = export_run(make_run(tmp_path / "run", dense), "onnx")
    with pytest.raises(UserError) as caught:
        read_weights(made.path, heads)
    assert caught.value.lines[0].endswith(
        "w_h: 24 numbers between its heads are not zero, and the config's model has 3 "
        "heads; change the config"
    )
    relu = "model.cell=lstm_variant", "model.heads=3", "model.output_activation=relu"
    made = export_run(make_run(tmp_path / "relu", build(tmp_path, False, relu)), "onnx")
    with pytest.raises(UserError, match=r"computes what model\.cell"):
        read_weights(made.path, heads)


def test_a_file_of_pytorch_knows_its_symbols(tmp_path):
    made = export_run(make_run(tmp_path / "run", build(tmp_path, True, WORDS)), "torch")
    (tmp_path / "text.txt").write_text(SENTENCE.replace("d", "~") * 10)
    other = experiment_of(load_config(tmp_path / "config.toml", WORDS))
    with pytest.raises(UserError) as caught:
        read_weights(made.path, other)
    assert "as symbol" in caught.value.lines[0]


def test_onnx_of_another_activation_is_refused(tmp_path):
    relu = "model.cell=lstm_variant", "model.candidate_activation=relu"
    made = export_run(make_run(tmp_path / "run", build(tmp_path, False, relu)), "onnx")
    experiment = build(tmp_path, False, ())
    with pytest.raises(UserError) as caught:
        read_weights(made.path, experiment)
    (line,) = caught.value.lines
    assert 'layers.0: computes what model.cell = "lstm" of the config does not' in line


def test_what_onnx_has_no_form_of_is_named(tmp_path):
    for cell in ("leaky_rnn", "layer_norm_lstm"):
        run = make_run(tmp_path / cell, build(tmp_path, False, (f"model.cell={cell}",)))
        with pytest.raises(UserError, match=cell):
            export_run(run, "onnx")
        assert not list(run.path.glob("weights*"))


class Tagger(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.encoder = torch.nn.Embedding(size, 5)
        self.rnn = torch.nn.LSTM(5, 3)
        self.decoder = torch.nn.Linear(3, size)

    def forward(self, x):
        return self.decoder(self.rnn(self.encoder(x))[0])


@pytest.fixture
def tagged(tmp_path):
    """Returns an experiment on a text, and a net of PyTorch for it."""
    experiment = build(tmp_path, True, WORDS)
    return experiment, Tagger(experiment.config.task.parts().input_size)


def test_nets_of_pytorch_as_they_are_saved(tagged, tmp_path):
    experiment, net = tagged
    path, weights = tmp_path / "net.pt", net.state_dict()
    inputs = np.random.default_rng(0).integers(0, 5, size=(T, B))
    expected = net(torch.tensor(inputs)).detach()
    parameters = dict(net.named_parameters())
    short = {name: w.bfloat16() for name, w in weights.items()}
    for content, options, tolerance in [
        (weights, {}, 1e-5),
        (weights, {"_use_new_zipfile_serialization": False}, 1e-5),
        ({"epoch": 3, "model": weights, "optimizer": {"lr": 0.1}}, {}, 1e-5),
        (parameters, {}, 1e-5),
        (short, {}, 3e-2),
    ]:
        torch.save(content, path, **options)
        params = read_weights(path, experiment).params
        found = predict(experiment.trainer.model, params, inputs)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


class Planted:
    def __reduce__(self):
        return os.mkdir, ("planted",)


def test_files_of_pytorch_that_are_refused(tagged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment, net = tagged
    path, weights = tmp_path / "net.pt", net.state_dict()
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    whole = buffer.getvalue()
    broken, some = dict(weights), {"encoder.weight": weights["encoder.weight"]}
    broken["decoder.bias"] = torch.full_like(broken["decoder.bias"], np.nan)

    def save(content):
        return lambda: torch.save(content, path)

    rows = {
        "cannot be read as a file of weights alone": [
            lambda: path.write_bytes(pickle.dumps(Planted())),
            # Of which PyTorch warns.
            lambda: path.write_bytes(pickle.dumps(Planted(), protocol=4)),
            save({"encoder.weight": Planted()}),
            save(net),
            lambda: path.write_bytes(b"\x80\x02" + bytes(50)),
        ],
        "no state_dict": [save([1, 2]), save({"a": 1})],
        "it asks for posix.mkdir, and no code is run for a file": [
            save({"encoder.weight": Planted()}),
        ],
        "on the device meta": [save({k: w.to("meta") for k, w in some.items()})],
        "is a tensor of layout sparse_coo": [
            save(weights | {"decoder.weight": weights["decoder.weight"].to_sparse()}),
        ],
        "is a tensor of layout nested": [
            save(weights | {"a": torch.nested.nested_tensor([torch.ones(2)])}),
        ],
        "decoder.bias is float8_e4m3fn": [
            save(weights | {"decoder.bias": broken["decoder.bias"].to(F8)}),
        ],
        # A view of other numbers, of which NumPy has no like.
        "decoder.bias: cannot be read as plain numbers": [
            save(
                weights | {"decoder.bias": broken["decoder.bias"].cfloat().conj().imag}
            )
        ],
        ": is a name of type int": [
            save(weights | {3: broken["decoder.bias"]}),
            save({3: broken["decoder.bias"]}),
        ],
        "values are not finite": [save(broken)],
        "cannot be read as a zip archive": [
            lambda: path.write_bytes(whole[:-300]),
            lambda: path.write_bytes(whole[:200]),
        ],
    }
    for words, makes in rows.items():
        for make in makes:
            make()
            with pytest.raises(UserError) as caught:
                read_weights(path, experiment)
            (line,) = caught.value.lines
            assert words in line and "weights_only" not in line
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, None),
        ({"go_backwards": True}, "lstm: go_backwards has no form here"),
        ({"activation": "relu"}, "lstm: computes what model.cell"),
        ({"units": 4}, "recurrent.layers.0.w_x is float32[5, 16], and the"),
    ],
    ids=["alike", "backwards", "relu", "wide"],
)
def test_models_of_keras(options, words, tmp_path):
    experiment = build(tmp_path, True, WORDS)
    size = experiment.config.task.parts().input_size
    layers, path = keras.layers, tmp_path / "net.keras"
    options = {"units": 3, "return_sequences": True, "name": "lstm"} | options
    with jax.numpy_rank_promotion("allow"):
        net = keras.Sequential(
            [
                keras.Input((T,), dtype="int32"),
                layers.Embedding(size, 5),
                layers.LSTM(**options),
                layers.Dropout(0.5),
                layers.Dense(size, activation="softmax"),
            ]
        )
        net.save(path)
        inputs = np.random.default_rng(0).integers(0, size, size=(T, B))
        expected = np.asarray(net(inputs.T)).swapaxes(0, 1)
    if words is not None:
        with pytest.raises(UserError) as caught:
            read_weights(path, experiment)
        assert words in caught.value.lines[0]
        return
    params = read_weights(path, experiment, "keras").params
    logits = predict(experiment.trainer.model, params, inputs)
    assert_near(jax.nn.softmax(logits), expected)


def test_weights_for_a_bidirectional_net_of_pytorch(tmp_path):
    experiment = build(tmp_path, False, (LAYERS, *WHOLE))
    params = draw_params(experiment)
    net = torch.nn.ModuleDict(
        {
            "rnn": torch.nn.LSTM(2, 3, num_layers=2, bidirectional=True),
            "out": torch.nn.Linear(6, 1),
        }
    )
    arrays = interop.model_to_torch(params, lstm="rnn.", linear="out.")
    tensors = {name: torch.tensor(w) for name, w in arrays.items()}
    net.load_state_dict(tensors, strict=True)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    assert_identical(read_weights(tmp_path / "net.pt", experiment).params, params)
