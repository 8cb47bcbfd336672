"""Weights of PyTorch's nn.LSTM, nn.GRU and nn.RNN, as stacks of layers and back.

Of every layer and direction PyTorch keeps, with G gates,

    weight_ih [G H, X]    weight_hh [G H, R]    bias_ih [G H]    bias_hh [G H]

The LSTM has 4 gates (i, f, g, o), the GRU 3 (r, z, n), the RNN 1. R is H, or P where
the output of an LSTM is projected, by weight_hr [P, H]. Here matrices are transposed,
and the two biases, of which the sum alone acts, are one; of the GRU's candidate both
stay.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.cells.gru import GRUParams
from jaxlstm.cells.lstm import LSTMParams, ProjectedLSTMParams
from jaxlstm.cells.rnn import RNNParams
from jaxlstm.interop.stacks import directions_of, layers_of
from jaxlstm.interop.tensors import (
    as_leaf,
    check_mapping,
    check_names,
    check_shapes,
    convert,
    not_there,
    select,
)
from jaxlstm.interop.weights import WeightsError, show
from jaxlstm.layers import Directions
from jaxlstm.shapes import OptionError

LayerParams = LSTMParams | ProjectedLSTMParams | GRUParams | RNNParams
StackParams = tuple[LayerParams | Directions, ...]

NAME = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)(_l\d+)(_reverse)?")
SUFFIXES = "", "_reverse"
MATRICES = "weight_ih", "weight_hh"
BIASES = "bias_ih", "bias_hh"
NUM_GATES: dict[type, int] = {
    LSTMParams: 4,
    ProjectedLSTMParams: 4,
    GRUParams: 3,
    RNNParams: 1,
}


def from_torch(
    weights: Mapping[str, Any], prefix: str = "", *, dtype: Any = None
) -> StackParams:
    """Returns the layers of an nn.LSTM, nn.GRU or nn.RNN, as `lstm_stack` takes them.

    Which of the three it is shows in the number of rows. That an RNN takes tanh and not
    relu does not show, and only tanh has a cell here.

    Args:
      weights: the state_dict, or what `read_safetensors` returns: tensors by name.
      prefix: what stands before the names of the layers, such as "encoder.lstm.".
      dtype: of the parameters; by default that of the tensors.

    Returns:
      A tuple of layers, `LSTMParams`, `ProjectedLSTMParams`, `GRUParams` or `RNNParams`
      each, or `Directions` of two. Where PyTorch has no biases, an LSTM has b = None,
      and the others have zeros.

    Raises:
      WeightsError: tensors under the prefix are missing, in excess, of another shape
        or dtype; or they are under another prefix.
    """
    check_mapping(weights)
    tensors = select(weights, prefix)
    kinds, layers = _find_kinds(tensors), _find_layers(tensors)
    if not layers:
        raise not_there(weights, prefix, "weight_ih_l0")
    ends = [end for layer in layers for end in layer]
    check_names(tensors, (kind + end for end in ends for kind in kinds), prefix)
    arrays = convert(tensors, prefix, dtype)
    sizes = _find_sizes(arrays, prefix)
    wanted = _find_shapes(sizes, kinds, layers)
    check_shapes(arrays, wanted, prefix, sizes.describe())
    params = ([_join(arrays, end, sizes.num_gates) for end in ends] for ends in layers)
    return tuple(both[0] if len(both) == 1 else Directions(*both) for both in params)


def to_torch(
    params: Any, prefix: str = "", *, num_biases: int = 2
) -> dict[str, np.ndarray]:
    """Returns the layers of a stack under the names of PyTorch's state_dict.

    Args:
      params: a stack as `from_torch` returns it, or a single layer.
      prefix: of the names.
      num_biases: 2 as in PyTorch, where bias_hh is zero, but for the candidate of the
        GRU; 1 for bias_ih alone.

    Returns:
      Arrays in the dtype of the parameters. A layer without biases gives none.

    Raises:
      OptionError: another number of biases, or one for a GRU.
      TypeError: a layer is of a kind that PyTorch does not have.
    """
    if num_biases not in (1, 2):
        raise OptionError(f"num_biases: {num_biases} is neither 1 nor 2")
    arrays = {}
    for n, layer in enumerate(layers_of(params)):
        for suffix, one in zip(SUFFIXES, directions_of(layer), strict=False):
            for kind, array in _take_apart(one, n, num_biases).items():
                name = f"{prefix}{kind}_l{n}{suffix}"
                arrays[name] = np.ascontiguousarray(array)
    return arrays


def _find_kinds(tensors: Mapping[str, Any]) -> list[str]:
    """Returns what each layer and direction should have."""
    found = {match[1] for name in tensors if (match := NAME.fullmatch(name))}
    biases = BIASES if found.intersection(BIASES) else ()
    projection = ["weight_hr"] if "weight_hr" in found else []
    return [*MATRICES, *biases, *projection]


def _find_layers(tensors: Mapping[str, Any]) -> list[list[str]]:
    """Returns what the names of each layer should end in, for each direction."""
    matches = [match for name in tensors if (match := NAME.fullmatch(name))]
    suffixes = SUFFIXES if any(match[3] for match in matches) else SUFFIXES[:1]
    count = len({match[2] for match in matches})
    return [[f"_l{layer}{suffix}" for suffix in suffixes] for layer in range(count)]


class Sizes(NamedTuple):
    """Sizes of a recurrent net, and the letters of two of them.

    Attributes:
      num_gates: G.
      input_size: X.
      hidden_size: H.
      output_size: R, of the output of one direction.
      output: "H", or "P" where it is projected.
    """

    num_gates: int
    input_size: int
    hidden_size: int
    output_size: int
    output: str

    @property
    def rows(self) -> str:
        """The letters of G H."""
        return "H" if self.num_gates == 1 else f"{self.num_gates}H"

    def describe(self) -> str:
        """Says what the letters stand for."""
        sizes = {"X": self.input_size, "H": self.hidden_size}
        sizes[self.output] = self.output_size
        return ", ".join(f"{letter} = {size}" for letter, size in sizes.items())


def _find_sizes(arrays: Mapping[str, np.ndarray], prefix: str) -> Sizes:
    """Reads the sizes off the first layer.

    Raises:
      WeightsError: its tensors are no matrices, or fit none of the cells.
    """
    names = [
        name
        for name in ("weight_ih_l0", "weight_hh_l0", "weight_hr_l0")
        if name in arrays
    ]
    faults = [
        f"{show(prefix + name)}: shape {arrays[name].shape} is not that of a matrix"
        for name in names
        if arrays[name].ndim != 2
    ]
    if faults:
        raise WeightsError(*faults)
    w_x, w_h, *projection = (arrays[name].shape for name in names)
    if projection:
        output_size, hidden_size = projection[0]
        return Sizes(4, w_x[1], hidden_size, output_size, "P")
    rows, hidden_size = w_h
    num_gates, rest = divmod(rows, hidden_size) if hidden_size else (0, 0)
    if rest or num_gates not in NUM_GATES.values():
        raise WeightsError(
            f"{show(prefix + 'weight_hh_l0')}: shape {w_h} is neither [4H, H] of an "
            "LSTM, [3H, H] of a GRU nor [H, H] of an RNN"
        )
    return Sizes(num_gates, w_x[1], hidden_size, hidden_size, "H")


def _find_shapes(
    sizes: Sizes, kinds: list[str], layers: list[list[str]]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Returns the axes in letters, and the shape, of each tensor."""
    rows, wanted = sizes.num_gates * sizes.hidden_size, {}
    width, wide = sizes.input_size, "X"
    for ends in layers:
        shapes = {
            "weight_ih": (f"[{sizes.rows}, {wide}]", (rows, width)),
            "weight_hh": (f"[{sizes.rows}, {sizes.output}]", (rows, sizes.output_size)),
            "bias_ih": (f"[{sizes.rows}]", (rows,)),
            "bias_hh": (f"[{sizes.rows}]", (rows,)),
            "weight_hr": ("[P, H]", (sizes.output_size, sizes.hidden_size)),
        }
        wanted |= {kind + end: shapes[kind] for end in ends for kind in kinds}
        width = len(ends) * sizes.output_size
        wide = sizes.output if len(ends) == 1 else f"2{sizes.output}"
    return wanted


