"""The training loop: many updates in one compiled call."""

import functools
import time
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


class Block(NamedTuple):
    """What one compiled call did.

    Attributes:
      state: after its updates.
      metrics: of each update.
      segments: [K, T, B, ...] what they were made from, K >= their number.
      until: `(n) -> state` after the first n of them; makes them again.
    """

    state: TrainState
    metrics: Metrics
    segments: Segment
    until: Callable[[int], TrainState]


class Trainer(NamedTuple):
    """What an update needs.

    Attributes:
      model: the model.
      estimator: of its gradient.
      optimizer: turns gradients into updates.
      mesh: the devices that the batch is spread over.
      average: "steps" or "batch", as in the config's [train] section.
      skips: whether the optimizer is one of `optax.apply_if_finite`, which passes over
        gradients that are not finite; the estimator's state then stays as well.
    """

    model: Model
    estimator: GradientEstimator
    optimizer: optax.GradientTransformation
    mesh: Mesh
    average: Literal["steps", "batch"]
    skips: bool = False

    def init(self, key: Key, batch_size: int) -> TrainState:
        """Returns the state before the first update."""

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
        if self.skips:
            finite = optimizer_state.last_finite  # type: ignore[attr-defined]
            estimator_state = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old),
                estimator_state,
                state.estimator,
            )
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

        def updates(
            state: TrainState, block: Segment, count: Array
        ) -> tuple[TrainState, Metrics]:
            return _scan_first(self.update, state, block, count)

        alike, specs = PartitionSpec(), self._specs(state)
        mapped = spread(
            updates,
            self.mesh,
            (specs, batch_specs(block, axis=2), alike),
            (specs, Metrics(alike, alike, alike)),
        )
        # The state that is given stays: it is saved meanwhile, and gone back to.
        return jax.jit(mapped)

    def _specs(self, state: TrainState) -> TrainState:
        """Returns how each leaf lies on the devices."""
        alike = jax.tree.map(lambda _: PartitionSpec(), state)
        return alike._replace(estimator=batch_specs(state.estimator, axis=0))


class Pace:
    """How many segments a compiled call takes, so that a signal is soon heeded.

    Attributes:
      most: the size of a block.
      count: of the next call. The first one takes a single segment.
    """

    # What is aimed at; a call that turns out slower is still short enough.
    SECONDS = 1.0

    def __init__(self, most: int):
        self.most, self.count = most, 1

    def took(self, count: int, seconds: float) -> None:
        """Learns from a call that took some seconds for `count` segments."""
        possible = int(count * self.SECONDS / max(seconds, 1e-9))
        self.count = max(1, min(self.most, possible))


def fit(
    trainer: Trainer,
    state: TrainState,
    source: Source,
    stops: Callable[[int], int],
    updates_per_call: int,
) -> Iterator[Block]:
    """Yields what every compiled call did; the first one, which compiles, does nothing.

    It saves, prints and plots nothing: the caller decides what to do with what it
    yields, and stops by no longer asking. A call takes about a second at most, or else
    makes a single update.

    Args:
      trainer: makes the updates.
      state: to go on from.
      source: the segments, of which each update takes the one with its own number.
      stops: `(n) -> m > n`, the next update after n that the caller waits for; n
        itself at the last one.
      updates_per_call: the most updates of one call.
    """
    compiled: dict[Any, Any] = {}
    pace, done = Pace(updates_per_call), int(state.num_updates)

    def next_block() -> tuple[Segment, int] | None:
        most = min(pace.count, stops(done) - done)
        return _next_block(source, done, most, updates_per_call) if most > 0 else None

    taken = next_block()
    while taken is not None:
        segments, count = taken
        shapes = tuple(x.shape for x in jax.tree.leaves(segments))
        first = shapes not in compiled
        if first:
            compiled[shapes] = trainer.compile(state, segments)
            count = 0
        call, before, began = compiled[shapes], state, time.perf_counter()
        state, metrics = call(before, segments, count)
        done += count
        if not first:
            # The device is at work meanwhile.
            taken = next_block()
        metrics = jax.tree.map(lambda x, n=count: np.asarray(x)[:n], metrics)
        if not first:
            pace.took(count, time.perf_counter() - began)
        until = functools.partial(_until, call, before, segments)
        yield Block(state, metrics, segments, until)


