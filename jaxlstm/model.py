"""Models of layers of a cell under a readout."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.backends.parallel import check_parallel
from jaxlstm.cells import Cell
from jaxlstm.cells.base import StepNoise
from jaxlstm.cells.form import LOG_OF_ZERO
from jaxlstm.cells.initializers import Initializer, find_initializer
from jaxlstm.dropout import (
    Dropout,
    check_dropout,
    draw_noise,
    drop_feed,
    drop_output,
    drop_symbols,
    drop_weights,
)
from jaxlstm.edges import Edges, Hooks
from jaxlstm.interface import Layers as Layers
from jaxlstm.interface import Model as Model
from jaxlstm.interface import ModelParams as ModelParams
from jaxlstm.layers import (
    Connections,
    Directions,
    Wiring,
    advance_stack,
    init_layers,
    unroll_stack,
)
from jaxlstm.layers import output_size as output_size_of
from jaxlstm.noise import Keys, of_batch, split
from jaxlstm.sequence import Derivative, Engine, Remat, check_deer
from jaxlstm.shapes import OptionError, check_choice, check_sizes
from jaxlstm.types import Array, Key, PyTree

InputKind = Literal["float", "one_hot", "embedding"]
Readout = Literal["linear", "none"]


class RecurrentParams(NamedTuple):
    """The recurrent parameters of a model made by `make_model`.

    Attributes:
      embedding: [X, E] embedding of X symbols, or None.
      layers: the parameters of each layer's cell, from the input up; `Directions` of
        them where it reads in both.
      initial_state: the learned state [...H] each layer starts from, or None.
    """

    embedding: Array | None
    layers: tuple[Any, ...]
    initial_state: tuple[Any, ...] | None


class ReadoutParams(NamedTuple):
    """A linear readout, or none.

    Attributes:
      w: [H, Y], or None where the embedding's transpose serves.
      b: [Y]; None where there is no readout.
    """

    w: Array | None
    b: Array | None


def make_model(
    cell: Cell,
    *,
    input_size: int,
    output_size: int,
    hidden_size: int,
    num_layers: int = 1,
    bidirectional: bool = False,
    connections: Connections = "none",
    inputs: InputKind = "float",
    embedding_size: int | None = None,
    tied: bool = False,
    readout: Readout = "linear",
    learned_initial_state: bool = False,
    dropout: float | Dropout = 0.0,
    initializer: str | Initializer = "glorot_orthogonal",
    derivative: Derivative = "rule",
    engine: Engine = "scan",
    compute_dtype: Any = None,
    dtype: Any = jnp.float32,
) -> Model:
    """Stacks layers of a cell, each fed by the outputs of the one below.

        x'_t = x_t, or its one-hot vector, or its row of the embedding
        h^1_t = output of layer 1 at x'_t
        h^l_t = output of layer l at dropout(h^{l-1}_t), if connections = "none"
        prediction_t = dropout(h^L_t) W + b

    Args:
      cell: the cell of every layer.
      input_size: X, the size of the input; the number of symbols where inputs are
        "one_hot" or "embedding".
      output_size: Y.
      hidden_size: H, of every layer.
      num_layers: L.
      bidirectional: whether a layer reads in both directions, its outputs side by side.
        The model then has no `step`.
      connections: "none", "residual" or "skip", as in `jaxlstm.lstm_stack`.
      inputs: "float" [T, ..., X]; "one_hot" or "embedding": integers [T, ...] below X.
      embedding_size: E; by default H.
      tied: whether the readout's weights are the embedding's, transposed.
      readout: "linear"; or "none": the prediction is the output of the last layer, of
        size Y, and has no parameters.
      learned_initial_state: whether the state a sequence starts from is a parameter
        (zeros at first) or stays what the cell says.
      dropout: the rate at which outputs of a layer are dropped on their way into the
        next one, where there is a key: at each step anew, recurrent connections
        never [1]; or all of `Dropout`.
      initializer: of embedding and readout; the cell has its own.
      derivative: "rule" or "autodiff", as in `unroll`.
      engine: of `unroll`: "scan", or all steps at once by "deer", or by "parallel" in a
        cell that is a linear recurrence; `step` does not depend on it.
      compute_dtype: dtype of the factors of all products in the cells, or None.
      dtype: of all parameters and states.

    Returns:
      The model. Its state is a tuple of the layers' states.

    Raises:
      ValueError: options that do not go together, or an unknown name.

    References:
      [1] Zaremba, Sutskever and Vinyals, Recurrent Neural Network Regularization,
      2014.
      Tied weights: Press and Wolf, Using the Output Embedding to Improve Language
      Models, EACL 2017; Inan, Khosravi and Socher, Tying Word Vectors and Word
      Classifiers, ICLR 2017.
    """
    check_choice("inputs", inputs, InputKind)
    check_choice("readout", readout, Readout)
    check_choice("engine", engine, Engine)
    check_choice("connections", connections, Connections)
    if readout == "none" and tied:
        raise OptionError('tied: there is no readout to tie; set readout = "linear"')
    sizes = {
        "input_size": input_size,
        "output_size": output_size,
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "embedding_size": 1 if embedding_size is None else embedding_size,
    }
    check_sizes(sizes)
    if connections != "none" and num_layers == 1:
        raise OptionError(
            f'connections: "{connections}" joins layers, and num_layers is 1; leave it '
            "out"
        )
    options = check_dropout(dropout, cell, num_layers)
    if engine == "deer":
        inside = options.recurrent or options.zoneout_h or options.zoneout_c
        check_deer(
            derivative=derivative, compute_dtype=compute_dtype, noise=bool(inside)
        )
    if engine == "parallel":
        check_parallel(cell, derivative=derivative)
    if options.embedding and inputs != "embedding":
        raise OptionError(
            f'dropout.embedding: inputs are "{inputs}", which has no embedding; use '
            "dropout.input"
        )
    draw = find_initializer(initializer)
    if inputs == "embedding":
        width = hidden_size if embedding_size is None else embedding_size
    else:
        width = input_size
    wiring = Wiring(cell, connections, options, compute_dtype)

    def draw_layers(keys: Any) -> tuple[Any, ...]:
        return init_layers(
            cell,
            keys,
            width,
            hidden_size,
            bidirectional=bidirectional,
            connections=connections,
            dtype=dtype,
        )

    # All of it abstract: a key at hand would settle how many devices there are.
    shapes = jax.eval_shape(
        lambda: draw_layers(list(jax.random.split(jax.random.key(0), num_layers)))
    )
    top = output_size_of(wiring, shapes)
    _check_embedding(inputs, embedding_size)
    if tied:
        _check_tied(inputs, (input_size, width), (top, output_size))
    _check_dropped(wiring, shapes)

    def init(key: Key) -> ModelParams:
        key_embedding, key_w, key_b, *keys = jax.random.split(key, 3 + num_layers)
        embedding = None
        if inputs == "embedding":
            shape = input_size, width
            embedding = draw.input(key_embedding, shape, hidden_size, dtype)
        layers, start = draw_layers(keys), None
        if learned_initial_state:
            # No gradient goes past the log of 0, so it would stay what it is.
            start = jax.tree.map(
                lambda x: jnp.where(x > LOG_OF_ZERO, x, 0),
                wiring.initial_state(layers, ()),
            )
        w, b = None, None
        if readout == "linear":
            if not tied:
                shape = top, output_size
                w = draw.readout(key_w, shape, hidden_size, dtype)
            b = draw.bias(key_b, (output_size,), hidden_size, dtype)
        return ModelParams(
            RecurrentParams(embedding, layers, start), ReadoutParams(w, b)
        )

    def start(recurrent: RecurrentParams, batch_shape: tuple[int, ...]) -> Any:
        if recurrent.initial_state is None:
            return wiring.initial_state(recurrent.layers, batch_shape)
        return jax.tree.map(
            lambda x: jnp.broadcast_to(x, (*batch_shape, *x.shape)),
            recurrent.initial_state,
        )

    def initial_state(params: ModelParams, batch_shape: tuple[int, ...]) -> Any:
        return start(params.recurrent, batch_shape)

    def inner_shape(x: Array) -> tuple[int, ...]:
        """Returns the axes of an input that are not its features."""
        return jnp.shape(x)[:-1] if inputs == "float" else jnp.shape(x)

    def embed(
        embedding: Array | None, x: Array, keys: Keys | None, time: int | Array
    ) -> Array:
        if inputs == "one_hot":
            return jax.nn.one_hot(x, input_size, dtype=dtype)
        if inputs == "float":
            return x
        return drop_symbols(jnp.asarray(embedding)[x], x, options, keys, time)

    def step(
        recurrent: RecurrentParams,
        state: Any,
        x: Array,
        *,
        key: Key | None = None,
        time: int | Array = 0,
        edges: Edges | None = None,
    ) -> Any:
        keys = of_batch(key, inner_shape(x))
        x = embed(recurrent.embedding, x, keys, time)
        return advance_stack(
            wiring, recurrent.layers, state, x, edges=edges, keys=keys, time=time
        )

    def unroll_layers(
        recurrent: RecurrentParams,
        state: Any,
        inputs: Array,
        *,
        mask: Array | None = None,
        resets: Array | None = None,
        edges: Edges | Hooks | None = None,
        key: Key | None = None,
        time: int | Array = 0,
        remat: Remat = "none",
    ) -> tuple[Any, Any]:
        batch_shape = inner_shape(inputs)[1:]
        keys = of_batch(key, batch_shape)
        return unroll_stack(
            wiring,
            recurrent.layers,
            embed(recurrent.embedding, inputs, keys, time),
            state,
            mask=mask,
            resets=resets,
            reset_state=start(recurrent, batch_shape),
            edges=edges,
            keys=keys,
            time=time,
            remat=remat,
            derivative=derivative,
            engine=engine,
        )

    def output(state: Any, *, key: Key | None = None, time: int | Array = 0) -> Array:
        top = wiring.output(state)
        if key is None or not options.output:
            return top
        return drop_output(top, options, of_batch(key, key.shape), time)

    def read_out(
        params: ModelParams,
        state: Any,
        *,
        key: Key | None = None,
        time: int | Array = 0,
    ) -> Array:
        (w, b), top = params.readout, output(state, key=key, time=time)
        if b is None:
            return top
        if w is None:
            w = params.recurrent.embedding.T
        product = top @ w
        return product + jnp.broadcast_to(b, product.shape)

    def encode(
        embedding: Array | None, x: Array, key: Key | None = None, time: int | Array = 0
    ) -> Array:
        return embed(embedding, x, of_batch(key, inner_shape(x)), time)

    def drop(x: Array, layer: int, key: Key | None, time: int | Array) -> Array:
        return drop_feed(x, layer, options, of_batch(key, x.shape[:-1]), time)

    def disturb(
        state: Any, layer: int, key: Key | None, time: int | Array
    ) -> StepNoise | None:
        batch_shape = jax.tree.leaves(state)[0].shape[:-1]
        return draw_noise(state, layer, options, of_batch(key, batch_shape), time)

    if readout == "none" and top != output_size:
        raise OptionError(
            f'readout: is "none", and the cell gives {top} values where '
            f'{output_size} are asked for; use readout = "linear"'
        )
    layers = None
    if not (bidirectional or connections != "none" or options.weights):
        layers = Layers(cell, encode, width, drop, disturb, compute_dtype)
    return Model(
        init,
        initial_state,
        None if bidirectional else step,
        unroll_layers,
        read_out,
        layers,
        output,
        jax.ShapeDtypeStruct(
            (input_size,) if inputs == "float" else (),
            dtype if inputs == "float" else jnp.int32,
        ),
        engine,
    )


def count_parameters(params: PyTree) -> int:
    """Returns the number of parameters, over all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _check_embedding(inputs: str, embedding_size: int | None) -> None:
    if inputs != "embedding" and embedding_size is not None:
        raise OptionError(
            f'embedding_size: inputs are "{inputs}", which has no embedding; '
            'leave it out, or set inputs = "embedding"'
        )


def _check_tied(
    inputs: str, embedding: tuple[int, int], readout: tuple[int, int]
) -> None:
    if inputs != "embedding":
        raise OptionError(
            f'tied: inputs are "{inputs}", with no embedding to tie the readout to; '
            'set inputs = "embedding"'
        )
    if embedding != readout[::-1]:
        raise OptionError(
            f"tied: the embedding [X, E] is {embedding} and the readout [H, Y] is "
            f"{readout}; tying needs X = Y, E = H"
        )


def _check_dropped(wiring: Wiring, layers: Any) -> None:
    """Raises OptionError where a layer has no place for what is dropped inside it."""
    options = wiring.dropout

    def draw(layers: Any) -> Any:
        keys = split(jax.random.key(0), ())
        states = wiring.initial_state(layers, ())
        pairs = [
            pair
            for layer, state in zip(layers, states, strict=True)
            for pair in (
                zip(layer, state, strict=True)
                if isinstance(layer, Directions)
                else [(layer, state)]
            )
        ]
        return [
            (
                drop_weights(params, 0, options, keys),
                draw_noise(state, 0, options, keys, 0),
            )
            for params, state in pairs
        ]

    jax.eval_shape(draw, layers)
