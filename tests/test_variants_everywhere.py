"""Every variant through everything that takes a cell.

Each is checked as a cell of one's own would be, and its gradient carried forward in
time is that of the pass backward. Four, whose structures have nothing in common, are
put through every estimator; what is drawn is enumerated.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import check_cell
from jaxlstm.cells import CELLS, Cell
from jaxlstm.checks.cells import DIFFERENCES
from jaxlstm.dropout import Dropout
from jaxlstm.estimators import (
    GradientEstimator,
    artbp,
    bptt,
    clipped_bptt,
    eprop,
    forward_gradient,
    h_detach,
    kf_rtrl,
    rtrl,
    snap,
    tbptt,
    uoro,
)
from tests.estimators.patterns import bit, expectation, initial
from tests.estimators.problems import make_segment, problem, squared_error
from tests.estimators.test_forward_gradient import hadamard_row, power_of_two
from tests.estimators.test_uoro import kf_draws, mean_over, uoro_draws
from tests.helpers import assert_close, jit

pytestmark = pytest.mark.slow

# Of four hidden units, two to a head.
HEADS = {"multi_head_lstm": {"heads": 2}, "slstm": {"heads": 2}}
SAME = ("lstm", "gru", "rnn", "leaky_rnn", "lstm_variant", "np_lstm")
VARIANTS: dict[str, Callable[[], Cell]] = {
    name: functools.partial(factory, **HEADS.get(name, {}))
    for name, factory in CELLS.items()
    if name not in SAME
}
# A state that recurrent weights read more of than h; products that are normalised
# apart; blocks on the diagonal, and a state beside h and c; two products in a row.
UNLIKE = "fgr_lstm", "layer_norm_lstm", "slstm", "multiplicative_lstm"
FINITE = "derivative of a step: finite differences"


@functools.cache
def problem_of(name: str) -> tuple[Any, Any]:
    return problem(VARIANTS[name]())


@functools.cache
def exact(name: str) -> Any:
    model, params = problem_of(name)
    return estimate(bptt(model, squared_error), params)


def estimate(estimator: GradientEstimator, params: Any) -> Any:
    state = initial(estimator, params)
    return jit(estimator.estimate)(params, state, make_segment())[0]


@pytest.mark.parametrize("name", VARIANTS)
def test_cell(name):
    report = check_cell(VARIANTS[name]())
    assert report.passed, str(report)
    errors = {row.identity: row.error for row in report.rows if row.error is not None}
    assert errors.pop(FINITE) <= DIFFERENCES["float64"][1]
    assert "derivative by the rule: JAX's own" in errors
    assert max(errors.values()) < 1e-12


@pytest.mark.parametrize("name", VARIANTS)
def test_influence_carried_forward_is_the_backward_pass(name, x64):
    model, params = problem_of(name)
    assert_close(estimate(rtrl(model, squared_error), params), exact(name))


@pytest.mark.parametrize("name", UNLIKE)
def test_estimators_that_leave_nothing_out(name, x64):
    model, params = problem_of(name)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    members = [
        tbptt(model, squared_error, horizon=8, stride=8),
        clipped_bptt(model, squared_error, z=1e9),
        snap(model, squared_error, n=4),
        forward_gradient(
            model,
            squared_error,
            num_directions=power_of_two(size),
            sample=hadamard_row,
        ),
    ]
    for member in members:
        assert_close(estimate(member, params), exact(name))


@pytest.mark.parametrize("name", UNLIKE)
def test_means_over_all_cuts(name, x64):
    model, params = problem_of(name)
    for factory in (artbp, functools.partial(h_detach, reweighted=True)):
        estimator = factory(model, squared_error, p=0.3, sample=bit)
        assert_close(expectation(estimator, params, 0.3), exact(name))


@pytest.mark.parametrize("name", UNLIKE)
def test_eprop_is_the_backward_pass_without_h(name, x64):
    model, params = problem_of(name)
    backward = estimate(h_detach(model, squared_error, p=1.0), params)
    assert_close(estimate(eprop(model, squared_error), params), backward)


@pytest.mark.parametrize(("name", "size"), [("slstm", 3), ("multiplicative_lstm", 2)])
def test_mean_of_uoro_over_all_signs(name, size, x64):
    cell = CELLS[name](**({"heads": 1} if name == "slstm" else {}))
    assert_close(*mean_over(uoro, cell, uoro_draws, 2 ** (5 * size)))


@pytest.mark.parametrize("name", UNLIKE)
def test_mean_of_kf_rtrl_over_all_signs(name, x64):
    cell = VARIANTS[name]()
    assert_close(*mean_over(kf_rtrl, cell, kf_draws, 4**3, hidden_size=4))


@pytest.mark.parametrize("name", [*UNLIKE, "min_lstm"])
def test_model_of_both_directions_under_noise(name, x64):
    cell, noise = VARIANTS[name](), dict.fromkeys(("recurrent", "zoneout_h"), 0.3)
    if name != "min_lstm":
        noise["weights"] = 0.2
    noise = Dropout(between=0.3, output=0.2, variational=True, **noise)
    options = {"dropout": noise, "bidirectional": True, "num_layers": 2}
    segment = make_segment()

    def gradient(derivative, remat):
        model, params = problem(cell, **options, derivative=derivative)
        key = jax.random.key(3)

        def loss(params, inputs):
            _, states = model.unroll(
                params.recurrent,
                model.initial_state(params, (2,)),
                inputs,
                mask=segment.mask,
                resets=segment.resets,
                key=key,
                remat=remat,
            )
            predictions = model.readout(params, states, key=jax.random.split(key, 2))
            return jnp.sum(predictions**2)

        return jax.value_and_grad(loss)(params, segment.inputs)

    @jit
    def both():
        return gradient("rule", "sqrt_step"), gradient("autodiff", "none")

    rule, autodiff = both()
    assert_close(rule, autodiff)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(rule))
