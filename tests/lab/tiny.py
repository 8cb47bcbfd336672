"""A task of a few numbers, on which the tests of the laboratory train."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from pydantic import PositiveFloat, PositiveInt

from jaxlstm.lab import ModelParts, Segment, Source, Task, generator

ROOT = Path(__file__).parents[2]
CONFIG = """
[task]
use = "tests.lab.tiny:Tiny"

[model]
hidden_size = 3

[train]
num_updates = 12
batch_size = 2
segment_length = 4
updates_per_call = 4
eval_every = 6

[optimizer]
learning_rate = 0.05

[checkpoint]
every = 5

[logging]
every = 3
"""

# Called with the number of every training segment that is asked for.
on_segment: Callable[[int], None] | None = None


class Tiny(Task):
    """Predicts the mean of what it sees now and saw before.

    Its segments hide nothing: steps that are not there, resets, steps without weight,
    NaN where nothing must look.

    Attributes:
      scale: of all numbers.
      num_segments: of an epoch of training; an endless stream without it.
    """

    scale: PositiveFloat = 1.0
    num_segments: PositiveInt | None = None

    def parts(self) -> ModelParts:
        """Two numbers in, one out."""
        return ModelParts(input_size=2, output_size=1)

    def split(
        self, name: str, *, batch_size: int, segment_length: int, seed: int
    ) -> Source:
        """Returns segments that depend on their number alone."""
        shape = segment_length, batch_size

        def segments(start: int, count: int) -> Segment:
            numbers = range(start, start + count)
            drawn = [self._draw(name, n, shape, seed) for n in numbers]
            return Segment(*(np.stack(leaves) for leaves in zip(*drawn, strict=True)))

        return Source(segments, self.num_segments if name == "train" else 3)

    def _draw(
        self, split: str, number: int, shape: tuple[int, int], seed: int
    ) -> Segment:
        if split == "train" and on_segment is not None:
            on_segment(number)
        random = generator(seed, split, number)
        inputs = self.scale * random.normal(size=(*shape, 2))
        targets = np.mean(inputs + np.roll(inputs, 1, axis=0), axis=-1, keepdims=True)
        mask, resets = random.random((2, *shape)) < np.array([0.8, 0.2])[:, None, None]
        weights = random.integers(0, 3, size=shape) / 2
        weights[-1], mask[-1] = 1, True
        inputs[~mask] = targets[~mask | (weights == 0)] = np.nan
        return Segment(*map(np.float32, (inputs, targets, mask, resets, weights)))

    def loss(self, prediction: Any, target: Any) -> Any:
        """Squared error."""
        return jnp.sum((prediction - target) ** 2, axis=-1)

    def scores(self, prediction: Any, target: Any) -> dict[str, Any]:
        """Absolute error."""
        return {"error": jnp.sum(jnp.abs(prediction - target), axis=-1)}

    def derive(self, averages: dict[str, float]) -> dict[str, float]:
        """Root of the mean squared error."""
        return {"root": averages["loss"] ** 0.5}
