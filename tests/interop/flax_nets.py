"""The cells of Flax, and weights for them, as its own pages name them."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlstm import interop

B, X, H = 2, 3, 5


class There(NamedTuple):
    """A cell of Flax.

    Attributes:
      cell: the name of the cell here.
      make: the class there.
    """

    cell: str
    make: Any

    @property
    def linen(self) -> bool:
        return issubclass(self.make, nn.Module)

    def draw_carry(self, rng) -> Any:
        c, h = rng.normal(size=(2, B, H))
        return (c, h) if self.cell == "lstm" else h


THERE = {
    "linen lstm": There("lstm", nn.LSTMCell),
    "linen optimized lstm": There("lstm", nn.OptimizedLSTMCell),
    "linen gru": There("gru", nn.GRUCell),
    "linen rnn": There("rnn", nn.SimpleCell),
    "nnx lstm": There("lstm", nnx.LSTMCell),
    "nnx optimized lstm": There("lstm", nnx.OptimizedLSTMCell),
    "nnx gru": There("gru", nnx.GRUCell),
    "nnx rnn": There("rnn", nnx.SimpleCell),
}


def make_cell(there, width=X):
    """Returns the cell of Flax in float64, one of nnx with weights."""
    if there.linen:
        return there.make(H, param_dtype=jnp.float64)
    # What nnx.SimpleCell computes in is float32 by default, whatever its weights are.
    options = {"dtype": jnp.float64, "param_dtype": jnp.float64}
    return there.make(width, H, rngs=nnx.Rngs(0), **options)


def draw_arrays(there):
    """Returns names and values of the arrays of a cell, as Flax's pages write them."""
    rng, rows = np.random.default_rng(0), {"i": X, "h": H}
    gates = {"lstm": "ifgo", "gru": "rzn", "rnn": [""]}[there.cell]
    arrays = {}
    for side in rows:
        biased = {"lstm": "h", "gru": "i", "rnn": "i"}[there.cell] == side
        for gate in gates:
            name = side + gate
            arrays[name] = {"kernel": rng.normal(size=(rows[side], H))}
            if biased or (name == "hn" and there.linen):
                arrays[name]["bias"] = rng.normal(size=H)
    if there.linen:
        return arrays
    if there.make is nnx.LSTMCell:
        return {{"if": "if_"}.get(name, name): each for name, each in arrays.items()}
    fused = {}
    for side in rows:
        blocks = [arrays[side + gate] for gate in gates]
        fused[f"dense_{side}"] = {
            kind: np.concatenate([block[kind] for block in blocks], -1)
            for kind in blocks[0]
        }
    return fused


def read(there, tree, layers=None):
    return (interop.from_linen if there.linen else interop.from_nnx)(tree, layers)


def write(there, params, layers=None):
    if there.linen:
        return interop.to_linen(params, layers)["params"]
    return interop.to_nnx(params, layers, optimized=there.make is not nnx.LSTMCell)
