"""ONNX's operators LSTM, GRU and RNN with their attributes, as cells and parameters."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxlstm.cells import CELLS, VARIANTS, Cell, make_lstm, make_lstm_variant
from jaxlstm.cells.gru import GRUParams
from jaxlstm.cells.lstm import LSTMParams
from jaxlstm.cells.rnn import RNNParams
from jaxlstm.cells.variants import LSTMVariantParams
from jaxlstm.interop.onnx.activations import read_activations, write_activations
from jaxlstm.interop.onnx.operators import Direction, from_onnx
from jaxlstm.interop.onnx.states import Layout
from jaxlstm.interop.stacks import directions_of
from jaxlstm.interop.tensors import check_names
from jaxlstm.interop.weights import WeightsError, show
from jaxlstm.layers import Directions
from jaxlstm.shapes import OptionError, check_choice

# What f, g and h are where an operator does not say it.
DEFAULTS = {
    GRUParams: ("Sigmoid", "Tanh"),
    RNNParams: ("Tanh",),
    LSTMParams: ("Sigmoid", "Tanh", "Tanh"),
    LSTMVariantParams: ("Sigmoid", "Tanh", "Tanh"),
}
PLACES = "gate_activation", "candidate_activation", "output_activation"
# Options of `make_lstm_variant` that show in the tensors or the attributes of an
# operator, or are of first weights alone.
HELD = {
    "bias",
    "chrono",
    "coupled",
    "forget_bias",
    "heads",
    "initializer",
    "peepholes",
    *PLACES,
}
KINDS: dict[str, type] = {
    "direction": str,
    "hidden_size": int,
    "layout": int,
    "input_forget": int,
    "linear_before_reset": int,
    "activations": list,
    "activation_alpha": list,
    "activation_beta": list,
    "clip": float,
}
WIDER: dict[type, Any] = {list: list | tuple, float: float | int}


class OnnxLayer(NamedTuple):
    """An operator, as a layer.

    Attributes:
      cell: that runs it.
      params: of the cell, or `Directions` of two.
      name: "lstm", "gru", "rnn" or "lstm_variant": the cell's in `CELLS`.
      options: of the cell where it is a variant.
      direction: "forward", "reverse" or "bidirectional".
      layout: 0: inputs [T, B, X] and outputs [T, D, B, H]; 1: [B, T, X] and
        [B, T, D, H].
    """

    cell: Cell
    params: Any
    name: str
    options: dict[str, Any]
    direction: Direction
    layout: Layout


def layer_from_onnx(
    tensors: Mapping[str, Any],
    attributes: Mapping[str, Any] | None = None,
    *,
    prefix: str = "",
    dtype: Any = None,
) -> OnnxLayer:
    """Returns an operator LSTM, GRU or RNN, with all of its attributes, as a layer.

    Args:
      tensors: W, R, and where there are such B and P, as `from_onnx` takes them.
      attributes: of the operator, by ONNX's names; ONNX's defaults where there are
        none.
      prefix: of the names, for the messages.
      dtype: of the parameters; by default that of the tensors.

    Raises:
      OptionError: an attribute is unknown, or asks for what no cell here does: `clip`,
        linear_before_reset = 0, activations of a GRU or RNN other than ONNX's default,
        or other ones in each direction.
      WeightsError: tensors are missing, in excess, or of another shape or dtype.
    """
    given = dict(attributes or {})
    _check_attributes(given)
    check_names(tensors, ["W", "R", *(n for n in "BP" if n in tensors)], prefix)
    direction: Direction = given.get("direction", "forward")
    coupled = bool(given.get("input_forget", 0))
    params = from_onnx(
        **tensors,
        direction=direction,
        input_forget=coupled,
        linear_before_reset=bool(given.get("linear_before_reset", 0)),
        prefix=prefix,
        dtype=dtype,
    )
    first = directions_of(params)[0]
    size = given.get("hidden_size", len(first.w_h))
    if size != len(first.w_h):
        raise WeightsError(
            f"{show(prefix + 'R')}: has H = {len(first.w_h)}, and hidden_size is {size}"
        )
    activations = _find_activations(first, given)
    cell, params, name, options = _find_cell(params, activations, coupled)
    return OnnxLayer(cell, params, name, options, direction, given.get("layout", 0))


def attributes_of(
    name: str, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns the attributes with which an operator does what a cell does.

    Args:
      name: of the cell in `CELLS`.
      options: of the cell.

    Raises:
      OptionError: no operator does what the cell does; the message names the option.
    """
    options = dict(options or {})
    if name in ("gru", "rnn"):
        return {"linear_before_reset": 1} if name == "gru" else {}
    if name != "lstm" and name not in VARIANTS:
        raise OptionError(
            f"cell: {name!r} has no operator in ONNX; those that have are lstm, gru, "
            f"rnn, {', '.join(n for n in VARIANTS if _has_operator(n))}"
        )
    plain = _defaults(make_lstm_variant)
    given = {**_defaults(VARIANTS.get(name, make_lstm)), **options}
    for option, value in given.items():
        if option not in HELD and value != plain.get(option):
            raise OptionError(
                f"cell: {name!r} has {option} = {value!r}, for which ONNX's LSTM has "
                "no place"
            )
    activations = {place: given.get(place, plain[place]) for place in PLACES}
    found: dict[str, Any] = {"input_forget": 1} if given.get("coupled") else {}
    if any(activations[place] != plain[place] for place in PLACES):
        found |= write_activations(activations)
    return found


