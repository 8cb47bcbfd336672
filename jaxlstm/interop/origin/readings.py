"""What named arrays may be of an LSTM, as far as their shapes tell."""

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from jaxlstm.interop.weights import WeightsError, show

# Beyond so many readings the shapes tell too little.
MOST_READINGS = 512

# What the arrays together may be: counts of kinds. "x" holds the input weights of all
# gates, "h" the recurrent ones, "xh" both, "x1", "h1" and "xh1" those of one gate.
WEIGHTS = (
    {"x": 1, "h": 1},
    {"xh": 1},
    {"x1": 4, "h1": 4},
    {"xh1": 4},
    {"x": 1, "h1": 4},
    {"x1": 4, "h": 1},
)
# "b" is a bias of all gates, "bb" two of them, "b1" one of a gate.
BIASES = {
    "none": {},
    "one": {"b": 1},
    "two": {"b": 2},
    "two in one array": {"bb": 1},
    "one a gate": {"b1": 4},
    "two a gate": {"b1": 8},
}


class Piece(NamedTuple):
    """What one array may be.

    Attributes:
      name: of the array.
      kind: of `WEIGHTS` or `BIASES`.
      axes: its axes in letters.
      transposed: whether its inputs are its columns.
      blocks: [4, inputs, H], or [1, inputs, H] of one gate; of biases without inputs.
    """

    name: str
    kind: str
    axes: str
    transposed: bool
    blocks: np.ndarray


class Weight(NamedTuple):
    """One of the three weights of a layer, as it may stand in the arrays.

    Attributes:
      blocks: [4, inputs, H], or [n, H] of biases, in the order in which they stand.
      joined: whether they stand in one array, in the order common to such arrays.
      transposed: whether the inputs are columns.
      axes: of the arrays, in letters.
      names: of the arrays; of one gate each where they are not joined.
    """

    blocks: np.ndarray
    joined: bool
    transposed: bool
    axes: str
    names: tuple[str, ...]


class Reading(NamedTuple):
    """What the arrays together may be, but for the order of the gates.

    Attributes:
      w_x: input weights.
      w_h: recurrent weights.
      b: biases; those of two a gate are all sums of pairs.
      layout: "apart", or "[x; h]" or "[h; x]" where matrices hold both weights.
      bias: a name of `BIASES`.
    """

    w_x: Weight
    w_h: Weight
    b: Weight
    layout: str
    bias: str


def find_readings(
    arrays: Mapping[str, np.ndarray], input_size: int, hidden_size: int
) -> list[Reading]:
    """Returns all that arrays may be of one layer, the simplest first.

    Args:
      arrays: by name.
      input_size: X.
      hidden_size: H.

    Raises:
      WeightsError: an array has no place in an LSTM of these sizes, all together are
        none, or too many readings are left.
    """
    sizes = f"X = {input_size} by the inputs and H = {hidden_size} by the outputs"
    pieces = {
        name: list(_read(name, array, input_size, hidden_size))
        for name, array in arrays.items()
    }
    faults = [
        f"{show(name)}: shape {arrays[name].shape} is of no array of an LSTM with "
        f"{sizes}"
        for name, found in pieces.items()
        if not found
    ]
    if faults:
        raise WeightsError(*faults)
    readings = []
    for chosen in _choose(pieces):
        readings += _assemble(chosen, input_size, hidden_size)
        if len(readings) > MOST_READINGS:
            raise WeightsError(
                f"arrays: may be read in more than {MOST_READINGS} ways with {sizes}; "
                "join those of the gates"
            )
    if not readings:
        shapes = ", ".join(f"{show(n)} {a.shape}" for n, a in arrays.items())
        raise WeightsError(
            f"arrays: {shapes or 'none'} are no whole LSTM with {sizes}; it has "
            "weights of inputs and of outputs, in one matrix, in two, or in those of "
            "each gate, and no biases, one or two"
        )
    return sorted(readings, key=_complexity)


def _complexity(reading: Reading) -> tuple[bool, bool, str]:
    return reading.w_x.transposed, reading.w_h.transposed, reading.layout


def _read(name: str, array: np.ndarray, x: int, h: int) -> Iterator[Piece]:
    """Yields what an array may be."""
    shape = array.shape
    if len(shape) == 3 and shape[0] == 1:
        array, shape = array[0], shape[1:]
    if not 1 <= len(shape) <= 3:
        return
    for kind, letters, size in (("x", "X", x), ("h", "H", h), ("xh", "X + H", x + h)):
        # A square array may stand either way.
        for transposed in (False, True):
            upright = array.swapaxes(-1, -2) if transposed and array.ndim > 1 else array
            if upright.shape == (size, 4 * h):
                axes = f"[4H, {letters}]" if transposed else f"[{letters}, 4H]"
                blocks = upright.reshape(size, 4, h).swapaxes(0, 1)
                yield Piece(name, kind, axes, transposed, blocks)
            axes = f"H, {letters}]" if transposed else f"{letters}, H]"
            if upright.shape == (4, size, h):
                yield Piece(name, kind, f"[4, {axes}", transposed, upright)
            if upright.shape == (size, h):
                yield Piece(name, f"{kind}1", f"[{axes}", transposed, upright[None])
    for kind, letters, shapes in (
        ("b", "4H", {(4 * h,), (1, 4 * h), (4 * h, 1), (4, h)}),
        ("bb", "8H", {(8 * h,), (1, 8 * h), (8 * h, 1)}),
        ("bb", "2, 4H", {(2, 4 * h), (2, 4, h)}),
        ("b1", "H", {(h,), (1, h), (h, 1)}),
    ):
        if shape in shapes:
            blocks = array.reshape(-1, 4, h).sum(0) if kind != "b1" else array
            yield Piece(name, kind, f"[{letters}]", False, blocks.reshape(-1, h))


