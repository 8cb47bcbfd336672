"""Config files: TOML, overrides, and errors that say where and what to do."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
import tomli_w

from jaxlstm.cells import CELLS, INITIALIZERS, Cell
from jaxlstm.estimators import ESTIMATORS
from jaxlstm.lab.errors import UserError, suggest
from jaxlstm.lab.imports import extend_path, load_object
from jaxlstm.lab.optimizers import OPTIMIZERS
from jaxlstm.lab.options import (
    factory_options,
    find_factory,
    options_model,
)
from jaxlstm.lab.overrides import apply_overrides, parse_toml
from jaxlstm.lab.schema import ConfigFile, OpenSection, ShadowSection
from jaxlstm.lab.task import Task
from jaxlstm.lab.wording import Reporter
from jaxlstm.shapes import OptionError


class ShadowConfig(NamedTuple):
    """An estimator that is compared with others.

    Attributes:
      label: its name and those of its options that are not their defaults.
      name: a key of `ESTIMATORS` or an import path.
      options: all of them.
    """

    label: str
    name: str
    options: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Config:
    """A config that has been read and checked, with what it names.

    Attributes:
      name: of the file, without its ending.
      folder: where the file lies.
      sections: the values.
      task: the task.
      cell: the cell.
      estimator_options: of the estimator, defaults filled in.
      shadows: the estimators that are compared with it.
      members: the estimators that `jaxlstm compare` compares.
      optimizer_options: of the optimizer, defaults filled in.
      cell_options: of the cell, defaults filled in.
    """

    name: str
    folder: Path
    sections: ConfigFile
    task: Task
    cell: Cell
    cell_options: dict[str, Any]
    estimator_options: dict[str, Any]
    shadows: tuple[ShadowConfig, ...]
    members: tuple[ShadowConfig, ...]
    optimizer_options: dict[str, Any]

    def resolved(self) -> dict[str, Any]:
        """Returns the config with every default filled in, as TOML holds it."""
        values = self.sections.model_dump()
        values["task"].update(self.task.model_dump())
        values["model"].update(self.cell_options)
        values["estimator"].update(self.estimator_options)
        values["estimator"]["shadow"] = _tables(self.shadows)
        if values["compare"] is not None:
            values["compare"]["estimators"] = _tables(self.members)
        values["optimizer"].update(self.optimizer_options)
        return _without_none(values)

    def to_toml(self) -> str:
        """Returns the resolved config as a file's text."""
        return tomli_w.dumps(self.resolved())


def import_path(path: Path) -> list[Path]:
    """Returns the folders in which the modules that a config names are looked for."""
    return [Path.cwd(), path.parent, path.parent / ".."]


def load_config(
    path: Path,
    overrides: Sequence[str] = (),
    folders: Sequence[Path] | None = None,
) -> Config:
    """Reads a config file.

    Args:
      path: of the file.
      overrides: `section.key=value`, the value written as in TOML; a bare word is a
        string, and no value removes the key, so that its default holds.
      folders: where modules are looked for; by default `import_path`.

    Raises:
      UserError: one line for each thing that is wrong.
    """
    values = parse_toml(_read(path), f"{path}: not valid TOML")
    overridden = apply_overrides(values, overrides)
    extend_path(*(import_path(path) if folders is None else folders))
    reporter = Reporter(str(path), overridden)
    try:
        sections = ConfigFile.model_validate(values)
    except pydantic.ValidationError as error:
        raise UserError(*reporter.lines(error, (), values)) from None
    return _resolve(path, sections, reporter)


def json_schema(config: Path | None = None) -> dict[str, Any]:
    """Returns the JSON Schema of config files, of one task where a config is given."""
    schema = ConfigFile.model_json_schema()
    if config is not None:
        task = type(load_config(config).task).model_json_schema()
        schema["$defs"].update(task.pop("$defs", {}))
        own = schema["$defs"]["TaskSection"]
        own["properties"].update(task.get("properties", {}))
        own["required"] = own.get("required", []) + task.get("required", [])
        own["additionalProperties"] = False
    return schema


def _read(path: Path) -> str:
    try:
        if path.is_dir():
            own = path / "config.toml"
            such = own if own.is_file() else path / "*.toml"
            raise UserError(f"{path}: is a folder; name a config file, such as {such}")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; configs end in .toml") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror}; name a config file"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: is not a path: {error}; name a file") from None


