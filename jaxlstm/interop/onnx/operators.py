"""Weights and states of ONNX's operators LSTM, GRU and RNN, as layers and back.

An operator is one layer of D = 1 or 2 directions. It has, with G gates,

    W [D, G H, X]    R [D, G H, H]    B [D, 2 G H] = [Wb, Rb]    P [D, 3H] peepholes

The LSTM has the gates i, o, f, c, and peepholes of i, o, f; the GRU z, r, h; the RNN
one. Here matrices are transposed, gates are in another order, and the two biases, of
which the sum alone acts, are one; of the GRU's candidate both stay.
"""

from typing import Any, Literal, NamedTuple

import numpy as np

from jaxlstm.cells.gru import GRUParams
from jaxlstm.cells.lstm import LSTMParams
from jaxlstm.cells.rnn import RNNParams
from jaxlstm.cells.variants import LSTMVariantParams
from jaxlstm.interop.stacks import directions_of
from jaxlstm.interop.tensors import as_leaf, check_shapes, convert
from jaxlstm.interop.weights import WeightsError, show
from jaxlstm.layers import Directions
from jaxlstm.shapes import OptionError, check_choice

OperatorParams = LSTMParams | LSTMVariantParams | GRUParams | RNNParams
Direction = Literal["forward", "reverse", "bidirectional"]

# Where the blocks of ours (i, f, g, o; r, u, n) stand among those of ONNX, and where
# those of ONNX (i, o, f, c; z, r, h) stand among ours.
OURS = {4: (0, 2, 3, 1), 3: (1, 0, 2), 1: (0,)}
THEIRS = {4: (0, 3, 1, 2), 3: (1, 0, 2), 1: (0,)}
# The same of an LSTM whose forget gate is 1 - i: i, g, o, of i, o, f, c.
COUPLED = 0, 3, 1
OPERATORS = {4: "LSTM", 3: "GRU", 1: "RNN"}


