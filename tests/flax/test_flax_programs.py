"""Programs written for Flax's own modules, of which only the import line is changed."""

import inspect
from typing import Any

import flax.errors
import flax.linen
import flax.nnx
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.nnx import Rngs

from jaxlstm.flax import linen, nnx
from tests.helpers import assert_close, draw_like, jit

B, T, X, H = 3, 5, 2, 4

# A draw that is another one for each key, and takes no time to compile.
DRAW = """
import jax
import jax.numpy as jnp

def draw(key, shape, dtype):
    seed = (jax.random.key_data(key)[-1] % 1000).astype(dtype)
    return jnp.sin(seed + jnp.arange(shape[0] * shape[-1], dtype=dtype)).reshape(shape)

WIDE = dict(param_dtype=jnp.float64)
CELL = dict(kernel_init=draw, recurrent_kernel_init=draw, **WIDE)
"""

TAGGER = """
from {package} import linen as nn

class Tagger(nn.Module):
    @nn.compact
    def __call__(self, x, lengths):
        x = nn.Dense(4, **WIDE)(x)
        x = nn.Bidirectional(
            nn.RNN(nn.OptimizedLSTMCell(4, **CELL)), nn.RNN(nn.LSTMCell(3, **CELL))
        )(x, seq_lengths=lengths)
        carry, x = nn.RNN(nn.LSTMCell(4, **CELL), return_carry=True, name="top")(
            x, seq_lengths=lengths
        )
        scan = nn.scan(
            nn.OptimizedLSTMCell,
            variable_broadcast="params",
            split_rngs={{"params": False}},
            in_axes=1,
            out_axes=1,
        )
        carry, x = scan(4, **CELL)(carry, x)
        return carry, nn.Dense(2, **WIDE)(x)

def train(x, lengths):
    model = Tagger()
    variables = model.init(jax.random.key(1), x, lengths)

    def loss(variables):
        carry, outputs = model.apply(variables, x, lengths)
        return jnp.sum(outputs**3), (carry, outputs)

    return variables, jax.value_and_grad(loss, has_aux=True)(variables)
"""

LAYERS = """
from {package} import linen as nn

class Block(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x, _):
        cell = nn.OptimizedLSTMCell(
            4,
            param_dtype=jnp.float64,
            kernel_init=nn.with_partitioning(draw, (None, "m")),
            recurrent_kernel_init=draw,
        )
        return getattr(nn, self.kind)(cell)(x), None

class Layers(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            nn.remat(Block),
            variable_axes={{"params": 0}},
            split_rngs={{"params": True}},
            length=2,
            metadata_params={{nn.PARTITION_NAME: "layer"}},
        )
        x = nn.Dense(4, param_dtype=jnp.float64)(x)
        x, _ = layers("RNN")(x, None)
        members = nn.vmap(
            Block,
            in_axes=None,
            axis_size=2,
            variable_axes={{"params": 0}},
            split_rngs={{"params": True}},
            metadata_params={{nn.PARTITION_NAME: "member"}},
        )
        return members("RNN")(x, None)[0]

def train(x, lengths):
    model = Layers()
    variables = nn.unbox(model.init(jax.random.key(1), x))

    def run(x):
        return model.apply(variables, x)

    outputs, pull_back = jax.vjp(jax.vmap(run), x[None])
    return variables, outputs, pull_back(outputs)
"""

NNX_TAGGER = """
from {package} import nnx

class Tagger(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(2, 4, rngs=rngs, **WIDE)
        self.both = nnx.Bidirectional(
            nnx.RNN(nnx.OptimizedLSTMCell(4, 4, rngs=rngs, **CELL)),
            nnx.RNN(nnx.LSTMCell(4, 3, rngs=rngs, **CELL)),
        )
        self.top = nnx.RNN(nnx.LSTMCell(7, 4, rngs=rngs, **CELL), return_carry=True)

    def __call__(self, x, lengths):
        x = self.both(self.dense(x), seq_lengths=lengths)
        return self.top(x, seq_lengths=lengths, rngs=nnx.Rngs(0))

def train(x, lengths):
    model = Tagger(nnx.Rngs(1))

    @nnx.jit
    def step(model):
        def loss(model):
            carry, outputs = model(x, lengths)
            return jnp.sum(outputs**3), (carry, outputs)

        return nnx.value_and_grad(loss, has_aux=True)(model)

    found, gradient = step(model)
    params = nnx.state(model, nnx.Param)
    return nnx.to_pure_dict(params), found, nnx.to_pure_dict(gradient)
"""

