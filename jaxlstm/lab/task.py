"""The task protocol: what an experiment has to say about itself."""

import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pydantic

from jaxlstm.estimators import Segment
from jaxlstm.lab.errors import UserError
from jaxlstm.model import ModelParams
from jaxlstm.types import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxlstm.lab.runs import Run
    from jaxlstm.lab.vocabulary import Vocabulary


class ModelParts(NamedTuple):
    """What a task asks of a model.

    Attributes:
      input_size: X, or the number of symbols.
      output_size: Y.
      symbols: whether inputs are integers, one-hot or embedded, and not vectors.
    """

    input_size: int
    output_size: int
    symbols: bool = False


class Source(NamedTuple):
    """The segments of one split, by number, so that a run can go on anywhere.

    Attributes:
      segments: `(start, count) -> Segment` of NumPy arrays, the segments with numbers
        start, ..., start + count - 1 stacked to [count, T, B, ...]. May return fewer,
        but at least one, where the next one has another shape.
      num_segments: how many make an epoch; None for a stream without end. Numbers
        from there on are those of the next epochs.
    """

    segments: Callable[[int, int], Segment]
    num_segments: int | None = None


class Reference(NamedTuple):
    """A published figure, drawn as a line into the loss curves.

    Attributes:
      label: whose it is.
      loss: the figure, in units of the loss.
      update: where it was reached, if that was said.
    """

    label: str
    loss: float
    update: int | None = None


class Task(pydantic.BaseModel):
    """A task: its data, its loss and its pictures.

    A subclass is a pydantic model. Its fields are the keys of the config's [task]
    section beside `use`, which names the class by its import path. Bad values are
    refused with a `jaxlstm.lab.UserError`, whose text is what the user reads.
    """

    model_config = pydantic.ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    @property
    def splits(self) -> tuple[str, ...]:
        """What `split` knows beside "train".

        The "validation" split is evaluated along the way, and all of them at the end.
        """
        return "validation", "test"

    def parts(self) -> ModelParts:
        """Returns the sizes of inputs and outputs."""
        raise NotImplementedError

    def split(
        self, name: str, *, batch_size: int, segment_length: int, seed: int
    ) -> Source:
        """Returns the segments of a split.

        Args:
          name: "train", or one of `splits`; these must have an end.
          batch_size: B.
          segment_length: T.
          seed: the run's seed.
        """
        raise NotImplementedError

    def loss(self, prediction: Array, target: Array) -> Array:
        """Returns the loss of each example [...] of predictions [..., Y]."""
        raise NotImplementedError

    def scores(self, prediction: Array, target: Array) -> dict[str, Array]:
        """Returns what evaluation averages beside the loss, [...] each."""
        del prediction, target
        return {}

    def derive(self, averages: dict[str, float]) -> dict[str, float]:
        """Returns metrics made of averages: of "loss", and in evaluation the scores."""
        del averages
        return {}

    def initial(self, params: ModelParams) -> ModelParams:
        """Returns what training starts from, such as with word vectors put in place.

        It is compiled: it replaces leaves by JAX's operations, and keeps their shapes
        and dtypes.

        Args:
          params: that the model has drawn.
        """
        return params

    def vocabulary(self) -> "Vocabulary | None":
        """Returns the symbols of a task whose model reads or writes text.

        Such a model is sampled from, unless the task has labels.
        """
        return None

    def labels(self) -> Sequence[str] | None:
        """Returns the names of the classes that texts are sorted into, by number.

        The model gives a logit for each, or one for the second of two.
        """
        return None

    def encode(
        self, texts: Sequence[str], vocabulary: "Vocabulary", segment_length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns texts as the model of a task with labels reads them.

        It has to do without the task's data: the symbols, as the labels, are those that
        the run has kept.

        Args:
          texts: N of them.
          vocabulary: of the run.
          segment_length: of the config's [train] section.

        Returns:
          Inputs [T, N], int32, and mask [T, N], 0 where a text has no symbol; T is as
          long as the longest of these texts makes it. A text without any symbol is
          masked everywhere.
        """
        raise NotImplementedError

    def describe_data(self) -> dict[str, Any]:
        """Returns what is noted of the data in a run: name, hash, sizes."""
        return {}

    def references(self) -> Sequence[Reference]:
        """Returns published figures to draw beside the loss."""
        return ()

    def figures(self, run: "Run") -> "dict[str, Figure]":
        """Returns pictures by name, made from a run's directory alone."""
        del run
        return {}


def check_source(source: Source, parts: ModelParts) -> Source:
    """Returns a source whose segments are checked as they come.

    A symbol out of range would train without a word: what stands for it is then the
    last symbol, or nothing.

    Args:
      source: of a task.
      parts: what the task asks of its model.

    Raises:
      UserError: by the segments of the source, which the model cannot take.
    """

    def segments(start: int, count: int) -> Segment:
        segment = source.segments(start, count)
        _check_inputs(segment.inputs, parts)
        if parts.symbols and segment.weights is None and segment.mask is None:
            _check_symbols("targets", segment.targets, parts.output_size)
        return segment

    return source._replace(segments=segments)


def _check_inputs(inputs: Any, parts: ModelParts) -> None:
    shape = np.shape(inputs)
    if parts.symbols:
        if len(shape) != 3 or not np.issubdtype(np.asarray(inputs).dtype, np.integer):
            raise UserError(
                f"the task's inputs: {np.asarray(inputs).dtype}{list(shape)} are not "
                "symbols, integers [count, T, B]"
            )
        _check_symbols("inputs", inputs, parts.input_size)
    elif len(shape) != 4 or shape[-1] != parts.input_size:
        raise UserError(
            f"the task's inputs: shape {list(shape)} is not [count, T, B, X], with "
            f"X = {parts.input_size} by its parts"
        )


def _check_symbols(name: str, symbols: Any, size: int) -> None:
    symbols = np.asarray(symbols)
    if symbols.size and np.issubdtype(symbols.dtype, np.integer):
        low, high = int(symbols.min()), int(symbols.max())
        if low < 0 or high >= size:
            raise UserError(
                f"the task's {name}: {low if low < 0 else high} is no symbol; by its "
                f"parts there are {size}, from 0 to {size - 1}"
            )


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """Returns a generator that depends on the seed and the path alone.

    Args:
      seed: the run's seed.
      *path: what the draws are for, such as a split's name and an epoch's number.
    """
    words = [zlib.crc32(p.encode()) if isinstance(p, str) else p for p in path]
    sequence = np.random.SeedSequence([seed, *words])
    return np.random.Generator(np.random.Philox(sequence))
