"""Every estimator passes the check; each wrong one fails in its own row."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import check_estimator, make_model
from jaxlstm.cells import make_leaky_rnn, make_lstm
from jaxlstm.checks import squared_error
from jaxlstm.estimators import ESTIMATORS, bptt, h_detach, rtrl
from jaxlstm.shapes import OptionError
from tests.estimators.test_interface import OPTIONS
from tests.toy_cells import TOY_CELLS

SHAPE = "gradients like parameters; state kept, one for each"
LOSS = "loss: that of the steps"
MASKS = "masked steps: what stands there, NaN or not"
EMPTY = "masked steps: a segment of them is zero"
END = "masked steps: at the end of a segment"
WEIGHTS = "weights scale loss and gradient"
RESETS = "resets: the sequence after one, by itself"
EXAMPLES = "examples, one by one, add up"
LOSSES = "segments: their losses add up"
GRADIENTS = "segments: their gradients add up"
EXACT = "gradient: backward through the steps"
MEAN = "gradient: the mean of draws"
ALONG = "gradient: the mean of draws, along it"
BESIDE = "gradient: beside the exact one"

SIZES = {"input_size": 3, "hidden_size": 3, "output_size": 2}
MODEL = make_model(make_lstm(), **SIZES, learned_initial_state=True)
QUICK = "rtrl", "uoro"


def failing(report: Any) -> set[str]:
    return {row.identity for row in report.rows if row.passed is False}


def check(name: str, model: Any, **options: Any) -> Any:
    estimator = ESTIMATORS[name](model, squared_error, **OPTIONS.get(name, {}))
    return check_estimator(estimator, model, exact_loss=name != "pes", **options)


def assert_holds(report: Any) -> None:
    """Judged identities hold to 12 digits, but for those that are means of draws."""
    assert report.passed, str(report)
    rows = [row for row in report.rows if row.passed and row.error is not None]
    errors = [row.error for row in rows if row.identity not in (MEAN, ALONG)]
    assert len(errors) > 8
    assert max(errors) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in ESTIMATORS
    ],
)
def test_every_estimator_passes(name):
    cell = make_leaky_rnn() if name == "rflo" else make_lstm()
    model = make_model(cell, **SIZES, learned_initial_state=True)
    assert_holds(check(name, model))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bptt", "rtrl", "snap", "kf_rtrl", "tbptt"])
def test_estimators_pass_on_a_cell_of_ones_own(name):
    assert_holds(check(name, make_model(TOY_CELLS["peephole"], **SIZES)))


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["one_hot", "embedding"])
def test_symbols_are_drawn(inputs):
    model = make_model(make_lstm(), **SIZES, inputs=inputs, num_layers=2, dropout=0.3)
    assert_holds(check("rtrl", model))
    assert_holds(check("bptt", model))


@pytest.mark.slow
def test_sequences_are_checked_as_wholes():
    model = make_model(
        make_lstm(), **SIZES, num_layers=2, bidirectional=True, dropout=0.3
    )
    report = check("whole_sequence", model)
    assert_holds(report)
    unjudged = {row.identity for row in report.rows if row.passed is None}
    assert unjudged == {RESETS, LOSSES, GRADIENTS}


@pytest.mark.slow
def test_float32_has_bounds_of_its_own():
    report = check("rtrl", MODEL, dtype="float32")
    assert report.passed, str(report)
    assert report[EXACT].bound == 1e-4
    assert report[EXACT].error > 1e-12


@pytest.mark.slow
def test_model_of_ones_own_is_given_inputs_and_targets():
    model = MODEL._replace(layers=None, example_input=None)

    def cross_entropy(prediction, target):
        scores = jax.nn.log_softmax(prediction)
        return -jnp.take_along_axis(scores, target[..., None], axis=-1)[..., 0]

    estimator = bptt(model, cross_entropy)
    random = np.random.default_rng(0)
    inputs, targets = random.normal(size=(8, 3, 3)), random.integers(2, size=(8, 3))
    with pytest.raises(OptionError, match="inputs: are not given"):
        check_estimator(estimator, model, cross_entropy)
    for wrong in (inputs[:5], inputs[:, :1]):
        with pytest.raises(OptionError, match="T >= 6 and B >= 2"):
            check_estimator(estimator, model, cross_entropy, inputs=wrong)
    report = check_estimator(
        estimator, model, cross_entropy, inputs=inputs, targets=targets
    )
    assert report.passed, str(report)


def change(estimate: Any, base: Any = None, **traits: Any) -> Any:
    """Returns a wrong estimator: `(right, params, state, segment) -> estimate`."""
    right = bptt(MODEL, squared_error) if base is None else base

    def wrong(params, state, segment):
        return estimate(right.estimate, params, state, segment)

    return right._replace(
        estimate=wrong, traits=dataclasses.replace(right.traits, **traits)
    )


def scale_gradient(factor: Any) -> Any:
    def estimate(right, params, state, segment):
        sums, after = right(params, state, segment)
        by = factor(sums, segment)
        grads = jax.tree.map(lambda g: by * g, sums.grads)
        return sums._replace(grads=grads), after

    return estimate


def forget(right, params, state, segment):
    return right(params, state, segment)[0], state


def ignore_mask(right, params, state, segment):
    return right(
        params, state, jax.tree.map(jnp.nan_to_num, segment)._replace(mask=None)
    )


def ignore_resets(right, params, state, segment):
    return right(params, state, segment._replace(resets=None))


def ignore_weights(right, params, state, segment):
    whole, after = right(params, state, segment)
    ones = segment.weights if segment.weights is None else segment.weights != 0
    unweighed, _ = right(params, state, segment._replace(weights=ones))
    return whole._replace(grads=unweighed.grads), after


def round_gradient(right, params, state, segment):
    sums, after = right(params, state, segment)
    rounded = jax.tree.map(lambda g: g.astype(jnp.float16), sums.grads)
    return sums._replace(grads=rounded), after


WRONG = {
    "forgets the state": (forget, {LOSSES}),
    "scaled": (scale_gradient(lambda sums, segment: 1.01), {EXACT}),
    "averaged over time": (
        scale_gradient(lambda sums, segment: 1 / len(segment.inputs)),
        {END, EXACT},
    ),
    "averaged by weight": (
        scale_gradient(lambda sums, segment: 1 / sums.weight),
        {EMPTY, WEIGHTS, EXAMPLES, EXACT},
    ),
    "masked steps count": (ignore_mask, {LOSS, MASKS, EMPTY, END, EXACT}),
    "no resets": (ignore_resets, {LOSS, RESETS, EXACT}),
    "no weights": (ignore_weights, {WEIGHTS, EXACT}),
    "rounded": (round_gradient, {SHAPE}),
}


@pytest.mark.parametrize(
    "name",
    [n if n == "no resets" else pytest.param(n, marks=pytest.mark.slow) for n in WRONG],
)
def test_wrong_estimator_fails_where_it_is_wrong(name):
    estimate, rows = WRONG[name]
    found = failing(check_estimator(change(estimate), MODEL))
    assert rows <= found
    assert len(rows) > 1 or rows == found


@pytest.mark.slow
def test_mean_over_the_batch_fails_where_examples_add_up():
    def estimate(right, params, state, segment):
        sums, after = right(params, state, segment)
        count = max(1, state.keys.own.size)
        return sums._replace(grads=jax.tree.map(lambda g: g / count, sums.grads)), after

    report = check_estimator(change(estimate, kind="biased"), MODEL)
    assert failing(report) == {EXAMPLES}
    assert "norm ratio 0.5000" in report[BESIDE].note


@pytest.mark.slow
def test_segments_that_do_not_add_up_fail_there():
    wrong = bptt(MODEL, squared_error)
    traits = dataclasses.replace(wrong.traits, segment_invariant=True)
    report = check_estimator(wrong._replace(traits=traits), MODEL)
    assert failing(report) == {GRADIENTS}


@pytest.mark.slow
def test_influence_shared_by_the_batch_fails_there():
    """The mean of the influences of all examples in place of each one's own."""
    right = rtrl(MODEL, squared_error)

    def share(params, state, segment):
        def mean(leaf):
            axis = tuple(range(state.keys.ndim))
            return jnp.broadcast_to(leaf.mean(axis, keepdims=True), leaf.shape)

        state = state._replace(influence=jax.tree.map(mean, state.influence))
        return right.estimate(params, state, segment)

    wrong = right._replace(estimate=share)
    assert failing(check_estimator(wrong, MODEL)) == {GRADIENTS}


@pytest.mark.slow
def test_bias_is_seen_in_the_mean():
    wrong = h_detach(MODEL, squared_error, p=0.5)
    traits = dataclasses.replace(wrong.traits, kind="unbiased")
    report = check_estimator(wrong._replace(traits=traits), MODEL)
    assert failing(report) >= {MEAN}
    assert report[MEAN].error > report[MEAN].bound


@pytest.mark.slow
def test_loss_of_another_function_fails():
    def doubled(prediction, target):
        return 2 * squared_error(prediction, target)

    report = check_estimator(bptt(MODEL, doubled), MODEL)
    assert failing(report) == {LOSS, EXACT}
    assert "exact_loss=False" in report[LOSS].note
