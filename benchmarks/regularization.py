"""What dropout and penalties cost an update of `configs/awd_lstm_char.toml`.

    python benchmarks/regularization.py [--size T=80,B=64,X=65,H=256,L=2] [--rounds N]
        [--updates N]

The ways take turns, and the least time of each is shown: what has passed, and that of
the processor, which other work on the machine disturbs less. They train on the text
that comes with Python, cut down to X symbols: nothing has to be fetched.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402

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


def read_clocks() -> np.ndarray:
    """Returns the seconds that have passed, and those of the processor's time."""
    return np.array([time.perf_counter(), time.process_time()])


def measure(size: dict[str, int], rounds: int, count: int) -> dict[str, np.ndarray]:
    """Returns the least times of an update by either clock, by way."""
    works = {name: prepare(size, overrides, count) for name, overrides in WAYS.items()}
    taken: dict[str, list[np.ndarray]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began = read_clocks()
            work.run()
            taken[name].append((read_clocks() - began) / count)
    return {name: np.min(times, axis=0) for name, times in taken.items()}


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
    print(f"{'':28}{'passed':>18}{'of the processor':>18}")
    for name, times in seconds.items():
        cells = zip(1e3 * times, times / seconds[PLAIN], strict=True)
        print(f"{name:28}" + "".join(f"{ms:11.1f}{ratio:7.2f}" for ms, ratio in cells))


if __name__ == "__main__":
    main()
