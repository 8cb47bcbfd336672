"""A run trained to its end, whatever end that is."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

from jaxlstm.lab.errors import UserError
from jaxlstm.lab.fingerprint import Change
from jaxlstm.lab.runs import Run
from jaxlstm.lab.session import Results, Session
from jaxlstm.lab.signals import Interrupted, StopRequest
from jaxlstm.types import PyTree


def train_run(
    run: Run,
    console: Console,
    request: StopRequest,
    changes: Sequence[Change] | None,
    visits: Mapping[int, Callable[[PyTree], None]] | None = None,
) -> tuple[Results, float]:
    """Trains a run to its end, and notes in run.json how it ended.

    Args:
      run: the run.
      console: where progress is shown.
      request: whether a signal asks to stop; raises at once from the last update on.
      changes: of its fingerprint since it was last trained; None at its beginning.
      visits: of `Session`.

    Returns:
      The metrics of the end by split, and the seconds that training took now.

    Raises:
      Interrupted: a signal came; the run has been saved.
    """
    began, before = time.perf_counter(), run.facts.get("seconds", 0.0)

    def seconds() -> float:
        return round(before + time.perf_counter() - began, 1)

    try:
        session = Session(run, console, request, visits)
        if changes is not None:
            run.note(status="running")
        results = session.train(changes)
        took = time.perf_counter() - began
        # What is left is quickly done again: nothing of it has to be saved.
        request.raise_at_once()
        session.finish(results, seconds())
    except Interrupted:
        run.note(status="stopped", seconds=seconds())
        raise
    except BaseException:
        # What is wrong is said, and not that run.json could not be written as well.
        with contextlib.suppress(UserError):
            run.note(status="failed", seconds=seconds())
        raise
    return results, took
