"""The training loop: many updates in one compiled call."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlstm.estimators import GradientEstimator, Segment, score
from jaxlstm.lab.devices import batch_specs, local, spread, total
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.task import Source, Task
from jaxlstm.model import Model
from jaxlstm.types import Array, Key, PyTree
from jaxlstm.varying import vary_together


class TrainState(NamedTuple):
    """All that training goes on from.

    Attributes:
      params: of the model.
      optimizer: state of the optimizer.
      estimator: state of the gradient estimator.
      num_updates: [] how many updates were made; also the next segment's number.
    """

    params: PyTree
    optimizer: Any
    estimator: Any
    num_updates: Array


class Metrics(NamedTuple):
    """What updates report, [K] each.

    Attributes:
      loss: sum over steps and examples of weight times loss.
      weight: sum of the weights.
      gradient_norm: of the divided gradient, before clipping.
    """

    loss: Any
    weight: Any
    gradient_norm: Any


class Trainer(NamedTuple):
    """What an update needs.

    Attributes:
      model: the model.
      estimator: of its gradient.
      optimizer: turns gradients into updates.
      mesh: the devices that the batch is spread over.
      average: "steps" or "batch", as in the config's [train] section.
    """

    model: Model
    estimator: GradientEstimator
    optimizer: optax.GradientTransformation
    mesh: Mesh
    average: Literal["steps", "batch"]

    def init(self, key: Key, batch_size: int) -> TrainState:
        """Returns the state before the first update."""

        # Compiled, so that no two leaves share a buffer: an update gives all away.
        @jax.jit
        def make(key: Key) -> TrainState:
            key_params, key_estimator = jax.random.split(key)
            params = self.model.init(key_params)
            return TrainState(
                params,
                self.optimizer.init(params),
                self.estimator.init(params, (batch_size,), key_estimator),
                jnp.zeros((), jnp.int32),
            )

        state = make(key)
        # Placed here, so that what is restored into this state has its place as well.
        return jax.device_put(
            state,
            jax.tree.map(
                lambda spec: NamedSharding(self.mesh, spec), self._specs(state)
            ),
        )

    def update(self, state: TrainState, segment: Segment) -> tuple[TrainState, Metrics]:
        """Makes one update, from this device's part of the batch."""
        estimate, estimator_state = self.estimator.estimate(
            local(state.params, self.mesh), state.estimator, segment
        )
        loss, grads, weight = total(estimate, self.mesh)
        if self.average == "steps":
            # A segment without scored steps has no gradient, and so no direction.
            divisor = jnp.where(weight > 0, weight, 1)
        else:
            batch_size = jax.tree.leaves(segment.inputs)[0].shape[1]
            divisor = batch_size * self.mesh.size
        grads = jax.tree.map(lambda g: g / jnp.asarray(divisor, g.dtype), grads)
        updates, optimizer_state = self.optimizer.update(
            grads, state.optimizer, state.params
        )
        params = optax.apply_updates(state.params, updates)
        metrics = Metrics(loss, weight, optax.tree.norm(grads))
        return TrainState(
            params, optimizer_state, estimator_state, state.num_updates + 1
        ), metrics

    def compile(
        self, state: TrainState, block: Segment
    ) -> Callable[[TrainState, Segment, int], tuple[TrainState, Metrics]]:
        """Returns `(state, block [K, T, B, ...], count) -> (state, Metrics [K])`.

        It makes the first `count` updates of a block. One compilation serves every
        count.
        """
        capacity = len(jax.tree.leaves(block)[0])

        def updates(
            state: TrainState, block: Segment, count: Array
        ) -> tuple[TrainState, Metrics]:
            def body(n: Array, carry: Any) -> Any:
                state, metrics = carry
                segment = jax.tree.map(lambda x: x[n], block)
                state, new = self.update(state, segment)
                write = lambda all, one: all.at[n].set(one)  # noqa: E731
                return state, jax.tree.map(write, metrics, new)

            dtype = jax.tree.leaves(state.params)[0].dtype
            empty = Metrics(*[jnp.zeros((capacity,), dtype)] * 3)
            return jax.lax.fori_loop(0, count, body, (state, empty))

        alike, specs = PartitionSpec(), self._specs(state)
        mapped = spread(
            updates,
            self.mesh,
            (specs, batch_specs(block, axis=2), alike),
            (specs, Metrics(alike, alike, alike)),
        )
        return jax.jit(mapped, donate_argnums=0)

    def _specs(self, state: TrainState) -> TrainState:
        """Returns how each leaf lies on the devices."""
        alike = jax.tree.map(lambda _: PartitionSpec(), state)
        return alike._replace(estimator=batch_specs(state.estimator, axis=0))


