"""See sin t, predict cos t: the smallest task that needs a memory."""

import math
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from jaxlstm.lab import ModelParts, Run, Segment, Source, Task, UserError, generator

# Where the phases of a split stand between those of training.
OFFSETS = {"train": 0.0, "validation": 0.25, "test": 0.5}
EVALUATED_SEGMENTS = 100


class SineCosine(Task):
    """Predicts the cosine of the phase whose sine it sees.

    One value of the sine leaves the sign of the cosine open: the net has to
    remember whether the sine rises.

    Attributes:
      windows: "carried": windows of one endless wave, whose state is carried from
        window to window; validation and test have phases between those of training.
        "independent": every window begins anew with a random phase and period;
        validation and test have periods that training never saw.
      period: of the carried wave, in steps.
      shortest, longest: bounds of the independent windows' periods, in steps.
      held_out: the band of periods kept for validation and test.
      unscored_steps: of an evaluated wave, or of every independent window, for
        which a zero state is not enough to know the phase.
    """

    windows: Literal["carried", "independent"] = "carried"
    period: PositiveInt = 40
    shortest: PositiveFloat = 15.0
    longest: PositiveFloat = 60.0
    held_out: list[float] = Field(default=[25.0, 35.0], min_length=2, max_length=2)
    unscored_steps: PositiveInt = 10

    @model_validator(mode="after")
    def _check_periods(self) -> Self:
        low, high = self.held_out
        if not self.shortest < low < high < self.longest:
            raise ValueError(
                f"held_out = {self.held_out} is not a band between shortest = "
                f"{self.shortest} and longest = {self.longest}"
            )
        return self

    def parts(self) -> ModelParts:
        """One value in, one out."""
        return ModelParts(input_size=1, output_size=1)

    def split(
        self, name: str, *, batch_size: int, segment_length: int, seed: int
    ) -> Source:
        """Returns windows of waves; those of training have no end."""
        scored = segment_length
        if self.windows == "carried":
            scored *= EVALUATED_SEGMENTS
        if self.unscored_steps >= scored:
            raise UserError(
                f"[task] unscored_steps = {self.unscored_steps}: nothing is left of "
                f"{scored} steps; lower it, or raise train.segment_length"
            )
        make = self._carried if self.windows == "carried" else self._independent

        def segments(start: int, count: int) -> Segment:
            return make(name, start, count, batch_size, segment_length, seed)

        return Source(segments, None if name == "train" else EVALUATED_SEGMENTS)

    def loss(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Squared error."""
        return jnp.mean((prediction - target) ** 2, axis=-1)

    def figures(self, run: Run) -> dict[str, Figure]:
        """Draws prediction against target on test windows."""
        train = run.config.sections.train
        source = run.experiment.split("test")
        segments = source.segments(0, -(-120 // train.segment_length))
        windows = [
            jax.tree.map(lambda x, n=n: x[n], segments)
            for n in range(len(segments.inputs))
        ]
        model, params = run.model, run.params

        @jax.jit
        def predict(state: Any, window: Segment) -> tuple[Any, jax.Array]:
            state, states = model.unroll(
                params.recurrent, state, window.inputs, resets=window.resets
            )
            return state, model.readout(params, states)

        state = model.initial_state(params, (train.batch_size,))
        predictions = []
        for window in windows:
            state, prediction = predict(state, window)
            predictions.append(prediction)
        predicted = np.concatenate(predictions)[:, 0, 0]
        seen, target = (
            np.concatenate(values)[:, 0, 0]
            for values in (segments.inputs, segments.targets)
        )
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
        above.plot(seen, color="0.75", label="input: sin t")
        above.plot(target, color="black", linewidth=3, alpha=0.3, label="target: cos t")
        above.plot(predicted, color="tab:red", linewidth=1.2, label="prediction")
        above.legend(loc="lower left", ncols=3, frameon=False)
        above.set(title="Test: what training never saw", ylim=(-1.6, 1.2))
        below.plot(np.abs(predicted - target), color="tab:red", linewidth=1.2)
        below.set(xlabel="step", ylabel="|error|", yscale="log")
        return {"prediction": figure}

    def _carried(
        self, split: str, start: int, count: int, batch: int, length: int, seed: int
    ) -> Segment:
        del seed
        numbers = np.arange(start, start + count)[:, None] * length
        steps = (numbers + np.arange(length))[:, :, None, None]
        rows = (np.arange(batch) * self.period / batch)[:, None]
        # In steps, the phases of training are the multiples of this.
        spacing = math.gcd(self.period, batch) / batch
        steps = steps + rows + OFFSETS[split] * spacing
        # Whole periods are dropped first: the angle of a late step loses its digits.
        phase = 2 * np.pi * (steps % self.period / self.period)
        weights = None
        if split != "train":
            weights = numbers + np.arange(length) >= self.unscored_steps
        return _segment(phase, weights=weights)

    def _independent(
        self, split: str, start: int, count: int, batch: int, length: int, seed: int
    ) -> Segment:
        random = generator(seed, split)
        # The generator makes four numbers at a step, and can be set to any step: each
        # segment has its own, wherever a run begins.
        steps = -(-2 * batch // 4)
        random.bit_generator.advance(start * steps)  # type: ignore[attr-defined]
        draws = random.random((count, 4 * steps))[:, : 2 * batch]
        draws = draws.reshape(count, 1, batch, 2)
        low, high = self.held_out
        if split == "train":
            period = self.shortest + draws[..., :1] * (
                self.longest - self.shortest - (high - low)
            )
            period = np.where(period < low, period, period + high - low)
        else:
            period = low + draws[..., :1] * (high - low)
        phase = np.arange(length)[:, None, None] / period + draws[..., 1:]
        phase = 2 * np.pi * phase
        first, scored = np.arange(length) == 0, np.arange(length) >= self.unscored_steps
        return _segment(
            phase,
            resets=np.broadcast_to(first, (count, length)),
            weights=np.broadcast_to(scored, (count, length)),
        )


def _segment(phase: np.ndarray, **rest: np.ndarray | None) -> Segment:
    values: dict[str, Any] = {
        name: x if x is None else np.float32(x) for name, x in rest.items()
    }
    return Segment(np.float32(np.sin(phase)), np.float32(np.cos(phase)), **values)
