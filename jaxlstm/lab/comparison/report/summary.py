"""What a comparison found, in a few sentences computed from its figures."""

from collections.abc import Callable, Iterator
from typing import Any

from jaxlstm.lab.comparison.lags import LEVELS
from jaxlstm.lab.comparison.report.flow_tables import VANISHED, find_vanished
from jaxlstm.lab.comparison.report.markdown import code, join, plain, show
from jaxlstm.lab.comparison.report.material import ROUNDING, Material, Values, measured
from jaxlstm.lab.comparison.report.spreads import Range, has_learnt, rank, show_loss

KEPT = LEVELS[-1]


def summarise(material: Material) -> list[str]:
    """Returns the sentences; fewer where parts are not there."""
    parts = material.parts
    sentences: list[str] = []
    if "accuracy" in parts:
        sentences += _exactness(parts["accuracy"])
        sentences += _cheapest(parts["accuracy"], parts.get("costs"))
        sentences += _unknown(parts["accuracy"])
    if "lags" in parts:
        sentences += _truncation(parts["lags"])
    if "races" in parts:
        sentences += _winners(parts["races"])
    if "flow" in parts or "vanishing" in parts:
        sentences += _vanishing(parts.get("flow"), parts.get("vanishing"))
    return sentences or ["Nothing has been measured yet."]


def _exactness(accuracy: Values) -> Iterator[str]:
    worst = _worst(accuracy, "relative_bias", max)
    exact = [code(label) for label, bias in worst.items() if bias < ROUNDING]
    others = {label: bias for label, bias in worst.items() if bias >= ROUNDING}
    if exact:
        gives = "gives" if len(exact) == 1 else "give"
        yield (
            f"{join(exact)} {gives} the exact gradient of a window, to rounding, at "
            "every snapshot."
        )
    elif others:
        label = min(others, key=lambda name: others[name])
        yield (
            "No estimator gives the exact gradient of a window; the nearest is "
            f"{code(label)}, whose mean is off by at most {show(others[label])} of it."
        )


def _cheapest(accuracy: Values, costs: Values | None) -> Iterator[str]:
    worst = _worst(accuracy, "cosine", min)
    keep = [label for label, cosine in worst.items() if cosine >= KEPT]
    if not keep:
        yield f"No estimator keeps a cosine of {KEPT:g} at every snapshot."
        return
    times = {
        label: Range(least, least, member["seconds"]["median"])
        for label, member in measured(costs["members"] if costs else {}).items()
        if label in keep and (least := member["seconds"]["low"]) is not None
    }
    if times:
        fastest = rank(times)
        if len(keep) == 1:
            who = f"{code(keep[0])} alone, of {len(worst)},"
        else:
            who = f"Of {len(worst)} estimators, {len(keep)}"
        named = join([code(label) for label in fastest])
        told = "the fastest is" if len(fastest) == 1 else "among the fastest are"
        pace = show(1000 * times[fastest[0]].middle)
        yield (
            f"{who} keep{'s' * (len(keep) == 1)} a cosine of {KEPT:g} at every "
            f"snapshot, in the mean over draws"
            f"{f'; {told} {named}' if len(keep) > 1 else ''}, with {pace} ms a segment."
        )


def _unknown(accuracy: Values) -> Iterator[str]:
    known = _worst(accuracy, "cosine", min)
    members = measured(accuracy["snapshots"][-1]["members"])
    unknown = [code(label) for label in members if label not in known]
    if unknown:
        yield f"The cosine of {join(unknown)} is not known at every snapshot."


def _truncation(lags: Values) -> Iterator[str]:
    snapshot = lags["snapshots"][-1]
    steps = snapshot["keeps"][f"{KEPT:g}"]
    after = f"After update {snapshot['update']:,}"
    told = (
        f"no truncation within {snapshot['num_steps']} steps keeps"
        if steps is None
        else f"{steps} steps keep"
        if steps > 1
        else "one step keeps"
    )
    shares = snapshot["path_shares"]["by_route"]
    known = {route: share for route, share in shares.items() if share is not None}
    way = ""
    if known:
        route = max(known, key=lambda name: known[name])
        share = f"{show(100 * known[route])} %"
        way = f'; the largest share of that, {share}, comes by "{plain(route)}"'
    yield f"{after}, {told} a cosine of {KEPT:g} with the exact gradient{way}."


def _winners(races: Values) -> Iterator[str]:
    members, told = measured(races["members"]), []
    split = plain(races["split"])
    for place, name in (("steps", "at_equal_updates"), ("seconds", "at_equal_seconds")):
        ends = {
            label: Range(*(member[name][figure] for figure in ("mean", "low", "high")))
            for label, member in members.items()
            if has_learnt(member, member[name])
        }
        if not ends:
            told.append(f"at equal {place} no estimator has learnt")
            continue
        best, *near = rank(ends)
        loss = show_loss(races, members[best], members[best][name])
        if near and place == "seconds":
            level = join([code(label) for label in (best, *near)])
            told.append(
                f"at equal seconds {level} are level, within the spread of seeds and "
                f"of times, at a {split} loss near {loss}"
            )
            continue
        names = join([code(label) for label in near]) if near else ""
        spread = f" (within the range of its seeds: {names})" if near else ""
        told.append(
            f"at equal {place} {code(best)} has the lowest {split} loss, {loss}{spread}"
        )
    if members:
        text = "; ".join(told)
        yield f"{text[0].upper()}{text[1:]}."
        if len(races["seeds"]) == 1:
            yield "With one seed, what another one would change is not known."


def _vanishing(flow: Values | None, vanishing: Values | None) -> Iterator[str]:
    if flow:
        snapshot = flow["snapshots"][-1]
        found = snapshot["jacobians"]
        k = find_vanished(found["k"], found["spectral"])
        told = (
            f"stays above {100 * VANISHED:g} % over all {found['k'][-1]} steps"
            if k is None
            else f"falls below {100 * VANISHED:g} % after {k} steps"
        )
        yield (
            f"After update {snapshot['update']:,}, the effect of the state on a later "
            f"one, |ds_t/ds_{{t-k}}|, {told}."
        )
    rates = [c for c in (vanishing or {}).get("curves", ()) if c["rate"] is not None]
    if rates:
        least = min(rates, key=lambda curve: curve["rate"])
        most = max(rates, key=lambda curve: curve["rate"])
        predicted = (
            f" ({show(least['predicted'])} predicted)"
            if least["predicted"] is not None
            else ""
        )
        yield (
            f"Of the fresh nets the gradient fades fastest in {plain(least['label'])}, "
            f"by a factor of {show(least['rate'])} a step{predicted}; in "
            f"{plain(most['label'])} the factor is {show(most['rate'])}."
        )


def _worst(
    accuracy: Values, figure: str, choose: Callable[[list[Any]], Any]
) -> dict[str, float]:
    """Returns the worst figure over the snapshots, by label; those of all known."""
    found: dict[str, list[float | None]] = {}
    for snapshot in accuracy["snapshots"]:
        for label, member in measured(snapshot["members"]).items():
            found.setdefault(label, []).append(member["frozen"][figure])
    return {
        label: choose(values) for label, values in found.items() if None not in values
    }
