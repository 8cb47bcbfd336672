"""Every variant of the LSTM: by the equations of its paper, in NumPy."""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import init_lstm_stack, lstm_stack, make_model
from jaxlstm.cells import CELLS, Cell, make_lstm, make_lstm_variant
from jaxlstm.cells.variants import VARIANTS
from jaxlstm.shapes import OptionError
from tests.helpers import assert_close, draw_like
from tests.variants_oracle import (
    Greff,
    Step,
    layer_norm,
    lstm,
    multiplicative,
    name_weights,
    projected,
    slstm,
)

T, B, X, H = 5, 2, 3, 4


class Variant(NamedTuple):
    """A variant beside its oracle.

    Attributes:
      make: returns the cell.
      oracle: its step in NumPy.
      blocks: of z, in the papers' letters.
    """

    make: Callable[[], Cell]
    oracle: Step
    blocks: str = "ifzo"


def clip(scale: float, shift: float, low: float) -> Callable[[Any], Any]:
    return lambda x: np.clip(scale * x + shift, low, 1)


def identity(x: Any) -> Any:
    return x


make = functools.partial(functools.partial, make_lstm_variant)
NAMED = {
    "lstm_variant": (lstm, "ifzo"),
    "peephole_lstm": (Greff(), "ifzo"),
    "nig_lstm": (Greff(without="i"), "fzo"),
    "nfg_lstm": (Greff(without="f"), "izo"),
    "nog_lstm": (Greff(without="o"), "ifz"),
    "niaf_lstm": (Greff(g=identity), "ifzo"),
    "noaf_lstm": (Greff(h=identity), "ifzo"),
    "cifg_lstm": (Greff(coupled=True), "izo"),
    "np_lstm": (Greff(peepholes=False), "ifzo"),
    "fgr_lstm": (Greff(full_gate_recurrence=True), "ifzo"),
    "layer_norm_lstm": (layer_norm(by_block=False), "ifzo"),
    "multiplicative_lstm": (multiplicative, "ifzo"),
    "diagonal_lstm": (lstm, "ifzo"),
    "multi_head_lstm": (lstm, "ifzo"),
    "slstm": (slstm("sigmoid"), "ifzo"),
}
OPTIONS = {
    "two heads": Variant(make(heads=2), lstm),
    "norm of each gate": Variant(make(layer_norm="gates"), layer_norm(by_block=True)),
    "two exponentials": Variant(
        make(exponential="exp", output_activation="identity"), slstm("exp")
    ),
    "hard sigmoid": Variant(
        make(
            gate_activation="hard_sigmoid",
            candidate_activation="hard_tanh",
            output_activation="softsign",
        ),
        Greff(
            peepholes=False,
            sigma=clip(1 / 6, 1 / 2, 0),
            g=clip(1, 0, -1),
            h=lambda x: x / (1 + abs(x)),
        ),
    ),
    "functions": Variant(
        make(
            peepholes=True,
            gate_activation=lambda z: jnp.clip(0.2 * z + 0.5, 0, 1),
            candidate_activation=jnp.sin,
            output_activation="relu",
        ),
        Greff(sigma=clip(0.2, 0.5, 0), g=np.sin, h=lambda x: np.maximum(x, 0)),
    ),
    "no bias": Variant(make(peepholes=True, bias=False), Greff()),
    "no bias, normalised": Variant(
        make(layer_norm="joint", bias=False), layer_norm(by_block=False)
    ),
    "projected": Variant(make(peepholes=True, projection_size=2), projected),
    "an output gate alone": Variant(
        make(input_gate=False, forget_gate=False), Greff("if", peepholes=False), "zo"
    ),
    "coupled without peepholes": Variant(
        make(coupled=True), Greff(coupled=True, peepholes=False), "izo"
    ),
}
ALL = {
    name: Variant(VARIANTS[name], oracle, blocks)
    for name, (oracle, blocks) in NAMED.items()
} | OPTIONS


def test_every_named_variant_has_an_oracle():
    assert set(NAMED) == set(VARIANTS)
    assert set(VARIANTS) <= set(CELLS)


