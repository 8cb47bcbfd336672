"""`RNN` and `LSTM` called as Flax's own are: outputs, carries, gradients, bad input."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.nnx import Rngs

from jaxlstm import LSTMState
from jaxlstm.flax import linen, nnx
from tests.helpers import assert_close, draw_like, jit

B, T, X, H = 3, 6, 2, 4
ZEROS = jax.nn.initializers.zeros
CELLS = "LSTMCell", "OptimizedLSTMCell"


class Pair(NamedTuple):
    """One layer in both libraries, as functions of (weights, inputs, **call)."""

    weights: Any
    ours: Callable[..., Any]
    flax: Callable[..., Any]


def make_linen(cell: str = "OptimizedLSTMCell", rnn: Any = None, **options: Any) -> Any:
    options = {
        "recurrent_kernel_init": ZEROS,
        "param_dtype": jnp.result_type(float),
        **options,
    }

    def run(package: Any, weights: Any, inputs: Any, **call: Any) -> Any:
        layer = package.RNN(getattr(package, cell)(H, **options), **(rnn or {}))
        return layer.apply(weights, inputs, **call)

    layer = flax.linen.RNN(getattr(flax.linen, cell)(H, **options))
    x = jnp.ones((T, X), options["param_dtype"])
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    ours, theirs = (functools.partial(run, p) for p in (linen, flax.linen))
    return Pair(draw_like(shapes, 0), ours, theirs)


def make_nnx(cell: str = "OptimizedLSTMCell", rnn: Any = None, **options: Any) -> Any:
    dtype = jnp.result_type(float)
    options = {
        "kernel_init": ZEROS,
        "recurrent_kernel_init": ZEROS,
        "param_dtype": dtype,
        **options,
    }

    def build(package: Any) -> Any:
        made = getattr(package, cell)(X, H, rngs=Rngs(0), **options)
        return flax.nnx.split(package.RNN(made, **(rnn or {})), flax.nnx.Param, ...)

    def run(package: Any, weights: Any, inputs: Any, **call: Any) -> Any:
        graph, _, rest = build(package)
        return flax.nnx.merge(graph, weights, rest)(inputs, **call)

    weights = draw_like(flax.nnx.to_pure_dict(build(flax.nnx)[1]), 0)
    ours, theirs = (functools.partial(run, p) for p in (nnx, flax.nnx))
    return Pair(flax.nnx.State(weights), ours, theirs)


MAKERS = {"linen": make_linen, "nnx": make_nnx}
# One of them is quick; they share all but how weights are found.
BOTH = ["linen", pytest.param("nnx", marks=pytest.mark.slow)]


def draw_call(
    batch: tuple[int, ...], *, lengths: bool, carry: bool, **order: bool
) -> tuple[Any, dict[str, Any]]:
    """Returns inputs and keywords of a call."""
    rng = np.random.default_rng(1)
    shape = (T, *batch, X) if order.get("time_major") else (*batch, T, X)
    call: dict[str, Any] = dict(order)
    if lengths:
        call["seq_lengths"] = rng.integers(1, T + 1, batch)
    if carry:
        call["initial_carry"] = tuple(rng.normal(size=(2, *batch, H)))
    return rng.normal(size=shape), call


def gradients(run: Callable[..., Any], weights: Any, inputs: Any, call: Any) -> Any:
    """Returns what comes out, and derivatives by all that may have one."""
    given = call.get("initial_carry")

    def loss(weights: Any, inputs: Any, carry: Any) -> Any:
        more = {} if carry is None else {"initial_carry": carry}
        (c, h), outputs = run(weights, inputs, **{**call, **more}, return_carry=True)
        return jnp.sum(outputs**3) + jnp.sum(c * h), (c, h, outputs)

    argnums = (0, 1) if given is None else (0, 1, 2)
    return jax.grad(loss, argnums, has_aux=True)(weights, inputs, given)


QUICK = {
    "linen": draw_call(
        (B,), lengths=True, carry=True, reverse=True, keep_order=True, time_major=False
    ),
    "nnx": draw_call(
        (B,), lengths=True, carry=False, reverse=True, keep_order=False, time_major=True
    ),
}


@pytest.mark.parametrize("name", BOTH)
def test_equals_flax(x64, name):
    inputs, call = QUICK[name]
    pair = MAKERS[name]()
    ours, theirs = jit(
        lambda: [gradients(run, pair.weights, inputs, call) for run in pair[1:]]
    )()
    assert_close(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "batch", "stride"),
    [("linen", (B,), 1), ("linen", (), 5), ("nnx", (B,), 5), ("nnx", (), 7)],
)
def test_every_call_equals_flax(x64, name, batch, stride):
    """All combinations of the options; elsewhere some, in which each is on and off."""
    pair = MAKERS[name]()
    names = "lengths", "carry", "reverse", "keep_order", "time_major"
    every = itertools.product((False, True), repeat=len(names))
    options = [dict(zip(names, flags, strict=True)) for flags in every][::stride]
    calls = [draw_call(batch, **chosen) for chosen in options]

    def run_all(run: Any) -> Any:
        return [
            run(pair.weights, inputs, return_carry=True, **call)
            for inputs, call in calls
        ]

    ours, theirs = jit(lambda: [run_all(run) for run in pair[1:]])()
    for chosen, a, b in zip(options, ours, theirs, strict=True):
        try:
            assert_close(a, b)
        except AssertionError as error:
            raise AssertionError(f"{chosen}: {error}") from error


@pytest.mark.parametrize("name", BOTH)
def test_attributes_and_what_overrides_them(name):
    """An attribute is what the call does not say; nothing is computed here."""
    rnn = {"reverse": True, "keep_order": True, "time_major": True}
    rnn["return_carry"] = True
    pair = MAKERS[name](rnn=rnn)
    plain = MAKERS[name]()
    inputs = np.ones((T, B, X), np.float32)
    off = dict.fromkeys(rnn, False)

    def trace(run: Any, weights: Any, inputs: Any, **call: Any) -> str:
        function = functools.partial(run, **call)
        return str(jax.make_jaxpr(function)(weights, inputs))

    set_on = trace(pair.ours, pair.weights, inputs)
    assert set_on == trace(plain.ours, plain.weights, inputs, **rnn)
    batch_major = np.ones((B, T, X), np.float32)
    set_off = trace(pair.ours, pair.weights, batch_major, **off)
    assert set_off == trace(plain.ours, plain.weights, batch_major)
    assert "rev[" in set_on
    assert "rev[" not in set_off
    # It is the rule that runs, and not a scan that autodiff goes through.
    assert "gated_scan" in set_on
    assert "gated_scan" not in trace(pair.flax, pair.weights, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_lengths_of_two_batch_axes(x64, name):
    """Flax's own carry is of one batch axis; folded into one, all of it agrees."""
    pair = MAKERS[name]()
    inputs, call = draw_call((2, B), lengths=True, carry=True, reverse=True)
    call["return_carry"] = True

    def fold(x: Any) -> Any:
        return x.reshape(2 * B, *x.shape[2:])

    def both() -> Any:
        ours = pair.ours(pair.weights, inputs, **call)
        folded = jax.tree.map(lambda v: v if isinstance(v, bool) else fold(v), call)
        return jax.tree.map(fold, ours), pair.flax(pair.weights, fold(inputs), **folded)

    assert_close(*jit(both)())


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_a_length_of_zero_is_as_in_flax(x64, name):
    """Also where lengths are traced, so that none can be refused."""
    pair = MAKERS[name]()
    inputs, call = draw_call((B,), lengths=False, carry=False, reverse=True)

    def run_both(lengths: Any) -> Any:
        more = {"seq_lengths": lengths, "return_carry": True}
        return [run(pair.weights, inputs, **call, **more) for run in pair[1:]]

    assert_close(*jit(run_both)(np.array([0, T, 2])))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:carry_init is provided")
