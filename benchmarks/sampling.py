"""Sampling from a character model, by the laboratory's own loop."""

from typing import Any

import jax
import numpy as np

from benchmarks.base import Prepared, Size, Work
from benchmarks.problems import draw_stack
from jaxlstm import LSTMParams, Model, ModelParams
from jaxlstm.cells import make_lstm
from jaxlstm.lab.draws import Sampling
from jaxlstm.lab.sampling import make_sampler
from jaxlstm.model import ReadoutParams, RecurrentParams, make_model

# By which all weights are larger than those that training starts from: greedy text
# then takes long to repeat itself.
GAIN = 3.5
START = 0


def make_net(size: Size) -> tuple[Model, ModelParams]:
    """Returns the model, and its parameters."""
    layers, readout = draw_stack(size, GAIN)
    model = make_model(
        make_lstm(),
        input_size=size["X"],
        output_size=size["X"],
        hidden_size=size["H"],
        num_layers=size["L"],
        inputs="one_hot",
    )
    recurrent = RecurrentParams(None, tuple(LSTMParams(*w) for w in layers), None)
    return model, jax.device_put(ModelParams(recurrent, ReadoutParams(*readout)))


def prepare(size: Size, *, chunk_size: int | None = None) -> Prepared:
    """Makes the samplers; the first runs compile.

    Args:
      size: X symbols, H, L layers, and N symbols that are sampled at once.
      chunk_size: how many of them one compiled call makes.
    """
    model, params = make_net(size)

    def work(options: Sampling, names: tuple[str, ...]) -> Work:
        sample = make_sampler(model, options, chunk_size=chunk_size)
        prompt, key = np.array([START]), jax.random.key(0)

        def run() -> np.ndarray:
            chunks = sample(params, prompt, key, length=size["N"])
            return np.concatenate(list(chunks))[:, 0]

        def outputs(symbols: np.ndarray) -> dict[str, Any]:
            return {name: symbols.astype(np.int32) for name in names}

        return Work(run, outputs, size["N"])

    # Draws differ from one library to the other; greedy text does not.
    works = {
        "sampling": work(Sampling(), ()),
        "greedy": work(Sampling(greedy=True), ("symbols",)),
    }
    return Prepared(works, device=f"1 x {jax.devices()[0].platform}")
