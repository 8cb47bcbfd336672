"""Means of draws of the unbiased estimators near the gradient as 1 / sqrt(N)."""

import functools

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from benchmarks.convergence import (
    OPTIONS,
    SHOWN,
    T,
    gradient,
    main,
    make_problem,
    measure,
    squared_error,
)
from jaxlstm.estimators import ESTIMATORS, artbp, bptt, h_detach
from tests.estimators.patterns import bit, make_keys
from tests.helpers import jit

COUNTS = [1, 10, 100, 1000]
# At 1,000, this leaves 100 groups.
NUM_DRAWS = 100_000


@functools.cache
def measured(name, seed=0):
    problem = make_problem()
    estimator = ESTIMATORS[name](problem.model, squared_error, **OPTIONS[name])
    return measure(estimator, problem, num_draws=NUM_DRAWS, counts=COUNTS, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_error_falls_as_the_root_of_the_number_of_draws(name, x64):
    """The squared error of a mean of N is tr C / N, whatever the distribution.

    Groups are independent, so that an average over them is nearly normal: past five of
    its standard errors it is one time in a million. tr C is that of other draws, with a
    standard error of its own.
    """
    curve, other = measured(name), measured(name, seed=1)
    assert abs(curve.slope + 0.5) < 5 * curve.slope_deviation < 0.25
    for count, square, deviation in zip(*curve, strict=True):
        expected = other.squares[0] / count
        deviation = np.hypot(deviation, other.deviations[0] / count)
        assert abs(square - expected) < 5 * deviation < expected


@pytest.mark.slow
def test_error_of_random_truncation_is_that_of_its_patterns(x64):
    """All 2^T patterns of cuts give mean and covariance without a draw."""
    model, params, segment = problem = make_problem()
    p = OPTIONS["artbp"]["p"]
    estimator = artbp(model, squared_error, p=p, sample=bit)
    numbers = np.arange(2**T)
    chances = np.prod(np.where(numbers >> np.arange(T)[:, None] & 1, p, 1 - p), axis=0)

    @jit
    def patterns(keys):
        def one(key):
            state = estimator.init(params, (1,), key.own)._replace(
                keys=jax.tree.map(lambda one: one[None], key)
            )
            return ravel_pytree(estimator.estimate(params, state, segment)[0].grads)[0]

        return jax.vmap(one)(keys)

    exact = np.asarray(gradient(bptt(model, squared_error), problem, jax.random.key(0)))
    draws = np.asarray(patterns(make_keys(numbers)))
    np.testing.assert_allclose(chances @ draws, exact, rtol=1e-11, atol=1e-13)
    variance = chances @ np.sum((draws - exact) ** 2, axis=1) / np.sum(exact**2)
    curve = measured("artbp")
    for count, square, deviation in zip(*curve, strict=True):
        assert abs(square - variance / count) < 5 * deviation < variance / count


@pytest.mark.slow
def test_bias_is_seen(x64):
    """Cuts that nothing makes up for leave an error that no number of draws removes."""
    problem = make_problem()
    estimator = h_detach(problem.model, squared_error, p=0.3)
    curve = measure(estimator, problem, num_draws=NUM_DRAWS, counts=COUNTS)
    assert curve.slope + 0.5 > 10 * curve.slope_deviation
    assert curve.squares[-1] > 10 * curve.squares[0] / COUNTS[-1]


@pytest.mark.slow
def test_script_prints_and_draws(tmp_path, capsys, x64):
    main(["artbp", "--draws", "1", "--out", str(tmp_path / "picture.png")])
    name, slope, *errors = capsys.readouterr().out.splitlines()[1].split()
    assert name == "artbp"
    assert float(slope) < 0
    assert len(errors) == 5
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_script_refuses_what_it_does_not_know(capsys):
    with pytest.raises(SystemExit):
        main(["bptt"])
    assert "bptt: unknown; use one of artbp" in capsys.readouterr().err
