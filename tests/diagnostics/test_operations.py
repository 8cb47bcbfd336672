import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import jaxlstm
from jaxlstm.cells import make_lstm
from jaxlstm.diagnostics.operations import Operations, count_operations
from jaxlstm.estimators import ESTIMATORS, Segment
from jaxlstm.model import make_model
from tests.helpers import jit

B, X, H, Y = 2, 3, 4, 2
OPTIONS = {
    "tbptt": {"horizon": 4, "stride": 2},
    "artbp": {"p": 0.1},
    "h_detach": {"p": 0.25},
    "clipped_bptt": {"z": 0.1},
    "pes": {"num_particles": 4, "sigma": 0.1},
}


def shape(*axes, dtype="float32"):
    return jax.ShapeDtypeStruct(axes, dtype)


def count(function, *arguments):
    found = count_operations(function, *arguments)
    assert found.flops is not None and found.unknown == ()
    return found.flops


def test_products():
    assert count(jnp.matmul, shape(3, 4), shape(4, 5)) == 2 * 3 * 4 * 5
    batched = functools.partial(jnp.einsum, "bmk,bnk->bmn")
    assert count(batched, shape(7, 3, 4), shape(7, 5, 4)) == 2 * 7 * 3 * 4 * 5
    # 9 outputs of 4 channels, each a sum over 3 x 5 weights; then in 2 groups, where
    # each is one over 3 x 3.
    convolve = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(1,), padding="VALID"
    )
    assert count(convolve, shape(2, 5, 11), shape(4, 5, 3)) == 2 * 2 * 9 * 4 * 15
    grouped = functools.partial(convolve, feature_group_count=2)
    assert count(grouped, shape(2, 6, 11), shape(4, 3, 3)) == 2 * 2 * 9 * 4 * 9


def test_entries_and_sums():
    x, n = shape(3, 4), shape(3, 4, dtype="int32")
    assert count(lambda x: jnp.tanh(x) / x - 1, x) == 3 * 12
    assert count(jnp.sum, x) == 11
    assert count(lambda x: jnp.sum(x, axis=0), x) == 8
    assert count(lambda x: jnp.cumsum(x, axis=0), x) == 8
    assert count(lambda x: jnp.zeros(5).at[jnp.array([1, 1])].add(x[0, :2]), x) == 2
    # Integers, comparing, moving.
    assert count(lambda n: n * n + 1, n) == 0
    assert count(lambda x: jnp.where(x > 0, x, jnp.max(x)).T.reshape(-1)[::-1], x) == 0


def test_a_cross_entropy_of_symbols_is_counted():
    def loss(table, logits, symbols):
        logits = logits + table[symbols]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(6), symbols])

    symbols = shape(6, dtype="int32")
    assert count(jax.grad(loss), shape(9, 5), shape(6, 5), symbols) > 6 * 5


def test_what_is_not_used_is_not_counted():
    def run(x):
        y, _ = jax.lax.scan(lambda y, _: (y + 1, jnp.tanh(y)), x, length=5)
        return y

    assert count(run, shape(3)) == 5 * 3


def custom_jvp(function):
    wrapped = jax.custom_jvp(function)
    wrapped.defjvp(lambda primals, tangents: (function(*primals), tangents[0]))
    return wrapped


def custom_vjp(function):
    wrapped = jax.custom_vjp(function)
    wrapped.defvjp(lambda x: (function(x), None), lambda _, v: (v,))
    return wrapped


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, custom_jvp, custom_vjp])
def test_calls_are_entered(wrap):
    assert count(wrap(lambda x: jnp.sin(x) * x), shape(3)) == 6


def test_devices_each_count():
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    rows = PartitionSpec("batch")
    mapped = jax.shard_map(jnp.sin, mesh=mesh, in_specs=rows, out_specs=rows)
    assert count(mapped, shape(6)) == 6


def test_branches_count_as_the_dearest():
    branches = [lambda x: x, lambda x: x * x, lambda x: x + x * x]

    def run(n, x):
        return jax.lax.switch(n, branches, x)

    assert count(run, shape(dtype="int32"), shape(3)) == 6


def loop(first, last, x):
    def body(n, x):
        return x * x + x

    return jax.lax.fori_loop(first, last, body, x)


