"""What does not fit into memory is refused by its key, before anything is made."""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.cells import make_lstm
from jaxlstm.lab import UserError, memory
from jaxlstm.lab.config import load_config
from jaxlstm.lab.experiment import Experiment, build, build_model
from jaxlstm.lab.memory import check_memory, out_of_memory
from tests.lab.conftest import Outcome

GIB = 2**30
RARE = [
    f"{key}=1000000000"
    for key in (
        "logging.every",
        "checkpoint.every",
        "train.eval_every",
        "train.num_updates",
    )
]


@pytest.fixture(autouse=True)
def _small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_limit", lambda: 4 * GIB)


def put_together(config: Path, *overrides: str) -> Experiment:
    return build(load_config(config, overrides))


@pytest.mark.parametrize(
    ("overrides", "blamed"),
    [
        (["model.hidden_size=1000000000"], "[model] hidden_size = 1000000000"),
        (["model.hidden_size=2147483647"], "[model] hidden_size = 2147483647"),
        (
            ["model.num_layers=20", "model.hidden_size=3000"],
            "[model] hidden_size = 3000",
        ),
        (["model.num_layers=60", "model.hidden_size=1280"], "[model] num_layers = 60"),
        (["train.batch_size=1000000000"], "[train] batch_size = 1000000000"),
        # The state of the first update would fit, those of a whole segment do not.
        (["train.batch_size=20000000"], "[train] batch_size = 20000000"),
        (["train.segment_length=1000000000"], "[train] segment_length = 1000000000"),
        (
            ["train.updates_per_call=1000000000", *RARE],
            "[train] updates_per_call = 1000000000",
        ),
    ],
)
def test_blames_the_key_that_is_far_from_usual(
    overrides: list[str], blamed: str, config: Path
):
    experiment = put_together(config, *overrides)

    with pytest.raises(UserError) as caught:
        check_memory(experiment)

    [line] = caught.value.lines
    assert line.startswith(f"{blamed}: training would take at least ")
    assert line.endswith(" of memory, and there are 4.0 GiB; lower it")


def test_counts_what_training_holds(config: Path, monkeypatch: pytest.MonkeyPatch):
    overrides = "model.hidden_size=300", "devices=1", "optimizer.name=adam"
    experiment = put_together(config, *overrides)
    recurrent, readout = (2 + 300 + 1) * 4 * 300, 300 + 1
    # Parameters, their gradient and Adam's two moments.
    weights = 4 * (recurrent + readout)
    # Before the first update, h and c, two keys and a time of each example.
    start = 2 * (2 * 300 + 2 * 2 + 1)
    # 3 updates in a call, 4 steps, 2 examples: inputs; h, c and prediction of one.
    segments = 3 * 4 * 2 * 2 + 4 * 2 * (2 * 300 + 1)
    needed = 4 * (weights + start + segments)

    monkeypatch.setattr(memory, "memory_limit", lambda: needed + 20)
    check_memory(experiment)
    monkeypatch.setattr(memory, "memory_limit", lambda: needed - 1)
    with pytest.raises(UserError):
        check_memory(experiment)


def test_devices_of_one_machine_share_its_memory(
    config: Path, monkeypatch: pytest.MonkeyPatch
):
    size = "model.hidden_size=5000"  # 400 MB of parameters, 1.6 GB with the rest.
    check_memory(put_together(config, size, "devices=1"))
    check_memory(put_together(config, size, "devices=2"))
    monkeypatch.setattr(memory, "memory_limit", lambda: 2 * GIB)
    check_memory(put_together(config, size, "devices=1"))
    with pytest.raises(UserError, match="hidden_size = 5000"):
        check_memory(put_together(config, size, "devices=2"))


