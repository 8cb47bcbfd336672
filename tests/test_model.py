"""Models: unrolling against scanning the step, inputs, tied weights, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.cells import CELLS, make_lstm, make_rnn
from jaxlstm.model import count_parameters, make_model
from tests.helpers import FIRST_CELLS, assert_close, draw_like, jit

B, X, H, Y, T = 2, 3, 4, 5, 6
SIZES = {"input_size": X, "hidden_size": H, "output_size": Y}
MASK = np.ones((T, B))
MASK[1, 0] = MASK[3, :] = MASK[-1, 1] = 0
RESETS = np.zeros((T, B))
RESETS[2, 1] = RESETS[3, 0] = RESETS[-1, 0] = 1


def draw_params(model, seed=0):
    """Draws parameters that are all away from zero, in NumPy."""
    return draw_like(jax.eval_shape(model.init, jax.random.key(0)), seed, 0.5)


def draw(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def by_step(model, params, state, inputs):
    """Scans the model's step under MASK and RESETS; inputs have no NaN."""

    def where(condition, new, old):
        pick = lambda a, b: jnp.where(condition[:, None] != 0, a, b)  # noqa: E731
        return jax.tree.map(pick, new, old)

    def body(state, xs):
        x, mask, reset = xs
        state = where(reset, model.initial_state(params, (B,)), state)
        state = where(mask, model.step(params.recurrent, state, x), state)
        return state, state

    return jax.lax.scan(body, state, (inputs, jnp.asarray(MASK), jnp.asarray(RESETS)))


@pytest.mark.parametrize("name", FIRST_CELLS)
def test_unroll_is_scanning_step(name, x64):
    inputs = draw(T, B, X)
    masked = np.where(MASK[:, :, None] != 0, inputs, np.nan)

    def compare(num_layers):
        model = make_model(
            CELLS[name](),
            num_layers=num_layers,
            learned_initial_state=True,
            dtype=jnp.float64,
            **SIZES,
        )
        params = draw_params(model)
        state = draw_like(model.initial_state(params, (B,)), 2)

        def unrolled(params, state):
            return model.unroll(
                params.recurrent, state, masked, mask=MASK, resets=RESETS
            )

        def scanned(params, state):
            return by_step(model, params, state, inputs)

        def with_gradients(run):
            def loss(arguments):
                outputs = run(*arguments)
                factors = draw_like(outputs, 3)
                products = jax.tree.map(lambda x, f: jnp.sum(x * f), outputs, factors)
                return sum(jax.tree.leaves(products)), outputs

            return jax.grad(loss, has_aux=True)((params, state))

        return with_gradients(unrolled), with_gradients(scanned)

    for actual, expected in jit(lambda: [compare(1), compare(2)])():
        assert_close(actual, expected)
        (params_grads, _), _ = actual
        for leaf in jax.tree.leaves(params_grads.recurrent.initial_state):
            assert np.all(leaf != 0)


def test_initial_state_is_learned():
    model = make_model(make_lstm(), num_layers=2, learned_initial_state=True, **SIZES)
    drawn = jit(model.init)(jax.random.key(0)).recurrent.initial_state
    assert all(not leaf.any() for leaf in jax.tree.leaves(drawn))
    params = jax.tree.map(np.float32, draw_params(model))
    state = model.initial_state(params, (3, B))
    expected = jax.tree.map(
        lambda leaf: np.broadcast_to(leaf, (3, B, H)), params.recurrent.initial_state
    )
    assert_close(state, expected, 0)


def make_symbols(inputs, **options):
    return make_model(
        make_rnn(),
        input_size=X,
        output_size=X,
        hidden_size=H,
        inputs=inputs,
        dtype=jnp.float64,
        **options,
    )


def test_symbols_are_vectors(x64):
    symbols = draw(T, B).argsort(axis=0) % X
    one_hot, embedded = make_symbols("one_hot"), make_symbols("embedding")
    vectors = make_model(make_rnn(), dtype=jnp.float64, **SIZES)
    wide = make_model(make_rnn(), dtype=jnp.float64, **SIZES | {"input_size": H})
    params, params_embedded = draw_params(one_hot), draw_params(embedded)
    table = params_embedded.recurrent.embedding
    plain = params_embedded.recurrent._replace(embedding=None)

    def run(model, recurrent, inputs):
        state = model.initial_state(params._replace(recurrent=recurrent), (B,))
        last, states = model.unroll(recurrent, state, inputs)
        return last, states, model.step(recurrent, state, inputs[0])

    @jit
    def all_of_them():
        x = jnp.asarray(symbols)
        return (
            run(one_hot, params.recurrent, x),
            run(vectors, params.recurrent, jnp.eye(X)[x]),
            run(embedded, params_embedded.recurrent, x),
            run(wide, plain, jnp.asarray(table)[x]),
        )

    by_number, by_vector, by_embedding, by_row = all_of_them()
    assert_close(by_number, by_vector, 0)
    assert_close(by_embedding, by_row, 0)


