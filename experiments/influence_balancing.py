"""Influence balancing: one parameter, whose influence over few steps has a wrong sign.

A cell of one parameter, and the task without input that it is made for.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import PositiveInt

from experiments.streams import score_from
from jaxlstm import Cell
from jaxlstm.lab import ModelParts, Run, Segment, Source, Task, UserError
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array, Key

SCORED_STEPS = 100
DRAWN_STEPS = 120


class BalanceParams(NamedTuple):
    """The only parameter.

    Attributes:
      theta: [] what drives every unit.
    """

    theta: Array


class BalanceState(NamedTuple):
    """What the cell remembers between two steps.

    Attributes:
      s: [..., H] the units.
    """

    s: Array


def make_cell(
    *, num_positive: int = 10, num_negative: int = 13, initial_theta: float = 0.5
) -> Cell:
    """Returns a linear cell of one parameter, which drives units with either sign.

        s' = A s + theta b,     A = I / 2 + superdiagonal / 2

    with b = 1 for the first units and -1 for the others. s starts from 1, its first
    unit is the output, and the input has no part in it. At rest the output is 2 theta
    times the sum of b; but unit k reaches it after k - 1 steps at the soonest, so that
    the influence of theta seems to be positive as long as few steps are looked at.

    Args:
      num_positive: units with a positive sign, the first ones.
      num_negative: units with a negative sign. Both together are `hidden_size`.
      initial_theta: what theta starts from.

    References:
      Tallec and Ollivier, Unbiased Online Recurrent Optimization, ICLR 2018.
    """
    if min(num_positive, num_negative) < 0 or num_positive + num_negative == 0:
        raise OptionError(
            f"num_positive: there cannot be {num_positive} positive and {num_negative} "
            "negative units; use numbers from 0 on, one of them above it"
        )
    signs = np.repeat([1.0, -1.0], [num_positive, num_negative])

    def init(
        key: Key, input_size: int, hidden_size: int, *, dtype: Any = jnp.float32
    ) -> BalanceParams:
        del key, input_size
        if hidden_size != len(signs):
            raise UserError(
                f"[model] hidden_size = {hidden_size}: is not num_positive + "
                f"num_negative = {len(signs)}; use that, or change them"
            )
        return BalanceParams(jnp.asarray(initial_theta, dtype))

    def initial_state(
        params: BalanceParams, batch_shape: tuple[int, ...]
    ) -> BalanceState:
        return BalanceState(jnp.ones((*batch_shape, len(signs)), params.theta.dtype))

    def step(
        params: BalanceParams, state: BalanceState, x: Array
    ) -> tuple[BalanceState, Array]:
        del x
        s = state.s
        above = jnp.concatenate([s[..., 1:], jnp.zeros_like(s[..., :1])], axis=-1)
        drive = jnp.broadcast_to(jnp.asarray(signs, s.dtype), s.shape)
        state = BalanceState((s + above) / 2 + params.theta * drive)
        return state, output(state)

    def output(state: BalanceState) -> Array:
        return state.s[..., :1]

    return Cell(init, initial_state, step, output=output)


class InfluenceBalancing(Task):
    """Holds the output of the cell above at a target, by its one parameter.

    The loss is (s_1 - 1)^2 / 2 at every step of an endless sequence without input. With
    10 positive and 13 negative units s_1 goes to -6 theta, and theta has to go to -1/6.
    A gradient that looks back over 40 steps or fewer has the wrong sign, and drives
    theta away.

    Evaluation gives the output at rest, as `output`.

    Attributes:
      target: of the output.
      unscored_steps: of an evaluation, in which the state comes to rest.

    References:
      Tallec and Ollivier, Unbiased Online Recurrent Optimization, ICLR 2018; Vicol,
      Metz and Sohl-Dickstein, Unbiased Gradient Estimation in Unrolled Computation
      Graphs with Persistent Evolution Strategies, ICML 2021.
    """

    target: float = 1.0
    unscored_steps: PositiveInt = 200

    def parts(self) -> ModelParts:
        """A zero in, one value out."""
        return ModelParts(input_size=1, output_size=1)

    def split(
        self, name: str, *, batch_size: int, segment_length: int, seed: int
    ) -> Source:
        """Returns stretches of nothing; those of training have no end."""
        del seed

        def segments(start: int, count: int) -> Segment:
            shape = count, segment_length, batch_size, 1
            weights = None
            if name != "train":
                weights = score_from(self.unscored_steps, start, count, segment_length)
            zeros = np.zeros(shape, np.float32)
            return Segment(zeros, np.full_like(zeros, self.target), weights=weights)

        end = -(-(self.unscored_steps + SCORED_STEPS) // segment_length)
        return Source(segments, None if name == "train" else end)

    def loss(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Half the squared error."""
        return jnp.sum((prediction - target) ** 2, axis=-1) / 2

    def scores(self, prediction: jax.Array, target: jax.Array) -> dict[str, jax.Array]:
        """The output."""
        del target
        return {"output": prediction[..., 0]}

    def figures(self, run: Run) -> dict[str, Figure]:
        """Draws where theta went, what the output does, and why truncation fails."""
        figure = Figure(figsize=(10, 3.5), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        theta = float(run.params.recurrent.layers[0].theta)
        self._draw_training(left, run)
        self._draw_output(middle, run, theta)
        self._draw_horizons(right, run)
        return {"balance": figure}

    def _draw_training(self, axes: Axes, run: Run) -> None:
        points = [
            (line["update"], line["output"])
            for line in run.metrics
            if line["split"] == "validation" and line["output"] is not None
        ]
        axes.axhline(self.target, color="black", linewidth=3, alpha=0.3, label="target")
        axes.plot(*zip(*points, strict=True), ".-", color="tab:red", label="output")
        axes.set(xlabel="update", title="Output at rest, while training")
        axes.legend(frameon=False)

    def _draw_output(self, axes: Axes, run: Run, theta: float) -> None:
        model, params = run.model, run.params
        inputs = jnp.zeros((DRAWN_STEPS, 1), params.recurrent.layers[0].theta.dtype)

        @jax.jit
        def unroll() -> Array:
            start = model.initial_state(params, ())
            states = model.unroll(params.recurrent, start, inputs)[1]
            return model.readout(params, states)[:, 0]

        axes.axhline(self.target, color="black", linewidth=3, alpha=0.3, label="target")
        axes.plot(unroll(), color="tab:red", label="output")
        axes.set(xlabel="step", title=f"In the end: theta = {theta:.7f}")
        axes.legend(frameon=False)

    def _draw_horizons(self, axes: Axes, run: Run) -> None:
        options = run.config.cell_options
        influence = influence_by_horizon(
            options["num_positive"], options["num_negative"], DRAWN_STEPS
        )
        horizons = np.arange(1, DRAWN_STEPS + 1)
        right = np.sign(influence) == np.sign(influence[-1])
        axes.axhline(0, color="0.4", linewidth=1)
        for kind, color, label in (
            (~right, "tab:orange", "wrong sign"),
            (right, "tab:blue", "right sign"),
        ):
            axes.plot(horizons[kind], influence[kind], ".", color=color, label=label)
        axes.set(xlabel="steps looked back", title="d output / d theta")
        axes.legend(frameon=False)


def influence_by_horizon(num_positive: int, num_negative: int, most: int) -> np.ndarray:
    """Returns d s_1 / d theta [most] as it looks over the last 1, 2, ... steps."""
    reached = np.repeat([1.0, -1.0], [num_positive, num_negative])
    terms = []
    for _ in range(most):
        terms.append(reached[0])
        reached = (reached + np.append(reached[1:], 0)) / 2
    return np.cumsum(terms)
