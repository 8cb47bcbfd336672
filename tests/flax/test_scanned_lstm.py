"""`ScannedLSTM`: rollout and replay, Flax's own cell, transformations, bad input."""

import functools
import operator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import LSTMState
from jaxlstm.flax import ScannedLSTM
from tests.helpers import assert_close, draw_like, jit

T, B, X, H, A = 12, 4, 3, 5, 3


class ScannedGRU(nn.Module):
    """What `ScannedLSTM` takes the place of, in Flax alone."""

    @functools.partial(
        nn.scan, variable_broadcast="params", split_rngs={"params": False}
    )
    @nn.compact
    def __call__(self, carry, x):
        inputs, resets = x
        start = self.initialize_carry(*inputs.shape)
        carry = jnp.where(resets[:, None], start, carry)
        return nn.GRUCell(inputs.shape[1])(carry, inputs)

    @staticmethod
    def initialize_carry(batch_size, hidden_size):
        return jnp.zeros((batch_size, hidden_size))


class ActorCritic(nn.Module):
    """A policy as PureJaxRL calls it."""

    scanned: type[nn.Module]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, carry, x):
        observations, resets = x
        embedded = jnp.tanh(nn.Dense(H, param_dtype=self.dtype)(observations))
        options = {"param_dtype": self.dtype} if self.scanned is ScannedLSTM else {}
        carry, outputs = self.scanned(**options)(carry, (embedded, resets))
        logits = nn.Dense(A, param_dtype=self.dtype)(outputs)
        values = nn.Dense(1, param_dtype=self.dtype)(outputs)
        return carry, logits, values[..., 0]


class Steps(NamedTuple):
    """A rollout, [T, B, ...]."""

    observation: Any
    last_done: Any
    done: Any
    action: Any
    log_prob: Any
    value: Any


def apply(module, params, carry, x) -> Any:
    return module.apply(params, carry, x)


def log_prob_of(logits, action):
    log_probs = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(log_probs, action[..., None], axis=-1)[..., 0]


def roll_out(policy, params, start, dones, key):
    """Acts in B environments whose episodes end where `dones` [T, B] says.

    An observation tells the action before it, so that what the policy does comes back.
    """

    def step(runner, xs):
        carry, observation, last_done = runner
        done, key = xs
        action_key, noise_key = jax.random.split(key)
        x = observation[None], last_done[None]
        carry, (logits,), (value,) = apply(policy, params, carry, x)
        action = jax.random.categorical(action_key, logits)
        log_prob = log_prob_of(logits, action)
        steps = Steps(observation, last_done, done, action, log_prob, value)
        noise = jax.random.normal(noise_key, (B, X))
        return (carry, noise + jax.nn.one_hot(action, X), done), steps

    return jax.lax.scan(step, start, (dones, jax.random.split(key, T)))


def test_replay_of_a_rollout_has_a_ratio_of_one(x64):
    """Of whole rollouts and of minibatches; not with `done` for `last_done`."""
    rng = np.random.default_rng(0)
    policy = ActorCritic(ScannedLSTM, jnp.float64)
    carry = draw_like(ScannedLSTM.initialize_carry(B, H), 1)
    observation = rng.normal(size=(B, X))
    last_done = np.array([True, False, False, False])
    dones = rng.random((2, T, B)) < 0.25
    dones[0, -1] = [True, False, True, False]
    example = observation[None], last_done[None]
    shapes = jax.eval_shape(policy.init, jax.random.key(0), carry, example)
    params = draw_like(shapes, 2)
    chosen = np.array([3, 1])

    def ratio_and_values(start, steps, resets):
        x = steps.observation, resets
        _, logits, values = apply(policy, params, start, x)
        return jnp.exp(log_prob_of(logits, steps.action) - steps.log_prob), values

    def pair(runner, xs):
        start, *_ = runner
        runner, steps = roll_out(policy, params, runner, *xs)
        some = jax.tree.map(lambda leaf: jnp.take(leaf, chosen, 1), steps)
        some_start = jax.tree.map(lambda leaf: jnp.take(leaf, chosen, 0), start)
        return runner, (
            steps,
            ratio_and_values(start, steps, steps.last_done),
            some,
            ratio_and_values(some_start, some, some.last_done),
            ratio_and_values(start, steps, steps.done),
        )

    def run():
        runner = carry, observation, last_done
        keys = jax.random.split(jax.random.key(3), 2)
        return jax.lax.scan(pair, runner, (dones, keys))[1]

    both = jax.device_get(jit(run)())
    for n in range(2):
        steps, (ratio, values), some, (some_ratio, some_values), shifted = jax.tree.map(
            operator.itemgetter(n), both
        )
        np.testing.assert_array_equal(steps.last_done[1:], steps.done[:-1])
        assert np.abs(ratio - 1).max() < 1e-12
        assert_close(values, steps.value)
        assert np.abs(some_ratio - 1).max() < 1e-12
        assert_close(some_values, some.value)
        # Shifted by one, a ratio is off by more than PPO commonly allows, 0.2.
        assert np.abs(shifted[0] - 1).max() > 0.2
        assert np.abs(shifted[1] - steps.value).max() > 0.2


