"""Evaluation: the averages of a split."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxlstm.estimators import Segment, score
from jaxlstm.estimators.whole_sequence import predict_sequences
from jaxlstm.lab.blocks import Pace, next_block, scan_first
from jaxlstm.lab.devices import batch_specs, local, spread, total
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.task import Source, Task
from jaxlstm.model import Model
from jaxlstm.types import Array, PyTree
from jaxlstm.varying import vary_together


class Evaluator:
    """Averages the loss and a task's scores over a source.

    The state starts from the model's initial state and is carried from segment to
    segment; with a model that has no online form, each segment holds whole sequences,
    as in `estimators.whole_sequence`. Nothing is drawn at random. Each segment is
    summed by itself, so that the figures do not depend on how many a call takes.
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
            block, count = next_block(source, start, most, capacity)
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
        run = spread(self.sum_up, self.mesh, in_specs, out_specs)
        return run(params, state, block, count)

    def sum_up(self, params: PyTree, state: Any, block: Segment, count: Array) -> Any:
        """Returns the state after segments, and sums over each of them.

        Args:
          params: of the model.
          state: of the model, before them.
          block: [K, T, B, ...], this device's part of the batch.
          count: how many of the segments count.

        Returns:
          The state, and by name `loss` and the scores, [K] each, and their weight [K].
        """
        params, state = vary_together((local(params, self.mesh), state))

        def step(state: Any, segment: Segment) -> Any:
            state, predictions, scored = self._predict(params, state, segment)
            losses, weights = score(self.task.loss, predictions, scored)
            scores = self.task.scores(predictions, scored.targets)
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

        return scan_first(step, state, block, count)

    def _predict(
        self, params: PyTree, state: Any, segment: Segment
    ) -> tuple[Any, Any, Segment]:
        """Returns the state after a segment, predictions, and what scores these."""
        model = self.model
        if model.step is None:
            batch_shape = jax.tree.leaves(state)[0].shape[:1]
            return state, *predict_sequences(model, params, segment, batch_shape)
        state, states = model.unroll(
            params.recurrent,
            state,
            segment.inputs,
            mask=segment.mask,
            resets=segment.resets,
        )
        return state, model.readout(params, states), segment
