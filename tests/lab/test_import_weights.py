"""`jaxlstm import`: whose weights are taken, what is refused, and what is made."""

import json
import shutil
import sys
import zipfile
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from jaxlstm import interop
from jaxlstm.interop.weights import name_leaves
from jaxlstm.lab import UserError, load_run
from jaxlstm.lab.session import Session
from jaxlstm.lab.weights.importing import read_weights
from tests.lab.untrained import TEXT, draw_params, make_experiment, make_run


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return make_experiment(tmp_path_factory.mktemp("tiny"), "model.num_layers=2")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return make_experiment(
        tmp_path_factory.mktemp("text"), "model.inputs=embedding", text=TEXT
    )


def save(path, arrays, **metadata):
    interop.save_safetensors(path, arrays, metadata=metadata)
    return path


def own_names(params) -> dict[str, Any]:
    return {name: np.asarray(leaf) for name, leaf in name_leaves(params).items()}


def refusal(*arguments) -> tuple[str, ...]:
    """Returns the lines of what is refused, without the file."""
    with pytest.raises(UserError) as caught:
        read_weights(*arguments)
    return tuple(line.removeprefix(f"{arguments[0]}: ") for line in caught.value.lines)


def assert_identical(params, expected):
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_own_names_come_back_to_the_bit(experiment, tmp_path):
    params = draw_params(experiment)
    path = save(tmp_path / "any name", own_names(params), run="abc", update="7")
    found = read_weights(path, experiment)
    assert_identical(found.params, params)
    assert found.origin.pop("sha256").isalnum()
    assert found.origin == {
        "file": str(path),
        "format": "safetensors",
        "run": "abc",
        "update": "7",
    }


@pytest.mark.parametrize(
    ("names", "prefixes"),
    [
        (("rnn.", "encoder.", "decoder."), []),
        (("module.lstm.", "module.embedding.", "module.fc."), []),
        (("rnn.", "a.", "b."), ["lstm=rnn", "embedding=a.", "linear=b"]),
    ],
    ids=["found", "of several devices", "named"],
)
def test_parts_of_pytorch_by_their_prefixes(names, prefixes, text, tmp_path):
    params = draw_params(text)
    lstm, embedding, linear = names
    arrays = interop.model_to_torch(
        params, lstm=lstm, embedding=embedding, linear=linear
    )
    found = read_weights(
        save(tmp_path / "net.safetensors", arrays), text, "torch", prefixes
    )
    assert_identical(found.params, params)
    assert found.origin["format"] == "torch"


def test_two_tables_are_not_guessed_at(text, tmp_path):
    arrays = interop.model_to_torch(draw_params(text))
    arrays["positions.weight"] = arrays["embedding.weight"]
    path = save(tmp_path / "net.safetensors", arrays)
    assert refusal(path, text) == (
        "has 2 parts that may be the embedding: embedding., positions.; name one, as "
        "--prefix embedding=embedding.",
    )
    assert refusal(path, text, None, ["embedding=embedding."]) == (
        f"positions.weight is float32{list(arrays['embedding.weight'].shape)}, and the "
        "config's model asks for none",
    )


@pytest.mark.parametrize("torch", [False, True], ids=["own", "torch"])
def test_all_that_does_not_fit_is_named_at_once(torch, experiment, tmp_path):
    params = draw_params(experiment)
    arrays = interop.model_to_torch(params) if torch else own_names(params)
    wide, gone, whole = (
        ("lstm.weight_ih_l1", "lstm.bias_hh_l0", "fc.bias")
        if torch
        else ("recurrent.layers.1.w_x", "recurrent.layers.0.b", "readout.b")
    )
    asked = {name: list(arrays[name].shape) for name in (wide, gone, whole)}
    arrays[wide] = arrays[wide][:, :2]
    arrays[whole] = arrays[whole].astype(np.int32)
    arrays["more"] = arrays.pop(gone)
    path = save(tmp_path / "net.safetensors", arrays)
    assert sorted(refusal(path, experiment)) == sorted(
        [
            f"{wide} is float32{list(arrays[wide].shape)}, and the config's model asks "
            f"for float32{asked[wide]}",
            f"{gone} is not there, and the config's model asks for "
            f"float32{asked[gone]}",
            f"{whole} is int32[1], and the config's model asks for float32[1]",
            "more is float32[12], and the config's model asks for none",
        ]
    )


