"""Times side by side with peers.

    python benchmarks/run.py [NAME ...] [--size SIZE] [--rounds N] [--out FILE]

Every contestant has a process of its own; they take turns for several rounds, and
ratios are those within one round. Outputs are compared before anything is timed.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.base import Benchmark, Size
from benchmarks.contest import BenchmarkError, hold
from benchmarks.report import describe_machine, to_json, to_table
from benchmarks.table import BENCHMARKS


def choose_size(benchmark: Benchmark, text: str | None) -> Size:
    """Returns a size of a benchmark.

    Args:
      benchmark: has the sizes.
      text: a size's name, or `AXIS=N,...` for what is unlike the default; None for
        the default.

    Raises:
      ValueError: it is neither.
    """
    if text is None:
        return benchmark.default_size
    if text in benchmark.sizes:
        return benchmark.sizes[text]
    size = dict(benchmark.default_size)
    for part in text.split(","):
        axis, _, number = part.partition("=")
        if axis not in size or not number.isdecimal() or not int(number):
            raise ValueError(
                f"--size {text}: {benchmark.name} has {', '.join(benchmark.sizes)}, or "
                f"AXIS=N,... of {', '.join(size)}"
            )
        size[axis] = int(number)
    return size


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the options; `sizes` are those of the benchmarks named."""
    sizes = [f"{b.name}: {', '.join(b.sizes)}" for b in BENCHMARKS.values()]
    parser = argparse.ArgumentParser(
        description="Times side by side with peers.",
        epilog=f"Benchmarks and their sizes: {'; '.join(sizes)}.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="benchmarks; default: all"
    )
    parser.add_argument("--size", help="a name, or AXIS=N,... such as T=64,B=8")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="default: 7")
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.5,
        metavar="S",
        help="least time of one measurement; default: 0.5",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON file to write all figures to"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        known = ", ".join(BENCHMARKS)
        parser.error(f"{', '.join(unknown)}: no such benchmark; there are {known}")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: use 1 or more")
    if options.seconds < 0:
        parser.error(f"--seconds {options.seconds}: use 0 or more")
    if options.out is not None and not options.out.parent.is_dir():
        parser.error(f"--out {options.out}: no folder {options.out.parent}; make it")
    options.names = options.names or list(BENCHMARKS)
    try:
        options.sizes = {
            name: choose_size(BENCHMARKS[name], options.size) for name in options.names
        }
    except ValueError as error:
        parser.error(str(error))
    return options


def main() -> int:
    """Runs the benchmarks, and returns the exit code."""
    options = parse_arguments()
    machine = describe_machine()
    results = []
    for name, size in options.sizes.items():
        try:
            result = hold(
                BENCHMARKS[name],
                size,
                rounds=options.rounds,
                seconds=options.seconds,
                say=lambda line: print(line, file=sys.stderr, flush=True),
            )
        except BenchmarkError as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        print(to_table(result, machine, options.rounds), end="\n\n", flush=True)
        results.append(to_json(result))
    if options.out is not None:
        report = {"machine": machine, "rounds": options.rounds, "results": results}
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