NNX_LAYERS = """
from {package} import nnx

def train(x, lengths):
    @nnx.vmap(in_axes=0, out_axes=0)
    def build(key):
        return nnx.RNN(nnx.OptimizedLSTMCell(2, 2, rngs=nnx.Rngs(key), **CELL))

    layers = build(jax.random.split(jax.random.key(1), 2))

    @nnx.scan(in_axes=(nnx.Carry, 0))
    @nnx.remat
    def forward(x, layer):
        return layer(x, rngs=nnx.Rngs(0)), None

    @nnx.vmap(in_axes=(None, 0))
    def members(x, layer):
        return layer(x, rngs=nnx.Rngs(0))

    graph, params, rest = nnx.split(layers, nnx.Param, ...)

    def run(params, x):
        layers = nnx.merge(graph, params, jax.tree.map(jnp.copy, rest))
        return members(forward(x, layers)[0], layers)

    outputs, pull_back = jax.vjp(run, params, x)
    params, by_params_and_x = map(nnx.to_pure_dict, (params, pull_back(outputs)[0]))
    return params, outputs, by_params_and_x, pull_back(outputs)[1]
"""

PROGRAMS = {
    "tagger": TAGGER,
    "layers": LAYERS,
    "nnx tagger": NNX_TAGGER,
    "nnx layers": NNX_LAYERS,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_program_with_the_import_changed(x64, name):
    """It draws the same parameters, bit for bit, and gives the same figures."""

    def run(package: str, x: Any, lengths: Any) -> Any:
        source: dict[str, Any] = {"__name__": "program"}
        exec(DRAW + PROGRAMS[name].format(package=package), source)
        return source["train"](x, lengths)

    x = np.random.default_rng(0).normal(size=(B, T, X))
    lengths = np.array([2, T, 1])
    packages = "jaxlstm.flax", "flax"
    ours, theirs = jit(lambda: [run(p, x, lengths) for p in packages])()
    assert_close(ours[0], theirs[0], 0)
    assert_close(ours, theirs)


def signature(function: Any) -> dict[str, Any]:
    found = inspect.signature(function).parameters.values()
    return {p.name: (p.kind, p.default) for p in found}


def test_signatures_are_those_of_flax():
    assert signature(linen.RNN.__call__) == signature(flax.linen.RNN.__call__)
    assert signature(nnx.RNN.__call__) == signature(flax.nnx.RNN.__call__)
    assert signature(linen.RNN) == signature(flax.linen.RNN)
    assert signature(nnx.RNN) == signature(flax.nnx.RNN)
    ours, theirs = signature(linen.LSTM), signature(flax.linen.OptimizedLSTMCell)
    assert theirs.keys() <= ours.keys()
    plain = "features", "gate_fn", "activation_fn", "dtype", "param_dtype"
    assert {n: ours[n] for n in plain} == {n: theirs[n] for n in plain}
    orders = "time_major", "return_carry", "reverse", "keep_order"
    rnn = signature(flax.linen.RNN)
    assert {n: ours[n] for n in orders} == {n: rnn[n] for n in orders}


def test_what_is_not_replaced_is_that_of_flax():
    assert linen.Dense is flax.linen.Dense
    assert nnx.Linear is flax.nnx.Linear
    assert linen.LSTMCell is flax.linen.LSTMCell
    assert nnx.OptimizedLSTMCell is flax.nnx.OptimizedLSTMCell
    with pytest.raises(AttributeError, match="NoSuchLayer"):
        _ = linen.NoSuchLayer
    with pytest.raises(AttributeError, match="NoSuchLayer"):
        _ = nnx.NoSuchLayer


OPTIONS: dict[str, Any] = {
    "gate_fn": jax.nn.hard_sigmoid,
    "activation_fn": jax.nn.soft_sign,
    "kernel_init": jax.nn.initializers.normal(),
    "recurrent_kernel_init": jax.nn.initializers.uniform(),
    "bias_init": jax.nn.initializers.ones,
    "dtype": jnp.bfloat16,
    "param_dtype": jnp.float32,
    "carry_init": jax.nn.initializers.normal(0.5),
}
ORDER = {"time_major": True, "return_carry": True, "reverse": True, "keep_order": True}
GIVEN = np.ones((T, B, X), np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "order"), [({}, {}), (OPTIONS, ORDER)])
def test_linen_lstm_is_its_rnn(options, order):
    """The same parameters in the same places, drawn alike, and every option heeded."""
    cell = linen.OptimizedLSTMCell(H, **options)
    layers = linen.LSTM(H, **options, **order), linen.RNN(cell, **order)
    lengths = np.full(GIVEN.shape[1 if order else 0], 3)
    call = {"init_key": jax.random.key(2), "seq_lengths": lengths}

    def run() -> Any:
        key = jax.random.key(1)
        theirs = flax.linen.RNN(cell, **order).init(key, GIVEN, **call)
        ours = [layer.init_with_output(key, GIVEN, **call) for layer in layers]
        return theirs, *ours

    theirs, short, long = jit(run)()
    assert_close(short, long, 0)
    assert_close(short[1], theirs, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "order"), [({}, {}), (OPTIONS, ORDER)])