def test_equals_the_cell_of_flax_scanned_with_resets(x64):
    rng = np.random.default_rng(0)
    carry = draw_like(ScannedLSTM.initialize_carry(B, H), 1)
    inputs, resets = rng.normal(size=(T, B, X)), rng.random((T, B)) < 0.3
    module = ScannedLSTM(H, param_dtype=jnp.float64)
    shapes = jax.eval_shape(module.init, jax.random.key(0), carry, (inputs, resets))
    weights = draw_like(shapes, 2)["params"]
    assert {name: w.shape for name, w in weights.items()} == {
        "w_x": (X, 4 * H),
        "w_h": (H, 4 * H),
        "b": (4 * H,),
    }

    def by_flax(weights, carry, inputs):
        dtype = inputs.dtype
        cell = nn.OptimizedLSTMCell(H, param_dtype=dtype, dtype=dtype)
        params = {}
        blocks = (jnp.split(weights[name], 4, axis=-1) for name in ("w_x", "w_h", "b"))
        for gate, w_x, w_h, b in zip("ifgo", *blocks, strict=True):
            params[f"i{gate}"] = {"kernel": w_x}
            params[f"h{gate}"] = {"kernel": w_h, "bias": b}

        def step(carry, xs):
            x, reset = xs
            carry = jax.tree.map(lambda s: jnp.where(reset[:, None], 0, s), carry)
            return cell.apply({"params": params}, carry, x)

        (c, h), outputs = jax.lax.scan(step, (carry.c, carry.h), (inputs, resets))
        return LSTMState(h, c), outputs

    def by_module(weights, carry, inputs):
        module = ScannedLSTM(H, param_dtype=inputs.dtype)
        return module.apply({"params": weights}, carry, (inputs, resets))

    def gradients(run, arguments):
        def loss(*arguments):
            carry, outputs = run(*arguments)
            terms = jnp.sum(outputs**3) + jnp.sum(carry.c * carry.h)
            return terms, (carry, outputs)

        return jax.grad(loss, (0, 1, 2), has_aux=True)(*arguments)

    wide = weights, carry, inputs
    narrow = jax.tree.map(lambda leaf: leaf.astype(np.float32), wide)
    results = jit(
        lambda: [
            (gradients(by_module, wide), gradients(by_flax, wide)),
            (by_module(*narrow), by_flax(*narrow)),
        ]
    )()
    for (actual, expected), tolerance in zip(results, (1e-12, 1e-6), strict=True):
        assert_close(actual, expected, tolerance)


def test_nothing_flows_through_a_reset(x64):
    rng = np.random.default_rng(0)
    carry = draw_like(ScannedLSTM.initialize_carry(B, H), 1)
    inputs, cut = rng.normal(size=(T, B, X)), 5
    resets = np.zeros((T, B), bool)
    resets[cut, 1] = resets[0, 2] = True
    module = ScannedLSTM(H, param_dtype=jnp.float64)
    shapes = jax.eval_shape(module.init, jax.random.key(0), carry, (inputs, resets))
    params = draw_like(shapes, 2)

    def loss(carry, inputs):
        _, outputs = module.apply(params, carry, (inputs, resets))
        return jnp.sum(outputs[cut:] ** 2)

    def run(carry, inputs):
        there = jax.grad(loss, (0, 1))(carry, inputs)
        ones = jax.tree.map(jnp.ones_like, (carry, inputs.at[cut:].set(0)))
        seen = jax.tree.map(jnp.sum, jax.tree.map(jnp.multiply, there, ones))
        _, along = jax.jvp(loss, (carry, inputs), ones)
        return there, sum(jax.tree.leaves(seen)), along

    there, seen, along = jit(run)(carry, jnp.asarray(inputs))
    assert_close(along, seen)
    by_carry, by_inputs = jax.device_get(there)
    for leaf in by_carry:
        assert (leaf[[1, 2]] == 0).all()
        assert (leaf[[0, 3]] != 0).all()
    assert (by_inputs[:cut, 1] == 0).all()
    assert (by_inputs[cut:, 1] != 0).all()
    assert (by_inputs[:, [0, 2, 3]] != 0).all()


@pytest.mark.slow
def test_takes_the_place_of_a_scanned_gru():
    """The same lines run with both, the class apart."""

    def run(scanned, key, observations, resets):
        policy = ActorCritic(scanned)
        carry = scanned.initialize_carry(B, H)
        params = policy.init(key, carry, (observations, resets))
        carry, logits, values = apply(policy, params, carry, (observations, resets))
        return carry, (logits, values)

    x = np.ones((T, B, X), np.float32), np.zeros((T, B), bool)
    key = jax.random.key(0)
    carries, results = zip(
        *(
            jax.eval_shape(functools.partial(run, scanned), key, *x)
            for scanned in (ScannedGRU, ScannedLSTM)
        ),
        strict=True,
    )
    assert results[0] == results[1]
    assert carries[1] == LSTMState(carries[0], carries[0])
    # PureJaxRL runs seeds side by side, and starts with resets of floats.
    seeds = jax.eval_shape(
        jax.vmap(lambda key: run(ScannedLSTM, key, x[0], jnp.zeros((T, B)))),
        jax.random.split(key, 2),
    )
    assert seeds[0].h.shape == (2, B, H)


