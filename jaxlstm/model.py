"""A model: what an estimator differentiates. Layers of cells under a readout."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxlstm import noise
from jaxlstm.cells import Cell
from jaxlstm.cells.initializers import Initializer, find_initializer
from jaxlstm.edges import Edges, Hooks
from jaxlstm.sequence import (
    Derivative,
    Engine,
    Remat,
    advance,
    check_deer,
    unroll,
)
from jaxlstm.shapes import OptionError, check_choice
from jaxlstm.types import Array, Key, PyTree

InputKind = Literal["float", "one_hot", "embedding"]
Readout = Literal["linear", "none"]


class ModelParams(NamedTuple):
    """The parameters of a model.

    Attributes:
      recurrent: those that `step` uses, and what the state starts from.
      readout: those that only the readout uses.
    """

    recurrent: Any
    readout: Any


class StepFn(Protocol):
    """Advances a model by one time step."""

    def __call__(
        self,
        recurrent: Any,
        state: Any,
        x: Array,
        *,
        key: Key | None = None,
        time: int | Array = 0,
    ) -> Any:
        """Takes x [..., X] and returns the next state."""
        ...


class UnrollFn(Protocol):
    """Runs a model over a segment of time."""

    def __call__(
        self,
        recurrent: Any,
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
        """Takes inputs [T, ..., X]; returns the last state and all [T, ...]."""
        ...


class ReadoutFn(Protocol):
    """Turns states into predictions."""

    def __call__(
        self, params: Any, state: Any, *, key: Key | None = None, time: int | Array = 0
    ) -> Any:
        """Takes whole parameters and a state with any leading axes."""
        ...


class InitFn(Protocol):
    """Draws the parameters of a model."""

    def __call__(self, key: Key) -> ModelParams:
        """Consumes the key whole."""
        ...


class InitialStateFn(Protocol):
    """Makes the state that a sequence starts from."""

    def __call__(self, params: ModelParams, batch_shape: tuple[int, ...]) -> Any:
        """Returns leaves [*batch_shape, ...]."""
        ...


class Layers(NamedTuple):
    """How a stack of layers makes its step, for estimators that look inside.

    Such a step takes `edges` too, as in `jaxlstm.unroll`, of one step.

        x^1 = encode(embedding, x)
        s^l' = step of the cell from s^l, at x^l
        x^{l+1} = drop(output(s^l'), l, key, time)

    Its parameters are `RecurrentParams`, its state a tuple of the layers' states.

    Attributes:
      cell: of every layer.
      example_input: shape of an input without batch, and its dtype.
      encode: `(embedding, x) -> x^1`, [..., width]. Linear in the embedding, which may
        be None.
      width: of x^1.
      drop: `(output, layer, key, time) -> output`, the noise on the way into a layer.
      compute_dtype: dtype of the factors of the cells' products, or None.
    """

    cell: Cell
    example_input: jax.ShapeDtypeStruct
    encode: Callable[[Array | None, Array], Array]
    width: int
    drop: Callable[[Array, int, Key | None, int | Array], Array]
    compute_dtype: Any


class Model(NamedTuple):
    """Pure functions from parameters, state and input to predictions.

    A key is an array of keys of the batch's shape, one for each example, so that
    draws do not depend on how the batch is spread over devices. The noise of a step
    comes from its key and its time, `fold_in(key, time)`; `time` is the number of the
    step, or of the first one. So `unroll` draws what scanning `step` does, and a
    sequence run in chunks what it does as a whole. None means no noise: evaluation.

    Attributes:
      init: `(key) -> ModelParams`.
      initial_state: `(params, batch_shape) -> state`, leaves [*batch_shape, ...].
      step: `(recurrent, state, x [..., X], *, key=None, time=0) -> state`. None for a
        model with no online form.
      unroll: `(recurrent, state, inputs [T, ..., X], *, mask=None, resets=None,
        edges=None, key=None, time=0, remat="none") -> (state, states [T, ...])`: what
        scanning `step` gives, only faster. A reset puts the initial state in place.
      readout: `(params, state, *, key=None, time=0) -> prediction [..., Y]`, of the
        state alone, with any axes before it; of the whole parameters, so that weights
        can be tied.
      layers: how `step` is made; None for a model of one's own. Some estimators need
        it, and say so.
    """

    init: InitFn
    initial_state: InitialStateFn
    step: StepFn | None
    unroll: UnrollFn
    readout: ReadoutFn
    layers: Layers | None = None


class RecurrentParams(NamedTuple):
    """The recurrent parameters of a model made by `make_model`.

    Attributes:
      embedding: [X, E] embedding of X symbols, or None.
      layers: the parameters of each layer's cell, from the input up.
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
    inputs: InputKind = "float",
    embedding_size: int | None = None,
    tied: bool = False,
    readout: Readout = "linear",
    learned_initial_state: bool = False,
    dropout: float = 0.0,
    initializer: str | Initializer = "glorot_orthogonal",
    derivative: Derivative = "rule",
    engine: Engine = "scan",
    compute_dtype: Any = None,
    dtype: Any = jnp.float32,
) -> Model:
    """Stacks layers of a cell, each fed by the outputs of the one below.

        x'_t = x_t, or its one-hot vector, or its row of the embedding
        h^1_t = output of layer 1 at x'_t
        h^l_t = output of layer l at dropout(h^{l-1}_t)
        prediction_t = h^L_t W + b

    Args:
      cell: the cell of every layer.
      input_size: X, the size of the input; the number of symbols where inputs are
        "one_hot" or "embedding".
      output_size: Y.
      hidden_size: H, of every layer.
      num_layers: L.
      inputs: "float" [T, ..., X]; "one_hot" or "embedding": integers [T, ...] below X.
      embedding_size: E; by default H.
      tied: whether the readout's weights are the embedding's, transposed.
      readout: "linear"; or "none": the prediction is the output of the last layer, of
        size Y, and has no parameters.
      learned_initial_state: whether the state a sequence starts from is a parameter
        (zeros at first) or stays what the cell says.
      dropout: the rate at which outputs of a layer are dropped on their way into the
        next one, where there is a key: at each step anew, recurrent connections
        never [1].
      initializer: of embedding and readout; the cell has its own.
      derivative: "rule" or "autodiff", as in `unroll`.
      engine: of `unroll`: "scan", or "deer" for all steps at once; `step` does not
        depend on it.
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
    if engine == "deer":
        check_deer(derivative=derivative, compute_dtype=compute_dtype)
    if readout == "none" and tied:
        raise OptionError('tied: there is no readout to tie; set readout = "linear"')
    sizes = {
        "input_size": input_size,
        "output_size": output_size,
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "embedding_size": 1 if embedding_size is None else embedding_size,
    }
    for name, size in sizes.items():
        if size < 1:
            raise OptionError(f"{name}: {size} is not positive")
    if not 0 <= dropout < 1:
        raise OptionError(f"dropout: {dropout} is not in [0, 1)")
    if dropout and num_layers == 1:
        raise OptionError(
            f"dropout: {dropout} acts between layers, and num_layers is 1; leave it out"
        )
    _check_embedding(
        inputs, embedding_size, tied, (input_size, output_size, hidden_size)
    )
    draw = find_initializer(initializer)
    if inputs == "embedding":
        width = hidden_size if embedding_size is None else embedding_size
    else:
        width = input_size

    def init(key: Key) -> ModelParams:
        key_embedding, key_w, key_b, *keys = jax.random.split(key, 3 + num_layers)
        embedding = None
        if inputs == "embedding":
            shape = input_size, width
            embedding = draw.input(key_embedding, shape, hidden_size, dtype)
        sizes = [width] + [hidden_size] * (num_layers - 1)
        layers = tuple(
            cell.init(k, size, hidden_size, dtype=dtype)
            for k, size in zip(keys, sizes, strict=True)
        )
        start = None
        if learned_initial_state:
            start = tuple(cell.initial_state(layer, ()) for layer in layers)
        w, b = None, None
        if readout == "linear":
            if not tied:
                shape = hidden_size, output_size
                w = draw.readout(key_w, shape, hidden_size, dtype)
            b = draw.bias(key_b, (output_size,), hidden_size, dtype)
        return ModelParams(
            RecurrentParams(embedding, layers, start), ReadoutParams(w, b)
        )

    def start(recurrent: RecurrentParams, batch_shape: tuple[int, ...]) -> Any:
        if recurrent.initial_state is None:
            return tuple(cell.initial_state(p, batch_shape) for p in recurrent.layers)
        return jax.tree.map(
            lambda x: jnp.broadcast_to(x, (*batch_shape, *x.shape)),
            recurrent.initial_state,
        )

    def initial_state(params: ModelParams, batch_shape: tuple[int, ...]) -> Any:
        return start(params.recurrent, batch_shape)

    def encode(embedding: Array | None, x: Array) -> Array:
        if inputs == "one_hot":
            return jax.nn.one_hot(x, input_size, dtype=dtype)
        return x if inputs == "float" else jnp.asarray(embedding)[x]

    def drop(output: Array, layer: int, key: Key | None, time: int | Array) -> Array:
        if not dropout or key is None or layer == 0:
            return output
        return noise.dropout(output, dropout, noise.fold_in(key, layer), time)

    def step(
        recurrent: RecurrentParams,
        state: Any,
        x: Array,
        *,
        key: Key | None = None,
        time: int | Array = 0,
        edges: Edges | None = None,
    ) -> Any:
        output, states = encode(recurrent.embedding, x), []
        layers = zip(recurrent.layers, state, strict=True)
        for n, (params, layer_state) in enumerate(layers):
            output = drop(output, n, key, time)
            layer_state = advance(
                cell, params, layer_state, output, edges, compute_dtype
            )
            output = cell.output(layer_state)
            states.append(layer_state)
        return tuple(states)

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
        outputs, lasts, states = encode(recurrent.embedding, inputs), [], []
        reset_state = start(recurrent, outputs.shape[1:-1])
        layers = zip(recurrent.layers, state, reset_state, strict=True)
        for n, (params, layer_state, layer_reset) in enumerate(layers):
            outputs = drop(outputs, n, key, time)
            last, layer_states = unroll(
                cell,
                params,
                outputs,
                layer_state,
                mask=mask,
                resets=resets,
                reset_state=layer_reset,
                edges=edges,
                remat=remat,
                derivative=derivative,
                compute_dtype=compute_dtype,
                engine=engine,
            )
            outputs = cell.output(layer_states)
            lasts.append(last)
            states.append(layer_states)
        return tuple(lasts), tuple(states)

    def read_out(
        params: ModelParams,
        state: Any,
        *,
        key: Key | None = None,
        time: int | Array = 0,
    ) -> Array:
        del key, time
        (w, b), output = params.readout, cell.output(state[-1])
        if b is None:
            return output
        if w is None:
            w = params.recurrent.embedding.T
        product = output @ w
        return product + jnp.broadcast_to(b, product.shape)

    if readout == "none":
        _check_outputs(cell, (width, hidden_size, output_size))
    example = jax.ShapeDtypeStruct(
        (input_size,) if inputs == "float" else (),
        dtype if inputs == "float" else jnp.int32,
    )
    layers = Layers(cell, example, encode, width, drop, compute_dtype)
    return Model(init, initial_state, step, unroll_layers, read_out, layers)


def count_parameters(params: PyTree) -> int:
    """Returns the number of parameters, over all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _check_embedding(
    inputs: str, embedding_size: int | None, tied: bool, sizes: tuple[int, int, int]
) -> None:
    input_size, output_size, hidden_size = sizes
    if inputs != "embedding" and embedding_size is not None:
        raise OptionError(
            f'embedding_size: inputs are "{inputs}", which has no embedding; '
            'leave it out, or set inputs = "embedding"'
        )
    if not tied:
        return
    if inputs != "embedding":
        raise OptionError(
            f'tied: inputs are "{inputs}", with no embedding to tie the readout to; '
            'set inputs = "embedding"'
        )
    if input_size != output_size or embedding_size not in (None, hidden_size):
        raise OptionError(
            f"tied: the embedding [X, E] is {(input_size, embedding_size)} and the "
            f"readout [H, Y] is {(hidden_size, output_size)}; tying needs X = Y, E = H"
        )


def _check_outputs(cell: Cell, sizes: tuple[int, int, int]) -> None:
    width, hidden_size, output_size = sizes

    def output(key: Key) -> Array:
        return cell.output(cell.initial_state(cell.init(key, width, hidden_size), ()))

    given = jax.eval_shape(output, jax.random.key(0)).shape[-1]
    if given != output_size:
        raise OptionError(
            f'readout: is "none", and the cell gives {given} values where '
            f'{output_size} are asked for; use readout = "linear"'
        )
