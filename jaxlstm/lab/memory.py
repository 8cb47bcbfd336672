"""Memory: what training takes at the least, and whether there is as much."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxlstm.lab.errors import UserError
from jaxlstm.lab.machine import memory_limit
from jaxlstm.lab.schema import ConfigFile
from jaxlstm.types import PyTree

if TYPE_CHECKING:
    from jaxlstm.lab.experiment import Experiment

# XLA counts along an axis in 32 bits.
LARGEST = 2**31 - 1
# Each is compiled on its own, which takes some half of a second.
MOST_LAYERS = 1000
# The sizes of a net that nobody would call large: of several keys, the one that is the
# furthest above is named.
USUAL = {
    "model.hidden_size": 128,
    "model.embedding_size": 128,
    "model.projection_size": 128,
    "model.num_layers": 2,
    "train.batch_size": 32,
    "train.segment_length": 64,
    "train.updates_per_call": 100,
    "estimator.horizon": 100,
    "estimator.num_directions": 8,
    "estimator.num_particles": 32,
}
UNITS = {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
REMEDY = (
    "lower train.batch_size, train.segment_length, train.updates_per_call or "
    "model.hidden_size, or use a machine with more memory"
)


def check_sizes(sections: ConfigFile) -> None:
    """Refuses sizes that no shape can have, before anything is made of them.

    Raises:
      UserError: by each that is too large.
    """
    bounds = dict.fromkeys(USUAL, LARGEST) | {"model.num_layers": MOST_LAYERS}
    lines = [
        f"{_name(key, value)}: has to be at most {bounds[key]:,}"
        for key, value in _sizes(sections).items()
        if value > bounds[key] and key != "train.updates_per_call"
    ]
    if lines:
        raise UserError(*lines)


def check_memory(experiment: "Experiment") -> None:
    """Refuses an experiment for which there is not enough memory.

    Counted are shapes, without making anything: parameters, their gradient, the states
    of optimizer and estimator, the inputs of one call's segments, and the states and
    predictions of one segment; then what comparing gradients takes in place of the
    latter. It takes more than that, so that what passes may still run out of memory.

    Raises:
      UserError: by the key to lower.
    """
    sections, trainer = experiment.config.sections, experiment.trainer
    limit, shared = device_memory(trainer.mesh.devices.flat[0])
    if limit is None:
        return
    with allow_long_indices():
        state = jax.eval_shape(
            lambda key: trainer.init(key, experiment.batch_size), jax.random.key(0)
        )
    # The weights lie on each device, the batch is spread over them.
    copies, parts = (trainer.mesh.size, 1) if shared else (1, trainer.mesh.size)
    weights = _bytes(state._replace(estimator=())) + _bytes(state.params)
    sizes = _sizes(sections)
    # Each with the tangents of all parameters.
    weights += sizes.get("estimator.num_directions", 0) * _bytes(state.params)
    weights, examples = weights * copies, _bytes(state.estimator) // parts
    if weights >= examples:
        keys = tuple(k for k in USUAL if k.startswith("model."))
    else:
        keys = "train.batch_size", "model.hidden_size"
    keys = *keys, *(key for key in USUAL if key.startswith("estimator."))
    # First alone: a cell may make arrays of its size as soon as it is traced.
    _refuse_above(limit, weights + examples, keys, sizes)
    updates = min(
        sections.train.updates_per_call,
        experiment.num_updates,
        sections.logging.every,
        *[n for n in (sections.train.eval_every, sections.checkpoint.every) if n],
    )
    inputs, states = _segment(experiment, state.params)
    keys = "train.batch_size", "train.segment_length"
    if updates * inputs > states:
        keys = *keys, "train.updates_per_call"
    examples += (updates * inputs + states) // parts
    sizes["train.updates_per_call"] = updates
    _refuse_above(limit, weights + examples, keys, sizes)
    shadow = experiment.shadow
    if shadow is None:
        return
    sums = jax.eval_shape(shadow.begin, state)
    # What training holds stays, and nothing of it is under way.
    needed = weights + _bytes(state.estimator) // parts
    needed += copies * _bytes(sums.grads)
    needed += (_bytes(sums.states) + shadow.num_segments * inputs + states) // parts
    if needed > limit:
        raise UserError(
            f"[estimator] shadow = [{', '.join(shadow.estimators)}]: comparing would "
            f"take at least {describe_bytes(needed)} of memory, and there are "
            f"{describe_bytes(limit)}; leave it out, or compare with others"
        )


@contextlib.contextmanager
def allow_long_indices() -> Iterator[None]:
    """Says nothing of sizes whose entries 32 bits cannot count, and all else."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Explicitly requested dtype int64", UserWarning
        )
        yield


def out_of_memory(error: BaseException) -> UserError | None:
    """Returns what to tell the user, if an error says that memory ran out."""
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, jax.errors.JaxRuntimeError):
        status, _, text = text.partition(": ")
        if status != "RESOURCE_EXHAUSTED":
            return None
    elif not isinstance(error, MemoryError):
        return None
    reason = f" ({text.rstrip('.')})" if text else ""
    return UserError(f"out of memory{reason}; {REMEDY}")


def _refuse_above(
    limit: int, needed: int, keys: Sequence[str], sizes: dict[str, int]
) -> None:
    if needed <= limit:
        return
    key = max((k for k in keys if k in sizes), key=lambda k: sizes[k] / USUAL[k])
    raise UserError(
        f"{_name(key, sizes[key])}: training would take at least "
        f"{describe_bytes(needed)} of memory, and there are {describe_bytes(limit)}; "
        "lower it"
    )


def device_memory(device: Any) -> tuple[int | None, bool]:
    """Returns the bytes that a device has, and whether all share them."""
    if device.platform == "cpu":
        return memory_limit(), True
    return (device.memory_stats() or {}).get("bytes_limit"), False


def _segment(experiment: "Experiment", params: PyTree) -> tuple[int, int]:
    """Returns the bytes of a segment's inputs, and of its states and predictions."""
    sections, model = experiment.config.sections, experiment.trainer.model
    parts = experiment.config.task.parts()
    shape = sections.train.segment_length, sections.train.batch_size
    if parts.symbols:
        inputs = jax.ShapeDtypeStruct(shape, jnp.int32)
    else:
        shape = *shape, parts.input_size
        inputs = jax.ShapeDtypeStruct(shape, jnp.dtype(sections.model.dtype))

    def predict(params: Any, inputs: Any) -> Any:
        state = model.initial_state(params, (experiment.batch_size,))
        _, states = model.unroll(params.recurrent, state, inputs)
        return states, model.readout(params, states)

    return _bytes(inputs), _bytes(jax.eval_shape(predict, params, inputs))


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _sizes(sections: ConfigFile) -> dict[str, int]:
    """Returns the sizes that a config gives, by key."""
    values = {}
    for key in USUAL:
        section, name = key.split(".")
        value = getattr(getattr(sections, section), name, None)
        if isinstance(value, int):
            values[key] = value
    return values


def _name(key: str, value: int) -> str:
    section, name = key.split(".")
    return f"[{section}] {name} = {value}"


def describe_bytes(size: int) -> str:
    """Returns a number of bytes in words, by a power of 1024."""
    for unit, factor in UNITS.items():
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size} bytes"
