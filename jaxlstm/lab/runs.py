"""Run directories: reading one back, and holding it to what it began with."""

import contextlib
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import pydantic

from jaxlstm.lab.checkpoints import Checkpoints, Which, check_which
from jaxlstm.lab.config import Config, load_config
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.experiment import Experiment, build, build_model
from jaxlstm.lab.files import write_text
from jaxlstm.lab.fingerprint import (
    Change,
    check_allowed,
    check_changes,
    find_changes,
    hardware,
    settings,
    software,
)
from jaxlstm.lab.metrics import read_metrics
from jaxlstm.lab.task import ModelParts, Task
from jaxlstm.lab.training import TrainState
from jaxlstm.lab.vocabulary import Vocabulary
from jaxlstm.model import Model, ModelParams

CONFIG, FACTS, METRICS, CHECKPOINTS, PLOTS, VOCABULARY, SAMPLES, NON_FINITE = (
    "config.toml",
    "run.json",
    "metrics.jsonl",
    "checkpoints",
    "plots",
    "vocabulary.json",
    "samples.txt",
    "non_finite",
)
# What makes a directory that of a comparison, and not of a run; and a run in it.
COMPARISON, REFERENCE = "comparison.json", "reference"

# Facts of the data that say where it lies: the same data may lie elsewhere.
PLACES = "source", "python"


