"""What an estimate costs: time to compile and to run, memory, operations."""

import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from jaxlstm.diagnostics.operations import count_operations
from jaxlstm.estimators import GradientEstimator, Segment
from jaxlstm.lab.comparison.problem import Member, Part, Problem, as_dtype
from jaxlstm.lab.comparison.stopwatch import count_calls, spread, take_seconds
from jaxlstm.lab.memory import allow_long_indices, describe_bytes, device_memory
from jaxlstm.model import Model
from jaxlstm.types import PyTree

# Times of a length that costs are only compared at.
SCALING_REPEATS = 5
# Seconds after which no more times are taken, of a call that is slow.
MOST_SECONDS = 5.0
# Seconds that a time is taken of at least, over as many calls as that needs.
LEAST_SECONDS = 2e-3


def measure(problem: Problem, *, lengths: Sequence[int], repeats: int) -> Part:
    """Measures what a member's estimate of one segment costs, on one device.

    In the config's dtype, with parameters of the last snapshot, at the segment length
    of training and at others. All members take turns, so that what else the machine
    does hits them alike; and as that only ever adds to a time, the least is what a call
    takes, and the median tells the spread.

        compile_seconds    of tracing and compiling, none of it taken from a cache
        seconds            of a call after the first one: the least, median and 95 %
        temporary_bytes    that the compiled call needs beside arguments and results
        carried_bytes      of the estimator's state, from segment to segment
        flops              of `count_operations`; None where they cannot be counted

    Args:
      problem: what to measure on.
      lengths: T of the segments for the scaling.
      repeats: how many times are taken at the length of training.

    Returns:
      The figures. A length at which a call would not fit into the memory has no time.
    """
    own = problem.config.sections.train.segment_length
    cases = {
        (label, length): case
        for label, length, case in _compile_all(problem, sorted({own, *lengths}))
    }
    for number in range(max(repeats, SCALING_REPEATS)):
        problem.progress(f"times, round {number + 1}")
        for (_, length), case in cases.items():
            if number < (repeats if length == own else SCALING_REPEATS):
                case.take_time()
    labels = [member.label for member in problem.members]
    return Part(
        {
            "segment_length": own,
            "batch_size": problem.experiment.batch_size,
            "members": {label: cases[label, own].describe() for label in labels},
            "scaling": {
                "lengths": list(lengths),
                "members": {
                    label: _by_length([cases[label, length] for length in lengths])
                    for label in labels
                },
            },
        }
    )


def check_feasible(problem: Problem, member: Member) -> str | None:
    """Returns why an estimator does not fit into the memory, or None if it does.

    Looked at are shapes: first the parameters, their gradient and the estimator's
    state, and, where these fit, what the compiled estimate of a segment needs. Nothing
    of their size is made. It is in float64, in which gradients are compared; the first
    look takes the model as it is, whose structure has been found already, and counts 8
    bytes a number.

    Args:
      problem: what it is to be measured on.
      member: the estimator.
    """
    limit, _ = device_memory(jax.devices()[0])
    if limit is None:
        return None
    with allow_long_indices():
        params, state, _ = _shapes(problem, member, problem.model())
        needed = 2 * _bytes_in_float64(params) + _bytes_in_float64(state)
        if needed <= limit:
            with jax.enable_x64(True):
                needed = _compiled_bytes(problem, member)
    if needed <= limit:
        return None
    return (
        f"would take at least {describe_bytes(needed)} of memory, and there are "
        f"{describe_bytes(limit)}"
    )


def _shapes(
    problem: Problem, member: Member, model: Model
) -> tuple[Any, Any, GradientEstimator]:
    """Returns the shapes of parameters and an estimator's state, and the estimator."""
    estimator = problem.estimator(member, model)
    key, batch = jax.random.key(0), problem.experiment.batch_size
    params = jax.eval_shape(model.init, key)
    state = jax.eval_shape(
        lambda params, key: estimator.init(params, (batch,), key), params, key
    )
    return params, state, estimator


def _compiled_bytes(problem: Problem, member: Member) -> int:
    """Returns the bytes that an estimate in float64 needs; 0 where it is not said."""
    params, state, estimator = _shapes(problem, member, problem.model("float64"))
    segment = jax.eval_shape(lambda: as_dtype(problem.window(0, 1)[0], "float64"))
    lowered = jax.jit(estimator.estimate).lower(params, state, segment)
    return _needed(lowered.compile()) or 0


