"""Races: lanes beside training alone, and what is made of their curves."""

import jax
import numpy as np
import pytest

from jaxlstm.lab.comparison import races
from jaxlstm.lab.comparison.lanes import Lane, Lanes, Track, UnequalSegments, stack
from jaxlstm.lab.comparison.problem import Member, Part, Problem, Snapshot
from jaxlstm.lab.config import load_config
from jaxlstm.lab.experiment import build
from jaxlstm.lab.task import Source
from jaxlstm.lab.training import fit
from tests.lab import tiny

UPDATES = [0, 3, 7]
OVERRIDES = "model.dtype=float64", "train.num_updates=7", "optimizer.clip.norm=1"
SECTION = """
[compare]
estimators = [
    "bptt", "rtrl", "uoro", { name = "tbptt", horizon = 3, stride = 2 },
    { name = "pes", num_particles = 4, sigma = 0.1 },
]
"""


@pytest.fixture
def make_problem(tmp_path):
    """Makes the problem of the tiny task in float64, whose gradient is clipped."""

    def make(*overrides: str) -> Problem:
        path = tmp_path / "tiny.toml"
        path.write_text(tiny.CONFIG + SECTION)
        config = load_config(path, [*OVERRIDES, *overrides])
        experiment = build(config)
        members = tuple(Member(*each) for each in config.members)
        params = jax.device_get(experiment.trainer.model.init(jax.random.key(0)))
        return Problem(experiment, members, (Snapshot(0, params),))

    return make


def train_alone(
    problem: Problem, member: Member, lane: Lane, *overrides: str
) -> list[float]:
    """Trains by `Trainer` and measures by `Evaluator`, as a run does."""
    path = problem.config.folder / "tiny.toml"
    own = f"seed={lane.seed}", f"optimizer.learning_rate={lane.learning_rate}"
    overrides = *OVERRIDES, *own, *overrides
    experiment = build(load_config(path, overrides))
    trainer = experiment.trainer._replace(
        estimator=problem.estimator(member, experiment.trainer.model)
    )
    state = trainer.init(jax.random.key(lane.seed), experiment.batch_size)
    losses, number = [], 0

    def measure(params):
        source = experiment.split("validation")
        losses.append(experiment.evaluator(params, source, 2)["loss"])

    measure(state.params)
    for block in fit(trainer, state, experiment.source, lambda n: min(n + 1, 7), 1):
        number += len(block.metrics.loss)
        if number in UPDATES and len(block.metrics.loss):
            measure(block.state.params)
    return losses


# The schedule's factor is computed in float32.
COSINE = "optimizer.schedule={name='cosine',warmup=2}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "overrides", "tolerance"),
    [*[(number, [], 1e-11) for number in range(5)], (0, [COSINE], 1e-7)],
    ids=["bptt", "rtrl", "uoro", "tbptt", "pes", "schedule"],
)
def test_lanes_are_what_trains_alone(number, overrides, tolerance, make_problem):
    problem = make_problem(*overrides)
    member = problem.members[number]
    track = Track(problem, num_updates=7, split="validation", width=1)
    lanes = [Lane(0, 0.05), Lane(5, 0.2)][: track.width]
    found = Lanes(track, member).run(lanes, UPDATES)
    expected = [train_alone(problem, member, lane, *overrides) for lane in lanes]
    assert track.width == len(jax.devices())
    np.testing.assert_allclose(found, expected, rtol=tolerance)
    assert len(np.unique(found)) == found.size


@pytest.mark.slow
def test_losses_of_training_are_those_of_its_updates(make_problem):
    problem = make_problem()
    member = problem.members[0]
    track = Track(problem, num_updates=7, split="train", width=1)
    (found,) = Lanes(track, member).run([Lane(0, 0.05)], UPDATES[1:])

    trainer = problem.experiment.trainer
    state = trainer.init(jax.random.key(0), 2)
    stops = lambda n: min(n + 7, 7)  # noqa: E731
    *_, block = fit(trainer, state, problem.experiment.source, stops, 7)
    loss, weight = (np.asarray(x) for x in block.metrics[:2])
    assert len(loss) < 7, "the first call takes one update"
    expected = np.sum(loss[-4:]) / np.sum(weight[-4:])
    np.testing.assert_allclose(found[1], expected, rtol=1e-11)


