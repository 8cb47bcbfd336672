"""The backward pass by hand: against autodiff, differences, and its own definitions."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import LSTMParams, LSTMState, lstm, lstm_cell, textbook
from jaxlstm.textbook import TextbookReadout
from tests.helpers import assert_close, jit

T, B, X, H, Y = 4, 3, 5, 6, 2
LOSSES = ["squared_error", "softmax_cross_entropy"]


def draws(seed):
    """Returns a function of a shape that draws from the normal distribution."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Any:
        return rng.normal(size=shape)

    return draw


def make_arguments(steps=T, batch=(B,), seed=0):
    """Returns params, readout, inputs and state, in float64."""
    draw = draws(seed)
    params = LSTMParams(draw(X, 4 * H), draw(H, 4 * H), draw(4 * H))
    readout = TextbookReadout(draw(H, Y), draw(Y))
    state = LSTMState(draw(*batch, H), draw(*batch, H))
    return params, readout, draw(steps, *batch, X), state


def make_targets(loss, steps=T, batch=(B,), seed=1):
    rng = np.random.default_rng(seed)
    if loss == "squared_error":
        return rng.normal(size=(steps, *batch, Y))
    return rng.integers(Y, size=(steps, *batch))


def make_weights(steps=T, batch=(B,), seed=2):
    """Returns weights that differ from step to step and example to example, some 0."""
    weights = np.random.default_rng(seed).uniform(0.5, 2.0, size=(steps, *batch))
    weights[steps // 2, ..., -1] = 0
    return weights


def run_textbook(arguments, targets, **options):
    params, readout, inputs, state = arguments
    cache = textbook.forward(params, readout, inputs, state)
    return cache, textbook.backward(params, readout, cache, targets, **options)


def losses_of(prediction, targets, loss):
    """Returns the loss of each example, [T, ...]."""
    if loss == "squared_error":
        return jnp.sum((prediction - targets) ** 2, axis=-1) / 2
    log_q = jax.nn.log_softmax(prediction)
    return -jnp.take_along_axis(log_q, targets[..., None], axis=-1)[..., 0]


def affine(v, w, b):
    product = v @ w
    return product + jnp.broadcast_to(b, product.shape)


def outputs_by_library(params, inputs, state):
    return lstm(params, inputs, state)[1]


def outputs_by_loop(params, inputs, state):
    outputs = []
    for x in inputs:
        state, output = lstm_cell(params, state, x)
        outputs.append(output)
    return jnp.stack(outputs)


@functools.cache
def compiled(function, **options):
    """Returns a function of these options, compiled; the same one for the same."""
    return jit(functools.partial(function, **options))


def step_by_library(params, readout, state, x):
    """Returns the next state, the gates, tanh(c) and the prediction."""
    z = affine(x, params.w_x, params.b) + state.h @ params.w_h
    i, f, g, o = jnp.split(z, 4, axis=-1)
    gates = [jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)]
    state, _ = lstm_cell(params, state, x)
    return state, gates, jnp.tanh(state.c), affine(state.h, *readout)


def oracle(arguments, targets, weights, *, run, loss):
    """Returns the loss of each step and the prediction, and all gradients."""

    def total(params, readout, inputs, state):
        prediction = affine(run(params, inputs, state), *readout)
        weighted = weights * losses_of(prediction, targets, loss)
        step_losses = weighted.reshape(len(inputs), -1).sum(1)
        return step_losses.sum(), (step_losses, prediction)

    grad = jax.value_and_grad(total, argnums=(0, 1, 2, 3), has_aux=True)
    (_, values), grads = grad(*arguments)
    return values, grads


def gradients_by_perturbation(arguments, targets, weights, *, loss):
    """Returns the gradients by what is added to z, c, h and the prediction of a step.

    They are the deltas: a change of h_t, say, reaches the loss of step t and of all
    later ones, and none before.
    """
    params, readout, inputs, state = arguments
    axes = inputs.shape[:-1]

    def total(added):
        h, c = state
        predictions = []
        for x, dz, dc, dh, dp in zip(inputs, *added, strict=True):
            z = affine(x, params.w_x, params.b) + h @ params.w_h + dz
            i, f, g, o = jnp.split(z, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g) + dc
            h = jax.nn.sigmoid(o) * jnp.tanh(c) + dh
            predictions.append(affine(h, *readout) + dp)
        losses = losses_of(jnp.stack(predictions), targets, loss)
        return jnp.sum(weights * losses)

    zeros = tuple(jnp.zeros((*axes, size)) for size in (4 * H, H, H, Y))
    return jax.grad(total)(zeros)


