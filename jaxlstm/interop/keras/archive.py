"""Keras's model files, `.keras` and `.h5`, read as JSON and arrays of numbers.

A file may come from anywhere. Of a `.keras` file, a zip, three members are read by
their names, and none is unpacked to the disk. Nothing that a file holds is executed:
there is no pickle, and no object is made by a name in the config. What is read is at
most as large as the file, but for a member that is packed, which has a bound.
"""

import contextlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.interop.files import FilePath
from jaxlstm.interop.weights import LONGEST_REASON, WeightsError, show

METADATA, CONFIG, WEIGHTS = "metadata.json", "config.json", "model.weights.h5"
# Keras packs no member. Of others, what is short may be mostly empty; what is long is
# mostly weights, which do not pack well.
SHORT, MOST_PACKED = 16 * 2**20, 10
MOST_MEMBERS, MOST_OBJECTS = 1_000, 100_000
LEGACY = "model_weights"


class Archive(NamedTuple):
    """What a file holds.

    Attributes:
      path: of the file.
      version: of Keras, as far as the major number, such as 3.
      config: of the model: {"class_name": ..., "config": ...}.
      arrays: by their names in the HDF5 part.
      orders: of an `.h5` file, the names of the arrays of each layer in the order of
        `get_weights`; None of a `.keras` file.
    """

    path: FilePath
    version: int
    config: dict[str, Any]
    arrays: dict[str, np.ndarray]
    orders: dict[str, list[str]] | None


def read_archive(path: FilePath) -> Archive:
    """Returns what a `.keras` or `.h5` file of a whole model holds.

    Raises:
      ImportError: the package h5py is not installed.
      OSError: the file cannot be opened.
      WeightsError: the file is damaged, or not of that kind.
    """
    if not os.path.isfile(path):
        os.stat(path)
        raise WeightsError(f"{path}: is no file")
    _import_library()
    if zipfile.is_zipfile(path):
        return _read_zip(path)
    with _complain(path, "is neither a .keras nor an .h5 file"):
        return _read_legacy(path)


def _import_library() -> Any:
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if error.name != "h5py":
            raise
        raise ModuleNotFoundError(
            "the weights in Keras's files need the package h5py: pip install h5py",
            name="h5py",
        ) from None
    return h5py


@contextlib.contextmanager
def _complain(path: FilePath, what: str) -> Iterator[None]:
    """Turns what libraries raise on damaged files into one line."""
    try:
        yield
    except WeightsError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        NotImplementedError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = show(" ".join(str(error).split()), LONGEST_REASON)
        raise WeightsError(f"{path}: {what}: {reason}") from None


def _read_zip(path: FilePath) -> Archive:
    with _complain(path, "is no .keras file"), zipfile.ZipFile(path) as file:
        names = [info.filename for info in file.infolist()]
        _check_members(path, names)
        infos = dict(zip(names, file.infolist(), strict=True))
        metadata = _parse(path, METADATA, _read_member(path, file, infos, METADATA))
        config = _parse(path, CONFIG, _read_member(path, file, infos, CONFIG))
        version = _read_version(path, metadata.get("keras_version"))
        data = io.BytesIO(_read_member(path, file, infos, WEIGHTS))
    with (
        _complain(path, f"{WEIGHTS} is no HDF5 file"),
        _import_library().File(data, "r") as weights,
    ):
        arrays = _read_arrays(path, weights, data.getbuffer().nbytes)
    return Archive(path, version, config, arrays, None)


def _check_members(path: FilePath, names: list[str]) -> None:
    if len(names) > MOST_MEMBERS:
        raise WeightsError(f"{path}: has {len(names)} members, which are too many")
    for name in names:
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise WeightsError(f"{path}: {show(name)}: leads out of the archive")
        if names.count(name) > 1:
            raise WeightsError(f"{path}: {show(name)}: stands twice in the archive")
    for name in (METADATA, CONFIG, WEIGHTS):
        if name not in names:
            raise WeightsError(
                f"{path}: {name}: is missing; a file of model.save('NAME.keras') has it"
            )