def test_first_carry_is_drawn_as_in_flax(x64):
    """By the key of the call, or by the module's own, which goes on."""
    inputs, _ = draw_call((B,), lengths=False, carry=False)
    options = {"carry_init": jax.nn.initializers.normal(1.0)}
    by_linen, by_nnx = make_linen(**options), make_nnx(**options)

    def run_linen(run: Any) -> Any:
        keys = [{}, {"init_key": jax.random.key(1)}]
        return [run(by_linen.weights, inputs, **key) for key in keys]

    def run_nnx(package: Any) -> Any:
        start = {"kernel_init": ZEROS, "recurrent_kernel_init": ZEROS, **options}
        start["param_dtype"] = jnp.float64
        layer = package.RNN(package.OptimizedLSTMCell(X, H, rngs=Rngs(0), **start))
        flax.nnx.update(layer, by_nnx.weights)
        return [layer(inputs), layer(inputs), layer(inputs, rngs=Rngs(2))]

    ours, theirs = jit(
        lambda: [
            [run_linen(by_linen.ours), run_nnx(nnx)],
            [run_linen(by_linen.flax), run_nnx(flax.nnx)],
        ]
    )()
    assert_close(ours, theirs)
    for first, second in (ours[0], ours[1][:2]):
        assert np.abs(first - second).max() > 0.1


