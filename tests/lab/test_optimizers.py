"""Optimizers, schedules and clipping: against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlstm.lab.errors import UserError
from jaxlstm.lab.optimizers import OPTIMIZERS, make_clip, make_schedule
from jaxlstm.lab.schema import ClipSection, ScheduleSection

RATE = 0.1
GRADS = np.array([[0.3, -2.0, 1e-4], [0.1, 1.0, -3e-4], [-0.2, 0.5, 2e-4]])
START = np.array([1.0, -1.0, 0.5])


def sgd(momentum=0.0, nesterov=False):
    x, m = START, 0.0
    for g in GRADS:
        m = momentum * m + g
        x = x - RATE * (momentum * m + g if nesterov else m)
    return x


def adam(b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0):
    x, m, v = START, 0.0, 0.0
    for n, g in enumerate(GRADS, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        step = m / (1 - b1**n) / (np.sqrt(v / (1 - b2**n)) + eps)
        x = x - RATE * (step + weight_decay * x)
    return x


def rmsprop(decay=0.9, eps=1e-8, inside=False, momentum=0.0):
    x, v, m = START, 0.0, 0.0
    for g in GRADS:
        v = decay * v + (1 - decay) * g**2
        step = g / (np.sqrt(v + eps) if inside else np.sqrt(v) + eps)
        m = momentum * m + RATE * step
        x = x - m
    return x


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("sgd", {}, sgd()),
        ("sgd", {"momentum": 0.5}, sgd(0.5)),
        ("sgd", {"momentum": 0.5, "nesterov": True}, sgd(0.5, True)),
        ("adam", {}, adam()),
        ("adam", {"b1": 0.5, "b2": 0.9, "eps": 1e-3}, adam(0.5, 0.9, 1e-3)),
        ("adamw", {"weight_decay": 0.1}, adam(weight_decay=0.1)),
        ("rmsprop", {"eps": 1e-4}, rmsprop(eps=1e-4)),
        (
            "rmsprop",
            {"eps": 1e-4, "eps_in_sqrt": True, "decay": 0.5},
            rmsprop(0.5, 1e-4, inside=True),
        ),
        ("rmsprop", {"momentum": 0.5}, rmsprop(momentum=0.5)),
    ],
)
def test_optimizer_is_its_formula(name, options, expected, x64):
    optimizer = OPTIMIZERS[name](optax.constant_schedule(RATE), **options)

    @jax.jit
    def descend(x):
        state = optimizer.init(x)
        for g in jnp.asarray(GRADS):
            updates, state = optimizer.update(g, state, x)
            x = optax.apply_updates(x, updates)
        return x

    np.testing.assert_allclose(descend(jnp.asarray(START)), expected, rtol=1e-10)


def cosine(n, steps, final):
    share = min(n, steps) / steps
    return final + (1 - final) * (1 + np.cos(np.pi * share)) / 2


@pytest.mark.parametrize(
    ("section", "factor"),
    [
        ({}, lambda n: 1.0),
        ({"warmup": 4}, lambda n: min(1, n / 4)),
        ({"name": "cosine"}, lambda n: cosine(n, 20, 0.0)),
        (
            {"name": "cosine", "warmup": 4, "final": 0.1},
            lambda n: n / 4 if n < 4 else cosine(n - 4, 16, 0.1),
        ),
        (
            {"name": "exponential", "rate": 0.5, "every": 3, "begin": 5},
            lambda n: 0.5 ** max(0, (n - 5) // 3),
        ),
        (
            {"name": "exponential", "rate": 0.5, "every": 3, "begin": 5, "warmup": 2},
            lambda n: n / 2 if n < 2 else 0.5 ** max(0, (n - 5) // 3),
        ),
        # An epoch has three updates.
        (
            {"name": "exponential", "rate": 0.5, "unit": "epochs", "begin": 2},
            lambda n: 0.5 ** max(0, (n - 6) // 3),
        ),
        (
            {"name": "exponential", "unit": "epochs", "every": 2, "warmup": 1},
            lambda n: n / 3 if n < 3 else 0.97 ** ((n - 3) // 6),
        ),
        (
            {"name": "steps", "rate": 0.1, "at": [4, 11], "warmup": 2},
            lambda n: n / 2 if n < 2 else 0.1 ** ((n >= 4) + (n >= 11)),
        ),
        (
            {"name": "steps", "rate": 0.1, "unit": "epochs", "at": [2, 5]},
            lambda n: 0.1 ** ((n >= 6) + (n >= 15)),
        ),
        (
            {"name": "cosine", "unit": "epochs", "warmup": 2},
            lambda n: n / 6 if n < 6 else cosine(n - 6, 14, 0.0),
        ),
    ],
)
def test_schedule_is_its_formula(section, factor, x64):
    section = ScheduleSection(**section)
    schedule = make_schedule(section, RATE, num_updates=20, updates_per_epoch=3)
    rates = jax.jit(jax.vmap(schedule))(jnp.arange(21))
    expected = [RATE * factor(n) for n in range(21)]
    np.testing.assert_allclose(np.broadcast_to(rates, 21), expected, rtol=1e-6)


def test_char_rnn_decays_after_each_epoch_from_the_tenth_on():
    """Of 423 updates each; the rate of update n is that at n - 1 updates made."""
    section = ScheduleSection(name="exponential", unit="epochs", begin=9)
    schedule = make_schedule(section, RATE, 21_150, updates_per_epoch=423)
    found = [float(schedule(n)) / RATE for n in (0, 4229, 4230, 4652, 4653)]
    np.testing.assert_allclose(found, [1, 1, 0.97, 0.97, 0.97**2], rtol=1e-6)


@pytest.mark.parametrize(
    ("section", "factor"),
    [
        ({"name": "exponential", "every": 2**30}, 1.0),
        ({"name": "exponential", "begin": 2**30}, 1.0),
        ({"name": "steps", "at": [2**30]}, 1.0),
        ({"warmup": 2**30}, 0.0),
    ],
)
def test_schedule_counts_no_further_than_jax(section, factor):
    section = ScheduleSection(unit="epochs", **section)
    schedule = make_schedule(section, RATE, num_updates=20, updates_per_epoch=3)
    rate = jax.jit(schedule)(jnp.int32(7))
    np.testing.assert_allclose(rate, RATE * factor, rtol=1e-5)


def test_epochs_of_a_stream_without_end_are_refused():
    section = ScheduleSection(unit="epochs")
    with pytest.raises(UserError, match=r'schedule.unit = "epochs": the task.s stream'):
        make_schedule(section, RATE, 20, updates_per_epoch=None)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, [3.0, -4.0]),
        ({"value": 2.0}, [2.0, -2.0]),
        ({"norm": 1.0}, [0.6, -0.8]),
        ({"norm": 10.0}, [3.0, -4.0]),
        ({"value": 2.0, "norm": 1.0}, [0.5**0.5, -(0.5**0.5)]),
    ],
)
def test_clipping(section, expected):
    clip = make_clip(ClipSection(**section))
    grads = {"w": jnp.array([3.0]), "b": jnp.array([-4.0])}
    clipped, _ = jax.jit(clip.update)(grads, clip.init(grads))
    np.testing.assert_allclose([*clipped["w"], *clipped["b"]], expected, rtol=1e-6)
