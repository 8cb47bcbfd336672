"""What weights of unknown origin are, from one batch of inputs and outputs.

Which array is which shows, mostly, in the shapes; the order of the gates, which way a
square matrix stands, and what is added to the forget gate do not. All of these forms
are tried, and the one that gives the outputs is taken.

From zeros the first step has neither recurrent weights nor a forget gate,

    h = sigmoid(o) tanh(sigmoid(i) tanh(g)),    i, g, o of x W_x + b alone,

so it sorts out nearly all orders at once; what is left is run over the whole batch. A
form is given up as soon as its error is more than that of the whole may be, so that
none is lost which would fit.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlstm.cells.lstm import LSTMParams
from jaxlstm.interop.origin.candidates import (
    USUAL_BIASES,
    Candidate,
    are_few,
    check_bias,
    is_alike,
    nearest_biases,
    refine,
)
from jaxlstm.interop.origin.forms import (
    Form,
    find_twins,
    first_step,
    stored_order,
    with_recurrent_orders,
)
from jaxlstm.interop.origin.readings import Reading, find_readings
from jaxlstm.interop.origin.samples import Sample, read_samples, squared_error
from jaxlstm.interop.tensors import as_array, as_leaf, convert
from jaxlstm.interop.weights import WeightsError, show
from jaxlstm.shapes import OptionError

# How many forms are run on after the first step, and how many of those that do not fit,
# to say how far off they are.
MOST_FORMS, RUNNERS = 20_000, 4


class Identified(NamedTuple):
    """What weights of unknown origin turned out to be.

    Attributes:
      params: the same function; what the layer adds to the forget gate when it is
        called is in the bias.
      order: of the gates as they stand in the arrays, such as "igfo"; of the input
        weights, where each gate has an array of its own.
      transposed: of w_x and w_h: whether they are [4H, X] and [4H, H] in the arrays.
      layout: "apart", or "[x; h]" or "[h; x]" where one matrix holds both.
      bias: "none", "one", "two" to be summed, "two in one array" ([2, 4H] or [8H]),
        "one a gate" or "two a gate".
      forget_bias: added to the forget gate when the layer is called.
      batch_first: whether that is how inputs and outputs were given.
      names: of the arrays that w_x, w_h and b come from.
      error: root mean square error of the outputs, relative to their own.
      runner_up: the next best form that is another function.
      runner_up_error: its error.
      equivalent: other forms that are the same function.
      form: which one it is, in a line.
    """

    params: LSTMParams
    order: str
    transposed: tuple[bool, bool]
    layout: str
    bias: str
    forget_bias: float
    batch_first: bool
    names: dict[str, tuple[str, ...]]
    error: float
    runner_up: str
    runner_up_error: float
    equivalent: tuple[str, ...]
    form: str

    def describe(self) -> str:
        """Says in a paragraph what the weights are, and how sure that is."""
        sources = ", ".join(
            f"{part} from {' and '.join(map(show, names))}"
            for part, names in self.names.items()
            if names
        )
        text = (
            f"An LSTM: {self.form}. It has {sources}. Its outputs are those given to "
            f"{self.error:.1e} of their size; the next best form ({self.runner_up}) "
            f"errs by {self.runner_up_error:.1e}."
        )
        if self.equivalent:
            count = len(self.equivalent)
            text += (
                f" {count} other form{' is' if count == 1 else 's are'} the same "
                f"function: {' / '.join(self.equivalent[:3])}"
                f"{' / ...' if count > 3 else ''}."
            )
        return text


def identify(
    arrays: Mapping[str, Any] | Sequence[Any],
    inputs: Any,
    outputs: Any,
    *,
    state: Any = None,
    last: bool = False,
    forget_bias: float | None = None,
    batch_first: bool | None = None,
    tolerance: float = 1e-3,
    dtype: Any = None,
) -> Identified:
    """Finds which LSTM some weights are, from one batch that it has read.

    All orders of the gates are tried, matrices [4H, X] and [X, 4H], one for both
    weights, or those of each gate; with no biases, one or two; and what is added to
    the forget gate when the layer is called. Weights of gates apart may stand in any
    order, which has to be the same for all where `state` or `last` is given.

    Args:
      arrays: of one layer and direction, by whatever names, or in a row.
      inputs: [T, B, X] or [B, T, X], or [T, X]; of two steps or more.
      outputs: h after every step, [T, B, H] or [B, T, H], or [T, H].
      state: (h, c) before the first step, [B, H] each; zeros by default.
      last: whether the outputs are the last h alone, [B, H].
      forget_bias: what is added to the forget gate, where that is known; None to find
        it: 0 or 1, or, by 16 outputs or more, any number.
      batch_first: whether the batch is before time; None to find out.
      tolerance: the largest root mean square error, relative to that of the outputs.
      dtype: of the parameters; by default that of the arrays.

    Raises:
      OptionError: inputs, outputs and state do not fit together.
      WeightsError: the arrays are of no LSTM of these sizes; no form gives the
        outputs; two forms do that are not the same; or a forget bias gives them best
        that is not to be found by so few.
    """
    if not isinstance(arrays, Mapping):
        arrays = {f"arrays[{n}]": array for n, array in enumerate(arrays)}
    named = {str(name): array for name, array in arrays.items()}
    if not named:
        raise WeightsError("arrays: there are none")
    leaves = convert(named, "", dtype)
    wide = {name: np.asarray(as_array(named[name]), np.float64) for name in leaves}
    faults = [n for n, array in wide.items() if not np.isfinite(array).all()]
    if faults:
        raise WeightsError(*(f"{show(n)}: holds what is not finite" for n in faults))
    leaf_dtype = next(iter(leaves.values())).dtype
    epsilon = float(jnp.finfo(leaf_dtype).eps)
    samples = read_samples(inputs, outputs, state, last, batch_first, epsilon)
    if not 0 < tolerance < 1:
        raise OptionError(
            f"tolerance: {tolerance} is not between 0 and 1, by which zeros would err"
        )
    sizes = samples[0].inputs.shape[-1], samples[0].outputs.shape[-1]
    readings = find_readings(wide, *sizes)
    biases = USUAL_BIASES if forget_bias is None else (float(forget_bias),)
    found = _search(readings, samples, biases, tolerance, forget_bias is None)
    if forget_bias is None and found[0].error <= tolerance:
        check_bias(found[0])
    return _judge(found, tolerance, leaf_dtype)


def _search(
    readings: list[Reading],
    samples: list[Sample],
    biases: tuple[float, ...],
    tolerance: float,
    free: bool,
) -> list[Candidate]:
    """Returns forms that were run to the end, the best first."""
    kept: list[tuple[float, int, Form]] = []
    runners: list[tuple[float, int, Form]] = []
    for rank, (reading, sample) in enumerate(itertools.product(readings, samples)):
        limit = tolerance**2 * sample.size
        for squared, orders in first_step(reading, sample, limit, RUNNERS):
            entry = squared, rank, Form(reading, sample, orders)
            (kept if squared <= limit else runners).append(entry)
            _check_count(kept)
    forms: list[tuple[int, Form]] = []
    for _, rank, form in kept:
        for other in with_recurrent_orders(form):
            forms += [(rank, other._replace(forget_bias=bias)) for bias in biases]
        _check_count(forms)
    done, given_up = [], []
    for rank, form in forms:
        limit, weights = tolerance**2 * form.sample.size, form.weights()
        squared, steps = squared_error(form.sample.first_examples(), weights, limit)
        if squared <= limit:
            squared, steps = squared_error(form.sample, weights, limit)
        if squared <= limit:
            done.append(Candidate(squared, rank, form))
        else:
            given_up.append((-steps, squared, rank, form))
    given_up.sort(key=lambda entry: entry[:3])
    runners.sort(key=lambda entry: entry[:2])
    rest = [entry[2:] for entry in given_up] + [entry[1:] for entry in runners]
    for rank, form in rest[:RUNNERS]:
        squared, _ = squared_error(form.sample, form.weights())
        done.append(Candidate(squared, rank, form))
    if free:
        begin = [min(done, key=_by_error)]
        if begin[0].error > tolerance:
            others = [e[2:] for e in given_up if e[3].forget_bias == biases[0]]
            begin = [] if are_few(samples[0]) else nearest_biases(others)
        done += map(refine, begin)
    return sorted(done, key=_by_error)


def _check_count(forms: list[Any]) -> None:
    """Raises WeightsError where too many forms are left."""
    if len(forms) > MOST_FORMS:
        raise WeightsError(
            f"arrays: more than {MOST_FORMS} forms are left after the first step; give "
            "more examples, and the outputs of all steps from a state of zeros"
        )


def _by_error(candidate: Candidate) -> tuple[float, int]:
    return candidate.squared, candidate.rank


def _judge(found: list[Candidate], tolerance: float, dtype: Any) -> Identified:
    """Returns the best of all candidates, or raises WeightsError."""
    best = found[0]
    if not best.error <= tolerance:
        raise WeightsError(
            f"outputs: no form of an LSTM gives them to {tolerance:g} of their size; "
            f"the nearest errs by {best.error:.1e} ({best.form.describe()}); give "
            "tolerance= if the outputs are not that exact"
        )
    fitting = (c for c in found if c.error <= tolerance)
    same = [c for c in fitting if c.form.same_weights(best.form)]
    others = [c for c in found if not any(c is each for each in same)]
    for other in others:
        if is_alike(best, other):
            raise WeightsError(
                "outputs: two forms of an LSTM give them: "
                f"{best.form.describe()} (error {best.error:.1e}), and "
                f"{other.form.describe()} (error {other.error:.1e}); give more steps "
                "or examples, or larger ones"
            )
    squared, _, form = min(same, key=lambda c: c.rank)
    w_x, w_h, b, layout, bias = form.reading
    runner_up, runner_up_error = "none", float("inf")
    if others:
        runner_up, runner_up_error = others[0].form.describe(), others[0].error
    leaf_x, leaf_h, leaf_b = (as_leaf(w.astype(dtype)) for w in form.weights())
    no_bias = bias == "none" and not form.forget_bias
    told = {form.describe(): None for _, _, form in same}
    told.pop(form.describe())
    for part, weight in (("w_x", w_x), ("w_h", w_h), ("b", b)):
        if not weight.joined and (np.diff(find_twins(weight)) < 1).any():
            told[f"another order of the arrays of {part}, of which some are equal"] = (
                None
            )
    return Identified(
        params=LSTMParams(leaf_x, leaf_h, None if no_bias else leaf_b),
        order=stored_order(form.orders[0]),
        transposed=(w_x.transposed, w_h.transposed),
        layout=layout,
        bias=bias,
        forget_bias=form.forget_bias,
        batch_first=form.sample.batch_first,
        names={
            part: weight.names
            if weight.joined
            else tuple(weight.names[place] for place in order)
            for part, weight, order in zip(
                ("w_x", "w_h", "b"), (w_x, w_h, b), form.orders, strict=True
            )
        },
        error=form.sample.relative(squared),
        runner_up=runner_up,
        runner_up_error=runner_up_error,
        equivalent=tuple(told),
        form=form.describe(),
    )
