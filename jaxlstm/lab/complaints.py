"""Errors and warnings of the user's, as lines on stderr."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator

import jax
from cyclopts import CycloptsError, UnusedCliTokensError

from jaxlstm.lab.checkpoints import DamagedCheckpoint
from jaxlstm.lab.comparison.plan import LeftOut
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.memory import out_of_memory
from jaxlstm.lab.predicting import NothingKnown
from jaxlstm.shapes import OptionError

# Those that are a line each for the user.
OWN_WARNINGS = DamagedCheckpoint, LeftOut, NothingKnown


@contextlib.contextmanager
def as_lines() -> Iterator[None]:
    """Prints what the user can mend, a line for each; ends the process with code 2.

    Warnings of ours are a line each as well, and end nothing. All other errors are
    raised.
    """
    try:
        with warnings.catch_warnings():
            for category in OWN_WARNINGS:
                warnings.simplefilter("always", category)
            warnings.showwarning = _show_warning
            yield
    except UserError as error:
        lines = error.lines
    except OptionError as error:
        # Of parts that find each other only as they are compiled.
        lines = (str(error),)
    except UnusedCliTokensError as error:
        lines = tuple(map(_not_taken, error.unused_tokens or ()))
    except CycloptsError as error:
        lines = (" ".join(str(error).split()),)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        told = out_of_memory(error)
        if told is None:
            raise
        lines = told.lines
    except BrokenPipeError:
        # The reader, such as `head`, has had enough. Python would say so at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    except OSError as error:
        if error.filename is None:
            raise
        lines = (f"{error.filename}: {error.strerror}; name another, or mend it",)
    else:
        return
    for line in lines:
        print(f"jaxlstm: {line}", file=sys.stderr)
    sys.exit(2)


def _not_taken(token: str) -> str:
    """Returns what to tell the user of a word that a command does not take."""
    if "=" not in token:
        return f"{token}: is not taken here; leave it out, or see --help"
    return (
        f"{token}: only run, compare, import and show take values; leave it out. A "
        "run that goes on takes them from its config.toml, and from there what "
        "--allow-change names"
    )


def _show_warning(
    message: Warning | str, category: type[Warning], *place: object
) -> None:
    """Prints a warning of ours as a line; others as Python does."""
    if issubclass(category, OWN_WARNINGS):
        print(f"jaxlstm: warning: {message}", file=sys.stderr)
    else:
        _show_other_warning(message, category, *place)  # type: ignore[arg-type]


_show_other_warning = warnings.showwarning
