"""Run directories: making one, and reading one back."""

import functools
import hashlib
import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxlstm
from jaxlstm.lab.checkpoints import Checkpoints
from jaxlstm.lab.config import Config, import_path, load_config
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.experiment import Experiment, build
from jaxlstm.lab.metrics import read_metrics
from jaxlstm.lab.task import Task
from jaxlstm.lab.training import TrainState
from jaxlstm.model import Model, ModelParams

CONFIG, FACTS, METRICS, CHECKPOINTS, PLOTS = (
    "config.toml",
    "run.json",
    "metrics.jsonl",
    "checkpoints",
    "plots",
)


class Run:
    """A run directory, read as far as it is asked for.

    Attributes:
      path: of the directory.
    """

    def __init__(self, path: Path):
        if not path.is_dir():
            raise UserError(f"{path}: no such run directory")
        for name in (CONFIG, FACTS):
            if not (path / name).is_file():
                raise UserError(f"{path}: not a run directory; it has no {name}")
        self.path = path

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What run.json says: versions, devices, status."""
        try:
            return json.loads((self.path / FACTS).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise UserError(f"{self.path / FACTS}: not JSON: {error}") from None

    @functools.cached_property
    def config(self) -> Config:
        """The resolved config."""
        folders = [Path(folder) for folder in self.facts["import_path"]]
        return load_config(self.path / CONFIG, folders=folders)

    @functools.cached_property
    def experiment(self) -> Experiment:
        """The parts that the config names."""
        return build(self.config)

    @property
    def task(self) -> Task:
        """The task."""
        return self.config.task

    @property
    def model(self) -> Model:
        """The model."""
        return self.experiment.trainer.model

    @functools.cached_property
    def state(self) -> TrainState:
        """The training state of the latest checkpoint."""
        checkpoints = Checkpoints(self.path / CHECKPOINTS)
        try:
            return checkpoints.restore(self.template)
        finally:
            checkpoints.close()

    @property
    def template(self) -> TrainState:
        """A training state as it is before the first update."""
        sections, trainer = self.config.sections, self.experiment.trainer
        return trainer.init(jax.random.key(sections.seed), sections.train.batch_size)

    @functools.cached_property
    def params(self) -> ModelParams:
        """The parameters of the latest checkpoint, on the first device alone."""
        return jax.tree.map(jnp.asarray, jax.device_get(self.state.params))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_metrics(self.path / METRICS)

    def note(self, **facts: Any) -> None:
        """Writes further facts into run.json."""
        self.facts.update(facts)
        replacement = self.path / f"{FACTS}.new"
        replacement.write_text(json.dumps(self.facts, indent=2) + "\n")
        os.replace(replacement, self.path / FACTS)


def load_run(path: str | Path) -> Run:
    """Returns a finished run: its model, params, config, task and metrics.

    Raises:
      UserError: there is no run at that path.
    """
    return Run(Path(path))


def choose_folder(config: Config, out: Path | None) -> Path:
    """Returns the folder of a new run, which does not exist yet or is empty.

    Args:
      config: gives the name where `out` is None: runs/NAME-TIME.
      out: the folder itself.

    Raises:
      UserError: it is taken.
    """
    if out is None:
        name = f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        folder, number = Path("runs") / name, 2
        while folder.exists():
            folder, number = Path("runs") / f"{name}-{number}", number + 1
        _check_path(folder)
        return folder
    _check_path(out)
    if (out / FACTS).exists() or (out / CONFIG).exists():
        raise UserError(
            f"--out {out}: holds another run; go on with `jaxlstm resume {out}`, or "
            "name another folder"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: is not an empty folder; name another one")
    return out


def _check_path(folder: Path) -> None:
    # Orbax takes the path of a checkpoint for a pattern, and then finds none.
    signs = sorted(set("[]*?") & set(str(folder.resolve())))
    if signs:
        raise UserError(
            f"--out {folder}: its whole path, {folder.resolve()}, holds "
            f"{' '.join(signs)}, with which checkpoints cannot be read back; name "
            "another folder"
        )


def create_run(folder: Path, experiment: Experiment) -> Run:
    """Makes the directory of a new run.

    Raises:
      UserError: it cannot be made.
    """
    config = experiment.config
    text = config.to_toml()
    facts = {
        "status": "running",
        "config": config.name,
        "seed": config.sections.seed,
        "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "import_path": [str(p.resolve()) for p in import_path(config.folder / CONFIG)],
        **fingerprint(experiment),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(text, encoding="utf-8")
        (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    return Run(folder)


def fingerprint(experiment: Experiment) -> dict[str, Any]:
    """Returns what a run's bytes depend on beside its config."""
    packages = "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint"
    devices = list(experiment.trainer.mesh.devices.flat)
    return {
        "versions": {
            "jaxlstm": jaxlstm.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
        "devices": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "cores": os.cpu_count(),
        },
    }
