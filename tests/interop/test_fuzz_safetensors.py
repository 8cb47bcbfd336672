"""Mutants of safetensors files: each is refused in one error, or harmless."""

import copy
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxlstm.interop import (
    WeightsError,
    load_safetensors,
    read_safetensors,
    save_safetensors,
)
from jaxlstm.interop.safetensors import DTYPES
from jaxlstm.interop.weights import form, name_leaves
from tests.fuzzing import FUZZ, QUICK, Tally, mutants
from tests.interop.files import make_params, split, write

# What reading a file of a few hundred bytes may take.
MOST_BYTES = 2**20

Draw = Callable[[st.SearchStrategy], Any]

NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 8, -1, 2**31, 2**32, 2**63, 2**64, 1.5, 4.0])
TEXTS = st.sampled_from(["", "x", "cell.w_x", "cell.b", "count", "1", "a\nb", "\x1b["])
ANYTHING = st.one_of(NUMBERS, TEXTS, st.none(), st.booleans(), st.just([]), st.just({}))
MARKS = st.sampled_from(["", "1", "2", "1 ", "2 " + "0" * 64, "1 " + "0" * 64])


def _name(draw: Draw, header: dict[str, Any]) -> str:
    return draw(st.sampled_from(sorted(header)))


def _list(tensor: dict[str, Any], field: str) -> list[int]:
    """Returns a shape or offsets, empty where an edit has made them nonsense."""
    values = tensor.get(field)
    if not isinstance(values, list):
        return []
    return [value for value in values if isinstance(value, int)]


def change_dtype(draw: Draw, header: dict[str, Any]) -> None:
    dtype = st.one_of(st.sampled_from([*DTYPES, "F8_E4M3", "F4", "f32"]), ANYTHING)
    header[_name(draw, header)]["dtype"] = draw(dtype)


def change_shape(draw: Draw, header: dict[str, Any]) -> None:
    tensor = header[_name(draw, header)]
    shape = _list(tensor, "shape")
    kinds = st.permutations(shape), st.lists(NUMBERS, max_size=4), ANYTHING
    tensor["shape"] = draw(st.one_of(*kinds, st.just([1, *shape])))


def change_offsets(draw: Draw, header: dict[str, Any]) -> None:
    tensor = header[_name(draw, header)]
    ends = {end for other in header.values() for end in _list(other, "data_offsets")}
    near = st.sampled_from(sorted({end + d for end in ends for d in (-1, 0, 1)} | {0}))
    pair = st.lists(near, min_size=2, max_size=2)
    tensor["data_offsets"] = draw(st.one_of(pair, st.lists(NUMBERS), ANYTHING))


def change_name(draw: Draw, header: dict[str, Any]) -> None:
    tensor = header.pop(_name(draw, header))
    header[draw(TEXTS)] = tensor


def swap_tensors(draw: Draw, header: dict[str, Any]) -> None:
    a, b = _name(draw, header), _name(draw, header)
    header[a], header[b] = header[b], header[a]


def drop_tensor(draw: Draw, header: dict[str, Any]) -> None:
    del header[_name(draw, header)]


def copy_tensor(draw: Draw, header: dict[str, Any]) -> None:
    header[draw(TEXTS)] = copy.deepcopy(header[_name(draw, header)])


def replace_tensor(draw: Draw, header: dict[str, Any]) -> None:
    header[_name(draw, header)] = draw(st.dictionaries(TEXTS, ANYTHING))


def add_field(draw: Draw, header: dict[str, Any]) -> None:
    header[_name(draw, header)][draw(TEXTS)] = draw(ANYTHING)


EDITS = (
    change_dtype,
    change_shape,
    change_offsets,
    change_name,
    swap_tensors,
    drop_tensor,
    copy_tensor,
    replace_tensor,
    add_field,
)


@st.composite
def headers_edited(draw: Draw, original: bytes) -> bytes:
    """Draws a file whose header is JSON still, and says something else."""
    header, data = split(original)
    header = copy.deepcopy(header)
    metadata = header.pop("__metadata__", None)
    for edit in draw(st.lists(st.sampled_from(EDITS), max_size=3)):
        if header:
            edit(draw, header)
    if draw(st.integers(0, 3)) == 0:
        mark = st.dictionaries(st.just("jaxlstm"), MARKS)
        metadata = draw(st.one_of(st.none(), mark, ANYTHING))
    if metadata is not None:
        header["__metadata__"] = metadata
    if draw(st.integers(0, 3)) == 0:
        data = draw(mutants(data))
    file = write(header, data)
    assume(file != original)
    if draw(st.integers(0, 7)) == 0:
        lengths = st.one_of(st.integers(0, len(file)), st.integers(0, 2**64 - 1))
        file = draw(lengths).to_bytes(8, "little") + file[8:]
    return file


def has_hash(path: Path) -> bool:
    """Returns whether a readable file has metadata of ours."""
    with safe_open(path, framework="np") as file:
        return "jaxlstm" in (file.metadata() or {})


def is_identical(actual: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Returns whether arrays are the same by names, shapes, dtypes and bytes."""
    return {name: (form(a), np.asarray(a).tobytes()) for name, a in actual.items()} == {
        name: (form(a), np.asarray(a).tobytes()) for name, a in expected.items()
    }


@pytest.mark.parametrize("writer", ["written here", "foreign"])
@pytest.mark.parametrize(
    "budget",
    [
        pytest.param(QUICK, id="quick"),
        pytest.param(
            FUZZ, id="whole", marks=[pytest.mark.slow, pytest.mark.timeout(900)]
        ),
    ],
)
def test_mutants_are_refused_or_harmless(writer, budget, tmp_path, record_property):
    params = make_params()
    leaves = name_leaves(params)
    forms = {name: form(leaf) for name, leaf in leaves.items()}
    path = tmp_path / "mutant"
    if writer == "foreign":
        save_file(leaves, path)
    else:
        save_safetensors(path, params)
    original = path.read_bytes()
    load_safetensors(path, params)  # What is imported once is no part of the peak.
    identical = 0

    def load(mutant: bytes) -> Any:
        path.write_bytes(mutant)
        tracemalloc.start()
        try:
            return load_safetensors(path, params)
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < MOST_BYTES

    with (
        Tally(f"safetensors {writer}, with a template", record_property) as loaded,
        Tally(f"safetensors {writer}, without", record_property) as read,
    ):

        @budget
        @given(st.one_of(mutants(original), headers_edited(original)))
        def check(mutant: bytes) -> None:
            nonlocal identical
            try:
                found = name_leaves(load(mutant))
            except WeightsError as error:
                assert all(line.startswith(f"{path}: ") for line in error.lines)
                assert all(line.isprintable() for line in error.lines)
                loaded.refuse()
            else:
                loaded.accept()
                assert {name: form(leaf) for name, leaf in found.items()} == forms
                assert all(np.isfinite(leaf).all() for leaf in found.values())
                same = is_identical(found, leaves)
                identical += same
                assert same or not has_hash(path)
            try:
                arrays = read_safetensors(path)
            except WeightsError:
                read.refuse()
            else:
                read.accept()
                assert sum(array.nbytes for array in arrays.values()) <= len(mutant)
                assert is_identical(arrays, leaves) or not has_hash(path)

        check()
    print(f"identical to the original: {identical} of the {loaded.accepted} accepted")
    record_property("identical", identical)
    assert loaded.total == read.total >= budget.max_examples
    assert 0 < loaded.accepted < loaded.total / 2
