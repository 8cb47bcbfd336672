"""Pictures of what a net remembers of a text."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.text.agreement import align, compare, fit
from experiments.text.drawing import draw_agreement, draw_gates, draw_units
from experiments.text.features import explain
from experiments.text.memory import (
    Unit,
    activations,
    choose_units,
    find_window,
    gates,
    open_stretch,
    pick,
    record,
)
from jaxlstm.lab import Run
from jaxlstm.lab.vocabulary import END_OF_LINE, Vocabulary

NUM_UNITS, NUM_GATED, NUM_NUMBER = 4, 2, 3
# Characters of a passage.
LONGEST = 300


class Extent(NamedTuple):
    """How far pictures reach, in symbols.

    Attributes:
      lag: how long a unit has to hold what it holds.
      passage: of the text.
      sentence: of the passage, for gates.
    """

    lag: int
    passage: int
    sentence: int


SIGN_EXTENT, WORD_EXTENT = Extent(8, 280, 64), Extent(2, 60, 24)


def check_passage(passage: str | None) -> str | None:
    """Returns a text that can be drawn, or None.

    Raises:
      ValueError: says what is wrong with it.
    """
    if passage is not None:
        if not passage.strip():
            raise ValueError("is blank; give a text, or leave it out")
        if len(passage) > LONGEST:
            raise ValueError(
                f"has {len(passage)} characters; give up to {LONGEST}, which is what "
                "a picture holds"
            )
    return passage


def draw_memory(
    run: Run, passage: str | None, contrast: Sequence[str]
) -> dict[str, Figure]:
    """Draws what the units of a net do as it reads, by name.

    - "units": a passage, coloured by each of the units that respond most [1].
    - "gates": a part of it with gates and state of two of these.
    - "agreement": two sentences that differ in number, with the units that differ most
      and longest, and how likely either of the last words is after both.

    Args:
      run: on a text.
      passage: the text of the first two, by default from the validation text, where
        the units change most. It loses what the vocabulary lacks; if all of it, the
        pictures are left out.
      contrast: the two sentences, or none. The picture is left out if the vocabulary
        lacks a letter or word of them.

    References:
      [1] Karpathy, Johnson and Fei-Fei, Visualizing and Understanding Recurrent
      Networks, 2015. Number in sentences: Linzen, Dupoux and Goldberg, Assessing the
      Ability of LSTMs to Learn Syntax-Sensitive Dependencies, TACL 2016.
    """
    vocabulary, cell = run.vocabulary, run.config.cell
    assert vocabulary is not None
    model, params = run.model, run.params
    extent = WORD_EXTENT if vocabulary.unit == "words" else SIGN_EXTENT
    pieces = np.array([piece_of(vocabulary, n) for n in range(len(vocabulary))], object)
    symbols = open_stretch(run)
    recording = record(model, params, symbols)
    values = activations(cell, recording)
    units = choose_units(values, extent.lag, extent.passage, NUM_UNITS)
    chosen = pick(values, units)
    titles = [
        title_of(unit, chosen[..., n], pieces[symbols].T)
        for n, unit in enumerate(units)
    ]
    quantity = "tanh(c)" if hasattr(recording.states[0], "c") else "output h"
    # Before a text of one's own the net reads whole lines, or at least words.
    stop = _last_end(pieces[symbols[:, 0]])
    context = jax.tree.map(lambda x: x[stop, :1], recording.states)

    figures = {}
    # Text is drawn as it stands, dollar signs included.
    with matplotlib.rc_context({"text.parse_math": False, "axes.grid": False}):
        if passage is None:
            length = min(extent.passage, len(symbols))
            row, start = find_window(chosen, _begins(pieces[symbols]), length)
            part = recording.row(row, start, start + length)
        else:
            ids = vocabulary.encode(fit(vocabulary, passage)[0])
            part = record(model, params, ids[:, None], context)
        if part.symbols.size:
            read = pieces[part.symbols]
            seen = read[:, 0].tolist()
            shown = pick(activations(cell, part), units)
            figures["units"] = draw_units(seen, shown[:, 0], titles, quantity)
            length = min(extent.sentence, len(read))
            _, start = find_window(shown[..., :1], _begins(read), length)
            sentence = part.row(0, start, start + length)
            dtype = run.config.sections.model.compute_dtype
            figures["gates"] = draw_gates(
                seen[start : start + length],
                [
                    gates(cell, params, sentence, unit, dtype and jnp.dtype(dtype))
                    for unit in units[:NUM_GATED]
                ],
                titles,
            )
        aligned = align(vocabulary, contrast) if contrast else None
        if aligned is not None:
            agreement = compare(model, cell, params, aligned, context, NUM_NUMBER)
            sentences = [
                pieces[np.concatenate(words)].tolist() for words in aligned.symbols
            ]
            figures["agreement"] = draw_agreement(
                aligned, sentences, agreement, quantity
            )
    return figures


def piece_of(vocabulary: Vocabulary, number: int) -> str:
    """Returns the text of a symbol; of a byte, the character of that code."""
    symbol = vocabulary.symbols[number]
    if isinstance(symbol, int):
        return chr(symbol)
    return "\n" if vocabulary.unit == "words" and symbol == END_OF_LINE else symbol


def title_of(unit: Unit, values: np.ndarray, rows: Iterable[Sequence[str]]) -> str:
    """Returns a unit's name, and what explains its values [T, B]."""
    found = explain(values, list(rows))
    if found is None:
        return f"{unit}: no simple feature"
    return f"{unit}: {found.feature}, r = {found.correlation:.2f}"


def _last_end(pieces: np.ndarray) -> int:
    """Returns how many symbols there are up to the last end of a line, or of a word."""
    for end in ("\n", " "):
        (found,) = np.nonzero(pieces == end)
        if len(found):
            return int(found[-1]) + 1
    return len(pieces)


def _begins(pieces: np.ndarray) -> np.ndarray:
    """Returns whether a line begins at a symbol [T, B], or a word if there are none."""
    before = np.concatenate([pieces[:1], pieces[:-1]])
    for end in ("\n", " "):
        if (begins := before == end)[1:].any():
            return begins & (pieces != end)
    return np.ones(pieces.shape, bool)
