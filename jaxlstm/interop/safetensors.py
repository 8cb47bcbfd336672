"""Weights in safetensors files: names, shapes, dtypes and bytes, nothing to execute.

A file that was written here has one entry among its metadata, `jaxlstm`: the version of
the form, which is 1, and the SHA-256 of all names, dtypes, shapes and bytes. Whatever
writes safetensors can be read, and whatever reads them can read what is written here.

Bounds of the header, offsets and sizes are checked by the library safetensors before a
tensor is read. It maps the file, so a file must not be cut short while it is read.
"""

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.interop.files import FilePath, write_file
from jaxlstm.interop.weights import (
    LONGEST_REASON,
    Form,
    WeightsError,
    compare_forms,
    digest,
    find_non_finite,
    form,
    name_leaves,
    prefix,
    show,
)
from jaxlstm.types import PyTree

KEY, VERSION = "jaxlstm", "1"
# The name of the metadata in a header, which no tensor can have.
METADATA = "__metadata__"
# Some forty thousand tensors: what Python makes of a header takes many times its size.
LONGEST_HEADER = 4 * 2**20
DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}


def save_safetensors(
    path: FilePath, params: PyTree, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes parameters to a safetensors file, which appears whole or not at all.

    Args:
      path: of the file; one that is there is replaced.
      params: a tree of arrays. Their names are their paths: `recurrent.layers.0.w_x`.
      metadata: what else the file says of itself, as `read_metadata` returns it. It is
        no part of the hash.

    Raises:
      ImportError: the package safetensors is not installed.
      OSError: the file cannot be written; then it is as it was.
      TypeError: a leaf is no array, or its dtype has no place in such a file.
      ValueError: two arrays have the same name, or one has that of the metadata; an
        entry of these is named `jaxlstm`; or names and metadata are too long to be
        read back.
    """
    _import_library()
    from safetensors.numpy import save

    arrays = {}
    for name, leaf in name_leaves(params).items():
        if name == METADATA:
            raise ValueError(f"{name}: is a name that safetensors keeps for itself")
        if leaf.dtype.name not in DTYPES.values():
            raise TypeError(f"{show(name)}: safetensors holds no {leaf.dtype.name}")
        # The library takes the memory of an array as it lies.
        array = np.asarray(leaf, order="C")
        arrays[name] = array.astype(array.dtype.newbyteorder("<"), copy=False)
    metadata = dict(metadata or {})
    if KEY in metadata:
        raise ValueError(f"metadata: {KEY} is the entry of the file's own hash")
    data = save(arrays, metadata={KEY: f"{VERSION} {digest(arrays)}"} | metadata)
    length = int.from_bytes(data[:8], "little")
    if length > LONGEST_HEADER:
        raise ValueError(
            f"metadata: names and metadata have {length} bytes, of which "
            f"{LONGEST_HEADER} can be read back"
        )
    write_file(path, data)


def load_safetensors(
    path: FilePath, template: PyTree, *, allow_non_finite: bool = False
) -> PyTree:
    """Returns parameters like a template, from a safetensors file.

    No value is read before names, shapes and dtypes are known to be those of the
    template.

    Args:
      path: of the file.
      template: a tree of arrays or of `jax.ShapeDtypeStruct`, such as
        `jax.eval_shape(model.init, key)` gives.
      allow_non_finite: whether infinity and NaN are taken as they are.

    Returns:
      A tree of the template's structure, of arrays on the default device.

    Raises:
      ImportError: the package safetensors is not installed.
      OSError: the file cannot be opened.
      WeightsError: the file is no safetensors file, does not fit the template, does not
        match the hash that it has if it was written here, or holds what is not finite.
    """
    leaves = name_leaves(template)
    wanted = {name: form(leaf) for name, leaf in leaves.items()}
    with _open(path) as (file, found):
        faults = compare_forms(found, wanted) or _check_precision(wanted)
        if faults:
            raise prefix(path, faults)
        arrays = _read(path, file, found)
    faults = [] if allow_non_finite else find_non_finite(arrays)
    if faults:
        raise prefix(path, faults)
    return jax.tree.unflatten(
        jax.tree.structure(template), [jnp.asarray(arrays[name]) for name in leaves]
    )


def read_safetensors(path: FilePath) -> dict[str, np.ndarray]:
    """Returns what is in a safetensors file, whoever wrote it, by name.

    Values that are not finite are taken as they are.

    Args:
      path: of the file.

    Raises:
      ImportError: the package safetensors is not installed.
      OSError: the file cannot be opened.
      WeightsError: the file is no safetensors file, has a dtype that NumPy and
        ml_dtypes lack, or does not match the hash that it has if it was written here.
    """
    with _open(path) as (file, found):
        return _read(path, file, found)


def read_metadata(path: FilePath) -> dict[str, str]:
    """Returns what a safetensors file says of itself, but for its hash.

    Args:
      path: of the file.

    Raises:
      ImportError: the package safetensors is not installed.
      OSError: the file cannot be opened.
      WeightsError: the file is no safetensors file, or has a dtype that NumPy and
        ml_dtypes lack.
    """
    with _open(path) as (file, _):
        entries = file.metadata() or {}
    return {name: text for name, text in entries.items() if name != KEY}


def _import_library() -> Any:
    try:
        import safetensors
    except ModuleNotFoundError as error:
        if error.name != "safetensors":
            raise
        raise ModuleNotFoundError(
            "safetensors files need the package safetensors: pip install "
            "'jaxlstm[interop]'",
            name="safetensors",
        ) from None
    return safetensors


@contextlib.contextmanager
def _open(path: FilePath) -> Iterator[tuple[Any, dict[str, Form]]]:
    """Opens a file and checks its header; gives it, and what its tensors are."""
    library = _import_library()
    # What is no file may have no end, or wait for a writer.
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise WeightsError(f"{path}: is no file")
    header = _read_header(path, status.st_size)
    try:
        with library.safe_open(path, framework="np") as file:
            _check_twins(path, header)
            yield file, _read_forms(path, file)
    except library.SafetensorError as error:
        raise _no_safetensors(path, error) from None


def _no_safetensors(path: FilePath, error: Exception) -> WeightsError:
    reason = show(str(error), LONGEST_REASON)
    return WeightsError(f"{path}: is no safetensors file: {reason}")


def _read_header(path: FilePath, size: int) -> bytes:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LONGEST_HEADER:
            raise WeightsError(
                f"{path}: is no safetensors file, or one of very many tensors: its "
                f"header has {length} bytes, of which {LONGEST_HEADER} are read at most"
            )
        return file.read(min(length, size))


def _check_twins(path: FilePath, header: bytes) -> None:
    """Raises unless each name stands once in a header; the library takes the last."""

    def check(pairs: list[tuple[str, Any]]) -> None:
        names = set()
        for name, _ in pairs:
            if name in names:
                raise WeightsError(f"{path}: {show(name)}: stands twice in the header")
            names.add(name)

    try:
        json.loads(header, object_pairs_hook=check)
    except WeightsError:
        raise
    except (ValueError, RecursionError) as error:
        raise _no_safetensors(path, error) from None


def _read_forms(path: FilePath, file: Any) -> dict[str, Form]:
    forms, faults = {}, []
    for name in file.keys():
        tensor = file.get_slice(name)
        dtype = DTYPES.get(tensor.get_dtype())
        if dtype is None:
            faults.append(f"{show(name)}: dtype {tensor.get_dtype()} cannot be read")
        else:
            forms[name] = Form(tuple(tensor.get_shape()), dtype)
    if faults:
        raise prefix(path, faults)
    return forms


def _check_precision(forms: Mapping[str, Form]) -> list[str]:
    """Returns a line for each array that JAX would round, being left at 32 bits."""
    return [
        f"{show(name)}: {dtype} needs jax.config.update('jax_enable_x64', True)"
        for name, (_, dtype) in forms.items()
        if jax.dtypes.canonicalize_dtype(dtype).name != dtype
    ]


def _read(
    path: FilePath, file: Any, forms: Mapping[str, Form]
) -> dict[str, np.ndarray]:
    arrays, faults = {}, []
    for name in forms:
        try:
            array = np.asarray(file.get_tensor(name))
        except ValueError as error:  # A shape that NumPy has no room for.
            faults.append(f"{show(name)}: {show(str(error), LONGEST_REASON)}")
            continue
        if array.dtype == bool and (array.view(np.uint8) > 1).any():
            faults.append(f"{show(name)}: holds what is neither true nor false")
        arrays[name] = array
    if faults:
        raise prefix(path, faults)
    _check_hash(path, (file.metadata() or {}).get(KEY), arrays)
    return arrays


def _check_hash(
    path: FilePath, written: str | None, arrays: Mapping[str, np.ndarray]
) -> None:
    """Raises unless arrays are those that were written, where the file says which."""
    if written is None:
        return
    version = written.split(" ")[0]
    if version != VERSION:
        raise WeightsError(
            f"{path}: is of version {show(version)}, and {VERSION} can be read; take a "
            "newer jaxlstm"
        )
    if written != f"{VERSION} {digest(arrays)}":
        raise WeightsError(
            f"{path}: does not match its own hash: it was damaged or edited; bring "
            "back the file as it was saved"
        )