def test_a_shorter_dtype_holds_the_same_numbers_and_a_longer_does_not(
    experiment, tmp_path
):
    params = own_names(draw_params(experiment))
    for dtype in (np.float16, ml_dtypes.bfloat16):
        short = {name: array.astype(dtype) for name, array in params.items()}
        found = read_weights(save(tmp_path / "short", short), experiment)
        for name, leaf in name_leaves(found.params).items():
            assert leaf.dtype == np.float32
            np.testing.assert_array_equal(leaf, short[name].astype(np.float32))
    long = {name: array.astype(np.float64) for name, array in params.items()}
    lines = refusal(save(tmp_path / "long", long), experiment)
    assert len(lines) == len(params)
    assert lines[0].startswith("recurrent.layers.0.w_x is float64[2, 12], and the ")


@pytest.mark.slow
def test_tied_weights_have_to_be_the_same(tmp_path):
    options = "model.inputs=embedding", "model.tied=true"
    experiment = make_experiment(tmp_path, *options, text=TEXT)
    params = draw_params(experiment)
    arrays = interop.model_to_torch(params)
    path = tmp_path / "net.safetensors"
    assert_identical(read_weights(save(path, arrays), experiment).params, params)
    arrays["fc.weight"] = arrays["fc.weight"] + 1
    (line,) = refusal(save(path, arrays), experiment)
    assert line.startswith("fc.weight is not embedding.weight, and the config has ")


def test_weights_of_another_cell_or_of_other_symbols_are_told_apart(text, tmp_path):
    vocabulary = text.config.task.vocabulary()
    symbols = list(vocabulary.symbols)
    symbols[1], symbols[2] = symbols[2], symbols[1]
    config = text.config.to_toml().replace('cell = "lstm"', 'cell = "gru"')
    path = save(
        tmp_path / "net",
        own_names(draw_params(text)),
        config=config.replace("forget_bias = 1.0", "forget_bias = 3.0"),
        vocabulary=json.dumps({"symbols": symbols}),
    )
    assert refusal(path, text) == (
        'is of a model with model.cell = "gru", and the config has "lstm"; change the '
        "config",
        f"has {symbols[1]!r} as symbol 1, and the config's task {symbols[2]!r}; take "
        "the text that it was trained on",
    )
    arrays, fewer = own_names(draw_params(text)), json.dumps({"symbols": symbols[1:]})
    (line,) = refusal(save(path, arrays, vocabulary=fewer), text)
    assert line.startswith(f"has {len(symbols) - 1} symbols, and the config's task ")


@pytest.mark.slow
def test_a_cell_that_pytorch_has_not_takes_no_weights_of_it(tmp_path):
    options = "model.cell=rnn", "model.cell=leaky_rnn"
    plain, leaky = (make_experiment(tmp_path, option) for option in options)
    arrays = interop.model_to_torch(draw_params(plain), lstm="rnn.")
    path = save(tmp_path / "net.safetensors", arrays)
    assert_identical(read_weights(path, plain).params, draw_params(plain))
    (line,) = refusal(path, leaky)
    assert line.startswith('model.cell = "leaky_rnn" has no form there')


def write_zip(path, name="x", *, compressed=False):
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr(name, bytes(100))


def cut_short(path):
    save(path, {"x": np.zeros(9, np.float32)})
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is no file"),
        (lambda path: path.write_bytes(b""), "of none of the formats"),
        (lambda path: path.write_text("some notes"), "of none of the formats"),
        (cut_short, "is no safetensors file"),
        (write_zip, "is a zip archive, and none of PyTorch or Keras"),
        (lambda path: write_zip(path, "a/data.pkl", compressed=True), "is compressed"),
        (lambda path: path.write_bytes(b"PK\x03\x04cut"), "cannot be read as a zip"),
    ],
    ids=["none", "folder", "empty", "text", "cut", "zip", "compressed", "cut zip"],
)
def test_a_file_that_is_none_is_one_line(make, words, experiment, tmp_path):
    path = tmp_path / "weights"
    make(path)
    (line,) = refusal(path, experiment)
    assert words in line


