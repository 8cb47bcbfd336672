"""Weights in safetensors files: what was saved comes back, and nothing else does."""

import errno
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxlstm import LSTMParams, Model, interop, make_model
from jaxlstm.cells import CELLS
from jaxlstm.interop import (
    WeightsError,
    load_safetensors,
    read_safetensors,
    save_safetensors,
)
from jaxlstm.interop.safetensors import DTYPES, LONGEST_HEADER
from jaxlstm.lab import commands, load_run
from tests.interop.files import assert_identical, make_params, split, write
from tests.lab import tiny


class Pair(NamedTuple):
    """Parameters of two arrays."""

    w: np.ndarray
    b: np.ndarray


PAIR = Pair(np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, np.float32))


def entry(
    shape: object = (2, 3), offsets: object = (0, 24), dtype: object = "F32"
) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def make_small_model() -> Model:
    return make_model(
        CELLS["lstm"](),
        input_size=3,
        output_size=1,
        hidden_size=2,
        num_layers=2,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


def faults(path: Path, template: object, **options: bool) -> list[str]:
    """Returns what a load refuses, a line each, without the path that begins it."""
    with pytest.raises(WeightsError) as caught:
        load_safetensors(path, template, **options)
    lines = str(caught.value).splitlines()
    assert lines == list(caught.value.lines)
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def test_what_is_saved_comes_back(path):
    params = make_params()
    save_safetensors(path, params)
    template = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
    for like in (params, template):
        loaded = load_safetensors(path, like)
        assert jax.tree.structure(loaded) == jax.tree.structure(params)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
        jax.tree.map(assert_identical, loaded, params)


def test_names_are_paths(path):
    shapes = jax.eval_shape(make_small_model().init, jax.random.key(0))
    save_safetensors(path, jax.tree.map(lambda a: np.ones(a.shape, a.dtype), shapes))
    layers = [
        f"recurrent.layers.{layer}.{name}"
        for layer in (0, 1)
        for name in LSTMParams._fields
    ]
    found = read_safetensors(path)
    assert set(found) == {*layers, "readout.w", "readout.b"}
    assert found["recurrent.layers.0.w_x"].shape == (3, 8)
    assert found["recurrent.layers.1.w_x"].shape == (2, 8)


@pytest.mark.parametrize("name", DTYPES.values())
def test_dtypes(path, name, x64):
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(jnp.dtype(name))
    save_safetensors(path, Pair(array, array[0]))
    loaded = load_safetensors(path, Pair(array, array[0]))
    jax.tree.map(assert_identical, loaded, Pair(array, array[0]))


def test_memory_order_does_not_matter(path):
    turned, foreign_order = PAIR.w.T, PAIR.b.astype(">f4")
    save_safetensors(path, Pair(turned, foreign_order))
    found = load_file(path)
    assert_identical(found["w"], turned.copy())
    assert_identical(found["b"], PAIR.b)
    loaded = load_safetensors(path, Pair(turned, PAIR.b))
    jax.tree.map(assert_identical, loaded, Pair(turned.copy(), PAIR.b))


def test_the_same_parameters_give_the_same_file(path, tmp_path):
    params = make_params()
    save_safetensors(path, params)
    save_safetensors(tmp_path / "again", jax.tree.map(jnp.asarray, params))
    assert path.read_bytes() == (tmp_path / "again").read_bytes()


def test_foreign_files_are_read(path):
    save_file({"w": PAIR.w, "b": PAIR.b}, path, metadata={"format": "pt"})
    jax.tree.map(assert_identical, load_safetensors(path, PAIR), PAIR)
    assert_identical(read_safetensors(path)["w"], PAIR.w)


def test_what_differs_from_the_template_is_listed_at_once(path):
    saved = {"a": PAIR.w, "b": PAIR.b, "c": PAIR.b, "extra\n": PAIR.b, "same": PAIR.b}
    save_safetensors(path, saved)
    template = {
        "a": PAIR.w.T,
        "b": PAIR.b.astype(jnp.bfloat16),
        "c": np.ones(2, np.int32),
        "missing": PAIR.b,
        "same": PAIR.b,
    }
    assert faults(path, template) == [
        "a: shape (2, 3) is not that of the template, (3, 2)",
        "b: dtype float32 is not that of the template, bfloat16",
        "c: shape (3,) is not that of the template, (2,)",
        "c: dtype float32 is not that of the template, int32",
        "missing: is missing",
        "'extra\\n': is not in the template",
    ]


def test_a_message_has_an_end(path):
    save_safetensors(path, {f"{'x' * 100}{n}": PAIR.b for n in range(150)})
    with pytest.raises(WeightsError) as caught:
        load_safetensors(path, {})
    lines = str(caught.value).splitlines()
    assert len(lines) == 101 and lines[-1] == "and 50 more"
    assert lines[0] == f"{path}: {'x' * 80}...: is not in the template"


def test_a_line_has_an_end(path):
    path.write_bytes(write({"w": entry([1] * 10_000, [0, 4])}, bytes(4)))
    (line,) = faults(path, {"w": PAIR.b})
    assert line.startswith("w: shape (1, 1, 1") and len(line) < 400


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_what_is_not_finite_is_refused_by_name(path, dtype, value):
    params = Pair(*(array.astype(jnp.dtype(dtype)) for array in PAIR))
    params.w[1, 2] = params.w[0, 1] = value
    save_safetensors(path, params)
    (line,) = faults(path, params)
    assert line.startswith("w: 2 of 6 values are not finite; allow_non_finite=True")
    loaded = load_safetensors(path, params, allow_non_finite=True)
    jax.tree.map(assert_identical, loaded, params)
    assert_identical(read_safetensors(path)["w"], params.w)


def test_what_jax_would_round_is_refused_by_name(path):
    params = Pair(PAIR.w.astype(np.float64), PAIR.b)
    save_safetensors(path, params)
    assert faults(path, params) == [
        "w: float64 needs jax.config.update('jax_enable_x64', True)"
    ]


def test_every_flipped_bit_of_the_data_is_found(path):
    save_safetensors(path, PAIR)
    valid = path.read_bytes()
    header, data = split(valid)
    begin = len(valid) - len(data)
    assert {"w", "b"} < set(header) and len(data) == 36
    for bit in range(8 * len(data)):
        damaged = bytearray(valid)
        damaged[begin + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        (line,) = faults(path, PAIR)
        assert line.startswith("does not match its own hash")


@pytest.mark.parametrize("names", ["ba", "ac", "0b"])
def test_tensors_that_changed_names_are_found(path, names):
    save_safetensors(path, {"a": PAIR.b, "b": 2 * PAIR.b})
    header, data = split(path.read_bytes())
    a, b = header.pop("a"), header.pop("b")
    path.write_bytes(write({**header, names[0]: a, names[1]: b}, data))
    with pytest.raises(WeightsError, match="does not match its own hash"):
        read_safetensors(path)


@pytest.mark.parametrize("shape", [(3, 2), (6,), (1, 6), (2, 3, 1)])
def test_another_shape_of_the_same_bytes_is_found(path, shape):
    save_safetensors(path, PAIR)
    header, data = split(path.read_bytes())
    header["w"]["shape"] = shape
    path.write_bytes(write(header, data))
    with pytest.raises(WeightsError, match="does not match its own hash"):
        read_safetensors(path)


@pytest.mark.parametrize(
    ("mark", "fragment"),
    [
        ("2 abc", "is of version 2, and 1 can be read"),
        ("1", "does not match its own hash"),
        ("", "is of version '', and 1 can be read"),
    ],
)
def test_an_altered_mark_is_refused(path, mark, fragment):
    save_safetensors(path, PAIR)
    header, data = split(path.read_bytes())
    header["__metadata__"]["jaxlstm"] = mark
    path.write_bytes(write(header, data))
    (line,) = faults(path, PAIR)
    assert fragment in line


WHOLE = bytes(24)
NO_FILE = "is no safetensors file"
FIELDS = b'"dtype":"F32","shape":[2,3],"data_offsets":[0,24]'
TENSOR = b'"x":{' + FIELDS + b"}"
NONSENSE = {
    "nothing": (b"", NO_FILE),
    "seven bytes": (bytes(7), NO_FILE),
    "zeros": (bytes(64), NO_FILE),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", NO_FILE),
    "pickle": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00K\x01.", NO_FILE),
    "longest header": (write({"x": entry()}, WHOLE, length=2**64 - 1), NO_FILE),
    "long header": (write({"x": entry()}, WHOLE, length=LONGEST_HEADER + 1), NO_FILE),
    "header past the end": (write({"x": entry()}, WHOLE, length=1000), NO_FILE),
    "header cut short": (write({"x": entry()}, WHOLE, length=20), NO_FILE),
    "no header": (write(b"", WHOLE), NO_FILE),
    "no JSON": (write(b"{nope", WHOLE), NO_FILE),
    "no text": (write(b'{"\xff": 1}', WHOLE), NO_FILE),
    "two JSON values": (write(b"{} {}"), NO_FILE),
    "list": (write([1]), NO_FILE),
    "nested lists": (write(b"[" * 10_000), NO_FILE),
    "nested tables": (write(b'{"a":' * 10_000), NO_FILE),
    "nested in a key to pass over": (
        write(b'{"x":{"more":%b%b,%b}}' % (b"[" * 9**5, b"]" * 9**5, FIELDS), WHOLE),
        NO_FILE,
    ),
    "overlap": (
        write({"x": entry(), "y": entry([3], [12, 24])}, WHOLE),
        NO_FILE,
    ),
    "the same place": (write({"x": entry(), "y": entry()}, WHOLE), NO_FILE),
    "hole": (
        write({"x": entry([2], [0, 8]), "y": entry([2], [16, 24])}, WHOLE),
        NO_FILE,
    ),
    "offsets past the end": (write({"x": entry([12], [0, 48])}, WHOLE), NO_FILE),
    "offsets turned": (write({"x": entry(offsets=[24, 0])}, WHOLE), NO_FILE),
    "offsets negative": (write({"x": entry(offsets=[-24, 0])}, WHOLE), NO_FILE),
    "one offset": (write({"x": entry(offsets=[24])}, WHOLE), NO_FILE),
    "no offsets": (write({"x": {"dtype": "F32", "shape": [6]}}, WHOLE), NO_FILE),
    "bytes too many": (write({"x": entry()}, bytes(30)), NO_FILE),
    "bytes too few": (write({"x": entry()}, bytes(20)), NO_FILE),
    "shape too large": (write({"x": entry([2, 4])}, WHOLE), NO_FILE),
    "shape negative": (write({"x": entry([-2, -3])}, WHOLE), NO_FILE),
    "shape of fractions": (write({"x": entry([2.0, 3.0])}, WHOLE), NO_FILE),
    "shape of overflow": (write({"x": entry([2**33, 2**33])}, WHOLE), NO_FILE),
    "shape that wraps round": (write({"x": entry([2**62 + 6])}, WHOLE), NO_FILE),
    "empty but huge": (write({"x": entry([2**62, 0], [0, 0])}), "x: array is too"),
    "empty past int64": (write({"x": entry([2**64 - 1, 0], [0, 0])}), "x: "),
    "a hundred axes": (write({"x": entry([1] * 100, [0, 4])}, bytes(4)), "x: maximum"),
    "unknown dtype": (write({"x": entry(dtype="F33")}, WHOLE), NO_FILE),
    "dtype of no text": (write({"x": entry(dtype=[1])}, WHOLE), NO_FILE),
    "dtype that NumPy lacks": (
        write({"x": entry([48], dtype="F4")}, WHOLE),
        "x: dtype F4 cannot be read",
    ),
    "no truth value": (
        write({"x": entry([3], [0, 3], "BOOL")}, b"\0\1\2"),
        "x: holds what is neither true nor false",
    ),
    "tensor of no table": (write({"x": 1}, WHOLE), NO_FILE),
    "metadata of no text": (
        write({"x": entry(), "__metadata__": {"a": 1}}, WHOLE),
        NO_FILE,
    ),
    "metadata of no table": (
        write({"x": entry(), "__metadata__": "a"}, WHOLE),
        NO_FILE,
    ),
    "name twice": (
        write(b"{" + TENSOR + b"," + TENSOR + b"}", WHOLE),
        "x: stands twice in the header",
    ),
    "field twice": (
        write(b'{"x":{"dtype":"F32",' + FIELDS + b"}}", WHOLE),
        NO_FILE,
    ),
    "number of many digits": (
        write(b'{"x":{"shape":[' + b"9" * 10_000 + b"]}}", WHOLE),
        NO_FILE,
    ),
    "name of control characters": (
        write({"a\n\x1b[31m": entry(dtype="F4", shape=[48])}, WHOLE),
        "'a\\n\\x1b[31m': dtype F4",
    ),
    "name of control characters, in the library's words": (
        write({"a\n\x1b[31m": entry(offsets=[24, 0])}, WHOLE),
        f"{NO_FILE}: 'Error while deserializing header: ",
    ),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_refused_in_one_line(path, name):
    data, fragment = NONSENSE[name]
    path.write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        read_safetensors(path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path}: {fragment}") and line.isprintable()
    faults(path, {"x": PAIR.w})


def test_what_safetensors_leaves_open_is_read(path):
    digits = b'{"":{"more":[9%b,{"a":1e300}],%b}}' % (b"9" * 300, FIELDS)
    path.write_bytes(write(digits, WHOLE))
    assert_identical(read_safetensors(path)[""], np.zeros((2, 3), np.float32))
    path.write_bytes(write({}))
    assert read_safetensors(path) == {} == load_safetensors(path, {})


@pytest.mark.timeout(60)
def test_what_is_no_file_is_refused(path, tmp_path):
    with pytest.raises(FileNotFoundError):
        read_safetensors(path)
    with pytest.raises(WeightsError, match="is no file"):
        read_safetensors(tmp_path)
    os.mkfifo(path)
    with pytest.raises(WeightsError, match="is no file"):
        read_safetensors(path)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"a.b": PAIR.b, "a": {"b": PAIR.b}}, ValueError, "a.b: is the name of two"),
        ({"__metadata__": PAIR.b}, ValueError, "keeps for itself"),
        ({"a": PAIR.b, "b": [1.5]}, TypeError, "b.0: float is no array"),
        ({"a": PAIR.b.astype(complex)}, TypeError, "a: safetensors holds no complex"),
        ({"a": PAIR.b.astype(object)}, TypeError, "a: safetensors holds no object"),
    ],
)
def test_what_has_no_place_in_a_file_is_refused(path, tmp_path, params, error, message):
    with pytest.raises(error, match=message):
        save_safetensors(path, params)
    assert list(tmp_path.iterdir()) == []


