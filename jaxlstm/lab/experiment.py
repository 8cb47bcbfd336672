"""An experiment: the parts that a config names, put together."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxlstm.dropout import Dropout
from jaxlstm.estimators import ESTIMATORS, GradientEstimator
from jaxlstm.lab.config import Config
from jaxlstm.lab.devices import make_mesh
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.evaluation import Evaluator
from jaxlstm.lab.memory import allow_long_indices, check_sizes
from jaxlstm.lab.optimizers import (
    OPTIMIZERS,
    apply_all,
    make_clip,
    make_schedule,
    make_trained,
)
from jaxlstm.lab.options import find_factory
from jaxlstm.lab.shadow import Shadow
from jaxlstm.lab.task import ModelParts, Source, Task, check_source
from jaxlstm.lab.training import Trainer
from jaxlstm.model import Model, make_model
from jaxlstm.shapes import OptionError


class Experiment(NamedTuple):
    """What a config describes, ready to run.

    Attributes:
      config: the config.
      trainer: makes updates.
      evaluator: measures a split.
      shadow: compares gradients; None where there is nothing to compare with.
      source: the training segments.
      num_updates: how many updates there are in all.
    """

    config: Config
    trainer: Trainer
    evaluator: Evaluator
    shadow: Shadow | None
    source: Source
    num_updates: int

    @property
    def batch_size(self) -> int:
        """B."""
        return self.config.sections.train.batch_size

    def split(self, name: str, *, seed: int | None = None) -> Source:
        """Returns the segments of a split, by default of the config's seed."""
        return _source(self.config, name, seed)


def build_model(
    config: Config, parts: ModelParts | None = None, *, dtype: str | None = None
) -> Model:
    """Returns the model that a config describes.

    Args:
      config: the config.
      parts: what the task asks of it; by default it is asked, which may need its data.
      dtype: of it and of its products, in place of the config's.

    Raises:
      UserError: its options do not go together, or a size is out of bounds.
    """
    check_sizes(config.sections)
    section, parts = config.sections.model, parts or config.task.parts()
    if section.dtype == "float64" and dtype is None:
        jax.config.update("jax_enable_x64", True)
    if section.inputs is not None and not parts.symbols:
        raise UserError(
            f'[model] inputs = "{section.inputs}": the task feeds vectors, not '
            "symbols; leave it out"
        )
    # What is asked for in another dtype is not to be rounded to a shorter one.
    compute_dtype = section.compute_dtype if dtype is None else None
    try:
        with allow_long_indices():
            return make_model(
                config.cell,
                input_size=parts.input_size,
                output_size=parts.output_size,
                hidden_size=section.hidden_size,
                num_layers=section.num_layers,
                bidirectional=section.bidirectional,
                connections=section.connections,
                inputs=(section.inputs or "one_hot") if parts.symbols else "float",
                embedding_size=section.embedding_size,
                tied=section.tied,
                readout=section.readout,
                learned_initial_state=section.learned_initial_state,
                dropout=_dropout(config),
                initializer=section.initializer,
                derivative=section.derivative,
                engine=section.engine,
                compute_dtype=compute_dtype and jnp.dtype(compute_dtype),
                dtype=jnp.dtype(dtype or section.dtype),
            )
    except OptionError as error:
        raise UserError(f"[model] {error}") from None


def build(config: Config) -> Experiment:
    """Puts together what a config names.

    Raises:
      UserError: parts do not fit together.
    """
    model, task, train = build_model(config), config.task, config.sections.train
    mesh = make_mesh(config.sections.devices, train.batch_size)
    source = _source(config, "train")
    num_updates = train.num_updates
    if num_updates is None:
        if source.num_segments is None:
            raise UserError(
                f"[train] num_epochs = {train.num_epochs}: the task's stream has no "
                "end; set num_updates"
            )
        assert train.num_epochs is not None
        num_updates = train.num_epochs * source.num_segments
    if train.patience is not None and "validation" not in task.splits:
        raise UserError(
            f"[train] patience = {train.patience}: the task has no validation split "
            "to wait for; leave it out, or give it one"
        )
    if config.sections.optimizer.name == "nt_asgd":
        _check_averaging(config)
    estimator, shadows = make_estimators(config, model)
    trainer = Trainer(
        model,
        estimator,
        make_optimizer(config, num_updates, source.num_segments),
        mesh,
        train.average,
        skips=config.sections.optimizer.skip_non_finite > 0,
        initial=task.initial,
        trained=make_trained(config.sections.optimizer.frozen, model),
    )
    shadow = None
    if shadows:
        length = config.sections.estimator.shadow_segments
        shadow = Shadow(trainer, shadows, length, train.batch_size)
    return Experiment(
        config, trainer, Evaluator(model, task, mesh), shadow, source, num_updates
    )


