"""The laboratory's own training loop, as a quantity to time."""

import jax
import numpy as np

from benchmarks.base import Prepared, Work
from jaxlstm.lab.experiment import Experiment
from jaxlstm.lab.training import Metrics, fit
from jaxlstm.types import PyTree


def training(
    experiment: Experiment, params: PyTree, count: int, updates_per_call: int
) -> Prepared:
    """Returns training as it is timed, from given parameters on.

    Args:
      experiment: what is trained.
      params: its first parameters; NumPy arrays or JAX's.
      count: how many updates are timed at once.
      updates_per_call: how many of them one compiled call makes at most.
    """
    trainer = experiment.trainer
    state = trainer.init(jax.random.key(0), experiment.batch_size)
    structure = jax.tree.structure(state.params)
    params = jax.tree.unflatten(structure, jax.tree.leaves(params))
    blocks = fit(
        trainer,
        state._replace(params=params),
        experiment.source,
        # A call goes no further than what is timed at once.
        lambda done: (done // count + 1) * count,
        updates_per_call,
    )

    def run() -> Metrics:
        made = []
        while sum(len(metrics.loss) for metrics in made) < count:
            made.append(next(blocks).metrics)
        return Metrics(*map(np.concatenate, zip(*made, strict=True)))

    def outputs(metrics: Metrics) -> dict[str, np.ndarray]:
        return {"loss": metrics.loss / metrics.weight}

    devices = trainer.mesh.devices
    device = f"{devices.size} x {devices.flat[0].platform}"
    return Prepared({"training": Work(run, outputs, count)}, device)
