"""Keeps orbax from speaking where the laboratory says in one line what is wrong."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

# What is wrong with a checkpoint is found before orbax finds it.
for name in ("absl", "asyncio"):
    logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def one_error() -> Iterator[None]:
    """Hides what becomes of other writes of a save where one has failed.

    Orbax closes its event loop then, and TensorStore's threads, which go on, print a
    traceback each.
    """
    shown = sys.unraisablehook

    def show(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    sys.unraisablehook = show
    warnings.filterwarnings("ignore", "coroutine '.*write_.*' was never awaited")
    yield
    # Only where all went well: the threads are still at work.
    sys.unraisablehook = shown
