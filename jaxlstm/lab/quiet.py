"""Keeps orbax from speaking where the laboratory says in one line what is wrong."""

import logging
import sys
import warnings
from typing import Any

# What is wrong with a checkpoint is found before orbax finds it.
for name in ("absl", "asyncio"):
    logging.getLogger(name).setLevel(logging.CRITICAL)


def hide_what_follows() -> None:
    """Hides what becomes of the other files where one could not be read or written.

    Orbax closes its event loop then, and TensorStore's threads, which go on, print a
    traceback each: at any later time, so that the hook stays.
    """
    warnings.filterwarnings("ignore", "coroutine '.*' was never awaited")
    if getattr(sys.unraisablehook, "hides", False):
        return
    shown = sys.unraisablehook

    def show(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    show.hides = True  # type: ignore[attr-defined]
    sys.unraisablehook = show
