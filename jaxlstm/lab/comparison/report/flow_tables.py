"""The tables of how gradients flow, and where they vanish."""

import math
from collections.abc import Sequence

import numpy as np

from jaxlstm.lab.comparison.report.looks import numbers, pick_snapshots
from jaxlstm.lab.comparison.report.markdown import plain, show, show_count, table
from jaxlstm.lab.comparison.report.material import Values

# A gradient below this share of what it was counts as vanished.
VANISHED = 0.01
# A rate above that is 1 to three digits, and fades too slowly to be told.
FLAT = 0.9995


def flow(values: Values) -> list[str]:
    """Returns the gradient by the states of each layer, at the ends of the sequence."""
    rows = []
    for snapshot in pick_snapshots(values["snapshots"]):
        for layer in snapshot["layers"]:
            for name in ("h", "c", "x"):
                if layer[name] is None:
                    continue
                curve = numbers(layer[name])
                cells = [f"{snapshot['update']:,}", plain(layer["name"]), f"d/d{name}"]
                largest = np.fmax.reduce(curve)
                ratio = curve[0] / largest if largest else math.nan
                rows.append([*cells, *map(show, (curve[0], largest, ratio))])
    return table(
        ["update", "layer", "gradient", "first step", "largest", "first / largest"],
        rows,
    )


def jacobians(values: Values) -> list[str]:
    """Returns how far back the state still has an effect."""
    rows = []
    for snapshot in pick_snapshots(values["snapshots"]):
        found = snapshot["jacobians"]
        known = found["by_state"] | {"all": found["spectral"]}
        if found["forget_product"] is not None:
            known["product of forget gates"] = found["forget_product"]
        for name, curve in known.items():
            vanished = find_vanished(found["k"], curve)
            told = f"> {found['k'][-1]:,}" if vanished is None else f"{vanished:,}"
            ends = [show(curve[0]), show(curve[-1])]
            rows.append([f"{snapshot['update']:,}", plain(name), *ends, told])
    least = f"steps until < {100 * VANISHED:g} %"
    return table(["update", "of the state", "one step", "all steps", least], rows)


def saturation(values: Values) -> list[str]:
    """Returns the shares of gates that are nearly closed and nearly open."""
    rows: list[list[str]] = []
    for snapshot in pick_snapshots(values["snapshots"]):
        for gate, shares in snapshot["saturation"].items():
            low, high = (
                show(None if shares[name] is None else 100 * shares[name])
                for name in ("low", "high")
            )
            rows.append([f"{snapshot['update']:,}", plain(gate), low, high])
    if not rows:
        return ["The cell does not tell its gates apart.", ""]
    return table(["update", "gate", "low [%]", "high [%]"], rows)


def terms(values: Values) -> list[str]:
    """Returns the norms of the terms of a step's derivatives, by the gate they use."""
    rows, gates = [], []
    for snapshot in pick_snapshots(values["snapshots"]):
        for name, norms in (snapshot.get("terms") or {}).items():
            gates = gates or list(norms)
            cells = [show(norms.get(gate)) for gate in gates]
            rows.append([f"{snapshot['update']:,}", plain(name), *cells])
    if not rows:
        return ["Terms are told apart for the LSTM alone.", ""]
    return table(["update", "derivative", *map(plain, gates)], rows)


def vanishing(values: Values) -> list[str]:
    """Returns fitted decay rates beside predictions at rest, and bounds when driven."""
    rows, sources = [], {}
    for curve in values["curves"]:
        rate = curve["rate"] or math.nan
        fades = 0 < rate < FLAT
        steps = math.ceil(math.log(VANISHED) / math.log(rate)) if fades else None
        cells = [
            _with_error(curve["rate"], curve.get("rate_error")),
            show(curve["predicted"]),
            show_count(steps),
            _with_error(curve["driven"], curve.get("driven_error")),
            show(curve.get("driven_predicted")),
        ]
        rows.append([plain(curve["label"]), *cells])
        by = curve["predicted_by"], curve.get("driven_predicted_by")
        sources[curve["cell"].upper()] = by
    header = [
        "net",
        "factor a step",
        "predicted",
        f"steps until < {100 * VANISHED:g} %",
        "driven: factor a step",
        "driven: memory alone / lower bound",
    ]
    lines = table(header, rows)
    for cell, (rest, driven) in sources.items():
        told = [f"predicted by the {plain(rest)}"] if rest else []
        told += [f"driven, beside the {plain(driven)}"] if driven else []
        lines += [f"- {plain(cell)}: {'; '.join(told)}"] if told else []
    return [*lines, "", "n/a: it does not fade, or nothing predicts it.", ""]


def _with_error(value: float | None, error: float | None) -> str:
    """Returns a figure, and its error where the three digits are not all certain."""
    if value is None or error is None or error < 5e-4 * abs(value):
        return show(value)
    return f"{show(value)} ± {show(error)}"


def find_vanished(k: Sequence[int], norms: Sequence[float | None]) -> int | None:
    """Returns the first k from which on all norms are below `VANISHED`."""
    curve = numbers(norms)
    last = np.flatnonzero(~(curve < VANISHED))
    first = int(last[-1]) + 1 if last.size else 0
    return k[first] if first < len(k) else None
