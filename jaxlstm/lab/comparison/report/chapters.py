"""The chapters of a report: the tables of each part, and how to read them."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from jaxlstm.lab.comparison.report import flow_tables, tables
from jaxlstm.lab.comparison.report.looks import pick_snapshots
from jaxlstm.lab.comparison.report.markdown import join, plain, show, show_number
from jaxlstm.lab.comparison.report.material import Values


class Chapter(NamedTuple):
    """A chapter of a report.

    Attributes:
      heading: what it is on.
      lines: that stand below it.
      pictures: that stand below these, by the names in `PICTURES`.
    """

    heading: str
    lines: list[str]
    pictures: tuple[str, ...] = ()


def _accuracy(values: Values) -> Iterator[Chapter]:
    windows, segments = values["num_windows"], values["segments_per_window"]
    last = values["snapshots"][-1]["update"]
    yield Chapter(
        "Direction",
        [
            f"Over {show_number(windows, 'window')} of "
            f"{show_number(segments, 'segment')}, the mean of up to "
            f"{show_number(values['num_draws'], 'draw')} in each, beside the exact "
            "gradient of the windows, in float64. Columns name the update of the "
            "reference run.",
            "",
            *tables.direction(values),
        ],
        ("reach", "alignment"),
    )
    yield Chapter(
        "Direction by layer and gate",
        [f"Cosine / norm ratio after update {last:,}.", "", *tables.blocks(values)],
    )
    lines = [
        "In units of the exact gradient's norm; variances are sums over all "
        "parameters, in units of its square. The noise floor is what an unbiased "
        "estimator's mean over so many draws is off by. A bias up to twice of it may "
        "be chance, and is told as less than that.",
        "",
    ]
    for snapshot in pick_snapshots(values["snapshots"]):
        exact = snapshot["exact"]
        own = "a single window does not tell the exact gradient's variance over data"
        if exact["data_variance"] is not None:
            variance = show(exact["data_variance"])
            own = f"the exact gradient's own variance over data is {variance}"
        lines += [
            f"After update {snapshot['update']:,}; {own}; its norm is "
            f"{show(exact['norm'])}:",
            "",
            *tables.bias(snapshot, windows),
        ]
    yield Chapter("Bias and variance", lines, ("bias_variance",))


def _costs(values: Values) -> Iterator[Chapter]:
    length, batch = values["segment_length"], values["batch_size"]
    yield Chapter(
        "Costs",
        [
            f"Of a segment of {show_number(length, 'step')}, batch {batch}: its time, "
            "the least over repeats, as what else the machine does only adds to it, "
            "and the median, which half of them stay below; the most memory that is in "
            "use while it is computed, beside what goes in and out; what is carried to "
            "the next segment; operations on floating-point numbers.",
            "",
            *tables.costs(values),
        ],
    )
    yield Chapter(
        "Growth with the length of a segment",
        [
            "The power of T with which each cost grows: 0 is the same for any length, "
            "1 is in proportion. Of time, the least over repeats, and only where "
            "their median would leave it in doubt by less than half a power.",
            "",
            *tables.growth(values),
        ],
        ("scaling",),
    )


def _races(values: Values) -> Iterator[Chapter]:
    rates = join([f"{rate:g}" for rate in values["learning_rates"]])
    few = len(values["learning_rates"]) == 1
    tuned = f"at the learning rate {rates}" if few else f"at the best rate of {rates}"
    over = f"of {show_number(len(values['seeds']), 'seed')}"
    over = over if len(values["seeds"]) == 1 else f"mean and range {over}"
    yield Chapter(
        "Training by each estimator",
        [
            f"Loss on the {plain(values['split'])} split, {over}, each {tuned}. Equal "
            "seconds are those that the fastest needs for all its updates; an update's "
            "time is the least over rounds, as what else the machine does only adds to "
            "it, and a range after equal seconds is also over the updates that the "
            "median time allows. Whoever they stop has not come to the end of its "
            "learning rate's schedule, and stands beside others that have; its loss is "
            "interpolated between points of its curve, to the digits that this bears.",
            "",
            *tables.races(values),
        ],
        ("races",),
    )


def _lags(values: Values) -> Iterator[Chapter]:
    yield Chapter(
        "How far back to go",
        [
            "The least number of steps from which on every longer truncation keeps a "
            "cosine with the exact gradient; and cosine / norm ratio of truncations.",
            "",
            *tables.advice(values),
        ],
        ("advice",),
    )
    last = values["snapshots"][-1]["update"]
    yield Chapter(
        "By which way the gradient comes",
        [
            "Shares of the exact gradient, which add up to 100 %; below zero they "
            "work against the others.",
            "",
            *tables.paths(values),
            f"By the weights that are reached, after update {last:,}:",
            "",
            *tables.path_gates(values),
        ],
        ("paths",),
    )


def _flow(values: Values) -> Iterator[Chapter]:
    yield Chapter(
        "Gradient flow",
        [
            "Norms of the gradient of the loss by states and inputs.",
            "",
            *flow_tables.flow(values),
            "How much of a change of the state is left, \\|ds_t/ds_{t-k}\\|:",
            "",
            *flow_tables.jacobians(values),
        ],
        ("flow",),
    )
    yield Chapter(
        "Gates",
        [
            "Shares of units and steps at which a gate is nearly closed (low) and "
            "nearly open (high).",
            "",
            *flow_tables.saturation(values),
            "Norms of the terms of a step's derivatives, by the gate that they use:",
            "",
            *flow_tables.terms(values),
        ],
        ("gates",),
    )


def _vanishing(values: Values) -> Iterator[Chapter]:
    if not values["curves"]:
        return
    yield Chapter(
        "Where gradients vanish",
        [
            "Fresh nets: the factor by which \\|ds_t/ds_{t-k}\\| fades with k, fitted: "
            "at the fixed point beside its prediction; driven by inputs beside a lower "
            "bound for the RNN, and what the memory alone keeps for GRU and LSTM.",
            "",
            *flow_tables.vanishing(values),
        ],
        ("vanishing",),
    )


CHAPTERS: Mapping[str, Callable[[Values], Iterator[Chapter]]] = {
    "accuracy": _accuracy,
    "costs": _costs,
    "races": _races,
    "lags": _lags,
    "flow": _flow,
    "vanishing": _vanishing,
}
