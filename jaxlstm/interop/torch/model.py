"""Embeddings, linear layers and whole models of PyTorch, as those of `make_model`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.interop.stacks import readout_of
from jaxlstm.interop.tensors import (
    as_leaf,
    check_mapping,
    check_names,
    convert,
    not_there,
    select,
)
from jaxlstm.interop.torch.layers import from_torch, to_torch
from jaxlstm.interop.weights import WeightsError, show
from jaxlstm.layers import Directions
from jaxlstm.model import ModelParams, ReadoutParams, RecurrentParams
from jaxlstm.types import Array


def embedding_from_torch(
    weights: Mapping[str, Any], prefix: str = "", *, dtype: Any = None
) -> Array:
    """Returns the table of an nn.Embedding.

    Args:
      weights: the state_dict, or what `read_safetensors` returns: tensors by name.
      prefix: what stands before "weight", such as "embedding.".
      dtype: of the table; by default that of the tensor.

    Returns:
      [X, E], a row for each of X symbols.

    Raises:
      WeightsError: the tensor is not there, is no matrix, or is not alone.
    """
    return as_leaf(_read(weights, prefix, dtype)["weight"])


def embedding_to_torch(embedding: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Returns a table [X, E] under the name of PyTorch's state_dict."""
    return {f"{prefix}weight": np.array(embedding)}


def linear_from_torch(
    weights: Mapping[str, Any], prefix: str = "", *, dtype: Any = None
) -> ReadoutParams:
    """Returns the weights of an nn.Linear.

    Args:
      weights: the state_dict, or what `read_safetensors` returns: tensors by name.
      prefix: what stands before "weight" and "bias", such as "fc.".
      dtype: of the parameters; by default that of the tensors.

    Returns:
      w [H, Y] and b [Y], zeros where PyTorch has no bias.

    Raises:
      WeightsError: tensors under the prefix are missing, in excess or mis-shaped.
    """
    arrays = _read(weights, prefix, dtype, optional="bias")
    weight = arrays["weight"]
    bias = arrays.get("bias", np.zeros_like(weight[:, 0]))
    if bias.shape != weight.shape[:1]:
        raise WeightsError(
            f"{show(prefix + 'bias')}: shape {bias.shape} is not {weight.shape[:1]}, "
            f"which is [Y] by the weight [Y, H] of shape {weight.shape}"
        )
    return ReadoutParams(as_leaf(weight.T), as_leaf(bias))


def linear_to_torch(params: ReadoutParams, prefix: str = "") -> dict[str, np.ndarray]:
    """Returns the weights of a readout under the names of PyTorch's state_dict.

    Raises:
      ValueError: the readout has no weights of its own.
    """
    w, b = readout_of(params)
    return {f"{prefix}weight": np.ascontiguousarray(w.T), f"{prefix}bias": b}


def model_from_torch(
    weights: Mapping[str, Any],
    *,
    lstm: str = "lstm.",
    embedding: str | None = "embedding.",
    linear: str | None = "fc.",
    dtype: Any = None,
) -> ModelParams:
    """Returns a whole model: embedding, recurrent layers and readout.

    Args:
      weights: the state_dict, or what `read_safetensors` returns: tensors by name.
      lstm: prefix of the nn.LSTM, nn.GRU or nn.RNN.
      embedding: prefix of the nn.Embedding; None for a model without.
      linear: prefix of the nn.Linear; None for a model without.
      dtype: of the parameters; by default that of the tensors.

    Returns:
      The parameters of a `make_model` of the same sizes.

    Raises:
      WeightsError: tensors are missing, in excess or mis-shaped, under one of the
        prefixes or beside them, or the parts do not fit together. All of it is listed.
    """
    check_mapping(weights)
    faults = []

    def attempt(read: Any, prefix: str | None) -> Any:
        if prefix is None:
            return None
        try:
            return read(weights, prefix, dtype=dtype)
        except WeightsError as error:
            faults.extend(error.lines)
            return None

    table = attempt(embedding_from_torch, embedding)
    layers = attempt(from_torch, lstm)
    readout = attempt(linear_from_torch, linear)
    prefixes = tuple(p for p in (embedding, lstm, linear) if p is not None)
    faults += [
        f"{show(str(name))}: is under none of the prefixes {', '.join(prefixes)}"
        for name in weights
        if not str(name).startswith(prefixes)
    ]
    if not faults:
        faults = _compare_sizes(table, layers, readout)
    if faults:
        raise WeightsError(*faults)
    recurrent = RecurrentParams(embedding=table, layers=layers, initial_state=None)
    return ModelParams(recurrent, readout or ReadoutParams(None, None))


def model_to_torch(
    params: ModelParams,
    *,
    lstm: str = "lstm.",
    embedding: str = "embedding.",
    linear: str = "fc.",
) -> dict[str, np.ndarray]:
    """Returns a whole model under the names of PyTorch's state_dict.

    Args:
      params: of a model of `make_model`.
      lstm: prefix of the recurrent layers.
      embedding: prefix of the embedding, where there is one.
      linear: prefix of the readout, where there is one; a tied one has the embedding's
        weights.

    Raises:
      ValueError: the model has a learned initial state, for which PyTorch has no name.
    """
    (table, layers, start), (w, b) = params
    if start is not None:
        raise ValueError(
            "params: the initial state is learned, and PyTorch's layers have none; "
            "give it to them as `state_to_torch` returns it"
        )
    arrays = {} if table is None else embedding_to_torch(table, embedding)
    arrays |= to_torch(layers, lstm)
    if b is not None:
        w = jnp.asarray(table).T if w is None else w
        arrays |= linear_to_torch(ReadoutParams(w, b), linear)
    return arrays


def _read(
    weights: Mapping[str, Any], prefix: str, dtype: Any, optional: str | None = None
) -> dict[str, np.ndarray]:
    """Returns "weight", checked to be a matrix, and what is optional beside it."""
    check_mapping(weights)
    tensors = select(weights, prefix)
    if "weight" not in tensors:
        raise not_there(weights, prefix, "weight")
    wanted = ["weight", *(name for name in (optional,) if name in tensors)]
    check_names(tensors, wanted, prefix)
    arrays = convert(tensors, prefix, dtype)
    shape = arrays["weight"].shape
    if len(shape) != 2:
        raise WeightsError(
            f"{show(prefix + 'weight')}: shape {shape} is not that of a matrix"
        )
    return arrays


def _compare_sizes(
    table: Array | None, layers: tuple[Any, ...], readout: ReadoutParams | None
) -> list[str]:
    """Returns a line for each part that does not fit the one before it."""
    first, last = layers[0], layers[-1]
    width = jax.tree.leaves(first)[0].shape[0]
    directions = last if isinstance(last, Directions) else (last,)
    output_size = sum(len(cell.w_h) for cell in directions)
    faults = []
    if table is not None and table.shape[1] != width:
        faults.append(
            f"embedding: gives {table.shape[1]} numbers a symbol, and the first layer "
            f"takes {width}"
        )
    if readout is not None and readout.w is not None and len(readout.w) != output_size:
        faults.append(
            f"linear: takes {len(readout.w)} numbers, and the last layer gives "
            f"{output_size}"
        )
    return faults
