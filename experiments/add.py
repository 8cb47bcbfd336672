"""The Add task: a sum of bits seen some steps ago, learnt from an endless stream."""

import itertools
from collections.abc import Sequence
from typing import Annotated, Self

import jax
import numpy as np
import optax
from matplotlib.figure import Figure
from pydantic import AfterValidator, Field, model_validator

from experiments.predictions import predict
from experiments.streams import draw_bits, score_from
from jaxlstm.lab import ModelParts, Reference, Run, Segment, Source, Task

EVALUATED_STEPS = 4000
DRAWN_STEPS = 60
OFFSET = 0.5
# Of 1/2 and a sum of weights, which may pass 0 or 1 by rounding alone.
ROUNDING = 1e-9


def _check_lags(lags: list[int]) -> list[int]:
    if len(set(lags)) < len(lags):
        raise ValueError("names a lag twice; add up its weights")
    return lags


class Add(Task):
    """Predicts the probability of a coin whose bias is a sum of bits seen before.

        x_t ~ Bernoulli(1/2),     y_t = 1/2 + sum_k w_k x_{t - lag_k}

    The input is the pair (x, 1 - x), and the loss the cross-entropy of two classes with
    the probabilities (y, 1 - y). Each row is a stream of its own, the same however it
    is cut into segments; the bits before its first step are drawn as well, and unseen.

    Whoever knows the bits at some of the lags can predict the mean of y over the
    others: with the defaults .6616 nats knowing neither, .5192 the first and .4545
    both. So the loss says how far back a net has learnt to look.

    Attributes:
      lags: how many steps ago the bits were seen that count.
      weights: of each of them.

    References:
      Marschall, Cho and Savin, A Unified Framework of Online Learning Algorithms for
      Training Recurrent Neural Networks, JMLR 21(135), 2020.
    """

    lags: Annotated[
        list[Annotated[int, Field(ge=1, le=1000)]], AfterValidator(_check_lags)
    ] = Field(default=[5, 9], min_length=1, max_length=8)
    weights: list[float] = Field(default=[0.5, -0.25])

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.weights) != len(self.lags):
            raise ValueError(
                f"weights = {self.weights}: is not one for each of lags = {self.lags}"
            )
        low, high = (OFFSET + sum(f(w, 0) for w in self.weights) for f in (min, max))
        if not -ROUNDING <= low <= high <= 1 + ROUNDING:
            raise ValueError(
                f"weights = {self.weights}: y goes from {low:g} to {high:g}, and is to "
                "be a probability; use smaller ones"
            )
        return self

    def parts(self) -> ModelParts:
        """A bit and its complement in, two classes out."""
        return ModelParts(input_size=2, output_size=2)

    def split(
        self, name: str, *, batch_size: int, segment_length: int, seed: int
    ) -> Source:
        """Returns windows of streams; those of training have no end."""
        back = max(self.lags)

        def segments(start: int, count: int) -> Segment:
            first, steps = start * segment_length, count * segment_length
            bits = draw_bits(seed, name, first, back + steps, batch_size)
            y = self._mean(*(bits[back - lag : len(bits) - lag] for lag in self.lags))
            inputs, targets = (
                np.stack([p, 1 - p], axis=-1, dtype=np.float32).reshape(
                    count, segment_length, batch_size, 2
                )
                for p in (np.float32(bits[back:]), y)
            )
            weights = None
            if name != "train":
                # Before, what counts was not seen.
                weights = score_from(back, start, count, segment_length)
            return Segment(inputs, targets, weights=weights)

        end = -(-(back + EVALUATED_STEPS) // segment_length)
        return Source(segments, None if name == "train" else end)

    def loss(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Cross-entropy in nats, of logits with probabilities."""
        return optax.softmax_cross_entropy(prediction, target)

    def references(self) -> Sequence[Reference]:
        """The least loss of who knows the bits at none, the first, ... all lags."""
        found = []
        for known in range(len(self.lags) + 1):
            bits = np.array(list(itertools.product((0, 1), repeat=known))).T
            p = self._mean(*bits)
            # 0 log 0 is 0.
            p = np.stack(np.broadcast_arrays(p, 1 - p)).clip(1e-300)
            loss = -np.sum(p * np.log(p), axis=0).mean()
            lags = "+".join(str(lag) for lag in self.lags[:known])
            found.append(Reference(f"lags known: {lags or 'none'}", float(loss)))
        return found

    def figures(self, run: Run) -> dict[str, Figure]:
        """Draws the probability predicted against the true one, on the test stream."""
        back = max(self.lags)
        # The net starts from nothing: it is drawn once it has found its feet.
        steps = np.arange(2 * back, 2 * back + DRAWN_STEPS)
        segment, logits = predict(run, "test", len(steps) + 2 * back)
        predicted = np.exp(-np.logaddexp(0, logits[steps, 0, 1] - logits[steps, 0, 0]))
        bits, target = segment.inputs[:, 0, 0], segment.targets[steps, 0, 0]
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        above, below = figure.subplots(2, sharex=True, height_ratios=[4, 1])
        above.step(
            steps,
            target,
            where="mid",
            color="black",
            linewidth=3,
            alpha=0.3,
            label="probability of the coin",
        )
        above.plot(
            steps,
            predicted,
            "o-",
            color="tab:red",
            markersize=3,
            linewidth=1,
            label="prediction",
        )
        if len(self.lags) > 1:
            known = self._mean(*(bits[steps - lag] for lag in self.lags[:-1]))
            lags = " and ".join(str(lag) for lag in self.lags[:-1])
            above.plot(
                steps,
                known,
                "_",
                color="tab:blue",
                markersize=9,
                label=f"best guess from lag {lags} alone",
            )
        above.legend(loc="lower left", ncols=3, frameon=False)
        above.set(title="Test: a stream that training never saw", ylim=(-0.25, 1.05))
        below.bar(steps, bits[steps], width=0.8, color="0.6")
        below.set(xlabel="step", ylabel="input x", yticks=[0, 1])
        return {"prediction": figure}

    def _mean(self, *bits: np.ndarray) -> np.ndarray:
        """Returns the mean of y given the bits at the first lags."""
        unknown = sum(self.weights[len(bits) :]) / 2
        known = zip(self.weights, bits, strict=False)
        return np.asarray(OFFSET + unknown + sum(w * x for w, x in known))