def rest_of_sequence(arguments, cache, targets, weights):
    """Returns, for every step t, L(t+1) and its gradient by the state (h_t, c_t)."""
    params, readout, inputs, _ = arguments

    def to_come(state, t):
        prediction = affine(outputs_by_loop(params, inputs[t:], state), *readout)
        losses = losses_of(prediction, targets[t:], "softmax_cross_entropy")
        return jnp.sum(weights[t:] * losses)

    states = [LSTMState(cache.h[t], cache.c[t]) for t in range(len(inputs) - 1)]
    found = [jax.value_and_grad(to_come)(s, t + 1) for t, s in enumerate(states)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("steps", [1, T])
@pytest.mark.parametrize("run", [outputs_by_library, outputs_by_loop])
def test_values_and_gradients_equal_autodiff(x64, run, steps, loss):
    arguments, targets = make_arguments(steps), make_targets(loss, steps)

    for weights in (None, make_weights(steps)):
        cache, found = run_textbook(arguments, targets, loss=loss, weights=weights)
        factors = np.ones((steps, B)) if weights is None else weights
        values, grads = compiled(oracle, run=run, loss=loss)(
            arguments, targets, factors
        )

        assert_close((found.loss, cache.prediction), values)
        assert_close(
            (found.params, found.readout, found.delta_x, found.initial_state), grads
        )


def test_every_cache_is_what_the_cell_computes(x64):
    arguments = make_arguments()
    params, readout, inputs, state = arguments
    cache = textbook.forward(*arguments)

    for t in range(T):
        state, gates, *rest = compiled(step_by_library)(
            params, readout, state, inputs[t]
        )

        assert_close([cache.i[t], cache.f[t], cache.g[t], cache.o[t]], gates)
        assert_close((cache.h[t], cache.c[t]), tuple(state))
        assert_close([cache.tanh_c[t], cache.prediction[t]], rest)
    np.testing.assert_array_equal(cache.inputs, inputs)
    assert_close(cache.initial_state, arguments[3], tolerance=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_delta_is_the_gradient_by_its_own_quantity(x64, loss):
    arguments, targets, weights = make_arguments(), make_targets(loss), make_weights()

    _, found = run_textbook(arguments, targets, loss=loss, weights=weights)
    perturb = compiled(gradients_by_perturbation, loss=loss)
    dz, dc, dh, dp = perturb(arguments, targets, weights)

    gates = found.delta_i, found.delta_f, found.delta_g, found.delta_o
    assert_close(gates, tuple(jnp.split(dz, 4, axis=-1)))
    assert_close((found.delta_c, found.delta_h, found.delta_prediction), (dc, dh, dp))


def test_loss_to_come_is_that_of_the_rest_of_the_sequence(x64):
    loss = "softmax_cross_entropy"
    arguments, targets, weights = make_arguments(), make_targets(loss), make_weights()

    cache, found = run_textbook(arguments, targets, loss=loss, weights=weights)
    rest = compiled(rest_of_sequence)
    to_come, by_state = rest(arguments, cache, targets, weights)

    assert_close(found.loss_to_come[1:], to_come)
    later = found.delta_h_later[:-1], found.delta_c_later[:-1]
    assert_close(later, tuple(by_state))


@pytest.mark.parametrize("loss", LOSSES)
def test_parts_add_up(loss):
    weights = make_weights()
    cache, found = run_textbook(
        make_arguments(), make_targets(loss), loss=loss, weights=weights
    )

    later = np.append(found.loss_to_come[1:], 0)
    np.testing.assert_array_equal(found.loss_to_come, found.loss + later)
    np.testing.assert_array_equal(
        found.delta_h, found.delta_h_now + found.delta_h_later
    )
    by_way_of_h = found.delta_h * cache.o * (1 - cache.tanh_c**2)
    assert_close(found.delta_c, by_way_of_h + found.delta_c_later)
    assert not found.delta_h_later[-1].any()
    assert not found.delta_c_later[-1].any()
    assert not found.delta_h_now[weights == 0].any()
    assert found.delta_h_later[weights == 0].all()


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_equals_central_differences(loss):
    arguments, targets, weights = make_arguments(), make_targets(loss), make_weights()
    options = {"loss": loss, "weights": weights}
    leaves, structure = jax.tree.flatten(arguments)

    def total(leaves):
        moved = jax.tree.unflatten(structure, leaves)
        return run_textbook(moved, targets, **options)[1].loss_to_come[0]

    _, found = run_textbook(arguments, targets, **options)
    grads = found.params, found.readout, found.delta_x, found.initial_state
    rng = np.random.default_rng(3)
    step = 1e-5
    for _ in range(4):
        direction = [rng.normal(size=leaf.shape) for leaf in leaves]
        ahead = [v + step * d for v, d in zip(leaves, direction, strict=True)]
        behind = [v - step * d for v, d in zip(leaves, direction, strict=True)]
        difference = (total(ahead) - total(behind)) / (2 * step)
        slope = sum(
            np.sum(g * d)
            for g, d in zip(jax.tree.leaves(grads), direction, strict=True)
        )
        # The square of the step times a third derivative, and rounding over the step.
        np.testing.assert_allclose(slope, difference, rtol=1e-7)


def test_examples_are_independent_whatever_the_batch_axes():
    weights = make_weights(batch=(2, 3))
    arguments = params, readout, inputs, state = make_arguments(batch=(2, 3))
    targets = make_targets("squared_error", batch=(2, 3))
    _, whole = run_textbook(arguments, targets, weights=weights)

    total = jax.tree.map(np.zeros_like, (whole.params, whole.readout))
    for n in np.ndindex(2, 3):
        here = (slice(None), *n)
        alone = params, readout, inputs[here], LSTMState(*(v[n] for v in state))
        cache, one = run_textbook(alone, targets[here], weights=weights[here])
        assert cache.h.shape == (T, H)
        assert_close(one.delta_x, whole.delta_x[here])
        assert_close(one.delta_h, whole.delta_h[here])
        total = jax.tree.map(np.add, total, (one.params, one.readout))
    assert_close((whole.params, whole.readout), total)


def test_weights_broadcast_from_the_left():
    # As many steps as examples, so that the wrong side would fit too.
    arguments, targets = make_arguments(steps=B), make_targets("squared_error", B)
    weights = np.arange(1.0, B + 1)

    _, found = run_textbook(arguments, targets, weights=weights)
    _, expected = run_textbook(arguments, targets, weights=np.tile(weights, (B, 1)).T)

    assert_close(found, expected, tolerance=0)


def test_state_is_zero_by_default():
    params, readout, inputs, state = make_arguments()
    zeros = jax.tree.map(np.zeros_like, state)
    default = textbook.forward(params, readout, inputs)
    assert_close(default, textbook.forward(params, readout, inputs, zeros), tolerance=0)


def test_no_sequence_depends_on_the_one_before():
    params, readout, inputs, _ = make_arguments()
    first, again = (textbook.forward(params, readout, inputs) for _ in range(2))
    assert_close(again, first, tolerance=0)


def test_float32_arrays_of_jax_are_computed_in_float64():
    single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), make_arguments())
    double = jax.tree.map(lambda x: np.asarray(x, np.float64), single)
    targets = make_targets("squared_error")

    found, expected = run_textbook(single, targets), run_textbook(double, targets)

    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float64)}
    assert_close(found, expected, tolerance=0)


