"""Files of Keras that are damaged, hostile, or of what has no counterpart here."""

import io
import json
import zipfile

import h5py
import jax
import numpy as np
import pytest

from jaxlstm import interop
from tests.peers.keras_peer import FILTER, draw, keras

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings(FILTER)]

L = keras.layers
X, H = 5, 3
WEIGHTS, CONFIG = "model.weights.h5", "config.json"
KERNEL = "layers/lstm/cell/vars/0"


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Returns the members of a good file, by name."""
    path = tmp_path_factory.mktemp("keras") / "model.keras"
    layers = [
        L.Embedding(X, 4, name="words"),
        L.LSTM(H, return_sequences=True, name="first"),
        L.Bidirectional(L.GRU(H, return_sequences=True, name="gru"), name="second"),
        L.SimpleRNN(H, name="third"),
        L.Dense(2, name="out"),
    ]
    with jax.numpy_rank_promotion("allow"):
        keras.Sequential([keras.Input((None,), dtype="int32"), *layers]).save(path)
    assert len(interop.load_keras(path).layers) == 6
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_mixed_precision_as_keras_saves_it(tmp_path):
    path = tmp_path / "model.keras"
    lstm = L.LSTM(H, dtype="mixed_bfloat16", name="mixed")
    with jax.numpy_rank_promotion("allow"):
        keras.Sequential([keras.Input((None, X)), lstm]).save(path)
    with pytest.raises(interop.WeightsError) as caught:
        interop.load_keras(path)
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: layer 'mixed': dtype: is 'mixed_bfloat16'; layers")


def write(path, members, packed=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", packed) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def edit_config(members, edit):
    config = json.loads(members[CONFIG])
    edit(config["config"]["layers"])
    return members | {CONFIG: json.dumps(config).encode()}


def edit_weights(members, edit):
    data = io.BytesIO(members[WEIGHTS])
    with h5py.File(data, "r+") as file:
        edit(file)
    return members | {WEIGHTS: data.getvalue()}


def set_option(layer, name, value, inner=None):
    def edit(layers):
        options = layers[layer]["config"]
        if inner is not None:
            options = options[inner]["config"]
        options[name] = value

    return edit


def set_class(layer, **entries):
    return lambda layers: layers[layer].update(entries)


CONFIGS = {
    "lambda": (
        set_class(2, class_name="Lambda"),
        "layer 'first': Lambda is none of LSTM,",
    ),
    "own class": (
        set_class(2, module="mine.layers"),
        "layer 'first': mine.layers.LSTM is a class of its own",
    ),
    "activation": (
        set_option(2, "activation", {"class_name": "function", "config": "f"}),
        "layer 'first': activation: {'class_name': 'function', 'config': 'f'} is none",
    ),
    "softmax": (
        set_option(2, "recurrent_activation", "softmax"),
        "layer 'first': recurrent_activation: 'softmax' is none of linear, tanh,",
    ),
    "units": (
        set_option(2, "units", 10**9),
        "layer 'first': recurrent_kernel: shape (3, 12) is not that of units = 1000000",
    ),
    "type": (
        set_option(2, "go_backwards", "no"),
        "layer 'first': go_backwards: 'no' is no bool",
    ),
    "number": (
        set_option(2, "dropout", 10**400),
        "layer 'first': dropout: 1000",
    ),
    "time_major": (
        set_option(2, "time_major", True),
        "layer 'first': time_major: is True",
    ),
    "bias": (
        set_option(2, "use_bias", False),
        "layers/lstm/cell/vars/2: is of no layer of the config",
    ),
    "gru": (
        set_option(3, "reset_after", False, "layer"),
        "layer 'forward_gru': reset_after: is False",
    ),
    "gru of relu": (
        set_option(3, "activation", "relu", "layer"),
        "layer 'second': backward_layer: differs from the forward one in activation",
    ),
    "merge mode": (
        set_option(3, "merge_mode", "max"),
        "layer 'second': merge_mode: 'max' is unknown",
    ),
    "directions": (
        set_option(3, "go_backwards", False, "backward_layer"),
        "layer 'second': go_backwards: is not that of the backward layer alone",
    ),
    "rnn": (
        set_option(4, "activation", "relu"),
        "layer 'third': the SimpleRNN here has no activation='relu'",
    ),
    "mixed precision": (
        set_option(2, "dtype", {"class_name": "Policy", "config": {"name": "mixed_f"}}),
        "layer 'first': dtype: is 'mixed_f'; layers here compute in float32 or",
    ),
    "low precision within": (
        set_option(3, "dtype", "bfloat16", "layer"),
        "layer 'forward_gru': dtype: is 'bfloat16'; layers here compute in float32 or",
    ),
    "no config": (
        set_class(2, config=None),
        "config: a layer has no class_name and config",
    ),
    "one more": (
        lambda layers: layers.append(layers[2]),
        "layers/lstm_1/cell/vars/0: is missing",
    ),
    "one less": (
        lambda layers: layers.pop(),
        "layers/dense/vars/0: is of no layer of the config",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_has_no_counterpart_is_refused_by_name(name, members, tmp_path):
    edit, message = CONFIGS[name]
    path = write(tmp_path / "model.keras", edit_config(members, edit))
    with pytest.raises(interop.WeightsError) as caught:
        interop.load_keras(path)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{path}: {message}") and len(lines) <= 3


def test_what_acts_in_training_alone_is_noted(members, tmp_path):
    changed = members
    for name, value in (("stateful", True), ("dropout", 1), ("unroll", True)):
        changed = edit_config(changed, set_option(2, name, value))
    path = write(tmp_path / "model.keras", changed, zipfile.ZIP_DEFLATED)
    first, *others = interop.load_keras(path).recurrent
    assert first.stateful and first.dropout == 1 and first.return_sequences
    assert not any(layer.stateful or layer.dropout for layer in others)


def replace(file, shape=None, dtype="f4", **options):
    del file[KERNEL]
    file.create_dataset(KERNEL, shape, dtype=dtype, **options)


def link_out(file, link):
    del file[KERNEL]
    file[KERNEL] = link


def make_virtual(file):
    layout = h5py.VirtualLayout((4, 4 * H), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4, 4 * H))
    del file[KERNEL]
    file.create_virtual_dataset(KERNEL, layout)


ARRAYS = {
    "shape": (
        lambda file: replace(file, data=draw(0, 4, 11).astype("f4")),
        "layer 'first': kernel: shape (4, 11) is not (4, 12), which is [X, 4H]",
    ),
    "missing": (lambda file: file.pop(KERNEL), f"{KERNEL}: is missing"),
    "dtype": (
        lambda file: replace(file, dtype="f8", data=draw(0, 4, 12)),
        "layer 'first': recurrent_kernel: dtype float32 is not that of the others",
    ),
    "integers": (
        lambda file: replace(file, dtype="i8", data=np.ones((4, 12))),
        "layer 'first': kernel: int64 is no floating-point tensor",
    ),
    "text": (
        lambda file: replace(file, (4, 12), h5py.string_dtype()),
        f"{KERNEL}: holds no numbers, but object",
    ),
    "outside file": (
        lambda file: replace(file, (4, 12), external=[("/etc/passwd", 0, 192)]),
        f"{KERNEL}: has its numbers in another file",
    ),
    "virtual": (make_virtual, f"{KERNEL}: has its numbers in another file"),
    "external link": (
        lambda file: link_out(file, h5py.ExternalLink("/etc/passwd", "x")),
        f"{KERNEL}: is missing",
    ),
    "soft link": (
        lambda file: link_out(file, h5py.SoftLink("/layers/lstm/cell/vars/1")),
        f"{KERNEL}: is missing",
    ),
    "huge": (
        lambda file: replace(file, (10**6, 10**6)),
        f"{KERNEL}: shape (1000000, 1000000) is not what the file holds of it",
    ),
    "packed": (
        lambda file: replace(file, data=np.zeros((10**4, 100)), compression="gzip"),
        f"{KERNEL}: shape (10000, 100) is not what the file holds of it",
    ),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_not_the_layers_are_refused_by_name(name, members, tmp_path):
    edit, message = ARRAYS[name]
    path = write(tmp_path / "model.keras", edit_weights(members, edit))
    with pytest.raises(interop.WeightsError) as caught:
        interop.load_keras(path)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{path}: {message}") and len(lines) <= 3


MEMBERS = {
    "no weights": ({WEIGHTS: None}, "model.weights.h5: is missing; a file of"),
    "no version": ({"metadata.json": b"{}"}, "keras_version: None is no version"),
    "no json": ({CONFIG: b"{"}, "config.json: is no JSON: Expecting property"),
    "deep json": ({CONFIG: b"[" * 10**5}, "config.json: is no JSON: maximum recursion"),
    "no object": ({CONFIG: b"3"}, "config.json: is no JSON object"),
    "own model": ({CONFIG: b'{"class_name": "Mine"}'}, "config: 'Mine' is neither Seq"),
    "no layers": (
        {CONFIG: b'{"class_name": "Sequential", "config": {}}'},
        "config: has no list of layers",
    ),
    "no hdf5": ({WEIGHTS: b"\x89HDF" + bytes(99)}, "model.weights.h5 is no HDF5 file:"),
    "pickle": ({WEIGHTS: b"cos\nsystem\n(S'true'\ntR."}, "model.weights.h5 is no HDF5"),
    "way out": ({"../../x": b""}, "../../x: leads out of the archive"),
    "absolute": ({"/etc/x": b""}, "/etc/x: leads out of the archive"),
    "many": (
        {f"{n}": b"" for n in range(1001)},
        "has 1004 members, which are too many",
    ),
    "bomb": ({WEIGHTS: bytes(2**25)}, "model.weights.h5: unpacks "),
    "bomb of text": ({CONFIG: b" " * (2**24 + 1)}, "config.json: unpacks "),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_hostile_archives_are_refused_in_a_line(name, members, tmp_path):
    changes, message = MEMBERS[name]
    kept = {n: data for n, data in (members | changes).items() if data is not None}
    packed = zipfile.ZIP_DEFLATED if "bomb" in name else zipfile.ZIP_STORED
    path = write(tmp_path / "model.keras", kept, packed)
    with pytest.raises(interop.WeightsError) as caught:
        interop.load_keras(path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path}: {message}")


def test_damage_is_always_refused_in_a_line(members, tmp_path):
    path = write(tmp_path / "model.keras", members)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    with zipfile.ZipFile(path) as file:
        inside = file.getinfo(WEIGHTS).header_offset
    cuts = [whole[:n] for n in rng.integers(len(whole), size=20)]
    flipped = []
    for place in rng.integers(inside + 100, inside + len(members[WEIGHTS]), size=20):
        data = bytearray(whole)
        data[place] ^= 0x10
        flipped.append(bytes(data))
    for data in [b"", *cuts, *flipped]:
        path.write_bytes(data)
        with pytest.raises(interop.WeightsError) as caught:
            interop.load_keras(path)
        assert len(str(caught.value).splitlines()) == 1


def test_config_of_any_depth_is_read_or_refused(members, tmp_path):
    head = (
        '{"class_name": "Functional", "config": {"layers": [{"class_name": "NotEqual", '
        '"name": "x", "inbound_nodes": '
    )
    changed, refused = edit_weights(members, lambda file: file.pop("layers")), []
    for depth in [2, *range(600, 1000, 20), 10**5]:
        changed[CONFIG] = f"{head}{'[' * depth}{']' * depth}}}]}}}}".encode()
        path = write(tmp_path / "model.keras", changed)
        try:
            assert interop.load_keras(path).branches == "its outputs are of no layer"
        except interop.WeightsError as error:
            assert str(error).startswith(f"{path}: config")
            refused.append(depth)
    assert 2 not in refused and 10**5 in refused


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_member_stands_once(members, tmp_path):
    path = write(tmp_path / "model.keras", members)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(CONFIG, members[CONFIG])
    with pytest.raises(interop.WeightsError, match=r"config\.json: stands twice"):
        interop.load_keras(path)


def test_files_of_other_kinds_are_refused(tmp_path):
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/lstm/cell/vars/0"] = np.zeros((3, 4))
    with pytest.raises(interop.WeightsError, match="has no model_config: these are"):
        interop.load_keras(path)
    with pytest.raises(interop.WeightsError, match="is no file"):
        interop.load_keras(tmp_path)
    with pytest.raises(FileNotFoundError):
        interop.load_keras(tmp_path / "none.keras")
    path.write_bytes(b"text")
    with pytest.raises(interop.WeightsError, match=r"neither a \.keras nor an \.h5"):
        interop.load_keras(path)
