"""Recall: a symbol is shown, much else follows, and then the symbol is asked for."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from matplotlib.figure import Figure
from pydantic import Field, PositiveInt

from experiments.predictions import predict
from experiments.streams import draw_sequences
from jaxlstm.lab import ModelParts, Reference, Run, Segment, Source, Task, generator

DRAWN_SEQUENCES = 50


class Recall(Task):
    """Names a symbol that was shown once, `lag` steps ago.

        input    symbol   distractor x lag   cue
        target                               symbol

    Symbols and distractors are drawn uniformly, from an alphabet each, so that what is
    to be kept is never in doubt. A sequence has lag + 2 steps; only the last one, with
    the cue, is scored, by cross-entropy. There are `lag` steps between the symbol and
    the cue, and the state that the symbol has left is advanced lag + 1 times before it
    is asked for: the gradient passes through lag + 1 Jacobians.

    Nothing but the lag makes it hard: there is one symbol to keep, the number of steps
    is fixed, and sequences know nothing of each other, as each starts from the initial
    state. Without memory there are log(num_symbols) nats to pay.

    Sequences follow one another in each row. With `train.segment_length` of lag + 2, a
    segment is a sequence; shorter ones are parts of it, the state carried.

    Attributes:
      num_symbols: K, how many there are to choose from.
      num_distractors: how many other ones, drawn anew at each step in between.
      lag: the steps in between.

    References:
      In the spirit of Hochreiter and Schmidhuber, Long Short-Term Memory, Neural
      Computation 9(8), 1997, experiment 2.
    """

    num_symbols: int = Field(default=8, ge=2, le=1000)
    num_distractors: int = Field(default=8, ge=1, le=1000)
    lag: PositiveInt = 20

    @property
    def num_steps(self) -> int:
        """Of a sequence."""
        return self.lag + 2

    def parts(self) -> ModelParts:
        """Symbols, distractors and the cue in; a number for each symbol out."""
        inputs = self.num_symbols + self.num_distractors + 1
        return ModelParts(inputs, self.num_symbols, symbols=True)

    def split(
        self, name: str, *, batch_size: int, segment_length: int, seed: int
    ) -> Source:
        """Returns sequences; those of training have no end."""

        def draw(number: int) -> Segment:
            return self._draw(generator(seed, name, number), batch_size)

        return draw_sequences(name, draw, self.num_steps, segment_length)

    def loss(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Cross-entropy in nats."""
        return optax.softmax_cross_entropy_with_integer_labels(prediction, target)

    def scores(self, prediction: jax.Array, target: jax.Array) -> dict[str, jax.Array]:
        """How many of the symbols are named rightly."""
        right = prediction.argmax(axis=-1) == target
        return {"accuracy": right.astype(prediction.dtype)}

    def references(self) -> Sequence[Reference]:
        """The loss of who says each symbol with the same chance."""
        return [Reference("no memory", math.log(self.num_symbols))]

    def figures(self, run: Run) -> dict[str, Figure]:
        """Draws the chance of the right symbol along the way, and what is answered."""
        steps = DRAWN_SEQUENCES * self.num_steps
        segment, logits = predict(run, "test", steps)
        inputs, logits = (
            x[:steps].reshape(DRAWN_SEQUENCES, self.num_steps, *x.shape[1:])
            for x in (segment.inputs, logits)
        )
        symbols, answers = inputs[:, 0], logits[:, -1].argmax(axis=-1)
        chances = np.asarray(jax.nn.softmax(logits))
        chances = np.take_along_axis(chances, symbols[:, None, :, None], axis=-1)
        low, median, high = np.quantile(chances[..., 0], [0.1, 0.5, 0.9], axis=(0, 2))
        counts = np.zeros((self.num_symbols, self.num_symbols))
        np.add.at(counts, (symbols, answers), 1)
        figure = Figure(figsize=(9, 4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[2, 1])
        numbers = np.arange(self.num_steps)
        left.fill_between(numbers, low, high, color="0.85", label="8 of 10 sequences")
        left.plot(numbers, median, color="tab:blue", label="median")
        left.axvline(numbers[-1], color="tab:red", linewidth=1, label="cue")
        guessed = 1 / self.num_symbols
        left.axhline(guessed, color="0.4", linestyle="--", label="guessed")
        title = "Test: chance that the net gives to the symbol of step 0"
        left.set(title=title, xlabel="step", ylim=(-0.03, 1.05))
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        right.imshow(shares, "Blues", vmin=0, vmax=1)
        right.grid(False)
        title = f"At the cue, {np.mean(symbols == answers):.1%} are right"
        right.set(title=title, xlabel="answer", ylabel="symbol")
        for axis in (left.xaxis, right.xaxis, right.yaxis):
            axis.get_major_locator().set_params(integer=True)
        figure.legend(loc="outside lower left", ncols=4, frameon=False)
        return {"recall": figure}

    def _draw(self, random: np.random.Generator, batch_size: int) -> Segment:
        """Returns one sequence of every row, leaves [num_steps, B]."""
        shape = self.num_steps, batch_size
        symbols = random.integers(self.num_symbols, size=batch_size, dtype=np.int32)
        inputs = self.num_symbols + random.integers(
            self.num_distractors, size=shape, dtype=np.int32
        )
        inputs[0], inputs[-1] = symbols, self.num_symbols + self.num_distractors
        targets, resets, weights = np.zeros((3, *shape), np.float32)
        resets[0] = weights[-1] = 1
        controls: Any = resets, weights
        targets = np.where(weights > 0, symbols, 0)
        return Segment(inputs, targets, None, *controls)