def _until(call: Any, state: TrainState, segments: Segment, count: int) -> TrainState:
    return call(state, segments, count)[0]


def _scan_first(step: Any, carry: Any, block: Segment, count: Array) -> Any:
    """Scans a step over the first `count` segments of a block [K, ...].

    Returns:
      What is carried, and the numbers that each step reports, [K]: 0 from `count` on.
    """
    capacity = len(jax.tree.leaves(block)[0])

    def take(n: Array | int) -> Segment:
        return jax.tree.map(lambda x: x[n], block)

    def body(n: Array, both: Any) -> Any:
        carry, reports = both
        carry, report = step(carry, take(n))
        write = lambda all, one: all.at[n].set(one)  # noqa: E731
        return carry, jax.tree.map(write, reports, report)

    shapes = jax.eval_shape(lambda: step(carry, take(0))[1])
    empty = jax.tree.map(lambda x: jnp.zeros((capacity,), x.dtype), shapes)
    return jax.lax.fori_loop(0, count, body, (carry, empty))


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
    source: Source, start: int, most: int, capacity: int
) -> tuple[Segment, int]:
    """Returns segments filled up to a capacity, and how many there are."""
    segments = _take(source, start, most)
    count = len(jax.tree.leaves(segments)[0])
    missing = capacity - count

    def fill(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])

    return (jax.tree.map(fill, segments) if missing else segments), count


class Evaluator:
    """Averages the loss and a task's scores over a source.

    The state starts from the model's initial state and is carried from segment to
    segment; nothing is drawn at random. Each segment is summed by itself, so that the
    figures do not depend on how many a call takes.
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
        check: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Returns `loss`, the scores, and what the task derives from them.

        Args:
          params: of the model.
          source: has an end.
          batch_size: of its segments.
          segments_per_call: how many are taken at once, at most.
          check: called between compiled calls; ends the evaluation by raising.
        """
        if not source.num_segments:
            raise UserError(
                f"the task's source has num_segments = {source.num_segments}; a split "
                "that is evaluated has an end, and at least one segment"
            )
        state = self.model.initial_state(params, (batch_size,))
        start, found = 0, []
        capacity = min(segments_per_call, source.num_segments)
        pace = Pace(capacity)
        while start < source.num_segments:
            check()
            most = min(pace.count, source.num_segments - start)
            block, count = _next_block(source, start, most, capacity)
            if start == 0:
                # Compiles, and measures nothing.
                jax.block_until_ready(self._compiled(params, state, block, 0))
                check()
            began = time.perf_counter()
            state, sums = self._compiled(params, state, block, count)
            found.append(jax.tree.map(lambda x, n=count: np.asarray(x)[:n], sums))
            start += count
            pace.took(count, time.perf_counter() - began)
        sums, weight = jax.tree.map(
            lambda *parts: float(np.sum(np.concatenate(parts), dtype=np.float64)),
            *found,
        )
        if weight == 0:
            raise UserError("evaluation: no step has a weight, so nothing is scored")
        averages = {name: value / weight for name, value in sums.items()}
        return averages | self.task.derive(averages)

    def _mapped(self, params: PyTree, state: Any, block: Segment, count: Array) -> Any:
        alike, state_specs = PartitionSpec(), batch_specs(state, axis=0)
        in_specs = alike, state_specs, batch_specs(block, axis=2), alike
        out_specs = state_specs, alike
        run = spread(self._run, self.mesh, in_specs, out_specs)
        return run(params, state, block, count)

    def _run(self, params: PyTree, state: Any, block: Segment, count: Array) -> Any:
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
            return state, total((sums, jnp.sum(weights)), self.mesh)

        return _scan_first(step, state, block, count)
