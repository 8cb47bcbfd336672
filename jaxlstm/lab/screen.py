"""What the commands print on."""

import sys
from pathlib import Path
from typing import NoReturn

from jaxlstm.lab.progress import Terminal
from jaxlstm.lab.signals import Interrupted

console = Terminal(markup=False, emoji=False)


def stop(path: Path, interrupted: Interrupted) -> NoReturn:
    """Says how to go on with what a signal has stopped, and ends the process."""
    console.print(f"stopped; go on with: jaxlstm resume {path}", soft_wrap=True)
    sys.exit(128 + interrupted.signal)
