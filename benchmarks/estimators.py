"""Direction and size of each estimator's gradient beside the exact one.

    python benchmarks/estimators.py [NAME ...] [--draws N]

A random LSTM on random sequences, in float64; `rflo`, which is for another cell, has
a leaky RNN of the same size. Where sequences are whole, their last steps alone are
scored. Of what is random, the median over N draws is printed, and direction and size of
their mean. `jaxlstm compare` measures more, on a task.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.flatten_util import ravel_pytree  # noqa: E402

from jaxlstm.cells import make_leaky_rnn, make_lstm  # noqa: E402
from jaxlstm.checks import squared_error  # noqa: E402
from jaxlstm.diagnostics.alignment import align_vectors  # noqa: E402
from jaxlstm.estimators import ESTIMATORS, Segment, bptt  # noqa: E402
from jaxlstm.model import make_model  # noqa: E402

OPTIONS: dict[str, dict[str, Any]] = {
    "tbptt": {"horizon": 10, "stride": 5},
    "artbp": {"p": 0.1},
    "h_detach": {"p": 0.25},
    "clipped_bptt": {"z": 0.1},
    "pes": {"num_particles": 32, "sigma": 0.1},
}
X, H, Y, T, B = 4, 8, 2, 30, 4


class Alignment(NamedTuple):
    """Gradients g^ beside the exact g: g^.g / (|g^| |g|), and |g^| / |g|.

    Attributes:
      cosine: median over draws.
      norm_ratio: median over draws.
      mean_cosine: of the mean of draws.
      mean_norm_ratio: of the mean of draws.
    """

    cosine: float
    norm_ratio: float
    mean_cosine: float
    mean_norm_ratio: float


def measure(name: str, num_draws: int) -> Alignment:
    """Measures an estimator by its name."""
    cell = make_leaky_rnn() if name == "rflo" else make_lstm()
    model = make_model(
        cell, input_size=X, hidden_size=H, output_size=Y, dtype=np.float64
    )
    params = model.init(jax.random.key(0))
    random = np.random.default_rng(0)
    segment = Segment(*(random.normal(size=(T, B, n)) for n in (X, Y)))
    estimator = ESTIMATORS[name](model, squared_error, **OPTIONS.get(name, {}))
    if estimator.traits.whole_sequences:
        segment = segment._replace(weights=np.arange(T) == T - 1)

    def gradient(estimator: Any, key: Any) -> Any:
        state = estimator.init(params, (B,), key)
        return ravel_pytree(estimator.estimate(params, state, segment)[0].grads)[0]

    exact = np.asarray(gradient(bptt(model, squared_error), jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), num_draws)
    draws = np.asarray(
        jax.jit(lambda keys: jax.lax.map(lambda k: gradient(estimator, k), keys))(keys)
    )
    found = [list(align_vectors(draw, exact).values()) for draw in draws]
    mean = align_vectors(draws.mean(0), exact)
    return Alignment(*np.median(np.array(found, float), axis=0), *mean.values())


def main(arguments: list[str] | None = None) -> None:
    """Prints a line an estimator."""
    parser = argparse.ArgumentParser(
        description="Each estimator's gradient beside the exact one."
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ESTIMATORS)}")
    parser.add_argument("--draws", type=int, default=200, metavar="N")
    options = parser.parse_args(arguments)
    names = options.names or list(ESTIMATORS)
    unknown = [name for name in names if name not in ESTIMATORS]
    if unknown:
        parser.error(f"{unknown[0]}: unknown; use one of {', '.join(ESTIMATORS)}")
    if options.draws < 1:
        parser.error(f"--draws {options.draws}: is not positive")
    jax.config.update("jax_enable_x64", True)
    header = "cosine", "norm ratio", "of the mean:", ""
    print(f"{'estimator':<18}" + "".join(f"{text:>13}" for text in header))
    for name in names:
        figures = measure(name, options.draws)
        print(f"{name:<18}" + "".join(f"{x:>13.4f}" for x in figures), flush=True)


if __name__ == "__main__":
    main()
