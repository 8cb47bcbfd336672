"""Weights of the LSTM as textbooks write it, one matrix a gate on [a_prev; x].

    gamma_f = sigmoid(Wf [a_prev; x] + bf)       forget gate
    gamma_i = sigmoid(Wi [a_prev; x] + bi)       input gate
    c_tilde = tanh(Wc [a_prev; x] + bc)          candidate
    gamma_o = sigmoid(Wo [a_prev; x] + bo)       output gate

Examples are columns there: a_prev is [H, B] and x is [X, B].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells.lstm import LSTMParams
from jaxlstm.interop.weights import WeightsError

# In the order in which `LSTMParams` has the gates.
GATES = "i", "f", "c", "o"


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
