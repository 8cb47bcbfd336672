"""The LSTM's Jacobians in terms: their sums, each term alone, and the carousel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells import LSTMParams, LSTMState, lstm_cell
from jaxlstm.diagnostics import lstm_terms, step_jacobians
from jaxlstm.estimators import Segment
from jaxlstm.model import ModelParams, ReadoutParams, RecurrentParams, make_model
from jaxlstm.sequence import LSTM
from tests.helpers import assert_close, jit

T, B, X, H = 5, 2, 3, 4
NAMES = "input", "forget", "candidate", "output"


def make_arguments(seed=0):
    rng = np.random.default_rng(seed)
    params = LSTMParams(
        rng.normal(size=(X, 4 * H)),
        rng.normal(size=(H, 4 * H)),
        rng.normal(size=4 * H),
    )
    state = LSTMState(*rng.normal(size=(2, B, H)))
    return params, rng.normal(size=(T, B, X)), state


def opened(gates, c):
    """Returns the state from gates i, f, g, o and the old memory."""
    i, f, g, o = gates
    c = f * c + i * g
    return LSTMState(o * jnp.tanh(c), c)


def gates_at(params, h, x):
    z = x @ params.w_x + h @ params.w_h + params.b
    i, f, g, o = jnp.split(z, 4)
    return jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)


def terms_by_autodiff(params, before, output_gate, x):
    """Returns both Jacobians of a step of one example, whole and term by term.

    A term by a gate is the derivative of a step in which this gate alone hears of h.

    Args:
      params: weights of the layer.
      before: the state that goes into the step, [H] each.
      output_gate: [H] o_{t-1}, or None where h comes from no memory.
      x: [X].
    """
    h, c = before
    still = gates_at(params, h, x)

    def h_of(c):
        return h if output_gate is None else output_gate * jnp.tanh(c)

    def composite(c, hears=NAMES, by_c=True):
        heard = gates_at(params, h_of(c), x)
        gates = (
            a if n in hears else b for n, a, b in zip(NAMES, heard, still, strict=True)
        )
        return opened(gates, c if by_c else before.c).c

    def hidden(h, hears=NAMES):
        heard = gates_at(params, h, x)
        gates = (
            a if n in hears else b for n, a, b in zip(NAMES, heard, still, strict=True)
        )
        return opened(gates, c).h

    memory = {"direct": jax.jacfwd(functools.partial(composite, hears=()))(c)}
    for name in NAMES[:3]:
        alone = functools.partial(composite, hears=(name,), by_c=False)
        memory[name] = jax.jacfwd(alone)(c)
    by_gate = {n: jax.jacfwd(functools.partial(hidden, hears=(n,)))(h) for n in NAMES}
    return jax.jacfwd(composite)(c), memory, jax.jacfwd(hidden)(h), by_gate


def test_each_term_is_the_derivative_by_its_gate_and_they_add_up(x64):
    params, inputs, state = make_arguments()

    def expect(params, inputs, state):
        expected = []
        for n in range(B):
            at, gate, steps = LSTMState(state.h[n], state.c[n]), None, []
            for x in inputs[:, n]:
                steps.append(terms_by_autodiff(params, at, gate, x))
                gate = gates_at(params, at.h, x)[3]
                at, _ = lstm_cell(params, at, x)
            expected.append(jax.tree.map(lambda *x: jnp.stack(x), *steps))
        return jax.tree.map(lambda *x: jnp.stack(x, 1), *expected)

    whole_c, by_memory, whole_h, by_hidden = jit(expect)(params, inputs, state)
    memory, hidden = jit(lstm_terms)(params, inputs, state)
    assert_close(memory._asdict(), by_memory)
    assert_close(hidden._asdict(), by_hidden)
    assert_close(sum(memory), whole_c)
    assert_close(sum(hidden), whole_h)
    assert not memory.candidate[0].any()
    assert all(term[1:].any() for term in memory)


def test_hidden_terms_are_a_block_of_the_jacobian(x64):
    params, inputs, state = make_arguments(1)
    model, whole = as_model(params)
    found = jit(
        lambda whole, state: step_jacobians(
            model, whole, Segment(inputs, None), state=(state,)
        )
    )(whole, state)
    _, hidden = jit(lstm_terms)(params, inputs, state)
    assert_close(sum(hidden), found[..., :H, :H])


def as_model(params):
    model = make_model(
        LSTM, input_size=X, output_size=1, hidden_size=H, dtype=jnp.float64
    )
    readout = ReadoutParams(np.zeros((H, 1)), np.zeros(1))
    return model, ModelParams(RecurrentParams(None, (params,), None), readout)


def test_carousel_passes_the_gradient_exactly(x64):
    params, inputs, state = make_arguments(2)
    w_x, w_h, b = (np.array(x) for x in params)
    # Input [X, 4H]: the forget gate is wide open, the candidate shut.
    forget, candidate = slice(H, 2 * H), slice(2 * H, 3 * H)
    b[forget] = 100
    for weights in (w_x, w_h, b):
        weights[..., candidate] = 0
    params = LSTMParams(w_x, w_h, b)
    model, whole = as_model(params)

    def measure(params, whole, state):
        jacobians = step_jacobians(model, whole, Segment(inputs, None), state=(state,))
        return lstm_terms(params, inputs, state)[0], jacobians

    memory, jacobians = jit(measure)(params, whole, state)
    # To the last bit, over all steps: by the terms, and in the whole Jacobian.
    product = np.broadcast_to(np.eye(H), (B, H, H))
    whole_product = np.broadcast_to(np.eye(2 * H), (B, 2 * H, 2 * H))
    for t in range(T):
        product = np.asarray(sum(memory))[t] @ product
        whole_product = np.asarray(jacobians)[t] @ whole_product
        assert (product == np.eye(H)).all()
        assert (whole_product[:, H:, H:] == np.eye(H)).all()
        assert (whole_product[:, H:, :H] == 0).all()
        assert whole_product[:, :H, H:].any()


def test_state_is_zero_by_default(x64):
    params, inputs, state = make_arguments(3)
    zeros = jax.tree.map(np.zeros_like, state)
    default, given = jit(
        lambda p: (lstm_terms(p, inputs), lstm_terms(p, inputs, zeros))
    )(params)
    assert_close(default, given)
    # The forget gate has an empty memory to open at first.
    assert not default[1].forget[0].any()
    assert default[1].forget[1].any()