def double_sigmoid(z: Any) -> Any:
    return jax.nn.sigmoid(2 * z)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", MAKERS)
def test_activations_under_the_rule(x64, name, cell):
    options = {"gate_fn": double_sigmoid, "activation_fn": jax.nn.soft_sign}
    pair = MAKERS[name](cell, **options)
    inputs, call = draw_call((B,), lengths=True, carry=True)
    function = functools.partial(pair.ours, **call)
    assert "gated_scan" in str(jax.make_jaxpr(function)(pair.weights, inputs))
    ours, theirs = jit(
        lambda: [gradients(run, pair.weights, inputs, call) for run in pair[1:]]
    )()
    assert_close(ours, theirs)


DTYPES = {
    "half products": ("bfloat16", "float32", "float32", 0.02),
    "all half": (None, "bfloat16", "bfloat16", 0.05),
    "half inputs": (None, "float32", "bfloat16", 1e-6),
    "whole numbers": (None, "float32", "int32", 1e-6),
    "wide carry": ("float32", "float64", "float32", 1e-6),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_dtypes(x64, name):
    """What comes out has Flax's dtypes, and its values up to those of the products."""

    def run_all(weights: Any, inputs: Any) -> Any:
        results = {}
        for row, (dtype, param_dtype, input_dtype, _) in DTYPES.items():
            pair = MAKERS[name](dtype=dtype, param_dtype=jnp.dtype(param_dtype))
            cast = jax.tree.map(lambda w, d=param_dtype: w.astype(d) / 2, weights)
            x = inputs.astype(input_dtype)
            results[row] = [run(cast, x, return_carry=True) for run in pair[1:]]
        return results

    inputs = np.random.default_rng(1).normal(size=(B, T, X))
    results = jit(run_all)(MAKERS[name]().weights, inputs)
    for row, (*_, tolerance) in DTYPES.items():
        ours, theirs = results[row]
        assert_close(ours, theirs, tolerance)
    half = MAKERS[name](dtype=jnp.bfloat16)
    program = str(jax.make_jaxpr(half.ours)(half.weights, inputs))
    assert f"bf16[{H},{4 * H}]" in program  # The recurrent weights, for the product.


OBSTACLES = {
    "other cell": (linen.RNN(linen.GRUCell(H)), "cell is a GRUCell"),
    "unroll": (linen.RNN(linen.LSTMCell(H), unroll=2), "unroll is 2"),
    "axes": (
        linen.RNN(linen.LSTMCell(H), variable_axes={"cache": 0}),
        "variable_axes is ",
    ),
    "rngs": (
        linen.RNN(linen.LSTMCell(H), split_rngs={"params": True}),
        "split_rngs is ",
    ),
    "carried": (linen.RNN(linen.LSTMCell(H), variable_carry="state"), "variable_carry"),
    "module": (
        linen.RNN(linen.LSTMCell(H, activation_fn=linen.PReLU())),
        "activation_fn is a module",
    ),
}


class OwnCell(linen.OptimizedLSTMCell):
    """One with a step of its own."""

    def __call__(self, carry: Any, inputs: Any) -> Any:
        return super().__call__(carry, 2 * inputs)


class Renamed(linen.OptimizedLSTMCell):
    """One with Flax's own step."""


def test_obstacles_of_linen_are_named():
    for layer, line in OBSTACLES.values():
        assert str(layer.obstacle).startswith(line)
    assert linen.RNN(OwnCell(H)).obstacle == "cell is a OwnCell"
    assert linen.RNN(Renamed(H)).obstacle is None
    assert linen.RNN(flax.linen.LSTMCell(H, gate_fn=double_sigmoid)).obstacle is None

    def traced(scale: Any) -> Any:
        cell = linen.LSTMCell(H, gate_fn=lambda z: jax.nn.sigmoid(scale * z))
        assert linen.RNN(cell).obstacle == "gate_fn reads a value that is being traced"
        return scale

    jax.grad(traced)(1.0)


@pytest.mark.slow
def test_obstacles_of_nnx_are_named():
    def build(cell: str = "LSTMCell", rnn: Any = None, **options: Any) -> Any:
        start = {"kernel_init": ZEROS, "recurrent_kernel_init": ZEROS, **options}
        return nnx.RNN(getattr(nnx, cell)(X, H, rngs=Rngs(0), **start), **(rnn or {}))

    assert build().obstacle is None
    assert build("OptimizedLSTMCell").obstacle is None
    assert build("GRUCell").obstacle == "cell is a GRUCell"
    assert build(rnn={"unroll": 2}).obstacle == "unroll is 2"
    assert build(rnn={"broadcast_rngs": "drop"}).obstacle == "broadcast_rngs is drop"
    axes = nnx.StateAxes({nnx.Param: None, ...: nnx.Carry})
    assert str(build(rnn={"state_axes": axes}).obstacle).startswith("state_axes is ")
    own = build(promote_dtype=lambda args, dtype: args).obstacle
    assert own.startswith("cell.ii.promote_dtype is <function")
    layer = build("OptimizedLSTMCell")
    layer.cell.dense_h.precision = "highest"
    assert layer.obstacle == "cell.dense_h.precision is highest"
    layer.cell.dense_h = nnx.LoRA(H, 2, 4 * H, rngs=Rngs(0))
    assert layer.obstacle == "cell.dense_h is a LoRA"


@pytest.mark.slow
def test_what_the_rule_cannot_serve_runs_in_flax():
    x = np.random.default_rng(1).normal(size=(B, T, X)).astype(np.float32)
    layers = [OBSTACLES[name][0] for name in ("other cell", "unroll", "module")]
    layers.append(linen.RNN(OwnCell(H)))

    def run(x: Any) -> Any:
        pairs = []
        for layer in layers:
            theirs = flax.linen.RNN(layer.cell, unroll=layer.unroll)
            shapes = jax.eval_shape(theirs.init, jax.random.key(0), x)
            weights = jax.tree.map(jnp.float32, draw_like(shapes, 0))
            pairs.append([one.apply(weights, x) for one in (layer, theirs)])
        return pairs

    for ours, theirs in jit(run)(x):
        assert_close(ours, theirs, 0)


GIVEN = np.ones((B, T, X), np.float32)
CARRY = (np.zeros((B, H), np.float32),) * 2
WRONG = {
    "no time": ({"inputs": GIVEN[0, 0]}, "inputs: shape (2,) does not fit [..., T, X]"),
    "one array": (
        {"initial_carry": CARRY[0]},
        "initial_carry: is an array of shape (3, 4); give (c, h), [..., H] each",
    ),
    "ours": (
        {"initial_carry": LSTMState(*CARRY)},
        "initial_carry: is LSTMState(h, c); the carry of Flax is the plain tuple",
    ),
    "shape of the carry": (
        {"initial_carry": tuple(leaf[:1] for leaf in CARRY)},
        "initial_carry.h: shape (1, 4) is not (3, 4), which is [..., H]",
    ),
    "two dtypes": (
        {"initial_carry": (CARRY[0].astype(np.float16), CARRY[1])},
        "initial_carry: c of float16 and h of float32; give floating-point numbers",
    ),
    "narrow carry": (
        {"initial_carry": tuple(leaf.astype(np.float16) for leaf in CARRY)},
        "carry: dtype float16, of which a step makes float32, the dtype that",
    ),
    "lengths of another batch": (
        {"seq_lengths": np.ones(2, int)},
        "seq_lengths: shape (2,) is not (3,), the batch axes of inputs",
    ),
    "long lengths": ({"seq_lengths": np.full(3, 7)}, "seq_lengths: 7 is not in 0..T"),
    "lengths of floats": ({"seq_lengths": np.ones(3)}, "seq_lengths: dtype float32 is"),
}


@pytest.mark.parametrize("row", WRONG)
@pytest.mark.parametrize("name", BOTH)
def test_bad_call_gets_one_line(name, row):
    wrong, message = WRONG[row]
    pair = MAKERS[name]()
    call = {"inputs": GIVEN} | wrong
    with pytest.raises((ValueError, TypeError)) as caught:
        jax.eval_shape(
            lambda weights: pair.ours(weights, **call, return_carry=True), pair.weights
        )
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", [linen, nnx])
def test_other_names_are_those_of_flax(package):
    theirs = {linen: flax.linen, nnx: flax.nnx}[package]
    assert package.Dropout is theirs.Dropout and package.RNN is not theirs.RNN
    assert {*dir(theirs), "ScannedLSTM"} <= set(dir(package))
    message = rf"'{package.__name__}' has no attribute 'Dopout', nor has 'flax\."
    with pytest.raises(AttributeError, match=message):
        package.Dopout  # noqa: B018
