"""How fast the mean of N draws of an unbiased estimator nears the exact gradient.

    python benchmarks/convergence.py [NAME ...] [--draws N] [--out FILE]

The error of a mean of N independent draws has the expected square tr C / N, with C the
covariance of a draw. Every error here is the root of a mean over disjoint groups of N.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
from jax.flatten_util import ravel_pytree  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from jaxlstm.cells import make_lstm  # noqa: E402
from jaxlstm.estimators import ESTIMATORS, GradientEstimator, Segment, bptt  # noqa: E402
from jaxlstm.lab.plots import MARKERS, STYLE  # noqa: E402
from jaxlstm.model import Model, make_model  # noqa: E402

OPTIONS: dict[str, dict[str, Any]] = {
    "artbp": {"p": 0.3},
    "forward_gradient": {},
    "kf_rtrl": {},
    "uoro": {},
}
SHOWN = "artbp", "forward_gradient", "uoro"
X, H, Y, T = 2, 3, 1, 8
GROUP = 10_000


class Problem(NamedTuple):
    """A model, its parameters, and one sequence [T, 1, ...]."""

    model: Model
    params: Any
    segment: Segment


class Curve(NamedTuple):
    """Errors of means of draws, against their number.

    Attributes:
      counts: [K] N, how many draws a mean is made of.
      squares: [K] the squared error of such a mean, relative to the exact gradient's
        squared norm, averaged over groups.
      deviations: [K] the standard error of each of these averages.
    """

    counts: np.ndarray
    squares: np.ndarray
    deviations: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """What the logarithms of the errors are weighed by, for the slope."""
        x = np.log(self.counts)
        return (x - x.mean()) / np.sum((x - x.mean()) ** 2)

    @property
    def slope(self) -> float:
        """The power of N that the error falls by, fitted by least squares."""
        return float(self.weights @ np.log(self.squares) / 2)

    @property
    def slope_deviation(self) -> float:
        """The most that the standard error of the slope can be.

        That of log(error) is half the relative one of its square; groups of different
        sizes share draws, and so their errors may add up.
        """
        relative = self.deviations / self.squares / 2
        return float(np.abs(self.weights) @ relative)


def make_problem() -> Problem:
    """Draws a small LSTM and a sequence of T steps; float64 where that is on."""
    dtype = jnp.result_type(float)
    model = make_model(
        make_lstm(), input_size=X, hidden_size=H, output_size=Y, dtype=dtype
    )
    rng = np.random.default_rng(0)
    inputs, targets = (rng.normal(size=(T, 1, n)).astype(dtype) for n in (X, Y))
    return Problem(model, model.init(jax.random.key(0)), Segment(inputs, targets))


def squared_error(prediction: Any, target: Any) -> Any:
    """Returns |prediction - target|^2."""
    return jnp.sum((prediction - target) ** 2, axis=-1)


def gradient(estimator: GradientEstimator, problem: Problem, key: Any) -> Any:
    """Returns one draw of the gradient, flat [P]."""
    _, params, segment = problem
    state = estimator.init(params, (1,), key)
    return ravel_pytree(estimator.estimate(params, state, segment)[0].grads)[0]


def measure(
    estimator: GradientEstimator,
    problem: Problem,
    *,
    num_draws: int,
    counts: Sequence[int],
    seed: int = 0,
) -> Curve:
    """Measures how far means of draws are from the exact gradient.

    Args:
      estimator: of the problem's model and `squared_error`.
      problem: the problem.
      num_draws: how many draws are made in all; a multiple of the largest count.
      counts: the sizes of the groups that are averaged; each divides the largest.
      seed: of the draws.

    Returns:
      The curve.
    """
    largest = max(counts)
    exact = gradient(bptt(problem.model, squared_error), problem, jax.random.key(0))

    def chunk(keys: Any) -> Any:
        draws = jax.vmap(lambda key: gradient(estimator, problem, key))(keys)
        errors = (draws - exact[None]) / jnp.linalg.norm(exact)
        moments = []
        for count in counts:
            means = errors.reshape(largest // count, count, -1).mean(axis=1)
            squares = jnp.sum(means**2, axis=-1)
            moments.append((squares.mean(), (squares**2).mean()))
        return jnp.asarray(moments)

    keys = jax.random.split(jax.random.key(seed), (num_draws // largest, largest))
    moments = np.asarray(jax.jit(lambda keys: jax.lax.map(chunk, keys))(keys))
    squares, fourths = moments.mean(axis=0).T
    groups = num_draws / np.asarray(counts)
    deviations = np.sqrt((fourths - squares**2) / groups)
    return Curve(np.asarray(counts), squares, deviations)


def draw(curves: dict[str, Curve]) -> Figure:
    """Draws errors against numbers of draws, each beside a line of slope -1/2."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for n, (name, curve) in enumerate(curves.items()):
        errors = np.sqrt(curve.squares)
        options = ", ".join(f"{k} = {v}" for k, v in OPTIONS[name].items())
        options = f" ({options})" if options else ""
        label = f"{name}{options}: slope {curve.slope:.3f}"
        axes.loglog(curve.counts, errors, MARKERS[n], color=f"C{n}", label=label)
        line = errors[0] * np.sqrt(curve.counts[0] / curve.counts)
        axes.loglog(curve.counts, line, "--", color=f"C{n}", linewidth=1)
    axes.set(
        xlabel="number of draws",
        ylabel="relative error of their mean",
        title=f"LSTM, H = {H}, T = {T}; dashed: slope -1/2",
    )
    axes.legend(frameon=False)
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints what was measured, and draws it."""
    parser = argparse.ArgumentParser(
        description="How fast the mean of N draws nears the exact gradient."
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(OPTIONS)}")
    parser.add_argument(
        "--draws",
        type=int,
        default=100 * GROUP,
        metavar="N",
        help=f"of each; rounded up to a multiple of {GROUP} (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the picture, a .png")
    options = parser.parse_args(arguments)
    names = options.names or list(SHOWN)
    unknown = [name for name in names if name not in OPTIONS]
    if unknown:
        parser.error(f"{unknown[0]}: unknown; use one of {', '.join(OPTIONS)}")
    if options.draws < 1:
        parser.error(f"--draws {options.draws}: is not positive")
    jax.config.update("jax_enable_x64", True)
    problem, curves = make_problem(), {}
    num_draws = -(-options.draws // GROUP) * GROUP
    counts = [10**n for n in range(5)]
    print(f"{'estimator':<18}{'slope':>8}  relative error at N = {counts}")
    for name in names:
        estimator = ESTIMATORS[name](problem.model, squared_error, **OPTIONS[name])
        curve = measure(estimator, problem, num_draws=num_draws, counts=counts)
        errors = "  ".join(f"{error:.2e}" for error in np.sqrt(curve.squares))
        print(f"{name:<18}{curve.slope:>8.4f}  {errors}", flush=True)
        curves[name] = curve
    if options.out is not None:
        # Powers of ten are formulas.
        with matplotlib.rc_context(STYLE | {"text.parse_math": True}):
            draw(curves).savefig(options.out)


if __name__ == "__main__":
    main()
