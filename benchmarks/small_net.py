"""Sine to cosine, trained by the laboratory's own loop."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.base import Prepared, Size, Work
from benchmarks.problems import draw_net
from jaxlstm.lab.config import Config, load_config
from jaxlstm.lab.experiment import build
from jaxlstm.lab.training import Metrics, fit

CONFIG = Path(__file__).parents[1] / "configs" / "sine_cosine.toml"


def read_config(size: Size) -> Config:
    """Returns the config at a size T, B, H.

    The learning rate stays where it is, as in the loops of the peers.
    """
    return load_config(
        CONFIG,
        [
            f"train.segment_length={size['T']}",
            f"train.batch_size={size['B']}",
            f"model.hidden_size={size['H']}",
            "optimizer.schedule.name=constant",
        ],
    )


def prepare(size: Size, *, updates_per_call: int | None = None) -> Prepared:
    """Builds the experiment and draws the state before the first update.

    Args:
      size: T, B, X, H, and how many updates are timed at once.
      updates_per_call: how many of them one compiled call makes; by default all.
    """
    experiment = build(read_config(size))
    trainer, batch_size = experiment.trainer, experiment.batch_size
    state = trainer.init(jax.random.key(0), batch_size)
    output_size = experiment.config.task.parts().output_size
    # Copied, for an update gives the buffers away.
    params = jax.tree.unflatten(
        jax.tree.structure(state.params),
        [jnp.array(x) for x in jax.tree.leaves(draw_net(size, output_size))],
    )
    per_call = updates_per_call or size["updates"]
    steps = fit(
        trainer,
        state._replace(params=params),
        experiment.source,
        lambda done: done + per_call,
        per_call,
    )
    calls = size["updates"] // per_call

    def run() -> list[Metrics]:
        return [next(steps)[1] for _ in range(calls)]

    def outputs(metrics: list[Metrics]) -> dict[str, Any]:
        loss, weight, _ = (
            np.concatenate(values) for values in zip(*metrics, strict=True)
        )
        return {"loss": loss / weight}

    devices = trainer.mesh.devices
    device = f"{devices.size} x {devices.flat[0].platform}"
    return Prepared({"training": Work(run, outputs, calls * per_call)}, device)
