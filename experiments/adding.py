"""The adding problem: two numbers of a long sequence are marked; what is their sum?"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from pydantic import Field, PositiveFloat

from experiments.predictions import predict
from experiments.streams import draw_sequences
from jaxlstm.lab import ModelParts, Reference, Run, Segment, Source, Task, generator

DRAWN_SEQUENCES = 50
FIRST_PAIRS = 10


class Adding(Task):
    """Adds up the two marked values of a sequence, at its end.

    A step's input is a pair of a value, uniform in [-1, 1], and a marker: 1 at two
    steps, -1 at the first and the last one, 0 elsewhere. The first marked step is one
    of the first ten; the second one of the first T/2 - 1 still unmarked. The target is

        .5 + (X1 + X2) / 4

    with X1 and X2 the marked values, scored at the last step alone. A marker on the
    first step stays -1, and its value counts as 0. Lengths are uniform from T to
    T + T/10.

    In each row a sequence has a place of T + T/10 steps: the first one resets the
    state, and those after its end are masked. With `train.segment_length` of that
    number, a segment is a sequence; shorter ones are parts of it, the state carried.

    Attributes:
      length: T, the least length.
      tolerance: the error below which a sequence is right.

    References:
      Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 9(8),
      1997, experiment 4.
    """

    length: int = Field(default=100, ge=2 * FIRST_PAIRS, le=100_000)
    tolerance: PositiveFloat = 0.04

    @property
    def longest(self) -> int:
        """The greatest length."""
        return self.length + self.length // 10

    def parts(self) -> ModelParts:
        """A value and a marker in, a sum out."""
        return ModelParts(input_size=2, output_size=1)

    def split(
        self, name: str, *, batch_size: int, segment_length: int, seed: int
    ) -> Source:
        """Returns sequences; those of training have no end."""

        def draw(number: int) -> Segment:
            return self._draw(generator(seed, name, number), batch_size)

        return draw_sequences(name, draw, self.longest, segment_length)

    def loss(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Squared error."""
        return jnp.sum((prediction - target) ** 2, axis=-1)

    def scores(self, prediction: jax.Array, target: jax.Array) -> dict[str, jax.Array]:
        """How many sequences are right."""
        error = jnp.max(jnp.abs(prediction - target), axis=-1)
        return {"accuracy": (error < self.tolerance).astype(prediction.dtype)}

    def references(self) -> Sequence[Reference]:
        """The loss of who always answers .5: the variance of the target."""
        marked_first = 1 / FIRST_PAIRS + (1 - 1 / FIRST_PAIRS) / self._candidates
        # A value has a variance of 1/3, and all but those on the first step count.
        return [Reference("always .5", (2 - marked_first) / 3 / 16)]

    def figures(self, run: Run) -> dict[str, Figure]:
        """Draws a test sequence, and the answers to others against what is right."""
        steps = DRAWN_SEQUENCES * self.longest
        segment, predictions = predict(run, "test", steps)
        assert segment.weights is not None
        at = np.argwhere(segment.weights[:steps] > 0)
        answers, targets = (
            values[at[:, 0], at[:, 1], 0] for values in (predictions, segment.targets)
        )
        (end, *_) = at[at[:, 1] == 0, 0]
        values, markers = np.moveaxis(segment.inputs[: end + 1, 0], -1, 0)
        figure = Figure(figsize=(9, 4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[2, 1])
        numbers = np.arange(end + 1)
        left.bar(numbers, values, color="0.8", label="value")
        marked = numbers[markers == 1]
        left.bar(marked, values[marked], color="tab:blue", label="marked")
        left.plot(
            numbers,
            predictions[: end + 1, 0, 0],
            color="tab:red",
            linewidth=1.2,
            label="prediction",
        )
        left.plot(end, segment.targets[end, 0, 0], "k*", markersize=11, label="target")
        left.legend(loc="upper center", ncols=4, frameon=False)
        left.set(xlabel="step", title="A test sequence", ylim=(-1.1, 1.4))
        line = np.array([0, 1])
        right.fill_between(
            line,
            line - self.tolerance,
            line + self.tolerance,
            color="0.85",
            label=f"within {self.tolerance:g}",
        )
        right.plot(targets, answers, "o", color="tab:red", markersize=2)
        count = np.sum(np.abs(answers - targets) < self.tolerance)
        title = f"{count:,} of {len(at):,} are right"
        right.set(xlabel="target", ylabel="answer", title=title)
        right.legend(frameon=False)
        return {"answers": figure}

    @property
    def _candidates(self) -> int:
        """How many steps the second mark may be set to."""
        return self.length // 2 - 1

    def _draw(self, random: np.random.Generator, batch_size: int) -> Segment:
        """Returns one sequence of every row, leaves [longest, B, ...]."""
        rows, steps = np.arange(batch_size), np.arange(self.longest)[:, None]
        ends = random.integers(self.length, self.longest, batch_size, endpoint=True) - 1
        values = random.uniform(-1, 1, (self.longest, batch_size))
        first = random.integers(FIRST_PAIRS, size=batch_size)
        second = random.integers(self._candidates, size=batch_size)
        # What is marked already is passed over.
        second += second >= first
        markers = np.zeros_like(values)
        total = 0
        for marked in (first, second):
            markers[marked, rows] = 1
            total = total + np.where(marked == 0, 0, values[marked, rows])
        markers[0] = markers[ends, rows] = -1
        last = steps == ends
        resets = np.broadcast_to(steps == 0, values.shape)
        controls: Any = [np.float32(x) for x in (steps <= ends, resets, last)]
        targets = np.where(last, 0.5 + total / 4, 0)
        return Segment(
            np.stack([values, markers], axis=-1, dtype=np.float32),
            np.float32(targets[..., None]),
            *controls,
        )