def test_what_is_not_finite_is_named(experiment, tmp_path):
    params = draw_params(experiment)
    params.readout.b[0] = np.inf
    for arrays in (own_names(params), interop.model_to_torch(params)):
        (line,) = refusal(save(tmp_path / "net.safetensors", arrays), experiment)
        assert line.endswith(": 1 of 1 values are not finite; take other weights")


def test_formats_and_prefixes_that_are_not_there(experiment, tmp_path):
    arrays = own_names(draw_params(experiment))
    path = save(tmp_path / "net.safetensors", arrays)
    for arguments, words in [
        (["torch"], "is a safetensors file, and --format torch was asked for"),
        ([None, ["lstm=a"]], "has no names of PyTorch; leave it out"),
        ([None, ["a"]], "--prefix a: write PART=PREFIX"),
        ([None, ["lstmm=a"]], "did you mean lstm?"),
        ([None, ["lstm=a", "lstm=b"]], "lstm is named twice"),
    ]:
        (line,) = refusal(path, experiment, *arguments)
        assert words in line


def test_without_pytorch_its_files_are_one_line(experiment, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    write_zip(tmp_path / "net.pt", "net/data.pkl")
    (line,) = refusal(tmp_path / "net.pt", experiment)
    assert "torch is not installed" in line and "save_file" in line


def test_nothing_is_left_of_an_import_that_fails(
    experiment, tmp_path, command, monkeypatch
):
    def fail(session, params):
        raise UserError("update 0: the test loss is nan")

    monkeypatch.setattr(Session, "begin_with", fail)
    path = save(tmp_path / "net.safetensors", own_names(draw_params(experiment)))
    config = experiment.config.folder / "config.toml"
    (tmp_path / "empty").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    for out in ("empty", "new"):
        tokens = "import", path, config, "model.num_layers=2", "--out", out
        outcome = command(*tokens)
        assert (outcome.code, outcome.faults) == (2, ["update 0: the test loss is nan"])
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert {path.name for path in (tmp_path / "empty").iterdir()} <= {".lock"}
    outcome = command("import", path, config, "--out", tmp_path)
    assert outcome.code == 2 and "is not an empty folder" in outcome.faults[0]


@pytest.mark.slow
def test_a_run_is_measured_sampled_trained_and_written_again(tmp_path, command):
    make_run(tmp_path / "first", make_experiment(tmp_path, text=TEXT))
    assert command("export", "first").code == 0
    tokens = "import", "first/weights.safetensors", "first/config.toml"
    outcome = command(*tokens, "--out", "second")
    assert (outcome.code, outcome.err) == (0, "")

    first, second = load_run("first"), load_run("second")
    assert_identical(second.params, first.params)
    assert second.facts["status"] == "stopped" and second.update == 0
    assert second.facts["imported"]["run"] == first.facts["id"]
    assert "It began with the weights of" in (second.path / "README.md").read_text()
    losses = [
        [line for line in command("eval", run).out.splitlines() if "loss" in line]
        for run in ("first", "second")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 2
    told = [command("sample", run, "--greedy").out for run in ("first", "second")]
    assert told[0] == told[1] != ""
    assert (second.path / "plots/loss.png").is_file()

    assert command("resume", "second").code == 0
    trained = load_run("second", "latest")
    assert trained.facts["status"] == "finished" and trained.update == 4
    leaves = zip(*map(jax.tree.leaves, (trained.params, first.params)), strict=True)
    assert any((a != b).any() for a, b in leaves)
    updates = [line["update"] for line in trained.metrics if line["split"] != "train"]
    assert updates[0] == 0 and max(updates) == 4
    assert command("export", "second", "--out", "again.safetensors").code == 0


@pytest.mark.slow
def test_weights_that_were_lost_are_not_drawn_anew(tmp_path, command):
    experiment = make_experiment(tmp_path)
    path = save(tmp_path / "net.safetensors", own_names(draw_params(experiment)))
    assert command("import", path, "config.toml", "--out", "run").code == 0
    shutil.rmtree("run/checkpoints")
    outcome = command("resume", "run")
    assert outcome.code == 2
    assert outcome.faults == [
        f"run/checkpoints: holds no checkpoint, and the run began with weights of "
        f"{path}; import them again"
    ]
