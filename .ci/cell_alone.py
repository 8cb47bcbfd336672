"""Runs the installed cell, under jit and grad, where only jax is installed."""

import importlib.util

import jax
import jax.numpy as jnp

import jaxlstm

present = [
    name
    for name in ("cyclopts", "flax", "matplotlib", "optax", "orbax", "pydantic", "rich")
    if importlib.util.find_spec(name)
]
assert not present, f"installed beside jax: {present}"

params = jaxlstm.init_lstm(jax.random.key(0), 3, 4)
state = jax.tree.map(jnp.ones_like, jaxlstm.zero_state(params, (2,)))
x = jnp.ones((2, 3))


@jax.jit
def loss(params):
    """Returns the sum of one step's outputs."""
    _, output = jaxlstm.lstm_cell(params, state, x)
    return output.sum()


value, grads = jax.jit(jax.value_and_grad(loss))(params)
assert jnp.isfinite(value) and value != 0
assert all(jnp.isfinite(leaf).all() and leaf.all() for leaf in grads), grads
print(f"jaxlstm {jaxlstm.__version__} runs on jax {jax.__version__} alone")
