"""Weights of Flax's cells, against its own modules: values, carries, gradients."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlstm import Directions, LSTMParams, interop, lstm_stack
from jaxlstm.cells import CELLS, GRUParams, RNNParams
from jaxlstm.interop import WeightsError
from tests.helpers import assert_close, draw_like, jit
from tests.interop.flax_nets import THERE, B, H, X, draw_arrays, make_cell, read, write

T = 4
LENGTHS = np.array([4, 2])


@pytest.mark.parametrize("name", THERE)
def test_both_ways(x64, name):
    arrays = draw_arrays(THERE[name])
    params = read(THERE[name], arrays)
    wanted = {"lstm": LSTMParams, "gru": GRUParams, "rnn": RNNParams}
    assert [type(layer) for layer in params] == [wanted[THERE[name].cell]]
    assert_close(write(THERE[name], params, ""), arrays, 0)
    assert_close(write(THERE[name], params[0]), {"cell": arrays}, 0)
    layer = Directions(*params, *params)
    tree = {"forward_rnn": {"cell": arrays}, "backward_rnn": {"cell": arrays}}
    assert_close(write(THERE[name], layer), tree, 0)
    assert_close(read(THERE[name], tree), (layer,), 0)


def test_steps_by_those_of_flax(x64):
    rng, trees = np.random.default_rng(1), {}
    x = rng.normal(size=(B, X))
    carries = {name: there.draw_carry(rng) for name, there in THERE.items()}
    cells = {name: make_cell(there) for name, there in THERE.items()}
    for name, there in THERE.items():
        trees[name] = draw_arrays(there)
        if not there.linen:
            nnx.update(cells[name], trees[name])
            trees[name] = cells[name]  # The module itself is read.

    @jit
    def run_all():
        expected, found = {}, {}
        for name, there in THERE.items():
            cell, carry = cells[name], carries[name]
            given = (carry, x)
            expected[name] = (
                cell.apply({"params": trees[name]}, *given)
                if there.linen
                else cell(*given)
            )
            (params,) = stacks[name]
            state = interop.state_from_flax(carry, params)
            last, output = CELLS[there.cell]().step(params, state, x)
            found[name] = interop.state_to_flax(last), output
        return expected, found

    stacks = {name: read(there, trees[name]) for name, there in THERE.items()}
    expected, found = run_all()
    assert_close(found, expected)


class Net(NamedTuple):
    """Two layers of Flax, the first in two directions.

    Attributes:
      weights: as Flax has them.
      run: `(weights, inputs, carries, lengths) -> (carries, outputs)`, by Flax.
    """

    weights: Any
    run: Any


def make_net(there):
    def layer(width):
        make = nn.RNN if there.linen else nnx.RNN
        return make(make_cell(there, width))

    def run_layers(layers, x, carries, lengths):
        lasts = []
        for run, carry in zip(layers, carries, strict=True):
            options = {"seq_lengths": lengths, "return_carry": True, "time_major": True}
            last, x = run(x, initial_carry=carry, **options)
            lasts.append(last)
        return tuple(lasts), x

    if not there.linen:
        net = nnx.Sequential(nnx.Bidirectional(layer(X), layer(X)), layer(2 * H))
        definition, params, rest = nnx.split(net, nnx.Param, ...)
        return Net(
            draw_like(params, 0, 0.5),
            lambda w, *rest_: run_layers(nnx.merge(definition, w, rest).layers, *rest_),
        )

    modules = [nn.Bidirectional(layer(X), layer(X)), layer(2 * H)]
    net = nn.Sequential(modules)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((B, T, X)))

    def run(weights, *given):
        trees = [weights["params"][f"layers_{n}"] for n in range(2)]
        layers = [
            lambda *args, module=module, tree=tree, **options: module.apply(
                {"params": tree}, *args, **options
            )
            for module, tree in zip(modules, trees, strict=True)
        ]
        return run_layers(layers, *given)

    return Net(draw_like(shapes, 0, 0.5), run)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in THERE if name != "linen lstm"])
def test_layers_by_those_of_flax(x64, name):
    there, rng = THERE[name], np.random.default_rng(1)
    net, inputs = make_net(there), rng.normal(size=(T, B, X))
    forward, backward, above = (there.draw_carry(rng) for _ in range(3))
    carries = (forward, backward), above
    mask = (np.arange(T)[:, None] < LENGTHS)[..., None]

    def weigh(values):
        directions = draw_like(values, 2)
        terms = jax.tree.map(lambda a, b: jnp.sum(a * b), values, directions)
        return sum(jax.tree.leaves(terms)), values

    def by_flax(weights, inputs, carries):
        lasts, outputs = net.run(weights, inputs, carries, jnp.asarray(LENGTHS))
        # Outputs past the end of a sequence are zero here alone.
        return weigh((lasts, jnp.where(mask, outputs, 0)))

    def here(params, inputs, carries):
        state = interop.state_from_flax(carries, params)
        cell = CELLS[there.cell]()
        last, outputs = lstm_stack(params, inputs, state, cell=cell, lengths=LENGTHS)
        return weigh((interop.state_to_flax(last), outputs))

    @jit
    def run_both(weights, params, *given):
        return [
            jax.value_and_grad(run, (0, 1, 2), has_aux=True)(first, *given)
            for run, first in ((by_flax, weights), (here, params))
        ]

    made = run_both(net.weights, read(there, net.weights), inputs, carries)
    (_, expected), (d_weights, *d_expected) = made[0]
    (_, found), (d_params, *d_found) = made[1]
    assert_close(found, expected)
    assert_close(d_found, d_expected)
    if name == "nnx gru":  # Which has no bias there.
        both, one = d_params
        none = jnp.zeros(H)
        both = Directions(*(cell._replace(b_h=none) for cell in both))
        d_params = both, one._replace(b_h=none)
    assert_close(d_params, read(there, d_weights))


def scaled_tanh(x):
    return 1.7 * jnp.tanh(0.7 * x)


@pytest.mark.slow
def test_cells_with_other_activations(x64):
    cells = [make_cell(THERE["nnx lstm"], width) for width in (X, X, 2 * H)]
    forward, backward, above = map(nnx.RNN, cells)
    both = nnx.Bidirectional(forward, backward)
    for cell in cells[:2]:
        cell.gate_fn, cell.activation_fn = jax.nn.hard_sigmoid, scaled_tanh
    cell, params = interop.layers_from_nnx(both)
    rng = np.random.default_rng(0)
    x, carry = jnp.asarray(rng.normal(size=(T, B, X))), rng.normal(size=(2, 2, B, H))
    pairs = tuple(map(tuple, carry))

    definition, weights = nnx.split(both)

    @jit
    def run_both(weights, params):
        state = interop.state_from_flax((pairs,), params)
        last, outputs = lstm_stack(params, x, state, cell=cell)
        there = nnx.merge(definition, weights)
        options = {"return_carry": True, "time_major": True}
        return (
            there(x, initial_carry=pairs, **options),
            (*interop.state_to_flax(last), outputs),
        )

    expected, found = run_both(weights, params)
    assert_close(found, expected)
    plain = interop.layers_from_nnx(above)
    assert_close(plain.params, interop.from_nnx(above), 0)
    with pytest.raises(WeightsError, match=r"forward_rnn/cell, .* differ in their"):
        interop.layers_from_nnx(nnx.Sequential(both, above))
