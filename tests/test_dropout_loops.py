"""Dropout in stacks and models: values and gradients against loops by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import Directions, Dropout, lstm_stack, noise
from jaxlstm.cells import make_gru, make_lstm
from jaxlstm.cells.gru import GRUState
from jaxlstm.cells.lstm import LSTMState
from jaxlstm.dropout import (
    BACKWARD,
    CANDIDATE,
    EMBEDDING,
    OUTPUT,
    RECURRENT_WEIGHTS,
    STAY_C,
    STAY_H,
)
from jaxlstm.model import make_model
from tests.helpers import assert_close, draw_like, jit, loop
from tests.stacks import MASK, RESETS, B, H, T, X, draw_inputs, draw_stack, pick

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("x64")]

ALL = Dropout(
    between=0.5,
    input=0.2,
    embedding=0.3,
    output=0.4,
    recurrent=0.35,
    weights=0.45,
    zoneout_h=0.25,
    zoneout_c=0.15,
)
TIME = 2


def batch_keys():
    return noise.split(jax.random.key(7), (B,))


def advance_lstm(params, mask, state, x):
    i, f, g, o = jnp.split(x @ params.w_x + state.h @ params.w_h + params.b, 4)
    i, f, o = (jax.nn.sigmoid(gate) for gate in (i, f, o))
    c = f * state.c + i * mask["candidate"] * jnp.tanh(g)
    h = o * jnp.tanh(c)
    return LSTMState(jnp.where(mask["h"], state.h, h), jnp.where(mask["c"], state.c, c))


def advance_gru(params, mask, state, x):
    (r, u, n), (r_h, u_h, n_h) = (
        jnp.split(product, 3)
        for product in (x @ params.w_x + params.b, state.h @ params.w_h)
    )
    r, u = jax.nn.sigmoid(r + r_h), jax.nn.sigmoid(u + u_h)
    n = mask["candidate"] * jnp.tanh(n + r * (n_h + params.b_h))
    return GRUState(jnp.where(mask["h"], state.h, (1 - u) * n + u * state.h))


ADVANCE = {"lstm": advance_lstm, "gru": advance_gru}


def by_hand(kind, options, keys, layers, xs, state, reset_state, b, time, controls):
    """Runs example b through all layers; returns last states and outputs [T, D H]."""
    own = keys.own[b]
    kept_for = options.mask_steps if options.variational else 1

    def draw(purpose, rate, size, kept_for=kept_for):
        # Not compiled: it is the same program each time.
        with jax.ensure_compile_time_eval():
            key = jax.random.fold_in(own, purpose)
            return noise.draw(1 - rate, key, time, len(xs), (size,), kept_for)

    def direction(params, state, reset_state, place, xs):
        shape = params.w_h.shape
        key = jax.random.fold_in(keys.shared[0], RECURRENT_WEIGHTS["w_h"] + place)
        kept = jax.random.bernoulli(
            jax.random.fold_in(key, 0), 1 - options.weights, shape
        )
        params = params._replace(w_h=params.w_h * kept / (1 - options.weights))
        candidate = draw(CANDIDATE + place, options.recurrent, H)
        # A share that stays is drawn, not one that goes.
        h = draw(STAY_H + place, 1 - options.zoneout_h, H, 1)
        c = draw(STAY_C + place, 1 - options.zoneout_c, H, 1)
        candidate = jnp.broadcast_to(candidate, h.shape) / (1 - options.recurrent)

        def advance(state, x, t):
            mask = {"candidate": candidate[t], "h": h[t], "c": c[t]}
            return ADVANCE[kind](params, mask, state, x)

        mask, resets = controls
        return loop(
            advance,
            xs,
            state,
            reset_state,
            mask=mask[:, b],
            resets=resets[:, b],
            reverse=place >= BACKWARD,
        )

    lasts = []
    for n, (layer, begin, reset) in enumerate(
        zip(layers, state, reset_state, strict=True)
    ):
        rate = options.between if n else options.input
        xs = xs * draw(n, rate, xs.shape[-1]) / (1 - rate)
        if isinstance(layer, Directions):
            places = n, BACKWARD + n
            runs = zip(layer, begin, reset, places, strict=True)
            made = [direction(*each, xs) for each in runs]
            lasts.append(Directions(*(last for last, _ in made)))
            xs = jnp.concatenate([states.h for _, states in made], -1)
        else:
            last, states = direction(layer, begin, reset, n, xs)
            lasts.append(last)
            xs = states.h
    return tuple(lasts), xs


def stack_examples(examples):
    lasts, outputs = zip(*examples, strict=True)
    last = jax.tree.map(lambda *leaves: jnp.stack(leaves), *lasts)
    return last, jnp.stack(outputs, axis=1)


def weigh(made):
    """Returns a number that all of what was made counts in."""
    terms = jax.tree.map(lambda x, w: (x * w).sum(), made, draw_like(made, 5))
    return sum(jax.tree.leaves(terms)), made


def differentiate(run, *arguments):
    argnums = tuple(range(len(arguments)))
    value = lambda *arguments: weigh(run(*arguments))  # noqa: E731
    return jit(jax.value_and_grad(value, argnums, has_aux=True))(*arguments)


def test_a_stack_in_both_directions():
    """Values and gradients, with holes and resets."""
    options = ALL._replace(embedding=0.0)
    inputs = draw_inputs(MASK)
    arguments = draw_stack(num_layers=2, bidirectional=True)
    keys = batch_keys()

    def stack(params, state, reset_state):
        return lstm_stack(
            params,
            inputs,
            state,
            mask=MASK,
            resets=RESETS,
            reset_state=reset_state,
            dropout=options,
            key=keys,
            time=TIME,
        )

    def loops(params, state, reset_state):
        inner = noise.fold_in(keys, 0)
        examples = [
            by_hand(
                "lstm",
                options,
                inner,
                params,
                jnp.asarray(np.nan_to_num(inputs[:, b])),
                pick(state, b),
                pick(reset_state, b),
                b,
                TIME,
                (MASK, RESETS),
            )
            for b in range(B)
        ]
        last, outputs = stack_examples(examples)
        own = noise.fold_in(noise.fold_in(keys, 1), OUTPUT).own
        kept = noise.draw(1 - options.output, own, TIME, T, (2 * H,))
        return last, outputs * kept / (1 - options.output) * MASK[..., None]

    expected = differentiate(loops, *arguments)
    assert_close(differentiate(stack, *arguments), expected)


@pytest.mark.parametrize("kind", ADVANCE)
def test_a_model(kind):
    """Masks that stay for some steps, of symbols too; and the readout's."""
    options = ALL._replace(variational=True, mask_steps=3)
    cell = make_lstm() if kind == "lstm" else make_gru()
    if kind == "gru":
        options = options._replace(zoneout_c=0.0)
    keys, num_symbols = batch_keys(), 4
    symbols = np.random.default_rng(6).integers(0, num_symbols, size=(T, B))

    def make(derivative):
        return make_model(
            cell,
            input_size=num_symbols,
            hidden_size=H,
            output_size=X,
            inputs="embedding",
            num_layers=2,
            dropout=options,
            derivative=derivative,
            learned_initial_state=True,
            dtype=jnp.float64,
        )

    params = draw_like(jax.eval_shape(make("rule").init, jax.random.key(0)), 1, 0.5)

    def run(derivative):
        def unroll(params):
            model = make(derivative)
            last, states = model.unroll(
                params.recurrent,
                model.initial_state(params, (B,)),
                symbols,
                mask=MASK,
                resets=RESETS,
                key=keys,
                time=TIME,
            )
            return last, model.readout(params, states, key=keys, time=TIME)

        return unroll

    def loops(params):
        recurrent, examples = params.recurrent, []
        steps = (TIME + np.arange(T)) // options.mask_steps
        for b in range(B):
            key = jax.random.fold_in(keys.own[b], EMBEDDING)
            kept = [
                jax.random.bernoulli(
                    jax.random.fold_in(jax.random.fold_in(key, n), s),
                    1 - options.embedding,
                )
                for n, s in zip(steps, symbols[:, b], strict=True)
            ]
            x = recurrent.embedding[symbols[:, b]]
            x = x * jnp.stack(kept)[:, None] / (1 - options.embedding)
            start = recurrent.initial_state
            same = (start, start, b, TIME, (MASK, RESETS))
            examples.append(by_hand(kind, options, keys, recurrent.layers, x, *same))
        last, outputs = stack_examples(examples)
        own = noise.fold_in(keys.own, OUTPUT)
        kept = noise.draw(1 - options.output, own, TIME, T, (H,), options.mask_steps)
        outputs = outputs * kept / (1 - options.output)
        w, b = params.readout
        return last, outputs @ w + b.reshape(1, 1, -1)

    expected = differentiate(loops, params)
    assert_close(differentiate(run("rule"), params), expected)
    if kind == "gru":
        assert_close(differentiate(run("autodiff"), params), expected)