def test_saturated_gates_and_confident_predictions_stay_finite():
    params, readout, inputs, state = make_arguments()
    arguments = params, readout._replace(w=1e4 * readout.w), 1e4 * inputs, state
    targets = make_targets("softmax_cross_entropy")
    cache, found = run_textbook(arguments, targets, loss="softmax_cross_entropy")

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((cache, found)))
    assert found.loss_to_come[0] > 1e3


def test_gates_at_their_extremes():
    table = textbook.gate_table()

    settings = [(row.i, row.f, row.o) for row in table]
    assert settings == sorted(set(settings)) and len(settings) == 8
    memories = {(0, 0): "erases", (0, 1): "keeps", (1, 0): "overwrites", (1, 1): "adds"}
    for row in table:
        assert row.memory == memories[row.i, row.f]
        assert row.output == ("shown" if row.o else "hidden")


def test_nothing_happens_in_no_time():
    arguments = make_arguments(steps=0)
    cache, found = run_textbook(arguments, make_targets("squared_error", steps=0))

    assert cache.h.shape == (0, B, H)
    gradients = found.params, found.readout, found.initial_state
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": np.zeros((T, B, X + 1))}, r"inputs: .*\(4, 3, 6\).*\[T, ..., X\]"),
        ({"w_x": np.zeros((X, H))}, r"params.w_x: .*\(5, 6\).*\(5, 24\).*\[X, 4H\]"),
        ({"w_h": np.zeros((H, H))}, r"params.w_h: .*\(6, 6\).*\(6, 24\).*\[H, 4H\]"),
        ({"b": np.zeros(H)}, r"params.b: .*\(6,\).*\(24,\).*\[4H\]"),
        ({"w": np.zeros((Y, H))}, r"readout.w: .*\(2, 6\).*\(6, 2\).*\[H, Y\]"),
        ({"b_p": np.zeros((Y, 1))}, r"readout.b: .*\(2, 1\).*\(2,\).*\[Y\]"),
        ({"h": np.zeros(H)}, r"state.h: .*\(6,\).*\(3, 6\).*\[..., H\]"),
        ({"c": np.zeros((H, B))}, r"state.c: .*\(6, 3\).*\(3, 6\).*\[..., H\]"),
    ],
)
def test_forward_refuses_shapes_that_do_not_fit(change, message):
    params, readout, inputs, state = make_arguments()
    fields = params._asdict() | state._asdict() | {"inputs": inputs}
    fields |= {"w": readout.w, "b_p": readout.b} | change

    with pytest.raises(ValueError, match=message):
        textbook.forward(
            LSTMParams(fields["w_x"], fields["w_h"], fields["b"]),
            TextbookReadout(fields["w"], fields["b_p"]),
            fields["inputs"],
            LSTMState(fields["h"], fields["c"]),
        )


