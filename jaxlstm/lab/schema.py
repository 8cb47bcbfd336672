"""The sections of a config file, as pydantic models."""

import itertools
from typing import Annotated, Any, Literal

import pydantic
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
)

from jaxlstm.layers import Connections
from jaxlstm.model import Readout
from jaxlstm.sequence import Derivative, Engine

# JAX counts updates in 32 bits.
Count = Annotated[int, Field(gt=0, lt=2**31)]
CountFromZero = Annotated[int, Field(ge=0, lt=2**31)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Section(pydantic.BaseModel):
    """A section that takes no other keys than its own, and no value of another type."""

    model_config = pydantic.ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False
    )


class OpenSection(Section):
    """A section whose further keys are options of what it names."""

    model_config = pydantic.ConfigDict(extra="allow")

    @property
    def options(self) -> dict[str, Any]:
        """The further keys."""
        return dict(self.__pydantic_extra__ or {})


class TaskSection(OpenSection):
    """Names the task by import path; further keys are its fields."""

    use: str = Field(description='"package.module:Class"')


class DropoutSection(Section):
    """What is dropped in training, by rate.

    Attributes:
      between: of a layer's outputs into the next one.
      input: of the entries of what goes into the first layer.
      embedding: of whole symbols.
      output: of the entries of what goes into the readout.
      recurrent: of the candidate for the memory.
      weights: of the recurrent weights, one mask for the whole batch.
      zoneout_h, zoneout_c: of the new values of h and c, for which the old ones stay.
      variational: whether a mask stays the same over time, and for a symbol.
      mask_steps: for how many steps; by default those of train.segment_length.
    """

    between: Rate = 0.0
    input: Rate = 0.0
    embedding: Rate = 0.0
    output: Rate = 0.0
    recurrent: Rate = 0.0
    weights: Rate = 0.0
    zoneout_h: Rate = 0.0
    zoneout_c: Rate = 0.0
    variational: bool = False
    mask_steps: Count | None = None


def _rate_alone(value: Any) -> Any:
    return value if isinstance(value, dict | DropoutSection) else {"between": value}


class ModelSection(OpenSection):
    """Cell and layers; further keys are options of the cell."""

    cell: str = Field(
        "lstm",
        description='a name of jaxlstm.cells.CELLS, such as "lstm", "gru" or '
        '"peephole_lstm"; or "package.module:name"',
    )
    hidden_size: PositiveInt
    num_layers: PositiveInt = 1
    bidirectional: bool = False
    connections: Connections = "none"
    inputs: Literal["one_hot", "embedding"] | None = Field(
        None, description="how symbols are fed; one_hot by default"
    )
    embedding_size: PositiveInt | None = None
    tied: bool = False
    readout: Readout = "linear"
    learned_initial_state: bool = False
    dropout: Annotated[
        DropoutSection,
        BeforeValidator(_rate_alone, json_schema_input_type=Rate | DropoutSection),
    ] = DropoutSection()
    initializer: str = "glorot_orthogonal"
    derivative: Derivative = "rule"
    engine: Engine = "scan"
    dtype: Literal["float32", "float64"] = "float32"
    compute_dtype: Literal["bfloat16"] | None = None

    @pydantic.field_serializer("dropout")
    def _write_dropout(self, dropout: DropoutSection) -> float | dict[str, Any]:
        """Returns the rate between layers, where it is all that is said."""
        alone = DropoutSection(between=dropout.between)
        return dropout.between if dropout == alone else dropout.model_dump()


class ShadowSection(OpenSection):
    """An estimator to compare with; further keys are its options."""

    name: str


def _name_alone(value: Any) -> Any:
    if not isinstance(value, str | dict):
        raise ValueError(
            'is no estimator; write "rtrl", or { name = "tbptt", horizon = 8 }'
        )
    return {"name": value} if isinstance(value, str) else value


# Its name, or a table of name and options.
Named = Annotated[
    ShadowSection,
    BeforeValidator(_name_alone, json_schema_input_type=str | ShadowSection),
]


class EstimatorSection(OpenSection):
    """The gradient estimator; further keys are its options.

    Attributes:
      shadow: estimators whose gradients are compared with this one's at every
        evaluation, each its name, or a table of name and options.
      shadow_segments: how many segments a comparison sums over.
    """

    name: str = "bptt"
    shadow: list[Named] = []
    shadow_segments: Count = 8


class ScheduleSection(Section):
    """The learning rate over updates, as a factor.

    Attributes:
      name: "constant"; "cosine", down to `final` at the last update; "exponential",
        times `rate` after every `every` units, from unit `begin` on; "steps", times
        `rate` after each of the units `at`.
      unit: "updates" or "epochs", of `warmup`, `every`, `begin` and `at`.
      warmup: units over which the factor first rises from 0 to 1.
    """

    name: Literal["constant", "cosine", "exponential", "steps"] = "constant"
    unit: Literal["updates", "epochs"] = "updates"
    warmup: CountFromZero = 0
    final: float = Field(default=0.0, ge=0, le=1)
    rate: PositiveFloat = 0.97
    every: Count | None = Field(
        default=None, description="by default 1000 updates, or 1 epoch"
    )
    begin: CountFromZero = 0
    at: list[Count] = []


