"""Pictures of what a net makes of texts."""

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.sentiment.buckets import Encoded, assemble, make_batches
from jaxlstm.estimators.whole_sequence import predict_sequences
from jaxlstm.lab import Run, Segment
from jaxlstm.lab.predicting import find_probabilities

NUM_MISTAKES, WIDTH, NUM_LINES = 10, 88, 2
HEADINGS = "text", "is", "said", "probability"


class Reviewed(NamedTuple):
    """What a net is asked about.

    Attributes:
      split: the texts' name.
      classes: their names.
      texts: [N] as they were written.
      encoded: as the net reads them.
      said: [N] the classes that a bag of words says; None without one.
    """

    split: str
    classes: Sequence[str]
    texts: Sequence[str]
    encoded: Encoded
    said: np.ndarray | None


def draw_review(
    run: Run, reviewed: Reviewed, lengths: np.ndarray, bounds: Sequence[int]
) -> dict[str, Figure]:
    """Draws what a net says of texts, by name.

    - "confusion": which class is taken for which, by the net and by the bag of words.
    - "mistakes": the texts that the net is surest of, and wrong.
    - "lengths": of the texts that train, and of what they are padded to.

    Args:
      run: whose net it is.
      reviewed: the texts.
      lengths: [M] of the texts that train.
      bounds: to which these are padded.
    """
    shares = predict(run, reviewed.encoded, bounds)
    # Texts are drawn as they stand, dollar signs included.
    with matplotlib.rc_context({"text.parse_math": False, "axes.grid": False}):
        figures = {"confusion": draw_confusion(reviewed, shares.argmax(axis=1))}
        if np.any(shares.argmax(axis=1) != reviewed.encoded.labels):
            figures["mistakes"] = draw_mistakes(reviewed, shares)
        figures["lengths"] = draw_lengths(lengths, bounds)
    return figures


def predict(run: Run, encoded: Encoded, bounds: Sequence[int]) -> np.ndarray:
    """Returns the probability [N, K] that a run's net gives to each class of texts.

    Args:
      run: with its model and parameters.
      encoded: the texts.
      bounds: to which they are padded.
    """
    model, params = run.model, run.params
    batch_size = run.config.sections.train.batch_size

    @jax.jit
    def read(params: Any, segment: Segment) -> jax.Array:
        return predict_sequences(model, params, segment, (batch_size,))[0]

    shares: Any = None
    for batch in make_batches(encoded.lengths, bounds, batch_size):
        segment = assemble(encoded, [batch], batch_size)
        segment = jax.tree.map(lambda leaf: leaf[0], segment)
        logits = np.asarray(read(params, segment), np.float64)[: len(batch.rows)]
        found = find_probabilities(logits)
        if shares is None:
            shares = np.empty((len(encoded.texts), found.shape[-1]))
        shares[batch.rows] = found
    return shares


def draw_confusion(reviewed: Reviewed, said: np.ndarray) -> Figure:
    """Draws how many texts of each class are taken for each.

    Args:
      reviewed: the texts, and what the bag of words says.
      said: [N] the classes that the net says.
    """
    sayings = {"net": said}
    if reviewed.said is not None:
        sayings["bag of words"] = reviewed.said
    num_classes = len(reviewed.classes)
    size = 2 + 0.6 * num_classes
    figure = Figure(figsize=(len(sayings) * (size + 1), size + 0.6), dpi=120)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, len(sayings), squeeze=False)[0]
    labels = reviewed.encoded.labels
    for axes, (name, found) in zip(panels, sayings.items(), strict=True):
        counts = np.zeros((num_classes, num_classes), int)
        np.add.at(counts, (labels, found), 1)
        _draw_counts(axes, counts, reviewed.classes)
        accuracy = np.mean(labels == found)
        axes.set_title(f"{reviewed.split}, {name}: {accuracy:.1%} right")
    return figure


def _draw_counts(axes: Axes, counts: np.ndarray, classes: Sequence[str]) -> None:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, "Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        color = "white" if share > 0.5 else "black"
        text = f"{count:,}\n{share:.1%}"
        axes.text(column, row, text, ha="center", va="center", color=color)
    ticks: Any = range(len(classes))
    axes.set_xticks(ticks, classes)
    axes.set_yticks(ticks, classes)
    axes.set(xlabel="class that is said", ylabel="class that it is")


def draw_mistakes(reviewed: Reviewed, shares: np.ndarray) -> Figure:
    """Draws a table of the texts that the net is surest of, and wrong.

    Args:
      reviewed: the texts.
      shares: [N, K] the probabilities that the net gives.
    """
    said, labels = shares.argmax(axis=1), reviewed.encoded.labels
    texts, classes = reviewed.texts, reviewed.classes
    wrong = np.flatnonzero(said != labels)
    surest = wrong[np.argsort(-shares[wrong].max(axis=1), kind="stable")]
    places: list[int] = surest[:NUM_MISTAKES].tolist()
    rows = [
        (
            _shorten(texts[n]),
            classes[labels[n]],
            classes[said[n]],
            f"{shares[n].max():.1%}",
        )
        for n in places
    ]
    figure = Figure(figsize=(9, 0.9 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    title = f"{reviewed.split}: {len(wrong):,} of {len(labels):,} wrong, the surest"
    axes.set_title(title, loc="left")
    widths = [0.68, 0.1, 0.1, 0.12]
    table = axes.table(
        rows, colLabels=HEADINGS, colWidths=widths, cellLoc="left", loc="center"
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for (row, _), cell in table.get_celld().items():
        cell.set_height(1 / (len(rows) + 1))
        cell.set_linewidth(0.3)
        cell.PAD = 0.02
        if row == 0:
            cell.set_text_props(weight="bold")
    return figure


def _shorten(text: str) -> str:
    text = "".join(sign if sign.isprintable() else " " for sign in text)
    lines = textwrap.wrap(text, WIDTH, max_lines=NUM_LINES, placeholder=" ...")
    return "\n".join(lines)


def draw_lengths(lengths: np.ndarray, bounds: Sequence[int]) -> Figure:
    """Draws how long texts are, and to what they are padded.

    Args:
      lengths: [M] of the texts.
      bounds: of the buckets.
    """
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    longest = bounds[-1]
    edges = np.linspace(0.5, longest + 0.5, min(longest, 60) + 1)
    axes.hist(lengths, edges.tolist())
    for bound in bounds:
        label = "padded to" if bound == bounds[0] else None
        axes.axvline(bound, color="tab:red", linewidth=1, label=label)
    axes.set(xlabel="words, after the cut", ylabel="texts", title="Texts that train")
    axes.legend(loc="upper center", frameon=False)
    return figure
