"""The panels of pictures of what a net remembers: text, units, gates, sentences."""

import functools
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from experiments.text.agreement import Agreement, Contrast, verdict

FONT = "DejaVu Sans Mono"
BOTH_SIGNS, ONE_SIGN = "RdBu_r", "Greens"
SENTENCES = "tab:blue", "tab:red"
# Signs for what would not be seen.
SIGNS = {"\n": "↵", "\t": "→", "\r": "←"}
NO_GLYPH = "□"
# Characters in a line and in a word, lines in a passage.
LINE, WORD, LINES = 80, 14, 14
NAMES = {
    "i": "input gate i",
    "f": "forget gate f",
    "o": "output gate o",
    "g": "candidate g",
    "c": "memory c",
    "h": "output h",
    "m": "log normaliser m",
}


def label_of(piece: str) -> str:
    """Returns what is drawn for a piece of text: what can be seen, in one font."""
    label = _seen(piece)
    return label if len(label) <= WORD else f"{label[: WORD - 1]}…"


def draw_units(
    pieces: Sequence[str], values: np.ndarray, titles: Sequence[str], quantity: str
) -> Figure:
    """Draws a passage once for each unit.

    Args:
      pieces: the text of each symbol.
      values: [T, U], between -1 and 1.
      titles: of each unit.
      quantity: what the values are.
    """
    places, (rows, width) = _lay_out(pieces)
    across = 2 if width <= LINE * 2 // 3 else 1
    down = -(-len(titles) // across)
    figure = Figure(
        figsize=(
            1 + across * max(0.1 * width, 4),
            0.6 + down * (0.38 + 0.175 * rows),
        )
    )
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes in panels:
        axes.set(xlim=(0, width), ylim=(rows, 0))
        axes.set_axis_off()
    for n, (axes, title) in enumerate(zip(panels, titles, strict=False)):
        grid = np.full((rows, width), np.nan)
        for (row, column, label), value in zip(places, values[:, n], strict=False):
            grid[row, column : column + len(label)] = value
            axes.text(
                column + len(label) / 2,
                row + 0.52,
                label,
                color="white" if abs(value) > 0.75 else "black",
                ha="center",
                va="center",
                fontsize=8,
                family=FONT,
                in_layout=False,
            )
        axes.pcolormesh(grid, cmap=BOTH_SIGNS, vmin=-1, vmax=1)
        axes.set_title(title, loc="left", fontsize=9)
    figure.suptitle("What units hold after each symbol, as the net reads", fontsize=10)
    _add_bar(figure, panels, BOTH_SIGNS, -1, quantity)
    return figure


def draw_gates(
    pieces: Sequence[str],
    units: Sequence[dict[str, np.ndarray]],
    titles: Sequence[str],
) -> Figure:
    """Draws gates and state of units over a sentence.

    Args:
      pieces: the text of each symbol.
      units: gates and fields of the state [T] of each, by name.
      titles: of each unit.
    """
    names = [name for name in NAMES if name in units[0]]
    names += [name for name in units[0] if name not in NAMES]
    labels = [label_of(piece) for piece in pieces]
    longest = max(map(len, labels))
    figure = Figure(
        figsize=(
            max(6, 2.6 + 0.125 * len(labels) * (1 if longest == 1 else 1.8)),
            0.8 + len(units) * (0.65 + 0.27 * len(names) + 0.07 * longest),
        ),
        layout="constrained",
    )
    panels = figure.subplots(len(units), squeeze=False)[:, 0]
    one_sign = [name for name in names if name in "ifo"]
    for axes, values, title in zip(panels, units, titles, strict=False):
        rows = []
        for n, name in enumerate(names):
            row, label = values[name], NAMES.get(name, name)
            least, cmap = (0, ONE_SIGN) if name in one_sign else (-1, BOTH_SIGNS)
            top = float(np.max(np.abs(row)))
            if top > 1:
                # A memory grows beyond 1; the others cannot.
                row, label = row / top, f"{label} / {top:.1f}"
            edges = np.arange(len(row) + 1), [n, n + 0.92]
            axes.pcolormesh(*edges, row[None], cmap=cmap, vmin=least, vmax=1)
            rows.append(label)
        axes.set_yticks(np.arange(len(rows)) + 0.46, rows, fontsize=8)
        _label_symbols(axes, labels, rotate=longest > 1)
        axes.set(xlim=(0, len(labels)), ylim=(len(rows), 0))
        axes.set_title(title, loc="left", fontsize=9)
    subject = "Gates and state" if one_sign else "State"
    figure.suptitle(f"{subject} of units, symbol by symbol", fontsize=10)
    state = "candidate and state" if one_sign else "state"
    _add_bar(figure, panels, BOTH_SIGNS, -1, state)
    if one_sign:
        _add_bar(figure, panels, ONE_SIGN, 0, "gates")
    return figure


def draw_agreement(
    contrast: Contrast,
    pieces: Sequence[Sequence[str]],
    agreement: Agreement,
    quantity: str,
) -> Figure:
    """Draws two sentences with the units that tell them apart.

    Args:
      contrast: the sentences.
      pieces: the text of their symbols.
      agreement: how the net reads them.
      quantity: what the values of units are.
    """
    table, columns = agreement.log_probability, len(agreement.values[0])
    heights = [1.0] * len(agreement.units) + ([] if table is None else [0.9])
    longest = max(len(label_of(piece)) for row in pieces for piece in row)
    step = max(0.17, 0.08 * longest)
    figure = Figure(
        figsize=(max(7.5, 1.2 + step * columns), 0.8 + 1.35 * len(heights)),
        layout="constrained",
    )
    panels = figure.subplots(len(heights), height_ratios=heights, squeeze=False)[:, 0]
    for n, (axes, unit) in enumerate(zip(panels, agreement.units, strict=False)):
        axes.axvspan(
            contrast.noun - 0.5, contrast.verb - 0.5, color="0.93", linewidth=0
        )
        axes.axhline(0, color="0.7", linewidth=0.8)
        for values, words, color in zip(
            agreement.values, contrast.words, SENTENCES, strict=True
        ):
            (there,) = np.nonzero(~np.isnan(values[:, n]))
            axes.plot(
                there,
                values[there, n],
                ".-",
                color=color,
                linewidth=1.2,
                markersize=4,
                label=textwrap.shorten(" ".join(words), 50, placeholder=" …"),
            )
        axes.set(xlim=(-0.5, columns - 0.5), ylim=(-1.1, 1.1), xticks=[])
        axes.set_title(str(unit), loc="left", fontsize=9)
        axes.set_ylabel(quantity, fontsize=8)
        axes.tick_params(labelsize=8)
        _write_sentences(axes, contrast, pieces)
    panels[0].legend(
        loc="lower right",
        bbox_to_anchor=(1, 0.98),
        ncols=2,
        fontsize=8,
        frameon=False,
    )
    figure.suptitle(
        "Two sentences that differ in number, and the units that differ most and "
        "longest in the grey part",
        fontsize=10,
    )
    if table is not None:
        _draw_verbs(panels[-1], contrast, table)
    return figure


def _write_sentences(
    axes: Axes, contrast: Contrast, pieces: Sequence[Sequence[str]]
) -> None:
    """Writes two sentences below a panel, one above the other."""
    rows = zip(pieces, contrast.columns, SENTENCES, strict=True)
    for line, (row, places, color) in enumerate(rows):
        for piece, place in zip(row, places.tolist(), strict=True):
            axes.annotate(
                label_of(piece),
                (place, 0),
                (0, -10 - 11 * line),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                va="baseline",
                color=color,
                fontsize=8,
                family=FONT,
            )


def _draw_verbs(axes: Axes, contrast: Contrast, table: np.ndarray) -> None:
    """Draws how likely both last words are after both beginnings."""
    probability = np.exp(table).ravel()
    names = [
        f"… {label_of(words[-2])} {_seen(verb)}"
        for words in contrast.words
        for verb in contrast.verbs
    ]
    colors = [color for color in SENTENCES for _ in range(2)]
    places = np.array([0, 1, 2.4, 3.4])
    bars = axes.barh(places, probability, color=colors, alpha=0.7)
    for bar in (bars[1], bars[2]):
        bar.set_hatch("////")
    axes.bar_label(bars, [f"{p:.2g}" for p in probability], padding=3, fontsize=8)
    axes.set_yticks(places, names, fontsize=8)
    for label, color in zip(axes.get_yticklabels(), colors, strict=True):
        label.set_color(color)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("probability of the last word (hatched: the wrong one)", fontsize=8)
    title = textwrap.fill(verdict(table, contrast.verbs), 100)
    axes.set_title(title, loc="left", fontsize=9)


def _lay_out(
    pieces: Sequence[str],
) -> tuple[list[tuple[int, int, str]], tuple[int, int]]:
    """Returns row, column and label of each symbol, and how many of both there are.

    Symbols that would stand below the last line are left out.
    """
    places, row, column, width = [], 0, 0, 0
    labels = [label_of(piece) for piece in pieces]
    # Words have a gap behind them.
    gap = int(max(map(len, labels)) > 1)
    for piece, label in zip(pieces, labels, strict=True):
        length = len(label) + gap
        if column + length > LINE:
            row, column = row + 1, 0
        if row == LINES:
            break
        places.append((row, column, label))
        column += length
        width = max(width, column)
        if piece == "\n":
            row, column = row + 1, 0
            if row == LINES:
                break
    return places, (places[-1][0] + 1, width)


def _seen(text: str) -> str:
    """Returns a text with signs for what would not be seen of it."""
    return "".join(_visible(sign) for sign in text)


def _visible(sign: str) -> str:
    """Returns a character that has one cell's width and ink where it is no blank."""
    if sign in SIGNS:
        return SIGNS[sign]
    plain = unicodedata.category(sign)[0] not in "CMZ" or sign == " "
    return sign if plain and ord(sign) in _glyphs() else NO_GLYPH


@functools.cache
def _glyphs() -> frozenset[int]:
    """Returns the characters that the font has."""
    path = font_manager.findfont(FONT)
    return frozenset(font_manager.get_font(path).get_charmap())


def _label_symbols(axes: Axes, labels: Sequence[str], *, rotate: bool) -> None:
    axes.set_xticks(
        np.arange(len(labels)) + 0.5,
        labels,
        fontsize=8,
        family=FONT,
        rotation=90 if rotate else 0,
    )
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _add_bar(figure: Figure, panels: Any, cmap: str, least: float, label: str) -> None:
    bar = figure.colorbar(
        ScalarMappable(Normalize(least, 1), cmap),
        ax=list(panels),
        aspect=25,
        fraction=0.03,
        pad=0.01,
    )
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)