class Parts(pydantic.BaseModel):
    """What run.json has to hold of `ModelParts`."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid")

    input_size: pydantic.PositiveInt
    output_size: pydantic.PositiveInt
    symbols: bool = False


class Facts(pydantic.BaseModel):
    """What run.json has to hold for a run to be read back."""

    model_config = pydantic.ConfigDict(strict=True, extra="allow")

    id: str = ""
    status: Literal["running", "finished", "stopped", "failed"]
    config: str
    import_path: list[str]
    parts: Parts
    data: dict[str, Any]
    labels: list[str] | None = None
    settings: dict[str, Any]
    versions: dict[str, str]
    flags: dict[str, Any]
    devices: dict[str, Any]
    updates: pydantic.NonNegativeInt = 0
    seconds: pydantic.NonNegativeFloat = 0.0


class Run:
    """A run directory, read as far as it is asked for.

    Model, parameters and vocabulary need the directory alone; `experiment` reads the
    task's data.

    Attributes:
      path: of the directory.
      which: of its checkpoints gives the parameters, if there is one: "best" or
        "latest". Where none was kept as the best, it is the latest.
    """

    def __init__(self, path: Path, which: Which = "best"):
        check_which(which)
        if not path.is_dir():
            raise UserError(f"{path}: no such run directory")
        if (path / COMPARISON).is_file():
            raise UserError(
                f"{path}: is a comparison, and not a run; name the run that it "
                f"trained, {path / REFERENCE}"
            )
        for name in (CONFIG, FACTS):
            if not (path / name).is_file():
                raise UserError(f"{path}: not a run directory; it has no {name}")
        self.path, self.which = path, which

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What run.json says: versions, devices, status."""
        path = self.path / FACTS
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            Facts.model_validate(facts)
        except pydantic.ValidationError as error:
            key = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise UserError(
                f"{path}: is damaged{key and f': {key} is missing or wrong'}; bring "
                "back what it held"
            ) from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not JSON: {error}") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        return facts

    @functools.cached_property
    def config(self) -> Config:
        """The resolved config."""
        # Nothing is imported from the run itself, which may come from a stranger.
        folders = [
            folder
            for folder in map(Path, self.facts["import_path"])
            if not folder.resolve().is_relative_to(self.path.resolve())
        ]
        return load_config(self.path / CONFIG, folders=folders)

    @functools.cached_property
    def experiment(self) -> Experiment:
        """The parts that the config names.

        Raises:
          UserError: the data is not what the run began with.
        """
        experiment = build(self.config)
        began, now = self.facts["data"], self.task.describe_data()
        for name in [*began, *now]:
            if name not in PLACES and began.get(name) != now.get(name):
                raise UserError(
                    f"{self.path}: the data has changed since the run began: {name} "
                    f"was {began.get(name)} and is {now.get(name)}; bring the data "
                    "back, or begin a new run"
                )
        return experiment

    @property
    def task(self) -> Task:
        """The task."""
        return self.config.task

    @functools.cached_property
    def model(self) -> Model:
        """The model."""
        return build_model(self.config, ModelParts(**self.facts["parts"]))

    @functools.cached_property
    def vocabulary(self) -> Vocabulary | None:
        """The symbols of a task that has some."""
        path = self.path / VOCABULARY
        return Vocabulary.load(path) if path.is_file() else None

    @property
    def labels(self) -> list[str] | None:
        """The names of the classes that texts are sorted into, if they are."""
        return self.facts.get("labels")

    @property
    def writes_text(self) -> bool:
        """Whether the model goes on with a text, and does not sort it."""
        return self.vocabulary is not None and self.labels is None

    @functools.cached_property
    def state(self) -> TrainState:
        """The training state of the latest checkpoint."""
        with self._checkpoints() as checkpoints:
            return checkpoints.restore(self.template)[0]

    @property
    def template(self) -> TrainState:
        """A training state as it is before the first update."""
        sections, trainer = self.config.sections, self.experiment.trainer
        return trainer.init(jax.random.key(sections.seed), sections.train.batch_size)

    @property
    def update(self) -> int | None:
        """How many updates had been made where the parameters were saved."""
        if "_restored" in vars(self):
            return self._restored[1]
        with self._checkpoints() as checkpoints:
            return checkpoints.number(self._which(checkpoints))

    @property
    def params(self) -> ModelParams:
        """The parameters of the checkpoint, on the first device alone."""
        return self._restored[0]

    @functools.cached_property
    def _restored(self) -> tuple[ModelParams, int]:
        with self._checkpoints() as checkpoints:
            shapes = jax.eval_shape(self.model.init, jax.random.key(0))
            return checkpoints.restore_params(shapes, self._which(checkpoints))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_metrics(self.path / METRICS)

    def _checkpoints(self) -> contextlib.closing[Checkpoints]:
        checkpoints = Checkpoints(self.path / CHECKPOINTS, run=self.facts.get("id", ""))
        return contextlib.closing(checkpoints)

    def _which(self, checkpoints: Checkpoints) -> Which:
        kept = checkpoints.number("best") is not None
        return "best" if self.which == "best" and kept else "latest"

    def note(self, **facts: Any) -> None:
        """Writes further facts into run.json."""
        self.facts.update(facts)
        write_text(self.path / FACTS, format_facts(self.facts))

    def changed_settings(self, allowed: Sequence[str] = ()) -> list[Change]:
        """Returns keys of config.toml that are not what they were when the run began.

        Raises:
          UserError: what is allowed to have changed is no part of the fingerprint.
        """
        check_allowed(allowed, self._fingerprint)
        return find_changes(self._fingerprint, {"settings": settings(self.config)})

    @property
    def _fingerprint(self) -> dict[str, dict[str, Any]]:
        groups = "settings", "versions", "flags", "devices"
        return {name: self.facts[name] for name in groups}

    def check_unchanged(self, allowed: Sequence[str] = ()) -> list[Change]:
        """Compares the fingerprint with what there is now, before a run goes on.

        Args:
          allowed: keys of the fingerprint, or groups of them, such as "versions".

        Returns:
          What has changed, which `note_changes` is for once the run goes on.

        Raises:
          UserError: something else has changed, a line for each.
        """
        began = self._fingerprint
        check_allowed(allowed, began)
        changes = find_changes(began, software(self.config))
        check_changes(str(self.path), changes, allowed)
        # Known only once the devices have been chosen.
        devices = find_changes(began, hardware(self.experiment.trainer.mesh))
        check_changes(str(self.path), devices, allowed)
        return [*changes, *devices]

    def note_changes(self, changes: Sequence[Change], update: int) -> None:
        """Notes what changed after an update; it counts from there on."""
        noted = [{"update": update, **change._asdict()} for change in changes]
        self.note(
            **software(self.config),
            **hardware(self.experiment.trainer.mesh),
            num_updates=self.experiment.num_updates,
            changes=[*self.facts.get("changes", []), *noted],
        )


def load_run(path: str | Path, checkpoint: Which = "best") -> Run:
    """Returns a run: its model, params, vocabulary, config, task and metrics.

    Args:
      path: of the run directory.
      checkpoint: "best", of the lowest validation loss along the way (the latest,
        where none was measured), or "latest".

    Raises:
      UserError: there is no run at that path, or no such checkpoint.
    """
    return Run(Path(path), checkpoint)


def format_facts(facts: dict[str, Any]) -> str:
    """Returns facts as run.json holds them."""
    return json.dumps(facts, indent=2) + "\n"
