"""Strings a^n b^n one after another: to predict the next symbol is to count."""

import bisect
import math
from collections.abc import Sequence
from typing import Self

import jax
import numpy as np
import optax
from matplotlib.figure import Figure
from pydantic import Field, model_validator

from experiments.predictions import predict
from experiments.streams import score_from
from jaxlstm.lab import (
    ModelParts,
    Reference,
    Run,
    Segment,
    Source,
    Task,
    Vocabulary,
    generator,
)

SYMBOLS = "a", "b", "\n"
NAMES = "a", "b", "line feed"
A, B, LINE_FEED = range(3)
LONGEST = 1000
EVALUATED_STEPS = 5000
DRAWN_STEPS = 150
# How many strings are drawn at once.
BLOCK = 128


class AnBn(Task):
    """Predicts the next symbol of a text of strings a^n b^n.

        aaaa / bbbb / aa / bb / ...     with / a line feed, n uniform

    Either run ends in a line feed, so that a string has 2 n + 2 symbols. Where the
    first run ends cannot be known; the length of the second one can, by whoever counts.
    With n ~ U{1, ..., 32}, log2 32 = 5 bits in 35 symbols on average make the floor,
    .1429 bits a symbol; whoever does not count pays for the second run as well.

    Each row is a text of its own, the same however it is cut into segments; the state
    is carried from segment to segment.

    Attributes:
      shortest, longest: bounds of n, both of them possible.
      unscored_steps: of an evaluated text, from whose start a net that was trained
        along one text has to find its way.

    References:
      Gers and Schmidhuber, LSTM Recurrent Networks Learn Simple Context-Free and
      Context-Sensitive Languages, IEEE Transactions on Neural Networks 12(6), 2001;
      as a stream: Tallec and Ollivier, Unbiased Online Recurrent Optimization, ICLR
      2018.
    """

    shortest: int = Field(default=1, ge=1, le=LONGEST)
    longest: int = Field(default=32, ge=1, le=LONGEST)
    unscored_steps: int = Field(default=1000, ge=0, le=1_000_000)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.shortest > self.longest:
            raise ValueError(
                f"shortest = {self.shortest}: is more than longest = {self.longest}; "
                "lower it"
            )
        return self

    def parts(self) -> ModelParts:
        """Three symbols in, a number for each of them out."""
        return ModelParts(len(SYMBOLS), len(SYMBOLS), symbols=True)

    def split(
        self, name: str, *, batch_size: int, segment_length: int, seed: int
    ) -> Source:
        """Returns stretches of texts; those of training have no end."""
        texts = [
            _Text(self.shortest, self.longest, (seed, name, row))
            for row in range(batch_size)
        ]

        def segments(start: int, count: int) -> Segment:
            first, steps = start * segment_length, count * segment_length
            symbols = np.stack([text.read(first, steps + 1) for text in texts], axis=-1)
            shape = count, segment_length, batch_size
            weights = None
            if name != "train":
                weights = score_from(self.unscored_steps, start, count, segment_length)
            inputs, targets = symbols[:-1].reshape(shape), symbols[1:].reshape(shape)
            return Segment(inputs, targets, weights=weights)

        end = -(-(self.unscored_steps + EVALUATED_STEPS) // segment_length)
        return Source(segments, None if name == "train" else end)

    def loss(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Cross-entropy in nats."""
        return optax.softmax_cross_entropy_with_integer_labels(prediction, target)

    def derive(self, averages: dict[str, float]) -> dict[str, float]:
        """Bits a character."""
        return {"bits_per_character": averages["loss"] / math.log(2)}

    def vocabulary(self) -> Vocabulary:
        """The symbols."""
        return Vocabulary("characters", SYMBOLS)

    def references(self) -> Sequence[Reference]:
        """The least loss, with and without counting."""
        nats = math.log(self.longest - self.shortest + 1)
        symbols = self.shortest + self.longest + 2
        return [
            Reference("both runs guessed", 2 * nats / symbols),
            Reference("floor: second run counted", nats / symbols),
        ]

    def figures(self, run: Run) -> dict[str, Figure]:
        """Draws what is predicted next along a test text, and what it costs."""
        begin, end = self.unscored_steps, self.unscored_steps + DRAWN_STEPS
        segment, logits = predict(run, "test", end)
        logits, target = logits[begin:end, 0], segment.targets[begin:end, 0]
        steps = np.arange(DRAWN_STEPS)
        chances = np.asarray(jax.nn.softmax(logits))
        cost = -np.log2(chances[steps, target])
        colors = "tab:blue", "tab:orange", "0.25"
        figure = Figure(figsize=(9, 4.5), layout="constrained")
        strip, above, below = figure.subplots(3, sharex=True, height_ratios=[1, 6, 4])
        for symbol, color in enumerate(colors):
            strip.bar(steps[target == symbol], 1, width=1, color=color)
        strip.set(title="Test: the next symbol, and its prediction", yticks=[])
        strip.grid(False)
        above.stackplot(
            steps, chances.T, step="mid", colors=colors, labels=NAMES, alpha=0.8
        )
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        above.set(ylabel="probability", ylim=(0, 1))
        below.bar(steps, cost, width=1, color="tab:red")
        limits = -0.5, DRAWN_STEPS - 0.5
        below.set(xlabel="step", ylabel="bits paid", xlim=limits)
        return {"prediction": figure}


class _Text:
    """An endless text, of which any stretch can be read.

    It is drawn in blocks of strings. These differ in length, so that where a block
    begins is known once those before it were drawn; the places are kept.
    """

    def __init__(self, shortest: int, longest: int, path: tuple[int, str, int]):
        self._bounds, self._path = (shortest, longest), path
        # Of every block drawn so far, and the end of the last one.
        self._starts = [0]

    def read(self, start: int, count: int) -> np.ndarray:
        """Returns symbols [count]."""
        while self._starts[-1] < start + count:
            block = self._draw(len(self._starts) - 1)
            self._starts.append(self._starts[-1] + len(block))
        first = bisect.bisect_right(self._starts, start) - 1
        end = bisect.bisect_left(self._starts, start + count)
        text = np.concatenate([self._draw(n) for n in range(first, end)])
        skipped = start - self._starts[first]
        return text[skipped : skipped + count]

    def _draw(self, number: int) -> np.ndarray:
        """Returns the symbols of a block."""
        random, (shortest, longest) = generator(*self._path, number), self._bounds
        n = random.integers(shortest, longest, BLOCK, endpoint=True)
        one = np.ones_like(n)
        runs = np.tile(np.array([A, LINE_FEED, B, LINE_FEED], np.int32), BLOCK)
        return np.repeat(runs, np.stack([n, one, n, one], axis=-1).ravel())
