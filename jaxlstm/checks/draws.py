"""Draws of a random estimator beside the exact gradient."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.checks.problem import Problem
from jaxlstm.checks.reference import GradientFn
from jaxlstm.checks.report import Row, compiled
from jaxlstm.estimators import GradientEstimator
from jaxlstm.noise import of_segment
from jaxlstm.types import Key, PyTree

# How many standard errors pass: chance alone goes beyond about once in a million.
LIMIT = 5.0

# How many draws are made at a time.
CHUNK = 100


class Moments(NamedTuple):
    """Of N draws of a gradient g^ beside the exact g, leaf by leaf.

    Attributes:
      paths: of the leaves.
      errors: |mean(g^) - g|.
      deviations: the standard errors of the means, roots of summed variances.
      sizes: |g|.
      along: mean of (g^ - g).g / |g|^2, and its standard error.
      cosine: of mean(g^) and g.
      norm_ratio: |mean(g^)| / |g|.
    """

    paths: list[str]
    errors: np.ndarray
    deviations: np.ndarray
    sizes: np.ndarray
    along: tuple[float, float]
    cosine: float
    norm_ratio: float

    @property
    def error(self) -> float:
        """Of all leaves together, relative."""
        return _norm(self.errors) / _norm(self.sizes)

    @property
    def deviation(self) -> float:
        """Of all leaves together, relative."""
        return _norm(self.deviations) / _norm(self.sizes)


def measure(
    estimator: GradientEstimator,
    gradient: GradientFn,
    problem: Problem,
    num_draws: int,
) -> Moments:
    """Draws gradients from N keys, each beside the exact one for the same noise."""

    def one(key: Key, params: PyTree, segment: Any) -> Any:
        state = estimator.init(params, problem.batch_shape, key)
        estimate, _ = estimator.estimate(params, state, segment)
        keys = of_segment(getattr(state, "keys", None), 0)
        exact = gradient(params, keys, segment)
        error = jax.tree.map(jnp.subtract, estimate.grads, exact)
        product = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, error, exact)))
        square = sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(exact))
        return error, exact, product / square

    def summarise(keys: Key, params: PyTree, segment: Any) -> Any:
        draws = jax.lax.map(
            lambda key: one(key, params, segment),
            keys,
            batch_size=min(CHUNK, num_draws),
        )
        return jax.tree.map(
            lambda x: (jnp.mean(x, axis=0), jnp.var(x, axis=0, ddof=num_draws > 1)),
            draws,
        )

    keys = jax.random.split(jax.random.key(3), num_draws)
    pairs = compiled(summarise)(keys, problem.params, problem.segment)
    return _make_moments(pairs, num_draws)


def _make_moments(pairs: Any, num_draws: int) -> Moments:
    def is_pair(x: Any) -> bool:
        return type(x) is tuple and len(x) == 2 and hasattr(x[0], "dtype")

    errors, exact, along = jax.tree.map(
        lambda pair: tuple(np.asarray(x, np.float64) for x in pair),
        pairs,
        is_leaf=is_pair,
    )
    leaves = jax.tree_util.tree_leaves_with_path(errors, is_leaf=is_pair)
    means = [mean for _, (mean, _) in leaves]
    exacts = [mean for mean, _ in jax.tree.leaves(exact, is_leaf=is_pair)]
    g = np.concatenate([np.ravel(leaf) for leaf in exacts])
    found = g + np.concatenate([np.ravel(leaf) for leaf in means])
    return Moments(
        paths=[jax.tree_util.keystr(path) for path, _ in leaves],
        errors=np.asarray([_norm(mean) for mean in means]),
        deviations=np.asarray(
            [np.sqrt(np.sum(variance) / num_draws) for _, (_, variance) in leaves]
        ),
        sizes=np.asarray([_norm(leaf) for leaf in exacts]),
        along=(float(along[0]), float(np.sqrt(along[1] / num_draws))),
        cosine=float(found @ g / (_norm(found) * _norm(g))),
        norm_ratio=_norm(found) / _norm(g),
    )


def judge_mean(moments: Moments, num_draws: int, bound: float) -> Iterator[Row]:
    """Compares the mean of draws with the exact gradient.

    Args:
      moments: of the draws.
      num_draws: N.
      bound: what is put to rounding.
    """
    limits = LIMIT * moments.deviations + bound * _norm(moments.sizes)
    beyond = [
        path
        for path, error, limit in zip(
            moments.paths, moments.errors, limits, strict=True
        )
        if not error <= limit
    ]
    note = f"{num_draws} draws; noise {moments.deviation:.1e}"
    if beyond:
        note += f"; beyond it at {', '.join(beyond)}"
    limit = LIMIT * moments.deviation + bound
    yield Row(
        "gradient: the mean of draws",
        moments.error,
        limit,
        moments.error <= limit and not beyond,
        note,
    )
    mean, deviation = moments.along
    limit = LIMIT * deviation + bound
    yield Row(
        "gradient: the mean of draws, along it",
        abs(mean),
        limit,
        abs(mean) <= limit,
        f"{num_draws} draws; noise {deviation:.1e}",
    )


def describe_direction(moments: Moments, num_draws: int) -> Row:
    """Returns the row of a biased gradient beside the exact one."""
    note = f"cosine {moments.cosine:.4f}, norm ratio {moments.norm_ratio:.4f}"
    if num_draws > 1:
        note += f"; mean of {num_draws} draws, noise {moments.deviation:.1e}"
    return Row("gradient: beside the exact one", moments.error, note=note)


def _norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(np.ravel(x)))