def test_devices_with_memory_of_their_own_share_the_batch(
    config: Path, monkeypatch: pytest.MonkeyPatch
):
    class Accelerator:
        platform = "gpu"

        def memory_stats(self) -> dict[str, int]:
            return {"bytes_limit": 3 * GIB}

    limit = memory.device_memory(Accelerator())  # type: ignore[arg-type]
    assert limit == (3 * GIB, False)

    monkeypatch.setattr(memory, "device_memory", lambda _: limit)
    check_memory(put_together(config, "train.batch_size=14000000", "devices=2"))
    with pytest.raises(UserError, match="batch_size = 14000000"):
        check_memory(put_together(config, "train.batch_size=14000000", "devices=1"))
    with pytest.raises(UserError, match="batch_size = 40000000"):
        check_memory(put_together(config, "train.batch_size=40000000", "devices=2"))


def test_warnings_of_a_cell_are_heard(config: Path, monkeypatch: pytest.MonkeyPatch):
    def init(*args: Any, **options: Any) -> Any:
        warnings.warn("too small", UserWarning, stacklevel=2)
        return make_lstm().init(*args, **options)

    cell = make_lstm()._replace(init=init)
    loaded = dataclasses.replace(load_config(config), cell=cell)
    with pytest.warns(UserWarning, match="too small"):
        build_model(loaded)


def test_an_unknown_limit_refuses_nothing(
    config: Path, monkeypatch: pytest.MonkeyPatch
):
    experiment = put_together(config, "model.hidden_size=1000000000")
    monkeypatch.setattr(memory, "memory_limit", lambda: None)

    assert check_memory(experiment) is None


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        (
            "model.num_layers=1000000",
            "[model] num_layers = 1000000: has to be at most 1,000",
        ),
        (
            "model.hidden_size=100000000000000",
            "[model] hidden_size = 100000000000000: has to be at most 2,147,483,647",
        ),
        (
            "train.batch_size=3000000000",
            "[train] batch_size = 3000000000: has to be at most 2,147,483,647",
        ),
    ],
)
def test_sizes_out_of_bounds_are_refused_by_every_command(
    override: str, fault: str, config: Path, command: Callable[..., Outcome]
):
    assert command("show", config, override) == (2, "", f"jaxlstm: {fault}\n")
    assert command("run", config, override, "--out", "made").faults == [fault]
    assert not Path("made").exists()


def test_a_run_that_does_not_fit_leaves_nothing(
    config: Path, command: Callable[..., Outcome]
):
    outcome = command("run", config, "model.hidden_size=1000000000", "--out", "made")

    assert outcome.code == 2
    assert len(outcome.faults) == 1
    assert not Path("made").exists()


def test_memory_that_ran_out_is_one_line():
    # More than a process can address.
    with pytest.raises(jax.errors.JaxRuntimeError) as of_jax:
        jax.block_until_ready(jnp.zeros((2**25, 2**25), jnp.uint8))
    with pytest.raises(MemoryError) as of_numpy:
        np.zeros(2**50, np.uint8)

    for error in (of_jax.value, of_numpy.value, MemoryError()):
        told = out_of_memory(error)
        assert told is not None
        [line] = told.lines
        assert line.startswith("out of memory")
        assert line.endswith("or use a machine with more memory")
    assert "llocat" in str(out_of_memory(of_jax.value))
    assert str(out_of_memory(MemoryError())).startswith("out of memory; lower ")


def test_a_command_that_runs_out_of_memory_says_so_in_one_line(
    config: Path, command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
):
    def fill(*_: object) -> None:
        np.zeros(2**50, np.uint8)

    monkeypatch.setattr("jaxlstm.lab.experiment.check_sizes", fill)
    outcome = command("show", config)

    assert outcome.code == 2
    [fault] = outcome.faults
    assert fault.startswith("out of memory (Unable to allocate ")


def test_other_errors_are_not_taken_for_it():
    for error in (
        ValueError("RESOURCE_EXHAUSTED: no"),
        jax.errors.JaxRuntimeError("INTERNAL: RESOURCE_EXHAUSTED: not the status"),
    ):
        assert out_of_memory(error) is None
