"""Runs for tests of weights: their parameters are drawn, and nothing is trained."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlstm.lab import Run, load_run
from jaxlstm.lab.checkpoints import Checkpoints
from jaxlstm.lab.config import load_config
from jaxlstm.lab.experiment import Experiment, build
from jaxlstm.lab.runs import CHECKPOINTS
from jaxlstm.lab.start import create_run
from tests.lab import tiny

SENTENCE = "the quick brown fox jumps over the lazy dog\n"
TEXT = """
[task]
use = "experiments.text:Text"
source = "FOLDER/text.txt"
contrast = []
[model]
hidden_size = 3
[train]
num_updates = 4
batch_size = 2
segment_length = 5
eval_every = 2
"""


def make_experiment(
    folder: Path, *overrides: str, text: str = tiny.CONFIG
) -> Experiment:
    """Returns what a config describes; of a text, one beside it."""
    path = folder / "config.toml"
    path.write_text(text.replace("FOLDER", str(folder)))
    (folder / "text.txt").write_text(SENTENCE * 10)
    return build(load_config(path, overrides))


def draw_params(experiment: Experiment, seed: int = 0) -> Any:
    """Draws parameters, no two of which are the same."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(experiment.trainer.model.init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: random.normal(size=leaf.shape).astype(leaf.dtype), shapes
    )


def make_run(folder: Path, experiment: Experiment, params: Any = None) -> Run:
    """Makes a run that has these parameters, or drawn ones, as its best after 3."""
    folder.mkdir(parents=True)
    run = create_run(folder, experiment)
    checkpoints = Checkpoints(folder / CHECKPOINTS, run=run.facts["id"])
    params = draw_params(experiment) if params is None else params
    checkpoints.save_best(jax.tree.map(jax.numpy.asarray, params), 3)
    checkpoints.close()
    run.note(updates=3, seconds=0.0, status="stopped")
    return load_run(folder)
