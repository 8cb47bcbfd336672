"""A task of a few words, which sorts texts by them; its data is a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import PositiveFloat

from jaxlstm.lab import ModelParts, Segment, Source, Task, Vocabulary, generator
from jaxlstm.model import ModelParams

WORDS = "<pad>", "<unk>", "good", "bad", "film", "very"
CONFIG = """
[task]
use = "tests.lab.moods:Moods"
labels_file = "labels.txt"

[model]
hidden_size = 3
inputs = "embedding"
embedding_size = 2

[train]
num_updates = 2
batch_size = 2
segment_length = 5
"""


class Moods(Task):
    """Sorts random texts by their last word.

    Attributes:
      labels_file: names the classes, a line each.
      vectors: what the embedding of "good" and "bad" starts with; drawn without it.
    """

    labels_file: str
    vectors: PositiveFloat | None = None

    def parts(self) -> ModelParts:
        """A logit of the second of two classes, or one for each of more."""
        count = len(self.labels())
        return ModelParts(len(WORDS), 1 if count == 2 else count, symbols=True)

    def labels(self) -> list[str]:
        """Reads the file."""
        return Path(self.labels_file).read_text().split()

    def vocabulary(self) -> Vocabulary:
        """Padding is symbol 0."""
        return Vocabulary("words", WORDS, unknown=1)

    def initial(self, params: ModelParams) -> ModelParams:
        """Puts vectors into two rows."""
        if self.vectors is None:
            return params
        recurrent = params.recurrent
        rows = recurrent.embedding.at[jnp.array([2, 3])].set(self.vectors)
        return params._replace(recurrent=recurrent._replace(embedding=rows))

    def encode(
        self, texts: Sequence[str], vocabulary: Vocabulary, segment_length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pads on the left; a dot is no word."""
        rows = [
            vocabulary.encode(text.replace(".", " "))[:segment_length] for text in texts
        ]
        length = max(map(len, rows))
        inputs, mask = np.zeros((2, length, len(texts)), np.int32)
        for n, row in enumerate(rows):
            inputs[length - len(row) :, n] = row
            mask[length - len(row) :, n] = 1
        return inputs, mask

    def split(
        self, name: str, *, batch_size: int, segment_length: int, seed: int
    ) -> Source:
        """Draws texts; the last word says the class."""
        count = len(self.labels())
        shape = segment_length, batch_size

        def segments(start: int, num: int) -> Segment:
            drawn = [
                generator(seed, name, n).integers(1, len(WORDS), shape)
                for n in range(start, start + num)
            ]
            inputs = np.asarray(drawn, np.int32)
            targets = np.broadcast_to(inputs[:, -1:] % count, inputs.shape)
            first, last = (np.arange(segment_length) == n for n in (0, shape[0] - 1))
            both = (np.broadcast_to(x, (num, segment_length)) for x in (first, last))
            resets, weights = (np.float32(x) for x in both)
            mask = np.ones((num, *shape), np.float32)
            return Segment(inputs, np.int32(targets), mask, resets, weights)

        return Source(segments, None if name == "train" else 2)

    def loss(self, prediction: Any, target: Any) -> Any:
        """Cross-entropy."""
        if prediction.shape[-1] == 1:
            return jax.nn.softplus((1 - 2 * target) * prediction[..., 0])
        scores = jax.nn.log_softmax(prediction)
        return -jnp.take_along_axis(scores, target[..., None], axis=-1)[..., 0]
