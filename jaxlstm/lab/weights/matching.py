"""What is in a file of weights, held against the model of a config."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.interop.tensors import as_array
from jaxlstm.interop.weights import MOST_LINES, name_leaves, show
from jaxlstm.lab.config import Config
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.vocabulary import Vocabulary
from jaxlstm.model import ModelParams

# Keys of [model] that change how weights are drawn, trained or computed with, and not
# what is computed of them.
NEUTRAL = {
    "chrono",
    "compute_dtype",
    "derivative",
    "dropout",
    "dtype",
    "engine",
    "forget_bias",
    "initializer",
}

# Dtypes that are taken for a longer one among them.
FLOATS = {"bfloat16", "float16", "float32", "float64"}


def check_forms(
    path: Path, arrays: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    """Raises unless a file has the arrays that a model asks for, a line for each.

    A shorter dtype is taken for a longer one, which holds the same numbers.

    Args:
      path: of the file.
      arrays: of it, by name.
      wanted: what has the shapes and dtypes that are asked for, by name.

    Raises:
      UserError: arrays are missing, in excess, or of another shape or dtype.
    """
    lines = []
    for name in [*wanted, *(name for name in arrays if name not in wanted)]:
        found, asked = arrays.get(name), wanted.get(name)
        if found is None or asked is None or not _fits(found, asked):
            lines.append(
                f"{path}: {show(str(name))} is {_tell(found) or 'not there'}, and the "
                f"config's model asks for {_tell(asked) or 'none'}"
            )
    if lines:
        rest = len(lines) - MOST_LINES
        lines = [
            *lines[:MOST_LINES],
            *([f"{path}: and {rest} more"] if rest > 0 else []),
        ]
        raise UserError(*lines)


def _fits(found: Any, asked: Any) -> bool:
    dtype = _dtype(found)
    return (
        dtype is not None
        and tuple(found.shape) == tuple(asked.shape)
        and dtype.name in FLOATS
        and jnp.promote_types(dtype, asked.dtype) == asked.dtype
    )


def _dtype(array: Any) -> Any:
    """Returns the dtype of an array, or of a tensor of PyTorch; or None."""
    name = str(getattr(array, "dtype", "")).removeprefix("torch.")
    try:
        return jnp.dtype(name)
    except TypeError:
        return None


def _tell(array: Any) -> str:
    if array is None:
        return ""
    dtype = _dtype(array)
    if dtype is None or not hasattr(array, "shape"):
        return type(array).__name__
    return f"{dtype.name}{list(array.shape)}"


def convert(
    path: Path, arrays: Mapping[str, Any], wanted: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Returns arrays of the dtypes that are asked for; their forms have been checked.

    Raises:
      UserError: values cannot be read, or are not finite.
    """
    converted, lines = {}, []
    for name, asked in wanted.items():
        array = as_array(arrays[name])
        if array is None:
            lines.append(f"{path}: {show(name)}: cannot be read as plain numbers")
            continue
        converted[name] = array.astype(asked.dtype)
        wrong = array.size - np.count_nonzero(np.isfinite(array))
        if wrong:
            lines.append(
                f"{path}: {show(name)}: {wrong} of {array.size} values are not finite; "
                "take other weights"
            )
    if lines:
        raise UserError(*lines)
    return converted


def into_tree(arrays: Mapping[str, np.ndarray], template: ModelParams) -> ModelParams:
    """Returns parameters of arrays by the names of our own tree."""
    leaves = [jnp.asarray(arrays[name]) for name in name_leaves(template)]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def check_origin(path: Path, metadata: Mapping[str, str], config: Config) -> None:
    """Holds what a file says of its weights against a config, where it says something.

    Weights of the same shapes may be of another cell, or of other symbols, of which
    they tell nothing themselves.

    Raises:
      UserError: the file is of another model, or of another vocabulary.
    """
    lines = [
        f"{path}: is of a model with model.{key} = {json.dumps(was)}, and the config "
        f"has {json.dumps(now)}; change the config"
        for key, was, now in _find_differences(metadata.get("config", ""), config)
    ]
    text, vocabulary = metadata.get("vocabulary"), config.task.vocabulary()
    if text is not None and vocabulary is not None:
        lines += _compare_symbols(path, text, vocabulary)
    if lines:
        raise UserError(*lines)


def _find_differences(text: str, config: Config) -> list[tuple[str, Any, Any]]:
    try:
        there = tomllib.loads(text).get("model", {})
    except (tomllib.TOMLDecodeError, RecursionError):
        return []
    here = config.resolved()["model"]
    return [
        (key, there[key], here[key])
        for key in here
        if key in there and key not in NEUTRAL and there[key] != here[key]
    ]


def _compare_symbols(path: Path, text: str, vocabulary: Vocabulary) -> list[str]:
    try:
        there = list(json.loads(text)["symbols"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    here = list(vocabulary.symbols)
    if there == here:
        return []
    if len(there) != len(here):
        told = f"{len(there)} symbols, and the config's task {len(here)}"
    else:
        place = next(n for n, s in enumerate(here) if s != there[n])
        told = (
            f"{show(repr(there[place]))} as symbol {place}, and the config's task "
            f"{show(repr(here[place]))}"
        )
    return [f"{path}: has {told}; take the text that it was trained on"]
