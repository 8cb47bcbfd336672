"""The tables of a comparison's report, a function for each."""

from collections.abc import Mapping, Sequence

from jaxlstm.lab.comparison.lags import LEVELS
from jaxlstm.lab.comparison.report.looks import pick_snapshots
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
from jaxlstm.lab.comparison.report.spreads import power, show_end

KIBIBYTE, MILLION = 2**10, 1e6
# A row's first cell, and the others.
Row = tuple[str, list[str]]
NO_DIRECTION = "a norm that divides is zero"
NO_GRADIENT = "the exact gradient is zero, or a gradient is not finite"
ONE_DRAW = "a single draw does not tell the noise of draws"


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
        draws = show_count(member["num_draws"]) if member["draws"] else "none"
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
    moved = [
        f"{show(snapshot['exact']['moved'])} from update {snapshot['update']:,} on"
        for snapshot in snapshots
    ]
    return [
        *lines,
        "Online: beside the exact gradient of each segment at the weights of then, "
        "which move from segment to segment by the reference run's estimator, "
        "optimizer and learning rate; the optimizer starts anew at each update shown. "
        f"Over a window they move, in units of their norm, by {join(moved)}: the less "
        "they move, the nearer are these figures to those of weights that stand still.",
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


def bias(snapshot: Values, num_windows: int) -> list[str]:
    """Returns bias with its noise floor, and the variances, of one snapshot."""
    columns = {
        "relative bias": "relative_bias",
        "noise floor": "noise_floor",
        "bias without noise": "debiased",
        "variance over draws": "draw_variance",
        "variance over data": "data_variance",
    }
    rows, reasons = [], {}
    for label, member in measured(snapshot["members"]).items():
        figures = {title: member["frozen"][name] for title, name in columns.items()}
        cells = {title: show(value) for title, value in figures.items()}
        hidden = find_hidden(member["frozen"])
        if hidden is not None:
            told = f"< {show(hidden)}"
            cells |= {"relative bias": told, "bias without noise": told}
        rows.append((code(label), list(cells.values())))
        for title, value in figures.items():
            if value is None:
                why = _why(title, member, num_windows)
                reasons.setdefault(why, {})[title] = None
    lines = _table("estimator", list(columns), rows)
    told = [f"n/a of {join(list(names))}: {why}." for why, names in reasons.items()]
    return [*lines, *told, ""] if told else lines


def find_hidden(frozen: Values) -> float | None:
    """Returns what a bias is below, where noise hides it: twice the noise floor."""
    size, floor = frozen["relative_bias"], frozen["noise_floor"]
    if size is None or floor is None or size > 2 * floor:
        return None
    return 2 * floor


def _why(title: str, member: Values, num_windows: int) -> str:
    """Returns why there is no such figure of the bias of a member."""
    if member["frozen"]["relative_bias"] is None:
        return NO_GRADIENT
    if title == "noise floor" and not member["draws"]:
        return "the estimator does not draw"
    if title == "variance over data" and num_windows == 1:
        return "a single window does not tell it"
    if member["draws"] and member["num_draws"] == 1:
        return ONE_DRAW
    if title == "variance over data":
        return "the noise of the draws hides it"
    return "it is not finite"


def costs(values: Values) -> list[str]:
    """Returns what a segment of training costs each estimator."""
    header = [
        "compiling [s]",
        "segment, least (to median) [ms]",
        "temporary [KiB]",
        "carried [KiB]",
        "operations [MFLOP]",
    ]
    rows = []
    for label, member in measured(values["members"]).items():
        seconds = member["seconds"]
        cells = [
            show(member["compile_seconds"]),
            _timed(seconds["low"], seconds["median"]),
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
    lengths, rows = values["scaling"]["lengths"], []
    for label, member in measured(values["scaling"]["members"]).items():
        times = power(lengths, member["seconds"], member.get("seconds_median"))
        cells = [NOT_AVAILABLE if times is None else f"{times:.1f}"]
        figures = "temporary_bytes", "flops"
        cells += [show(power(lengths, member[figure])) for figure in figures]
        rows.append((code(label), cells))
    reasons = {
        "time": "not clear of the spread of times, or not run at all lengths",
        "temporary memory": "none is needed, or the compiler does not tell",
        "operations": "how often a loop turns is known only when it runs",
    }
    if len(lengths) < 2:
        reasons = dict.fromkeys(reasons, "costs were measured at one length alone")
    return _table("estimator", list(reasons), rows, reasons)


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
        "update, least (to median) [ms]",
    ]
    rows = []
    for label, member in members.items():
        steps, time = member["at_equal_updates"], member["at_equal_seconds"]
        pace = member["seconds_per_update"]
        cells = [
            show(member["learning_rate"]) + (" \\*" if member["edge"] else ""),
            show_end(values, member, steps),
            show_count(time["updates"]),
            show_end(values, member, time),
            _timed(pace, member.get("seconds_per_update_median", pace)),
        ]
        rows.append((code(label), cells))
    reasons = dict.fromkeys(header, "a loss was not finite, or none measured so early")
    lines = _table("estimator", header, rows, reasons)
    if any("\\*" in cells[0] for _, cells in rows):
        lines += ["\\* At the edge of the grid: a rate beyond it may be better.", ""]
    if values["references"]:
        told = [
            f"{plain(reference['label'])} {reference['loss']:#.4g}"
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
    levels = [f"{level:g}" for level in LEVELS]
    kept = [f"keep {level.lstrip('0')}" for level in levels]
    header = ["steps", *kept, *(f"horizon {horizon}" for horizon in horizons)]
    rows = []
    for snapshot, figure in zip(snapshots, figures, strict=True):
        curves = snapshot["horizons"], figure["cosine"], figure["norm_ratio"]
        by_horizon = {h: (c, r) for h, c, r in zip(*curves, strict=True)}
        keeps = [show_count(figure["keeps"][level]) for level in levels]
        pairs = [by_horizon.get(horizon, (None, None)) for horizon in horizons]
        cells = [f"{show(cosine)} / {show(ratio)}" for cosine, ratio in pairs]
        row = [show_count(snapshot["num_steps"]), *keeps, *cells]
        rows.append((f"{snapshot['update']:,}", row))
    reasons = dict.fromkeys(kept, "the cosine stays lower")
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


def _timed(least: float | None, median: float | None) -> str:
    low, high = _scaled(least, 1e-3), _scaled(median, 1e-3)
    return low if low == high else f"{low} (to {high})"
