"""Estimators of models with noise inside their cells: what identities hold without."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import Dropout
from jaxlstm.cells import make_gru, make_lstm
from jaxlstm.diagnostics import lag_gradients, path_gradients
from jaxlstm.estimators import (
    ESTIMATORS,
    artbp,
    bptt,
    clipped_bptt,
    eprop,
    h_detach,
    kf_rtrl,
    rtrl,
    snap,
    tbptt,
    uoro,
)
from jaxlstm.shapes import OptionError
from tests.estimators.patterns import initial, make_keys
from tests.estimators.problems import H, T, make_segment, problem, squared_error
from tests.estimators.test_uoro import kf_draws, make_steps, uoro_draws
from tests.helpers import assert_close, jit

pytestmark = pytest.mark.usefixtures("x64")

INSIDE = Dropout(recurrent=0.4, zoneout_h=0.3, zoneout_c=0.2)
AROUND = INSIDE._replace(between=0.5, input=0.2, output=0.3, variational=True)
CASES = {
    "lstm": (make_lstm, {"dropout": INSIDE}),
    "two_layers": (make_lstm, {"dropout": AROUND, "num_layers": 2}),
    "gru": (make_gru, {"dropout": Dropout(recurrent=0.4, zoneout_h=0.3)}),
    "weights": (
        make_lstm,
        {
            "dropout": AROUND._replace(weights=0.4),
            "connections": "residual",
            "num_layers": 2,
        },
    ),
}
# By name: the member, and the one that it has to equal.
PAIRS = {
    "rtrl": (rtrl, bptt),
    "snap": (functools.partial(snap, n=2 * H), bptt),
    "tbptt": (functools.partial(tbptt, horizon=T), bptt),
    "artbp": (functools.partial(artbp, p=0.0), bptt),
    "clipped_bptt": (functools.partial(clipped_bptt, h=1e9), bptt),
    "h_detach": (functools.partial(h_detach, p=0.0), bptt),
    "eprop": (eprop, functools.partial(h_detach, p=1.0)),
}


@functools.cache
def problem_of(case):
    make, options = CASES[case]
    return problem(make(), **options)


@functools.cache
def expected_of(case, member):
    """Returns the estimate of `bptt`, or of another one, by its place in `PAIRS`."""
    model, params = problem_of(case)
    estimator = PAIRS[member][1](model, squared_error)
    state = initial(estimator, params)
    return jit(estimator.estimate)(params, state, make_segment())[0]


def reference(case, member):
    return expected_of(case, member if member == "eprop" else "rtrl")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "member"),
    [
        *(("lstm", member) for member in PAIRS),
        *(("weights", member) for member in PAIRS if member != "eprop"),
        ("two_layers", "rtrl"),
        ("gru", "rtrl"),
    ],
)
def test_identities(case, member):
    model, params = problem_of(case)
    estimator = PAIRS[member][0](model, squared_error)
    state = initial(estimator, params)
    estimate, _ = jit(estimator.estimate)(params, state, make_segment())
    assert_close(estimate, reference(case, member))


@pytest.mark.slow
def test_each_segment_has_dropped_weights_of_its_own():
    model, params = problem(make_lstm(), dropout=Dropout(weights=0.4))
    found, later = [], []
    for factory in (bptt, functools.partial(bptt, remat="sqrt"), rtrl):
        estimator = factory(model, squared_error)
        estimate, state = jit(estimator.estimate), initial(estimator, params)
        _, state = estimate(params, state, make_segment())
        for losses, first in ((found, state.num_steps), (later, state.num_steps + 1)):
            begun = state._replace(num_steps=first)
            losses.append(estimate(params, begun, make_segment(1))[0].loss)
    assert_close(found, 3 * [found[0]])
    assert_close(later, 3 * [later[0]])
    assert abs(later[0] - found[0]) > 1e-3 * abs(found[0])


@pytest.mark.slow
@pytest.mark.parametrize("case", ["two_layers", "weights"])
def test_lags_and_paths_sum_up_to_bptt(case):
    model, params = problem_of(case)
    keys = initial(bptt(model, squared_error), params).keys
    arguments = model, squared_error, params, make_segment()
    expected = reference(case, "rtrl").grads
    lags = jit(lambda: lag_gradients(*arguments, keys=keys).total)()
    assert_close(lags, expected)
    if model.layers is not None:
        paths = jit(lambda: path_gradients(*arguments, keys=keys).total)()
        assert_close(paths, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "draws_of", "count"),
    [(uoro, uoro_draws, 2**10), (kf_rtrl, kf_draws, 64)],
)
def test_mean_over_all_signs(factory, draws_of, count):
    sizes = {"input_size": 2, "output_size": 2, "hidden_size": 1}
    model, params = problem(make_lstm(), dropout=INSIDE, **sizes)
    segment, steps = make_steps(4), 4
    draws = draws_of(model, params, steps)

    def run(factory, **options):
        estimator = factory(model, squared_error, **options)
        return estimator.estimate(params, initial(estimator, params, 1), segment)[0]

    def one(signs):
        return run(factory, sample=lambda key, time, shape: draws(signs, time, shape))

    found = jit(jax.vmap(one))(make_keys(np.arange(count)).own)
    mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), found)
    assert_close(mean, jit(lambda: run(bptt))())


OPTIONS = {
    "tbptt": {"horizon": 3},
    "artbp": {"p": 0.1},
    "h_detach": {"p": 0.1},
    "clipped_bptt": {"h": 1.0},
    "pes": {"num_particles": 2, "sigma": 0.1},
}


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if "whole" not in name])
def test_directions_are_refused(name):
    model, _ = problem(make_lstm(), bidirectional=True, dropout=INSIDE)
    with pytest.raises(OptionError) as caught:
        ESTIMATORS[name](model, squared_error, **OPTIONS.get(name, {}))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("the model has no online form")


@pytest.mark.parametrize(
    "changed", [{"dropout": Dropout(weights=0.5)}, {"connections": "skip"}]
)
@pytest.mark.parametrize(
    ("name", "options"),
    [("eprop", {}), ("kf_rtrl", {}), ("rflo", {}), ("rtrl", {"layerwise": True})],
)
def test_layers_that_are_not_plain_are_refused(name, options, changed):
    model, _ = problem(make_lstm(), num_layers=2, **changed)
    with pytest.raises(OptionError) as caught:
        ESTIMATORS[name](model, squared_error, **options)
    line = str(caught.value)
    assert line.split(":")[0] in (name, "layerwise") and "\n" not in line
