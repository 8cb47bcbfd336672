"""`ScannedLSTM` of nnx against that of linen, and as nnx wants it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlstm import LSTMParams, LSTMState
from jaxlstm.flax import linen
from jaxlstm.flax.nnx import ScannedLSTM
from tests.helpers import assert_close, draw_like, jit

T, B, X, H = 6, 3, 2, 4
LARGE = "uniform_08"


def build(hidden_size: int | None = H, **options: Any) -> ScannedLSTM:
    return ScannedLSTM(
        X, hidden_size, rngs=nnx.Rngs(0), **{"initializer": LARGE, **options}
    )


def test_equals_that_of_linen(x64):
    """Outputs, carry, and derivatives by weights, carry and inputs."""
    rng = np.random.default_rng(0)
    inputs, resets = rng.normal(size=(T, B, X)), rng.random((T, B)) < 0.3
    carry = draw_like(ScannedLSTM.initialize_carry(B, H), 1)
    shapes = LSTMParams(*map(np.zeros, ((X, 4 * H), (H, 4 * H), (4 * H,))))
    weights = draw_like(shapes, 2)

    def by_nnx(weights: Any, carry: Any, inputs: Any) -> Any:
        layer = nnx.eval_shape(lambda: build(param_dtype=jnp.float64))
        graph, _ = nnx.split(layer)
        layer = nnx.merge(graph, nnx.State(weights._asdict()))
        return layer(carry, (inputs, resets))

    def by_linen(weights: Any, carry: Any, inputs: Any) -> Any:
        layer = linen.ScannedLSTM(H, param_dtype=jnp.float64)
        return layer.apply({"params": weights._asdict()}, carry, (inputs, resets))

    def gradients(run: Any) -> Any:
        def loss(*arguments: Any) -> Any:
            carry, outputs = run(*arguments)
            return jnp.sum(outputs**3) + jnp.sum(carry.c * carry.h), (carry, outputs)

        return jax.grad(loss, (0, 1, 2), has_aux=True)(weights, carry, inputs)

    assert_close(*jit(lambda: [gradients(run) for run in (by_nnx, by_linen)])())


@pytest.mark.slow
def test_is_drawn_and_trained_as_nnx_does():
    x = np.ones((T, B, X), np.float32), np.zeros((T, B))

    @nnx.jit
    def train() -> Any:
        layer = build(forget_bias=2.0, compute_dtype=jnp.bfloat16, remat="step")
        carry = layer.initialize_carry(B, H)
        before = nnx.to_pure_dict(nnx.state(layer))

        def loss(layer: ScannedLSTM) -> Any:
            return jnp.sum(layer(carry, x)[1])

        gradient = nnx.to_pure_dict(nnx.grad(loss)(layer))
        program = str(jax.make_jaxpr(lambda inputs: layer(carry, (inputs, None)))(x[0]))
        assert "bf16" in program
        return before, gradient

    before, gradient = jax.device_get(train())
    assert before.keys() == gradient.keys() == {"w_x", "w_h", "b"}
    by_gate = before["b"].reshape(4, H)
    np.testing.assert_array_equal(by_gate[1], 2)
    drawn = before["w_x"], before["w_h"], np.delete(by_gate, 1, axis=0)
    drawn = np.concatenate([block.ravel() for block in drawn])
    assert np.abs(drawn).max() < 0.08
    assert len(np.unique(drawn)) == drawn.size
    assert all(np.abs(leaf).max() > 0 for leaf in gradient.values())


CARRY = ScannedLSTM.initialize_carry(B, X)
INPUTS, RESETS = np.ones((T, B, X), np.float32), np.zeros((T, B))
WRONG = {
    "carry of Flax": ({"carry": (CARRY.c, CARRY.h)}, "carry: is a tuple of 2; give L"),
    "size of the carry": (
        {"carry": LSTMState(CARRY.h[:1], CARRY.c[:1])},
        "carry.h: shape (1, 2) is not (3, 2), which is [..., H]",
    ),
    "no resets": ({"x": INPUTS}, "x: is an array of shape (6, 3, 2); give (inputs"),
    "no time": ({"x": (INPUTS[0, 0], RESETS[0, 0])}, "inputs: shape (2,) does not fit"),
    "another size": (
        {"x": (np.ones((T, B, X + 1), np.float32), RESETS)},
        "inputs: shape (6, 3, 3) does not fit [T, ..., X]",
    ),
    "no features": ({"size": 0}, "hidden_features: value is 0; give 1 or more, or Non"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_gets_one_line(name):
    wrong, message = WRONG[name]
    given = {"carry": CARRY, "x": (INPUTS, RESETS), "size": None} | wrong
    with pytest.raises(ValueError) as caught:
        nnx.eval_shape(lambda: build(given["size"])(given["carry"], given["x"]))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