def fit(
    trainer: Trainer,
    state: TrainState,
    source: Source,
    stops: Callable[[int], int],
    updates_per_call: int,
) -> Iterator[tuple[TrainState, Metrics]]:
    """Yields the state and the metrics after every compiled call.

    It saves, prints and plots nothing: the caller decides what to do with what it
    yields, and stops by no longer asking.

    Args:
      trainer: makes the updates.
      state: to go on from. Its buffers are given away.
      source: the segments, of which each update takes the one with its own number.
      stops: `(n) -> m > n`, the next update after n that the caller waits for; n
        itself at the last one.
      updates_per_call: the most updates of one call.
    """
    compiled: dict[Any, Any] = {}
    done = int(state.num_updates)
    block = _next_block(source, done, stops(done), updates_per_call)
    while block is not None:
        segments, count = block
        shapes = tuple(x.shape for x in jax.tree.leaves(segments))
        if shapes not in compiled:
            compiled[shapes] = trainer.compile(state, segments)
        state, metrics = compiled[shapes](state, segments, count)
        done += count
        # The device is at work meanwhile.
        block = _next_block(source, done, stops(done), updates_per_call)
        yield state, jax.tree.map(lambda x, n=count: np.asarray(x)[:n], metrics)


def _take(source: Source, start: int, count: int) -> Segment:
    """Returns segments of a source, at least one."""
    segments = source.segments(start, count)
    if len(jax.tree.leaves(segments)[0]) < 1:
        raise UserError(
            f"the task's source gave no segment where {count} from number {start} on "
            "were asked for; it has to give at least one"
        )
    return segments


def _next_block(
    source: Source, start: int, stop: int, capacity: int
) -> tuple[Segment, int] | None:
    if stop <= start:
        return None
    segments = _take(source, start, min(capacity, stop - start))
    count = len(jax.tree.leaves(segments)[0])
    missing = capacity - count

    def fill(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])

    return (jax.tree.map(fill, segments) if missing else segments), count


class Evaluator:
    """Averages the loss and a task's scores over a source.

    The state starts from the model's initial state and is carried from segment to
    segment; nothing is drawn at random.
    """

    def __init__(self, model: Model, task: Task, mesh: Mesh):
        self.model, self.task, self.mesh = model, task, mesh
        self._compiled = jax.jit(self._mapped)

    def __call__(
        self,
        params: PyTree,
        source: Source,
        batch_size: int,
        *,
        segments_per_call: int = 32,
    ) -> dict[str, float]:
        """Returns `loss`, the scores, and what the task derives from them.

        Args:
          params: of the model.
          source: has an end.
          batch_size: of its segments.
          segments_per_call: how many are taken at once, at most.
        """
        if not source.num_segments:
            raise UserError(
                f"the task's source has num_segments = {source.num_segments}; a split "
                "that is evaluated has an end, and at least one segment"
            )
        state = self.model.initial_state(params, (batch_size,))
        start, weight, sums = 0, 0.0, {}
        # As even as can be, for every other size is compiled anew.
        num_calls = -(-source.num_segments // segments_per_call)
        size = -(-source.num_segments // num_calls)
        while start < source.num_segments:
            count = min(size, source.num_segments - start)
            block = _take(source, start, count)
            start += len(jax.tree.leaves(block)[0])
            state, block_sums, block_weight = self._compiled(params, state, block)
            weight += float(block_weight)
            for name, value in block_sums.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        if weight == 0:
            raise UserError("evaluation: no step has a weight, so nothing is scored")
        averages = {name: value / weight for name, value in sums.items()}
        return averages | self.task.derive(averages)

    def _mapped(self, params: PyTree, state: Any, block: Segment) -> Any:
        alike, state_specs = PartitionSpec(), batch_specs(state, axis=0)
        in_specs = alike, state_specs, batch_specs(block, axis=2)
        out_specs = state_specs, alike, alike
        return spread(self._run, self.mesh, in_specs, out_specs)(params, state, block)

    def _run(self, params: PyTree, state: Any, block: Segment) -> Any:
        params, state = vary_together((local(params, self.mesh), state))

        def step(state: Any, segment: Segment) -> Any:
            state, states = self.model.unroll(
                params.recurrent,
                state,
                segment.inputs,
                mask=segment.mask,
                resets=segment.resets,
            )
            predictions = self.model.readout(params, states)
            losses, weights = score(self.task.loss, predictions, segment)
            scores = self.task.scores(predictions, segment.targets)
            if "loss" in scores:
                raise UserError(
                    "the task's scores hold one named loss, which is that of `loss`; "
                    "give it another name"
                )
            means = {"loss": losses, **scores}
            # Targets of weight 0 may be anything, NaN included.
            sums = {
                name: jnp.sum(jnp.where(weights != 0, weights * x, 0))
                for name, x in means.items()
            }
            return state, (sums, jnp.sum(weights))

        state, sums = jax.lax.scan(step, state, block)
        sums, weight = total(jax.tree.map(jnp.sum, sums), self.mesh)
        return state, sums, weight
