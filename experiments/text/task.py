"""The next symbol of a text: the task."""

import functools
import math
import platform
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

import jax
import numpy as np
import optax
from matplotlib.figure import Figure
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

from experiments.files import check_fractions, divide, make_absolute
from experiments.text.agreement import PUPPIES, check_contrast
from experiments.text.batches import (
    Stretch,
    count_segments,
    divide_rows,
    divide_text,
    make_source,
)
from experiments.text.corpus import Corpus, Reading, read_corpus
from experiments.text.figures import check_passage, draw_memory
from experiments.text.raw import RawText, open_texts
from experiments.text.sources import KNOWN_TEXTS, PYTHON_DOCS
from jaxlstm.lab import ModelParts, Reference, Run, Source, Task, UserError, generator
from jaxlstm.lab.vocabulary import Unit, Vocabulary

SPLITS: tuple[str, ...] = ("train", "validation", "test")
FRACTION = 0.05


class Published(BaseModel):
    """A published figure, as `jaxlstm.lab.Reference`.

    Attributes:
      label: whose it is.
      loss: in nats a symbol.
      update: where it was reached.
    """

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    label: str
    loss: float
    update: PositiveInt | None = None


def _refuse_empty(sentences: list[str]) -> list[str]:
    for number, sentence in enumerate(sentences):
        if not sentence.strip():
            raise ValueError(
                f"sentence {number + 1} is empty; write it, or give [] for none"
            )
    return sentences


