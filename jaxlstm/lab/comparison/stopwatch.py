"""Times of calls, on a machine that does other work as well.

What else a machine does only ever adds to a time. So a time is the least over rounds,
which is nearest to what the call alone takes and comes out alike again; the median
beside it tells the spread: half of the rounds took no longer. Of two whose ranges from
least to median overlap, none is the faster one.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

# Calls of which the least tells how long one takes, and seconds that are spent on them.
TRIALS, TRIAL_SECONDS = 5, 1.0


class Spread(NamedTuple):
    """What the times of several rounds come to, in seconds.

    Attributes:
      least: of all rounds.
      median: of them.
    """

    least: float
    median: float


def spread(seconds: Sequence[float]) -> Spread:
    """Returns least and median of one or more times."""
    ascending = sorted(seconds)
    half = (len(ascending) - 1) / 2
    middle = ascending[math.floor(half)] + ascending[math.ceil(half)]
    return Spread(ascending[0], middle / 2)


def count_calls(
    run: Callable[[int], float], shortest: float, most: int | None = None
) -> int:
    """Returns how many calls together take long enough for a clock.

    It goes by the least of several times at each step, so that a call that was held up
    does not pass for a long one.

    Args:
      run: makes so many calls, and returns their seconds together.
      shortest: seconds that are long enough.
      most: calls at most.
    """
    count = 1
    while True:
        least = _least(run, count)
        if least >= shortest or count == most:
            return count
        wanted = math.ceil(count * shortest / max(least, 1e-9))
        count = max(2 * count, wanted)
        count = count if most is None else min(count, most)


def take_seconds(call: Callable[[], Any]) -> float:
    """Returns the seconds of a call, until its results are there."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def _least(run: Callable[[int], float], count: int) -> float:
    times: list[float] = []
    while len(times) < TRIALS and sum(times) < TRIAL_SECONDS:
        times.append(run(count))
    return min(times)