def test_random_keys_are_refused(path):
    with pytest.raises(TypeError, match="key: safetensors holds no key<fry>"):
        save_safetensors(path, {"key": jax.random.key(0)})


def test_a_write_that_fails_changes_nothing(path, tmp_path, monkeypatch):
    save_safetensors(path, PAIR)
    before = path.read_bytes()

    def fail(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save_safetensors(path, make_params())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_package_is_named(path, monkeypatch):
    save_safetensors(path, PAIR)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for attempt in (
        lambda: save_safetensors(path, PAIR),
        lambda: load_safetensors(path, PAIR),
        lambda: read_safetensors(path),
    ):
        with pytest.raises(ImportError, match=r"pip install 'jaxlstm\[interop\]'"):
            attempt()


def test_a_header_takes_no_more_memory_than_the_file(path):
    path.write_bytes(write({"x": entry()}, WHOLE, length=LONGEST_HEADER))
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=NO_FILE):
            read_safetensors(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < LONGEST_HEADER / 2


MEASURE = """
import resource, sys
import numpy as np
import safetensors.numpy
from jaxlstm import interop

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        interop.load_safetensors(path, {"x": np.zeros(2, np.float32)})
    except interop.WeightsError as error:
        print(str(error).count("\\n") + 1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_is_bounded_by_the_template(tmp_path):
    sparse = tmp_path / "sparse"
    size = 2**37
    sparse.write_bytes(write({"x": entry([size // 4], [0, size])}))
    os.truncate(sparse, sparse.stat().st_size + size)
    lists = tmp_path / "lists"
    filling = b"[]," * ((LONGEST_HEADER - 100) // 3)
    lists.write_bytes(write(b'{"x":{"more":[%b0],%b}}' % (filling, FIELDS), WHOLE))
    many = tmp_path / "many"
    tensors = {f"t{n}": entry([1], [4 * n, 4 * n + 4]) for n in range(40_000)}
    many.write_bytes(write(tensors, bytes(160_000)))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, sparse, lists, many],
        cwd=tiny.ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    *lines, kibibytes = map(int, done.stdout.split())
    assert lines == [1, 1, 101]
    assert kibibytes < 200 * 1024


@pytest.mark.slow
def test_weights_of_a_run_go_out_and_come_back(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(tiny.CONFIG)
    commands.main(["run", "tiny.toml", "--out", "run"])
    run = load_run("run")
    interop.save_safetensors(path, run.params)
    template = jax.eval_shape(run.model.init, jax.random.key(0))
    params = interop.load_safetensors(path, template)
    jax.tree.map(assert_identical, params, run.params)
    state = run.model.initial_state(params, (2,))
    state, _ = run.model.unroll(params.recurrent, state, jnp.ones((1, 2, 2)))
    assert run.model.readout(params, state).shape == (2, 1)
