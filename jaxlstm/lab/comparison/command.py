"""The command that compares gradient estimators."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from jaxlstm.lab.cache import keep_compiled
from jaxlstm.lab.comparison.course import carry_out
from jaxlstm.lab.comparison.display import Display
from jaxlstm.lab.comparison.plan import Plan, begin, make_plan, reopen
from jaxlstm.lab.comparison.store import Store
from jaxlstm.lab.config import Config, load_config
from jaxlstm.lab.lock import hold
from jaxlstm.lab.runs import COMPARISON
from jaxlstm.lab.screen import console, stop
from jaxlstm.lab.signals import Interrupted, StopRequest
from jaxlstm.lab.start import choose_folder, claim_folder


def compare(
    config: Path,
    /,
    *overrides: str,
    out: Annotated[Path | None, Parameter(name="--out")] = None,
) -> None:
    """Compare gradient estimators, as a config's [compare] section says.

    Parameters
    ----------
    config
        The config file.
    overrides
        Values to change, as section.key=value; a value is written as in TOML, and no
        value removes the key.
    out
        The directory to make; by default runs/NAME-TIME. One that holds the same
        comparison is gone on with.
    """
    keep_compiled()
    loaded = load_config(config, overrides)
    if out is not None and (out / COMPARISON).is_file():
        go_on(out, loaded)
        return
    folder = choose_folder(loaded, out)
    with Display(console, ["plan"]) as display, StopRequest() as request:
        display.begin("plan")

        def progress(text: str) -> None:
            request.check()
            display.say(text)

        try:
            request.raise_at_once()
            plan = make_plan(loaded, str(config), progress)
            request.check()
        except Interrupted as interrupted:
            console.print("stopped; nothing was made")
            sys.exit(128 + interrupted.signal)
    with claim_folder(folder, named=out is not None) as folder:
        _compare(begin(folder, plan), plan)


def go_on(folder: Path, config: Config | None = None) -> None:
    """Makes what is left of a comparison.

    Args:
      folder: its directory.
      config: what it has to be of; None for whatever it is of.
    """
    with hold(folder):
        _compare(*reopen(folder, config))


def _compare(store: Store, plan: Plan) -> None:
    """Makes a comparison, or what is left of it."""
    try:
        with StopRequest() as request:
            files = carry_out(store, plan, console, request)
    except Interrupted as interrupted:
        stop(store.path, interrupted)
    for file in files:
        console.print(str(file), soft_wrap=True)