def test_tied_gradient_is_the_sum_of_both_uses(x64):
    tied, untied = make_symbols("embedding", tied=True), make_symbols("embedding")
    params = draw_params(tied)
    assert params.readout.w is None
    table = params.recurrent.embedding
    apart = params._replace(readout=params.readout._replace(w=table.T))
    symbols = np.arange(T * B).reshape(T, B) % X

    def loss(model, params):
        state = model.initial_state(params, (B,))
        _, states = model.unroll(params.recurrent, state, symbols)
        return jnp.sum(model.readout(params, states) ** 2)

    @jit
    def gradients():
        return [
            jax.value_and_grad(functools.partial(loss, model))(p)
            for model, p in ((tied, params), (untied, apart))
        ]

    (loss_tied, together), (loss_apart, separate) = gradients()
    assert_close(loss_tied, loss_apart)
    by_input, by_output = separate.recurrent.embedding, separate.readout.w.T
    assert np.abs(by_input).max() > 0.01 and np.abs(by_output).max() > 0.01
    assert_close(together.recurrent.embedding, by_input + by_output)
    assert_close(together.recurrent.layers, separate.recurrent.layers)
    assert_close(together.readout.b, separate.readout.b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": "onehot"}, "inputs: 'onehot' is unknown; use one of 'float'"),
        ({"embedding_size": 2}, 'embedding_size: inputs are "float"'),
        ({"tied": True}, 'tied: inputs are "float"'),
        ({"tied": True, "readout": "none"}, "tied: there is no readout to tie"),
        ({"readout": "none"}, 'readout: is "none", and the cell gives'),
        ({"readout": "linaer"}, "readout: 'linaer' is unknown; use one of 'linear'"),
        ({"tied": True, "inputs": "one_hot"}, 'tied: inputs are "one_hot"'),
        ({"tied": True, "inputs": "embedding"}, "tied: the embedding"),
        (
            {
                "tied": True,
                "inputs": "embedding",
                "input_size": Y,
                "embedding_size": H + 1,
            },
            "tied: the embedding",
        ),
        ({"initializer": "glorot"}, "initializer: 'glorot' is unknown; use one of"),
        ({"hidden_size": 0}, "hidden_size: 0 is not positive"),
        ({"num_layers": 0}, "num_layers: 0 is not positive"),
        (
            {"inputs": "embedding", "embedding_size": -1},
            "embedding_size: -1 is not positive",
        ),
    ],
)
def test_refusals_name_the_option(options, message):
    with pytest.raises(ValueError) as error:
        make_model(make_rnn(), **SIZES | options)
    assert str(error.value).startswith(message)


def test_without_a_readout_the_output_is_the_prediction():
    model = make_model(make_rnn(), readout="none", **SIZES | {"output_size": H})
    params = model.init(jax.random.key(0))
    assert not jax.tree.leaves(params.readout)
    state = draw_like(model.initial_state(params, (B,)), 0)
    np.testing.assert_array_equal(model.readout(params, state), state[-1].h)


def test_derivative_is_refused_by_name():
    model = make_model(make_rnn(), derivative="rules", **SIZES)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="derivative: 'rules' is unknown"):
        outline(model, np.zeros((T, B, X), np.float32))


@pytest.mark.parametrize(
    ("inputs", "options", "count"),
    [
        # (65 + 128) 512 + 512, (128 + 128) 512 + 512 and 128 65 + 65.
        ("one_hot", {}, 239_297),
        # X becomes 128, and the embedding serves as readout.
        ("embedding", {"tied": True}, 65 * 128 + 2 * (256 * 512 + 512) + 65),
        ("one_hot", {"learned_initial_state": True}, 239_297 + 2 * 2 * 128),
    ],
)
def test_number_of_parameters(inputs, options, count):
    model = make_model(
        make_lstm(),
        input_size=65,
        output_size=65,
        hidden_size=128,
        num_layers=2,
        inputs=inputs,
        **options,
    )
    assert count_parameters(jax.eval_shape(model.init, jax.random.key(0))) == count


def outline(model, inputs):
    """Returns shapes and dtypes of all that a model makes, and its program."""

    def everything():
        params = model.init(jax.random.key(0))
        state = model.initial_state(params, (B,))
        last, states = model.unroll(params.recurrent, state, inputs)
        return params, last, states, model.readout(params, states)

    return jax.eval_shape(everything), str(jax.make_jaxpr(everything)())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_is_everywhere(dtype, x64):
    model = make_model(make_lstm(), learned_initial_state=True, dtype=dtype, **SIZES)
    shapes, _ = outline(model, np.zeros((T, B, X), dtype))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {dtype}


def test_products_take_the_compute_dtype():
    inputs = np.float32(draw(T, B, X))
    model = make_model(make_lstm(), compute_dtype=jnp.bfloat16, **SIZES)
    exact = make_model(make_lstm(), **SIZES)
    shapes, program = outline(model, inputs)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}
    assert "bf16" in program and "bf16" not in outline(exact, inputs)[1]
    params = jax.tree.map(np.float32, draw_params(model))
    state = model.initial_state(params, (B,))
    rounded, full = jit(
        lambda: [
            m.unroll(params.recurrent, state, inputs)[1][0].h for m in (model, exact)
        ]
    )()
    # A bfloat16 keeps 8 bits; six steps of a net of four units do not add much to that.
    error = np.abs(rounded - full).max()
    assert 0 < error < 0.05


def test_readout_is_of_the_top_layer(x64):
    model = make_model(CELLS["gru"](), num_layers=2, dtype=jnp.float64, **SIZES)
    params = draw_params(model)
    state = draw_like(model.initial_state(params, (T, B)), seed=3)
    prediction = model.readout(params, state)
    w, b = params.readout
    expected = np.asarray(state[1].h) @ w + b
    assert_close(np.asarray(prediction), expected)


def test_step_takes_the_compute_dtype():
    model = make_model(make_lstm(), compute_dtype=jnp.bfloat16, **SIZES)
    plain = make_model(make_lstm(), **SIZES)
    params = model.init(jax.random.key(0))
    x = jnp.asarray(draw(B, X), jnp.float32)
    state = model.initial_state(params, (B,))
    one, _ = model.unroll(params.recurrent, state, x[None])
    assert model.step is not None and plain.step is not None
    assert_close(model.step(params.recurrent, state, x), one, 1e-6)
    exact = plain.step(params.recurrent, state, x)
    assert np.abs(one[0].h - exact[0].h).max() > 1e-5
