"""The commands on weights: export and import."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from jaxlstm.lab.cache import keep_compiled
from jaxlstm.lab.config import load_config
from jaxlstm.lab.experiment import build
from jaxlstm.lab.memory import check_memory
from jaxlstm.lab.report import print_results
from jaxlstm.lab.runs import load_run
from jaxlstm.lab.screen import console
from jaxlstm.lab.signals import Interrupted, StopRequest
from jaxlstm.lab.start import choose_folder
from jaxlstm.lab.weights.exporting import ExportFormat, export_run
from jaxlstm.lab.weights.files import Format
from jaxlstm.lab.weights.importing import import_run, read_weights


def export(
    run: Path,
    /,
    *,
    format: ExportFormat = "safetensors",
    out: Annotated[Path | None, Parameter(name="--out")] = None,
    checkpoint: Literal["best", "latest"] = "best",
) -> None:
    """Write a run's weights to a file for other programs, with a note how to load it.

    Parameters
    ----------
    run
        The run directory.
    format
        Under the names of this package; as a state_dict of PyTorch; or as a model that
        runs in ONNX.
    out
        The file, which must not be there; by default weights.safetensors, weights.pt or
        weights.onnx in the run directory. A state_dict may be a .safetensors file, for
        which PyTorch is not needed.
    checkpoint
        The weights: those of the lowest validation loss, or the latest.
    """
    made = export_run(load_run(run, checkpoint), format, out)
    console.print(
        f"{made.path}: {made.arrays} arrays, {made.parameters:,} parameters, "
        f"{made.bytes:,} bytes, after update {made.update:,}; read back the same; "
        f"{made.note.name} says how to load it",
        soft_wrap=True,
        highlight=False,
    )


def import_(
    weights: Path,
    config: Path,
    /,
    *overrides: str,
    out: Annotated[Path | None, Parameter(name="--out")] = None,
    format: Format | Literal["auto"] = "auto",
    prefix: Annotated[tuple[str, ...], Parameter(negative="")] = (),
) -> None:
    """Make a run that begins with the weights of a file, and measure them.

    All commands work on it; resume goes on training from there.

    Parameters
    ----------
    weights
        The file: of this package or of PyTorch, Keras or ONNX.
    config
        The config file of the run, whose model the weights are for.
    overrides
        Values to change, as section.key=value; a value is written as in TOML, and no
        value removes the key.
    out
        The run directory to make; by default runs/NAME-TIME.
    format
        What the file has to be; auto tells by what is in it.
    prefix
        What stands before the names of a part in PyTorch, as lstm=rnn., embedding=
        encoder. or linear=decoder.; found by itself where there is one of each. May be
        given several times.
    """
    keep_compiled()
    loaded = load_config(config, overrides)
    folder = choose_folder(loaded, out)
    experiment = build(loaded)
    check_memory(experiment)
    wanted = None if format == "auto" else format
    found = read_weights(weights, experiment, wanted, prefix)
    try:
        with StopRequest() as request:
            request.raise_at_once()
            run, results = import_run(
                folder, experiment, found, console, request, named=out is not None
            )
    except Interrupted as interrupted:
        console.print("stopped; nothing was made")
        sys.exit(128 + interrupted.signal)
    rows = {
        "weights": f"{weights} ({found.origin['format']})",
        "run": str(run.path),
        "train on": f"jaxlstm resume {run.path}",
    }
    print_results(console, results, rows)
