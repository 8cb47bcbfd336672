"""Times come out alike on a machine that does other work as well."""

from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from jaxlstm.lab.comparison.stopwatch import (
    TRIALS,
    Spread,
    count_calls,
    spread,
    take_seconds,
)


class Machine:
    """Takes some seconds a call, and more where it is held up.

    Attributes:
      made: how many calls each run was of.
    """

    def __init__(self, seconds: float, holdups: Iterator[float]):
        self._seconds, self._holdups = seconds, holdups
        self.made: list[int] = []

    def __call__(self, count: int) -> float:
        self.made.append(count)
        return count * self._seconds + next(self._holdups)


@pytest.mark.parametrize("held_up", range(TRIALS - 1))
def test_call_that_is_held_up_does_not_pass_for_a_long_one(held_up):
    holdups = chain(repeat(0.1, held_up), repeat(0.0))
    assert count_calls(Machine(0.0002, holdups), 0.02) == 100


def test_calls_that_begin_slowly_become_more():
    class Begins(Machine):
        def __call__(self, count: int) -> float:
            return super().__call__(count) + 0.005

    # 5.2 ms for the first, 5.8 ms for four: only many take long enough.
    count = count_calls(Begins(0.0002, repeat(0.0)), 0.02)
    assert count * 0.0002 + 0.005 >= 0.02
    assert count < 200


def test_calls_are_as_many_as_there_may_be():
    assert count_calls(Machine(0.0002, repeat(0.0)), 0.02, most=32) == 32
    assert count_calls(Machine(0.0002, repeat(0.0)), 0.02, most=1) == 1


def test_slow_call_is_made_once():
    machine = Machine(3.0, repeat(0.0))
    assert count_calls(machine, 0.02) == 1
    assert machine.made == [1]


def test_spread_is_least_and_median():
    assert spread([3.0, 1.0, 9.0]) == Spread(1.0, 3.0)
    assert spread([3.0, 1.0, 9.0, 4.0]) == Spread(1.0, 3.5)
    assert spread([2.0]) == Spread(2.0, 2.0)


def test_call_is_made_once_and_its_time_taken():
    calls = []
    assert take_seconds(lambda: calls.append(1)) > 0
    assert calls == [1]
