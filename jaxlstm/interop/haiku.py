"""Weights of Haiku's recurrent modules, as stacks of layers and back.

An hk.LSTM keeps one hk.Linear, which reads x and h side by side:

    lstm/linear    w [X + H, 4H], b [4H]    gates in the order i, g, f, o

and adds 1 to its forget gate whenever it is called. Here the blocks stand in the order
i, f, g, o, and the 1 is in the bias.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlstm.cells.lstm import LSTMParams, LSTMState
from jaxlstm.interop.stacks import cells_of, directions_of, readout_of
from jaxlstm.interop.tensors import (
    Layers,
    as_leaf,
    check_mapping,
    check_names,
    check_shapes,
    convert,
    list_paths,
)
from jaxlstm.interop.weights import LONGEST_REASON, WeightsError, show
from jaxlstm.layers import Directions
from jaxlstm.model import ReadoutParams
from jaxlstm.types import Array

LINEAR = "/linear"
# What an hk.GRU holds, and the second hk.Linear of an hk.VanillaRNN.
GRU, SECOND = {"w_i", "w_h", "b"}, "/linear_1"


def from_haiku(
    params: Mapping[str, Any],
    layers: Layers = "lstm",
    *,
    dtype: Any = None,
) -> tuple[LSTMParams | Directions, ...]:
    """Returns the layers of one hk.LSTM or of several.

    hk.LSTM adds 1 to its forget gate when it is called; here that is in the bias. The
    function is the same, but the last bit of a bias may be lost.

    Args:
      params: as `hk.transform(...).init` returns them: arrays by module.
      layers: the name of each layer's module, such as "my_net/~/lstm", with its
        "/linear" or without; `Directions` of two names where two modules are the
        directions of one layer. An hk.DeepRNN of two has ["lstm", "lstm_1"]. Other
        modules are not read.
      dtype: of the parameters; by default that of the arrays.

    Returns:
      A tuple of layers, `LSTMParams` each, or `Directions` of two.

    Raises:
      WeightsError: a module is not there or is of another kind, or its arrays are
        missing, in excess, or of another shape or dtype. An hk.GRU, whose reset acts
        before the product, and an hk.VanillaRNN, which has relu, have no cell here.
    """
    check_mapping(params)
    faults = []

    def attempt(name: str) -> Any:
        try:
            return _read_lstm(params, name, dtype)
        except WeightsError as error:
            faults.extend(error.lines)

    stack = tuple(
        Directions(*map(attempt, name))
        if isinstance(name, Directions)
        else attempt(name)
        for name in list_paths(layers)
    )
    if faults:
        raise WeightsError(*faults)
    return stack


def to_haiku(
    params: Any, layers: Layers | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the layers of a stack as the parameters of hk.LSTM.

    The bias of the forget gate is smaller by the 1 that hk.LSTM adds to it.

    Args:
      params: a stack as `from_haiku` returns it, or a single layer.
      layers: the names of the modules, as in `from_haiku`; by default those that Haiku
        gives them in turn, "lstm", "lstm_1" and so on.

    Returns:
      Arrays by module, in the dtype of the parameters.

    Raises:
      TypeError: a layer is no LSTM.
      WeightsError: the names are not as many as the layers and directions.
    """
    cells = cells_of(params)
    if layers is None:
        names = [f"lstm_{n}" if n else "lstm" for n in range(len(cells))]
    else:
        names = [name for path in list_paths(layers) for name in directions_of(path)]
    if len(names) != len(cells):
        raise WeightsError(
            f"layers: {show(', '.join(names))} are {len(names)}, and the layers and "
            f"directions {len(cells)}"
        )
    return {
        name.removesuffix(LINEAR) + LINEAR: _write_lstm(cell)
        for name, cell in zip(names, cells, strict=True)
    }


def state_from_haiku(state: Any) -> Any:
    """Returns hk.LSTMState(hidden, cell), or a sequence of these, as this package does.

    Args:
      state: of an hk.LSTM, or of an hk.DeepRNN of several.

    Returns:
      `LSTMState`, or a tuple of them, one for each layer.

    Raises:
      ValueError: it is none.
    """
    if hasattr(state, "hidden") and hasattr(state, "cell"):
        return LSTMState(h=state.hidden, c=state.cell)
    if isinstance(state, tuple | list):
        return tuple(map(state_from_haiku, state))
    raise ValueError(
        f"state: is a {type(state).__name__}; give an hk.LSTMState(hidden, cell), or a "
        "tuple of them"
    )


def state_to_haiku(state: Any) -> Any:
    """Returns a state as hk.LSTMState(hidden, cell), or those of several layers.

    Args:
      state: `LSTMState`, or a tuple of them, one for each layer.

    Returns:
      hk.LSTMState, or a tuple of them, as an hk.DeepRNN of several has.

    Raises:
      ModuleNotFoundError: the package dm-haiku is not installed.
      TypeError: it is of another cell.
    """
    if type(state) is tuple or isinstance(state, list | Directions):
        return tuple(map(state_to_haiku, state))
    if not isinstance(state, LSTMState):
        raise TypeError(
            f"state: {type(state).__name__} is of no module of Haiku, as LSTMState is"
        )
    try:
        haiku = importlib.import_module("haiku")
    except ModuleNotFoundError as error:
        if error.name != "haiku":
            raise
        raise ModuleNotFoundError(
            "states of Haiku are made by the package haiku: pip install dm-haiku",
            name="haiku",
        ) from None
    return haiku.LSTMState(hidden=state.h, cell=state.c)


