"""How the cells of Flax keep their weights, and where in a tree they stand.

A cell has a kernel [X, H] or [H, H] for each gate, and for some of them a bias [H]:

    linen  LSTMCell, OptimizedLSTMCell   ii if ig io, hi hf hg ho; biases with h
           GRUCell                       ir iz in, hr hz hn; biases with x, and hn's
           SimpleCell                    i, h; a bias with x
    nnx    LSTMCell                      as linen's, but `if` is `if_`
           OptimizedLSTMCell             dense_i [X, 4H], dense_h [H, 4H] and its bias
           GRUCell                       dense_i [X, 3H] and its bias, dense_h [H, 3H]
           SimpleCell                    dense_i [X, H] and its bias, dense_h [H, H]

An RNN has its cell under `cell`, a Bidirectional two of them under `forward_rnn` and
`backward_rnn`. The order of the gates is the one of this package.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.cells.gru import GRUParams
from jaxlstm.cells.lstm import LSTMParams
from jaxlstm.cells.rnn import RNNParams
from jaxlstm.interop.tensors import (
    Layers,
    Paths,
    as_leaf,
    check_names,
    check_shapes,
    convert,
    list_paths,
)
from jaxlstm.interop.torch.layers import NUM_GATES
from jaxlstm.interop.weights import LONGEST_REASON, WeightsError, show
from jaxlstm.layers import Directions

CellParams = LSTMParams | GRUParams | RNNParams
Tree = Mapping[Any, Any]
Layouts = Mapping[str, "Layout"]


class Layout(NamedTuple):
    """How a cell of Flax keeps its weights.

    Attributes:
      params: what they are here.
      parts: of each field of `params`, the arrays that stand in it side by side; none
        where Flax has zeros.
    """

    params: type[CellParams]
    parts: dict[str, tuple[str, ...]]

    @property
    def names(self) -> list[str]:
        """The names of all arrays."""
        return [name for part in self.parts.values() for name in part]

    @property
    def modules(self) -> set[str]:
        """The names of the modules that hold them."""
        return {name.partition("/")[0] for name in self.names}


def _each(modules: str, kind: str) -> tuple[str, ...]:
    return tuple(f"{module}/{kind}" for module in modules.split())


def _unfused(params: type[CellParams], by_x: str, by_h: str, **biases: Any) -> Layout:
    kernels = {"w_x": _each(by_x, "kernel"), "w_h": _each(by_h, "kernel")}
    return Layout(params, kernels | biases)


LSTM_BIAS = _each("hi hf hg ho", "bias")
GRU_BIAS = _each("ir iz in", "bias")
LINEN = {
    "LSTMCell": _unfused(LSTMParams, "ii if ig io", "hi hf hg ho", b=LSTM_BIAS),
    "GRUCell": _unfused(
        GRUParams, "ir iz in", "hr hz hn", b=GRU_BIAS, b_h=("hn/bias",)
    ),
    "SimpleCell": _unfused(RNNParams, "i", "h", b=("i/bias",)),
}
NNX = {
    "LSTMCell": _unfused(LSTMParams, "ii if_ ig io", "hi hf hg ho", b=LSTM_BIAS),
    "OptimizedLSTMCell": _unfused(
        LSTMParams, "dense_i", "dense_h", b=("dense_h/bias",)
    ),
    "GRUCell": _unfused(GRUParams, "dense_i", "dense_h", b=("dense_i/bias",), b_h=()),
    "SimpleCell": _unfused(RNNParams, "dense_i", "dense_h", b=("dense_i/bias",)),
}
# Cells of Flax that have none here, by the modules in them.
OTHERS = {
    frozenset({"if", "in", "hf", "hn"}): "an MGUCell",
    frozenset({"ih", "hh"}): "a ConvLSTMCell",
}
DIRECTIONS = Directions("forward_rnn", "backward_rnn")
# What stands before the numbers of the layers of an nn.Sequential, linen's and nnx's.
SEQUENCES = "layers_", "layers/"
# Streams of keys, which modules of nnx keep beside their weights.
STREAMS = "rngs"


def find_node(tree: Any, path: str) -> Any:
    """Returns what stands at a path such as "layers/0/cell"; None if nothing does."""
    for part in filter(None, path.split("/")):
        if not isinstance(tree, Mapping):
            return None
        named = {str(key): value for key, value in tree.items()}
        tree = named.get(part)
    return tree


def flatten(node: Any, path: str = "") -> dict[str, Any]:
    """Returns the leaves of a tree by their paths."""
    if not isinstance(node, Mapping):
        # Linen keeps the axes of a partitioned array in a box around it.
        return {path: node.unbox() if hasattr(node, "unbox") else node}
    leaves = {}
    for key, value in node.items():
        if key != STREAMS:
            leaves |= flatten(value, join(path, key))
    return leaves


def join(*parts: Any) -> str:
    """Returns the path of what stands at a path under another; either may be empty."""
    return "/".join(str(part) for part in parts if part != "")


def find_cells(tree: Tree, layers: Layers | None, layouts: Layouts) -> list[Paths]:
    """Returns the path of the cell, or of both, of each layer.

    Raises:
      WeightsError: nothing that is known stands at a path.
    """
    paths = _find_sequence(tree, layouts) if layers is None else list_paths(layers)
    cells: list[Any] = []
    faults: list[str] = []

    def find(path: str) -> Paths | None:
        cell = _find_layer(tree, path, layouts)
        if cell is None:
            faults.append(_explain(tree, path, layouts))
        return cell

    for path in paths:
        if not isinstance(path, Directions):
            cells.append(find(path))
            continue
        both = Directions(*map(find, path))
        faults += [
            f"layers: {show(repr(one))} has two directions already"
            for one, cell in zip(path, both, strict=True)
            if isinstance(cell, Directions)
        ]
        cells.append(both)
    if faults:
        raise WeightsError(*faults)
    return cells


def read_cell(tree: Tree, path: str, layouts: Layouts, dtype: Any) -> CellParams:
    """Returns the parameters of the cell at a path that `find_cells` found.

    Raises:
      WeightsError: arrays are missing, in excess, or of another shape or dtype.
    """
    node, prefix = find_node(tree, path), f"{path}/" if path else ""
    arrays = flatten(node)
    layout = _choose(_find_layouts(node, layouts), arrays, prefix)
    check_names(arrays, layout.names, prefix)
    arrays = convert(arrays, prefix, dtype)
    _check_shapes(arrays, layout, prefix)
    none = np.zeros_like(arrays[layout.parts["w_h"][0]][:, 0])
    fields = {
        field: np.concatenate([arrays[name] for name in names], -1) if names else none
        for field, names in layout.parts.items()
    }
    return layout.params(**{field: as_leaf(each) for field, each in fields.items()})


def write_cell(params: Any, layout: Layout) -> dict[str, np.ndarray]:
    """Returns the arrays of a cell by their names; the biases of none are zeros."""
    arrays = {}
    for field, names in layout.parts.items():
        if not names:
            continue
        value = getattr(params, field)
        value = np.zeros_like(params.w_h[0]) if value is None else np.asarray(value)
        for name, part in zip(names, np.split(value, len(names), -1), strict=True):
            arrays[name] = np.ascontiguousarray(part)
    return arrays


def _find_layouts(node: Any, layouts: Layouts) -> list[Layout]:
    """Returns the layouts that have most modules in common with a node, if any has."""
    if not isinstance(node, Mapping) or frozenset(node) in OTHERS:
        return []
    found = {key for key, value in node.items() if isinstance(value, Mapping)}
    shared = [len(found & layout.modules) for layout in layouts.values()]
    pairs = zip(layouts.values(), shared, strict=True)
    return [layout for layout, count in pairs if count == max(shared) > 0]


def _choose(layouts: list[Layout], arrays: Mapping[str, Any], prefix: str) -> Layout:
    """Returns the layout that has as many gates as there are."""
    name = "dense_h/kernel"
    if len(layouts) == 1 or name not in arrays:
        return layouts[0]
    shape = np.shape(arrays[name])
    for layout in layouts:
        if len(shape) == 2 and shape[1] == NUM_GATES[layout.params] * shape[0]:
            return layout
    raise WeightsError(
        f"{show(prefix + name)}: shape {shape} is neither [H, 4H] of an LSTM, [H, 3H] "
        "of a GRU nor [H, H] of a SimpleCell"
    )


def _find_layer(tree: Tree, path: str, layouts: Layouts) -> Paths | None:
    """Returns the path of the cell, or of both, of what stands at a path."""
    node = find_node(tree, path)
    if _find_layouts(node, layouts):
        return path
    if not isinstance(node, Mapping):
        return None
    inside = set(node) - {STREAMS}
    if inside == {"cell"}:
        return _find_layer(tree, join(path, "cell"), layouts)
    if inside == set(DIRECTIONS):
        both = [_find_layer(tree, join(path, name), layouts) for name in DIRECTIONS]
        if all(isinstance(cell, str) for cell in both):
            return Directions(*both)
    return None


def _find_sequence(tree: Tree, layouts: Layouts) -> list[Paths]:
    """Returns the paths in an nn.Sequential of layers, or that of the tree itself."""
    alone = set(tree) - {STREAMS} == {"layers"}
    for stem, node in zip(SEQUENCES, (tree, alone and tree["layers"]), strict=True):
        if isinstance(node, Mapping) and node:
            paths = [f"{stem}{n}" for n in range(len(node))]
            if all(_find_layer(tree, path, layouts) for path in paths):
                return list(paths)
    return [""]


def _list_layers(tree: Tree, layouts: Layouts, path: str = "") -> list[str]:
    """Returns the paths at which layers stand in a tree."""
    if _find_layer(tree, path, layouts):
        return [path]
    node = find_node(tree, path)
    keys = [key for key in node if key != STREAMS] if isinstance(node, Mapping) else []
    return [p for key in keys for p in _list_layers(tree, layouts, join(path, key))]


def _explain(tree: Tree, path: str, layouts: Layouts) -> str:
    """Says what stands at a path in place of a layer, and where there are any."""
    node = find_node(tree, path)
    kind = OTHERS.get(frozenset(node)) if isinstance(node, Mapping) else None
    place = show(repr(path)) if path else "the tree"
    if node is None:
        what = f"{place} is not in the tree"
    elif kind:
        what = f"{place} is {kind}, for which there is no cell here"
    else:
        what = f"{place} is no cell, RNN or Bidirectional of {', '.join(layouts)}"
    there = ", ".join(map(repr, _list_layers(tree, layouts))) or "none"
    return f"layers: {what}; layers there are {show(there, LONGEST_REASON)}"


def _check_shapes(
    arrays: Mapping[str, np.ndarray], layout: Layout, prefix: str
) -> None:
    """Raises WeightsError unless all shapes are those by the first kernels."""
    first = [layout.parts[field][0] for field in ("w_x", "w_h")]
    faults = [
        f"{show(prefix + name)}: shape {arrays[name].shape} is not that of a matrix"
        for name in first
        if arrays[name].ndim != 2
    ]
    if faults:
        raise WeightsError(*faults)
    sizes = {"X": arrays[first[0]].shape[0], "H": arrays[first[1]].shape[0]}
    wanted = {}
    for field, names in layout.parts.items():
        gates = 1 if field == "b_h" else NUM_GATES[layout.params]
        width = gates // len(names) if names else 0
        columns = "H" if width == 1 else f"{width}H"
        for name in names:
            rows = {"w_x": ["X"], "w_h": ["H"]}.get(field, [])
            shape = *(sizes[row] for row in rows), width * sizes["H"]
            wanted[name] = f"[{', '.join([*rows, columns])}]", shape
    described = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
    check_shapes(arrays, wanted, prefix, described)