def make_problem(variant: Variant) -> tuple[Cell, Any, Any, np.ndarray]:
    """Returns the cell, parameters and a state away from zero, and inputs [T, B, X]."""
    cell = variant.make()
    shapes = jax.eval_shape(
        lambda: cell.init(jax.random.key(0), X, H, dtype=jnp.result_type(float))
    )
    params = draw_like(shapes, 0)
    state = draw_like(jax.eval_shape(lambda: cell.initial_state(params, (B,))), 1)
    return cell, params, state, np.random.default_rng(2).normal(size=(T, B, X))


def by_oracle(variant: Variant, params: Any, state: Any, inputs: np.ndarray) -> Any:
    """Returns the states [T, B, ...] of a sequence, example by example."""
    w, columns = name_weights(params, variant.blocks), []
    for n in range(B):
        own = {name: leaf[n] for name, leaf in state._asdict().items()}
        if "m" in own:
            n_0 = np.exp(own.pop("m"))
            own |= {"c": own["c"] * n_0, "n": n_0}
        found = []
        for x in inputs[:, n]:
            own = variant.oracle(w, own, x)
            found.append(own)
        column = {name: np.stack([own[name] for own in found]) for name in own}
        if "n" in column:
            n_t = column.pop("n")
            column |= {"c": column["c"] / n_t, "m": np.log(n_t)}
        columns.append(column)
    return type(state)(
        **{name: np.stack([c[name] for c in columns], 1) for name in state._fields}
    )


@pytest.mark.parametrize(
    "name", [*NAMED, *(pytest.param(name, marks=pytest.mark.slow) for name in OPTIONS)]
)
def test_steps_are_those_of_the_paper(name, x64):
    cell, params, state, inputs = make_problem(ALL[name])
    expected, found = by_oracle(ALL[name], params, state, inputs), []
    for x in inputs:
        state, output = cell.step(params, state, x)
        np.testing.assert_array_equal(output, state.h)
        found.append(state)
    assert_close(jax.tree.map(lambda *leaves: np.stack(leaves), *found), expected)


CHRONO = {"chrono": 50, "initializer": "uniform_08"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "blocks"),
    [
        (make_lstm(**CHRONO), "ifzo"),
        (make(**CHRONO, input_gate=False, heads=4)(), "fzo"),
        (make(**CHRONO, coupled=True)(), "izo"),
        (make(**CHRONO, peepholes=True)(), "ifzo"),
    ],
)
def test_chrono_biases_are_logs_of_uniform_times(cell, blocks):
    size, longest = 200, 50
    params = cell.init(jax.random.key(0), 1, size)
    biases = dict(zip(blocks, np.split(np.asarray(params.b), len(blocks)), strict=True))
    if {"i", "f"} <= set(blocks):
        np.testing.assert_array_equal(biases["i"], -biases["f"])
    times = np.exp(biases["f"] if "f" in blocks else -biases["i"])
    assert 1 <= times.min() < 3
    assert longest - 5 < times.max() <= longest - 1
    # Of a mean of 200 uniform times; chance alone goes past 5 once in a million.
    error = times.mean() - longest / 2
    assert abs(error) < 5 * (longest - 2) / np.sqrt(12 * size)
    assert abs(biases["z"]).max() <= 0.08


