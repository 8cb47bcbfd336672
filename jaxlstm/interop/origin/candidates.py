"""Forms of an LSTM that were run to the end, and which of them fit better by chance."""

from typing import NamedTuple

import numpy as np

from jaxlstm.interop.origin.forms import Form
from jaxlstm.interop.origin.samples import Sample, run, squared_error
from jaxlstm.interop.weights import WeightsError

# What frameworks add to the forget gate; and how many outputs it takes to find another,
# which may make up for what differs in a few of them.
USUAL_BIASES, LEAST_NUMBERS = (0.0, 1.0), 16
# Two forms are told apart if the error of one is so many times that of the other; if
# they differ by the forget bias alone, if the squared error falls by so many times its
# mean, as by chance it does one time in a million.
FACTOR, FALL = 4.0, 25.0
# Of the search for a forget bias: where it begins, with how many forms; its steps, half
# the width of a difference, the farthest.
STARTS, MOST_REFINED = (-4.0, -2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 5.0), 8
STEPS, WIDTH, FARTHEST, TINY = 8, 1e-4, 9.0, 1e-300


class Candidate(NamedTuple):
    """A form that was run to the end.

    Attributes:
      squared: the sum of its squared errors.
      rank: its place among the simplest.
      form: what it is.
    """

    squared: float
    rank: int
    form: Form

    @property
    def error(self) -> float:
        """The error relative to the outputs."""
        return self.form.sample.relative(self.squared)


def nearest_biases(forms: list[tuple[int, Form]]) -> list[Candidate]:
    """Returns forms with the nearest of some forget biases, those that fit best first.

    Args:
      forms: and their ranks, with whatever forget bias.
    """
    tried = []
    for rank, form in forms:
        few = form.sample.first_examples()
        others = [form._replace(forget_bias=bias) for bias in STARTS]
        errors = [squared_error(few, other.weights())[0] for other in others]
        best = int(np.argmin(errors))
        tried.append(Candidate(errors[best], rank, others[best]))
    nearest = sorted(tried, key=lambda each: each[:2])[:MOST_REFINED]
    return [
        each._replace(squared=squared_error(each.form.sample, each.form.weights())[0])
        for each in nearest
    ]


def refine(candidate: Candidate) -> Candidate:
    """Returns a form with the forget bias near its own that fits best, rounded."""
    form = candidate.form
    sample = form.sample
    if candidate.error <= sample.floor:
        return candidate

    def residual(bias: float) -> np.ndarray:
        weights = form._replace(forget_bias=bias).weights()
        return np.stack([h - output for h, output in run(sample, weights)]).ravel()

    bias = best = form.forget_bias
    least = candidate.squared
    for _ in range(STEPS):
        here = residual(bias)
        if here @ here < least:
            best, least = bias, float(here @ here)
        slope = (residual(bias + WIDTH) - residual(bias - WIDTH)) / (2 * WIDTH)
        step = slope @ here / max(slope @ slope, TINY)
        bias = float(np.clip(bias - step, -FARTHEST, FARTHEST))
    for digits in range(7):
        bias = round(best, digits) + 0.0  # Not -0.
        squared = float((residual(bias) ** 2).sum())
        if _is_chance(squared, least, sample):
            best, least = bias, squared
            break
    return Candidate(least, candidate.rank, form._replace(forget_bias=best))


def _is_chance(squared: float, least: float, sample: Sample) -> bool:
    """Returns whether noise makes one squared error so much larger than the least."""
    fall = FALL * least / sample.outputs.size
    return squared - least <= fall or sample.relative(squared) <= sample.floor


def is_alike(best: Candidate, other: Candidate) -> bool:
    """Returns whether two candidates fit so equally that neither can be chosen."""
    sample = best.form.sample
    one, two = (c.form for c in (best, other))
    if one.reading is two.reading and one.orders == two.orders and sample is two.sample:
        return _is_chance(other.squared, best.squared, sample)
    return other.error <= max(FACTOR * best.error, sample.floor)


def are_few(sample: Sample) -> bool:
    """Returns whether outputs are too few to find a forget bias by."""
    return sample.outputs.size < LEAST_NUMBERS


def check_bias(best: Candidate) -> None:
    """Raises WeightsError where a forget bias fits best that may well be another."""
    bias, sample = best.form.forget_bias, best.form.sample
    if bias in USUAL_BIASES:
        return
    if are_few(sample):
        why = f"{sample.outputs.size} numbers are too few to find it by"
    elif abs(bias) >= FARTHEST:
        why = "that is as far as was sought"
    else:
        return
    raise WeightsError(
        f"outputs: are best given with {bias:g} added to the forget gate, and {why}; "
        "give more steps or examples, or forget_bias="
    )
