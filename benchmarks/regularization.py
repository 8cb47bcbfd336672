"""What dropout and penalties cost an update of `configs/awd_lstm_char.toml`.

    python benchmarks/regularization.py [--size T=80,B=64,X=65,H=256,L=2] [--rounds N]
        [--updates N]

The ways take turns, and the least time of each is shown. They train on the text that
comes with Python, cut down to X symbols: nothing has to be fetched.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402

from benchmarks.base import Work  # noqa: E402
from benchmarks.char_lm import read_config  # noqa: E402
from benchmarks.loop import training  # noqa: E402
from jaxlstm.lab.experiment import build  # noqa: E402

PLAIN = "plain"
NO_PENALTIES = ("estimator.activation=", "estimator.temporal_activation=")
MASKS = "input = 0.1, between = 0.1, output = 0.2"
# Overrides of the config, by name.
WAYS = {
    PLAIN: ("model.dropout=0.0", *NO_PENALTIES),
    "weight drop": ("model.dropout={ weights = 0.2 }", *NO_PENALTIES),
    "three masks, one a segment": (
        f"model.dropout={{ variational = true, {MASKS} }}",
        *NO_PENALTIES,
    ),
    "three masks, one a step": (f"model.dropout={{ {MASKS} }}", *NO_PENALTIES),
    "penalties": ("model.dropout=0.0",),
    "the config": (),
}


def prepare(size: dict[str, int], overrides: tuple[str, ...], count: int) -> Work:
    """Returns training under some overrides of the config, compiled."""
    experiment = build(read_config("awd_lstm_char", size, overrides))
    params = experiment.trainer.model.init(jax.random.key(0))
    work = training(experiment, params, count, count).works["training"]
    work.run()
    return work


def measure(size: dict[str, int], rounds: int, count: int) -> dict[str, float]:
    """Returns the least seconds of an update, by way."""
    works = {name: prepare(size, overrides, count) for name, overrides in WAYS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began = time.perf_counter()
            work.run()
            seconds[name].append((time.perf_counter() - began) / count)
    return {name: min(taken) for name, taken in seconds.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", default="T=80,B=64,X=65,H=256,L=2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=8, help="of each way a round")
    options = parser.parse_args(arguments)
    try:
        size = {
            axis: int(value)
            for axis, value in (part.split("=") for part in options.size.split(","))
        }
    except ValueError:
        size = {}
    counts = *size.values(), options.rounds, options.updates
    if set(size) != set("TBXHL") or min(counts) < 1:
        parser.error(
            f"--size {options.size} --rounds {options.rounds} --updates "
            f"{options.updates}: write sizes above 0 as T=80,B=64,X=65,H=256,L=2, and "
            "1 round and update or more"
        )
    seconds = measure(size, options.rounds, options.updates)
    print(f"{options.size}, jax {jax.__version__}: least ms an update, of {PLAIN}")
    for name, taken in seconds.items():
        print(f"{name:32}{1e3 * taken:9.1f}{taken / seconds[PLAIN]:7.2f}")


if __name__ == "__main__":
    main()
