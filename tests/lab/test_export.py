"""`jaxlstm export`: what is written, what is refused, and that nothing is left."""

import ast
import json
import os
import shutil
import sys
import tomllib
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import interop
from jaxlstm.interop.weights import name_leaves
from jaxlstm.lab import UserError, load_run
from jaxlstm.lab.weights import exporting
from jaxlstm.lab.weights.exporting import ExportFormat, export_run
from jaxlstm.lab.weights.notes import quote
from jaxlstm.lab.weights.plain import Layout, find_layout
from jaxlstm.lab.weights.torch_form import write_module
from tests.lab.tiny import ROOT
from tests.lab.untrained import TEXT, draw_params, make_experiment, make_run

PLAIN = Layout("lstm", None, None, 2, 3, 0, 1, False, True, 1, False, "float32")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return make_experiment(tmp_path_factory.mktemp("tiny"), "model.num_layers=2")


@pytest.fixture(scope="module")
def made(experiment, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made") / "run", experiment)


@pytest.fixture
def run(made, tmp_path):
    """Returns a copy of a run, in which a test may do what it likes."""
    shutil.copytree(made.path, tmp_path / "run")
    return load_run(tmp_path / "run")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_own_names_hold_every_bit_and_say_what_they_are(run, command):
    outcome = command("export", run.path)
    path = run.path / "weights.safetensors"
    # 24 + 36 + 12, 36 + 36 + 12, 3 + 1.
    assert outcome.out == (
        f"{path}: 8 arrays, 160 parameters, {path.stat().st_size:,} bytes, after "
        "update 3; read back the same; weights.safetensors.md says how to load it\n"
    )
    arrays, params = interop.read_safetensors(path), name_leaves(run.params)
    assert arrays.keys() == params.keys()
    for name, array in arrays.items():
        assert array.tobytes() == np.asarray(params[name]).tobytes()
    about = interop.read_metadata(path)
    assert tomllib.loads(about["config"]) == run.config.resolved()
    assert json.loads(about["parts"]) == run.facts["parts"]
    assert (about["update"], about["run"]) == ("3", run.facts["id"])


def test_names_of_pytorch_without_pytorch(run, tmp_path):
    made = export_run(run, "torch", tmp_path / "net.safetensors")
    arrays = interop.read_safetensors(made.path)
    (_, layers, _), readout = run.params
    expected = {"fc.weight": readout.w.T, "fc.bias": readout.b}
    for n, layer in enumerate(layers):
        expected |= {
            f"lstm.weight_ih_l{n}": layer.w_x.T,
            f"lstm.weight_hh_l{n}": layer.w_h.T,
            f"lstm.bias_ih_l{n}": layer.b,
            f"lstm.bias_hh_l{n}": jnp.zeros_like(layer.b),
        }
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name])
    assert "torch.nn.LSTM(2, 3, num_layers=2)" in made.note.read_text()


def test_without_pytorch_its_names_in_safetensors_are_advised(
    run, command, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch", None)
    before = names_in(run.path)
    outcome = command("export", run.path, "--format", "torch")
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.faults
    assert "torch is not installed" in line and "--out weights.safetensors" in line
    assert names_in(run.path) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["model.cell=leaky_rnn"], ['model.cell = "leaky_rnn"']),
        (["model.cell=peephole_lstm"], ['model.cell = "peephole_lstm"']),
        pytest.param(
            ["model.connections=residual", "model.num_layers=2"],
            ['model.connections = "residual"'],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["model.learned_initial_state=true", "model.cell=leaky_rnn"],
            ['model.cell = "leaky_rnn"', "model.learned_initial_state = true"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["cell", "variant", "connections", "two"],
)
def test_what_pytorch_has_no_form_of_is_named(options, words, tmp_path):
    experiment = make_experiment(tmp_path, *options)
    shapes = jax.eval_shape(experiment.trainer.model.init, jax.random.key(0))
    with pytest.raises(UserError) as caught:
        find_layout(experiment.config, shapes, None, "--format torch")
    for line, word in zip(caught.value.lines, words, strict=True):
        assert line.startswith(f"--format torch: {word} has no form there; ")


def test_the_page_shows_what_is_said(tmp_path):
    experiment = make_experiment(tmp_path, "model.cell=leaky_rnn")
    shapes = jax.eval_shape(experiment.trainer.model.init, jax.random.key(0))
    with pytest.raises(UserError) as caught:
        find_layout(experiment.config, shapes, None, "--format torch")
    page = (ROOT / "docs/exporting.md").read_text()
    assert f"\njaxlstm: {caught.value}\n" in page
    for name in (*get_args(ExportFormat), "--out", "--prefix", "--checkpoint latest"):
        assert name in page


def test_what_is_there_stays(run, tmp_path):
    there = tmp_path / "here.safetensors"
    there.write_text("mine")
    (tmp_path / "noted.safetensors.md").write_text("mine")
    (tmp_path / "full.new.safetensors").write_text("mine")
    export_run(run, "safetensors", tmp_path / "full.safetensors")
    assert (tmp_path / "full.new.safetensors").read_text() == "mine"
    before = names_in(tmp_path)
    for name, words in [
        ("here.safetensors", "is there already; remove it"),
        ("noted.safetensors", "noted.safetensors.md: is there already"),
        ("nowhere/net.safetensors", "is no folder"),
        ("here.safetensors/net.safetensors", "is no folder"),
        ("net.pt", "ends in .safetensors"),
        # Too long while it is written, and at last.
        (f"{'long' * 59}.safetensors", "cannot be written"),
        (f"{'long' * 99}.safetensors", "cannot be written"),
    ]:
        with pytest.raises(UserError, match=words):
            export_run(run, "safetensors", tmp_path / name)
    assert names_in(tmp_path) == before
    assert there.read_text() == "mine"


def test_a_file_that_reads_back_otherwise_is_not_left(run, tmp_path, monkeypatch):
    def read(path, found):
        named = exporting_read(path, found)
        named.arrays["readout.b"] = np.nextafter(named.arrays["readout.b"], 9)
        return named

    exporting_read = exporting.read_named
    monkeypatch.setattr(exporting, "read_named", read)
    with pytest.raises(UserError, match=r"readout\.b: is not what was written"):
        export_run(run, "safetensors", tmp_path / "net.safetensors")
    assert names_in(tmp_path) == ["run"]


@pytest.mark.parametrize("last", ["net.safetensors.md", "net.safetensors"])
def test_neither_file_nor_note_is_left_alone(last, run, tmp_path, monkeypatch):
    def fail(new, path):
        if os.path.basename(path) == last:
            raise OSError(28, "No space left on device")
        os.rename(new, path)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="No space left on device"):
        export_run(run, "safetensors", tmp_path / "net.safetensors")
    assert names_in(tmp_path) == ["run"]


