"""What every truncation keeps of the exact gradient, from one gradient by lag."""

import dataclasses

import jax
import numpy as np

from jaxlstm.diagnostics.alignment import align_vectors
from jaxlstm.diagnostics.lags import LagGradients
from jaxlstm.shapes import OptionError
from jaxlstm.types import PyTree


@dataclasses.dataclass(frozen=True)
class Advice:
    """Every horizon of truncation beside the exact gradient g.

        c_k = g_0 + ... + g_{k-1}        the gradient of tbptt(horizon=k, stride=1)

    A figure that there is none of, as where g is zero, is NaN.

    Attributes:
      cosine: [K] of the angle between c_k and g, k = 1..K.
      norm_ratio: [K] |c_k| / |g|.
      relative_bias: [K] |c_k - g| / |g|.
      lag_norms: [K] |g_k|, k = 0..K-1.
      lag_shares: [K] g_k.g / |g|^2. With `share_beyond` they add up to 1.
      share_beyond: the share of all lags from K on.
    """

    cosine: np.ndarray
    norm_ratio: np.ndarray
    relative_bias: np.ndarray
    lag_norms: np.ndarray
    lag_shares: np.ndarray
    share_beyond: float

    @property
    def num_horizons(self) -> int:
        """K."""
        return len(self.cosine)

    def keeps(self, cosine: float = 0.99) -> int | None:
        """Returns the least horizon from which on no longer one falls below a cosine.

        Args:
          cosine: with the exact gradient, in (0, 1).

        Returns:
          The number of steps; None where the longest horizon is below.

        Raises:
          OptionError: the cosine is not in (0, 1).
        """
        if not 0 < cosine < 1:
            raise OptionError(
                f"cosine: {cosine} is not in (0, 1); use one such as 0.99, as 1 is met "
                "or missed by rounding"
            )
        below = np.flatnonzero(~(self.cosine >= cosine))
        least = 1 + (below[-1] + 1 if below.size else 0)
        return int(least) if least <= self.num_horizons else None

    def describe(self, horizon: int) -> str:
        """Returns what a truncation would do, in a sentence.

        Args:
          horizon: of it, in 1..K.

        Raises:
          OptionError: no such horizon was looked at.
        """
        if not 1 <= horizon <= self.num_horizons:
            raise OptionError(
                f"horizon: {horizon} is not in 1..{self.num_horizons}, those that were "
                "looked at; resolve more lags"
            )
        cosine, ratio, bias = (
            float(figure[horizon - 1])
            for figure in (self.cosine, self.norm_ratio, self.relative_bias)
        )
        return (
            f"A horizon of {_count(horizon)} has cosine {cosine:.4g} and norm ratio "
            f"{ratio:.4g}: it misses the exact gradient by {bias:.2%} of its norm."
        )

    def __str__(self) -> str:
        """Says which horizons suffice."""
        if np.isnan(self.norm_ratio[-1]):
            return "The exact gradient is zero or not finite: no horizon is like it."
        text = f"{self._kept(0.99)}; {self._kept(0.9)}."
        return text[0].upper() + text[1:]

    def _kept(self, cosine: float) -> str:
        horizon = self.keeps(cosine)
        if horizon is None:
            return f"no horizon up to {self.num_horizons} keeps a cosine of {cosine}"
        ratio = self.norm_ratio[horizon - 1]
        verb = "keeps" if horizon == 1 else "keep"
        return (
            f"{_count(horizon)} {verb} a cosine of {cosine} with the exact gradient "
            f"(norm ratio {ratio:.3g})"
        )


def advise(lags: LagGradients) -> Advice:
    """Compares all horizons of truncation with the exact gradient, without a run.

    What holds for the parameters whole can be a matter of the readout's own gradient,
    which every truncation has: for a part of them, take that part of both trees,
    `lags._replace(grads=lags.grads.recurrent, beyond=lags.beyond.recurrent)`.

    Args:
      lags: of `lag_gradients`, not traced; the trees may be parts of the parameters.

    Returns:
      The figures, in float64.
    """
    by_lag = _flatten(lags.grads, lags.num_lags)
    beyond = _flatten(lags.beyond, 1)[0]
    # What is not finite gives NaN, and no warning.
    with np.errstate(invalid="ignore", over="ignore"):
        exact = by_lag.sum(axis=0) + beyond
        total, horizons = np.zeros_like(exact), []
        for gradient in by_lag:
            total = total + gradient
            whole = align_vectors(total, exact)
            error = align_vectors(total - exact, exact)
            horizons.append((*whole.values(), error["norm_ratio"]))
        # None becomes NaN.
        cosine, norm_ratio, relative_bias = np.array(horizons, np.float64).T
        # By the largest entry, so that no square is too small or too large.
        largest = np.max(np.abs(exact), initial=0) or np.nan
        direction = exact / largest
        along = direction / (direction @ direction)
        return Advice(
            cosine=cosine,
            norm_ratio=norm_ratio,
            relative_bias=relative_bias,
            lag_norms=_norms(by_lag),
            lag_shares=by_lag / largest @ along,
            share_beyond=float(beyond / largest @ along),
        )


def _flatten(tree: PyTree, count: int) -> np.ndarray:
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(count, -1) for leaf in leaves], axis=1)


def _norms(vectors: np.ndarray) -> np.ndarray:
    largest = np.max(np.abs(vectors), axis=1, keepdims=True, initial=0)
    scale = np.where(largest > 0, largest, 1)
    return scale[:, 0] * np.linalg.norm(vectors / scale, axis=1)


def _count(horizon: int) -> str:
    return f"{horizon} step{'' if horizon == 1 else 's'}"
