"""Prediction: what a run's model makes of texts that it has not seen."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlstm.estimators import Segment
from jaxlstm.estimators.whole_sequence import predict_sequences
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.runs import FACTS, Run
from jaxlstm.lab.sampling import require_vocabulary
from jaxlstm.lab.task import Task
from jaxlstm.types import Array, PyTree

# Texts of one compiled call; what is longer than a call's shape takes another one.
BLOCK = 64
SHORTEST = 8
# Reads lines from standard input, where a text is expected.
STANDARD_INPUT = "-"


class NothingKnown(UserWarning):
    """A text holds no word of the vocabulary."""


class Text(NamedTuple):
    """A text, and where it was given.

    Attributes:
      place: for messages.
      text: itself.
    """

    place: str
    text: str


class Prediction(NamedTuple):
    """What a text is taken for.

    Attributes:
      text: itself.
      label: the most probable one.
      probability: of it.
      probabilities: of every label.
    """

    text: str
    label: str
    probability: float
    probabilities: dict[str, float]


def read_texts(texts: Sequence[str], file: Path | None = None) -> list[Text]:
    """Returns the texts of a command line, and those of the lines of a file.

    Args:
      texts: of the command line; "-" stands for the lines of standard input.
      file: has a text a line.

    Raises:
      UserError: there is none, one is empty, or a file cannot be read.
    """
    found: list[Text] = []
    for number, text in enumerate(texts, 1):
        if text == STANDARD_INPUT:
            found += _split("standard input", sys.stdin.buffer.read())
        else:
            found.append(Text("--text" if len(texts) == 1 else f"text {number}", text))
    if file is not None:
        try:
            found += _split(str(file), file.read_bytes())
        except OSError as error:
            raise UserError(
                f"--file {file}: cannot be read: {error.strerror}"
            ) from None
    if not found:
        raise UserError(
            "predict: has no text; write --text TEXT, --text - for the lines of "
            "standard input, or --file FILE"
        )
    empty = [f"{place}: is empty; leave it out" for place, x in found if not x.strip()]
    if empty:
        raise UserError(*empty)
    return found


def _split(place: str, data: bytes) -> list[Text]:
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place}: not UTF-8 at byte {error.start}; save it as UTF-8"
        ) from None
    if not lines[-1]:
        lines.pop()
    return [
        Text(f"{place}: line {number}", line.removesuffix("\r"))
        for number, line in enumerate(lines, 1)
    ]


def predict_texts(run: Run, texts: Sequence[Text]) -> Iterator[Prediction]:
    """Yields what a run's model takes each text for.

    The run's directory is all that is read: its data may be gone.

    Args:
      run: of a task with labels.
      texts: none of them empty.

    Raises:
      UserError: the run's task sorts no texts, or a text has nothing to be read.
    """
    task, labels = run.task, run.labels
    if labels is None:
        raise UserError(
            f"{run.path}: its task sorts no texts; name a run of one that does, such "
            "as experiments.sentiment:Sentiment"
        )
    if type(task).encode is Task.encode:
        raise UserError(
            f"{run.path}: its task has labels, and does not say how a text is read; "
            "give it an `encode`"
        )
    size = run.facts["parts"]["output_size"]
    if size != len(labels) and (size, len(labels)) != (1, 2):
        raise UserError(
            f"{run.path / FACTS}: has {len(labels)} labels, and the model gives {size} "
            "logits; put back the file that the run was made with"
        )
    vocabulary, model = require_vocabulary(run), run.model

    @jax.jit
    def find_logits(params: PyTree, inputs: Array, mask: Array) -> Array:
        segment = Segment(inputs, None, mask)
        return predict_sequences(model, params, segment, inputs.shape[1:])[0]

    length = run.config.sections.train.segment_length
    for first in range(0, len(texts), BLOCK):
        block = texts[first : first + BLOCK]
        inputs, mask = task.encode([x.text for x in block], vocabulary, length)
        inputs, mask = _check(inputs, mask, len(block), len(vocabulary))
        _look_at(block, inputs, mask, vocabulary.unknown)
        shape = [_power_of_two(max(SHORTEST, len(inputs))), _power_of_two(len(block))]
        logits = find_logits(run.params, _pad(inputs, shape), _pad(mask, shape))
        rows = find_probabilities(np.asarray(logits, np.float64)[: len(block)])
        for (_, text), row in zip(block, rows.tolist(), strict=True):
            best = int(np.argmax(row))
            shares = dict(zip(labels, row, strict=True))
            yield Prediction(text, labels[best], row[best], shares)


def find_probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities [N, K] of K labels by logits [N, K], or [N, 1] of two.

    A single logit is that of the second label, beside a logit of 0 of the first one.
    """
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def _check(
    inputs: Any, mask: Any, num_texts: int, num_symbols: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what a task made of texts, if it is inputs [T, N] and mask [T, N]."""
    inputs, mask = np.asarray(inputs), np.asarray(mask) != 0
    if inputs.ndim != 2 or inputs.shape[1] != num_texts or mask.shape != inputs.shape:
        raise UserError(
            f"the task's encode: makes inputs {list(inputs.shape)} and mask "
            f"{list(mask.shape)} of {num_texts} texts; make both [T, N]"
        )
    wrong = mask & ((inputs < 0) | (inputs >= num_symbols))
    if wrong.any():
        raise UserError(
            f"the task's encode: {inputs[wrong][0]} is no symbol; there are "
            f"{num_symbols}, from 0 to {num_symbols - 1}"
        )
    return inputs.astype(np.int32), mask


def _look_at(
    texts: Sequence[Text], inputs: np.ndarray, mask: np.ndarray, unknown: int | None
) -> None:
    """Refuses texts without a symbol, and warns of those without a known one."""
    nothing = [
        f"{text.place}: holds nothing that the task reads; leave it out"
        for text, column in zip(texts, mask.T, strict=True)
        if not column.any()
    ]
    if nothing:
        raise UserError(*nothing)
    known = mask & (inputs != unknown)
    for text, column in zip(texts, known.T, strict=True):
        if not column.any():
            warnings.warn(
                f"{text.place}: none of its words is in the run's vocabulary; the "
                "label says nothing of it",
                NothingKnown,
                stacklevel=2,
            )


def _pad(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Puts zeros before the first step, and behind the last text."""
    steps, texts = (wanted - has for wanted, has in zip(shape, x.shape, strict=True))
    return np.pad(x, [(steps, 0), (0, texts)])


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
