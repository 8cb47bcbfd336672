"""The training loop: many updates in one compiled call."""

import functools
import time
from collections.abc import Callable, Generator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlstm.estimators import GradientEstimator, Segment
from jaxlstm.lab.blocks import Pace, next_block, scan_first
from jaxlstm.lab.devices import batch_specs, local, spread, total
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.manifest import describe_leaves
from jaxlstm.lab.task import Source
from jaxlstm.model import Model, ModelParams
from jaxlstm.types import Array, Key, PyTree


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
      gradient_norm: of the divided gradient by what is trained, before clipping.
    """

    loss: Any
    weight: Any
    gradient_norm: Any


class Block(NamedTuple):
    """What one compiled call did.

    Attributes:
      state: after its updates.
      metrics: of each update.
      finite: whether all parameters after its updates are.
      segments: [K, T, B, ...] what they were made from, K >= their number.
      until: `(n) -> state` after the first n of them; makes them again.
    """

    state: TrainState
    metrics: Metrics
    finite: bool
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
      initial: the task's, `(params) -> params`: what training starts from.
      trained: `(tree) -> tree`, puts to zero what is there of frozen parameters.
    """

    model: Model
    estimator: GradientEstimator
    optimizer: optax.GradientTransformation
    mesh: Mesh
    average: Literal["steps", "batch"]
    skips: bool = False
    initial: Callable[[ModelParams], ModelParams] = lambda params: params
    trained: Callable[[PyTree], PyTree] = lambda tree: tree

    def first_params(self, key: Key) -> ModelParams:
        """Returns the parameters that training starts from.

        Raises:
          UserError: the task makes others of those that the model draws.
        """
        drawn = self.model.init(key)
        params = self.initial(drawn)
        was, now = map(describe_leaves, (drawn, params))
        for name in [*was, *now]:
            if was.get(name) != now.get(name):
                raise UserError(
                    f"the task's initial: makes {now.get(name, 'nothing')} of "
                    f"{name.lstrip('.')}, {was.get(name, 'which is not there')}; keep "
                    "shapes and dtypes"
                )
        return params

    def init(
        self, key: Key, batch_size: int, params: PyTree | None = None
    ) -> TrainState:
        """Returns the state before the first update.

        Args:
          key: of all that is drawn.
          batch_size: B.
          params: in place of those that the model would draw.
        """

        @jax.jit
        def make(key: Key, params: PyTree | None) -> TrainState:
            key_params, key_estimator = jax.random.split(key)
            if params is None:
                params = self.first_params(key_params)
            return TrainState(
                params,
                self.optimizer.init(params),
                self.estimator.init(params, (batch_size,), key_estimator),
                jnp.zeros((), jnp.int32),
            )

        state = make(key, params)
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
        grads = jax.tree.map(
            lambda g: g / jnp.asarray(divisor, g.dtype), self.trained(grads)
        )
        norm = optax.tree.norm(grads)
        if self.skips:
            # A norm may overflow where no entry does; what is reported is left out.
            grads = jax.tree.map(
                lambda g: jnp.where(jnp.isfinite(norm), g, jnp.nan), grads
            )
        updates, optimizer_state = self.optimizer.update(
            grads, state.optimizer, state.params
        )
        # A decay of the weights goes by no gradient.
        params = optax.apply_updates(state.params, self.trained(updates))
        if self.skips:
            finite = optimizer_state.last_finite  # type: ignore[attr-defined]
            estimator_state = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old),
                estimator_state,
                state.estimator,
            )
        metrics = Metrics(loss, weight, norm)
        return TrainState(
            params, optimizer_state, estimator_state, state.num_updates + 1
        ), metrics

    def compile(
        self, state: TrainState, block: Segment
    ) -> Callable[[TrainState, Segment, int], tuple[TrainState, Metrics, Array]]:
        """Returns a function that makes the first updates of a block.

        It is `(state, block [K, T, B, ...], count) -> (state, Metrics [K], finite)`,
        the last of which says whether all parameters are finite after the `count`
        updates. One compilation serves every count.
        """

        def updates(
            state: TrainState, block: Segment, count: Array
        ) -> tuple[TrainState, Metrics, Array]:
            state, metrics = scan_first(self.update, state, block, count)
            leaves = jax.tree.leaves(state.params)
            finite = [jnp.all(jnp.isfinite(leaf)) for leaf in leaves]
            return state, metrics, jnp.all(jnp.array(finite))

        alike, specs = PartitionSpec(), self._specs(state)
        mapped = spread(
            updates,
            self.mesh,
            (specs, batch_specs(block, axis=2), alike),
            (specs, Metrics(alike, alike, alike), alike),
        )
        # The state that is given stays: it is saved meanwhile, and gone back to.
        return jax.jit(mapped)

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
) -> Generator[Block, TrainState | None, None]:
    """Yields what every compiled call did; the first one, which compiles, does nothing.

    It saves, prints and plots nothing: the caller decides what to do with what it
    yields, may send another state to go on from, and stops by no longer asking. A call
    takes about a second at most, or else makes a single update.

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

    def take() -> tuple[Segment, int] | None:
        most = min(pace.count, stops(done) - done)
        return next_block(source, done, most, updates_per_call) if most > 0 else None

    taken = take()
    while taken is not None:
        segments, count = taken
        shapes = tuple(x.shape for x in jax.tree.leaves(segments))
        first = shapes not in compiled
        if first:
            compiled[shapes] = trainer.compile(state, segments)
            count = 0
        call, before, began = compiled[shapes], state, time.perf_counter()
        state, metrics, finite = call(before, segments, count)
        done += count
        if not first:
            # The device is at work meanwhile.
            taken = take()
        metrics = jax.tree.map(lambda x, n=count: np.asarray(x)[:n], metrics)
        if not first:
            pace.took(count, time.perf_counter() - began)
        until = functools.partial(_until, call, before, segments)
        sent = yield Block(state, metrics, bool(finite), segments, until)
        state = state if sent is None else sent


def _until(call: Any, state: TrainState, segments: Segment, count: int) -> TrainState:
    return call(state, segments, count)[0]
