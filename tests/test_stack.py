"""Stacks of LSTM layers: against loops in NumPy, in pieces, and step by step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import (
    Directions,
    Dropout,
    init_lstm_stack,
    lstm_stack,
    lstm_stack_step,
)
from tests.helpers import assert_close, draw_like, jit
from tests.stacks import (
    MASK,
    RESETS,
    B,
    H,
    P,
    T,
    X,
    draw_inputs,
    draw_stack,
    pick,
    run_stack,
)

SINGLE = {"num_layers": 2}
PAIR = {"num_layers": 2, "bidirectional": True}
STACKS = {
    "both directions, projected": {
        "num_layers": 2,
        "bidirectional": True,
        "projection_size": P,
    },
    "residual": {"num_layers": 3, "connections": "residual"},
    "skip, no bias": {"num_layers": 2, "connections": "skip", "bias": False},
}


def test_stacks_by_a_loop(x64):
    inputs, expected = draw_inputs(MASK), {}
    problems = {name: draw_stack(**options) for name, options in STACKS.items()}

    @jit
    def run_all(problems):
        return {
            name: lstm_stack(
                params,
                inputs,
                state,
                mask=MASK,
                resets=RESETS,
                reset_state=reset_state,
                connections=STACKS[name].get("connections", "none"),
            )
            for name, (params, state, reset_state) in problems.items()
        }

    for name, (params, state, reset_state) in problems.items():
        examples = [
            run_stack(
                params,
                inputs[:, b],
                pick(state, b),
                pick(reset_state, b),
                MASK[:, b],
                RESETS[:, b],
                STACKS[name].get("connections", "none"),
            )
            for b in range(B)
        ]
        lasts, outputs = zip(*examples, strict=True)
        last = jax.tree.map(lambda *leaves: np.stack(leaves), *lasts)
        expected[name] = last, np.stack(outputs, axis=1)
    assert_close(run_all(problems), expected)


@pytest.mark.parametrize("options", STACKS.values(), ids=STACKS)
def test_forms_of_what_is_drawn(options):
    def init():
        return init_lstm_stack(jax.random.key(0), X, H, **options)

    params = jax.eval_shape(init)
    projected, bias = "projection_size" in options, options.get("bias", True)
    num_directions = 2 if options.get("bidirectional") else 1
    output_size = P if projected else H
    wide = num_directions * output_size
    wide += X if options.get("connections") == "skip" else 0
    assert len(params) == options["num_layers"]
    for width, layer in zip([X, wide, wide], params, strict=False):
        directions = layer if isinstance(layer, Directions) else (layer,)
        assert len(directions) == num_directions
        for one in directions:
            shapes = [(width, 4 * H), (output_size, 4 * H)]
            shapes += [(4 * H,)] if bias else []
            shapes += [(H, P)] if projected else []
            assert [leaf.shape for leaf in jax.tree.leaves(one)] == shapes


@pytest.mark.slow
def test_directions_are_drawn_apart():
    options = {**PAIR, "initializer": "uniform_hidden"}
    layers = jit(lambda key: init_lstm_stack(key, H, H, **options))(jax.random.key(0))
    drawn = [np.asarray(one.w_h) for layer in layers for one in layer]
    for n, one in enumerate(drawn):
        assert not any(np.allclose(one, other) for other in drawn[:n])


def find_pieces(mask, resets):
    """Returns the steps between resets that are there, piece by piece."""
    starts = [0, *np.flatnonzero(resets), len(mask)]
    pieces = [np.arange(*ends) for ends in itertools.pairwise(starts)]
    return [piece[mask[piece] == 1] for piece in pieces]


@pytest.mark.slow
@pytest.mark.parametrize("bidirectional", [False, True])
def test_masks_and_resets_are_each_sequence_by_itself(x64, bidirectional):
    stack = draw_stack(num_layers=2, bidirectional=bidirectional)
    inputs, weigh = draw_inputs(MASK), np.random.default_rng(3)
    wide = H * (1 + bidirectional)
    of_outputs = weigh.normal(size=(T, B, wide))
    of_last = draw_like(stack[1], 4)

    def total(last, outputs):
        terms = jax.tree.map(lambda x, w: (x * w).sum(), last, of_last)
        return (outputs * of_outputs).sum() + sum(jax.tree.leaves(terms))

    def whole(params, state, reset_state):
        return lstm_stack(
            params, inputs, state, mask=MASK, resets=RESETS, reset_state=reset_state
        )

    def run_example(params, state, reset_state, b):
        """Runs the pieces of one example, without batch, mask or resets."""
        outputs = jnp.zeros((T, wide))
        pieces = find_pieces(MASK[:, b], RESETS[:, b])
        ends = []
        for n, piece in enumerate(pieces):
            forward = state if n == 0 else reset_state
            backward = state if n == len(pieces) - 1 else reset_state
            start = mix(forward, backward)
            end, found = lstm_stack(params, inputs[piece, b], start)
            outputs = outputs.at[piece].set(found)
            ends.append(end)
        return mix(ends[-1], ends[0]), outputs

    def by_itself(params, state, reset_state):
        examples = [
            run_example(params, pick(state, b), pick(reset_state, b), b)
            for b in range(B)
        ]
        lasts, outputs = zip(*examples, strict=True)
        last = jax.tree.map(lambda *leaves: jnp.stack(leaves), *lasts)
        return last, jnp.stack(outputs, axis=1)

    def both(run):
        def value(*arguments):
            values = run(*arguments)
            return total(*values), values

        return jit(jax.grad(value, argnums=(0, 1, 2), has_aux=True))(*stack)

    assert_close(both(whole), both(by_itself))


@pytest.mark.slow
def test_a_length_of_zero_leaves_the_state_as_it_was(x64):
    params, state, _ = draw_stack(**PAIR)
    inputs = draw_inputs()
    inputs[:, 0] = np.nan
    lengths = np.array([0, T])
    run = jit(lambda state: lstm_stack(params, inputs, state, lengths=lengths))
    last, outputs = run(state)
    assert_close(pick(last, 0), pick(state, 0), 0)
    assert not outputs[:, 0].any() and outputs[:, 1].all()


def mix(forward, backward):
    """Returns states whose forward directions are of one tree, the others of another.

    States of a single direction are those of the first.
    """
    pairs = zip(forward, backward, strict=True)
    return tuple(
        Directions(one.forward, other.backward) if isinstance(one, Directions) else one
        for one, other in pairs
    )


@pytest.mark.slow
@pytest.mark.parametrize("connections", ["none", "residual", "skip"])
def test_steps_one_by_one_give_the_sequence(x64, connections):
    params, state, _ = draw_stack(num_layers=2, connections=connections)
    inputs = draw_inputs()
    rates = {"between": 0.5, "input": 0.2, "output": 0.3, "recurrent": 0.2}
    dropout = Dropout(**rates, zoneout_h=0.1, zoneout_c=0.2, variational=True)
    keys = jax.random.split(jax.random.key(1), B)
    for noise in ({}, {"dropout": dropout, "key": keys}):
        options = {"connections": connections, **noise}

        def advance(state, xs, options=options):
            time, x = xs
            return lstm_stack_step(params, state, x, time=time, **options)

        xs = jnp.arange(T), inputs
        found = jit(lambda state, xs=xs, f=advance: jax.lax.scan(f, state, xs))(state)
        whole = jit(lambda state, o=options: lstm_stack(params, inputs, state, **o))
        assert_close(found, whole(state))
