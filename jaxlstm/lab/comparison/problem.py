"""What a comparison measures on, and what its parts give."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlstm.estimators import GradientEstimator, Segment
from jaxlstm.lab.config import Config
from jaxlstm.lab.experiment import Experiment, build_model, make_estimator
from jaxlstm.model import Model
from jaxlstm.types import PyTree

# (text) -> None, told what is being measured; ends the measurement by raising.
Progress = Callable[[str], None]


class Member(NamedTuple):
    """An estimator of a comparison.

    Attributes:
      label: its name and those of its options that are not their defaults; unique.
      name: a key of `ESTIMATORS` or an import path.
      options: all of them.
    """

    label: str
    name: str
    options: Mapping[str, Any]


class Snapshot(NamedTuple):
    """Where the reference run stood.

    Attributes:
      update: after how many updates.
      params: NumPy leaves, in the config's dtype.
    """

    update: int
    params: PyTree


class Part(NamedTuple):
    """What one measurement gives.

    Attributes:
      values: what JSON can hold, with None for figures that there are none of.
      arrays: raw draws and curves too long for JSON, by name.
    """

    values: dict[str, Any]
    arrays: Mapping[str, np.ndarray] = {}


# (name, measure) -> what `measure()` gave, the first time that name was asked for.
Keep = Callable[[str, Callable[[], Part]], Part]


def _measure(name: str, measure: Callable[[], Part]) -> Part:
    """Keeps nothing."""
    del name
    return measure()


class Problem(NamedTuple):
    """What a comparison measures on.

    Attributes:
      experiment: in the config's dtype; its estimator trains the reference run.
      members: what is compared.
      snapshots: along the reference run, by their updates.
      progress: told what is being measured.
      keep: keeps a piece of a measurement that takes long, such as that of one member,
        so that it is not measured again where the comparison is stopped and goes on.
    """

    experiment: Experiment
    members: tuple[Member, ...]
    snapshots: tuple[Snapshot, ...]
    progress: Progress = lambda text: None
    keep: Keep = _measure

    @property
    def config(self) -> Config:
        """The config."""
        return self.experiment.config

    def model(self, dtype: str | None = None) -> Model:
        """Returns the model, by default in the config's dtype.

        Args:
          dtype: "float64" asks for `jax.enable_x64(True)` around it and its use.
        """
        if dtype is None:
            return self.experiment.trainer.model
        return build_model(self.config, dtype=dtype)

    def estimator(self, member: Member, model: Model) -> GradientEstimator:
        """Returns an estimator of a model's gradient.

        Raises:
          UserError: it does not take this model.
        """
        where = f"[compare] {member.label}"
        return make_estimator(
            where, member.name, member.options, self.config.task, model
        )

    def window(self, number: int, num_segments: int) -> list[Segment]:
        """Returns consecutive training segments, leaves [T, B, ...] of NumPy.

        Args:
          number: of the window; windows do not overlap.
          num_segments: in it.
        """
        segments, first = [], number * num_segments
        while len(segments) < num_segments:
            block = self.experiment.source.segments(
                first + len(segments), num_segments - len(segments)
            )
            count = len(jax.tree.leaves(block.inputs)[0])
            segments += [
                jax.tree.map(functools.partial(_take, n), block) for n in range(count)
            ]
        return segments


def as_dtype(tree: PyTree, dtype: str) -> PyTree:
    """Returns NumPy leaves, those of floats in a dtype."""

    def convert(x: Any) -> np.ndarray:
        x = np.asarray(x)
        return x.astype(dtype) if np.issubdtype(x.dtype, np.floating) else x

    return jax.tree.map(convert, tree)


def _take(n: int, x: Any) -> np.ndarray:
    return np.asarray(x)[n]