class ClipSection(Section):
    """Clipping of the gradient, before the optimizer sees it.

    Attributes:
      norm: bound on the norm of the whole gradient.
      value: bound on each entry; applied first where both are given.
    """

    norm: PositiveFloat | None = None
    value: PositiveFloat | None = None


class OptimizerSection(OpenSection):
    """The optimizer; further keys are its options.

    Attributes:
      skip_non_finite: how many updates in a row are left out because their gradient is
        not finite, before the run ends; at 0 it ends at the first.
      frozen: names of parameters that stay as they are, or beginnings of names, such as
        "recurrent.embedding".
    """

    name: str = "adam"
    learning_rate: PositiveFloat = 1e-3
    skip_non_finite: CountFromZero = 0
    frozen: list[str] = []
    schedule: ScheduleSection = ScheduleSection()
    clip: ClipSection = ClipSection()


class TrainSection(Section):
    """How long, and on how much at once.

    Attributes:
      num_updates: of the parameters; or else `num_epochs`.
      eval_every: updates between evaluations of the validation split; without it only
        the last one is made. The parameters of the lowest loss are kept.
      patience: evaluations in a row without a lower loss, after which training ends
        early; without it, never.
      average: what the summed gradient of a segment is divided by: "steps", the
        weights of all steps scored, or "batch", so that it stays a sum over time.
      updates_per_call: how many updates at most one compiled call makes.
    """

    num_updates: Count | None = None
    num_epochs: Count | None = None
    batch_size: PositiveInt = 1
    segment_length: PositiveInt
    eval_every: Count | None = None
    patience: Count | None = None
    average: Literal["steps", "batch"] = "steps"
    updates_per_call: Count = 100


class CheckpointSection(Section):
    """When the run is saved.

    Attributes:
      every: updates between checkpoints; without it they follow the clock alone.
      every_minutes: the longest time between checkpoints. When one is made changes
        nothing of what a run computes.
      keep: how many of the latest are kept; the one before the last is taken where the
        last is damaged.
    """

    every: Count | None = None
    every_minutes: PositiveFloat = 5.0
    keep: Count = 2


class LoggingSection(Section):
    """What is written along the way.

    Attributes:
      every: updates between two lines of training loss, which each average over the
        updates since the last.
      tensorboard: whether metrics also go to RUN/tensorboard; needs the extra
        `jaxlstm[tensorboard]`.
    """

    every: Count = 100
    tensorboard: bool = False


def _check_ascending(values: list[Any]) -> list[Any]:
    if any(b <= a for a, b in itertools.pairwise(values)):
        raise ValueError(f"{values} does not ascend; sort it, and name each once")
    return values


Ascending = AfterValidator(_check_ascending)


class CompareSection(Section):
    """What `jaxlstm compare` measures; a run makes nothing of it.

    Attributes:
      estimators: what is compared, each its name, or a table of name and options.
      snapshots: updates of the reference run at whose parameters gradients are
        measured; by default 0, half of all and all.
      num_windows: stretches of training data that gradients are measured on.
      segments_per_window: how many segments one is long.
      num_draws: gradients of each window by an estimator that draws.
      lengths: segment lengths at which costs are measured; by default half, one, two
        and four times that of training.
      learning_rates: that each estimator is tuned over.
      num_seeds: how often each estimator is trained at its best learning rate.
      race_updates: how long; by default as long as the reference run.
      gains: of the recurrent weights of nets in which gradients vanish or explode.
      forget_biases: of such nets.
    """

    estimators: list[Named] = Field(min_length=1)
    snapshots: Annotated[list[CountFromZero], Field(min_length=1), Ascending] | None = (
        None
    )
    num_windows: Count = 4
    segments_per_window: Count = 2
    num_draws: Count = 32
    lengths: Annotated[list[Count], Field(min_length=1), Ascending] | None = None
    learning_rates: Annotated[list[PositiveFloat], Field(min_length=1), Ascending] = [
        1e-3,
        3e-3,
        1e-2,
        3e-2,
    ]
    num_seeds: Count = 3
    race_updates: Count | None = None
    gains: Annotated[list[PositiveFloat], Ascending] = [0.5, 0.9, 1.0, 1.5, 2.0]
    forget_biases: Annotated[list[float], Ascending] = [0.0, 1.0, 3.0]


class ConfigFile(Section):
    """A whole config file."""

    # JAX drops the bits of a key's seed above these.
    seed: int = Field(default=0, ge=0, lt=2**32)
    devices: Literal["all"] | PositiveInt = Field(
        "all", description="devices the batch is spread over, where it divides"
    )
    task: TaskSection
    model: ModelSection
    estimator: EstimatorSection = EstimatorSection()
    optimizer: OptimizerSection = OptimizerSection()
    train: TrainSection
    checkpoint: CheckpointSection = CheckpointSection()
    logging: LoggingSection = LoggingSection()
    compare: CompareSection | None = None
