"""Whether a net knows number: two sentences that differ in it, side by side."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.text.memory import Unit, activations, pick, record, take_unlike
from jaxlstm.cells import Cell
from jaxlstm.lab.vocabulary import UNKNOWN, Vocabulary, split_words
from jaxlstm.model import Model, ModelParams

PUPPIES = (
    "the puppy that my friends gave me is",
    "the puppies that my friend gave me are",
)
# Characters of a sentence.
LONGEST = 80


class Contrast(NamedTuple):
    """Two sentences in symbols, with their words one above the other.

    Attributes:
      words: of both sentences.
      symbols: [n] of each word of both, with the blank after it.
      columns: where each symbol of both sentences stands [n]; the end of a word, and
        so the beginning of the next, is at the same column in both.
      noun: the last column of the first word that differs.
      verb: the first column of the last word.
    """

    words: tuple[list[str], list[str]]
    symbols: tuple[list[np.ndarray], list[np.ndarray]]
    columns: tuple[np.ndarray, np.ndarray]
    noun: int
    verb: int

    @property
    def verbs(self) -> tuple[str, str]:
        """The last words."""
        return self.words[0][-1], self.words[1][-1]


class Agreement(NamedTuple):
    """How a net reads a contrast.

    Attributes:
      units: those that differ most and longest between the sentences.
      values: what they hold [columns, U] in both sentences; NaN where there is no
        symbol.
      log_probability: [2, 2] in nats, of each last word after each beginning; None
        where the last word is the same.
    """

    units: list[Unit]
    values: tuple[np.ndarray, np.ndarray]
    log_probability: np.ndarray | None


def check_contrast(sentences: list[str]) -> list[str]:
    """Returns two sentences that can be compared, or none.

    Raises:
      ValueError: says what is wrong with them.
    """
    if not sentences:
        return sentences
    if len(sentences) != 2:
        raise ValueError(
            f"holds {len(sentences)} and not two; give two, or [] for none"
        )
    for sentence in sentences:
        if len(sentence) > LONGEST or not sentence.isprintable():
            raise ValueError(
                f"{sentence!r}: give one line of up to {LONGEST} characters"
            )
    one, other = (sentence.split() for sentence in sentences)
    if len(one) != len(other):
        raise ValueError(
            f"{len(one)} and {len(other)} words; give as many in both, which are drawn "
            "one above the other"
        )
    if one[:-1] == other[:-1]:
        raise ValueError(
            "no word differs before the last one, which is to agree with it"
        )
    return sentences


def fit(vocabulary: Vocabulary, text: str) -> tuple[str, list[str]]:
    """Returns a text in symbols of a vocabulary, and what had to be left out.

    What is not in the vocabulary may become lower or upper case, or white space a
    blank. The unknown symbol does not stand for it.
    """
    known = set(vocabulary.symbols) - {UNKNOWN}
    kept, missing = [], []
    words = vocabulary.unit == "words"
    for part in split_words(text) if words else text:
        variants = [part, part.lower(), part.upper()] + [" "] * part.isspace()
        for variant in variants:
            if vocabulary.unit == "bytes":
                found = known.issuperset(variant.encode("utf-8", "surrogateescape"))
            else:
                found = variant in known
            if found:
                kept.append(variant)
                break
        else:
            missing.append(part)
    return (" " if words else "").join(kept), missing


def align(vocabulary: Vocabulary, sentences: Sequence[str]) -> Contrast | None:
    """Returns two sentences, word above word, or None where they cannot be told.

    They may lose signs that the vocabulary lacks, but no letter, digit or blank.
    """
    fitting, missing = zip(
        *(fit(vocabulary, f"{sentence} ") for sentence in sentences), strict=True
    )
    one, other = (sentence.split() for sentence in fitting)
    lost = "".join(part for parts in missing for part in parts)
    if any(sign == " " or sign.isalnum() for sign in lost):
        return None
    if len(one) != len(other) or one[:-1] == other[:-1]:
        return None
    symbols = tuple(
        [vocabulary.encode(f"{word} ") for word in words] for words in (one, other)
    )
    widths = [max(len(a), len(b)) for a, b in zip(*symbols, strict=True)]
    ends = np.cumsum(widths)
    columns = tuple(
        np.concatenate(
            [
                np.append(np.arange(len(ids) - 1) + end - width, end - 1)
                for ids, end, width in zip(sentence, ends, widths, strict=True)
            ]
        )
        for sentence in symbols
    )
    first = next(n for n, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    return Contrast(
        (one, other),
        (symbols[0], symbols[1]),
        (columns[0], columns[1]),
        int(ends[first]) - 1,
        int(ends[-2]),
    )


def compare(
    model: Model,
    cell: Cell,
    params: ModelParams,
    contrast: Contrast,
    state: Any,
    count: int,
) -> Agreement:
    """Lets a net read a contrast.

    The units are those whose difference between the sentences, averaged from the noun
    that differs to the last word, is largest: a unit has to hold it all the way, with
    one sign. Of units that are alike over both sentences, the first is enough.

    Args:
      model: the net.
      cell: of its layers.
      params: of the model.
      contrast: the sentences.
      state: before their first symbol, leaves [1, H].
      count: how many units, at most.
    """
    # Both beginnings, each with both endings; the first and the last are as given.
    pairs = [(n, m) for n in (0, 1) for m in (0, 1)]
    beginnings = [np.concatenate(words[:-1]) for words in contrast.symbols]
    endings = [words[-1] for words in contrast.symbols]
    rows = [np.concatenate([beginnings[n], endings[m]]) for n, m in pairs]
    symbols = np.zeros((max(map(len, rows)), len(rows)), np.int32)
    for n, row in enumerate(rows):
        symbols[: len(row), n] = row
    start = jax.tree.map(lambda x: np.repeat(x, len(rows), axis=0), state)
    recording = record(model, params, symbols, start)

    values = activations(cell, recording)
    spread = np.full((2, int(contrast.columns[0][-1]) + 1, *values.shape[2:]), np.nan)
    for n, row in enumerate((0, 3)):
        columns = contrast.columns[n]
        spread[n, columns] = values[: len(columns), row]
    difference = (spread[0] - spread[1])[contrast.noun : contrast.verb]
    held = np.abs(np.nanmean(difference, axis=0)).ravel()
    there = np.concatenate([values[: len(contrast.columns[n]), 3 * n] for n in (0, 1)])
    units = take_unlike(held, there - there.mean(axis=0), count)
    one, other = pick(spread, units)

    table = None
    if contrast.verbs[0] != contrast.verbs[1]:
        # What is read before a symbol predicts it.
        before = jax.tree.map(lambda x: x[:-1], recording.states)
        logs = np.asarray(_log_probability(model, params, before, symbols))
        table = np.array(
            [
                logs[len(beginnings[n]) : len(row), p].sum()
                for p, ((n, _), row) in enumerate(zip(pairs, rows, strict=True))
            ]
        ).reshape(2, 2)
    return Agreement(units, (one, other), table)


def _log_probability(
    model: Model, params: ModelParams, states: Any, symbols: np.ndarray
) -> jax.Array:
    @jax.jit
    def read(params: ModelParams, states: Any, symbols: jax.Array) -> jax.Array:
        logs = jax.nn.log_softmax(model.readout(params, states).astype(jnp.float32))
        return jnp.take_along_axis(logs, symbols[..., None], axis=-1)[..., 0]

    return read(params, states, symbols)


def verdict(log_probability: np.ndarray, verbs: tuple[str, str]) -> str:
    """Returns in words whether the net tells the last word by the number.

    Args:
      log_probability: [2, 2] of each last word after each beginning.
      verbs: the last words.
    """
    first, second = (float(row[0] - row[1]) for row in log_probability)
    shift = f"{abs(first - second):.2f} nats"
    if first > 0 > second:
        return f"Tells number here: the right word is likelier after both, by {shift}"
    if first < 0 < second:
        return f"Wrong here: the other word is likelier after both, by {shift}"
    word = verbs[0] if first > 0 else verbs[1]
    way = "the right way" if first > second else "the wrong way"
    return (
        f'Does not tell number here: "{word}" is likelier after both; the odds shift '
        f"{way}, by {shift}"
    )
