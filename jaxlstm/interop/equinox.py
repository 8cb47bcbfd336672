"""Weights of Equinox's cells, as stacks of layers and back.

A cell of Equinox has

    LSTMCell    weight_ih [4H, X]    weight_hh [4H, H]    bias [4H]
    GRUCell     weight_ih [3H, X]    weight_hh [3H, H]    bias [3H]    bias_n [H]

Its gates stand in the order of this package, i, f, g, o and r, u, n, and the reset acts
after the recurrent product, `bias_n` within it. Here matrices are transposed. Equinox
itself is not needed: whatever has these attributes is taken, or has them as keys.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlstm.cells.gru import GRUParams
from jaxlstm.cells.lstm import LSTMParams
from jaxlstm.interop.tensors import as_leaf, check_names, check_shapes, convert
from jaxlstm.interop.torch.layers import NUM_GATES
from jaxlstm.interop.torch.model import (
    embedding_from_torch,
    linear_from_torch,
    linear_to_torch,
)
from jaxlstm.interop.weights import WeightsError
from jaxlstm.layers import Directions
from jaxlstm.model import ReadoutParams
from jaxlstm.types import Array

CELL = "weight_ih", "weight_hh", "bias", "bias_n"
LINEAR = "weight", "bias"


def from_equinox(
    cells: Any, *, dtype: Any = None
) -> tuple[LSTMParams | GRUParams | Directions, ...]:
    """Returns the layers of an eqx.nn.LSTMCell or eqx.nn.GRUCell, or of several.

    Args:
      cells: a cell, `Directions` of two, or a list or tuple of these, one for each
        layer. A mapping of names to arrays may stand for a cell.
      dtype: of the parameters; by default that of the arrays.

    Returns:
      A tuple of layers, `LSTMParams` or `GRUParams` each, or `Directions` of two. Where
      Equinox has no bias, an LSTM has b = None, and a GRU has zeros.

    Raises:
      WeightsError: arrays are missing, in excess, or of another shape or dtype.
    """
    layers = cells if _is_stack(cells) else (cells,)
    faults: list[str] = []

    def attempt(cell: Any, place: str) -> Any:
        try:
            return _read_cell(cell, place, dtype)
        except WeightsError as error:
            faults.extend(error.lines)

    params = []
    for n, layer in enumerate(layers):
        place = f"cells[{n}]." if _is_stack(cells) else ""
        if isinstance(layer, Directions):
            names = (f"{place}{name}." for name in Directions._fields)
            params.append(Directions(*map(attempt, layer, names)))
        else:
            params.append(attempt(layer, place))
    if faults:
        raise WeightsError(*faults)
    return tuple(params)


def to_equinox(params: Any) -> Any:
    """Returns a layer as the arrays of Equinox's cell, by the names of its attributes.

    They go into a cell by `eqx.tree_at`:

        names, values = zip(*to_equinox(params).items())
        cell = eqx.tree_at(lambda c: [getattr(c, n) for n in names], cell, values)

    Args:
      params: of a layer; or `Directions` of two, or a stack as `from_equinox` returns
        it.

    Returns:
      Arrays in the dtype of the parameters; none where the layer has no bias. Likewise
      `Directions` of two, or a tuple of layers.

    Raises:
      TypeError: a layer is of a kind that Equinox does not have.
    """
    if isinstance(params, Directions):
        return Directions(*map(to_equinox, params))
    if type(params) is tuple:
        return tuple(map(to_equinox, params))
    if not isinstance(params, LSTMParams | GRUParams):
        raise TypeError(
            f"params: {type(params).__name__} has no cell in Equinox, which has cells "
            "for LSTMParams and GRUParams"
        )
    arrays = {"weight_ih": params.w_x.T, "weight_hh": params.w_h.T, "bias": params.b}
    if isinstance(params, GRUParams):
        arrays["bias_n"] = params.b_h
    return {
        name: as_leaf(np.asarray(array))
        for name, array in arrays.items()
        if array is not None
    }


def embedding_from_equinox(embedding: Any, *, dtype: Any = None) -> Array:
    """Returns the table [X, E] of an eqx.nn.Embedding, or of a mapping of its arrays.

    Raises:
      WeightsError: the array is missing, or no matrix.
    """
    return embedding_from_torch(_find_arrays(embedding, LINEAR), dtype=dtype)


def embedding_to_equinox(embedding: Any) -> dict[str, Array]:
    """Returns a table [X, E] as the array of an eqx.nn.Embedding, by its name."""
    return {"weight": as_leaf(np.asarray(embedding))}


def linear_from_equinox(linear: Any, *, dtype: Any = None) -> ReadoutParams:
    """Returns w [H, Y] and b [Y] of an eqx.nn.Linear, or of a mapping of its arrays.

    The bias is zeros where there is none.

    Raises:
      WeightsError: arrays are missing or mis-shaped.
    """
    return linear_from_torch(_find_arrays(linear, LINEAR), dtype=dtype)


def linear_to_equinox(params: ReadoutParams) -> dict[str, Array]:
    """Returns a readout as the arrays of an eqx.nn.Linear, by their names.

    Raises:
      ValueError: the readout has no weights of its own.
    """
    return {name: as_leaf(w) for name, w in linear_to_torch(params).items()}


def _is_stack(cells: Any) -> bool:
    return isinstance(cells, Sequence) and not isinstance(cells, Directions | str)


def _find_arrays(module: Any, names: Sequence[str]) -> dict[str, Any]:
    """Returns the arrays of a module or a mapping, without those that are None.

    Raises:
      WeightsError: there are none.
    """
    if isinstance(module, Mapping):
        found = dict(module)
    else:
        found = {name: getattr(module, name, None) for name in names}
    arrays = {name: value for name, value in found.items() if value is not None}
    if not arrays:
        raise WeightsError(
            f"{type(module).__name__}: has none of {', '.join(names)}, the arrays of a "
            "module of Equinox"
        )
    return arrays


def _read_cell(cell: Any, prefix: str, dtype: Any) -> LSTMParams | GRUParams:
    """Returns the parameters of a cell; the prefix stands before names in messages."""
    arrays = _find_arrays(cell, CELL)
    wanted = [n for n in CELL if n in arrays or n.startswith("weight")]
    check_names(arrays, wanted, prefix)
    arrays = convert(arrays, prefix, dtype)
    w_x, w_h = arrays["weight_ih"], arrays["weight_hh"]
    gates, rest = divmod(*w_h.shape) if w_h.ndim == 2 and w_h.size else (0, 1)
    kinds = {NUM_GATES[kind]: kind for kind in (LSTMParams, GRUParams)}
    if rest or gates not in kinds:
        raise WeightsError(
            f"{prefix}weight_hh: shape {w_h.shape} is neither [4H, H] of an LSTMCell "
            "nor [3H, H] of a GRUCell"
        )
    names = CELL[2:] if kinds[gates] is GRUParams else CELL[2:3]
    check_names(arrays, [*CELL[:2], *(names if "bias" in arrays else ())], prefix)
    rows, hidden_size = w_h.shape
    shapes = {
        "weight_ih": (f"[{gates}H, X]", (rows, *w_x.shape[1:2])),
        "bias": (f"[{gates}H]", (rows,)),
        "bias_n": ("[H]", (hidden_size,)),
    }
    wanted = {name: shape for name, shape in shapes.items() if name in arrays}
    check_shapes(arrays, wanted, prefix, f"H = {hidden_size}")
    zeros = {"bias": np.zeros_like(w_h[:, 0]), "bias_n": np.zeros_like(w_h[0])}
    leaves = {name: as_leaf(array) for name, array in (zeros | arrays).items()}
    matrices = as_leaf(w_x.T), as_leaf(w_h.T)
    if kinds[gates] is GRUParams:
        return GRUParams(*matrices, leaves["bias"], leaves["bias_n"])
    return LSTMParams(*matrices, leaves["bias"] if "bias" in arrays else None)