class Case:
    """An estimate of a segment, compiled.

    Attributes:
      compile_seconds: that it took to compile.
      temporary_bytes: that it needs beside arguments and results; None where the
        device does not say.
      carried_bytes: of the state.
      flops: or None.
      seconds: of the calls whose time was taken.
    """

    def __init__(self, estimator: GradientEstimator, arguments: Any):
        self._arguments = arguments
        with nothing_cached():
            began = time.perf_counter()
            self._call = jax.jit(estimator.estimate).lower(*arguments).compile()
            self.compile_seconds = time.perf_counter() - began
        analysis = self._call.memory_analysis()
        self.temporary_bytes = analysis and analysis.temp_size_in_bytes
        self.carried_bytes = _bytes(arguments[1])
        self.flops = count_operations(estimator.estimate, *arguments).flops
        self.seconds: list[float] = []
        limit, _ = device_memory(jax.devices()[0])
        self._fits = (_needed(self._call) or 0) <= (limit or np.inf)
        self._count = 0

    def take_time(self) -> None:
        """Takes the time of a call, or the mean of several short ones."""
        if not self._fits or sum(self.seconds) * self._count > MOST_SECONDS:
            return
        if not self._count:
            self._run(1)
            self._count = count_calls(self._run, LEAST_SECONDS)
        self.seconds.append(self._run(self._count) / self._count)

    def describe(self) -> dict[str, Any]:
        """Returns the figures at the length of training."""
        least, median, high = (
            (*spread(self.seconds), np.quantile(self.seconds, 0.95).item())
            if self.seconds
            else [None] * 3
        )
        return {
            "compile_seconds": self.compile_seconds,
            "seconds": {"median": median, "low": least, "high": high},
            "temporary_bytes": self.temporary_bytes,
            "carried_bytes": self.carried_bytes,
            "flops": self.flops,
        }

    def _run(self, count: int) -> float:
        call = functools.partial(self._call, *self._arguments)
        return sum(take_seconds(call) for _ in range(count))


def _compile_all(
    problem: Problem, lengths: Sequence[int]
) -> Iterator[tuple[str, int, Case]]:
    model, batch = problem.model(), problem.experiment.batch_size
    params = jax.device_put(problem.snapshots[-1].params)
    segments = {length: _read(problem, length) for length in lengths}
    for member in problem.members:
        estimator = problem.estimator(member, model)
        state = jax.jit(estimator.init, static_argnums=1)(
            params, (batch,), jax.random.key(0)
        )
        for length, segment in segments.items():
            problem.progress(f"compiling {member.label}, {length} steps")
            yield member.label, length, Case(estimator, (params, state, segment))


def _read(problem: Problem, length: int) -> Segment:
    """Returns the first steps of the training data as one segment."""
    segments: list[Segment] = []
    while sum(len(jax.tree.leaves(each.inputs)[0]) for each in segments) < length:
        segments += problem.window(len(segments), 1)
    segment = jax.tree.map(lambda *x: np.concatenate(x)[:length], *segments)
    return jax.device_put(as_dtype(segment, problem.config.sections.model.dtype))


def _by_length(cases: Sequence[Case]) -> dict[str, list[Any]]:
    figures = [case.describe() for case in cases]
    return {
        "seconds": [each["seconds"]["low"] for each in figures],
        "seconds_median": [each["seconds"]["median"] for each in figures],
        "temporary_bytes": [each["temporary_bytes"] for each in figures],
        "flops": [each["flops"] for each in figures],
    }


@contextlib.contextmanager
def nothing_cached() -> Iterator[None]:
    """Has XLA compile anew what it may have kept from an earlier process."""
    before = jax.config.values["jax_enable_compilation_cache"]

    def enable(value: bool) -> None:
        jax.config.update("jax_enable_compilation_cache", value)
        # Whether it is in use is looked at once, and then remembered.
        compilation_cache.reset_cache()

    enable(False)
    try:
        yield
    finally:
        enable(before)


def _needed(compiled: Any) -> int | None:
    """Returns the bytes that a call needs at the same time; None if it is not said."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    parts = "argument", "output", "temp"
    return sum(getattr(analysis, f"{part}_size_in_bytes") for part in parts)


def _bytes_in_float64(tree: PyTree) -> int:
    """Returns the bytes of a tree whose floats are of 8 bytes each."""
    return sum(
        leaf.size
        * (8 if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype.itemsize)
        for leaf in jax.tree.leaves(tree)
    )


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