def _resolve(path: Path, sections: ConfigFile, reporter: Reporter) -> Config:
    lines: list[str] = []
    causes: list[BaseException | None] = []
    train = sections.train
    if (train.num_updates is None) == (train.num_epochs is None):
        given = "train.num_updates" in reporter.overridden
        spare = "train.num_epochs" if given else "train.num_updates"
        both = f"and not both; an override {spare}= removes that one"
        lines.append(
            f"{path}: [train]: set one of num_updates and num_epochs, "
            f"{both if train.num_updates else 'for how long to train'}"
        )

    if train.patience is not None and train.eval_every is None:
        lines.append(
            f"{path}: [train] patience = {train.patience}: counts evaluations, and "
            "eval_every is not set; set it"
        )

    def attempt(resolve: Callable[..., Any], *args: Any) -> Any:
        try:
            return resolve(*args)
        except UserError as error:
            lines.extend(error.lines)
            causes.append(error.__cause__)

    task = attempt(_make_task, sections, reporter)
    cell = attempt(_make_cell, sections, reporter)
    estimator = attempt(
        _options,
        *("estimator", sections.estimator, ESTIMATORS, ("model", "loss_fn"), reporter),
    )

    def attempt_all(
        place: tuple[str, str], named: Sequence[ShadowSection]
    ) -> list[ShadowConfig]:
        section, key = place
        made = [
            attempt(_make_shadow, (section, f"{key}[{n}]"), each, reporter)
            for n, each in enumerate(named)
        ]
        labels = [each.label for each in made if each]
        for label in dict.fromkeys(name for name in labels if labels.count(name) > 1):
            lines.append(
                f"{reporter.where(place)}: {label} is there more than once; leave one"
            )
        return made

    shadows = attempt_all(("estimator", "shadow"), sections.estimator.shadow)
    compared = sections.compare.estimators if sections.compare else ()
    members = attempt_all(("compare", "estimators"), compared)
    optimizer = attempt(
        _options,
        *("optimizer", sections.optimizer, OPTIMIZERS, ("learning_rate",), reporter),
    )
    if sections.model.initializer not in INITIALIZERS:
        lines.append(
            reporter.line(
                ("model", "initializer"),
                sections.model.initializer,
                f"unknown; {suggest(sections.model.initializer, INITIALIZERS)}",
            )
        )
    if lines:
        raise UserError(*lines) from next(filter(None, causes), None)
    return Config(
        name=path.stem,
        folder=path.parent.resolve(),
        sections=sections,
        task=task,
        cell=cell[0],
        cell_options=cell[1],
        estimator_options=estimator,
        shadows=tuple(shadows),
        members=tuple(members),
        optimizer_options=optimizer,
    )


def _make_task(sections: ConfigFile, reporter: Reporter) -> Task:
    use = sections.task.use
    where = reporter.where(("task", "use"))
    task_class = load_object(where, use)
    is_task = isinstance(task_class, type) and issubclass(task_class, Task)
    if not is_task or task_class is Task:
        raise UserError(f'{where} = "{use}": is not a class derived from Task')
    try:
        return task_class.model_validate(sections.task.options)
    except pydantic.ValidationError as error:
        choices = ["use", *task_class.model_fields]
        raise UserError(
            *reporter.lines(error, ("task",), sections.task.options, choices)
        ) from None


def _make_cell(sections: ConfigFile, reporter: Reporter) -> tuple[Cell, dict[str, Any]]:
    model = sections.model
    where = reporter.where(("model", "cell"))
    factory = find_factory(where, model.cell, CELLS)
    if isinstance(factory, Cell):
        return factory, _check_options(
            "model", model, options_model(_no_options), reporter
        )
    options = factory_options(where, model.cell, factory, ())
    # One key serves the cell and the readout, which the model draws itself. That an
    # initialiser is unknown is said of the section, once.
    known = model.initializer in INITIALIZERS
    shared = {"initializer": model.initializer} if known else {}
    given = _check_options(
        "model",
        model,
        options,
        reporter,
        {k: v for k, v in shared.items() if k in options.model_fields},
    )
    try:
        cell = factory(**given)
    except OptionError as error:
        option, _, _ = str(error).partition(":")
        if option in model.options:
            raise UserError(f"{reporter.where(('model',))}.{error}") from None
        # It is one of those that the name of the cell stands for.
        raise UserError(f'{where} = "{model.cell}": {error}') from None
    if not isinstance(cell, Cell):
        raise UserError(f'{where} = "{model.cell}": does not make a Cell')
    return cell, given


def _no_options() -> None:
    """Takes nothing: a finished cell has no options left."""


def _make_shadow(
    place: tuple[str, str], section: ShadowSection, reporter: Reporter
) -> ShadowConfig:
    where = reporter.where(place)
    factory = find_factory(where, section.name, ESTIMATORS)
    model = factory_options(where, section.name, factory, ("model", "loss_fn"))
    try:
        options = model.model_validate(section.options).model_dump()
    except pydantic.ValidationError as error:
        raise UserError(
            *reporter.lines(
                error, place, section.options, ["name", *model.model_fields]
            )
        ) from None
    told = [
        f"{name}={value}"
        for name, value in options.items()
        if value != model.model_fields[name].default
    ]
    label = f"{section.name}({', '.join(told)})" if told else section.name
    return ShadowConfig(label, section.name, options)


def _options(
    section_name: str,
    section: OpenSection,
    table: Mapping[str, Callable[..., Any]],
    arguments: Sequence[str],
    reporter: Reporter,
) -> dict[str, Any]:
    name: str = section.name  # type: ignore[attr-defined]
    where = reporter.where((section_name, "name"))
    factory = find_factory(where, name, table)
    options = factory_options(where, name, factory, arguments)
    return _check_options(section_name, section, options, reporter)


def _check_options(
    section_name: str,
    section: OpenSection,
    options: type[pydantic.BaseModel],
    reporter: Reporter,
    shared: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    try:
        return options.model_validate(section.options | dict(shared or {})).model_dump()
    except pydantic.ValidationError as error:
        # Some keys serve the section and what it names.
        fields = [*type(section).model_fields, *options.model_fields]
        choices = list(dict.fromkeys(fields))
        raise UserError(
            *reporter.lines(error, (section_name,), section.options, choices)
        ) from None


def _tables(estimators: Sequence[ShadowConfig]) -> list[dict[str, Any]]:
    return [{"name": each.name, **each.options} for each in estimators]


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(v) for v in value]
    return value
