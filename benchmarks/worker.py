"""The process of one contestant: prepares it, and times it whenever it is asked to.

The first line on standard input says which contestant; each further one asks for a
measurement. Each line is JSON, and is answered by one line of JSON.
"""

import importlib
import json
import os
import statistics
import sys
import time
from typing import Any, TextIO

import numpy as np

from benchmarks.base import Prepared, Work


def prepare(task: dict[str, Any]) -> Prepared:
    """Makes a contestant ready, and saves the outputs of its first runs.

    Args:
      task: `use`, `options`, `size`, and `outputs`, the file that arrays named
        `quantity/name` are saved in.
    """
    module, _, function = task["use"].partition(":")
    make = getattr(importlib.import_module(module), function)
    prepared: Prepared = make(task["size"], **task["options"])
    arrays = {
        f"{quantity}/{name}": array
        for quantity, work in prepared.works.items()
        for name, array in work.outputs(work.run()).items()
    }
    np.savez(task["outputs"], **arrays)
    return prepared


def measure(work: Work, seconds: float) -> dict[str, Any]:
    """Runs for some seconds, at least once.

    Returns:
      `seconds`, the median time of one unit, and `runs`, of how many runs.
    """
    work.run()  # Wakes what slept while others had their turn.
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        work.run()
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times) / work.units, "runs": len(times)}


def take_stdout() -> TextIO:
    """Returns standard output; what others print there goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def main() -> None:
    """Answers until standard input ends."""
    answers = take_stdout()
    task = json.loads(sys.stdin.readline())
    try:
        prepared = prepare(task)
    except Exception as error:
        # Imported here: a peer's process has no need of it.
        from jaxlstm.lab.errors import UserError

        if not isinstance(error, UserError):
            raise
        for line in error.lines:
            print(f"{task['use']}: {line}", file=sys.stderr)
        sys.exit(2)
    facts = {"device": prepared.device, "quantities": list(prepared.works)}
    print(json.dumps(facts), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        answer = measure(prepared.works[request["quantity"]], request["seconds"])
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
