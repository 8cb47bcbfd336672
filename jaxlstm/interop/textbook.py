"""Weights of the LSTM as textbooks and tutorials write it, gate by gate.

A textbook has one matrix a gate on [a_prev; x]. Examples are columns there: a_prev is
[H, B] and x is [X, B].

    gamma_f = sigmoid(Wf [a_prev; x] + bf)       forget gate
    gamma_i = sigmoid(Wi [a_prev; x] + bi)       input gate
    c_tilde = tanh(Wc [a_prev; x] + bc)          candidate
    gamma_o = sigmoid(Wo [a_prev; x] + bo)       output gate

A tutorial that writes the cell from scratch has two, and a readout: fourteen arrays
[1]. Examples are rows there: H is [B, H] and X is [B, X].

    F = sigmoid(X W_xf + H W_hf + b_f)           I, O with i and o
    C_tilda = tanh(X W_xc + H W_hc + b_c)        Y = H W_hq + b_q

References:
  [1] Zhang et al., Dive into Deep Learning, section 10.1, 2023.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells.lstm import LSTMParams
from jaxlstm.interop.tensors import (
    as_leaf,
    check_mapping,
    check_names,
    check_shapes,
    convert,
    select,
)
from jaxlstm.interop.weights import WeightsError, show
from jaxlstm.model import ReadoutParams
from jaxlstm.shapes import OptionError

# In the order in which `LSTMParams` has the gates.
GATES = "i", "f", "c", "o"
READOUT = "W_hq", "b_q"


def from_textbook(
    Wf: Any,
    bf: Any,
    Wi: Any,
    bi: Any,
    Wc: Any,
    bc: Any,
    Wo: Any,
    bo: Any,
    *,
    dtype: Any = None,
) -> LSTMParams:
    """Returns the weights of a layer from those of a textbook's.

    Args:
      Wf: [H, H + X] forget gate, the columns that read a_prev before those that read x.
      bf: [H, 1] or [H] its bias.
      Wi: [H, H + X] input gate.
      bi: [H, 1] or [H].
      Wc: [H, H + X] candidate.
      bc: [H, 1] or [H].
      Wo: [H, H + X] output gate.
      bo: [H, 1] or [H].
      dtype: of the parameters; by default float32, or float64 where the arrays are
        that and JAX has it switched on.

    Returns:
      w_x [X, 4H], w_h [H, 4H] and b [4H].

    Raises:
      WeightsError: shapes do not fit together.
    """
    given = {
        "Wf": Wf,
        "bf": bf,
        "Wi": Wi,
        "bi": bi,
        "Wc": Wc,
        "bc": bc,
        "Wo": Wo,
        "bo": bo,
    }
    arrays = {name: np.asarray(value) for name, value in given.items()}
    _check(arrays)
    weights = np.concatenate([arrays[f"W{gate}"] for gate in GATES]).T
    bias = np.concatenate([arrays[f"b{gate}"].reshape(-1) for gate in GATES])
    if dtype is None:
        common = np.result_type(weights, bias, np.float32)
        dtype = jax.dtypes.canonicalize_dtype(common)
    hidden_size = len(bias) // len(GATES)
    w_h, w_x = np.split(weights, [hidden_size])
    return LSTMParams(*(jnp.asarray(leaf.astype(dtype)) for leaf in (w_x, w_h, bias)))


def to_textbook(params: LSTMParams) -> dict[str, np.ndarray]:
    """Returns the weights of a layer as `from_textbook` takes them, by name.

    Args:
      params: w_x [X, 4H], w_h [H, 4H] and b [4H]; without a bias, zeros are given.

    Returns:
      Wf, Wi, Wc and Wo [H, H + X], bf, bi, bc and bo [H, 1].

    Raises:
      TypeError: the parameters are not those of one plain LSTM layer.
    """
    if not isinstance(params, LSTMParams):
        raise TypeError(
            f"params: {type(params).__name__} has no textbook form; give the "
            "LSTMParams of one layer"
        )
    w_x, w_h = np.asarray(params.w_x), np.asarray(params.w_h)
    bias = np.zeros_like(w_h[0]) if params.b is None else np.asarray(params.b)
    weights = np.split(np.concatenate([w_h, w_x]).T, len(GATES))
    biases = np.split(bias[:, None], len(GATES))
    arrays = {}
    for gate, w, b in zip(GATES, weights, biases, strict=True):
        arrays[f"W{gate}"], arrays[f"b{gate}"] = np.ascontiguousarray(w), b.copy()
    return arrays


def from_tutorial(
    weights: Mapping[str, Any] | list[Any] | tuple[Any, ...],
    *,
    order: str | None = None,
    prefix: str = "",
    dtype: Any = None,
) -> tuple[LSTMParams, ReadoutParams]:
    """Returns a layer and its readout from the arrays of a tutorial.

    Args:
      weights: by name, W_xf [X, H], W_hf [H, H], b_f [H] or [1, H], the same of i, o
        and c, W_hq [H, Y] and b_q [Y] or [1, Y]; without the last two where the net
        has no readout. Names are case-sensitive. Or these arrays in a row, the three
        of each gate together, if the order of the gates is told.
      order: of the gates in such a row: "ifoc" in the book, "fioc" in others.
      prefix: of the names.
      dtype: of the parameters; by default that of the arrays.

    Returns:
      w_x [X, 4H], w_h [H, 4H] and b [4H]; and w [H, Y] and b [Y] of the readout, None
      each where there is none.

    Raises:
      OptionError: the order is not told of arrays in a row, or names a gate twice.
      WeightsError: arrays are missing, in excess, of another shape or dtype.
    """
    if isinstance(weights, list | tuple):
        weights = _name_row(weights, order, prefix)
    check_mapping(weights)
    tensors = select(weights, prefix)
    layer = _tutorial_names("".join(GATES))
    whole = len(tensors) != len(layer) or any(name in tensors for name in READOUT)
    check_names(tensors, [*layer, *READOUT] if whole else layer, prefix)
    arrays = convert(tensors, prefix, dtype)
    _check_tutorial(arrays, prefix)
    w_x, w_h, b = (
        np.concatenate([arrays[f"{kind}{gate}"] for gate in GATES], axis=-1)
        for kind in ("W_x", "W_h", "b_")
    )
    params = LSTMParams(as_leaf(w_x), as_leaf(w_h), as_leaf(b))
    if not whole:
        return params, ReadoutParams(None, None)
    return params, ReadoutParams(*(as_leaf(arrays[name]) for name in READOUT))


def to_tutorial(
    params: LSTMParams, readout: ReadoutParams | None = None, prefix: str = ""
) -> dict[str, np.ndarray]:
    """Returns a layer and its readout as `from_tutorial` takes them, by name.

    Args:
      params: w_x [X, 4H], w_h [H, 4H] and b [4H]; without a bias, zeros are given.
      readout: w [H, Y] and b [Y]; None, or one without weights, for none.
      prefix: of the names.

    Returns:
      W_xi, W_hi, b_i and so on, in the order of the book: i, f, o, c, q.

    Raises:
      TypeError: the parameters are not those of one plain LSTM layer.
    """
    if not isinstance(params, LSTMParams):
        raise TypeError(
            f"params: {type(params).__name__} has no form of fourteen arrays; give the "
            "LSTMParams of one layer"
        )
    b = np.zeros_like(params.w_h[0]) if params.b is None else params.b
    parts = {"W_x": params.w_x, "W_h": params.w_h, "b_": b}
    blocks = {
        f"{kind}{gate}": block
        for kind, array in parts.items()
        for gate, block in zip(GATES, np.split(np.asarray(array), 4, -1), strict=True)
    }
    arrays = {name: blocks[name] for name in _tutorial_names("ifoc")}
    if readout is not None and readout.w is not None:
        arrays |= dict(zip(READOUT, map(np.asarray, readout), strict=True))
    return {prefix + name: np.array(array, order="C") for name, array in arrays.items()}


def _tutorial_names(order: str) -> list[str]:
    return [f"{kind}{gate}" for gate in order for kind in ("W_x", "W_h", "b_")]


def _name_row(row: Sequence[Any], order: str | None, prefix: str) -> dict[str, Any]:
    """Returns arrays that stand in a row by their names."""
    if order is None or sorted(order) != sorted(GATES):
        raise OptionError(
            f"order: is {order!r}, and the arrays have no names; give that of their "
            "gates, such as 'ifoc' or 'fioc', or a mapping of names to arrays"
        )
    names = [*_tutorial_names(order), *READOUT]
    if len(row) not in (len(names), len(names) - len(READOUT)):
        raise WeightsError(
            f"weights: {len(row)} arrays in a row are not 14, or 12 without a readout"
        )
    return {prefix + name: array for name, array in zip(names, row, strict=False)}


def _check_tutorial(arrays: dict[str, np.ndarray], prefix: str) -> None:
    """Makes vectors of all biases; raises WeightsError where shapes do not fit."""
    for name, array in arrays.items():
        if name.startswith("b_") and array.ndim == 2 and len(array) == 1:
            arrays[name] = array[0]
    shape = arrays["W_xi"].shape
    if len(shape) != 2 or 0 in shape:
        raise WeightsError(f"{show(prefix + 'W_xi')}: shape {shape} is not [X, H]")
    input_size, hidden_size = shape
    wanted = {}
    for gate in GATES:
        wanted[f"W_x{gate}"] = "[X, H]", (input_size, hidden_size)
        wanted[f"W_h{gate}"] = "[H, H]", (hidden_size, hidden_size)
        wanted[f"b_{gate}"] = "[H]", (hidden_size,)
    if "W_hq" in arrays:
        output_size = arrays["W_hq"].shape[-1] if arrays["W_hq"].ndim else 0
        wanted["W_hq"] = "[H, Y]", (hidden_size, output_size)
        wanted["b_q"] = "[Y]", (output_size,)
    sizes = f"X = {input_size} and H = {hidden_size} by {show(prefix + 'W_xi')}"
    check_shapes(arrays, wanted, prefix, sizes)


def _check(arrays: dict[str, np.ndarray]) -> None:
    """Raises WeightsError, with a line for each array that does not fit Wf."""
    shape = arrays["Wf"].shape
    if len(shape) != 2 or not 0 < shape[0] < shape[1]:
        raise WeightsError(f"Wf: shape {shape} is not [H, H + X]")
    hidden_size, _ = shape
    faults = []
    for name, array in arrays.items():
        if name.startswith("W"):
            letters, fits = "[H, H + X]", {shape}
        else:
            letters, fits = "[H, 1] or [H]", {(hidden_size, 1), (hidden_size,)}
        if array.shape not in fits:
            faults.append(
                f"{name}: shape {array.shape} is not {letters}; H = {hidden_size} and "
                f"X = {shape[1] - hidden_size} by Wf of shape {shape}"
            )
    if faults:
        raise WeightsError(*faults)
