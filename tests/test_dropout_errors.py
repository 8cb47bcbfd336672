"""Dropout where it cannot be is refused in one line that names the key."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxlstm import Dropout, lstm_stack, noise
from jaxlstm.cells import make_gru, make_lstm, make_rnn
from jaxlstm.model import make_model
from jaxlstm.shapes import OptionError
from tests.stacks import draw_inputs, draw_stack
from tests.toy_cells import TOY_CELLS

SIZES = {"input_size": 3, "hidden_size": 4, "output_size": 2}
NAN = float("nan")
PLAIN = make_lstm()._replace(gated=None)


def case(cell, message, options=None, **rates):
    return pytest.param(cell, rates, options or {}, message, id=message[:40])


@pytest.mark.parametrize(
    ("cell", "rates", "options", "message"),
    [
        case(make_lstm(), "dropout.recurrent: 1 is not in [0, 1)", recurrent=1),
        case(make_lstm(), "dropout.weights: -0.1 is not in [0, 1)", weights=-0.1),
        case(make_lstm(), "dropout.output: nan is not in", output=NAN),
        case(make_lstm(), "dropout.between: 'x' is not a number", between="x"),
        case(make_lstm(), "dropout.input: None is not a number", input=None),
        case(make_lstm(), "dropout.zoneout_h: [0.1] is not a", zoneout_h=[0.1]),
        case(make_lstm(), "dropout.mask_steps: 'x' is not a", mask_steps="x"),
        case(make_lstm(), "dropout.mask_steps: nan is not a", mask_steps=NAN),
        case(make_lstm(), "dropout.mask_steps: 0 is not", input=0.1, mask_steps=0),
        case(make_lstm(), "dropout.mask_steps: 1.5 is not", input=0.1, mask_steps=1.5),
        case(make_lstm(), "dropout: 0.2 acts between layers", between=0.2),
        case(make_rnn(), "dropout.recurrent: 0.2 acts on the cand", recurrent=0.2),
        case(make_gru(), "dropout.zoneout_c: 0.2 is of c, and", zoneout_c=0.2),
        case(
            TOY_CELLS["without_recurrence"], "dropout.weights: 0.2 is of", weights=0.2
        ),
        case(PLAIN, "dropout.zoneout_h: acts inside a gated cell", zoneout_h=0.2),
        case(PLAIN, "dropout.recurrent: acts inside a gated cell", recurrent=0.2),
        case(make_lstm(), "dropout.embedding: inputs are", embedding=0.2),
        case(
            make_lstm(),
            "dropout: acts inside the cell, which engine",
            {"engine": "deer"},
            zoneout_h=0.2,
        ),
        case(
            make_lstm(),
            "dropout: acts inside the cell, which engine",
            {"engine": "deer"},
            recurrent=0.2,
        ),
    ],
)
def test_models(cell, rates, options, message):
    with pytest.raises(OptionError) as caught:
        make_model(cell, dropout=Dropout(**rates), **SIZES, **options)
    line = str(caught.value)
    assert line.startswith(message) and "\n" not in line


@pytest.mark.parametrize("connections", ["residual", "skip"])
def test_connections_of_a_single_layer(connections):
    with pytest.raises(OptionError) as caught:
        make_model(make_lstm(), connections=connections, **SIZES)
    assert str(caught.value) == (
        f'connections: "{connections}" joins layers, and num_layers is 1; leave it out'
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, "dropout: 1.0 is not in [0, 1)"),
        ({"dropout": "x"}, "dropout: 'x' is not a number in [0, 1)"),
        ({"dropout": None}, "dropout: None is not a number in [0, 1)"),
        ({"dropout": Dropout(embedding=0.1)}, "dropout.embedding: 0.1 is of symbols"),
        ({"key": jax.random.split(jax.random.key(0), 3)}, "key: shape (3,) is neither"),
        ({"key": noise.split(jax.random.key(0), (3,))}, "key: shape (3,) is not that"),
    ],
)
def test_stacks(options, message, x64):
    run = functools.partial(lstm_stack, draw_stack()[0], jnp.asarray(draw_inputs()))
    with pytest.raises(ValueError) as caught:
        jax.eval_shape(lambda: run(**options))
    line = str(caught.value)
    assert line.startswith(message) and "\n" not in line
