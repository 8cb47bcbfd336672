"""Making run directories."""

import contextlib
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxlstm.lab.config import Config, import_path
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.experiment import Experiment
from jaxlstm.lab.files import cannot_write, write_text
from jaxlstm.lab.fingerprint import hardware, software
from jaxlstm.lab.lock import LOCK, hold
from jaxlstm.lab.runs import (
    COMPARISON,
    CONFIG,
    FACTS,
    VOCABULARY,
    Run,
    format_facts,
)


def choose_folder(config: Config, out: Path | None) -> Path:
    """Returns the folder of a new run, which does not exist yet or is empty.

    Args:
      config: gives the name where `out` is None: runs/NAME-TIME.
      out: the folder itself.

    Raises:
      UserError: it is taken.
    """
    if out is None:
        folder = Path("runs") / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        _check_path(folder)
        return folder
    try:
        str(out).encode()
        _check_path(out)
        _check_empty(out)
    except (OSError, ValueError, RuntimeError) as error:
        # Too long, a link to itself, not UTF-8, or with a NUL in it.
        raise UserError(f"--out {out}: no name for a folder: {error}") from None
    return out


@contextlib.contextmanager
def claim_folder(folder: Path, *, named: bool) -> Iterator[Path]:
    """Makes the folder of a new run, and holds it; takes it back if no run comes of it.

    The same serves for a comparison.

    Args:
      folder: of the run.
      named: whether the user asked for this folder. Another one is numbered where
        somebody else was quicker.

    Yields:
      The folder.

    Raises:
      UserError: it cannot be made, or another process holds it.
    """
    wanted, number = folder, 1
    there = folder.is_dir()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                folder.mkdir(exist_ok=named)
                break
            except FileExistsError:
                if named:
                    raise
                number += 1
                folder = wanted.with_name(f"{wanted.name}-{number}")
    except OSError as error:
        raise cannot_write(folder, error) from None
    with hold(folder):
        try:
            yield folder
        finally:
            begun = any((folder / name).exists() for name in (FACTS, COMPARISON))
            if not there and not begun:
                shutil.rmtree(folder, ignore_errors=True)


def _check_empty(folder: Path) -> None:
    for parent in folder.parents:
        if parent.exists() and not parent.is_dir():
            raise UserError(f"--out {folder}: {parent} is no folder; name another one")
    if (folder / FACTS).exists():
        raise UserError(
            f"--out {folder}: holds another run; go on with `jaxlstm resume {folder}`, "
            "or name another folder"
        )
    if (folder / COMPARISON).exists():
        raise UserError(
            f"--out {folder}: holds a comparison; go on with it by `jaxlstm resume "
            f"{folder}`, or name another folder"
        )
    # What a start that was cut short leaves behind is in nobody's way.
    names = CONFIG, VOCABULARY, FACTS, COMPARISON
    left = {LOCK, *[f"{name}.new" for name in names]}
    if (folder / LOCK).exists():
        left |= {CONFIG, VOCABULARY}
    if folder.exists() and (
        not folder.is_dir() or {path.name for path in folder.iterdir()} - left
    ):
        raise UserError(f"--out {folder}: is not an empty folder; name another one")


def _check_path(folder: Path) -> None:
    # Orbax takes the path of a checkpoint for a pattern, and then finds none.
    signs = sorted(set("[]*?") & set(str(folder.resolve())))
    if signs:
        raise UserError(
            f"--out {folder}: its whole path, {folder.resolve()}, holds "
            f"{' '.join(signs)}, with which checkpoints cannot be read back; name "
            "another folder"
        )


def create_run(folder: Path, experiment: Experiment, **noted: Any) -> Run:
    """Writes what a new run begins with into its folder; run.json makes it a run.

    Args:
      folder: is claimed.
      experiment: what is run.
      **noted: further facts for run.json.

    Raises:
      UserError: another run was quicker, or it cannot be written; then nothing of it
        is left.
    """
    config = experiment.config
    _check_empty(folder)
    labels = config.task.labels()
    facts = {
        "id": secrets.token_hex(8),
        "status": "running",
        "config": config.name,
        "seed": config.sections.seed,
        "num_updates": experiment.num_updates,
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "import_path": [str(p.resolve()) for p in import_path(config.folder / CONFIG)],
        "parts": config.task.parts()._asdict(),
        "data": config.task.describe_data(),
        "labels": None if labels is None else list(labels),
        **software(config),
        **hardware(experiment.trainer.mesh),
        **noted,
    }
    vocabulary = config.task.vocabulary()
    try:
        (folder / VOCABULARY).unlink(missing_ok=True)
        if vocabulary is not None:
            vocabulary.save(folder / VOCABULARY)
        write_text(folder / CONFIG, config.to_toml())
        write_text(folder / FACTS, format_facts(facts))
    except BaseException as error:
        for name in (VOCABULARY, CONFIG, FACTS):
            (folder / name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(folder, error) from None
        raise
    run = Run(folder)
    # What has been put together is not put together again: it may hold much data.
    run.config, run.experiment = config, experiment
    return run