def _defaults(factory: Callable[..., Cell]) -> dict[str, Any]:
    """Returns the options of a factory of cells that have a default."""
    parameters = inspect.signature(factory).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def _has_operator(name: str) -> bool:
    try:
        attributes_of(name)
    except OptionError:
        return False
    return True


def _check_attributes(given: dict[str, Any]) -> None:
    """Raises OptionError where an attribute is not one, or has no cell here."""
    for name, value in given.items():
        if name not in KINDS:
            raise OptionError(
                f"attributes: {show(name)} is not of LSTM, GRU or RNN; those are "
                f"{', '.join(KINDS)}"
            )
        kind = KINDS[name]
        if not isinstance(value, WIDER.get(kind, kind)):
            raise OptionError(
                f"attributes: {name} is {type(value).__name__}, not {kind.__name__}"
            )
    if given.get("clip") is not None:
        raise OptionError(
            f"clip: is {given['clip']}, and no cell here clips what enters its "
            "activations; leave it out if nothing comes near it"
        )
    check_choice("direction", given.get("direction", "forward"), Direction)
    check_choice("layout", given.get("layout", 0), Layout)


def _find_activations(first: Any, given: dict[str, Any]) -> list[Any]:
    """Returns the activations of an operator, checked to be the same both ways."""
    default = DEFAULTS[type(first)]
    names = list(given.get("activations", ()))
    numbers = [given.get(f"activation_{letter}", ()) for letter in ("alpha", "beta")]
    both = given.get("direction") == "bidirectional"
    wanted = len(default) * (2 if both else 1)
    if not names:
        return read_activations(default)
    # RNN's default is ["Tanh", "Tanh"] whatever the direction.
    if isinstance(first, RNNParams) and names == ["Tanh", "Tanh"]:
        names = names[:wanted]
    if len(names) != wanted:
        raise OptionError(
            f"activations: are {len(names)}, {show(', '.join(names))}; the operator "
            f"has {wanted}"
        )
    found = read_activations(names, *numbers)
    forward, backward = found[: len(default)], found[len(default) :]
    if both and forward != backward:
        raise OptionError(
            f"activations: are {show(', '.join(names))}, not the same in both "
            "directions, and one cell runs both here"
        )
    return forward


def _find_cell(
    params: Any, activations: list[Any], coupled: bool
) -> tuple[Cell, Any, str, dict[str, Any]]:
    """Returns the cell, its parameters, its name and its options."""
    first = directions_of(params)[0]
    default = read_activations(DEFAULTS[type(first)])
    if isinstance(first, GRUParams | RNNParams):
        name = "gru" if isinstance(first, GRUParams) else "rnn"
        if activations != default:
            raise OptionError(
                f"activations: are {', '.join(map(str, activations))}; the "
                f"{name.upper()} here has {', '.join(map(str, default))} alone"
            )
        return _make_cell(name), params, name, {}
    if isinstance(first, LSTMParams) and activations == default:
        return _make_cell("lstm"), params, "lstm", {}
    name, options = "lstm_variant", {}
    if coupled:
        options["coupled"] = True
    if isinstance(first, LSTMVariantParams) and first.peepholes is not None:
        options["peepholes"] = True
    for place, activation, plain in zip(PLACES, activations, default, strict=True):
        if activation != plain:
            options[place] = activation
    variants = [LSTMVariantParams(*one) for one in directions_of(params)]
    params = Directions(*variants) if len(variants) == 2 else variants[0]
    return _make_cell(name, **options), params, name, options


@functools.lru_cache
def _make_cell(name: str, **options: Any) -> Cell:
    """Returns the same cell for the same options, so that nothing is traced anew."""
    return CELLS[name](**options)