class Sizes(NamedTuple):
    """Sizes of an operator.

    Attributes:
      directions: D.
      num_gates: G.
      input_size: X.
      hidden_size: H.
    """

    directions: int
    num_gates: int
    input_size: int
    hidden_size: int

    def describe(self) -> str:
        """Says what the letters stand for."""
        return f"D = {self.directions}, X = {self.input_size}, H = {self.hidden_size}"

    @property
    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The axes in letters, and the shape, of each tensor."""
        count, gates, width, size = self
        rows = "H" if gates == 1 else f"{gates}H"
        return {
            "W": (f"[D, {rows}, X]", (count, gates * size, width)),
            "R": (f"[D, {rows}, H]", (count, gates * size, size)),
            "B": (f"[D, {2 * gates}H]", (count, 2 * gates * size)),
            "P": ("[D, 3H]", (count, 3 * size)),
        }


def from_onnx(
    W: Any,
    R: Any,
    B: Any = None,
    P: Any = None,
    *,
    direction: Direction = "forward",
    input_forget: bool = False,
    linear_before_reset: bool = False,
    prefix: str = "",
    dtype: Any = None,
) -> OperatorParams | Directions:
    """Returns the layer of an operator LSTM, GRU or RNN.

    Which of the three it is shows in the number of rows.

    Args:
      W: [D, G H, X] input weights; what `numpy.asarray` takes.
      R: [D, G H, H] recurrent weights.
      B: [D, 2 G H] biases, those of W before those of R; or None.
      P: [D, 3H] peepholes of an LSTM, of i, o and f; or None.
      direction: "bidirectional" where D = 2. The parameters of "reverse" are those of
        "forward": such a layer is run with `reverse=True`.
      input_forget: of an LSTM: whether its forget gate is 1 - i, so that the block of
        its own does not act. It then has no place in the parameters.
      linear_before_reset: of a GRU: whether the reset gate acts after the recurrent
        product, as it does in the GRU here. ONNX's default is that it does not.
      prefix: of the names, for the messages.
      dtype: of the parameters; by default that of the tensors.

    Returns:
      `LSTMParams`, `GRUParams` or `RNNParams`; `LSTMVariantParams` where there are
      peepholes or the gates are coupled; `Directions` of two where D = 2. Without B an
      LSTM has b = None, and the others have zeros.

    Raises:
      OptionError: an option is unknown, or not of this operator, or has no cell here.
      WeightsError: a tensor is of another shape or dtype.
    """
    check_choice("direction", direction, Direction)
    given = {"W": W, "R": R, "B": B, "P": P}
    there = {name: value for name, value in given.items() if value is not None}
    arrays = convert(there, prefix, dtype)
    sizes = _find_sizes(arrays, prefix, direction)
    wanted = {name: sizes.shapes[name] for name in arrays}
    check_shapes(arrays, wanted, prefix, sizes.describe())
    operator = OPERATORS[sizes.num_gates]
    if operator != "LSTM" and input_forget:
        raise OptionError(
            f"input_forget: is of an LSTM; by the rows of R it is {operator}"
        )
    if operator != "GRU" and linear_before_reset:
        raise OptionError(
            f"linear_before_reset: is of a GRU; by the rows of R it is {operator}"
        )
    if operator == "GRU" and not linear_before_reset:
        raise OptionError(
            "linear_before_reset: is 0, so the reset gate acts before the recurrent "
            "product, and that of the GRU here acts after it; give "
            "linear_before_reset=True if the weights are of such a net"
        )
    if operator != "LSTM" and P is not None:
        raise WeightsError(f"{show(prefix + 'P')}: {operator} has no peepholes")
    layers = [
        _join({name: array[d] for name, array in arrays.items()}, sizes, input_forget)
        for d in range(sizes.directions)
    ]
    return Directions(*layers) if sizes.directions == 2 else layers[0]


def to_onnx(params: Any, *, input_forget: bool = False) -> dict[str, np.ndarray]:
    """Returns the tensors of an operator LSTM, GRU or RNN, by their names.

    Args:
      params: of one layer, or `Directions` of two. Where recurrent weights are blocks
        on the diagonal, R is zero between them.
      input_forget: whether the LSTM has i, g and o alone, and f = 1 - i; the operator
        then needs the attribute of this name. The block of its forget gate, which does
        not act, is zero.

    Returns:
      W [D, G H, X], R [D, G H, H], and where the layer has them B [D, 2 G H] and P
      [D, 3H], in the dtype of the parameters. A GRU's operator needs
      linear_before_reset = 1.

    Raises:
      TypeError: the parameters are of a kind that ONNX has no operator for.
      WeightsError: they have parts that the operator has no place for.
    """
    both = [_take_apart(one, input_forget) for one in directions_of(params)]
    first = both[0]
    if any(one.keys() != first.keys() for one in both):
        raise WeightsError("params: the two directions do not have the same parts")
    return {name: np.stack([one[name] for one in both]) for name in first}


def hidden_size_of(params: Any) -> int:
    """Returns H of the parameters of one direction, with heads or without."""
    shape = params.w_h.shape
    return shape[0] * shape[1] if len(shape) == 4 else shape[0]


def _find_sizes(
    arrays: dict[str, np.ndarray], prefix: str, direction: Direction
) -> Sizes:
    """Reads the sizes off W and R.

    Raises:
      WeightsError: they have no three axes, are of none of the operators, or of another
        number of directions than the given one.
    """
    faults = [
        f"{show(prefix + name)}: shape {arrays[name].shape} is not of three axes, "
        "[D, G H, X] of W and [D, G H, H] of R"
        for name in ("W", "R")
        if arrays[name].ndim != 3
    ]
    if faults:
        raise WeightsError(*faults)
    count, rows, hidden_size = arrays["R"].shape
    num_gates, rest = divmod(rows, hidden_size) if hidden_size else (0, 0)
    if rest or num_gates not in OPERATORS:
        raise WeightsError(
            f"{show(prefix + 'R')}: shape {arrays['R'].shape} is neither [D, 4H, H] of "
            "an LSTM, [D, 3H, H] of a GRU nor [D, H, H] of an RNN"
        )
    wanted = 2 if direction == "bidirectional" else 1
    if count != wanted:
        raise WeightsError(
            f"{show(prefix + 'R')}: shape {arrays['R'].shape} has D = {count}, and "
            f'direction="{direction}" is of {wanted}'
        )
    return Sizes(count, num_gates, arrays["W"].shape[2], hidden_size)


def _join(
    arrays: dict[str, np.ndarray], sizes: Sizes, input_forget: bool
) -> OperatorParams:
    """Returns the parameters of one direction."""
    num_gates = sizes.num_gates
    order = COUPLED if input_forget else OURS[num_gates]

    def blocks(array: np.ndarray) -> np.ndarray:
        parts = np.split(array, num_gates)
        return np.concatenate([parts[n] for n in order])

    w_x, w_h = (as_leaf(blocks(arrays[name]).T) for name in "WR")
    none = np.zeros_like(arrays["R"][:, :1], shape=2 * len(arrays["R"]))
    b_x, b_h = (blocks(half) for half in np.split(arrays.get("B", none), 2))
    if num_gates == 1:
        return RNNParams(w_x, w_h, as_leaf(b_x + b_h))
    if num_gates == 3:
        # The candidate's recurrent bias is multiplied by the reset gate.
        gates, candidate = np.split(b_h, [2 * sizes.hidden_size])
        b = b_x + np.concatenate([gates, np.zeros_like(candidate)])
        return GRUParams(w_x, w_h, as_leaf(b), as_leaf(candidate))
    b = as_leaf(b_x + b_h) if "B" in arrays else None
    if not (input_forget or "P" in arrays):
        return LSTMParams(w_x, w_h, b)
    peepholes = None
    if "P" in arrays:
        i, o, f = np.split(arrays["P"], 3)
        peepholes = as_leaf(np.stack([i, o] if input_forget else [i, f, o]))
    return LSTMVariantParams(w_x, w_h, b, None, peepholes)


def _take_apart(params: Any, input_forget: bool) -> dict[str, np.ndarray]:
    """Returns the tensors of one direction."""
    if not isinstance(params, OperatorParams):
        raise TypeError(
            f"params: are {type(params).__name__}; ONNX has operators for LSTMParams, "
            "LSTMVariantParams, GRUParams and RNNParams"
        )
    _check_parts(params, input_forget)
    w_h = _join_heads(np.asarray(params.w_h))
    hidden_size = w_h.shape[0]
    num_gates = 4 if input_forget else w_h.shape[1] // hidden_size
    order = THEIRS[num_gates]

    def blocks(array: np.ndarray) -> np.ndarray:
        parts = np.split(array, len(array) // hidden_size)
        if input_forget:
            parts.insert(1, np.zeros_like(parts[0]))
        return np.ascontiguousarray(np.concatenate([parts[n] for n in order]))

    arrays = {"W": blocks(np.asarray(params.w_x).T), "R": blocks(w_h.T)}
    if params.b is not None:
        b = np.asarray(params.b)
        b_h = np.zeros_like(b)
        if isinstance(params, GRUParams):
            b_h[-hidden_size:] = np.asarray(params.b_h)
        arrays["B"] = np.concatenate([blocks(b), blocks(b_h)])
    peepholes = getattr(params, "peepholes", None)
    if peepholes is not None:
        rows = dict(
            zip("io" if input_forget else "ifo", np.asarray(peepholes), strict=True)
        )
        rows.setdefault("f", np.zeros_like(rows["i"]))
        arrays["P"] = np.concatenate([rows[gate] for gate in "iof"])
    return arrays


def _join_heads(w_h: np.ndarray) -> np.ndarray:
    """Returns recurrent weights as one matrix [H, G H], zero from head to head."""
    if w_h.ndim == 2:
        return w_h
    num_heads, width, num_gates, _ = w_h.shape
    shape = num_heads, width, num_gates, num_heads, width
    matrix = np.zeros(shape, w_h.dtype)
    for head, block in enumerate(w_h):
        matrix[head, :, :, head] = block
    return matrix.reshape(num_heads * width, -1)


def _check_parts(params: OperatorParams, input_forget: bool) -> None:
    """Raises WeightsError where parameters have what the operator has no place for."""
    if not isinstance(params, LSTMVariantParams):
        if input_forget:
            raise WeightsError(
                f"params: {type(params).__name__} has no coupled gates; leave out "
                "input_forget"
            )
        return
    known = {"w_x", "w_h", "b", "peepholes"}
    faults = [
        f"{name}: ONNX's LSTM has no place for it"
        for name, part in params._asdict().items()
        if part is not None and name not in known
    ]
    hidden_size = hidden_size_of(params)
    num_blocks, wanted = params.w_x.shape[1] // hidden_size, 3 if input_forget else 4
    if not faults and num_blocks != wanted:
        faults.append(
            f"w_x: shape {params.w_x.shape} has {num_blocks} blocks of H = "
            f"{hidden_size}, and ONNX's LSTM has i, f, g and o, or i, g and o with "
            "input_forget"
        )
    if faults:
        raise WeightsError(*faults)
