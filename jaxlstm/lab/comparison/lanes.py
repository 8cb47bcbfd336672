"""Lanes: an estimator trains several times at once, each time by itself."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxlstm.lab.blocks import next_block, scan_first
from jaxlstm.lab.comparison.problem import Member, Problem
from jaxlstm.lab.devices import AXIS
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.evaluation import Evaluator
from jaxlstm.lab.experiment import make_optimizer
from jaxlstm.lab.task import Source
from jaxlstm.lab.training import Trainer, TrainState
from jaxlstm.types import Array, Key, PyTree

# Segments of a split that one call measures.
SEGMENTS_PER_CALL = 32


class Lane(NamedTuple):
    """One of the trainings.

    Attributes:
      seed: of parameters, data and draws, as a run's.
      learning_rate: what the schedule's factor multiplies.
    """

    seed: int
    learning_rate: float


class UnequalSegments(Exception):
    """The segments of two seeds differ in shape, so that no call can take both."""


class Track:
    """What all members train on: the model, the data, and the devices.

    A lane is what `Trainer` does by itself, vectorised over parameters, state of the
    optimizer and of the estimator, and data; what it comes to differs by rounding
    alone. Lanes are spread over the devices, and no device waits for another.

    Attributes:
      problem: what is trained on.
      num_updates: how many each lane makes.
      split: what losses are measured on; those of "train" are of the updates
        themselves.
      width: W, the lanes of a call: a multiple of the number of devices.
      alone: a mesh of one device: the lanes of a device know of no other.
    """

    def __init__(self, problem: Problem, *, num_updates: int, split: str, width: int):
        self.problem, self.num_updates, self.split = problem, num_updates, split
        trainer = problem.experiment.trainer
        self._mesh, devices = trainer.mesh, trainer.mesh.devices.flat
        self.width = -(-width // len(devices)) * len(devices)
        self.alone = jax.make_mesh(
            (1,), (AXIS,), axis_types=(AxisType.Auto,), devices=[devices[0]]
        )
        model, batch_size = trainer.model, problem.experiment.batch_size
        evaluator = Evaluator(model, problem.config.task, self.alone)
        # First parameters [W, ...] by keys [W].
        self.init_params = jax.jit(
            jax.vmap(lambda key: trainer.first_params(_key_of_params(key)))
        )
        self._begin_split = self.map(
            lambda params, _: model.initial_state(params, (batch_size,))
        )
        self._sum_up = self.map(
            lambda lane, count: evaluator.sum_up(lane[0], lane[1], lane[2], count)
        )

    def map(self, function: Callable[[Any, Array], Any]) -> Callable[..., Any]:
        """Returns a function of all lanes, [W, ...], and of what is alike in them.

        Args:
          function: of what is one lane's, and of what is alike.
        """
        lanes, alike = PartitionSpec(AXIS), PartitionSpec()
        mapped = jax.shard_map(
            jax.vmap(function, in_axes=(0, None)),
            mesh=self._mesh,
            in_specs=(lanes, alike),
            out_specs=lanes,
            # Devices share nothing of which this would have to keep count.
            check_vma=False,
        )
        return jax.jit(mapped)

    def spread(self, tree: PyTree) -> PyTree:
        """Puts lanes [W, ...] where they are computed."""
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec(AXIS)))

    def sources(self, split: str, lanes: Sequence[Lane]) -> list[Source]:
        """Returns the source of each lane; of those of one seed, one and the same."""
        find = self.problem.experiment.split
        by_seed = {lane.seed: find(split, seed=lane.seed) for lane in lanes}
        return [by_seed[lane.seed] for lane in lanes]

    def measure(self, params: PyTree, blocks: Sequence[Any]) -> np.ndarray:
        """Returns the sums over a split of loss and weight, [2, W].

        Args:
          params: [W, ...] of the lanes.
          blocks: of `read`.
        """
        states, sums = self._begin_split(params, 0), np.zeros((2, self.width))
        for block, count in blocks:
            states, (found, weight) = self._sum_up((params, states, block), count)
            sums += np.sum((found["loss"], weight), axis=-1, dtype=np.float64)
        return sums

    def read(self, lanes: Sequence[Lane]) -> list[Any]:
        """Returns the blocks of the split, and how many segments each holds.

        Raises:
          UserError: the split has no end, or no segment.
        """
        sources = self.sources(self.split, lanes)
        number = sources[0].num_segments
        if not number:
            raise UserError(
                f"the task's {self.split} split has num_segments = {number}; a split "
                "that is measured has an end, and at least one segment"
            )
        start, blocks, most = 0, [], min(SEGMENTS_PER_CALL, number)
        while start < number:
            block, count = stack(sources, start, min(most, number - start), most)
            blocks.append((self.spread(block), count))
            start += count
        return blocks


class Lanes:
    """Trains by one estimator under several learning rates and seeds.

    Attributes:
      track: what is trained on.
    """

    def __init__(self, track: Track, member: Member):
        self.track = track
        trainer = track.problem.experiment.trainer
        estimator = track.problem.estimator(member, trainer.model)
        self._trainer = trainer._replace(estimator=estimator, mesh=track.alone)
        self._begin = jax.jit(jax.vmap(self._begin_one))
        self._advance = track.map(self._update_one)

    def run(self, lanes: Sequence[Lane], updates: Sequence[int]) -> np.ndarray:
        """Returns the loss of each lane after some updates.

        Args:
          lanes: at most W.
          updates: in ascending order; training ends with the last one.

        Returns:
          [lanes, updates] float64; NaN from where a loss is not finite on.

        Raises:
          UnequalSegments: the lanes' seeds have segments of other shapes.
        """
        track = self.track
        filled = [*lanes, *[lanes[-1]] * (track.width - len(lanes))]
        keys = jnp.stack([jax.random.key(lane.seed) for lane in filled])
        rates = track.spread(np.array([lane.learning_rate for lane in filled]))
        states = track.spread(self._begin(keys, track.init_params(keys)))
        sources = track.sources("train", filled)
        blocks = track.read(filled) if track.split != "train" else []
        most = min(track.problem.config.sections.train.updates_per_call, updates[-1])
        done, losses = 0, []
        for update in updates:
            sums = np.zeros((2, track.width))
            while done < update:
                block, count = stack(sources, done, min(most, update - done), most)
                states, metrics = self._advance(
                    (rates, states, track.spread(block)), count
                )
                done += count
                both = metrics.loss, metrics.weight
                sums += np.sum(both, axis=-1, dtype=np.float64)
            if blocks:
                sums = track.measure(states.params, blocks)
            losses.append(sums[0] / np.where(sums[1] == 0, np.nan, sums[1]))
        found = np.stack(losses, axis=1)[: len(lanes)]
        lost = np.logical_or.accumulate(~np.isfinite(found), axis=1)
        return np.where(lost, np.nan, found)

    def _begin_one(self, key: Key, params: PyTree) -> TrainState:
        batch_size = self.track.problem.experiment.batch_size
        return self._trainer.init(key, batch_size, params)

    def _update_one(self, lane: Any, count: Array) -> Any:
        rate, state, block = lane
        return scan_first(self._trainer_at(rate).update, state, block, count)

    def _trainer_at(self, learning_rate: Array) -> Trainer:
        problem = self.track.problem
        optimizer = make_optimizer(
            problem.config,
            self.track.num_updates,
            problem.experiment.source.num_segments,
            learning_rate,
        )
        return self._trainer._replace(optimizer=optimizer)


def stack(
    sources: Sequence[Source], start: int, most: int, capacity: int
) -> tuple[Any, int]:
    """Returns blocks [W, K, T, B, ...], and how many of their segments there are.

    Raises:
      UnequalSegments: those of two sources differ in shape.
    """
    taken = {id(s): next_block(s, start, most, capacity) for s in sources}
    count = min(count for _, count in taken.values())
    blocks = [taken[id(source)][0] for source in sources]
    shapes = {tuple(np.shape(x) for x in jax.tree.leaves(block)) for block in blocks}
    if len(shapes) > 1:
        raise UnequalSegments
    return jax.tree.map(lambda *leaves: np.stack(leaves), *blocks), count


def _key_of_params(key: Key) -> Key:
    """Returns the key that `Trainer.init` draws parameters from."""
    return jax.random.split(key)[0]
