"""Files of weights: which format one is of, and the arrays in it.

Nothing that is read is executed: of PyTorch's files by `torch.load(weights_only=True)`,
of the others by nature.
"""

import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxlstm import interop
from jaxlstm.interop.weights import LONGEST_REASON, MOST_LINES, show
from jaxlstm.lab.errors import UserError

Format = Literal["safetensors", "torch", "onnx", "keras"]

TITLES: dict[Format, str] = {
    "safetensors": "a safetensors file",
    "torch": "a file of PyTorch",
    "onnx": "a file of ONNX",
    "keras": "a file of Keras",
}
# A header of safetensors begins with its length, and then is JSON.
LENGTH = 8
# Where a state_dict of ours says what it is of, among the versions of its modules.
ORIGIN = "jaxlstm"
ZIP, PICKLE, HDF5 = b"PK\x03\x04", b"\x80", b"\x89HDF"


class Named(NamedTuple):
    """What a file of named arrays holds.

    Attributes:
      arrays: by their names: of NumPy, or tensors of PyTorch.
      metadata: what the file says of itself.
    """

    arrays: dict[str, Any]
    metadata: dict[str, str]


def find_format(path: Path) -> Format:
    """Returns which format a file is of, by what is in it; of ONNX, by its name.

    Raises:
      UserError: it is no file, or one of another format.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; name one of weights")
    if not path.is_file():
        raise UserError(f"{path}: is no file; name one of weights")
    with path.open("rb") as file:
        head = file.read(LENGTH + 1)
    if head.startswith(ZIP):
        return _find_format_of_zip(path)
    if head.startswith(HDF5):
        return "keras"
    if head.startswith(PICKLE):
        return "torch"
    if path.suffix == ".onnx":
        return "onnx"
    if path.suffix == ".safetensors" or head[LENGTH:] == b"{":
        return "safetensors"
    raise UserError(
        f"{path}: is a file of weights of none of the formats that can be read, "
        f"{', '.join(TITLES)}"
    )


def _find_format_of_zip(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            compressed = [
                each.filename
                for each in archive.infolist()
                if each.compress_type != zipfile.ZIP_STORED
            ]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(path, "a zip archive", error) from None
    if "config.json" in names:
        return "keras"
    if not any(name.endswith("data.pkl") for name in names):
        raise UserError(f"{path}: is a zip archive, and none of PyTorch or Keras")
    if compressed:
        # PyTorch compresses nothing, and what is not may not grow as it is read.
        raise UserError(
            f"{path}: {show(compressed[0])}: is compressed, as PyTorch writes no file; "
            "save it again by torch.save"
        )
    return "torch"


def read_named(path: Path, found: Format) -> Named:
    """Returns the arrays of a file by name.

    Args:
      path: of the file.
      found: its format, "safetensors" or "torch".

    Raises:
      UserError: it cannot be read.
    """
    readers: dict[Format, Callable[[Path], Named]] = {
        "safetensors": _read_safetensors,
        "torch": _read_torch,
    }
    return readers[found](path)


def _read_safetensors(path: Path) -> Named:
    try:
        return Named(interop.read_safetensors(path), interop.read_metadata(path))
    except interop.WeightsError as error:
        raise UserError(*error.lines) from None
    except ImportError as error:
        raise UserError(f"{path}: {error}") from None


def _read_torch(path: Path) -> Named:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"{path}: is a file of PyTorch, and torch is not installed; pip install "
            "torch, or save the state_dict by safetensors.torch.save_file"
        ) from None
    try:
        with warnings.catch_warnings():
            # What is wrong with a file is said below, in one line.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    # What is in a damaged file may raise anything, by a reader that is not ours.
    except Exception as error:
        raise _no_weights_alone(path, error) from None
    found = _find_tensors(content, torch.Tensor)
    if found is None:
        raise UserError(
            f"{path}: holds {type(content).__name__} and no state_dict, tensors by "
            "name; save model.state_dict()"
        )
    reasons = {
        name: _find_oddity(name, value)
        for name, value in found.items()
        if not isinstance(name, str) or isinstance(value, torch.Tensor)
    }
    lines = [
        f"{path}: {show(str(name))}: {reason}"
        for name, reason in reasons.items()
        if reason is not None
    ]
    if lines:
        raise UserError(*lines[:MOST_LINES])
    return Named(dict(found), _read_origin(found))


def _find_tensors(content: Any, kind: type) -> Mapping[Any, Any] | None:
    """Returns a state_dict, or the one in what was saved beside other things.

    Args:
      content: of the file.
      kind: of tensors.
    """

    def is_state_dict(value: Any) -> bool:
        return isinstance(value, Mapping) and any(
            isinstance(entry, kind) for entry in value.values()
        )

    if is_state_dict(content):
        return content
    if isinstance(content, Mapping):
        inner = [value for value in content.values() if is_state_dict(value)]
        if len(inner) == 1:
            return inner[0]
    return None


def _find_oddity(name: Any, tensor: Any) -> str | None:
    """Returns why an entry of a state_dict is none of plain numbers, or None."""
    if not isinstance(name, str):
        return f"is a name of type {type(name).__name__}; name tensors by text"
    if tensor.is_meta:
        return "has no values, being on the device meta; save tensors that have some"
    layout = "nested" if tensor.is_nested else str(tensor.layout)
    if layout != "torch.strided":
        kind = layout.removeprefix("torch.")
        return f"is a tensor of layout {kind}; save a dense one"
    if tensor.is_quantized:
        return "is quantized; save tensor.dequantize()"
    return None


def _read_origin(state_dict: Mapping[Any, Any]) -> dict[str, str]:
    """Returns what a state_dict says of itself, where modules keep their versions."""
    versions = getattr(state_dict, "_metadata", None)
    entries = versions.get(ORIGIN) if isinstance(versions, Mapping) else None
    if not isinstance(entries, Mapping):
        return {}
    return {
        name: text
        for name, text in entries.items()
        if isinstance(name, str) and isinstance(text, str)
    }


def _no_weights_alone(path: Path, error: Exception) -> UserError:
    """Returns what is said in place of PyTorch's advice to run what is in a file."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named is None and "weights_only" not in str(error):
        return _damaged(path, "a file of weights alone", error)
    reason = "it is damaged, or no file of weights"
    if named is not None:
        reason = f"it asks for {show(named[1])}, and no code is run for a file"
    return UserError(
        f"{path}: cannot be read as a file of weights alone: {reason}; save "
        "model.state_dict()"
    )


def _damaged(path: Path, kind: str, error: Exception) -> UserError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = show(lines[0], LONGEST_REASON)
    return UserError(
        f"{path}: cannot be read as {kind}: {reason}; save the weights again"
    )
