"""Windows: stretches of training data on which gradients are measured."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlstm.estimators import Segment
from jaxlstm.lab.comparison.problem import Problem, Snapshot
from jaxlstm.lab.training import TrainState
from jaxlstm.types import Array, PyTree


class Window(NamedTuple):
    """Consecutive segments, each with a mask, resets and weights [T, B] of its own.

    Attributes:
      segments: each a `Segment`, leaves [T, B, ...] of NumPy.
    """

    segments: tuple[Any, ...]

    @property
    def whole(self) -> Any:
        """The window as one segment."""
        return jax.tree.map(lambda *x: np.concatenate(x), *self.segments)

    def as_one(self) -> "Window":
        """Returns a window of one segment, which is the whole."""
        return Window((self.whole,))

    @property
    def num_steps(self) -> int:
        """The number of steps."""
        return sum(len(segment.mask) for segment in self.segments)

    def replace(self, **controls: np.ndarray) -> "Window":
        """Returns the window with other controls [T, B] of all of its steps."""
        ends = np.cumsum([len(segment.mask) for segment in self.segments])[:-1]
        parts = {name: np.split(value, ends) for name, value in controls.items()}
        return Window(
            tuple(
                segment._replace(**{name: part[n] for name, part in parts.items()})
                for n, segment in enumerate(self.segments)
            )
        )

    def score_only(self, number: int) -> "Window":
        """Returns the window with the loss of one of its segments alone."""
        return Window(
            tuple(
                segment if n == number else _unscored(segment)
                for n, segment in enumerate(self.segments)
            )
        )

    def reach_back(self, lag: int) -> "Window":
        """Returns the window with a loss at one step that `lag` others come before.

        It is the last scored step of each example. The steps further back than the lag
        are not there, so that the first of those that are starts from the initial
        state. An example that is never scored has no loss.
        """
        whole = self.whole
        scored = (whole.mask & (whole.weights != 0)).astype(int)
        steps = np.arange(len(scored))[:, None]
        last = np.max(np.where(scored, steps, -1), axis=0)
        return self.replace(
            mask=whole.mask & (steps >= last - lag),
            weights=(steps == last).astype(whole.weights.dtype),
        )

    def blocks(self) -> tuple[Any, ...]:
        """Returns the segments with those of one shape stacked, [S, T, B, ...] each."""
        runs = itertools.groupby(self.segments, key=lambda segment: segment.mask.shape)
        return tuple(stack(list(run)) for _, run in runs)


def read_window(problem: Problem, number: int, num_segments: int) -> Window:
    """Returns a window of the training data, in the dtype that it comes in."""
    return Window(tuple(map(_spread, problem.window(number, num_segments))))


def stack(trees: Sequence[PyTree]) -> Any:
    """Stacks trees of one structure, leaves [S, ...]."""
    return jax.tree.map(lambda *x: np.stack(x), *trees)


def _spread(segment: Segment) -> Segment:
    axes = np.shape(jax.tree.leaves(segment.inputs)[0])[:2]

    def spread(control: Any, default: float) -> np.ndarray:
        value = np.asarray(default if control is None else control)
        missing = (1,) * (2 - value.ndim)
        return np.broadcast_to(value.reshape(value.shape + missing), axes)

    return segment._replace(
        mask=spread(segment.mask, 1) != 0,
        resets=spread(segment.resets, 0) != 0,
        weights=spread(segment.weights, 1.0),
    )


def _unscored(segment: Segment) -> Segment:
    return segment._replace(weights=np.zeros_like(segment.weights))


class Reference:
    """Goes on training from a snapshot, as the reference run would have.

    By its estimator and its optimizer at the learning rate of that update, on the
    segments of a window, from the model's initial state. From a snapshot with fewer
    updates left than the window has segments it goes at the rates of the last ones:
    those after the end, of a schedule that ends at zero, would move nothing. What an
    optimizer has gathered of earlier gradients is not kept in a snapshot, and begins
    anew.
    """

    def __init__(self, problem: Problem):
        self.trainer = problem.experiment.trainer
        self.num_updates = problem.experiment.num_updates
        self.batch_size = problem.experiment.batch_size
        self._begin = jax.jit(self._start)
        self._update: Any = None

    def walk(self, snapshot: Snapshot, segments: Sequence[Segment]) -> list[PyTree]:
        """Returns the parameters before the update on each of the segments."""
        latest = max(0, self.num_updates - len(segments))
        state = self._begin(snapshot.params, min(snapshot.update, latest))
        path = [snapshot.params]
        for segment in segments[:-1]:
            block = stack([segment])
            if self._update is None:
                self._update = self.trainer.compile(state, block)
            state, _, _ = self._update(state, block, 1)
            path.append(jax.device_get(state.params))
        return path

    def _start(self, params: PyTree, update: Array) -> TrainState:
        key = jax.random.fold_in(jax.random.key(0), update)
        place = functools.partial(_set_count, count=update)
        return TrainState(
            params,
            jax.tree.map(
                place, self.trainer.optimizer.init(params), is_leaf=_is_schedule
            ),
            self.trainer.estimator.init(params, (self.batch_size,), key),
            jnp.asarray(update, jnp.int32),
        )


def _is_schedule(state: Any) -> bool:
    return isinstance(state, optax.ScaleByScheduleState)


def _set_count(state: Any, count: Array) -> Any:
    if not _is_schedule(state):
        return state
    return state._replace(count=jnp.asarray(count, state.count.dtype))