def _read_member(
    path: FilePath,
    file: zipfile.ZipFile,
    infos: dict[str, zipfile.ZipInfo],
    name: str,
) -> bytes:
    info = infos[name]
    bound = SHORT + (MOST_PACKED * info.compress_size if name == WEIGHTS else 0)
    if info.file_size > bound:
        raise WeightsError(
            f"{path}: {name}: unpacks {info.compress_size} bytes to {info.file_size}; "
            f"at most {bound} are read"
        )
    with file.open(info) as member:
        data = member.read(info.file_size)
        # What is left would be more than was declared; reading it checks the sum too.
        if member.read(1) or len(data) != info.file_size:
            raise WeightsError(f"{path}: {name}: is not as long as the archive says")
    return data


def _parse(path: FilePath, name: str, data: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = show(str(error), LONGEST_REASON)
        raise WeightsError(f"{path}: {name}: is no JSON: {reason}") from None
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: {name}: is no JSON object")
    return value


def _read_version(path: FilePath, version: Any) -> int:
    """Returns the major number of a version such as "3.15.1"."""
    major = str(version).split(".")[0]
    if not (major.isascii() and major.isdigit() and len(major) < 4):
        raise WeightsError(
            f"{path}: keras_version: {show(repr(version))} is no version of Keras"
        )
    return int(major)


def _read_legacy(path: FilePath) -> Archive:
    with _import_library().File(path, "r") as file:
        if "model_config" not in file.attrs:
            raise WeightsError(
                f"{path}: has no model_config: these are weights alone; save the "
                "model whole, by model.save('NAME.keras')"
            )
        config = _parse(path, "model_config", _text(file.attrs["model_config"]))
        # Files of Keras 1 do not say which one wrote them.
        version = _read_version(path, _text(file.attrs.get("keras_version", "1")))
        arrays = _read_arrays(path, file, os.path.getsize(path))
        group, orders = file.get(LEGACY), {}
        if not isinstance(group, _import_library().Group):
            raise WeightsError(f"{path}: has no {LEGACY}")
        for layer in group:
            names = group[layer].attrs.get("weight_names", [])
            orders[layer] = [f"{LEGACY}/{layer}/{_text(name)}" for name in names]
    return Archive(path, version, config, arrays, orders)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _read_arrays(path: FilePath, file: Any, size: int) -> dict[str, np.ndarray]:
    """Returns the arrays of layers in an open HDF5 file, by their names.

    Links to elsewhere, in the file or out of it, are not followed.

    Args:
      path: of the file, for the messages.
      file: open.
      size: of it in bytes; arrays are not larger all together.
    """
    library, found, faults = _import_library(), {}, []
    count = 0

    def visit(name: str, item: Any) -> None:
        nonlocal count
        count += 1
        if count > MOST_OBJECTS:
            raise WeightsError(f"{path}: holds more than {MOST_OBJECTS} objects")
        if isinstance(item, library.Dataset) and not name.startswith("optimizer"):
            found[name] = item

    file.visititems(visit)
    left = size
    for name, item in found.items():
        filters = item.id.get_create_plist().get_nfilters()
        if item.dtype.kind not in "fiubV":
            faults.append(f"{show(name)}: holds no numbers, but {item.dtype}")
        elif item.external or item.is_virtual:
            faults.append(f"{show(name)}: has its numbers in another file")
        elif filters or item.id.get_storage_size() != item.nbytes or item.nbytes > left:
            faults.append(
                f"{show(name)}: shape {item.shape} is not what the file holds of it, "
                "or is packed, as Keras does not"
            )
        else:
            left -= item.nbytes
    if faults:
        raise WeightsError(*(f"{path}: {fault}" for fault in faults))
    return {name: np.asarray(item[()]) for name, item in found.items()}