def test_a_loop_with_known_bounds_is_counted():
    assert count(loop, np.int32(2), np.int32(9), shape(3)) == 7 * 2 * 3
    assert count(loop, np.int32(9), np.int32(2), shape(3)) == 0

    @jax.jit
    def from_arithmetic(n, x):
        return loop(n // 3, -(-n // 2) + jnp.where(n > 3, 1, 0), x)

    # From -7 // 3 = -3 to -3, and from 3 to 6.
    assert count(from_arithmetic, np.int32(-7), shape(3)) == 0
    assert count(from_arithmetic, np.int32(10), shape(3)) == 3 * 2 * 3


@pytest.mark.parametrize(
    ("function", "first"),
    [
        (loop, shape(dtype="int32")),
        # In steps of two; while there is something left; up to what the loop changes.
        (
            lambda first, _, x: jax.lax.while_loop(
                lambda c: c[0] < 9, lambda c: (c[0] + 2, c[1] * 2), (first, x)
            ),
            np.int32(0),
        ),
        (
            lambda first, _, x: jax.lax.while_loop(
                lambda x: jnp.sum(x) < 9, lambda x: x * 2, x
            ),
            np.int32(0),
        ),
        (
            lambda first, last, x: jax.lax.while_loop(
                lambda c: c[0] < c[1], lambda c: (c[0] + 1, c[1] + c[0] // 2, c[2] * 2),
                (first, last, x),
            ),
            np.int32(0),
        ),
    ],
)  # fmt: skip
def test_another_loop_has_no_figure(function, first):
    found = count_operations(function, first, np.int32(9), shape(3))
    assert found == Operations(None, ("while",))


def test_a_primitive_that_is_not_known_is_named():
    found = count_operations(lambda x: jnp.linalg.eigh(x)[0] + 1, shape(3, 3))
    assert found == Operations(None, ("eigh",))


def test_xla_counts_the_body_of_a_scan_once():
    def run(xs):
        return jax.lax.scan(lambda h, x: (jnp.tanh(h @ x), None), jnp.ones((2, 16)), xs)

    def by_xla(steps):
        compiled = jit(run).lower(shape(steps, 16, 16)).compile()
        return compiled.cost_analysis()["flops"]

    def ours(steps):
        return count(run, shape(steps, 16, 16))

    assert ours(8) == 8 * (2 * 2 * 16 * 16 + 2 * 16) == 2 * ours(4)
    assert by_xla(4) == by_xla(8) < ours(8) / 4


def test_a_layer_by_hand():
    """Operations of a step of the LSTM, forward and in reverse.

    Forward, products and entries: x W_x takes 8BXH and h W_h 8BHH. Two sums of [B, 4H]
    make z, and its four gates are one tanh, a h + 1 - a of it, and a product in it:
    7 x 4BH. c' = f c + i g and h' = o tanh(c') are 3BH and 2BH.

    In reverse twice the products: dz W_x^T and x^T dz, dz W_h^T and h^T dz. By entry
    there are the slopes of four gates and of tanh(c'), and the terms of dh and dc: some
    60BH. Those of both ways are under a fiftieth of the products here.
    """
    steps, batch, inputs, hidden = 6, 4, 96, 128
    params = jax.eval_shape(
        lambda: jaxlstm.init_lstm(jax.random.key(0), inputs, hidden)
    )
    xs = shape(steps, batch, inputs)

    def forward(params, xs):
        return jaxlstm.lstm(params, xs)[1]

    def both(params, xs):
        return jax.vjp(forward, params, xs)[1](jnp.ones((steps, batch, hidden)))

    products = 8 * batch * hidden * (inputs + hidden)
    by_hand = steps * (products + 33 * batch * hidden)
    assert count(forward, params, xs) == by_hand
    assert count(both, params, xs) == pytest.approx(3 * steps * products, rel=0.1)
    assert count(both, params, xs) > 3 * steps * products


def estimate_of(name, steps, num_steps=None, **options):
    model = make_model(make_lstm(), input_size=X, hidden_size=H, output_size=Y)
    estimator = ESTIMATORS[name](
        model,
        lambda prediction, target: jnp.sum((prediction - target) ** 2, axis=-1),
        **options or OPTIONS.get(name, {}),
    )
    params = jax.eval_shape(model.init, jax.random.key(0))
    state = jax.eval_shape(
        lambda params, key: estimator.init(params, (B,), key),
        params,
        jax.random.key(0),
    )
    if num_steps is not None and hasattr(state, "num_steps"):
        state = state._replace(num_steps=np.int32(num_steps))
    segment = Segment(shape(steps, B, X), shape(steps, B, Y))
    return count_operations(estimator.estimate, params, state, segment)


QUICK = ("bptt",)
# RFLO is for another cell.
SLOW = [name for name in ESTIMATORS if name not in (*QUICK, "rflo")]


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_estimators_are_linear_in_time(name):
    found = [estimate_of(name, steps, num_steps=0) for steps in (8, 16, 24)]
    first, second, third = (each.flops for each in found if each.flops)
    assert third - second == second - first > 0


def test_windows_of_truncation_are_counted():
    def flops(start):
        found = estimate_of("tbptt", 8, start, horizon=4, stride=4).flops
        assert found is not None
        return found

    # Steps 0 to 7 are two windows, 2 to 9 three, and 1 to 8 three.
    assert flops(0) == flops(4)
    assert flops(2) == flops(1)
    assert (flops(2) - flops(0)) == pytest.approx(flops(0) / 2, rel=0.01)
    unknown = estimate_of("tbptt", 8, horizon=4, stride=4)
    assert unknown == Operations(None, ("while",))


def test_a_fixed_point_has_no_figure():
    model = make_model(
        make_lstm(), input_size=X, hidden_size=H, output_size=Y, engine="deer"
    )
    params = jax.eval_shape(model.init, jax.random.key(0))

    def run(params, inputs):
        state = model.initial_state(params, (B,))
        return model.unroll(params.recurrent, state, inputs)

    found = count_operations(run, params, shape(5, B, X))
    assert found == Operations(None, ("while",))