CLASSES = np.zeros((T, B), int)


@pytest.mark.parametrize(
    ("loss", "targets", "weights", "error", "message"),
    [
        ("hinge", CLASSES, None, ValueError, "loss: 'hinge'.*'squared_error'"),
        (LOSSES[0], CLASSES, None, ValueError, r"targets: .*\(4, 3\).*\(4, 3, 2\)"),
        (LOSSES[1], CLASSES[0], None, ValueError, r"targets: .*\(3,\).*\(4, 3\)"),
        (LOSSES[1], CLASSES + Y, None, ValueError, r"targets: 2 .*0\.\.Y-1 = 1"),
        (LOSSES[1], CLASSES - 1, None, ValueError, r"targets: -1 .*0\.\.Y-1 = 1"),
        (LOSSES[1], CLASSES + 0.5, None, TypeError, "targets: dtype float64"),
        (LOSSES[1], CLASSES, np.ones(B), ValueError, r"weights: .*\(3,\).*\(4, 3\)"),
    ],
)
def test_backward_refuses_what_does_not_fit(loss, targets, weights, error, message):
    with pytest.raises(error, match=message):
        run_textbook(make_arguments(), targets, loss=loss, weights=weights)


def test_backward_refuses_the_cache_of_another_net():
    params, readout, inputs, state = make_arguments()
    cache = textbook.forward(params, readout, inputs, state)
    targets = make_targets("squared_error")
    draw = draws(4)
    wider = params._replace(w_x=draw(X + 1, 4 * H))
    three = TextbookReadout(draw(H, 3), draw(3))

    with pytest.raises(ValueError, match=r"cache.inputs: .*\(4, 3, 5\).*\(4, 3, 6\)"):
        textbook.backward(wider, readout, cache, targets)
    with pytest.raises(
        ValueError, match=r"cache.prediction: .*\(4, 3, 2\).*\(4, 3, 3\)"
    ):
        textbook.backward(params, three, cache, targets)