def _choose(
    pieces: Mapping[str, list[Piece]],
) -> Iterator[dict[str, list[list[Piece]]]]:
    """Yields arrays by kind, such as make a whole; of each all that it may be."""
    kinds = [sorted({piece.kind for piece in found}) for found in pieces.values()]
    most = {"b": 2, "b1": 8, "x1": 4, "h1": 4, "xh1": 4}
    wholes = [weights | biases for weights in WEIGHTS for biases in BIASES.values()]

    def extend(chosen: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if len(chosen) == len(kinds):
            counts = {kind: chosen.count(kind) for kind in chosen}
            if counts in wholes:
                yield chosen
            return
        for kind in kinds[len(chosen)]:
            if chosen.count(kind) < most.get(kind, 1):
                yield from extend((*chosen, kind))

    if len(kinds) > max(sum(whole.values()) for whole in wholes):
        return
    for chosen in extend(()):
        by_kind: dict[str, list[list[Piece]]] = {}
        for kind, found in zip(chosen, pieces.values(), strict=True):
            same = [piece for piece in found if piece.kind == kind]
            by_kind.setdefault(kind, []).append(same)
        yield by_kind


def _assemble(
    chosen: Mapping[str, list[list[Piece]]], input_size: int, hidden_size: int
) -> Iterator[Reading]:
    """Yields the readings of arrays by kind: all ways to turn their matrices."""
    bias, b = _join_biases(chosen, hidden_size)
    for both in _turn(chosen, "xh"):
        w_x, w_h = np.split(both.blocks, [input_size], axis=1)
        yield _split(both, w_x, w_h, b, "[x; h]", bias)
        w_h, w_x = np.split(both.blocks, [hidden_size], axis=1)
        reversed_axes = both._replace(axes=both.axes.replace("X + H", "H + X"))
        yield _split(reversed_axes, w_x, w_h, b, "[h; x]", bias)
    for w_x, w_h in itertools.product(_turn(chosen, "x"), _turn(chosen, "h")):
        yield Reading(w_x, w_h, b, "apart", bias)


def _split(
    both: Weight, w_x: np.ndarray, w_h: np.ndarray, b: Weight, layout: str, bias: str
) -> Reading:
    weights = both._replace(blocks=w_x), both._replace(blocks=w_h)
    return Reading(*weights, b, layout, bias)


def _turn(chosen: Mapping[str, list[list[Piece]]], kind: str) -> Iterator[Weight]:
    """Yields the ways to read the matrices of a kind, all turned alike."""
    joined = kind in chosen
    arrays = chosen.get(kind) or chosen.get(f"{kind}1", [])
    for transposed in (False, True):
        turned = [p for found in arrays for p in found if p.transposed == transposed]
        if turned and len(turned) == len(arrays):
            blocks = np.concatenate([piece.blocks for piece in turned])
            names = tuple(piece.name for piece in turned)
            yield Weight(blocks, joined, transposed, turned[0].axes, names)


def _join_biases(
    chosen: Mapping[str, list[list[Piece]]], hidden_size: int
) -> tuple[str, Weight]:
    """Returns the bias convention, and the biases under it."""
    counts = {kind: len(chosen[kind]) for kind in ("b", "bb", "b1") if kind in chosen}
    bias = next(name for name, wanted in BIASES.items() if wanted == counts)
    found = [pieces[0] for kind in counts for pieces in chosen[kind]]
    names = tuple(piece.name for piece in found)
    if not found:
        return bias, Weight(np.zeros((4, hidden_size)), True, False, "", ())
    axes, joined = found[0].axes, found[0].kind != "b1"
    blocks = np.stack([piece.blocks for piece in found])
    if joined:
        return bias, Weight(blocks.sum(0), True, False, axes, names)
    blocks = blocks[:, 0]
    if len(blocks) == 8:
        first, second = np.triu_indices(8, 1)
        blocks = blocks[first] + blocks[second]
        names = tuple(
            f"{names[a]} + {names[b]}" for a, b in zip(first, second, strict=True)
        )
    return bias, Weight(blocks, False, False, axes, names)
