"""The dropout family: what is drawn for each site, for how long, and what stays."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import Dropout, LSTMParams, LSTMState, lstm_stack, noise
from jaxlstm.cells import LSTMVariantParams
from jaxlstm.cells.base import StepNoise, update
from jaxlstm.cells.lstm import LSTM_GATED
from jaxlstm.dropout import (
    BACKWARD,
    draw_noise,
    drop_feed,
    drop_output,
    drop_symbols,
    drop_weights,
)
from tests.helpers import assert_close, jit
from tests.stacks import draw_inputs, draw_stack, sigmoid

B, H, T = 4, 16, 24
# No two alike, so that none can stand for another.
RATES = {
    "between": 0.5,
    "input": 0.2,
    "embedding": 0.3,
    "output": 0.4,
    "recurrent": 0.35,
    "weights": 0.45,
    "zoneout_h": 0.25,
    "zoneout_c": 0.15,
}
PLACES = (0, 1, BACKWARD)
STEPS = 3
KEYS = noise.split(jax.random.key(1), (B,))
SYMBOLS = np.random.default_rng(0).integers(0, 5, size=(T, B))


def draw_all(options, keys, time, length=T, symbols=SYMBOLS):
    """Returns what every site draws: [T, B, ...], without T where a length is None."""
    lead = () if length is None else (length,)
    ones = jnp.ones((*lead, B, H))
    params = LSTMParams(jnp.ones((1, 4 * H)), jnp.ones((H, 4 * H)), None)
    state = LSTMState(*jnp.zeros((2, B, H)))
    start = (options, keys, time)
    found = {
        "input": drop_feed(ones, 0, *start),
        "embedding": drop_symbols(ones[..., :1], symbols, *start),
        "output": drop_output(ones, *start),
    }
    for layer in (1, 2):
        found[f"between {layer}"] = drop_feed(ones, layer, *start)
    for place in PLACES:
        inside = draw_noise(state, place, *start, length)
        assert inside is not None and inside.stay is not None
        found[f"weights {place}"] = drop_weights(params, place, options, keys).w_h
        found[f"recurrent {place}"] = inside.candidate
        for name, stays in inside.stay.items():
            found[f"zoneout_{name} {place}"] = stays
    return found


def rate_of(site):
    return RATES[site.split()[0]]


def test_moments():
    """Of N draws, shares and products are within 5.5 standard deviations.

    Chance takes one of some 300 beyond that about once in 80,000 keys.
    """
    # One symbol alone: its occurrences are apart.
    symbols = np.zeros((T, B), int)
    run = jit(lambda keys: draw_all(Dropout(**RATES), keys, 0, symbols=symbols))
    drawn, centred = jax.device_get(run(KEYS)), {}
    for site, values in drawn.items():
        rate = rate_of(site)
        # An old value stays with the rate; all else is dropped with it.
        stays = site.startswith("zoneout")
        chance, size = (rate, 1) if stays else (1 - rate, 1 / (1 - rate))
        np.testing.assert_allclose(np.unique(values), [0, size], rtol=1e-6)
        x = (values > 0) - chance
        variance = rate * (1 - rate)
        assert abs(x.mean()) < 5.5 * math.sqrt(variance / x.size), site
        for axis in [n for n in range(x.ndim) if x.shape[n] > 1]:
            lagged = (x * np.roll(x, 1, axis)).mean()
            assert abs(lagged) < 5.5 * variance / math.sqrt(x.size), (site, axis)
        centred[site] = x.reshape(-1) / math.sqrt(variance)
    for one, other in itertools.combinations(centred, 2):
        count = min(len(centred[one]), len(centred[other]))
        product = centred[one][:count] @ centred[other][:count] / count
        assert abs(product) < 5.5 / math.sqrt(count), (one, other)


def lasts(site, options):
    """Returns for how many steps a mask of a site stays."""
    if site.startswith("weights"):
        return None
    stays = options.variational and not site.startswith("zoneout")
    return options.mask_steps if stays else 1


@pytest.mark.slow
@pytest.mark.parametrize("mask_steps", [STEPS, None])
def test_masks_stay_by_the_number_of_the_step(mask_steps):
    """Blocks are counted from time 0, wherever a call begins, and are unlike."""
    options = Dropout(**RATES, variational=True, mask_steps=mask_steps)
    begin, length = STEPS + 1, 2 * STEPS
    part = SYMBOLS[begin : begin + length]
    whole = jax.device_get(draw_all(options, KEYS, 0))
    chunk = jax.device_get(draw_all(options, KEYS, begin, length, part))
    steps = [
        draw_all(options, KEYS, begin + n, None, symbols)
        for n, symbols in enumerate(part)
    ]
    for site, found in whole.items():
        single = np.stack([step[site] for step in steps])
        if site.startswith("weights"):
            np.testing.assert_array_equal(chunk[site], single[0])
        else:
            expected = np.broadcast_to(found, (T, *single.shape[1:]))
            expected = expected[begin : begin + length]
            for drawn in (single, np.broadcast_to(chunk[site], single.shape)):
                np.testing.assert_array_equal(drawn, expected)
        kept_for = lasts(site, options)
        if site == "embedding":
            continue
        for n, (one, other) in enumerate(itertools.pairwise(single), begin):
            same = kept_for is None or n // kept_for == (n + 1) // kept_for
            assert np.array_equal(one, other) == same, (site, n)


@pytest.mark.slow
def test_a_symbol_is_dropped_wherever_it_occurs():
    def run(**options):
        options = Dropout(embedding=0.5, **options)
        ones = jnp.ones((T, B, 2))
        return np.asarray(jit(lambda: drop_symbols(ones, SYMBOLS, options, KEYS, 0))())

    always, blocks, anew = (
        run(variational=True),
        run(variational=True, mask_steps=STEPS),
        run(),
    )
    for found in (always, blocks, anew):
        assert (found[..., 0] == found[..., 1]).all()
    alike = {"always": [], "blocks": [], "anew": []}
    for b, (s, t) in itertools.product(range(B), itertools.combinations(range(T), 2)):
        if SYMBOLS[s, b] != SYMBOLS[t, b]:
            continue
        assert always[s, b, 0] == always[t, b, 0]
        if s // STEPS == t // STEPS:
            assert blocks[s, b, 0] == blocks[t, b, 0]
        else:
            alike["blocks"].append(blocks[s, b, 0] == blocks[t, b, 0])
        alike["anew"].append(anew[s, b, 0] == anew[t, b, 0])
    assert not all(alike["blocks"]) and not all(alike["anew"])
    # Each example and each symbol has a draw of its own.
    table = {(b, SYMBOLS[t, b]): always[t, b, 0] for t in range(T) for b in range(B)}
    by_example = {tuple(table[b, s] for s in range(5)) for b in range(B)}
    assert len(by_example) > 1 and any(len(set(row)) > 1 for row in by_example)


def test_masks_of_weights_are_those_of_the_whole_batch(x64):
    options, params = Dropout(weights=0.5), draw_stack()[0][0]
    found = [
        drop_weights(params, 1, options, jax.tree.map(lambda k, n=n: k[n], KEYS))
        for n in (slice(None), slice(2, 3), 3)
    ]
    for each in found[1:]:
        assert_close(each, found[0], 0)
    nothing = noise.of_batch(jax.random.split(jax.random.key(0), 0), (0,))
    assert drop_weights(params, 1, options, nothing) is params


@pytest.mark.slow
def test_all_recurrent_weights_of_a_variant_are_dropped():
    rate, shapes = RATES["weights"], {"w_h": (H, 4 * H), "w_mh": (H, H)}
    shapes |= {"w_gates": (3 * H, 3 * H)}
    rest = {"w_x": (3, 4 * H), "peepholes": (3, H)}
    params = LSTMVariantParams(
        **{name: np.ones(shape, np.float32) for name, shape in (shapes | rest).items()}
    )
    found = drop_weights(params, 1, Dropout(weights=rate), KEYS)
    begin = []
    for name in shapes:
        w = np.asarray(getattr(found, name))
        # Of 256 draws and more, chance takes a share past 5.5 standard deviations about
        # once in 10 million keys.
        error = (w != 0).mean() - (1 - rate)
        assert abs(error) < 5.5 * np.sqrt(rate * (1 - rate) / w.size)
        np.testing.assert_allclose(w[w != 0], 1 / (1 - rate), rtol=1e-6)
        begin.append(tuple(w[0, :H]))
    # Masks of one key would begin alike.
    assert len(set(begin)) == 3
    assert all(getattr(found, name) is getattr(params, name) for name in rest)


EXPECTED = Dropout(zoneout_h=RATES["zoneout_h"], zoneout_c=RATES["zoneout_c"])


def test_without_a_key_zoneout_is_what_is_expected_and_all_else_off(x64):
    (params,), (state,), _ = draw_stack()
    inputs = draw_inputs()
    rates = {name: rate for name, rate in RATES.items() if "zoneout" not in name}
    rest = Dropout(**{**rates, "embedding": 0.0, "between": 0.0})

    @jit
    def run(state):
        return [
            lstm_stack((params,), inputs, (state,), dropout=options)
            for options in (EXPECTED, rest, Dropout())
        ]

    (found, off, plain), (h, c) = run(state), state
    assert_close(off, plain, 0)
    outputs = []
    for x in inputs:
        z = x @ params.w_x + h @ params.w_h + params.b
        i, f, g, o = np.split(z, 4, axis=-1)
        new = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = 0.25 * h + 0.75 * sigmoid(o) * np.tanh(new)
        c = 0.15 * c + 0.85 * new
        outputs.append(h)
    assert_close(found, ((LSTMState(h, c),), np.stack(outputs)))


def test_the_mean_over_all_patterns_is_the_evaluation(x64):
    """A step is linear in its masks: all 16 patterns of two units give its mean."""
    size, rates = 2, {"h": 0.25, "c": 0.15}
    rng = np.random.default_rng(3)
    state = LSTMState(*rng.normal(size=(2, size)))
    z = rng.normal(size=4 * size)
    masks = np.array(list(itertools.product((0.0, 1.0), repeat=2 * size)))
    stay = {"h": masks[:, :size], "c": masks[:, size:]}

    def step(stay):
        return update(LSTM_GATED, None, state, z, StepNoise(stay=stay))

    chances = np.prod(
        [np.where(stay[n] == 1, rates[n], 1 - rates[n]) for n in rates], axis=(0, 2)
    )
    each, expected = jit(
        lambda: (
            jax.vmap(step)(stay),
            step({name: np.full(size, rate) for name, rate in rates.items()}),
        )
    )()
    mean = jax.tree.map(lambda x: np.einsum("p,ph->h", chances, x), each)
    assert_close(mean, jax.tree.map(np.asarray, expected))


def test_what_is_remembered_stays_under_recurrent_dropout(x64):
    """With an open forget gate and a shut input gate, memory outlives all masks."""
    (params,), (state,), _ = draw_stack()
    size = state.c.shape[-1]
    shut = np.repeat([-1e3, 1e3, 0.0, 0.0], size)
    params = params._replace(b=shut)
    inputs = np.random.default_rng(4).normal(size=(50, *draw_inputs().shape[1:]))
    options = {"dropout": Dropout(recurrent=0.9), "key": jax.random.key(0)}
    run = jit(lambda state: lstm_stack((params,), inputs, state, **options))
    (last,), _ = run((state,))
    assert_close(np.asarray(last.c), state.c, 0)
