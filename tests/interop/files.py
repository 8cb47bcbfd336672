"""Safetensors files for tests: parameters that hide nothing, and files by hand."""

import json
from typing import Any

import ml_dtypes
import numpy as np

from jaxlstm import LSTMParams

EPSILON = np.finfo(np.float32).eps


def make_params() -> dict[str, Any]:
    """Returns a tree with scalars, empty arrays, two shapes alike and four dtypes."""
    random = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    return {
        "cell": LSTMParams(draw(2, 4), draw(1, 4), draw(4)),
        "layers": [draw(2, 4), (np.array([-0.0, EPSILON], ml_dtypes.bfloat16),)],
        "count": np.array(2**31 - 1, np.int32),
        "empty": np.zeros((0, 3), np.float32),
        "mask": np.array([True, False, True]),
    }


def write(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """Returns a file.

    Args:
      header: bytes, or what becomes JSON.
      data: what follows.
      length: of the header as the file states it; without it, what it is.
    """
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    length = len(header) if length is None else length
    return length.to_bytes(8, "little") + header + data


def split(file: bytes) -> tuple[dict[str, Any], bytes]:
    """Returns header and data of a valid file."""
    end = 8 + int.from_bytes(file[:8], "little")
    return json.loads(file[8:end]), file[end:]


def assert_identical(actual: Any, expected: Any) -> None:
    """Compares two arrays: shape, dtype and bytes."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    assert actual.tobytes() == expected.tobytes()
