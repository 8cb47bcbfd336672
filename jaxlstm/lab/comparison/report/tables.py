"""The tables of a comparison's report, a function for each."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxlstm.lab.comparison.report.looks import numbers, pick_snapshots
from jaxlstm.lab.comparison.report.markdown import (
    NOT_AVAILABLE,
    code,
    join,
    plain,
    show,
    show_count,
    table,
)
from jaxlstm.lab.comparison.report.material import Material, Values, measured

KIBIBYTE, MILLION = 2**10, 1e6
# A row's first cell, and the others.
Row = tuple[str, list[str]]
NO_DIRECTION = "a norm that divides is zero"


def classes(material: Material) -> list[str]:
    """Returns what each estimator promises, and what it was measured by."""
    accuracy = material.parts.get("accuracy")
    members = measured(accuracy["snapshots"][-1]["members"]) if accuracy else {}
    rows = []
    for label in material.labels:
        member = members.get(label)
        if member is None:
            refused = material.refused.get(label)
            note = f"refused: {plain(refused)}" if refused else "not measured"
            rows.append([code(label), *[NOT_AVAILABLE] * 3, note])
            continue
        weights = "frozen and online" if member["online_form"] else "frozen"
        draws = show_count(member["num_draws"])
        rows.append([code(label), member["kind"], weights, draws, ""])
    return table(["estimator", "class", "weights", "draws a window", "note"], rows)


def direction(accuracy: Values) -> list[str]:
    """Returns cosine and norm ratio of each estimator at each snapshot."""
    snapshots = pick_snapshots(accuracy["snapshots"])
    header = [
        f"{name}, {snapshot['update']:,}"
        for snapshot in snapshots
        for name in ("cosine", "norm ratio")
    ]

    def cells(label: str, weights: str) -> list[str]:
        each = [snapshot["members"][label][weights] for snapshot in snapshots]
        return [show(e and e[name]) for e in each for name in ("cosine", "norm_ratio")]

    members = measured(snapshots[-1]["members"])
    frozen = [(code(label), cells(label, "frozen")) for label in members]
    online = [
        (code(label), cells(label, "online"))
        for label, member in members.items()
        if member["online_form"]
    ]
    lines = _table("estimator", header, frozen, dict.fromkeys(header, NO_DIRECTION))
    if not online:
        return [*lines, "No estimator has an online form.", ""]
    return [
        *lines,
        "Online, that is with weights that move from segment to segment as in "
        "training, beside the exact gradient of each segment at the weights of then:",
        "",
        *_table("estimator", header, online, dict.fromkeys(header, NO_DIRECTION)),
    ]


def blocks(accuracy: Values) -> list[str]:
    """Returns cosine and norm ratio by layer and gate, at the last snapshot."""
    names, snapshot = accuracy["blocks"], accuracy["snapshots"][-1]
    rows = []
    for label, member in measured(snapshot["members"]).items():
        each = [member["frozen"]["blocks"][name] for name in names]
        cells = [f"{show(e['cosine'])} / {show(e['norm_ratio'])}" for e in each]
        rows.append((code(label), cells))
    return _table("estimator", [plain(name) for name in names], rows)


def bias(snapshot: Values) -> list[str]:
    """Returns bias with its noise floor, and the variances, of one snapshot."""
    header = [
        "relative bias",
        "noise floor",
        "bias without noise",
        "variance over draws",
        "variance over data",
    ]
    rows = []
    for label, member in measured(snapshot["members"]).items():
        frozen = member["frozen"]
        size, floor = frozen["relative_bias"], frozen["noise_floor"]
        within = size is not None and floor is not None and size <= floor
        figures = "noise_floor", "debiased", "draw_variance", "data_variance"
        cells = [show(frozen[name]) for name in figures]
        rows.append((code(label), ["< floor" if within else show(size), *cells]))
    reasons = dict.fromkeys(header, "the exact gradient is zero")
    reasons["noise floor"] = "all its draws are alike"
    return _table("estimator", header, rows, reasons)


def costs(values: Values) -> list[str]:
    """Returns what a segment of training costs each estimator."""
    header = [
        "compiling [s]",
        "segment [ms]",
        "temporary [KiB]",
        "carried [KiB]",
        "operations [MFLOP]",
    ]
    rows = []
    for label, member in measured(values["members"]).items():
        seconds = member["seconds"]
        cells = [
            show(member["compile_seconds"]),
            _ranged(*(_scaled(seconds[n], 1e-3) for n in ("median", "low", "high"))),
            _scaled(member["temporary_bytes"], KIBIBYTE),
            _scaled(member["carried_bytes"], KIBIBYTE),
            _scaled(member["flops"], MILLION),
        ]
        rows.append((code(label), cells))
    reasons = {
        "temporary [KiB]": "the compiler does not tell",
        "operations [MFLOP]": "how often a loop turns is known only when it runs",
    }
    return _table("estimator", header, rows, reasons)


def growth(values: Values) -> list[str]:
    """Returns with which power of the length each cost grows."""
    scaling = values["scaling"]
    names = "seconds", "temporary_bytes", "flops"
    rows = [
        (code(label), [show(_power(scaling["lengths"], member[n])) for n in names])
        for label, member in measured(scaling["members"]).items()
    ]
    return _table("estimator", ["time", "temporary memory", "operations"], rows)


def races(values: Values) -> list[str]:
    """Returns how well each estimator learnt, at equal steps and at equal seconds."""
    members = measured(values["members"])
    known = (m["at_equal_seconds"]["seconds"] for m in members.values())
    seconds = next((s for s in known if s is not None), None)
    header = [
        "learning rate",
        f"loss after {values['num_updates']:,} updates",
        f"updates in {show(seconds)} s",
        f"loss after {show(seconds)} s",
        "update [ms]",
    ]
    rows = []
    for label, member in members.items():
        steps, time = member["at_equal_updates"], member["at_equal_seconds"]
        cells = [
            show(member["learning_rate"]) + _edge(member, values["learning_rates"]),
            _ranged(*(_loss(steps[name]) for name in ("mean", "low", "high"))),
            show_count(time["updates"]),
            _ranged(*(_loss(time[name]) for name in ("mean", "low", "high"))),
            _scaled(member["seconds_per_update"], 1e-3),
        ]
        rows.append((code(label), cells))
    reasons = dict.fromkeys(header, "a loss was not finite")
    lines = _table("estimator", header, rows, reasons)
    if any("\\*" in cells[0] for _, cells in rows):
        lines += ["\\* At the edge of the grid: a rate beyond it may be better.", ""]
    if values["references"]:
        told = [
            f"{plain(reference['label'])} {_loss(reference['loss'])}"
            for reference in values["references"]
        ]
        lines += [f"For comparison: {'; '.join(told)}.", ""]
    return lines


def advice(values: Values) -> list[str]:
    """Returns what truncations keep of the gradient, whole and of recurrent weights."""
    snapshots = values["snapshots"]
    lines = _advice(snapshots, snapshots)
    recurrent = [snapshot.get("recurrent") for snapshot in snapshots]
    if not all(recurrent):
        return lines
    told = "Of the recurrent weights alone, without the readout's:"
    return [*lines, told, "", *_advice(snapshots, recurrent)]


def _advice(snapshots: Sequence[Values], figures: Sequence[Values]) -> list[str]:
    most = max(len(snapshot["horizons"]) for snapshot in snapshots)
    horizons = [2**n for n in range(most.bit_length()) if 2**n <= most]
    header = ["steps", "keep .9", "keep .99"]
    header += [f"horizon {horizon}" for horizon in horizons]
    rows = []
    for snapshot, figure in zip(snapshots, figures, strict=True):
        curves = snapshot["horizons"], figure["cosine"], figure["norm_ratio"]
        by_horizon = {h: (c, r) for h, c, r in zip(*curves, strict=True)}
        keeps = [show_count(figure["keeps"][level]) for level in ("0.9", "0.99")]
        pairs = [by_horizon.get(horizon, (None, None)) for horizon in horizons]
        cells = [f"{show(cosine)} / {show(ratio)}" for cosine, ratio in pairs]
        row = [show_count(snapshot["num_steps"]), *keeps, *cells]
        rows.append((f"{snapshot['update']:,}", row))
    reasons = dict.fromkeys(header[1:3], "the cosine stays lower")
    return _table("update", header, rows, reasons)


def paths(values: Values) -> list[str]:
    """Returns the shares of the gradient by route, at each snapshot."""
    snapshots = pick_snapshots(values["snapshots"])
    header = [f"share after {snapshot['update']:,} [%]" for snapshot in snapshots]
    shares = [snapshot["path_shares"]["by_route"] for snapshot in snapshots]
    rows = [
        (plain(route), [_scaled(each.get(route), 0.01) for each in shares])
        for route in snapshots[-1]["routes"]
    ]
    return _table("way", header, rows, dict.fromkeys(header, "the gradient is zero"))


def path_gates(values: Values) -> list[str]:
    """Returns the shares by route and gate, at the last snapshot."""
    snapshot = values["snapshots"][-1]
    rows = [
        (plain(route), [_scaled(share, 0.01) for share in shares])
        for route, shares in zip(
            snapshot["routes"],
            snapshot["path_shares"]["by_route_and_gate"],
            strict=True,
        )
    ]
    return _table("way", [f"{plain(gate)} [%]" for gate in snapshot["gates"]], rows)


def _table(
    first: str,
    header: Sequence[str],
    rows: Sequence[Row],
    reasons: Mapping[str, str] | None = None,
) -> list[str]:
    """Returns a table, and why cells of its columns are n/a where some are."""
    if not rows:
        return ["None was measured.", ""]
    lines = table([first, *header], [[name, *cells] for name, cells in rows])
    told: dict[str, list[str]] = {}
    columns = zip(*(cells for _, cells in rows), strict=True)
    for name, column in zip(header, columns, strict=True):
        if NOT_AVAILABLE in column and reasons and name in reasons:
            told.setdefault(reasons[name], []).append(plain(name.strip()))
    lines += [f"n/a of {join(names)}: {plain(why)}." for why, names in told.items()]
    return [*lines, ""] if told else lines


def _scaled(value: float | None, unit: float) -> str:
    return show(None if value is None else value / unit)


def _loss(value: float | None) -> str:
    """Returns a loss, whose fourth digit is what estimators differ in."""
    return NOT_AVAILABLE if value is None else f"{value:#.4g}"


def _ranged(middle: str, low: str, high: str) -> str:
    return middle if middle == NOT_AVAILABLE else f"{middle} ({low} to {high})"


def _edge(member: Values, rates: Sequence[float]) -> str:
    at_edge = member["learning_rate"] in (min(rates), max(rates))
    return " \\*" if at_edge and len(rates) > 1 else ""


def _power(lengths: Sequence[int], costs: Sequence[float | None]) -> float | None:
    """Returns the slope of the logarithms, from the first to the last length."""
    first, last = numbers(costs)[[0, -1]]
    if len(lengths) < 2 or not (first > 0 and last > 0):
        return None
    return float(np.log(last / first) / np.log(lengths[-1] / lengths[0]))
