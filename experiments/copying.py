"""Copy: symbols are to be said again after a delay."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from pydantic import Field, PositiveInt

from experiments.predictions import predict
from experiments.streams import draw_sequences
from jaxlstm.lab import ModelParts, Reference, Run, Segment, Source, Task, generator

DRAWN_SEQUENCES = 20


class Copy(Task):
    """Repeats a string of symbols, once a delay is over and the signal is given.

        input    s_1 ... s_K   blank x (T - 1)   go   blank x K
        target   blank x (T + K)                      s_1 ... s_K

    The symbols are drawn uniformly; a sequence has T + 2 K steps, all of them scored by
    cross-entropy. Whoever has no memory says blank and then guesses, K log(8) /
    (T + 2 K) nats with 8 symbols.

    Sequences follow one another in each row. With `train.segment_length` of T + 2 K, a
    segment is a sequence; shorter ones are parts of it, the state carried.

    Attributes:
      num_symbols: which are told apart, beside blank and go.
      length: K, how many are copied.
      delay: T, the steps between the last symbol and the first answer.
      reset: whether a sequence starts from the initial state, or from what the one
        before has left, as in online training.

    References:
      Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 9(8),
      1997; in this form Arjovsky, Shah and Bengio, Unitary Evolution Recurrent Neural
      Networks, ICML 2016.
    """

    num_symbols: int = Field(default=8, ge=2, le=1000)
    length: PositiveInt = 10
    delay: PositiveInt = 100
    reset: bool = True

    @property
    def num_steps(self) -> int:
        """Of a sequence."""
        return self.delay + 2 * self.length

    def parts(self) -> ModelParts:
        """Symbols, blank and go in; a number for each symbol and blank out."""
        return ModelParts(self.num_symbols + 2, self.num_symbols + 1, symbols=True)

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
        """How many of the symbols to be copied are right."""
        right = (prediction.argmax(axis=-1) == target) & (target != self._blank)
        # Evaluation averages over all steps, of which these are `length`.
        share = self.length / self.num_steps
        return {"accuracy": right.astype(prediction.dtype) / share}

    def references(self) -> Sequence[Reference]:
        """The least loss without memory."""
        loss = self.length * math.log(self.num_symbols) / self.num_steps
        return [Reference("no memory", loss)]

    def figures(self, run: Run) -> dict[str, Figure]:
        """Draws a test sequence and its answer, and how many are right by position."""
        steps = DRAWN_SEQUENCES * self.num_steps
        segment, logits = predict(run, "test", steps)
        inputs, targets = segment.inputs, segment.targets
        answers = logits.argmax(axis=-1)
        figure = Figure(figsize=(9, 4.5), layout="constrained")
        above, below = figure.subplots(2, height_ratios=[3, 4])
        rows = [x[: self.num_steps, 0] for x in (inputs, targets, answers)]
        above.imshow(self._paint(np.stack(rows)), aspect="auto", interpolation="none")
        above.set(
            title="A test sequence: a colour for each symbol, blank white, go black",
            xlabel="step",
            yticks=range(3),
            yticklabels=["input", "target", "answer"],
        )
        above.xaxis.get_major_locator().set_params(integer=True)
        above.set_xticks(np.arange(self.num_steps) + 0.5, minor=True)
        above.set_yticks([0.5, 1.5], minor=True)
        above.grid(False)
        above.grid(which="minor", color="0.5", linewidth=0.4)
        above.tick_params(which="minor", length=0)
        right = (answers == targets)[:steps].reshape(
            -1, self.num_steps, targets[0].size
        )
        shares = right[:, -self.length :].mean(axis=(0, 2))
        below.bar(range(1, self.length + 1), shares, color="tab:red")
        chance = 1 / self.num_symbols
        below.axhline(chance, color="0.4", linestyle="--", label="guessed")
        below.set(xlabel="position of the symbol", ylabel="right", ylim=(0, 1.05))
        figure.legend(loc="outside lower right", frameon=False)
        return {"copy": figure}

    def _paint(self, symbols: np.ndarray) -> np.ndarray:
        """Returns a colour for each symbol [...], as [..., 3]."""
        hues = np.arange(self.num_symbols) / self.num_symbols
        colors = hsv_to_rgb(np.stack([hues, *np.full((2, len(hues)), 0.8)], axis=-1))
        return np.concatenate([colors, np.ones((1, 3)), np.zeros((1, 3))])[symbols]

    @property
    def _blank(self) -> int:
        return self.num_symbols

    def _draw(self, random: np.random.Generator, batch_size: int) -> Segment:
        """Returns one sequence of every row, leaves [num_steps, B]."""
        shape = self.length, batch_size
        symbols = random.integers(self.num_symbols, size=shape, dtype=np.int32)
        inputs, targets = np.full(
            (2, self.num_steps, batch_size), self._blank, np.int32
        )
        inputs[: self.length] = targets[-self.length :] = symbols
        inputs[-self.length - 1] = self.num_symbols + 1
        resets: Any = np.zeros(inputs.shape, np.float32)
        resets[0] = self.reset
        return Segment(inputs, targets, resets=resets)
