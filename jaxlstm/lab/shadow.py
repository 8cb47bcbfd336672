"""The shadow: gradients of other estimators beside the one that trains."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxlstm.diagnostics.alignment import align
from jaxlstm.estimators import Estimate, GradientEstimator, Segment
from jaxlstm.lab.blocks import Pace, next_block, scan_first
from jaxlstm.lab.devices import batch_specs, local, spread, total
from jaxlstm.lab.task import Source
from jaxlstm.lab.training import Trainer, TrainState
from jaxlstm.types import Array, PyTree

# Fields of an estimator's state by which it can begin in the midst of a sequence.
_PLACE = "hidden", "keys", "num_steps"


class Member(NamedTuple):
    """An estimator of a comparison.

    Attributes:
      name: None for the one that trains.
      estimator: itself.
      placed: whether it begins where training stands.
    """

    name: str | None
    estimator: GradientEstimator
    placed: bool


class Sums(NamedTuple):
    """What a comparison carries from segment to segment.

    Attributes:
      states: of each member.
      grads: the sums of its gradients.
    """

    states: tuple[Any, ...]
    grads: tuple[PyTree, ...]


class Shadow:
    """Compares gradients with that which training would use, and changes nothing.

    The weights stand still over the next segments of training. Every estimator, that
    which trains included, begins there with a fresh state, so that nothing is left of
    weights that are no more: no influence, and no steps to be run again. It begins from
    the hidden state that training has come to, with its keys and its number of the
    step, and so sees the same noise; where its own state, or that of the estimator
    which trains, cannot take these, both begin from the model's initial state. Compared
    are the sums over all segments.

    Attributes:
      trainer: makes the updates.
      estimators: that are compared with its own, by name.
      num_segments: how many segments are summed over.
      batch_size: of them.
    """

    def __init__(
        self,
        trainer: Trainer,
        estimators: Mapping[str, GradientEstimator],
        num_segments: int,
        batch_size: int,
    ):
        self.trainer, self.estimators = trainer, estimators
        self.num_segments, self.batch_size = num_segments, batch_size
        self._begin = jax.jit(self.begin)
        self._compiled = jax.jit(self._mapped)

    def __call__(
        self,
        state: TrainState,
        source: Source,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> dict[str, Any] | None:
        """Returns a line of metrics; None where a loss is not finite.

        Args:
          state: that training has come to.
          source: of its segments.
          check: called between compiled calls; ends the comparison by raising.
        """
        params, first = state.params, int(state.num_updates)
        sums, done, losses = self._begin(state), 0, []
        pace = Pace(self.num_segments)
        while done < self.num_segments:
            check()
            most = min(pace.count, self.num_segments - done)
            block, count = next_block(source, first + done, most, self.num_segments)
            if not done:
                # Compiles, and sums nothing.
                jax.block_until_ready(self._compiled(params, sums, block, 0))
                check()
            began = time.perf_counter()
            sums, reports = self._compiled(params, sums, block, count)
            losses.append(np.asarray(reports, np.float64)[:, :count])
            done += count
            pace.took(count, time.perf_counter() - began)
        loss, weight = np.concatenate(losses, axis=1).sum(axis=1).tolist()
        if not np.isfinite(loss):
            return None
        line: dict[str, Any] = {"loss": loss / weight if weight else 0.0}
        by_parameter, own = {}, {}
        for member, grads in zip(
            self._members, jax.device_get(sums.grads), strict=True
        ):
            if member.name is None:
                own[member.placed] = grads
                continue
            found = align(grads, own[member.placed])
            for figure, value in found.pop("").items():
                line[f"{member.name}/{figure}"] = value
            by_parameter[member.name] = found
        return {**line, "parameters": by_parameter}

    def begin(self, state: TrainState) -> Sums:
        """Returns fresh states, and sums of nothing.

        Args:
          state: that training has come to.
        """
        states = tuple(self._begin_one(member, state) for member in self._members)
        zeros = jax.tree.map(jnp.zeros_like, state.params)
        return Sums(states, (zeros,) * len(states))

    def _begin_one(self, member: Member, state: TrainState) -> Any:
        fresh, known = self._init(member.estimator, state), state.estimator
        if member.name is None:
            # What it has drawn once, such as weights of the feedback, stays.
            fresh = jax.tree.map(
                lambda new, old: old if _is_key(old) else new, fresh, known
            )
        if member.placed:
            fresh = fresh._replace(**{name: getattr(known, name) for name in _PLACE})
            if hasattr(fresh, "influence"):
                # That of a learned initial state, from which nothing begins here.
                nothing = jax.tree.map(jnp.zeros_like, fresh.influence)
                fresh = fresh._replace(influence=nothing)
        return fresh

    def _init(self, estimator: GradientEstimator, state: TrainState) -> Any:
        key = jax.random.fold_in(jax.random.key(0), state.num_updates)
        return estimator.init(state.params, (self.batch_size,), key)

    @functools.cached_property
    def _members(self) -> list[Member]:
        """That which trains first, once for each place that a comparison begins at."""
        trainer = self.trainer
        init = functools.partial(trainer.init, batch_size=self.batch_size)
        state = jax.eval_shape(init, jax.random.key(0))

        def fits(estimator: GradientEstimator) -> bool:
            fresh = jax.eval_shape(functools.partial(self._init, estimator), state)
            return _fits(fresh, state.estimator)

        others = [
            Member(name, each, fits(trainer.estimator) and fits(each))
            for name, each in self.estimators.items()
        ]
        places = dict.fromkeys(member.placed for member in others)
        return [*[Member(None, trainer.estimator, place) for place in places], *others]

    def _mapped(self, params: PyTree, sums: Sums, block: Segment, count: Array) -> Any:
        alike = PartitionSpec()
        specs = Sums(batch_specs(sums.states, axis=0), alike)  # type: ignore[arg-type]
        run = spread(
            self._run,
            self.trainer.mesh,
            (alike, specs, batch_specs(block, axis=2), alike),
            (specs, alike),
        )
        return run(params, sums, block, count)

    def _run(self, params: PyTree, sums: Sums, block: Segment, count: Array) -> Any:
        mesh = self.trainer.mesh
        params = local(params, mesh)

        def step(sums: Sums, segment: Segment) -> tuple[Sums, tuple[Array, Array]]:
            made = [
                member.estimator.estimate(params, state, segment)
                for member, state in zip(self._members, sums.states, strict=True)
            ]
            estimates: Sequence[Estimate] = total([each for each, _ in made], mesh)
            grads = tuple(self.trainer.trained(each.grads) for each in estimates)
            added = jax.tree.map(jnp.add, sums.grads, grads)
            own = estimates[0]
            return Sums(tuple(state for _, state in made), added), (
                own.loss,
                own.weight,
            )

        return scan_first(step, sums, block, count)


def _is_key(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _fits(fresh: Any, known: Any) -> bool:
    """Returns whether a fresh state can begin where another one stands."""

    def place(state: Any) -> Any:
        fields = {name: getattr(state, name, None) for name in _PLACE}
        shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), fields)
        return jax.tree.structure(fields), jax.tree.leaves(shapes)

    return all(hasattr(known, name) for name in _PLACE) and place(fresh) == place(known)