WITHOUT_GATES = {"input_gate": False, "forget_gate": False, "output_gate": False}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_norm": "both"}, "layer_norm: "),
        ({"exponential": "tanh"}, "exponential: "),
        ({"gate_activation": "sigmoit"}, "gate_activation: 'sigmoit' is unknown"),
        ({"heads": "diag"}, "heads: "),
        ({"heads": 0}, "heads: "),
        ({"heads": 2, "projection_size": 3}, "heads: 2 does not go with projection"),
        ({"heads": "diagonal", "multiplicative": True}, "heads: 'diagonal' does not"),
        ({"coupled": True, "forget_gate": False}, "coupled: "),
        ({"exponential": "exp", "coupled": True}, "exponential: "),
        ({"gate_recurrence": True, "multiplicative": True}, "gate_recurrence: "),
        ({"chrono": 2}, "chrono: 2 is too short"),
        ({"chrono": 9, "bias": False}, "chrono: there is no bias"),
        ({"chrono": 9, "forget_gate": False}, "chrono: is of a forget gate"),
        ({"chrono": 9, "exponential": "exp"}, "chrono: is of a forget gate"),
        ({"chrono": 9, "gate_activation": "hard_sigmoid"}, "chrono: is of a forget"),
        ({"projection_size": 0}, "projection_size: "),
        ({"projection_size": 2.5}, "projection_size: 2.5 is not an integer"),
        ({"heads": True}, "heads: True is not an integer"),
        ({"heads": None}, "heads: None is not an integer"),
        ({"gate_activation": ["tanh"]}, "gate_activation: ['tanh'] is unknown"),
        (WITHOUT_GATES | {"peepholes": True}, "peepholes: there is no gate to read"),
        (WITHOUT_GATES | {"gate_recurrence": True}, "gate_recurrence: there is no"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(OptionError, match=f"^{re.escape(message)}"):
        make_lstm_variant(**options)


def test_heads_divide_the_hidden_units():
    init = CELLS["multi_head_lstm"]().init
    with pytest.raises(OptionError, match="heads: 4 do not divide hidden_size = 6"):
        jax.eval_shape(lambda: init(jax.random.key(0), X, 6))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("peephole_lstm", {"peepholes": None}, "params.peepholes: is missing"),
        ("np_lstm", {"peepholes": np.zeros((3, H))}, "params.peepholes: is not of"),
        ("cifg_lstm", {"peepholes": np.zeros((3, H))}, r"params.peepholes: shape \(3"),
        ("fgr_lstm", {"w_gates": np.zeros((H, H))}, r"params.w_gates: shape \(4, 4\)"),
        ("layer_norm_lstm", {"scale_c": None}, "params.scale_c: is missing"),
        ("multiplicative_lstm", {"w_mx": np.zeros((H, X))}, "params.w_mx: shape"),
        ("multi_head_lstm", {"w_h": np.zeros((3, 1, 4, 1))}, r"w_h"),
        ("slstm", {"w_h": np.zeros((H, 3 * H))}, r"w_h"),
    ],
)
def test_parameters_of_another_cell_are_refused(name, change, message, x64):
    cell, params, state, inputs = make_problem(Variant(VARIANTS[name], lstm))
    with pytest.raises(ValueError, match=message):
        cell.step(params._replace(**change), state, inputs[0])


@pytest.mark.parametrize(("of", "by"), [("peephole_lstm", "lstm"), ("lstm", "np_lstm")])
def test_a_stack_of_another_cell_is_refused(of, by):
    """The weights that a cell does not know would be dropped."""
    layers = init_lstm_stack(jax.random.key(0), X, H, cell=CELLS[of]())
    with pytest.raises(TypeError, match=r"^params: LSTM\w+ is not .*; give the cell"):
        lstm_stack(layers, np.zeros((2, X)), cell=CELLS[by]())


def test_a_stack_takes_a_cell_that_is_made():
    with pytest.raises(TypeError, match=r"^cell: str is no Cell"):
        lstm_stack([()], np.zeros((2, X)), cell="slstm")  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_first_state_that_is_learned_can_be_learned(x64):
    model = make_model(
        CELLS["slstm"](heads=2),
        input_size=X,
        hidden_size=H,
        output_size=1,
        learned_initial_state=True,
        dtype=np.float64,
    )
    params = model.init(jax.random.key(0))
    assert not any(np.any(x) for x in jax.tree.leaves(params.recurrent.initial_state))

    def loss(params):
        state = model.initial_state(params, (2,))
        last, _ = model.unroll(params.recurrent, state, np.ones((3, 2, X)))
        return model.readout(params, last).sum()

    start = jax.grad(loss)(params).recurrent.initial_state[0]
    assert all(np.any(field) for field in (start.h, start.c))


def test_the_bias_of_a_coupled_gate_has_the_other_sign():
    """Where f = 1 - i, little is let in at first, so that much stays."""
    init = make_lstm_variant(coupled=True, forget_bias=2.0).init
    b = jax.jit(lambda: init(jax.random.key(0), X, H).b)()
    assert b.tolist() == [-2.0] * H + [0.0] * 2 * H
