"""The advice on truncations: figures of every horizon against measured ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.diagnostics import LagGradients, advise, lag_gradients
from jaxlstm.diagnostics.alignment import align
from jaxlstm.estimators import tbptt
from jaxlstm.shapes import OptionError
from tests.estimators.patterns import exact, initial, problem_of
from tests.estimators.problems import T, make_segment, squared_error
from tests.helpers import jit

pytestmark = pytest.mark.usefixtures("x64")

QUICK = [("lstm", 2)]
REST = [
    (name, k)
    for name in ("lstm", "gru", "two_layers")
    for k in range(1, T + 1)
    if (name, k) not in QUICK
]


@functools.cache
def resolved(name, num_lags=None):
    model, params = problem_of(name)
    run = functools.partial(lag_gradients, model, squared_error, num_lags=num_lags)
    return jit(run)(params, make_segment())


def made_of(rows, beyond=(0.0, 0.0)):
    """Returns the gradient [2] with the given parts by lag."""
    zero = np.zeros(())
    return LagGradients(zero, zero, np.array(rows), np.array(beyond))


@pytest.mark.parametrize(
    ("name", "horizon"),
    [*QUICK, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in REST)],
)
def test_figures_are_those_of_a_measured_truncation(name, horizon):
    model, params = problem_of(name)
    member = tbptt(model, squared_error, horizon=horizon, stride=1)
    state, advice = initial(member, params), advise(resolved(name))
    measured = jit(member.estimate)(params, state, make_segment())[0].grads
    whole = exact(name).grads
    figures = align(measured, whole)[""]
    error = align(jax.tree.map(jnp.subtract, measured, whole), whole)[""]["norm_ratio"]
    at = horizon - 1
    assert abs(advice.cosine[at] - figures["cosine"]) < 1e-12
    assert abs(advice.norm_ratio[at] - figures["norm_ratio"]) < 1e-12
    assert abs(advice.relative_bias[at] - error) < 1e-12


def test_fewer_lags_are_compared_with_the_same_gradient():
    whole, some = advise(resolved("lstm")), advise(resolved("lstm", 3))
    assert some.num_horizons == 3
    for name in ("cosine", "norm_ratio", "relative_bias", "lag_norms", "lag_shares"):
        np.testing.assert_allclose(
            getattr(some, name), getattr(whole, name)[:3], rtol=1e-12
        )
    assert abs(some.share_beyond - whole.lag_shares[3:].sum()) < 1e-12
    assert abs(whole.lag_shares.sum() - 1) < 1e-12 and whole.share_beyond == 0


def test_figures_of_known_lags():
    """Lags (3, 0), (0, 8), (0, -4): the gradient is (3, 4)."""
    advice = advise(made_of([[3, 0], [0, 8], [0, -4]]))
    np.testing.assert_allclose(advice.cosine, [0.6, 41 / 5 / 73**0.5, 1])
    np.testing.assert_allclose(advice.norm_ratio, [0.6, 73**0.5 / 5, 1])
    np.testing.assert_allclose(advice.relative_bias, [0.8, 0.8, 0])
    np.testing.assert_allclose(advice.lag_norms, [3, 8, 4])
    np.testing.assert_allclose(advice.lag_shares, [9 / 25, 32 / 25, -16 / 25])


def test_a_horizon_keeps_what_all_longer_ones_keep():
    """One step has the direction of the whole, and two have not."""
    advice = advise(made_of([[1, 0], [0, 5], [0, -5], [1, 0]]))
    assert (advice.cosine[0], advice.keeps(0.99)) == (1, 3)
    assert advice.keeps(0.1) == 1
    assert str(advice) == (
        "3 steps keep a cosine of 0.99 with the exact gradient (norm ratio 0.5); "
        "3 steps keep a cosine of 0.9 with the exact gradient (norm ratio 0.5)."
    )
    assert advice.describe(1) == (
        "A horizon of 1 step has cosine 1 and norm ratio 0.5: it misses the exact "
        "gradient by 50.00% of its norm."
    )


def test_what_too_few_lags_keep_is_said():
    advice = advise(made_of([[1, 0]], beyond=(0, 3)))
    assert advice.keeps(0.9) is None and advice.keeps(0.3) == 1
    assert str(advice).startswith("No horizon up to 1 keeps a cosine of 0.99; no ")
    np.testing.assert_allclose(advice.share_beyond, 0.9)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_no_size_is_too_small_or_too_large(size):
    known = advise(made_of([[3, 0], [0, 4]]))
    advice = advise(made_of([[3 * size, 0], [0, 4 * size]]))
    for name in ("cosine", "norm_ratio", "relative_bias", "lag_shares"):
        np.testing.assert_allclose(getattr(advice, name), getattr(known, name))
    np.testing.assert_allclose(advice.lag_norms, [3 * size, 4 * size])


@pytest.mark.parametrize("rows", [[[1, 0], [-1, 0]], [[np.inf, 1], [0, 1]]])
def test_nothing_is_like_no_gradient(rows):
    advice = advise(made_of(rows))
    assert np.all(np.isnan(advice.cosine)) and np.all(np.isnan(advice.relative_bias))
    assert np.all(np.isnan(advice.lag_shares)) and advice.keeps() is None
    assert str(advice) == "The exact gradient is zero or not finite: no horizon is " + (
        "like it."
    )


def test_lags_that_hold_nothing_have_no_direction():
    advice = advise(made_of([[0, 0], [3, 4]]))
    assert np.isnan(advice.cosine[0]) and advice.norm_ratio[0] == 0
    assert advice.keeps() == 2


@pytest.mark.parametrize("cosine", [0, 1, 1.5, float("nan")])
def test_cosine_is_refused_by_name(cosine):
    with pytest.raises(OptionError, match=r"cosine: .* is not in \(0, 1\); use"):
        advise(made_of([[1, 0]])).keeps(cosine)


@pytest.mark.parametrize("horizon", [0, 2])
def test_horizon_is_refused_by_name(horizon):
    with pytest.raises(OptionError, match=r"horizon: \d is not in 1\.\.1, those that"):
        advise(made_of([[1, 0]])).describe(horizon)
