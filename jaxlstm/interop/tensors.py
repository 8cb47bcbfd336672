"""Named tensors of another framework, as NumPy arrays of floating-point numbers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.interop.weights import LONGEST_REASON, WeightsError, show
from jaxlstm.layers import Directions
from jaxlstm.types import Array

Shape = tuple[int, ...]
# Where the cell of a layer stands, or both, and where those of all layers do.
Paths = str | Directions
Layers = Paths | Sequence[Paths]


def check_mapping(weights: Any) -> None:
    """Raises WeightsError unless weights are a mapping of names to tensors."""
    if isinstance(weights, Mapping):
        return
    kind = type(weights).__name__
    advice = "a mapping is needed"
    if hasattr(weights, "state_dict"):
        advice = "give its state_dict()"
    raise WeightsError(f"weights: {kind} has no names and tensors; {advice}")


def select(weights: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Returns what stands under a prefix, by names without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if isinstance(name, str) and name.startswith(prefix)
    }


def not_there(weights: Mapping[str, Any], prefix: str, ending: str) -> WeightsError:
    """Returns an error that says which prefixes there are in place of one.

    Args:
      weights: by name.
      prefix: under which they were sought.
      ending: what follows a prefix in the name that was sought first.
    """
    there = [
        repr(name.removesuffix(ending))
        for name in weights
        if isinstance(name, str) and name.endswith(ending)
    ]
    inner = [repr(key) for key, value in weights.items() if isinstance(value, Mapping)]
    if there:
        advice = f"prefixes of one are {', '.join(there)}"
    elif inner:
        advice = f"give the entry that holds the tensors: {' or '.join(inner)}"
    else:
        advice = "nor has any other"
    return WeightsError(
        f"prefix: {show(repr(prefix))} has no {ending}; {show(advice, LONGEST_REASON)}"
    )


def convert(
    tensors: Mapping[str, Any], prefix: str, dtype: Any
) -> dict[str, np.ndarray]:
    """Returns tensors as arrays of one dtype, which JAX can hold.

    Args:
      tensors: by names without the prefix: anything that `numpy.asarray` takes,
        tensors of PyTorch that require gradients, lie on another device or are in
        bfloat16 included.
      prefix: of the names, for the messages.
      dtype: of the arrays; None for that of the tensors.

    Raises:
      WeightsError: a tensor holds no floating-point numbers, or, where no dtype is
        given, differs in dtype from the first, or JAX would round it.
    """
    arrays, faults = {}, []
    for name, value in tensors.items():
        array = as_array(value)
        if array is None or not jnp.issubdtype(array.dtype, jnp.floating):
            kind = type(value).__name__ if array is None else array.dtype.name
            faults.append(f"{show(prefix + name)}: {kind} is no floating-point tensor")
        elif dtype is not None:
            arrays[name] = array.astype(dtype)
        else:
            arrays[name] = array
    first = next(iter(arrays.values()), np.zeros(0)).dtype
    if dtype is None:
        faults += [
            f"{show(prefix + name)}: dtype {array.dtype.name} is not that of the "
            f"others, {first.name}; give dtype="
            for name, array in arrays.items()
            if array.dtype != first
        ]
    if not faults and jax.dtypes.canonicalize_dtype(first) != first:
        faults.append(
            f"dtype: {first.name} needs jax.config.update('jax_enable_x64', True), or "
            "give dtype='float32'"
        )
    if faults:
        raise WeightsError(*faults)
    return arrays


def as_array(value: Any) -> np.ndarray | None:
    """Returns a tensor as a NumPy array of numbers, or None if it cannot be one."""
    try:
        if hasattr(value, "detach"):  # PyTorch's: NumPy takes what has no gradient,
            value = value.detach().cpu()
            if str(value.dtype).endswith("bfloat16"):  # and knows no such dtype.
                return value.float().numpy().astype(jnp.bfloat16)
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    known = jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool
    return array if known else None


def check_shapes(
    arrays: Mapping[str, np.ndarray],
    wanted: Mapping[str, tuple[str, Shape]],
    prefix: str,
    sizes: str,
) -> None:
    """Raises WeightsError, with a line for each array of another shape than wanted.

    Args:
      arrays: by names without the prefix; those that are wanted and no others.
      wanted: letters of the axes and shape of each.
      prefix: of the names.
      sizes: what the letters stand for.
    """
    faults = [
        f"{show(prefix + name)}: shape {arrays[name].shape} is not {shape}, which is "
        f"{letters} for {sizes}"
        for name, (letters, shape) in wanted.items()
        if arrays[name].shape != shape
    ]
    if faults:
        raise WeightsError(*faults)


def check_names(found: Iterable[str], wanted: Iterable[str], prefix: str) -> None:
    """Raises WeightsError, with a line for each name that is missing or in excess."""
    found, wanted = list(found), list(wanted)
    faults = [
        f"{show(prefix + name)}: is missing" for name in wanted if name not in found
    ]
    faults += [
        f"{show(prefix + name)}: is not of this layer"
        for name in found
        if name not in wanted
    ]
    if faults:
        raise WeightsError(*faults)


def list_paths(layers: Layers) -> list[Paths]:
    """Returns the paths of layers, of which one may stand by itself.

    Raises:
      WeightsError: one is neither a string nor `Directions` of two.
    """
    paths = [layers] if isinstance(layers, str | Directions) else list(layers)
    for path in paths:
        parts = path if isinstance(path, Directions) else (path,)
        if not all(isinstance(part, str) for part in parts):
            raise WeightsError(
                f"layers: {show(repr(path))} is neither a path nor Directions of two"
            )
    return paths


def as_leaf(array: np.ndarray) -> Array:
    """Returns an array as a parameter, on the default device."""
    return jnp.asarray(np.ascontiguousarray(array))