def embedding_from_haiku(
    params: Mapping[str, Any], name: str = "embed", *, dtype: Any = None
) -> Array:
    """Returns the table of an hk.Embed.

    Args:
      params: arrays by module.
      name: of the module.
      dtype: of the table; by default that of the array.

    Returns:
      [X, E], a row for each of X symbols.

    Raises:
      WeightsError: the array is not there, is no matrix, or is not alone.
    """
    return as_leaf(_read(params, name, ["embeddings"], dtype)["embeddings"])


def embedding_to_haiku(embedding: Any) -> dict[str, np.ndarray]:
    """Returns a table [X, E] as the array of an hk.Embed."""
    return {"embeddings": np.array(embedding)}


def linear_from_haiku(
    params: Mapping[str, Any], name: str = "linear", *, dtype: Any = None
) -> ReadoutParams:
    """Returns the weights of an hk.Linear.

    Args:
      params: arrays by module.
      name: of the module.
      dtype: of the parameters; by default that of the arrays.

    Returns:
      w [H, Y] and b [Y], zeros where Haiku has no bias.

    Raises:
      WeightsError: arrays are missing, in excess or mis-shaped.
    """
    arrays = _read(params, name, ["w", "b"], dtype)
    w = arrays["w"]
    arrays = {"b": np.zeros_like(w[0])} | arrays
    wanted = {"b": ("[Y]", w.shape[1:])}
    check_shapes(arrays, wanted, f"{name}/", f"Y = {w.shape[1]}")
    return ReadoutParams(as_leaf(w), as_leaf(arrays["b"]))


def linear_to_haiku(params: ReadoutParams) -> dict[str, np.ndarray]:
    """Returns a readout as the arrays of an hk.Linear.

    Raises:
      ValueError: the readout has no weights of its own.
    """
    return dict(zip("wb", readout_of(params), strict=True))


def _write_lstm(params: Any) -> dict[str, np.ndarray]:
    if not isinstance(params, LSTMParams):
        raise TypeError(
            f"params: {type(params).__name__} has no module in Haiku, as LSTMParams has"
        )
    w = np.concatenate([params.w_x, params.w_h])
    b = np.zeros_like(w[0]) if params.b is None else np.asarray(params.b)
    i, f, g, o = np.split(b, 4)
    return {"w": _swap(w), "b": _swap(np.concatenate([i, f - 1, g, o]))}


def _swap(array: np.ndarray) -> np.ndarray:
    """Returns blocks i, g, f, o in the order i, f, g, o, or the other way round."""
    first, second, third, fourth = np.split(array, 4, -1)
    return np.concatenate([first, third, second, fourth], -1)


def _read_lstm(params: Mapping[str, Any], name: str, dtype: Any) -> LSTMParams:
    core = name.removesuffix(LINEAR)
    name = core + LINEAR
    if name not in params or core + SECOND in params:
        raise WeightsError(_explain(params, core))
    arrays = _read(params, name, ["w", "b"], dtype)
    if "b" not in arrays:
        raise WeightsError(f"{show(name)}/b: is missing")
    w, b = arrays["w"], arrays["b"]
    rows, columns = w.shape
    hidden_size, rest = divmod(columns, 4)
    if rest or not 0 < hidden_size <= rows:
        raise WeightsError(
            f"{show(name)}/w: shape {w.shape} is not [X + H, 4H] of an hk.LSTM"
        )
    wanted = {"b": ("[4H]", (columns,))}
    check_shapes({"b": b}, wanted, f"{name}/", f"H = {hidden_size}")
    i, f, g, o = np.split(_swap(b), 4)
    w_x, w_h = np.split(_swap(w), [rows - hidden_size])
    b = np.concatenate([i, f + 1, g, o])
    return LSTMParams(as_leaf(w_x), as_leaf(w_h), as_leaf(b))


def _read(
    params: Mapping[str, Any], name: str, wanted: list[str], dtype: Any
) -> dict[str, np.ndarray]:
    """Returns the arrays of a module: a matrix, and what is optional beside it."""
    check_mapping(params)
    if not isinstance(params.get(name), Mapping):
        raise WeightsError(_list_modules(params, name))
    tensors, prefix = dict(params[name]), f"{name}/"
    matrix, *optional = wanted
    check_names(tensors, [matrix, *(n for n in optional if n in tensors)], prefix)
    arrays = convert(tensors, prefix, dtype)
    if arrays[matrix].ndim != 2:
        raise WeightsError(
            f"{show(prefix + matrix)}: shape {arrays[matrix].shape} is not that of a "
            "matrix"
        )
    return arrays


def _explain(params: Mapping[str, Any], name: str) -> str:
    """Says what stands in place of an LSTM."""
    module = params.get(name)
    if name + SECOND in params:
        return f"{show(name)}: is an hk.VanillaRNN, which has relu; that here has tanh"
    if not isinstance(module, Mapping):
        return _list_modules(params, name)
    if set(module) == GRU:
        return (
            f"{show(name)}: is an hk.GRU, whose reset acts before the recurrent "
            "product; that of the GRU here acts after it"
        )
    inside = show(", ".join(map(str, module)), LONGEST_REASON)
    return f"{show(name)}: is not an hk.LSTM, but has {inside}"


def _list_modules(params: Mapping[str, Any], name: str) -> str:
    there = ", ".join(repr(str(key)) for key in params)
    return (
        f"{show(repr(name))}: is not in the parameters; modules there are "
        f"{show(there, LONGEST_REASON)}"
    )
