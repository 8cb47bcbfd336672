"""What a net remembers of a text: its units as it reads, and the telling ones."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells import Cell
from jaxlstm.cells.gates import cell_gates, gate_names
from jaxlstm.lab import Run
from jaxlstm.model import Model, ModelParams
from jaxlstm.types import Array

# How many symbols are read to find the units that respond most.
STRETCH = 4000
# Units with a larger correlation tell the same.
ALIKE = 0.6
# Of the gates of an LSTM and its variants, in the order of its equations.
LETTERS = {"i": "input", "f": "forget", "g": "candidate", "o": "output"}


class Unit(NamedTuple):
    """A unit of a net, counted from 0.

    Attributes:
      layer: the number of its layer, from the input up.
      number: its place in the layer.
    """

    layer: int
    number: int

    def __str__(self) -> str:
        """Returns its name in pictures."""
        return f"layer {self.layer}, unit {self.number}"


class Recording(NamedTuple):
    """A net that reads rows of symbols.

    Attributes:
      symbols: [T, B].
      states: of every layer, leaves [T + 1, B, H]: t symbols have been read where t is
        the first index.
    """

    symbols: np.ndarray
    states: tuple[Any, ...]

    def row(self, row: int, start: int, stop: int) -> "Recording":
        """Returns a part [stop - start, 1] of one row."""
        states = jax.tree.map(lambda x: x[start : stop + 1, row : row + 1], self.states)
        return Recording(self.symbols[start:stop, row : row + 1], states)


def open_stretch(run: Run) -> np.ndarray:
    """Returns rows [T, B] of the validation text, or else of the training text.

    They hold some 4,000 symbols in all, in as few rows as the split has.
    """
    split = "validation" if "validation" in run.task.splits else "train"
    source, train = run.experiment.split(split), run.config.sections.train
    count = -(-STRETCH // train.segment_length)
    if source.num_segments is not None:
        count = min(count, source.num_segments)
    symbols = np.asarray(source.segments(0, count).inputs)
    symbols = symbols.reshape(-1, train.batch_size)
    return symbols[:, : -(-STRETCH // len(symbols))]


def record(
    model: Model, params: ModelParams, symbols: np.ndarray, state: Any = None
) -> Recording:
    """Lets a net read.

    Args:
      model: the net, over symbols.
      params: its parameters.
      symbols: [T, B].
      state: before the first symbol, leaves [B, H]; by default the initial one.
    """
    states = _record(model, params, symbols, state)
    return Recording(symbols, jax.tree.map(np.asarray, states))


@functools.partial(jax.jit, static_argnums=0)
def _record(model: Model, params: ModelParams, symbols: Array, state: Any) -> Any:
    if state is None:
        state = model.initial_state(params, symbols.shape[1:])
    _, states = model.unroll(params.recurrent, state, symbols)
    return jax.tree.map(
        lambda first, rest: jnp.concatenate([first[None], rest]), state, states
    )


def activations(cell: Cell, recording: Recording) -> np.ndarray:
    """Returns what each unit holds after each symbol, [T, B, L, H].

    Of a cell with a memory c it is tanh(c), which lies between -1 and 1; of another
    one, its output.
    """
    layers = [
        np.tanh(state.c) if hasattr(state, "c") else cell.output(state)
        for state in recording.states
    ]
    return np.stack([np.asarray(x[1:], np.float32) for x in layers], axis=-2)


def choose_units(values: np.ndarray, lag: int, window: int, count: int) -> list[Unit]:
    """Returns the units that respond most, each to something else.

    The measure is a unit's covariance with itself some steps later, within windows of
    the text. It is near 1 for a unit that stands now at one end, now at the other, and
    changes seldom, but within a window; a unit that stays where it is, or flickers
    with each symbol, has none. From the top down, a unit is left out if its
    correlation with one before is beyond +-0.6.

    Args:
      values: [T, B, L, H], between -1 and 1.
      lag: how much later.
      window: how many symbols it has.
      count: how many units, at most.
    """
    window = min(window, len(values))
    lag = min(lag, window - 1)
    whole = values[: len(values) // window * window]
    windows = whole.reshape(-1, window, *values.shape[1:])
    windows = windows - windows.mean(axis=1, keepdims=True)
    kept = np.mean(windows[:, lag:] * windows[:, : window - lag], axis=(0, 1, 2))
    centred = values - values.mean(axis=(0, 1))
    return take_unlike(kept.ravel(), centred.reshape(-1, *values.shape[2:]), count)


def take_unlike(score: np.ndarray, values: np.ndarray, count: int) -> list[Unit]:
    """Returns units by falling score, each unlike those before.

    Args:
      score: [L * H].
      values: [n, L, H]; units with a cosine beyond +-0.6 are alike.
      count: how many units, at most.
    """
    columns = values.reshape(-1, score.size)
    columns = columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-9)
    chosen: list[int] = []
    for n in np.argsort(-score, kind="stable").tolist():
        if np.all(np.abs(columns[:, chosen].T @ columns[:, n]) <= ALIKE):
            chosen.append(n)
        if len(chosen) == count:
            break
    return [Unit(*divmod(n, values.shape[-1])) for n in chosen]


def pick(values: np.ndarray, units: Sequence[Unit]) -> np.ndarray:
    """Returns the values [..., U] of some units out of [..., L, H]."""
    layers, numbers = zip(*units, strict=True)
    return values[..., list(layers), list(numbers)]


def find_window(values: np.ndarray, begins: np.ndarray, length: int) -> tuple[int, int]:
    """Returns row and start of the window in which units change most.

    Args:
      values: [T, B, U].
      begins: [T, B] whether a window may start there. If none may that would fit, all
        may.
      length: of the window, at most T.
    """
    sums, squares = (
        np.cumsum(np.pad(x, ((1, 0), (0, 0), (0, 0))), axis=0, dtype=np.float64)
        for x in (values, values**2)
    )
    mean, square = (
        (x[length:] - x[: len(x) - length]) / length for x in (sums, squares)
    )
    change = np.sum(square - mean**2, axis=-1)
    allowed = begins[: len(change)]
    if allowed.any():
        change = np.where(allowed, change, -1)
    start, row = np.unravel_index(np.argmax(change), change.shape)
    return int(row), int(start)


def gates(
    cell: Cell,
    params: ModelParams,
    recording: Recording,
    unit: Unit,
    compute_dtype: Any = None,
) -> dict[str, np.ndarray]:
    """Returns what makes a unit's state at each symbol of the first row.

    Args:
      cell: of every layer.
      params: of the model.
      recording: the symbols and states.
      unit: which.
      compute_dtype: of the products, as in the model.

    Returns:
      Of an LSTM and its variants those that there are of the gates i, f, g, o [T] by
      name, as `cell_gates` has them; and of every cell the fields of its state after
      each symbol [T], but for those that are not of its units: an output that is
      projected, or several numbers for each of them.
    """
    recurrent, state = params.recurrent, recording.states[unit.layer]
    layer, found = recurrent.layers[unit.layer], {}
    if cell.gated is not None and "forget" in gate_names(cell.gated):
        if unit.layer:
            x = cell.output(recording.states[unit.layer - 1])[1:, 0]
        elif recurrent.embedding is None:
            w_x = cell.gated.weights(layer).w_x
            x = np.eye(len(w_x), dtype=w_x.dtype)[recording.symbols[:, 0]]
        else:
            x = np.asarray(recurrent.embedding)[recording.symbols[:, 0]]
        before = jax.tree.map(lambda leaf: leaf[:-1, 0], state)
        values = _gates(cell, layer, before, x, compute_dtype)
        found = {
            letter: np.asarray(values[name])[:, unit.number]
            for letter, name in LETTERS.items()
            if name in values
        }
    shape = np.shape(state.c if hasattr(state, "c") else cell.output(state))
    fields = {
        jax.tree_util.keystr(path, simple=True): leaf[1:, 0, unit.number]
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if leaf.shape == shape
    }
    return found | fields


_gates = jax.jit(cell_gates, static_argnums=(0, 4))
