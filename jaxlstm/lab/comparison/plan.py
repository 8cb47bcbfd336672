"""What a comparison is to measure, known before anything of it is made."""

import json
import secrets
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.lab.comparison.costs import check_feasible
from jaxlstm.lab.comparison.problem import Member, Problem, Progress
from jaxlstm.lab.comparison.reference import choose_updates
from jaxlstm.lab.comparison.store import Store
from jaxlstm.lab.comparison.windows import read_window
from jaxlstm.lab.config import Config, import_path, load_config
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.experiment import Experiment, build
from jaxlstm.lab.files import write_text
from jaxlstm.lab.fingerprint import Facts, find_changes, hardware, settings, software
from jaxlstm.lab.memory import check_memory
from jaxlstm.lab.runs import CONFIG, PLACES
from jaxlstm.lab.schema import CompareSection

# Segments that are looked at for one with a loss, where the windows have none.
FURTHEST = 1000


class LeftOut(UserWarning):
    """Something cannot be measured; the rest is."""


class Plan(NamedTuple):
    """What a comparison is to measure.

    Attributes:
      experiment: that trains the reference run.
      members: the estimators that can be compared.
      refused: why others cannot, by label.
    """

    experiment: Experiment
    members: tuple[Member, ...]
    refused: dict[str, str]

    @property
    def config(self) -> Config:
        """The config."""
        return self.experiment.config


def make_plan(
    config: Config, where: str, progress: Progress = lambda text: None
) -> Plan:
    """Puts together what a comparison is made of, and refuses what cannot be.

    Args:
      config: the config.
      where: the file, for errors.
      progress: told what is looked at.

    Raises:
      UserError: it cannot be compared as the config says.
    """
    _check_section(config, where)
    experiment = build(config)
    if experiment.trainer.model.step is None:
        raise UserError(
            f"{where}: [model] bidirectional = true: a comparison goes from "
            "step to step, and the model has no online form; set it false"
        )
    check_memory(experiment)
    choose_updates(experiment)
    problem = Problem(experiment, tuple(Member(*each) for each in config.members), ())
    model = problem.model()
    faults, whole = [], []
    for member in problem.members:
        try:
            if problem.estimator(member, model).traits.whole_sequences:
                whole.append(member.label)
        except UserError as error:
            faults += error.lines
    if faults:
        raise UserError(*faults)
    _check_whole(problem, whole)
    assert config.sections.compare is not None
    _check_scored(problem, config.sections.compare)
    members, refused = [], {}
    for member in problem.members:
        progress(f"whether there is the memory for {member.label}")
        reason = check_feasible(problem, member)
        if reason is None:
            members.append(member)
        else:
            refused[member.label] = reason
    if not members:
        raise UserError(
            *(
                f"[compare] {label}: {reason}; leave it out, or lower model.hidden_size"
                for label, reason in refused.items()
            )
        )
    for label, reason in refused.items():
        warnings.warn(
            f"[compare] {label}: {reason}; left out: lower model.hidden_size to "
            "compare it",
            LeftOut,
            stacklevel=2,
        )
    return Plan(experiment, tuple(members), refused)


def _check_section(config: Config, where: str) -> None:
    if config.sections.compare is None:
        raise UserError(
            f"{where}: [compare] is missing; write [compare] and, below it, estimators "
            '= ["rtrl", { name = "tbptt", horizon = 8 }] or others'
        )
    train = config.sections.train
    if train.patience is not None:
        raise UserError(
            f"{where}: [train] patience = {train.patience}: the reference run of a "
            "comparison trains to its end; leave it out"
        )


def _check_whole(problem: Problem, labels: Sequence[str]) -> None:
    """Refuses estimators of whole sequences where segments are of a stream.

    Raises:
      UserError: by each.
    """
    if not labels or all(map(_is_whole, read_window(problem, 0, 2).segments)):
        return
    raise UserError(
        *(
            f"[compare] {label}: takes each example of a segment for a whole sequence, "
            "reset at its first step and scored at its last alone, and those of the "
            "task are not; leave it out"
            for label in labels
        )
    )


