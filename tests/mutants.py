"""Plants the faults of mutants.toml one by one, and shows that the tests catch each.

    python tests/mutants.py [NAME ...]

Each fault is planted in a copy of the tree, where the tests named beside it must
fail. Exits with 1 if a fault survives, or if the tests fail without one.
"""

import argparse
import collections
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_name("mutants.toml")
NOT_COPIED = (".git", ".venv*", "runs", "build", "dist", "__pycache__", ".*_cache")
TIMEOUT_SECONDS = 600

Outcome = Literal["passed", "caught", "survived", "broken"]


class Mutant(NamedTuple):
    """A fault to plant.

    Attributes:
      name: of the fault.
      file: where it is planted, relative to the root.
      old: what stands there, once.
      new: what takes its place.
      tests: what must catch it, as pytest names it.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


class Result(NamedTuple):
    """What a run of the tests came to.

    Attributes:
      name: of the fault, or of the tests where none was planted.
      outcome: "caught" is what a fault should come to. "broken" is one that shows
        nothing: it cannot be planted, or no test ran on it.
      seconds: that it took.
      detail: the test that caught it, or why nothing was shown.
    """

    name: str
    outcome: Outcome
    seconds: float
    detail: str


def read_table(path: Path = TABLE) -> list[Mutant]:
    """Returns the faults of a table, in its order."""
    with path.open("rb") as file:
        rows = tomllib.load(file)
    return [
        Mutant(name, row["file"], row["old"], row["new"], tuple(row["tests"]))
        for name, row in rows.items()
    ]


def plant(mutant: Mutant, root: Path) -> None:
    """Replaces the old text by the new one.

    Raises:
      ValueError: the old text does not occur exactly once.
    """
    path = root / mutant.file
    text = path.read_text()
    count = text.count(mutant.old)
    if count != 1 or mutant.old == mutant.new:
        raise ValueError(f"{mutant.file} has the old text {count} times, not once")
    path.write_text(text.replace(mutant.old, mutant.new))


def run_tests(tests: Iterable[str], root: Path) -> tuple[int, str]:
    """Runs tests up to the first failure; returns pytest's exit code and last line."""
    # What does not change with the fault is compiled once for all of them.
    cache = ROOT / ".pytest_cache"
    options = ["-x", "-q", "--no-header", "--tb=no", "-o", f"cache_dir={cache}"]
    # The path is for the processes that tests start: the package that is installed is
    # not the copy.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(root)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return -1, f"took longer than {TIMEOUT_SECONDS} seconds"
    lines = done.stdout.splitlines() or done.stderr.splitlines() or [""]
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, (failures or lines)[-1]


def judge(exit_code: int, *, planted: bool) -> Outcome:
    """Says what an exit code of pytest means, with a fault planted or without."""
    if exit_code == pytest.ExitCode.OK:
        return "survived" if planted else "passed"
    caught = planted and exit_code == pytest.ExitCode.TESTS_FAILED
    return "caught" if caught else "broken"


def try_tests(
    name: str, tests: Iterable[str], mutant: Mutant | None, root: Path = ROOT
) -> Result:
    """Runs tests in a copy of a tree, with a fault planted or without."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "tree")
        shutil.copytree(root, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
        try:
            if mutant is not None:
                plant(mutant, copy)
        except (OSError, ValueError) as error:
            return Result(name, "broken", 0.0, str(error))
        exit_code, detail = run_tests(tests, copy)
    outcome = judge(exit_code, planted=mutant is not None)
    return Result(name, outcome, time.monotonic() - start, detail)


def try_mutants(mutants: list[Mutant], jobs: int) -> Iterator[Result]:
    """Runs all named tests without a fault and, if they pass, each mutant's with it."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    sound = try_tests("no fault", ["-n", str(jobs), *tests], None)
    yield sound
    if sound.outcome == "passed":
        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(lambda m: try_tests(m.name, m.tests, m), mutants)


def main() -> int:
    """Prints a line for each run, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Plants faults; shows each one caught."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all faults")
    parser.add_argument("--jobs", type=int, default=2, help="how many run at a time")
    options = parser.parse_args()
    mutants = read_table()
    unknown = set(options.names) - {mutant.name for mutant in mutants}
    if unknown:
        parser.error(f"not in {TABLE.name}: {', '.join(sorted(unknown))}")
    chosen = [m for m in mutants if not options.names or m.name in options.names]
    counts: collections.Counter[Outcome] = collections.Counter()
    for name, outcome, seconds, detail in try_mutants(chosen, options.jobs):
        counts[outcome] += 1
        print(f"{outcome:9}{seconds:5.0f} s  {name:32}  {detail}", flush=True)
    print(f"{counts['caught']} of {len(chosen)} faults caught")
    return int(counts["caught"] != len(chosen))


if __name__ == "__main__":
    sys.exit(main())
