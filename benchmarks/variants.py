"""Which variant of the cell learns most in the same time, with as many parameters.

    python benchmarks/variants.py [--out DIR] [--cells NAME ...] [--seconds N]
        [--parameters N] [--rates R ...] [--seeds N] [--part 1/2] [--set KEY=VALUE ...]

Every cell makes a net of one layer for the characters of Tiny Shakespeare, as wide as
the number of parameters allows. Its state is carried over 8 segments, and then begins
anew: a net that is seldom trained from zeros may get stuck there. First all take turns
at a few updates, on one thread, and what an update costs is kept in DIR/speeds.json:
the median over the rounds of its processor time beside the LSTM's. Then each is
trained for the updates that fit into the same seconds: up a list of learning rates, as
long as the next one is better, and from more seeds at the best. A run is a line of
DIR/runs.jsonl as soon as it is over: the same command, started again, makes those that
are missing. `--part 1/2` and `--part 2/2` share the cells between two processes.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks.sweep import BASELINE, Sweep  # noqa: E402
from jaxlstm.cells import CELLS  # noqa: E402

# The LSTM by other names, and the plain net with an option more.
LEFT_OUT = ("lstm_variant", "np_lstm", "leaky_rnn")
RATES = 4e-3, 1e-2, 2.5e-2, 6e-2, 0.15


def find_best(runs: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Returns each cell's runs at its best rate, by the first seed; best cell first."""
    by_cell: dict[str, dict[float, dict[int, dict[str, Any]]]] = {}
    for run in runs:
        rates = by_cell.setdefault(run["cell"], {})
        rates.setdefault(run["learning_rate"], {})[run["seed"]] = run
    best = {}
    for cell, rates in by_cell.items():
        own = min(rates.values(), key=lambda seeds: seeds[0]["validation"])
        best[cell] = [own[seed] for seed in sorted(own)]
    return dict(sorted(best.items(), key=lambda item: _mean(item[1])))


def _mean(runs: Sequence[dict[str, Any]]) -> float:
    return float(np.mean([run["validation"] for run in runs]))


def write_table(speeds: dict[str, Any], runs: Sequence[dict[str, Any]]) -> str:
    """Returns the table of the sweep, the best cell first.

    Args:
      speeds: what `Sweep.measure` returns.
      runs: what `Sweep.train` returned.
    """
    lines = [
        "| cell | H | parameters | ms an update | updates | rate | validation | each |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell, own in find_best(runs).items():
        speed, first = speeds[cell], own[0]
        each = ", ".join(f"{run['validation']:.3f}" for run in own)
        lines.append(
            f"| `{cell}` | {speed['hidden_size']} | {speed['parameters']:,} "
            f"| {1e3 * speed['seconds']:.1f} | {first['updates']:,} "
            f"| {first['learning_rate']:g} | {_mean(own):.3f} | {each} |"
        )
    return "\n".join(lines)


def parse_part(text: str) -> tuple[int, int]:
    """Returns n and N of "n/N"."""
    try:
        part, parts = map(int, text.split("/"))
    except ValueError:
        part, parts = 0, 0
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"{text}: write 1/2 for the first of two")
    return part, parts


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    cells = [name for name in CELLS if name not in LEFT_OUT]
    add("--out", type=Path, default=Path("runs/variants"), metavar="DIR")
    add("--cells", nargs="+", default=cells, metavar="NAME")
    add("--seconds", type=float, default=20.0, help="of each run's training")
    add("--parameters", type=int, default=100_000, metavar="N")
    add("--rates", nargs="+", type=float, default=RATES, metavar="R")
    add("--seeds", type=int, default=1, metavar="N")
    add("--rounds", type=int, default=5, help="in which the cells take turns")
    add("--part", type=parse_part, default=(1, 1), metavar="n/N")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the config")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.cells if name not in CELLS]
    if unknown:
        parser.error(f"--cells {unknown[0]}: unknown; use some of {', '.join(CELLS)}")
    if BASELINE not in options.cells:
        parser.error(f"--cells: leaves out {BASELINE}, which all are timed beside")
    for name in ("seconds", "parameters", "rounds", "seeds"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name} {getattr(options, name)}: is not positive")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the runs that are missing, and writes the table."""
    options = parse_arguments(arguments)
    sweep = Sweep(options.out, options.set, options.parameters)
    speeds = sweep.read_speeds(options.cells, options.rounds)
    part, parts = options.part
    for cell in options.cells[part - 1 :: parts]:
        rest = options.rates, options.seeds, speeds[cell], options.seconds
        for run in sweep.climb(cell, *rest):
            print(json.dumps(run), flush=True)
    text = write_table(speeds, sweep.read_runs()) + "\n"
    (options.out / "table.md").write_text(text)
    print(f"\n{text}", end="")


if __name__ == "__main__":
    # One thread, so that processor time is what an update costs, whatever else runs.
    # XLA reads it when JAX first asks for its devices.
    os.environ["NPROC"] = "1"
    main()