def _join(arrays: Mapping[str, np.ndarray], end: str, num_gates: int) -> LayerParams:
    """Returns the parameters of one layer and direction."""
    w_x, w_h = (as_leaf(arrays[f"{kind}{end}"].T) for kind in MATRICES)
    none = np.zeros_like(arrays[f"weight_hh{end}"][:, 0])
    b_x, b_h = (arrays.get(f"{kind}{end}", none) for kind in BIASES)
    if num_gates == NUM_GATES[GRUParams]:
        # The candidate's recurrent bias is multiplied by the reset gate.
        gates, candidate = np.split(b_h, [2 * w_h.shape[0]])
        b = b_x + np.concatenate([gates, np.zeros_like(candidate)])
        return GRUParams(w_x, w_h, as_leaf(b), as_leaf(candidate))
    b = as_leaf(b_x + b_h)
    if num_gates == NUM_GATES[RNNParams]:
        return RNNParams(w_x, w_h, b)
    b = None if b_x is none else b
    if f"weight_hr{end}" not in arrays:
        return LSTMParams(w_x, w_h, b)
    return ProjectedLSTMParams(w_x, w_h, b, as_leaf(arrays[f"weight_hr{end}"].T))


def _take_apart(params: Any, layer: int, num_biases: int) -> dict[str, np.ndarray]:
    """Returns what one layer and direction has, as PyTorch keeps it."""
    if type(params) not in NUM_GATES:
        raise TypeError(
            f"params: layer {layer} is {type(params).__name__}; PyTorch has layers for "
            f"{', '.join(kind.__name__ for kind in NUM_GATES)}"
        )
    arrays = {
        "weight_ih": np.asarray(params.w_x).T,
        "weight_hh": np.asarray(params.w_h).T,
    }
    if params.b is not None:
        arrays["bias_ih"] = np.asarray(params.b)
        arrays["bias_hh"] = np.zeros_like(arrays["bias_ih"])
    if isinstance(params, GRUParams):
        if num_biases == 1:
            raise OptionError(
                "num_biases: is 1, and the candidate of a GRU has two; use num_biases=2"
            )
        candidate = np.asarray(params.b_h)
        arrays["bias_hh"][-len(candidate) :] = candidate
    elif num_biases == 1:
        arrays.pop("bias_hh", None)
    if isinstance(params, ProjectedLSTMParams):
        arrays["weight_hr"] = np.asarray(params.w_p).T
    return arrays
