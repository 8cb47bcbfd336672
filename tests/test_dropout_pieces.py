"""Dropout draws the same in chunks, step by step, alone, made again and spread out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxlstm import Dropout, noise
from jaxlstm.cells import make_lstm
from jaxlstm.model import make_model
from jaxlstm.select import keep, select
from tests.helpers import assert_close, draw_like, jit
from tests.stacks import MASK, RESETS, B, H, T, X

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("x64")]

NUM_SYMBOLS = 4
SYMBOLS = np.random.default_rng(6).integers(0, NUM_SYMBOLS, size=(T, B))
RATES = dict.fromkeys(Dropout._fields[:8], 0.3)


@functools.cache
def make_problem():
    model = make_model(
        make_lstm(),
        input_size=NUM_SYMBOLS,
        hidden_size=H,
        output_size=X,
        inputs="embedding",
        num_layers=2,
        connections="skip",
        dropout=Dropout(**RATES),
        dtype=jnp.float64,
    )
    return model, draw_like(jax.eval_shape(model.init, jax.random.key(0)), 1, 0.5)


def run(model, params, keys, symbols=SYMBOLS, mask=MASK, resets=RESETS, **options):
    state = model.initial_state(params, symbols.shape[1:])
    options = {"mask": mask, "resets": resets, "key": keys, **options}
    return model.unroll(params.recurrent, state, symbols, **options)


def test_pieces():
    """The whole is what steps, chunks and examples by themselves are."""
    model, params = make_problem()
    advance, first = model.step, 1
    assert advance is not None

    @jit
    def run_all(params, keys):
        start = model.initial_state(params, (B,))

        def step(state, xs):
            x, mask, reset, time = xs
            state = select(reset, start, state)
            new = advance(params.recurrent, state, x, key=keys, time=time)
            state = keep(mask, new, state)
            return state, state

        xs = SYMBOLS, *map(jnp.asarray, (MASK, RESETS, first + np.arange(T)))
        stepped = jax.lax.scan(step, start, xs)
        state, chunks = start, []
        for begin, end in ((0, 1), (1, 4), (4, T)):
            state, states = model.unroll(
                params.recurrent,
                state,
                SYMBOLS[begin:end],
                mask=MASK[begin:end],
                resets=RESETS[begin:end],
                key=keys,
                time=first + begin,
            )
            chunks.append(states)
        chunked = state, jax.tree.map(lambda *x: jnp.concatenate(x), *chunks)
        alone = [
            run(
                model,
                params,
                jax.tree.map(lambda k, b=b: k[b], keys),
                SYMBOLS[:, b],
                MASK[:, b],
                RESETS[:, b],
                time=first,
            )
            for b in range(B)
        ]
        lasts, states = zip(*alone, strict=True)
        by_example = (
            jax.tree.map(lambda *x: jnp.stack(x), *lasts),
            jax.tree.map(lambda *x: jnp.stack(x, 1), *states),
        )
        whole = run(model, params, keys, time=first)
        return whole, stepped, chunked, by_example

    whole, *others = run_all(params, noise.split(jax.random.key(2), (B,)))
    for other in others:
        assert_close(other, whole)


def total(model, params, keys, symbols=SYMBOLS, mask=MASK, resets=RESETS, **options):
    made = run(model, params, keys, symbols, mask, resets, **options)
    states = made[1]
    predictions = model.readout(params, states, key=keys)
    return jnp.sum(jnp.sin(predictions)) + sum(
        jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(made)
    )


def test_what_is_made_again_draws_the_same():
    model, params = make_problem()
    keys = noise.split(jax.random.key(3), (B,))

    def differentiate(remat):
        run = lambda params: total(model, params, keys, remat=remat)  # noqa: E731
        return jit(jax.value_and_grad(run))(params)

    assert_close(differentiate("sqrt_step"), differentiate("none"))


def test_devices_do_not_change_what_is_drawn():
    """Masks of weights too, whose gradient is summed over devices."""
    model, params = make_problem()
    devices = 2
    keys = noise.split(jax.random.key(4), (devices * B,))
    arrays = [np.concatenate([x] * devices, axis=1) for x in (SYMBOLS, MASK, RESETS)]
    mesh = jax.make_mesh((devices,), ("batch",), axis_types=(AxisType.Auto,))
    along, of_keys = PartitionSpec(None, "batch"), PartitionSpec("batch")

    def one(params, keys, *arrays):
        return jax.value_and_grad(lambda p: total(model, p, keys, *arrays))(params)

    def part(params, keys, *arrays):
        value, grads = one(params, keys, *arrays)
        # Those of what is alike everywhere are summed already.
        return jax.lax.psum(value, "batch"), grads

    spread = jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(PartitionSpec(), of_keys, along, along, along),
        out_specs=PartitionSpec(),
    )
    arguments = params, keys, *map(jnp.asarray, arrays)
    assert_close(jit(spread)(*arguments), jit(one)(*arguments))
