"""The chapters of a report: the tables of each part, and how to read them."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from jaxlstm.lab.comparison.report import flow_tables, tables
from jaxlstm.lab.comparison.report.looks import pick_snapshots
from jaxlstm.lab.comparison.report.markdown import join, plain, show
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
            f"Over {windows} windows of {segments} segments, the mean of up to "
            f"{values['num_draws']} draws in each, beside the exact gradient of the "
            "windows, in float64. Columns name the update of the reference run.",
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
        "estimator's mean over so many draws is off by: a bias below it cannot be "
        "seen, and one up to about twice of it may be chance.",
        "",
    ]
    for snapshot in pick_snapshots(values["snapshots"]):
        exact = snapshot["exact"]
        lines += [
            f"After update {snapshot['update']:,}; the exact gradient's own variance "
            f"over data is {show(exact['data_variance'])}, its norm "
            f"{show(exact['norm'])}:",
            "",
            *tables.bias(snapshot),
        ]
    yield Chapter("Bias and variance", lines, ("bias_variance",))


def _costs(values: Values) -> Iterator[Chapter]:
    length, batch = values["segment_length"], values["batch_size"]
    yield Chapter(
        "Costs",
        [
            f"Of a segment of {length} steps, batch {batch}: median and range of its "
            "time; the most memory that is in use while it is computed, beside what "
            "goes in and out; what is carried to the next segment; operations on "
            "floating-point numbers.",
            "",
            *tables.costs(values),
        ],
    )
    yield Chapter(
        "Growth with the length of a segment",
        [
            "The power of T with which each cost grows: 0 is the same for any length, "
            "1 is in proportion.",
            "",
            *tables.growth(values),
        ],
        ("scaling",),
    )


def _races(values: Values) -> Iterator[Chapter]:
    yield Chapter(
        "Training by each estimator",
        [
            f"Loss on the {plain(values['split'])} split, mean and range over "
            f"{len(values['seeds'])} seeds, each with the best of the learning rates "
            f"{join([f'{rate:g}' for rate in values['learning_rates']])}.",
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
    yield Chapter(
        "Where gradients vanish",
        [
            "Fresh nets: the factor by which \\|ds_t/ds_{t-k}\\| fades with k, fitted, "
            "beside what is predicted at the fixed point and when driven by inputs.",
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