@pytest.mark.slow
def test_parameters_are_drawn_as_those_of_the_layer():
    x = np.ones((1, B, X), np.float32), np.zeros((1, B))
    keys = jax.random.split(jax.random.key(0), 2)
    carry = ScannedLSTM.initialize_carry(B, H)
    module = ScannedLSTM(H, forget_bias=2.0, initializer="uniform_08")
    draw = jax.vmap(lambda key: module.init(key, carry, x)["params"])
    params = jax.device_get(jit(draw)(keys))
    by_gate = params["b"].reshape(2, 4, H)
    np.testing.assert_array_equal(by_gate[:, 1], 2)
    drawn = params["w_x"], params["w_h"], np.delete(by_gate, 1, axis=1)
    drawn = np.concatenate([block.ravel() for block in drawn])
    assert np.abs(drawn).max() < 0.08
    assert len(np.unique(drawn)) == drawn.size
    carry = ScannedLSTM.initialize_carry(B, X)
    shapes = jax.eval_shape(ScannedLSTM().init, keys[0], carry, x)["params"]
    assert shapes["w_h"].shape == (X, 4 * X)


@pytest.mark.slow
def test_options_reach_the_sequence(x64):
    """Products in bfloat16; and less memory, which changes no value."""
    rng = np.random.default_rng(0)
    dtype = jnp.float32
    carry = ScannedLSTM.initialize_carry((2, B), H)
    x = rng.normal(size=(T, 2, B, X)), rng.random((T, 2)) < 0.3
    shapes = jax.eval_shape(ScannedLSTM(H).init, jax.random.key(0), carry, x)
    params = jax.tree.map(lambda w: w.astype(dtype), draw_like(shapes, 1, 0.5))
    modules = [
        ScannedLSTM(H),
        ScannedLSTM(H, remat="sqrt_step"),
        ScannedLSTM(H, compute_dtype=jnp.bfloat16),
    ]

    def program(module):
        def loss(params):
            return jnp.sum(module.apply(params, carry, x)[1])

        return str(jax.make_jaxpr(jax.grad(loss))(params))

    plain, remat, half = map(program, modules)
    assert "bf16" in half
    assert "bf16" not in plain
    assert f"f32[{T}," in plain
    assert remat != plain
    results = jit(lambda: [module.apply(params, carry, x) for module in modules])()
    assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype(dtype)}
    assert_close(results[1], results[0], 1e-6)
    # A preactivation is off by some 2^-8 of X + H = 8 terms of about 1/2.
    assert_close(results[2], results[0], 0.1)


CARRY = ScannedLSTM.initialize_carry(B, X)
INPUTS, RESETS = np.ones((T, B, X), np.float32), np.zeros((T, B), bool)
WRONG = {
    "array for a carry": ({"carry": CARRY.h}, "carry: is an array of shape (4, 3); gi"),
    "carry of Flax": ({"carry": (CARRY.c, CARRY.h)}, "carry: is a tuple of 2; give L"),
    "carry of one more axis": (
        {"carry": LSTMState(CARRY.h[None], CARRY.c[None])},
        "carry.h: shape (1, 4, 3) is not (4, 3), which is [..., H]",
    ),
    "size of the carry": (
        {"carry": ScannedLSTM.initialize_carry(B, H)},
        "carry.h: shape (4, 5) is not (4, 3), which is [..., H]",
    ),
    "dtype of the carry": (
        {"carry": ScannedLSTM.initialize_carry(B, X, jnp.bfloat16)},
        "carry.h: dtype bfloat16 is not float32, that of the parameters; convert one",
    ),
    "no resets": ({"x": INPUTS}, "x: is an array of shape (12, 4, 3); give (inputs"),
    "three of x": ({"x": (INPUTS, RESETS, RESETS)}, "x: is a tuple of 3; give (inp"),
    "batch first": (
        {"x": (INPUTS, RESETS.T)},
        "resets: shape (4, 12) does not fit [T, ...]; inputs [T, ..., X] of shape",
    ),
    "no time": ({"x": (INPUTS[0, 0], RESETS[0, 0])}, "inputs: shape (3,) does not fit"),
    "no features": ({"features": 0}, "features: value is 0; give 1 or more, or None"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_gets_one_line(name):
    wrong, message = WRONG[name]
    given = {"carry": CARRY, "x": (INPUTS, RESETS), "features": None} | wrong
    module = ScannedLSTM(given["features"])
    run = functools.partial(module.init, carry=given["carry"], x=given["x"])
    with pytest.raises((ValueError, TypeError)) as caught:
        jax.eval_shape(run, jax.random.key(0))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
