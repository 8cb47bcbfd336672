"""The sentences at the head of a report say what the figures say."""

from pathlib import Path
from typing import Any

import pytest

from jaxlstm.lab.comparison.report.material import Material
from jaxlstm.lab.comparison.report.summary import summarise
from tests.lab.comparison import parts


def say(**made: Any) -> str:
    return " ".join(summarise(Material(Path(), {}, {}, made, None)))


def test_whole_comparison_takes_six_sentences():
    made = {name: make() for name, make in parts.MAKERS.items()}
    assert len(summarise(Material(Path(), {}, {}, made, None))) == 6


def test_nothing_is_said_of_what_was_not_measured():
    assert say() == "Nothing has been measured yet."


def test_exact_ones_are_named():
    text = say(accuracy=parts.make_accuracy())
    assert text.startswith("`bptt` gives the exact gradient of a window, to rounding,")


def test_exact_at_one_snapshot_alone_is_not_exact():
    accuracy = parts.make_accuracy()
    accuracy["snapshots"][1]["members"]["bptt"]["frozen"]["relative_bias"] = 0.001
    assert say(accuracy=accuracy).startswith(
        "No estimator gives the exact gradient of a window; the nearest is `bptt`, "
        "whose mean is off by at most 0.00100 of it."
    )


def test_cheapest_of_those_that_keep_the_direction():
    accuracy, costs = parts.make_accuracy(), parts.make_costs()
    for snapshot in accuracy["snapshots"]:
        for label, cosine in [("tbptt(horizon=4)", 0.991), ("h_detach", 0.99)]:
            snapshot["members"][label]["frozen"]["cosine"] = cosine
    text = say(accuracy=accuracy, costs=costs)
    assert "Of 12 estimators, 3 keep a cosine of 0.99 at every snapshot" in text
    assert "; the fastest is `tbptt(horizon=4)`, with 1.10 ms a segment." in text
    # Its median is beyond the least of another.
    costs["members"]["tbptt(horizon=4)"]["seconds"]["median"] = 1.21e-3
    assert (
        "; among the fastest are `tbptt(horizon=4)` and `bptt`, with 1.10 ms a segment."
    ) in say(accuracy=accuracy, costs=costs)
    accuracy["snapshots"][0]["members"]["tbptt(horizon=4)"]["frozen"]["cosine"] = 0.98
    text = say(accuracy=accuracy, costs=costs)
    assert "Of 12 estimators, 2 keep" in text and "`bptt`, with 1.20 ms" in text
    assert "fastest" not in say(accuracy=accuracy)
    accuracy["snapshots"][0]["members"]["h_detach"]["frozen"]["cosine"] = 0.98
    text = say(accuracy=accuracy, costs=costs)
    assert "`bptt` alone, of 12, keeps a cosine of 0.99 at every snapshot" in text


def test_nobody_keeps_the_direction():
    accuracy = parts.make_accuracy()
    accuracy["snapshots"][0]["members"]["bptt"]["frozen"]["cosine"] = None
    text = say(accuracy=accuracy, costs=parts.make_costs())
    assert "No estimator keeps a cosine of 0.99 at every snapshot." in text
    assert "The cosine of `bptt` is not known at every snapshot." in text


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        (37, "37 steps keep a cosine of 0.99"),
        (1, "one step keeps a cosine of 0.99"),
        (None, "no truncation within 50 steps keeps a cosine of 0.99"),
    ],
)
def test_truncation(steps, told):
    lags = parts.make_lags()
    lags["snapshots"][-1]["keeps"]["0.99"] = steps
    text = say(lags=lags)
    assert text.startswith(f"After update 500, {told} with the exact gradient; ")
    share = 100 * lags["snapshots"][-1]["path_shares"]["by_route"]["state alone"]
    end = f'the largest share of that, {share:.1f} %, comes by "state alone".'
    assert text.endswith(end)


def test_winner_and_who_is_within_its_range():
    races = parts.make_races()
    ends = races["members"]["eprop"]
    end = {"updates": 200, "mean": 0.4, "low": 0.39, "high": 0.41}
    ends["at_equal_seconds"] |= end
    steps = "At equal steps `bptt` has the lowest validation loss, 0.4571"
    assert say(races=races) == (
        f"{steps}; at equal seconds `eprop` has the lowest validation loss, 0.4000."
    )
    ends["at_equal_seconds"]["high"] = 0.4552
    assert say(races=races) == (
        f"{steps}; at equal seconds `eprop` and `bptt` are level, within the spread of "
        "seeds and of times, at a validation loss near 0.4000."
    )
    ends["at_equal_updates"] |= {"mean": 0.47, "low": 0.458, "high": 0.48}
    assert f"{steps} (within the range of its seeds: `eprop`);" in say(races=races)


def test_who_did_not_learn_wins_nothing():
    races = parts.make_races()
    for label, member in races["members"].items():
        if label not in ("uoro", parts.REFUSED):
            far = {"mean": 4.644e29, "low": 4.6e29, "high": 4.7e29}
            member["at_equal_updates"] = far
            member["at_equal_seconds"] |= far
    assert "`uoro` has the lowest validation loss, 0.6309;" in say(races=races)
    races["members"]["uoro"] = races["members"]["bptt"]
    assert say(races=races) == (
        "At equal steps no estimator has learnt; at equal seconds no estimator has "
        "learnt."
    )


def test_one_seed_tells_no_spread():
    races = parts.make_races()
    assert "seed," not in say(races=races)
    text = say(races=races | {"seeds": [0]})
    assert text.endswith("With one seed, what another one would change is not known.")


def test_diverged_ones_win_nothing():
    races = parts.make_races()
    none = {"mean": None, "low": None, "high": None}
    for label, member in races["members"].items():
        if label not in ("uoro", parts.REFUSED):
            member["at_equal_updates"] |= none
            member["at_equal_seconds"] |= none
    assert "`uoro` has the lowest validation loss, 0.6309;" in say(races=races)


@pytest.mark.parametrize(
    ("norms", "told"),
    [
        ([0.5, 0.009, 0.02, 0.001], "falls below 1 % after 8 steps"),
        ([0.5, 0.4, 0.3, 0.2], "stays above 1 % over all 8 steps"),
        ([0.5, None, 0.001, 0.0], "falls below 1 % after 4 steps"),
    ],
)
def test_where_the_gradient_vanishes(norms, told):
    flow = parts.make_flow()
    flow["snapshots"][-1]["jacobians"] |= {"k": [1, 2, 4, 8], "spectral": norms}
    assert told in say(flow=flow)


def test_fastest_and_slowest_rate():
    text = say(vanishing=parts.make_vanishing())
    expected = "fastest in rnn, gain 0.5, by a factor of 0.490 a step (0.500 predicted)"
    assert expected in text
    assert text.endswith("in rnn, gain 2.0 the factor is 1.40.")
