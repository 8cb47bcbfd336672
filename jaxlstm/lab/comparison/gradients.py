"""Gradients of estimators over windows, draw by draw, and what they come to."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.interpreters.partial_eval import dce_jaxpr

from jaxlstm.diagnostics.alignment import align_vectors
from jaxlstm.estimators import GradientEstimator
from jaxlstm.lab.comparison.problem import as_dtype
from jaxlstm.lab.comparison.windows import Window, stack
from jaxlstm.types import Key, PyTree

DTYPE = "float64"


class Gradient(NamedTuple):
    """A gradient of a window.

    Attributes:
      gradient: [P] the sum over steps and examples.
      loss: the sum of weight times loss.
      weight: the sum of the weights.
    """

    gradient: Any
    loss: Any
    weight: Any


class Runner:
    """Runs an estimator over windows in float64, all of them by one compiled function.

    Attributes:
      estimator: what is run.
    """

    def __init__(self, estimator: GradientEstimator, batch_size: int):
        self.estimator, self._batch_size = estimator, batch_size
        self._compiled = jax.jit(self._run)
        self._depends: bool | None = None

    def __call__(
        self, path: Sequence[PyTree], window: Window, keys: Iterable[Key]
    ) -> Iterator[Gradient]:
        """Yields the gradient of the draw of each key.

        Args:
          path: the parameters by segment, or one for all of them.
          window: the segments. They begin with a fresh state, and are summed over.
          keys: of the draws.
        """
        arguments = _put(path, window)
        for key in keys:
            yield jax.device_get(self._compiled(*arguments, key))

    def may_draw(self, params: PyTree, window: Window) -> bool:
        """Returns False where what is computed makes no use of the key."""
        if self._depends is None:
            arguments = *_put([params], window), jax.random.key(0)
            jaxpr = jax.make_jaxpr(self._compiled)(*arguments).jaxpr
            _, used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
            self._depends = bool(used[-1])
        return self._depends

    def _run(self, path: Any, blocks: Any, key: Key) -> Gradient:
        params, segment = jax.tree.map(lambda x: x[0], (path[0], blocks[0]))
        state = self.estimator.init(params, (self._batch_size,), key)
        shapes, _ = jax.eval_shape(self.estimator.estimate, params, state, segment)
        sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def body(carry: Any, xs: Any) -> tuple[Any, None]:
            state, sums = carry
            estimate, state = self.estimator.estimate(xs[0], state, xs[1])
            return (state, jax.tree.map(jnp.add, sums, estimate)), None

        for xs in zip(path, blocks, strict=True):
            (state, sums), _ = jax.lax.scan(body, (state, sums), xs)
        return Gradient(ravel_pytree(sums.grads)[0], sums.loss, sums.weight)


def _put(path: Sequence[PyTree], window: Window) -> tuple[Any, Any]:
    """Returns parameters and segments, those of segments of one shape stacked."""
    blocks = as_dtype(window.blocks(), DTYPE)
    trees = list(path) * (len(window.segments) if len(path) == 1 else 1)
    ends = np.cumsum([len(block.mask) for block in blocks])
    starts = [0, *ends[:-1]]
    parts = [stack(trees[a:b]) for a, b in zip(starts, ends, strict=True)]
    return jax.device_put((tuple(parts), blocks))


@dataclasses.dataclass(frozen=True)
class Draws:
    """What draws of a gradient on one window come to.

    Attributes:
      mean: [P].
      variance: trace of the covariance of their errors; 0 of a single draw.
      count: N.
      alike: whether each is the same.
      kept: [n, P] the first of them, float32.
    """

    mean: np.ndarray
    variance: float
    count: int
    alike: bool
    kept: np.ndarray

    @property
    def are_one(self) -> bool:
        """Whether each is the same, and is not zero, as where nothing was scored."""
        return self.alike and bool(np.any(self.mean))

    def first(self) -> "Draws":
        """Returns the first one, where all are the same."""
        return Draws(self.mean, 0.0, 1, True, self.kept[:1])


def collect(draws: Iterable[np.ndarray], exact: np.ndarray, kept: int = 0) -> Draws:
    """Sums draws up as they come.

    Args:
      draws: [P] each, at least one.
      exact: [M, P] the exact gradient of each draw, or one for all of them.
      kept: how many to keep.

    Returns:
      What they come to.

    References:
      Welford, Note on a Method for Calculating Corrected Sums of Squares and Products,
      Technometrics 4(3), 1962.
    """
    mean, error_mean = np.zeros_like(exact[0]), np.zeros_like(exact[0])
    squares, count, first = 0.0, 0, []
    alike, before = True, None
    with np.errstate(all="ignore"):
        for draw in draws:
            error = draw - exact[count % len(exact)]
            count += 1
            alike = alike and (before is None or np.array_equal(draw, before))
            before = draw
            mean += (draw - mean) / count
            change = error - error_mean
            error_mean += change / count
            squares += float(change @ (error - error_mean))
            if count <= kept:
                first.append(draw)
        raw = np.array(first, np.float32).reshape(len(first), len(mean))
    return Draws(mean, squares / max(1, count - 1), count, alike, raw)


def measure_bias(
    draws: Sequence[Draws],
    exact: np.ndarray,
    blocks: dict[str, np.ndarray],
    *,
    may_draw: bool,
) -> dict[str, Any]:
    """Returns the figures of a member beside the exact gradient.

    Args:
      draws: of each window.
      exact: [W, M, P].
      blocks: by name, which entries [P] are of it.
      may_draw: whether another draw may be another gradient. The noise of one that may
        is not known by a single draw.

    Returns:
      As `measure` of the accuracy describes them; None where there is no figure.
    """
    true, mean = exact.mean(axis=(0, 1)), np.mean([each.mean for each in draws], axis=0)
    noises = [each.variance / each.count for each in draws]
    count, unknown = len(draws), may_draw and draws[0].count == 1
    with np.errstate(all="ignore"):
        norm = np.linalg.norm(true)
        bias = align_vectors(mean - true, true)["norm_ratio"]
        floor = None
        if may_draw and not unknown:
            floor = finite(math.sqrt(sum(noises)) / count / norm)
        variance = finite(np.mean([each.variance for each in draws]) / norm**2)
        data = spread([each.mean for each in draws], true, noises)
        return {
            **align_vectors(mean, true),
            "relative_bias": bias,
            "noise_floor": floor,
            "debiased": None if unknown else debias(bias, floor),
            "draw_variance": None if unknown else variance,
            "data_variance": None if unknown else data,
            "blocks": {
                name: align_vectors(mean[entries], true[entries])
                for name, entries in blocks.items()
            },
        }


def debias(bias: float | None, floor: float | None) -> float | None:
    """Returns what is left of a relative bias beyond its noise floor."""
    if bias is None or floor is None:
        return bias
    return math.sqrt(max(0.0, bias**2 - floor**2))


def spread(
    means: Sequence[np.ndarray], true: np.ndarray, noises: Sequence[float] = (0.0,)
) -> float | None:
    """Returns the variance from window to window, over |g|^2.

    None of one window, and where the noise of the means hides it.

    Args:
      means: [P] of the draws on each window.
      true: [P] g.
      noises: the variance of each of these means, which is taken off.
    """
    if len(means) < 2:
        return None
    with np.errstate(all="ignore"):
        whole = np.sum(np.var(means, axis=0, ddof=1)) - np.mean(noises)
        hidden = any(noises) and whole <= 0
        return None if hidden else finite(whole / np.sum(true**2))


def finite(value: Any) -> float | None:
    """Returns a number, or None if it is none."""
    return float(value) if np.isfinite(value) else None
