"""Gates by name are what the step multiplies by, of every cell that has some."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.cells import CELLS, Cell, make_lstm_variant, make_min_lstm
from jaxlstm.cells.gates import cell_gates, gate_names
from jaxlstm.cells.variants import VARIANTS
from tests.helpers import assert_close, draw_like
from tests.variants_oracle import name_weights, normalise, raw, sigma

B, X, H = 2, 3, 4
make = functools.partial(functools.partial, make_lstm_variant)
MAKE = {
    **{name: CELLS[name] for name in (*VARIANTS, "lstm", "min_lstm")},
    "two exponentials": make(exponential="exp", output_activation="identity"),
    "norm of each gate": make(layer_norm="gates", peepholes=True),
    "norm and product": make(layer_norm="joint", multiplicative=True),
    "positive": functools.partial(make_min_lstm, candidate="positive"),
}
QUICK = "cifg_lstm", "multiplicative_lstm"
# Cells whose output gate lets out the memory as it is.
PLAIN = "noaf_lstm", "slstm", "two exponentials"


def make_problem(cell: Cell) -> tuple[Any, Any, np.ndarray]:
    """Returns parameters and a state away from zero, and inputs [B, X]."""
    shapes = jax.eval_shape(
        lambda: cell.init(jax.random.key(0), X, H, dtype=jnp.result_type(float))
    )
    state = jax.eval_shape(lambda: cell.initial_state(shapes, (B,)))
    x = np.random.default_rng(2).normal(size=(B, X))
    return draw_like(shapes, 0), draw_like(state, 1), x


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in MAKE
    ],
)
def test_the_step_is_made_of_its_gates(name, x64):
    """The memory is f c + i g, and the output o seen(c'), whatever these are."""
    cell = MAKE[name]()
    params, state, x = make_problem(cell)
    found = cell_gates(cell, params, state, x)
    gates = {gate: np.asarray(values) for gate, values in found.items()}
    new = jax.tree.map(np.asarray, cell.step(params, state, x)[0])
    assert list(gates) == [gate for gate in gate_names(cell.gated) if gate in gates]
    memory = "c" if hasattr(state, "c") else "h"
    kept = gates.get("forget", 1) * getattr(state, memory)
    made = kept + gates.get("input", 1) * gates["candidate"]
    assert_close(made, getattr(new, memory))
    if hasattr(new, "gates"):
        joined = [gates[gate] for gate in ("input", "forget", "output")]
        assert_close(np.concatenate(joined, axis=-1), new.gates)
    if memory == "h":
        return
    seen = new.c
    if getattr(params, "scale_c", None) is not None:
        seen = np.stack([normalise(c) for c in seen]) * params.scale_c + params.shift_c
    seen = seen if name in PLAIN else np.tanh(seen)
    assert_close(gates.get("output", 1) * seen, new.h)


def test_peepholes_are_seen(x64):
    cell = CELLS["peephole_lstm"]()
    params, state, x = make_problem(cell)
    w = name_weights(params, "ifzo")
    i, f, g, o = (raw(w, letter, x, state.h) for letter in "ifzo")
    i, f = (sigma(z + w[p] * state.c) for z, p in ((i, "p_i"), (f, "p_f")))
    g = np.tanh(g)
    o = sigma(o + w["p_o"] * (f * state.c + i * g))
    expected = {"input": i, "forget": f, "candidate": g, "output": o}
    assert_close(dict(cell_gates(cell, params, state, x)), expected)


def test_gates_of_a_mean_are_its_shares(x64):
    cell = CELLS["slstm"](heads=2)
    params, state, x = make_problem(cell)
    w = name_weights(params, "ifzo")
    i, f, g, o = (raw(w, letter, x, state.h) for letter in "ifzo")
    let_in, kept = np.exp(i), sigma(f) * np.exp(state.m)
    expected = {
        "input": let_in / (let_in + kept),
        "forget": kept / (let_in + kept),
        "candidate": np.tanh(g),
        "output": sigma(o),
    }
    assert_close(dict(cell_gates(cell, params, state, x)), expected)


def test_gates_of_the_min_lstm_are_its_shares(x64):
    cell = make_min_lstm()
    params, state, x = make_problem(cell)
    i, f, g = np.split(x @ params.w_x + params.b, 3, axis=-1)
    i, f = sigma(i), sigma(f)
    expected = {"input": i / (i + f), "forget": f / (i + f), "candidate": g}
    assert_close(dict(cell_gates(cell, params, state, x)), expected)