class Text(Task):
    """Predicts the next symbol of a text.

    The batch is made of rows of the text, whose state is carried from segment to
    segment.

    Attributes:
      source: a known text (see `experiments.text.sources`), or the path of a file,
        from the current folder on; `./NAME` where a known text has its name.
      unit: "characters" of a text in UTF-8, CRLF read as LF; "bytes" of any file, as
        they are; or "words", which white space separates, a line feed being "<eos>".
      vocabulary_size: the most symbols that are told apart, the unknown one included:
        the most frequent are kept.
      unknown: whether there is an unknown symbol even where none is left over.
      letters_only: lower case, and one space for every run of characters beside a-z.
      limit: how many symbols of the text, or of each split's file, are read.
      validation, test: fractions at the end of the text that are kept from training;
        0: there is no such split. Texts that come with splits keep theirs.
      split_by: "text": training, validation and test are one stretch each, and cut
        into rows. "rows": the whole text is cut into rows, and the segments of all
        rows are divided, as in char-rnn.
      random_offset: whether an epoch of training starts some symbols into the text, up
        to `segment_length - 1`, drawn anew for each.
      carry_over_epochs: whether the state is carried from an epoch's end to the next
        one's beginning, as in char-rnn; otherwise an epoch starts from the initial
        state.
      published: figures to draw beside the loss.
      passage: the text on which pictures show what units hold; by default a part of
        the validation text. It loses what the vocabulary lacks.
      contrast: two sentences that differ in number before the last word, which has to
        agree, for a picture of how the net tells them apart; or none.
    """

    source: str = PYTHON_DOCS.name
    unit: Unit = "characters"
    vocabulary_size: int | None = Field(default=None, ge=2)
    unknown: bool = False
    letters_only: bool = False
    limit: PositiveInt | None = None
    validation: float = Field(default=FRACTION, ge=0, lt=1)
    test: float = Field(default=FRACTION, ge=0, lt=1)
    split_by: Literal["text", "rows"] = "text"
    random_offset: bool = False
    carry_over_epochs: bool = False
    published: list[Published] = Field(default=[])
    passage: Annotated[str | None, AfterValidator(check_passage)] = None
    contrast: Annotated[
        list[str], AfterValidator(_refuse_empty), AfterValidator(check_contrast)
    ] = Field(default=[*PUPPIES])

    @field_validator("source")
    @classmethod
    def _make_absolute(cls, source: str) -> str:
        """Lets a run find the file again from any folder."""
        if source in KNOWN_TEXTS:
            return source
        if not source:
            raise ValueError(
                f"is empty; name a file, or one of {', '.join(KNOWN_TEXTS)}"
            )
        return make_absolute(source)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_fractions(self.validation, self.test)
        if self.unit == "bytes":
            for name in ("vocabulary_size", "unknown", "letters_only"):
                if getattr(self, name):
                    raise ValueError(
                        f'{name}: bytes are taken as they are; use unit = "characters",'
                        f" or leave {name} out"
                    )
        if self.random_offset and self.split_by == "rows":
            raise ValueError('random_offset: needs split_by = "text"')
        if self._has_splits:
            given = self.validation, self.test, self.split_by
            if given != (FRACTION, FRACTION, "text"):
                raise ValueError(
                    f'source = "{self.source}": has splits of its own; leave out '
                    "validation, test and split_by"
                )
        return self

    @property
    def splits(self) -> tuple[str, ...]:
        """Validation and test, where they have a part of the text."""
        if self._has_splits:
            return SPLITS[1:]
        return tuple(name for name in SPLITS[1:] if getattr(self, name) > 0)

    def parts(self) -> ModelParts:
        """Symbols in, and a number for each symbol out."""
        size = len(self._corpus.vocabulary)
        return ModelParts(input_size=size, output_size=size, symbols=True)

    def split(
        self, name: str, *, batch_size: int, segment_length: int, seed: int
    ) -> Source:
        """Returns the segments of a split, after a look at all of them."""
        stretches = self._stretches(batch_size, segment_length)
        training = name == "train"

        def offset(epoch: int) -> int:
            return int(generator(seed, name, epoch).integers(segment_length))

        return make_source(
            stretches[name],
            batch_size=batch_size,
            segment_length=segment_length,
            offset=offset if training and self.random_offset else None,
            reset=training and not self.carry_over_epochs,
            table=self._corpus.table,
        )

    def loss(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Cross-entropy in nats."""
        return optax.softmax_cross_entropy_with_integer_labels(prediction, target)

    def scores(self, prediction: jax.Array, target: jax.Array) -> dict[str, jax.Array]:
        """How often the symbol predicted is the next one."""
        return {"accuracy": prediction.argmax(axis=-1) == target}

    def derive(self, averages: dict[str, float]) -> dict[str, float]:
        """Perplexity, and bits a symbol."""
        loss = averages["loss"]
        unit = self.unit.removesuffix("s")
        bits = {f"bits_per_{unit}": loss / math.log(2)}
        # A perplexity beyond the largest number says nothing that the loss does not.
        return {"perplexity": math.exp(loss), **bits} if loss < 700 else bits

    def vocabulary(self) -> Vocabulary:
        """The symbols of the whole text."""
        return self._corpus.vocabulary

    def describe_data(self) -> dict[str, Any]:
        """Name or path, hash, bytes, and how many symbols there are."""
        hashes = [text.sha256 for text in self._raw]
        sizes = [len(text.data) for text in self._raw]
        symbols = [len(text) for text in self._corpus.texts]
        facts: dict[str, Any] = {"source": self.source}
        if self.source == PYTHON_DOCS.name:
            facts["python"] = platform.python_version()
        if self._has_splits:
            facts["sha256"] = dict(zip(SPLITS, hashes, strict=True))
        else:
            facts["sha256"] = hashes[0]
        facts |= {"bytes": sum(sizes), "symbols": sum(symbols)}
        if self._has_splits:
            facts["splits"] = dict(zip(SPLITS, symbols, strict=True))
        elif self.split_by == "text":
            parts = divide(symbols[0], self.validation, self.test)
            facts["splits"] = dict(zip(SPLITS, parts, strict=True))
        return facts

    def references(self) -> Sequence[Reference]:
        """The published figures of the config."""
        return [Reference(p.label, p.loss, p.update) for p in self.published]

    def figures(self, run: Run) -> dict[str, Figure]:
        """Draws what units hold, their gates, and how the net tells number."""
        return draw_memory(run, self.passage, self.contrast)

    @property
    def _has_splits(self) -> bool:
        known = KNOWN_TEXTS.get(self.source)
        return known is not None and len(known.files) == len(SPLITS)

    @functools.cached_property
    def _raw(self) -> list[RawText]:
        return open_texts(self.source)

    @functools.cached_property
    def _corpus(self) -> Corpus:
        reading = Reading(
            unit=self.unit,
            vocabulary_size=self.vocabulary_size,
            unknown=self.unknown,
            letters_only=self.letters_only,
            limit=self.limit,
        )
        return read_corpus(self._raw, reading)

    def _stretches(self, batch_size: int, segment_length: int) -> dict[str, Stretch]:
        """Returns what each split is cut from; all of them have a segment."""
        size = batch_size, segment_length
        texts = self._corpus.texts
        # The largest offset leaves the fewest segments, which every epoch has.
        spare = segment_length - 1 if self.random_offset else 0
        if self.split_by == "rows":
            stretches = divide_rows(texts[0], self.validation, self.test, *size)
        else:
            if not self._has_splits:
                texts = divide_text(texts[0], self.validation, self.test)
            stretches = [
                Stretch(text, 0, count_segments(len(text) - left_out, *size))
                for text, left_out in zip(texts, (spare, 0, 0), strict=True)
            ]
        found = dict(zip(SPLITS, stretches, strict=True))
        for name in ("train", *self.splits):
            if found[name].num_segments < 1:
                raise UserError(self._too_short(found[name].symbols, name, *size))
        return found

    def _too_short(
        self, symbols: np.ndarray, name: str, batch_size: int, segment_length: int
    ) -> str:
        block = f"one segment of batch_size {batch_size} x segment_length"
        steps, total = batch_size * segment_length, len(self._corpus.texts[0])
        needed = steps + 1
        if name == "train" and self.random_offset:
            needed += segment_length - 1
        source = f'[task] source = "{self.source}"'
        if self._has_splits:
            more = ", or raise task.limit" if len(symbols) == self.limit else ""
            return (
                f"{source}: its {name} text has {len(symbols):,} symbols, and {block} "
                f"{segment_length} takes {needed:,}; lower either{more}"
            )
        more = "raise task.limit" if total == self.limit else "use a longer text"
        fractions = {"validation": self.validation, "test": self.test}
        fractions["train"] = 1 - sum(fractions.values())
        fraction = Fraction(str(round(fractions[name], 9)))
        if self.split_by == "rows":
            needed = steps * math.ceil(1 / fraction) + 1
        else:
            needed = math.ceil(needed / fraction)
        if name == "train":
            return (
                f"{source}: has {total:,} symbols, and {block} {segment_length} to "
                f"train on takes {needed:,}; {more}, or lower either"
            )
        return (
            f"[task] {name} = {fractions[name]}: {total:,} symbols are too few for it: "
            f"{block} {segment_length} takes {needed:,}; {more}, lower either, set a "
            "larger fraction, or 0 for no such split"
        )