@pytest.mark.slow
def test_race_takes_the_rate_that_ends_lowest_and_goes_on_from_pieces(make_problem):
    kept: dict[str, Part] = {}

    def keep(name, measure):
        if name not in kept:
            kept[name] = measure()
        return kept[name]

    told = []
    problem = make_problem()
    problem = problem._replace(members=problem.members[:2], keep=keep)
    rates = [1e-3, 5e-2, 1e300]

    def measure():
        own = problem._replace(progress=told.append)
        return races.measure(own, learning_rates=rates, num_seeds=3, num_updates=7)

    values = measure().values
    assert set(kept) == {"bptt", "rtrl", "times of an update"}
    assert values["updates"] == [0, 6, 7] and values["seeds"] == [0, 1, 2]
    assert values["split"] == "validation"
    for label, member in values["members"].items():
        low, high, diverged = member["tuning"]
        assert diverged is None and high < low, label
        assert member["learning_rate"] == 5e-2 and member["edge"] is None
        assert member["losses"][0][-1] == high
        finals = [losses[-1] for losses in member["losses"]]
        assert len(set(finals)) == 3
        assert member["at_equal_updates"] == {
            "mean": pytest.approx(np.mean(finals)),
            "low": min(finals),
            "high": max(finals),
        }
    seconds = {k: m["seconds_per_update"] for k, m in values["members"].items()}
    for member in values["members"].values():
        within = member["at_equal_seconds"]
        assert within["seconds"] == pytest.approx(7 * min(seconds.values()))
        spent = within["updates"] * member["seconds_per_update"]
        assert spent <= within["seconds"] * (1 + 1e-6)
        assert within["updates"] == 7 or spent > (
            within["seconds"] - member["seconds_per_update"]
        )
        assert 0 < member["seconds_per_update"] <= member["seconds_per_update_median"]
        slow = within["seconds"] / member["seconds_per_update_median"]
        assert within["updates_low"] == min(7, int(slow + 1e-9)) <= within["updates"]

    count = len(told)
    assert measure().values == values and len(told) == count


@pytest.mark.parametrize(
    ("losses", "best"),
    [([0.5, 0.2, 0.3], 1), ([None, 0.4], 1), ([None, None], None), ([0.1, 0.1], 0)],
)
def test_what_diverged_is_never_chosen(losses, best):
    assert races.choose(losses) == best


def test_seeds_of_which_one_diverged_have_no_mean():
    assert races.summarise([1.0, 2.0, 6.0]) == {"mean": 3.0, "low": 1.0, "high": 6.0}
    nothing = {"mean": None, "low": None, "high": None}
    assert races.summarise([1.0, None]) == nothing
    assert races.summarise([]) == nothing


@pytest.mark.parametrize(
    ("update", "loss"),
    [(0, 8.0), (5, 6.0), (10, 4.0), (12, 3.6), (20, 2.0), (25, None), (31, None)],
)
def test_losses_between_points_lie_on_lines(update, loss):
    found = races.interpolate([0, 10, 20, 30], [8.0, 4.0, 2.0, None], update)
    assert found == (None if loss is None else pytest.approx(loss))


def test_before_the_first_point_there_is_no_loss():
    assert races.interpolate([5, 10], [2.0, 1.0], 4) is None


def test_range_within_a_time_is_over_seeds_and_over_times():
    curves: races.Curves = [[8.0, 4.0, 2.0], [9.0, 5.0, 1.0]]
    found = races.summarise_early([0, 10, 20], curves, 15, 10)
    assert found == {"mean": 3.0, "low": 3.0, "high": 5.0}
    found = races.summarise_early([5, 10, 20], curves, 15, 4)
    assert found == {"mean": None, "low": None, "high": None}


def test_segments_of_other_shapes_are_no_lanes():
    def source(length):
        return Source(lambda start, count: np.zeros((count, length, 2)), None)  # type: ignore[arg-type]

    stacked, count = stack([source(4), source(4)], 0, 3, 5)
    assert stacked.shape == (2, 5, 4, 2) and count == 3
    with pytest.raises(UnequalSegments):
        stack([source(4), source(3)], 0, 3, 5)