@pytest.mark.filterwarnings("ignore:carry_init is provided")
def test_nnx_lstm_is_its_rnn(options, order):
    def run() -> Any:
        cell = flax.nnx.OptimizedLSTMCell(X, H, rngs=Rngs(1), **options)
        short = nnx.LSTM(X, H, rngs=Rngs(1), **options, **order)
        long = nnx.RNN(cell, **order)
        states = [flax.nnx.state(layer, flax.nnx.Param) for layer in (short, long)]
        outputs = [layer(GIVEN, rngs=Rngs(2)) for layer in (short, long)]
        return map(flax.nnx.to_pure_dict, states), outputs

    (short_params, long_params), (short, long) = jit(lambda: [*map(list, run())])()
    assert_close(short_params, long_params, 0)
    assert_close(short, long, 0)


@pytest.mark.slow
def test_checkpoints_of_linen_load_both_ways(x64):
    x = np.random.default_rng(0).normal(size=(B, T, X))
    wide = {"param_dtype": jnp.float64}
    ours = linen.LSTM(H, **wide)
    theirs = flax.linen.RNN(flax.linen.LSTMCell(H, **wide))
    templates, drawn = [], []
    for seed, layer in enumerate((ours, theirs)):
        shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
        drawn.append(draw_like(shapes, seed))
        templates.append(jax.tree.map(np.zeros_like, drawn[-1]))

    def move(source: int) -> Any:
        """Returns what one library wrote, as the other reads it."""
        written = flax.serialization.to_bytes(drawn[source])
        return flax.serialization.from_bytes(templates[1 - source], written)

    read = [move(1), move(0)]

    def run() -> Any:
        return [(ours.apply(w, x), theirs.apply(w, x)) for w in read]

    for a, b in jit(run)():
        assert_close(a, b)
    assert_close(read, [drawn[1], drawn[0]], 0)


@pytest.mark.slow
def test_states_of_nnx_load_both_ways():
    """The keys of the carry, and how often they were used, are part of a state."""
    x = np.random.default_rng(0).normal(size=(B, T, X)).astype(np.float32)

    def build(package: Any, seed: int) -> Any:
        cell = package.OptimizedLSTMCell(X, H, rngs=Rngs(seed))
        return package.RNN(cell)

    def run() -> Any:
        ours, theirs = build(nnx, 0), build(flax.nnx, 1)
        before = [ours(x), theirs(x)]
        states = [flax.nnx.state(layer) for layer in (ours, theirs)]
        copies = [jax.tree.map(jnp.copy, state) for state in states]
        flax.nnx.update(ours, copies[1])
        flax.nnx.update(theirs, copies[0])
        counts = [layer.rngs.count[...] for layer in (ours, theirs)]
        return before, [theirs(x), ours(x)], counts

    before, after, counts = jit(run)()
    assert_close(after, before, 1e-6)
    assert counts == [2, 2]


@pytest.mark.slow
def test_missing_and_misshapen_parameters_get_the_error_of_flax():
    layer = linen.RNN(linen.LSTMCell(H))
    shapes = jax.eval_shape(layer.init, jax.random.key(0), GIVEN)
    params = jax.tree.map(np.zeros_like, draw_like(shapes, 0))
    outputs: Any = layer.apply(params, GIVEN)
    assert outputs.shape == (T, B, H)
    del params["params"]["cell"]["hf"]["bias"]
    with pytest.raises(flax.errors.ScopeParamNotFoundError, match='"/cell/hf"'):
        layer.apply(params, GIVEN)
    params["params"]["cell"]["hf"]["bias"] = np.zeros(H + 1)
    with pytest.raises(flax.errors.ScopeParamShapeError, match='"/cell/hf"'):
        layer.apply(params, GIVEN)
