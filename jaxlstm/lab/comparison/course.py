"""The course of a comparison: the reference run, one part after another, the report."""

import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxlstm.lab.comparison import accuracy, costs, flow, lags, races, vanishing
from jaxlstm.lab.comparison.display import Display
from jaxlstm.lab.comparison.plan import Plan
from jaxlstm.lab.comparison.problem import Part, Problem
from jaxlstm.lab.comparison.reference import train_reference
from jaxlstm.lab.comparison.report.writer import write_report
from jaxlstm.lab.comparison.store import PARTS, Store
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.runs import PLOTS, REFERENCE
from jaxlstm.lab.schema import CompareSection
from jaxlstm.lab.signals import Interrupted, StopRequest

# How often the time of each segment is taken.
REPEATS = 20


def _measure_costs(problem: Problem, section: CompareSection) -> Part:
    length = problem.config.sections.train.segment_length
    lengths = section.lengths or sorted(
        {-(-length // 2), length, 2 * length, 4 * length}
    )
    return costs.measure(problem, lengths=lengths, repeats=REPEATS)


def _measure_accuracy(problem: Problem, section: CompareSection) -> Part:
    return accuracy.measure(
        problem,
        num_windows=section.num_windows,
        segments_per_window=section.segments_per_window,
        num_draws=section.num_draws,
    )


def _measure_lags(problem: Problem, section: CompareSection) -> Part:
    return lags.measure(problem, num_segments=section.segments_per_window)


def _measure_flow(problem: Problem, section: CompareSection) -> Part:
    return flow.measure(problem, num_segments=section.segments_per_window)


def _measure_vanishing(problem: Problem, section: CompareSection) -> Part:
    return vanishing.measure(
        problem, gains=section.gains, forget_biases=section.forget_biases
    )


def _measure_races(problem: Problem, section: CompareSection) -> Part:
    return races.measure(
        problem,
        learning_rates=section.learning_rates,
        num_seeds=section.num_seeds,
        num_updates=section.race_updates or problem.experiment.num_updates,
    )


MEASUREMENTS: Mapping[str, Callable[[Problem, CompareSection], Part]] = {
    "costs": _measure_costs,
    "accuracy": _measure_accuracy,
    "lags": _measure_lags,
    "flow": _measure_flow,
    "vanishing": _measure_vanishing,
    "races": _measure_races,
}


def carry_out(
    store: Store, plan: Plan, console: Console, request: StopRequest
) -> list[Path]:
    """Measures what is left to be measured, and writes the report.

    Args:
      store: of the comparison.
      plan: what is to be measured.
      console: where progress is shown.
      request: whether a signal asks to stop.

    Returns:
      The files of the report.

    Raises:
      Interrupted: a signal came; what had been measured is kept.
      UserError: something cannot be measured, or not be kept.
    """
    began, before = time.perf_counter(), store.facts.get("seconds", 0.0)

    def note(status: str) -> None:
        seconds = round(before + time.perf_counter() - began, 1)
        store.note(status=status, seconds=seconds)

    note("running")
    try:
        _measure_all(store, plan, console, request)
        note("measured")
        files = renew_report(store.path)
        note("finished")
    except Interrupted:
        note("stopped")
        raise
    except BaseException:
        # What is wrong is said, and not that it could not be noted as well.
        with contextlib.suppress(UserError):
            note("failed")
        raise
    return files


def renew_report(folder: Path) -> list[Path]:
    """Writes the report of a comparison, and removes pictures that it does not show.

    Args:
      folder: the comparison's directory.

    Returns:
      The files of the report.

    Raises:
      UserError: something cannot be read, or not be written.
    """
    files = write_report(folder)
    for picture in {*(folder / PLOTS).glob("*.png")} - {*files}:
        picture.unlink(missing_ok=True)
    return files


def _measure_all(
    store: Store, plan: Plan, console: Console, request: StopRequest
) -> None:
    section = plan.config.sections.compare
    assert section is not None
    names = REFERENCE, *MEASUREMENTS
    # It has a display of its own.
    Display(console, names, live=False).begin(REFERENCE)
    snapshots = train_reference(store, plan.experiment, console, request)
    # A compiled call is waited for; what was measured before is kept.
    request.raise_at_once()
    problem = Problem(plan.experiment, plan.members, snapshots)
    with Display(console, names, done=1) as display:

        def progress(text: str) -> None:
            request.check()
            display.say(text)

        for name, measure in MEASUREMENTS.items():
            display.begin(name)
            own = problem._replace(
                progress=progress, keep=functools.partial(store.piece, name)
            )

            def take(measure: Any = measure, own: Problem = own) -> Part:
                values, arrays = measure(own, section)
                request.check()
                return Part(_with_refused(values, plan), arrays)

            store.part(name, take)
            display.end(store.facts["measured"][f"{PARTS}/{name}"]["seconds"])


def _with_refused(value: Any, plan: Plan) -> Any:
    """Returns values whose tables of members hold the refused ones as well."""
    if isinstance(value, list):
        return [_with_refused(item, plan) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: _with_refused(item, plan) for key, item in value.items()}
    if "members" in value:
        found = value["members"] | {
            label: {"refused": reason} for label, reason in plan.refused.items()
        }
        labels = [member.label for member in plan.config.members]
        value["members"] = {label: found[label] for label in labels if label in found}
    return value