def _is_whole(segment: Any) -> bool:
    """Returns whether examples are reset at the first step and scored at the last."""
    there = np.cumsum(segment.mask, axis=0)
    first, last = (segment.mask & (there == n) for n in (1, there[-1]))
    scored = segment.mask & (segment.weights != 0)
    reset = np.cumsum(segment.resets, axis=0) > 0
    return not np.any((scored & ~last) | (first & ~reset))


def _check_scored(problem: Problem, section: CompareSection) -> None:
    """Refuses windows without a loss, whose gradients are all zero.

    Raises:
      UserError: no step of theirs is scored.
    """
    size, count = section.segments_per_window, section.num_windows
    furthest = max(size * count, FURTHEST)
    first = next((n for n in range(furthest) if _is_scored(problem, n)), None)
    where = f"[compare] segments_per_window = {size}"
    if first is None:
        raise UserError(
            f"{where}: no step of the first {furthest:,} training segments is scored; "
            "mend the mask and the weights of the task"
        )
    if first >= size * count:
        raise UserError(
            f"{where}: no step of the first {count} windows is scored; set it to at "
            f"least {first // count + 1}"
        )
    if first >= size:
        warnings.warn(
            f"{where}: no step of the first window is scored, the only one that lags "
            f"and flow are measured on; set it to at least {first + 1}",
            LeftOut,
            stacklevel=3,
        )


def _is_scored(problem: Problem, number: int) -> bool:
    """Returns whether any step of a training segment has a loss."""
    (segment,) = read_window(problem, number, 1).segments
    return bool(np.any(segment.mask & (segment.weights != 0)))


def begin(folder: Path, plan: Plan) -> Store:
    """Writes what a new comparison begins with into its folder, which is claimed."""
    config = plan.config
    store = Store(
        folder,
        {
            "id": secrets.token_hex(8),
            "status": "running",
            "config": config.name,
            "seed": config.sections.seed,
            "num_updates": plan.experiment.num_updates,
            "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": 0.0,
            "import_path": [
                str(path.resolve()) for path in import_path(config.folder / CONFIG)
            ],
            "parts": config.task.parts()._asdict(),
            "data": config.task.describe_data(),
            **_fingerprint(plan.experiment),
            "members": [member.label for member in config.members],
            "refused": plan.refused,
        },
    )
    write_text(folder / CONFIG, config.to_toml())
    store.note()
    return store


def reopen(folder: Path, config: Config | None = None) -> tuple[Store, Plan]:
    """Opens a comparison that was begun, as it was planned.

    Args:
      folder: its directory.
      config: that it is to have; by default its own.

    Raises:
      UserError: it was begun with something else, which is named.
    """
    store = Store.open(folder, measures=True)
    if config is None:
        folders = [
            path
            for path in map(Path, store.facts["import_path"])
            if not path.resolve().is_relative_to(folder.resolve())
        ]
        config = load_config(folder / CONFIG, folders=folders)
    _check_section(config, str(folder / CONFIG))
    # First what is known without the data.
    _check_same(store, {"settings": settings(config, comparison=True)})
    experiment = build(config)
    _check_same(store, _fingerprint(experiment))
    _check_same(store, {"data": json.loads(json.dumps(config.task.describe_data()))})
    refused = store.facts.get("refused", {})
    members = tuple(Member(*x) for x in config.members if x.label not in refused)
    return store, Plan(experiment, members, refused)


def _fingerprint(experiment: Experiment) -> Facts:
    config = experiment.config
    return {
        **software(config),
        **hardware(experiment.trainer.mesh),
        "settings": settings(config, comparison=True),
    }


def _check_same(store: Store, facts: Facts) -> None:
    elsewhere = {f"data.{name}" for name in PLACES}
    changes = [x for x in find_changes(store.facts, facts) if x.key not in elsewhere]
    if changes:
        key, was, now = changes[0]
        more = f" (and {len(changes) - 1} keys more)" if changes[1:] else ""
        raise UserError(
            f"{store.path}: {key} was {_show(was)} when the comparison began and is "
            f"{_show(now)}{more}; bring it back, or begin another comparison in "
            "another folder"
        )


def _show(value: object) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
