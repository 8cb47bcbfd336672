"""The exact gradient by lag and by way, and what every truncation keeps of it."""

import functools
from collections.abc import Sequence
from typing import Any

import jax

from jaxlstm.diagnostics import (
    Advice,
    LagGradients,
    PathGradients,
    advise,
    lag_gradients,
    path_gradients,
)
from jaxlstm.estimators import LossFn, Segment
from jaxlstm.lab.comparison.gradients import finite
from jaxlstm.lab.comparison.problem import Part, Problem, as_dtype
from jaxlstm.lab.comparison.windows import read_window
from jaxlstm.model import Model, ModelParams
from jaxlstm.types import Key, PyTree

# Of what is carried by lag: bytes, and lags, whose number the time is in proportion to.
MOST_BYTES, MOST_LAGS = 2**27, 128
LEVELS = 0.9, 0.99


def measure(
    problem: Problem, *, num_segments: int = 1, most_lags: int = MOST_LAGS
) -> Part:
    """Measures the lags and ways of the exact gradient of a window, in float64.

    The window is the first of the training data, as one sequence from the model's
    initial state; a model with dropout draws there as it does in training. Of a window
    of many steps the first `most_lags` lags are resolved, or as many as 128 MiB hold:
    then `num_lags` is less than `num_steps`, and what lags beyond give together is in
    `share_beyond` and `path_shares.beyond`.

    Args:
      problem: what is compared.
      num_segments: in the window.
      most_lags: that are resolved.

    Returns:
      The figures, as `docs/compare.md` lists them; no arrays.
    """
    with jax.enable_x64(True):
        model = problem.model("float64")
        segment = as_dtype(read_window(problem, 0, num_segments).whole, "float64")
        batch_size, num_steps = problem.experiment.batch_size, len(segment.mask)
        keys = jax.random.split(jax.random.key(0), batch_size)
        num_lags = min(most_lags, choose_lags(model, num_steps, batch_size))
        loss = problem.config.task.loss
        run = jax.jit(functools.partial(_resolve, model, loss, num_lags))
        told = "" if num_lags == num_steps else f", {num_lags} of {num_steps:,} lags"
        snapshots = []
        for snapshot in problem.snapshots:
            update = f"after update {snapshot.update:,}{told}"
            problem.progress(f"the gradient by lag and way {update}")
            params = as_dtype(snapshot.params, "float64")
            lags, paths = jax.device_get(run(params, segment, keys))
            figures = {"num_steps": num_steps, "num_lags": num_lags}
            figures |= _write_advice(lags) | _write_paths(paths)
            snapshots.append({"update": snapshot.update, **figures})
    return Part({"snapshots": snapshots})


def choose_lags(model: Model, num_steps: int, batch_size: int) -> int:
    """Returns how many lags are resolved: all, or those that `MOST_BYTES` hold.

    Carried by lag are the gradient and, by each of some six routes, a state.
    """
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    state = jax.eval_shape(lambda p: model.initial_state(p, (batch_size,)), shapes)
    size = count_bytes(shapes) + 6 * count_bytes(state)
    return max(1, min(num_steps, MOST_BYTES // size))


def count_bytes(shapes: PyTree) -> int:
    """Returns the bytes of arrays of these shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _resolve(
    model: Model,
    loss_fn: LossFn,
    num_lags: int,
    params: ModelParams,
    segment: Segment,
    keys: Key,
) -> tuple[LagGradients, PathGradients]:
    arguments = model, loss_fn, params, segment
    return (
        lag_gradients(*arguments, keys=keys, num_lags=num_lags),
        path_gradients(*arguments, keys=keys, num_lags=num_lags),
    )


def _write_advice(lags: LagGradients) -> dict[str, Any]:
    advice = advise(lags)
    recurrent = lags._replace(grads=lags.grads.recurrent, beyond=lags.beyond.recurrent)
    return {
        "horizons": list(range(1, lags.num_lags + 1)),
        **_write_horizons(advice),
        "lag_norms": _write(advice.lag_norms),
        "lag_shares": _write(advice.lag_shares),
        "share_beyond": finite(advice.share_beyond),
        "advice": str(advice),
        # The readout's own gradient, which every truncation has, left out.
        "recurrent": _write_horizons(advise(recurrent)),
    }


def _write_horizons(advice: Advice) -> dict[str, Any]:
    return {
        "cosine": _write(advice.cosine),
        "norm_ratio": _write(advice.norm_ratio),
        "relative_bias": _write(advice.relative_bias),
        "keeps": {f"{level:g}": advice.keeps(level) for level in LEVELS},
    }


def _write_paths(paths: PathGradients) -> dict[str, Any]:
    by_lag = paths.by_route_and_lag
    by_route = {name: finite(share) for name, share in paths.by_route.items()}
    return {
        "routes": list(paths.routes),
        "gates": _shorten(paths.blocks),
        "path_shares": {
            "by_route": by_route,
            "by_route_and_gate": _write(paths.by_route_and_block),
            "by_route_and_lag": _write(by_lag[:, :-1]),
            "beyond": _write(by_lag[:, -1]),
        },
    }


def _shorten(blocks: Sequence[str]) -> list[str]:
    """Returns names of blocks, without the layer where there is one alone."""
    layers = {name.split(":")[0] for name in blocks if ": " in name}
    prefix = f"{layers.pop()}: " if len(layers) == 1 else ""
    return [name.removeprefix(prefix) for name in blocks]


def _write(figures: Any) -> Any:
    """Returns lists as JSON holds them, None for what is not finite."""
    if figures.ndim > 1:
        return [_write(row) for row in figures]
    return [finite(x) for x in figures]
