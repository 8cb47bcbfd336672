"""A contest: every contestant in a process of its own, in turn, for several rounds."""

import contextlib
import importlib.metadata
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.base import Benchmark, Contestant, Size

ROOT = Path(__file__).parents[1]

# What a figure depends on beside the needs of the contestants.
PACKAGES = ("jaxlstm", "jax", "jaxlib", "numpy")


class BenchmarkError(Exception):
    """A contestant failed, or computes something else than the others."""


class Measurement(NamedTuple):
    """One contestant's turn.

    Attributes:
      round: its number, from 0.
      quantity: what was timed.
      contestant: by name.
      seconds: median time of one unit.
      runs: of how many runs.
    """

    round: int
    quantity: str
    contestant: str
    seconds: float
    runs: int


class Result(NamedTuple):
    """What a contest came to.

    Attributes:
      benchmark: the contest.
      size: of the problem.
      devices: what each contestant ran on.
      left_out: why, by name of the contestant.
      differences: of each contestant's outputs from those of the first, in units of
        the largest entry of the array that differs most.
      versions: of the packages that took part.
      measurements: in the order in which they were made.
    """

    benchmark: Benchmark
    size: Size
    devices: Mapping[str, str]
    left_out: Mapping[str, str]
    differences: Mapping[str, float]
    versions: Mapping[str, str]
    measurements: list[Measurement]


class Worker:
    """A contestant's process, as seen from outside.

    Attributes:
      name: of the contestant.
      device: what it runs on.
      quantities: what it can compute.
      outputs: arrays by `quantity/name`.
    """

    def __init__(self, contestant: Contestant, size: Size, folder: Path):
        self.name = contestant.name
        # As the peers are: a figure must not depend on whether there is a GPU.
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is for the parent, which ends its workers.
            start_new_session=True,
        )
        file = folder / "outputs.npz"
        try:
            facts = self._ask(
                use=contestant.use,
                options=contestant.options,
                size=size,
                outputs=str(file),
            )
        except BaseException:
            self.close()
            raise
        self.device: str = facts["device"]
        self.quantities: list[str] = facts["quantities"]
        with np.load(file) as arrays:
            self.outputs = dict(arrays)
        file.unlink()

    def measure(self, quantity: str, seconds: float) -> dict[str, Any]:
        """Returns the median time of one unit, and of how many runs it is."""
        return self._ask(quantity=quantity, seconds=seconds)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # Where the process has ended, what it wrote last says why.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise BenchmarkError(
                f"{self.name}: its process ended with exit code {self._process.wait()}"
                "; what it wrote above says why"
            )
        return json.loads(answer)


def hold(
    benchmark: Benchmark,
    size: Size,
    *,
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
) -> Result:
    """Lets the contestants take turns.

    Args:
      benchmark: the contest.
      size: of the problem.
      rounds: how many turns each contestant has.
      seconds: least time of a turn, for each quantity.
      say: is told what is going on.

    Raises:
      BenchmarkError: a process failed, outputs differ, or nobody can take part.
    """
    left_out = find_left_out(benchmark)
    present = [c for c in benchmark.contestants if c.name not in left_out]
    if not present:
        remedy = next(iter(left_out.values()))
        raise BenchmarkError(f"{benchmark.name}: nobody can take part; {remedy}")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        workers = []
        for contestant in present:
            say(f"{benchmark.name}: {contestant.name} prepares")
            worker = Worker(contestant, size, Path(folder))
            stack.callback(worker.close)
            workers.append(worker)
        differences = compare(workers, benchmark.tolerance)
        measurements = []
        for number in range(rounds):
            say(f"{benchmark.name}: round {number + 1} of {rounds}")
            measurements += take_turns(benchmark, workers, number, seconds)
    return Result(
        benchmark,
        size,
        {worker.name: worker.device for worker in workers},
        left_out,
        differences,
        find_versions(present),
        measurements,
    )


def take_turns(
    benchmark: Benchmark, workers: list[Worker], number: int, seconds: float
) -> Iterator[Measurement]:
    """Yields the measurements of one round."""
    for quantity in benchmark.quantities:
        for worker in workers:
            if quantity in worker.quantities:
                answer = worker.measure(quantity, seconds)
                yield Measurement(number, quantity, worker.name, **answer)


def compare(workers: list[Worker], tolerance: float) -> dict[str, float]:
    """Returns by how much each worker's outputs differ from those of the first.

    Raises:
      BenchmarkError: by more than the tolerance.
    """
    first, *others = workers
    differences = {}
    for worker in others:
        name, difference = largest_difference(worker.outputs, first.outputs)
        if difference > tolerance:
            raise BenchmarkError(
                f"{worker.name}: its {name} differs from that of {first.name} by "
                f"{difference:.2g} of the largest entry; at most {tolerance:g} is "
                "rounding"
            )
        differences[worker.name] = difference
    return differences


def largest_difference(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> tuple[str, float]:
    """Returns the array that differs most, and by how much of its largest entry.

    Args:
      found: by `quantity/name`. Not every quantity that is expected has to be there.
      expected: by `quantity/name`.
    """
    quantities = {name.partition("/")[0] for name in found}
    due = {name for name in expected if name.partition("/")[0] in quantities}
    differences = {
        name: relative_error(found.get(name), expected.get(name))
        for name in sorted(due | set(found))
    }
    nothing = "outputs", math.inf
    return max(differences.items(), key=lambda item: item[1], default=nothing)


def relative_error(found: np.ndarray | None, expected: np.ndarray | None) -> float:
    """Returns the largest error, in units of the largest expected entry.

    It is infinite for arrays of different shape or dtype, one that is missing, NaN,
    and where nothing but zeros is expected, which shows nothing.
    """
    if found is None or expected is None:
        return math.inf
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return math.inf
    error = float(np.max(np.abs(found - expected), initial=0.0))
    largest = float(np.max(np.abs(expected), initial=0.0))
    return error / largest if math.isfinite(error) and largest > 0 else math.inf


def find_left_out(benchmark: Benchmark) -> dict[str, str]:
    """Returns the contestants that are not installed, each with the remedy."""
    left_out = {}
    for contestant in benchmark.contestants:
        missing = [
            need for need in contestant.needs if find_version(need.package) is None
        ]
        if missing:
            packages = " and ".join(need.package for need in missing)
            extras = ",".join(sorted({need.extra for need in missing}))
            left_out[contestant.name] = (
                f"{packages} not installed; pip install -e '.[{extras}]'"
            )
    return left_out


def find_versions(contestants: list[Contestant]) -> dict[str, str]:
    """Returns the versions of what the contestants' figures depend on."""
    needed = [need.package for c in contestants for need in c.needs]
    names = dict.fromkeys([*PACKAGES, *needed])
    versions = {name: find_version(name) for name in names}
    return {name: version for name, version in versions.items() if version is not None}


def find_version(package: str) -> str | None:
    """Returns the version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
