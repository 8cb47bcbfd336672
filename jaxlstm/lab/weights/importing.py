"""Runs that begin with the weights of a file."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from jaxlstm.interop.weights import name_leaves
from jaxlstm.lab.data import hash_file
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.experiment import Experiment
from jaxlstm.lab.lock import LOCK
from jaxlstm.lab.runs import Run
from jaxlstm.lab.session import Results, Session
from jaxlstm.lab.signals import StopRequest
from jaxlstm.lab.start import claim_folder, create_run
from jaxlstm.lab.weights.files import TITLES, Format, Named, find_format, read_named
from jaxlstm.lab.weights.graphs import read_graph
from jaxlstm.lab.weights.matching import (
    check_forms,
    check_origin,
    convert,
    into_tree,
)
from jaxlstm.lab.weights.plain import find_layout
from jaxlstm.lab.weights.torch_form import from_names, to_names
from jaxlstm.lab.weights.torch_names import FIRST, find_prefixes, parse_prefixes
from jaxlstm.model import ModelParams


class Weights(NamedTuple):
    """Weights of a file, in the form of a model.

    Attributes:
      params: of the model.
      origin: the file, its format and its hash, as run.json notes it.
    """

    params: ModelParams
    origin: dict[str, Any]


def read_weights(
    path: Path,
    experiment: Experiment,
    wanted: Format | None = None,
    prefixes: Sequence[str] = (),
) -> Weights:
    """Returns the weights of a file as parameters of an experiment's model.

    Args:
      path: of the file.
      experiment: whose model they are for.
      wanted: the format that the file is to be of; None for whatever it is of.
      prefixes: of names in PyTorch, as `parse_prefixes` takes them.

    Raises:
      UserError: the file cannot be read, or is not of such a model, with a line for
        each array that is missing, in excess or mis-shaped.
    """
    given = parse_prefixes(prefixes)
    found, sha256 = find_format(path), hash_file(path)
    model, config = experiment.trainer.model, experiment.config
    template = jax.eval_shape(model.init, jax.random.key(0))
    graph = found in ("onnx", "keras")
    named = (
        read_graph(path, found, config, template) if graph else read_named(path, found)
    )
    names = found
    if found == "safetensors" and any(name.endswith(FIRST) for name in named.arrays):
        names = "torch"
    if wanted is not None and wanted not in (found, names):
        raise UserError(
            f"{path}: is {TITLES[found]}, and --format {wanted} was asked for; leave "
            "it out, or name another file"
        )
    if names != "torch" and given:
        raise UserError(
            f"--prefix {prefixes[0]}: {path} has no names of PyTorch; leave it out"
        )
    if names == "torch":
        params = _from_torch(path, named, experiment, template, given)
    else:
        leaves = name_leaves(template)
        check_forms(path, named.arrays, leaves)
        params = into_tree(convert(path, named.arrays, leaves), template)
    check_origin(path, named.metadata, config)
    origin = {
        "file": str(path.resolve()),
        "format": names,
        "sha256": sha256,
        **{
            key: named.metadata[key]
            for key in ("run", "update")
            if key in named.metadata
        },
    }
    return Weights(params, origin)


def _from_torch(
    path: Path,
    named: Named,
    experiment: Experiment,
    template: Any,
    given: dict[str, str],
) -> ModelParams:
    parts = experiment.config.task.parts()
    symbols = parts.input_size if parts.symbols else None
    layout = find_layout(experiment.config, template, symbols, str(path))
    prefixes = find_prefixes(named.arrays, given, str(path))
    zeros = jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), template)
    wanted = to_names(zeros, layout, prefixes)
    check_forms(path, named.arrays, wanted)
    arrays = convert(path, named.arrays, wanted)
    return from_names(arrays, template, prefixes, str(path))


def import_run(
    folder: Path,
    experiment: Experiment,
    weights: Weights,
    console: Console,
    request: StopRequest,
    *,
    named: bool,
) -> tuple[Run, Results]:
    """Makes a run directory whose run begins with weights, and measures them.

    `jaxlstm resume` trains it from there.

    Args:
      folder: of the run.
      experiment: what would be run.
      weights: that it begins with.
      console: where progress is shown.
      request: whether a signal asks to stop.
      named: whether the user asked for this folder.

    Returns:
      The run, and the metrics of each split.

    Raises:
      Interrupted: a signal came. Nothing is left behind, as after an error.
      UserError: a loss is not finite, or something cannot be written.
    """
    with claim_folder(folder, named=named) as folder:
        try:
            run = create_run(folder, experiment, imported=weights.origin)
            session = Session(run, console, request)
            results = session.begin_with(weights.params)
            session.finish(results, 0.0, status="stopped")
        except BaseException:
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name != LOCK:
                    path.unlink(missing_ok=True)
            raise
    return run, results
