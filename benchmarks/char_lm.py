"""Character models of published runs, trained by the laboratory's own loop.

On the text that comes with Python, cut down to the run's number of symbols: nothing has
to be fetched, and which symbols they are does not matter to the time.
"""

from pathlib import Path

from benchmarks.base import Prepared, Size
from benchmarks.loop import training
from benchmarks.problems import draw_stack
from jaxlstm.lab.config import Config, load_config
from jaxlstm.lab.experiment import build

CONFIGS = Path(__file__).parents[1] / "configs"


def read_config(name: str, size: Size, overrides: tuple[str, ...] = ()) -> Config:
    """Returns a run's config at a size T, B, X, H, L.

    The learning rate stays where it is, as in the loops of the peers.

    Args:
      name: of the file, without its ending.
      size: of the problem.
      overrides: further keys.
    """
    return load_config(
        CONFIGS / f"{name}.toml",
        [
            "task.source=python-docs",
            f"task.vocabulary_size={size['X']}",
            f"train.segment_length={size['T']}",
            f"train.batch_size={size['B']}",
            f"model.hidden_size={size['H']}",
            f"model.num_layers={size['L']}",
            "optimizer.schedule.name=constant",
            *overrides,
        ],
    )


def prepare(size: Size, *, config: str, one_device: bool = False) -> Prepared:
    """Builds the experiment and draws the state before the first update.

    Args:
      size: T, B, X symbols, H, L layers, and how many updates are timed at once.
      config: name of the run's file.
      one_device: whether the batch stays on one device; otherwise it is spread over as
        many as there are cores.
    """
    overrides = ("devices=1",) if one_device else ()
    experiment = build(read_config(config, size, overrides))
    return training(experiment, draw_stack(size), size["updates"], size["updates"])
