"""The reference run of a comparison, and the parameters that it went through."""

import functools
import shutil
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from jaxlstm.lab.checkpoints import Checkpoints, warn
from jaxlstm.lab.comparison.problem import Part, Snapshot
from jaxlstm.lab.comparison.store import SNAPSHOTS, Store
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.experiment import Experiment
from jaxlstm.lab.fingerprint import Change, find_changes, settings
from jaxlstm.lab.runner import train_run
from jaxlstm.lab.runs import CHECKPOINTS, FACTS, REFERENCE, Run
from jaxlstm.lab.signals import StopRequest
from jaxlstm.lab.start import claim_folder, create_run
from jaxlstm.types import PyTree


def choose_updates(experiment: Experiment) -> tuple[int, ...]:
    """Returns the updates that snapshots are taken after.

    Raises:
      UserError: the run does not come to one of them.
    """
    section, last = experiment.config.sections.compare, experiment.num_updates
    assert section is not None
    if section.snapshots is None:
        return tuple(sorted({0, last // 2, last}))
    if section.snapshots[-1] > last:
        raise UserError(
            f"[compare] snapshots: {section.snapshots[-1]} is above the number of "
            f"updates, {last}; lower it, or train for longer"
        )
    return tuple(section.snapshots)


def train_reference(
    store: Store,
    experiment: Experiment,
    console: Console,
    request: StopRequest,
) -> tuple[Snapshot, ...]:
    """Trains the reference run, or what is left of it, and returns its snapshots.

    It is a run directory like any other. Where a snapshot is lost or damaged that it
    has passed already, it begins anew, and comes to the same bytes.

    Args:
      store: of the comparison.
      experiment: what is run.
      console: where progress is shown.
      request: whether a signal asks to stop.

    Raises:
      Interrupted: a signal came; the run has been saved.
      UserError: it cannot be trained to its end, or is not that of the comparison.
    """
    folder, updates = store.path / REFERENCE, choose_updates(experiment)
    found = {update: store.load(_key(update)) for update in updates}
    passed = _passed(folder)
    lost = [n for n, part in found.items() if part is None and n < passed]
    if lost:
        warn(
            f"{store.path / _key(lost[0])}.npz: is not there as it was, and the run "
            "has passed it; it begins anew"
        )
        shutil.rmtree(folder)
    with claim_folder(folder, named=True):
        run, changes = _open(folder, experiment)
        if run.facts["status"] != "finished" or None in found.values():
            missing = [n for n, part in found.items() if part is None]
            visits = {n: functools.partial(_keep, store, n) for n in missing}
            train_run(run, console, request, changes, visits)
            found |= {n: store.load(_key(n)) for n in missing}
    shapes = jax.eval_shape(experiment.trainer.model.init, jax.random.key(0))
    leaves, structure = jax.tree.flatten(shapes)
    return tuple(
        Snapshot(
            update, structure.unflatten(part.arrays[str(n)] for n in range(len(leaves)))
        )
        for update, part in found.items()
        if part is not None
    )


def _key(update: int) -> str:
    return f"{SNAPSHOTS}/{update}"


def _keep(store: Store, update: int, params: PyTree) -> None:
    leaves = jax.tree.leaves(jax.device_get(params))
    arrays = {str(n): np.asarray(leaf) for n, leaf in enumerate(leaves)}
    store.save(_key(update), Part({}, arrays), 0.0)


def _passed(folder: Path) -> int:
    """Returns the update that a run would go on from; -1 of one that has not begun."""
    if not (folder / FACTS).is_file():
        return -1
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    try:
        return checkpoints.number("latest") or 0
    finally:
        checkpoints.close()


def _open(folder: Path, experiment: Experiment) -> tuple[Run, list[Change] | None]:
    """Returns the run of a folder, and what has changed since; None of a new one."""
    if not (folder / FACTS).is_file():
        return create_run(folder, experiment), None
    run = Run(folder)
    wanted = {"settings": settings(experiment.config)}
    for key, was, now in find_changes(run.facts, wanted):
        raise UserError(
            f"{folder}: {key} is {was}, and {now} in the comparison; remove {folder}, "
            "and it is trained anew"
        )
    changes = run.check_unchanged()
    # What has been put together is not put together again: it may hold much data.
    run.experiment = experiment
    return run, changes
