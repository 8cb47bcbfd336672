"""Weights of Flax's recurrent modules, linen's and nnx's, as stacks of layers and back.

What the arrays are called there, `jaxlstm.interop.flax.cells` says. Flax itself is
needed for `from_nnx` of a module alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxlstm.cells.gru import GRUParams
from jaxlstm.cells.lstm import LSTMParams
from jaxlstm.cells.rnn import RNNParams
from jaxlstm.interop.flax.cells import (
    DIRECTIONS,
    LINEN,
    NNX,
    SEQUENCES,
    Layout,
    Layouts,
    Tree,
    find_cells,
    join,
    read_cell,
    write_cell,
)
from jaxlstm.interop.flax.options import (
    FlaxLayers,
    check_modules,
    check_options,
    find_cell,
    open_module,
)
from jaxlstm.interop.stacks import directions_of, layers_of
from jaxlstm.interop.tensors import Layers, Paths, check_mapping, list_paths
from jaxlstm.interop.torch.layers import StackParams
from jaxlstm.interop.weights import WeightsError, show
from jaxlstm.layers import Directions
from jaxlstm.types import PyTree


def from_linen(
    variables: Mapping[str, Any], layers: Layers | None = None, *, dtype: Any = None
) -> StackParams:
    """Returns the layers of linen's LSTMCell, OptimizedLSTMCell, GRUCell or SimpleCell.

    That a cell was given other activations, or a SimpleCell a residual, does not show
    in its weights; here the gates are sigmoids and the rest tanh.

    Args:
      variables: as `init` returns them, or the tree under "params".
      layers: the path of each layer in the tree, such as "encoder/LSTMCell_0": of an
        RNN, a Bidirectional or a cell by itself; `Directions` of two paths where two
        cells are the directions of one layer. By default the tree is one such layer,
        or an nn.Sequential of them. What stands elsewhere in the tree is not read.
      dtype: of the parameters; by default that of the tensors.

    Returns:
      A tuple of layers, `LSTMParams`, `GRUParams` or `RNNParams` each, or `Directions`
      of two.

    Raises:
      WeightsError: nothing that is known stands at a path, or arrays are missing, in
        excess, or of another shape or dtype.
    """
    check_mapping(variables)
    tree = variables.get("params", variables)
    return _read(tree, find_cells(tree, layers, LINEN), LINEN, dtype)


def from_nnx(
    module: Any, layers: Layers | None = None, *, dtype: Any = None
) -> StackParams:
    """Returns the layers of nnx's LSTMCell, OptimizedLSTMCell, GRUCell or SimpleCell.

    Args:
      module: an nnx.Module; or its weights alone, as `nnx.state` or
        `nnx.to_pure_dict` gives them.
      layers: as in `from_linen`, such as "layers/0".
      dtype: of the parameters; by default that of the tensors.

    Returns:
      A tuple of layers, as `from_linen` returns it.

    Raises:
      WeightsError: as in `from_linen`; or a module has other activations than the
        cells here, or a residual; or it reads backwards, merges two directions
        otherwise than side by side, or computes in another dtype than its weights'.
    """
    if isinstance(module, Mapping):
        return _read(module, find_cells(module, layers, NNX), NNX, dtype)
    modules, tree = open_module(module)
    cells = find_cells(tree, layers, NNX)
    paths = [path for layer in cells for path in directions_of(layer)]
    check_modules(modules, cells)
    check_options({path: modules[path] for path in paths})
    return _read(tree, cells, NNX, dtype)


def layers_from_nnx(
    module: Any, layers: Layers | None = None, *, dtype: Any = None
) -> FlaxLayers:
    """Returns the layers of a module of nnx, and the cell that has its activations.

    Args:
      module: an nnx.Module.
      layers: as in `from_nnx`.
      dtype: of the parameters; by default that of the arrays.

    Returns:
      The cell and the layers, for `lstm_stack(params, inputs, cell=cell)`. The layers
      are `LSTMVariantParams` where an LSTM has other activations than sigmoid and tanh.

    Raises:
      WeightsError: as in `from_nnx`; or layers have cells that differ, or a GRUCell or
        SimpleCell has other activations or a residual.
    """
    modules, tree = open_module(module)
    found = find_cells(tree, layers, NNX)
    paths = [path for layer in found for path in directions_of(layer)]
    check_modules(modules, found)
    params = _read(tree, found, NNX, dtype)
    return find_cell(params, {path: modules[path] for path in paths})


def to_linen(params: Any, layers: Layers | None = None) -> dict[str, PyTree]:
    """Returns the layers of a stack as variables of linen's modules.

    Args:
      params: a stack as `from_linen` returns it, or a single layer.
      layers: the path of the cell of each layer, "" where it is the whole tree;
        `Directions` of two for two directions. By default a layer is an nn.RNN or
        nn.Bidirectional, and several are an nn.Sequential of these.

    Returns:
      {"params": tree}, with arrays in the dtype of the parameters. Biases that a layer
      does not have are zeros.

    Raises:
      TypeError: a layer is of a kind that Flax does not have.
      WeightsError: the paths are not as many as the layers and directions.
    """
    names = {LSTMParams: "LSTMCell", GRUParams: "GRUCell", RNNParams: "SimpleCell"}
    layouts = {kind: LINEN[name] for kind, name in names.items()}
    return {"params": _write(params, layers, layouts, SEQUENCES[0], str)}


def to_nnx(
    params: Any, layers: Layers | None = None, *, optimized: bool = True
) -> dict[Any, PyTree]:
    """Returns the layers of a stack as `nnx.update(module, ...)` takes them.

    Args:
      params: a stack as `from_nnx` returns it, or a single layer.
      layers: as in `to_linen`. In "layers/0/cell" the number is that of an entry of an
        nnx.List.
      optimized: whether an LSTM is an nnx.OptimizedLSTMCell; else it is an
        nnx.LSTMCell.

    Returns:
      A tree of dictionaries, with arrays in the dtype of the parameters. Biases that a
      layer does not have are zeros.

    Raises:
      TypeError: a layer is of a kind that Flax does not have.
      WeightsError: the paths are not as many as the layers and directions; or the `b_h`
        of a GRU is not zero, for which nnx.GRUCell has no place.
    """
    lstm = "OptimizedLSTMCell" if optimized else "LSTMCell"
    names = {LSTMParams: lstm, GRUParams: "GRUCell", RNNParams: "SimpleCell"}
    layouts = {kind: NNX[name] for kind, name in names.items()}
    faults = [
        f"params: layer {n} has a b_h that is not zero, for which nnx.GRUCell has no "
        "place; linen's GRUCell has one"
        for n, layer in enumerate(layers_of(params))
        if any(
            isinstance(cell, GRUParams) and np.any(np.asarray(cell.b_h))
            for cell in directions_of(layer)
        )
    ]
    if faults:
        raise WeightsError(*faults)
    return _write(params, layers, layouts, SEQUENCES[1], _as_key)


def _read(tree: Tree, cells: list[Paths], layouts: Layouts, dtype: Any) -> StackParams:
    """Returns the parameters of all cells, or raises with the faults of all."""
    faults = []

    def attempt(path: str) -> Any:
        try:
            return read_cell(tree, path, layouts, dtype)
        except WeightsError as error:
            faults.extend(error.lines)

    params = tuple(
        Directions(*map(attempt, paths))
        if isinstance(paths, Directions)
        else attempt(paths)
        for paths in cells
    )
    if faults:
        raise WeightsError(*faults)
    return params


def _write(
    params: Any,
    layers: Layers | None,
    layouts: Mapping[type, Layout],
    stem: str,
    as_key: Callable[[str], Any],
) -> dict[Any, PyTree]:
    """Returns a tree in which the arrays of every cell stand where they should."""
    stack = layers_of(params)
    if layers is None:
        holders = [f"{stem}{n}" for n in range(len(stack))] if stack[1:] else [""]
        names = [DIRECTIONS if isinstance(one, Directions) else [""] for one in stack]
        paths = [
            [join(holder, name, "cell") for name in both]
            for holder, both in zip(holders, names, strict=True)
        ]
    else:
        paths = [directions_of(path) for path in list_paths(layers)]
    if list(map(len, paths)) != [len(directions_of(layer)) for layer in stack]:
        raise WeightsError(
            f"layers: {show(repr(layers))} does not name a cell for each of the "
            f"{len(stack)} layers, and Directions of two where a layer has two"
        )
    tree: dict[Any, PyTree] = {}
    for n, (layer, both) in enumerate(zip(stack, paths, strict=True)):
        for cell, path in zip(directions_of(layer), both, strict=True):
            if type(cell) not in layouts:
                raise TypeError(
                    f"params: layer {n} is {type(cell).__name__}; Flax has cells for "
                    f"{', '.join(kind.__name__ for kind in layouts)}"
                )
            for name, array in write_cell(cell, layouts[type(cell)]).items():
                *parts, last = join(path, name).split("/")
                node = tree
                for part in parts:
                    node = node.setdefault(as_key(part), {})
                node[last] = array
    return tree


def _as_key(part: str) -> str | int:
    """Returns a part of a path as the key that nnx has for it."""
    return int(part) if part.isdecimal() else part
