"""Stacks of LSTM layers for tests: what they are run on, and loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import Directions, LSTMState, init_lstm_stack, zero_stack_state
from tests.helpers import draw_like

T, B, X, H, P = 5, 2, 3, 4, 2

# Holes in both sequences, a reset on a masked step, and the last step masked.
MASK = np.array([[1, 1], [0, 1], [1, 0], [1, 1], [1, 0]])
RESETS = np.array([[0, 0], [0, 1], [0, 0], [1, 0], [0, 0]])


def draw_stack(seed=0, **options):
    """Returns parameters, and a state and a reset state that are not zero."""
    shapes = jax.eval_shape(
        lambda: init_lstm_stack(
            jax.random.key(0), X, H, dtype=jnp.result_type(float), **options
        )
    )
    params = draw_like(shapes, seed, 0.5)
    state = jax.eval_shape(lambda: zero_stack_state(params, (B,)))
    return params, draw_like(state, seed + 1), draw_like(state, seed + 2)


def draw_inputs(mask=None):
    """Returns inputs [T, B, X], NaN where the mask is 0."""
    inputs = np.random.default_rng(9).normal(size=(T, B, X))
    if mask is not None:
        inputs[mask == 0] = np.nan
    return inputs


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def step(params, state, x):
    """Makes a step of one example in NumPy."""
    z = x @ params.w_x + state.h @ params.w_h
    i, f, g, o = np.split(z if params.b is None else z + params.b, 4)
    c = sigmoid(f) * state.c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return LSTMState(h @ params.w_p if hasattr(params, "w_p") else h, c)


def run_direction(xs, mask, resets, reverse, params, state, reset_state):
    """Runs one example of one direction; returns the last state, and outputs [T, R]."""
    outputs = np.zeros((len(xs), len(params.w_h)))
    order = range(len(xs))
    for t in reversed(order) if reverse else order:
        if resets[t] and not reverse:
            state = reset_state
        if mask[t]:
            state = step(params, state, xs[t])
            outputs[t] = state.h
        if resets[t] and reverse:
            state = reset_state
    return state, outputs


def pair(layer):
    """Returns what a layer has of one direction or of two."""
    return tuple(layer) if isinstance(layer, Directions) else (layer,)


def run_stack(params, inputs, state, reset_state, mask, resets, connections):
    """Runs one example through all layers; returns last states, and outputs."""
    below, lasts = [], []
    for layer, begin, reset in zip(params, state, reset_state, strict=True):
        xs = inputs
        if below:
            xs = {
                "none": below[-1],
                "residual": sum(below),
                "skip": np.concatenate([inputs, below[-1]], axis=-1),
            }[connections]
        found = []
        for reverse, *of_one in zip(
            (False, True), pair(layer), pair(begin), pair(reset), strict=False
        ):
            found.append(run_direction(xs, mask, resets, reverse, *of_one))
        states = [last for last, _ in found]
        both = isinstance(layer, Directions)
        lasts.append(Directions(*states) if both else states[0])
        below.append(np.concatenate([outputs for _, outputs in found], axis=-1))
    top = {"none": below[-1], "residual": sum(below), "skip": np.hstack(below)}
    return tuple(lasts), top[connections]


def pick(tree, n):
    return jax.tree.map(lambda leaf: leaf[n], tree)