@pytest.mark.parametrize(
    ("layout", "lines"),
    [
        (
            PLAIN._replace(symbols=5, embedding_size=3, output_size=5, tied=True),
            ["self.fc.weight = self.embedding.weight", "x = self.embedding(x)"],
        ),
        (
            PLAIN._replace(bidirectional=True),
            ["def forward(self, x, lengths=None):", "x, lengths, enforce_sorted=False"],
        ),
    ],
    ids=["tied", "both directions"],
)
def test_modules_of_pytorch_as_they_are_written(layout, lines):
    found = [line.strip() for line in write_module(layout)]
    assert all(line in found for line in lines)
    plain = write_module(PLAIN)
    assert not any(word in "".join(plain) for word in ("lengths", "self.fc.weight"))


@pytest.mark.parametrize("name", ["net.pt", 'a "b" \\n.pt', "a'b é\U0001f600.pt"])
def test_names_are_written_as_python_reads_them(name):
    assert quote(name).startswith('"')
    assert ast.literal_eval(quote(name)) == name


@pytest.mark.slow
def test_what_is_not_finite_is_not_written(experiment, tmp_path):
    params = draw_params(experiment)
    params.readout.b[0] = np.nan
    run = make_run(tmp_path / "run", experiment, params)
    with pytest.raises(UserError) as caught:
        export_run(run, "safetensors")
    assert caught.value.lines == (
        f"{run.path}: readout.b: 1 of 1 values are not finite; take another checkpoint "
        "or run",
    )


@pytest.mark.slow
def test_symbols_go_with_the_weights_of_a_text(tmp_path):
    run = make_run(tmp_path / "run", make_experiment(tmp_path, text=TEXT))
    made, vocabulary = export_run(run, "safetensors"), run.vocabulary
    assert vocabulary is not None
    there = json.loads(interop.read_metadata(made.path)["vocabulary"])
    assert tuple(there["symbols"]) == vocabulary.symbols
    assert json.dumps(vocabulary.symbols) in made.note.read_text()


@pytest.mark.slow
def test_the_note_makes_the_model(run, monkeypatch):
    made = export_run(run, "safetensors")
    _, code, _ = made.note.read_text().replace("```python\n", "```").split("```", 2)
    monkeypatch.chdir(run.path)
    space: dict[str, object] = {}
    exec(code, space)
    jax.tree.map(np.testing.assert_array_equal, space["params"], run.params)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["nowhere"], "nowhere: no such run directory"),
        (["run", "--format", "numpy"], "--format"),
        (["run", "--checkpoint", "last"], "--checkpoint"),
    ],
)
def test_bad_words_are_one_line(tokens, words, run, command):
    outcome = command("export", *tokens)
    assert outcome.code == 2
    (line,) = outcome.faults
    assert words in line


def test_a_damaged_checkpoint_is_one_line(run, command):
    for path in run.path.glob("checkpoints/best/3/params/**/*"):
        if path.is_file():
            path.write_bytes(b"")
    outcome = command("export", run.path)
    assert outcome.code == 2
    (line,) = outcome.faults
    assert "is damaged" in line
    assert not list(run.path.glob("weights*"))
