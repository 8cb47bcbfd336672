"""Races: what each estimator learns in as many updates, and in as much time."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax

from jaxlstm.lab.blocks import next_block
from jaxlstm.lab.comparison.lanes import Lane, Lanes, Track, UnequalSegments
from jaxlstm.lab.comparison.problem import Member, Part, Problem
from jaxlstm.lab.comparison.stopwatch import count_calls, spread, take_seconds
from jaxlstm.lab.experiment import make_optimizer

# How many points of a loss curve are measured where the config does not say.
NUM_POINTS = 10
# Of the time of an update: rounds, in which the members take turns, and how long a call
# is at least, of how many updates at most.
ROUNDS, SHORTEST_CALL, MOST_UPDATES = 9, 0.02, 32

Curves = list[list[float | None]]


def measure(
    problem: Problem,
    *,
    learning_rates: Sequence[float],
    num_seeds: int,
    num_updates: int,
) -> Part:
    """Trains every member from the start, each at the learning rate that suits it.

    A member is tuned with the first seed: that rate is taken which comes to the lowest
    loss at the end. It is then trained at it with further seeds. Everything else is as
    the config has it, so that a curve is that of `jaxlstm run` with this estimator,
    rate and seed.

    Equal seconds are those that the fastest member needs for all its updates. An
    update's time is the least over rounds of updates made alone, the members in turn:
    what else the machine does only adds to it. The median over rounds tells the spread.
    Compilation is not counted. Losses between points of a curve are interpolated, and
    those of a member that is stopped early are of a schedule that has not come to its
    end.

    Args:
      problem: what is trained on.
      learning_rates: the grid.
      num_seeds: how many seeds, from the config's on.
      num_updates: of each training.

    Returns:
      Values `learning_rates`, `updates` [the points], `seeds`, `split`, `num_updates`,
      `references`, and for each of `members`: `learning_rate`, with `edge` "low" or
      "high" where it is the last one of the grid on that side; `tuning`, the loss at
      the end by learning rate; `losses`, by seed and point; `seconds_per_update` and
      `seconds_per_update_median`; `at_equal_updates` and `at_equal_seconds` with mean,
      lowest and highest loss over seeds, and of the latter also over both times of an
      update: after `updates` by the least, `updates_low` by the median. A loss that is
      not finite is None, and so are all after it; of seeds of which one has none there
      is no mean.
    """
    config = problem.config
    split = next(iter(_measured_splits(problem)), "train")
    updates = _points(config.sections.train.eval_every, num_updates)
    if split == "train":
        updates = updates[1:]
    first = config.sections.seed
    seeds = [(first + n) % 2**32 for n in range(num_seeds)]

    devices = problem.experiment.trainer.mesh.devices.flat
    # A core makes one lane after the other, other devices make all at once.
    on_cores = devices[0].platform == "cpu"
    width = 1 if on_cores else max(len(learning_rates), num_seeds - 1)
    track = Track(problem, num_updates=num_updates, split=split, width=width)
    members = {}
    for member in problem.members:
        race = functools.partial(_race, track, member, learning_rates, seeds, updates)
        members[member.label] = dict(problem.keep(member.label, race).values)
    time_all = functools.partial(_time_updates, problem, num_updates)
    times = problem.keep("times of an update", time_all).values["seconds"]
    whole = min(each["least"] for each in times.values()) * num_updates
    for label, values in members.items():
        pace, curves = times[label], values["losses"]
        values["seconds_per_update"] = pace["least"]
        values["seconds_per_update_median"] = pace["median"]
        values["at_equal_updates"] = summarise([curve[-1] for curve in curves])
        quick, slow = (
            min(num_updates, math.floor(whole / pace[name] + 1e-9))
            for name in ("least", "median")
        )
        values["at_equal_seconds"] = {
            "seconds": whole,
            "updates": quick,
            "updates_low": slow,
            **summarise_early(updates, curves, quick, slow),
        }
    return Part(
        {
            "learning_rates": list(learning_rates),
            "updates": updates,
            "seeds": seeds,
            "split": split,
            "num_updates": num_updates,
            "members": members,
            "references": [
                {"label": reference.label, "loss": reference.loss}
                for reference in config.task.references()
            ],
        }
    )


def choose(losses: Sequence[float | None]) -> int | None:
    """Returns the place of the lowest loss; None where there is none at all."""
    finite = [n for n, loss in enumerate(losses) if loss is not None]
    return min(finite, key=lambda n: losses[n], default=None)  # type: ignore[arg-type]


def summarise(losses: Sequence[float | None]) -> dict[str, float | None]:
    """Returns mean, lowest and highest; None where a loss is missing."""
    found = [loss for loss in losses if loss is not None]
    if len(found) < len(losses) or not found:
        return {"mean": None, "low": None, "high": None}
    return {"mean": sum(found) / len(found), "low": min(found), "high": max(found)}


def summarise_early(
    updates: Sequence[int], curves: Curves, quick: int, slow: int
) -> dict[str, float | None]:
    """Returns the mean after `quick` updates, and the range from `slow` ones on.

    Args:
      updates: the points of the curves.
      curves: losses by seed and point.
      quick: updates that are made in a time, where nothing holds them up.
      slow: those that are made in it as often as not.
    """
    at_quick, at_slow = (
        [interpolate(updates, curve, update) for curve in curves]
        for update in (quick, slow)
    )
    found = summarise([*at_quick, *at_slow])
    if found["mean"] is None:
        return found
    return found | {"mean": summarise(at_quick)["mean"]}


def interpolate(
    updates: Sequence[int], losses: Sequence[float | None], update: int
) -> float | None:
    """Returns the loss after an update, on the line between those around it.

    It is None before the first point, and where one of the two has none.
    """
    after = next((n for n, u in enumerate(updates) if u >= update), None)
    if after is None or update < updates[0]:
        return None
    if updates[after] == update:
        return losses[after]
    low, high = losses[after - 1], losses[after]
    if low is None or high is None:
        return None
    before = updates[after - 1]
    return low + (high - low) * (update - before) / (updates[after] - before)


def _measured_splits(problem: Problem) -> list[str]:
    """Returns the splits that a loss can be measured on, the best suited one first."""
    return sorted(problem.config.task.splits, key=lambda name: name != "validation")


def _points(every: int | None, num_updates: int) -> list[int]:
    step = every or -(-num_updates // NUM_POINTS)
    return [*range(0, num_updates, step), num_updates]


def _race(
    track: Track,
    member: Member,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    updates: Sequence[int],
) -> Part:
    lanes, label = Lanes(track, member), member.label

    def train(wanted: Sequence[Lane], told: str) -> Curves:
        curves: Curves = []
        for n in range(0, len(wanted), track.width):
            part = wanted[n : n + track.width]
            which = f"{n + 1} to {n + len(part)} of {len(wanted)}"
            track.problem.progress(f"{label}, {told}: {which}")
            found = lanes.run(part, updates)
            curves += [
                [None if math.isnan(x) else x for x in row] for row in found.tolist()
            ]
        return curves

    grid = [Lane(seeds[0], rate) for rate in learning_rates]
    tuned = train(grid, "learning rates")
    best = choose([curve[-1] for curve in tuned])
    values: dict[str, Any] = {
        "learning_rate": None,
        "edge": None,
        "tuning": [curve[-1] for curve in tuned],
        "losses": [],
    }
    if best is None:
        return Part(values)
    edges = {0: "low", len(learning_rates) - 1: "high"}
    rate = learning_rates[best]
    others = [Lane(seed, rate) for seed in seeds[1:]]
    told = f"further seeds at {rate:g}"
    try:
        curves = train(others, told)
    except UnequalSegments:
        curves = [curve for lane in others for curve in train([lane], told)]
    return Part(
        values
        | {
            "learning_rate": rate,
            "edge": edges.get(best) if len(learning_rates) > 1 else None,
            "losses": [tuned[best], *curves],
        }
    )


def _time_updates(problem: Problem, num_updates: int) -> Part:
    """Returns the seconds of an update by each member, as `jaxlstm run` makes it."""
    experiment, section = problem.experiment, problem.config.sections
    source = experiment.source
    block, count = next_block(source, 0, MOST_UPDATES, MOST_UPDATES)
    calls, counts = {}, {}
    params = problem.snapshots[0].params
    for member in problem.members:
        problem.progress(f"{member.label}, the time of an update")
        trainer = experiment.trainer._replace(
            estimator=problem.estimator(member, problem.model()),
            optimizer=make_optimizer(problem.config, num_updates, source.num_segments),
        )
        key = jax.random.key(section.seed)
        state = trainer.init(key, experiment.batch_size, params)
        compiled = trainer.compile(state, block)
        call = functools.partial(_run, compiled, state, block)
        call(1)
        calls[member.label] = call
        counts[member.label] = count_calls(call, SHORTEST_CALL, count)
    problem.progress("the time of an update, all in turn")
    times: dict[str, list[float]] = {label: [] for label in calls}
    for _ in range(ROUNDS):
        for label, call in calls.items():
            times[label].append(call(counts[label]) / counts[label])
    spreads = {label: spread(each)._asdict() for label, each in times.items()}
    return Part({"seconds": spreads})


def _run(compiled: Any, state: Any, block: Any, count: int) -> float:
    return take_seconds(lambda: compiled(state, block, count))
