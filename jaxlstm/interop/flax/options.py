"""What modules of nnx were given beside their weights, such as activations."""

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells import CELLS, Cell, make_lstm_variant
from jaxlstm.cells.gru import GRUParams
from jaxlstm.cells.lstm import LSTMParams
from jaxlstm.cells.rnn import RNNParams
from jaxlstm.cells.variants import LSTMVariantParams
from jaxlstm.interop.flax.cells import Tree, join
from jaxlstm.interop.stacks import cells_of, directions_of
from jaxlstm.interop.tensors import Paths
from jaxlstm.interop.torch.layers import StackParams
from jaxlstm.interop.weights import WeightsError, show
from jaxlstm.layers import Directions

# What the cells here have, and its name, of what a cell of Flax can be given.
OPTIONS: dict[str, tuple[tuple[Any, ...], str]] = {
    "gate_fn": ((jax.nn.sigmoid, jax.lax.logistic), "sigmoid"),
    "activation_fn": ((jnp.tanh, jax.lax.tanh), "tanh"),
    "residual": ((False,), "False"),
}
NAMES = {LSTMParams: "lstm", GRUParams: "gru", RNNParams: "rnn"}


class FlaxLayers(NamedTuple):
    """Layers of Flax, and the cell that runs them.

    Attributes:
      cell: of every layer.
      params: of each layer: the cell's, or `Directions` of two.
    """

    cell: Cell
    params: tuple[Any, ...]


def open_module(module: Any) -> tuple[dict[str, Any], Tree]:
    """Returns the modules within one of nnx by their paths, and its weights.

    Raises:
      WeightsError: it is none.
    """
    # Where there is a module of nnx, it has been imported.
    nnx: Any = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(module, nnx.Module):
        raise WeightsError(
            f"module: {type(module).__name__} is neither an nnx.Module nor its "
            "weights; of linen, give the variables to from_linen"
        )
    modules = {join(*path): inner for path, inner in nnx.iter_modules(module)}
    return modules, nnx.state(module, nnx.Param)


def check_options(cells: Mapping[str, Any]) -> None:
    """Raises WeightsError, with a line for each option that the cells here lack.

    Args:
      cells: of nnx, by their paths.
    """
    faults = []
    for path, cell in cells.items():
        for option in _find_options(cell):
            value = getattr(cell, option)
            value = show(getattr(value, "__name__", str(value)))
            faults.append(
                f"{show(join(path, option))}: is {value}, and {OPTIONS[option][1]} in "
                "the cell here; layers_from_nnx takes other activations of an LSTM, "
                "and from_nnx(nnx.state(module)) the weights alone"
            )
    if faults:
        raise WeightsError(*faults)


def check_modules(modules: Mapping[str, Any], layers: Sequence[Paths]) -> None:
    """Raises WeightsError where modules do what layers here do not.

    Args:
      modules: of nnx, by their paths.
      layers: the path of the cell of each, or of both.
    """
    faults: dict[str, None] = {}

    def refuse(path: str, said: str, wanted: str) -> None:
        line = (
            f"{show(path)}: is {show(said)}, and {wanted} here; "
            "from_nnx(nnx.state(module)) takes the weights alone"
        )
        faults[line] = None

    for layer in layers:
        first, *_ = paths = directions_of(layer)
        above, _, _ = first.rpartition("/")
        if getattr(modules.get(above), "reverse", False):
            refuse(join(above, "reverse"), "True", "a single direction is forward")
        both, _, _ = above.rpartition("/")
        merge = getattr(modules.get(both), "merge_fn", None)
        if merge is not None and merge is not _find_default(modules[both], "merge_fn"):
            name = getattr(merge, "__name__", str(merge))
            refuse(join(both, "merge_fn"), name, "two directions are side by side")
        for path in paths:
            dtype = getattr(modules[path], "dtype", None)
            own = jnp.dtype(modules[path].param_dtype)
            if dtype is not None and jnp.dtype(dtype) != own:
                refuse(
                    join(path, "dtype"),
                    jnp.dtype(dtype).name,
                    f"what weights of {own.name} compute in is {own.name}",
                )
    firsts = [directions_of(layer)[0] for layer in layers]
    for path, entry in _find_between(modules, firsts):
        name = getattr(entry, "__name__", type(entry).__name__)
        refuse(path, name, "nothing stands between two layers")
    if faults:
        raise WeightsError(*faults)


def _find_between(
    modules: Mapping[str, Any], cells: Sequence[str]
) -> Iterator[tuple[str, Any]]:
    """Yields what stands between two cells of an nnx.Sequential, and its path."""
    for path, module in modules.items():
        if type(module).__name__ != "Sequential":
            continue
        entries = {join(path, "layers", str(n)): x for n, x in enumerate(module.layers)}
        read = [any(f"{cell}/".startswith(f"{e}/") for cell in cells) for e in entries]
        between = np.cumsum(read) * np.cumsum(read[::-1])[::-1] > 0
        for (entry, value), is_read, inside in zip(
            entries.items(), read, between, strict=True
        ):
            if inside and not is_read:
                yield entry, value


def find_cell(params: StackParams, cells: Mapping[str, Any]) -> FlaxLayers:
    """Returns the cell with the activations of those of nnx, and its parameters.

    Args:
      params: of the layers.
      cells: of nnx, by their paths.

    Raises:
      WeightsError: the cells differ, or are no LSTM and lack an option.
    """
    kinds = {type(cell) for cell in cells_of(params)}
    given = {tuple(_find_options(cell).items()) for cell in cells.values()}
    if len(kinds) > 1 or len(given) > 1:
        raise WeightsError(
            f"layers: {show(', '.join(cells))} differ in their cells or activations, "
            "and one cell runs all layers of a stack; read each by itself"
        )
    (kind,) = kinds
    if kind is not LSTMParams or not any(given):
        check_options(cells)
        return FlaxLayers(CELLS[NAMES[kind]](), params)
    first = next(iter(cells.values()))
    cell = make_lstm_variant(
        gate_activation=first.gate_fn,
        candidate_activation=first.activation_fn,
        output_activation=first.activation_fn,
    )

    def widen(layer: Any) -> Any:
        if isinstance(layer, Directions):
            return Directions(*map(widen, layer))
        return LSTMVariantParams(*layer)

    return FlaxLayers(cell, tuple(map(widen, params)))


def _find_default(module: Any, option: str) -> Any:
    """Returns what an option of a module is by default."""
    parameters = inspect.signature(type(module).__init__).parameters
    return parameters[option].default if option in parameters else None


def _find_options(cell: Any) -> dict[str, Any]:
    """Returns the options of a cell of nnx that the cells here do not have."""
    found = {name: getattr(cell, name) for name in OPTIONS if hasattr(cell, name)}
    return {
        name: value
        for name, value in found.items()
        if not any(value is known for known in OPTIONS[name][0])
    }
