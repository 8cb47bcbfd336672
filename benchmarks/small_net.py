"""Sine to cosine, trained by the laboratory's own loop."""

from pathlib import Path

from benchmarks.base import Prepared, Size
from benchmarks.loop import training
from benchmarks.problems import draw_net
from jaxlstm.lab.config import Config, load_config
from jaxlstm.lab.experiment import build

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
    params = draw_net(size, experiment.config.task.parts().output_size)
    count = size["updates"]
    return training(experiment, params, count, updates_per_call or count)
