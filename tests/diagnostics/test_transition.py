"""A step apart is the step that `unroll` makes."""

import jax
import jax.numpy as jnp
import pytest

from jaxlstm.cells import make_lstm
from jaxlstm.diagnostics.transition import read_inputs, transition
from jaxlstm.estimators import Segment
from jaxlstm.model import make_model
from jaxlstm.noise import fold_in
from jaxlstm.shapes import OptionError
from tests.helpers import assert_close, jit

pytestmark = pytest.mark.usefixtures("x64")

T, B, X = 6, 2, 3


def make_problem():
    model = make_model(
        make_lstm(),
        input_size=X,
        output_size=1,
        hidden_size=4,
        num_layers=2,
        dropout=0.3,
        learned_initial_state=True,
        dtype=jnp.float64,
    )
    params = model.init(jax.random.key(0))
    learned = params.recurrent.initial_state
    learned = jax.tree.map(lambda x: x + jnp.linspace(-1, 1, x.size), learned)
    params = params._replace(recurrent=params.recurrent._replace(initial_state=learned))
    inputs = jax.random.normal(jax.random.key(1), (T, B, X))
    # NaN stands where nothing must look.
    mask = jnp.ones((T, B)).at[2, 0].set(0).at[4, 1].set(0)
    inputs = jnp.where(mask[..., None] == 0, jnp.nan, inputs)
    # Of one example on a masked step, and of all later.
    resets = jnp.zeros((T, B)).at[4, 1].set(1).at[5].set(1)
    segment = Segment(inputs, jnp.zeros((T, B, 1)), mask, resets)
    return model, params, segment, jax.random.split(jax.random.key(2), B)


@pytest.mark.parametrize("begins", [pytest.param(True, marks=pytest.mark.slow), False])
def test_steps_apart_are_those_of_unroll(begins):
    model, params, segment, keys = make_problem()
    start = jax.tree.map(jnp.ones_like, model.initial_state(params, (B,)))

    def scanned(params):
        def body(state, inputs):
            state = transition(model, params, state, inputs, keys)
            return state, state

        return jax.lax.scan(body, start, read_inputs(segment, begins=begins))[1]

    def unrolled(params):
        state = model.initial_state(params, (B,)) if begins else start
        return model.unroll(
            params.recurrent,
            state,
            segment.inputs,
            mask=segment.mask,
            resets=segment.resets,
            key=fold_in(keys, 0),
        )[1]

    def total(run, params):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(run(params)))

    assert_close(jit(scanned)(params), jit(unrolled)(params))
    assert_close(
        jit(jax.grad(lambda p: total(scanned, p)))(params),
        jit(jax.grad(lambda p: total(unrolled, p)))(params),
    )


def test_model_without_steps_is_refused():
    model, params, segment, _ = make_problem()
    inputs = jax.tree.map(lambda x: x[0], read_inputs(segment, begins=True))
    with pytest.raises(OptionError, match="no online form"):
        transition(model._replace(step=None), params, None, inputs)
