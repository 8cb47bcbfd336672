"""Errors of forecasts, and of those that need no net.

A target is [..., Y, K]: of the horizon and the columns, Y = horizon J, the truth first,
and then what was forecast without a net. The truth is NaN where it is not known.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.series.windows import LAST_VALUE


class Names(NamedTuple):
    """What the metrics are called.

    Attributes:
      forecasts: of the net, "", and of the K - 1 without one.
      targets: of the J columns; "" where there is one.
    """

    forecasts: tuple[str, ...]
    targets: tuple[str, ...]

    def metric(self, forecast: str, metric: str, target: str) -> str:
        """Returns a name such as naive_mae_load."""
        return "_".join(part for part in (forecast, metric, target) if part)


def squared_error(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the mean square [...] of predictions [..., Y] over what is known."""
    error, known = _errors(prediction, target)
    return (error**2).sum(axis=-1) / jnp.maximum(known.sum(axis=-1), 1)


def measure(
    prediction: jax.Array, target: jax.Array, scale: jax.Array, names: Names
) -> dict[str, jax.Array]:
    """Returns errors [...] in units of the data, by name.

    Under rmse stands the square, which can be averaged; `derive` takes the root.

    Args:
      prediction: [..., Y], scaled.
      target: [..., Y, K], scaled.
      scale: [J] units of the data in a scaled one.
      names: of the metrics.
    """
    forecasts = prediction, *jnp.moveaxis(target[..., 1:], -1, 0)
    shape = *prediction.shape[:-1], -1, len(names.targets)
    found = {}
    for forecast, values in zip(names.forecasts, forecasts, strict=True):
        error, known = (x.reshape(shape) for x in _errors(values, target))
        error = error * jnp.broadcast_to(scale, error.shape)
        count = jnp.maximum(known.sum(axis=-2), 1)
        absolute = jnp.abs(error).sum(axis=-2) / count
        squared = (error**2).sum(axis=-2) / count
        for n, name in enumerate(names.targets):
            found[names.metric(forecast, "mae", name)] = absolute[..., n]
            if not forecast:
                found[names.metric(forecast, "rmse", name)] = squared[..., n]
    return found


def derive(averages: dict[str, float], names: Names) -> dict[str, float]:
    """Returns roots of squares, and the skill: the share of a naive error saved.

    Args:
      averages: of what `measure` gives; of training, none of them.
      names: of the metrics.
    """
    found = {}
    for target in names.targets:
        mae, rmse = (names.metric("", metric, target) for metric in ("mae", "rmse"))
        if mae not in averages:
            continue
        found[rmse] = averages[rmse] ** 0.5
        for forecast in names.forecasts[1:]:
            naive = averages[names.metric(forecast, "mae", target)]
            of = "" if forecast == LAST_VALUE else forecast
            # On what is right already nothing is saved.
            if naive:
                found[names.metric(of, "skill", target)] = 1 - averages[mae] / naive
    return found


def _errors(forecast: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns errors [..., Y], 0 where the truth is not known, and whether it is."""
    truth = target[..., 0]
    known = ~jnp.isnan(truth)
    return jnp.where(known, forecast - jnp.where(known, truth, 0), 0), known