def _dropout(config: Config) -> Dropout:
    section, train = config.sections.model.dropout, config.sections.train
    dropout = Dropout(**section.model_dump())
    if dropout.mask_steps is None:
        return dropout._replace(mask_steps=train.segment_length)
    return dropout


def _check_averaging(config: Config) -> None:
    where = '[optimizer] name = "nt_asgd": waits for the validation loss, and'
    if config.sections.train.eval_every is None:
        raise UserError(f"{where} train.eval_every is not set; set it")
    if "validation" not in config.task.splits:
        raise UserError(f'{where} the task has no validation split; use name = "sgd"')


def _source(config: Config, split: str, seed: int | None = None) -> Source:
    task: Task = config.task
    if split != "train" and split not in task.splits:
        raise UserError(
            f"split {split!r}: the task has train, {', '.join(task.splits)}"
        )
    train = config.sections.train
    source = task.split(
        split,
        batch_size=train.batch_size,
        segment_length=train.segment_length,
        seed=config.sections.seed if seed is None else seed,
    )
    return check_source(source, task.parts())


def make_estimators(
    config: Config, model: Model
) -> tuple[GradientEstimator, dict[str, GradientEstimator]]:
    """Returns the estimator of a config, and by their labels those that it shadows.

    Raises:
      UserError: one does not take its options, or this model.
    """
    section, task = config.sections.estimator, config.task
    where = f'[estimator] name = "{section.name}"'
    estimator = make_estimator(
        where, section.name, config.estimator_options, task, model
    )
    shadows = {
        shadow.label: make_estimator(
            f'[estimator] shadow[{n}] = "{shadow.name}"',
            shadow.name,
            shadow.options,
            task,
            model,
        )
        for n, shadow in enumerate(config.shadows)
    }
    return estimator, shadows


def make_estimator(
    where: str, name: str, options: Mapping[str, Any], task: Task, model: Model
) -> GradientEstimator:
    """Returns an estimator of a model's gradient for a task's loss.

    Args:
      where: names it in errors.
      name: a key of `ESTIMATORS`, or an import path.
      options: of it.
      task: gives the loss.
      model: the model.

    Raises:
      UserError: it does not take these options, or this model.
    """
    factory = find_factory(where, name, ESTIMATORS)
    try:
        estimator = factory(model, task.loss, **options)
    except OptionError as error:
        raise UserError(f"{where}: {error}") from None
    if not isinstance(estimator, GradientEstimator):
        raise UserError(f"{where}: does not make a GradientEstimator")
    return estimator


def make_optimizer(
    config: Config,
    num_updates: int,
    updates_per_epoch: int | None,
    learning_rate: Any = None,
) -> optax.GradientTransformation:
    """Returns the optimizer of a config, with its schedule and its clipping.

    Args:
      config: the config.
      num_updates: how many there are in all.
      updates_per_epoch: None for a stream without end.
      learning_rate: [] in place of the config's; may be traced.

    Raises:
      UserError: it is none, or the schedule counts epochs that there are not.
    """
    section = config.sections.optimizer
    factory = find_factory("[optimizer] name", section.name, OPTIMIZERS)
    schedule = make_schedule(
        section.schedule,
        section.learning_rate if learning_rate is None else learning_rate,
        num_updates,
        updates_per_epoch,
    )
    made = factory(schedule, **config.optimizer_options)
    if not isinstance(made, optax.GradientTransformation):
        raise UserError(
            f'[optimizer] name = "{section.name}": does not make an optax '
            "GradientTransformation"
        )
    optimizer = optax.chain(make_clip(section.clip), made)
    if section.skip_non_finite:
        return optax.apply_if_finite(optimizer, section.skip_non_finite)
    return apply_all(optimizer)
