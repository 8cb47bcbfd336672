"""Stacks of LSTM layers, as users of other frameworks know them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.cells import Cell, LSTMParams, ProjectedLSTMParams, make_lstm
from jaxlstm.cells.initializers import Initializer
from jaxlstm.dropout import Dropout, check_dropout, drop_output
from jaxlstm.layers import (
    Connections,
    Directions,
    Wiring,
    advance_stack,
    init_layers,
    output_size,
    unroll_stack,
)
from jaxlstm.noise import Keys, fold_in, of_batch
from jaxlstm.select import keep
from jaxlstm.sequence import LSTM, Derivative, Remat, mask_by_length
from jaxlstm.shapes import (
    OptionError,
    broadcast_state,
    check_choice,
    check_lengths,
    check_sizes,
    check_state,
    check_time_axes,
)
from jaxlstm.types import Array, Key

# The parameters of a layer; of one in both directions, `Directions` of them.
LSTMLayer = LSTMParams | ProjectedLSTMParams | Directions


# Those of the LSTM by default.
OPTIONS = {
    "forget_bias": 1.0,
    "bias": True,
    "projection_size": None,
    "initializer": "glorot_orthogonal",
}


def init_lstm_stack(
    key: Key,
    input_size: int,
    hidden_size: int,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    projection_size: int | None = None,
    bias: bool = True,
    forget_bias: float | None = 1.0,
    initializer: str | Initializer = "glorot_orthogonal",
    connections: Connections = "none",
    cell: Cell | None = None,
    dtype: Any = jnp.float32,
) -> tuple[Any, ...]:
    """Draws the weights of a stack of LSTM layers.

    Args:
      key: a key from `jax.random.key`, consumed whole.
      input_size: X.
      hidden_size: H.
      num_layers: L.
      bidirectional: whether each layer reads in both directions, D = 2.
      projection_size: P, the size of each layer's output; None: H, not projected.
      bias: whether there is one.
      forget_bias: as in `init_lstm`.
      initializer: as in `init_lstm`.
      connections: as in `lstm_stack`, on which the sizes of inputs depend.
      cell: of every layer, in place of the LSTM; then the four options before
        `connections` are its own, and not to be given here.
      dtype: of all parameters.

    Returns:
      The parameters of each layer, from the input up: `LSTMParams`,
      `ProjectedLSTMParams`, those of the cell, or `Directions` of two of them. The
      inputs of a layer above the first are of size D H, or D P.

    Raises:
      ValueError: a size is not positive, a name unknown, or an option is the cell's.
    """
    check_choice("connections", connections, Connections)
    sizes = {
        "input_size": input_size,
        "hidden_size": hidden_size,
        "num_layers": num_layers,
    }
    check_sizes(sizes)
    options = {
        "forget_bias": forget_bias,
        "bias": bias,
        "projection_size": projection_size,
        "initializer": initializer,
    }
    if cell is None:
        cell = make_lstm(**options)
    elif options != OPTIONS:
        names = [name for name in OPTIONS if options[name] != OPTIONS[name]]
        raise OptionError(f"{', '.join(names)}: is of the LSTM; make the cell with it")
    return init_layers(
        cell,
        list(jax.random.split(key, num_layers)),
        input_size,
        hidden_size,
        bidirectional=bidirectional,
        connections=connections,
        dtype=dtype,
    )


def lstm_stack(
    params: Sequence[Any],
    inputs: Array,
    state: Any = None,
    *,
    cell: Cell = LSTM,
    mask: Array | None = None,
    lengths: Array | None = None,
    resets: Array | None = None,
    reset_state: Any = None,
    connections: Connections = "none",
    dropout: float | Dropout = 0.0,
    key: Key | None = None,
    time: int | Array = 0,
    remat: Remat = "none",
    derivative: Derivative = "rule",
    compute_dtype: Any = None,
) -> tuple[tuple[Any, ...], Array]:
    """Runs a stack of LSTM layers over a sequence.

        x^1_t = x_t
        h^l_t = output of layer l at x^l_t, in both directions side by side
        x^{l+1}_t = h^l_t                            connections = "none"
                    h^1_t + ... + h^l_t              "residual"
                    [x_t | h^l_t]                    "skip"
        output_t = h^L_t, h^1_t + ... + h^L_t, or [h^1_t | ... | h^L_t]

    Args:
      params: of each layer, as `init_lstm_stack` draws them.
      inputs: [T, ..., X], with any batch axes or none.
      state: of each layer before the first step, `LSTMState` [..., H] or `Directions`
        of two; that of a backward direction is before its own first step, the last of
        time. By default what the cell starts from, zeros for the LSTM.
      cell: whose parameters they are, of every layer.
      mask: [T, ...]; 0 where a step is not there. Holes are allowed.
      lengths: [...] integers; steps from there on are not there.
      resets: [T, ...]; 1 where a new sequence begins.
      reset_state: of each layer, what a reset puts in place; by default what the cell
        starts from.
      connections: "none", "residual" or "skip", see above.
      dropout: the rate between layers, or all of `Dropout`.
      key: [] one for all that is dropped, or [...] one for each example; None for
        evaluation, where nothing is dropped.
      time: [] the number of the first step, on which noise depends.
      remat: as in `jaxlstm.unroll`, and so are the other two.
      derivative: "rule" or "autodiff".
      compute_dtype: dtype of the factors of all products, or None.

    Returns:
      The last state of each layer, of a backward direction after step 0; and the
      outputs [T, ..., D H], zero on masked steps.

    Raises:
      ValueError: shapes do not fit together, or an option is unknown.
      TypeError: `lengths` are not integers, or a dtype does not fit.

    References:
      Schuster and Paliwal, Bidirectional Recurrent Neural Networks, IEEE Transactions
      on Signal Processing 45(11), 1997; Graves and Schmidhuber, Framewise Phoneme
      Classification with Bidirectional LSTM, Neural Networks 18, 2005.
    """
    wiring = _wiring(cell, params, connections, dropout, compute_dtype)
    inputs = jnp.asarray(inputs)
    if inputs.ndim < 2:
        raise ValueError(f"inputs: shape {inputs.shape} does not fit [T, ..., X]")
    if mask is not None:
        mask = check_time_axes("mask", mask, inputs)
    if lengths is not None:
        mask = mask_by_length(check_lengths(lengths, inputs), mask, inputs)
    batch_shape = inputs.shape[1:-1]
    _check_layers(wiring, params, inputs.shape[-1])
    start = wiring.initial_state(params, batch_shape)
    if state is None:
        state = start
    state = _check_states(check_state, "state", state, start, inputs)
    if reset_state is not None:
        reset_state = _check_states(
            broadcast_state, "reset_state", reset_state, start, inputs
        )
    last, states = unroll_stack(
        wiring,
        params,
        inputs,
        state,
        mask=mask,
        resets=resets,
        reset_state=reset_state,
        keys=_keys(key, batch_shape),
        time=time,
        remat=remat,
        derivative=derivative,
    )
    outputs = wiring.output(states)
    if key is not None:
        outputs = drop_output(
            outputs, wiring.dropout, _keys(key, batch_shape, purpose=1), time
        )
    return last, keep(mask, outputs, jnp.zeros_like(outputs))


def lstm_stack_step(
    params: Sequence[Any],
    state: Sequence[Any],
    x: Array,
    *,
    cell: Cell = LSTM,
    connections: Connections = "none",
    dropout: float | Dropout = 0.0,
    key: Key | None = None,
    time: int | Array = 0,
    compute_dtype: Any = None,
) -> tuple[tuple[Any, ...], Array]:
    """Makes one step of a stack of LSTM layers, for inputs that come one by one.

    Scanning it gives what `lstm_stack` gives, noise included where the key has the
    batch's shape.

    Args:
      params: of each layer, in one direction.
      state: of each layer, left by the step before; at first that of
        `zero_stack_state`.
      x: [..., X].
      cell: as in `lstm_stack`, and so are `connections`.
      connections: "none", "residual" or "skip".
      dropout: the rate between layers, or all of `Dropout`.
      key: as in `lstm_stack`.
      time: [] the number of the step.
      compute_dtype: dtype of the factors of all products, or None.

    Returns:
      The next state of each layer, and the output [..., H].

    Raises:
      ValueError: a layer reads in both directions, or shapes do not fit.
    """
    if any(isinstance(layer, Directions) for layer in params):
        raise OptionError(
            "params: a layer reads in both directions, and what is to come is not "
            "there yet; use lstm_stack, or a stack of one direction"
        )
    wiring = _wiring(cell, params, connections, dropout, compute_dtype)
    x = jnp.asarray(x)
    if not x.ndim:
        raise ValueError("x: a number does not fit [..., X]")
    batch_shape = x.shape[:-1]
    _check_layers(wiring, params, x.shape[-1])
    start = wiring.initial_state(params, batch_shape)
    states = advance_stack(
        wiring,
        params,
        _check_states(check_state, "state", state, start, x[None]),
        x,
        keys=_keys(key, batch_shape),
        time=time,
    )
    output = wiring.output(states)
    if key is not None:
        keys = _keys(key, batch_shape, purpose=1)
        output = drop_output(output, wiring.dropout, keys, time)
    return states, output


def zero_stack_state(
    params: Sequence[Any],
    batch_shape: tuple[int, ...] = (),
    *,
    cell: Cell = LSTM,
) -> tuple[Any, ...]:
    """Returns states of zeros for every layer and direction of a stack.

    Args:
      params: of each layer; they give H and the dtype.
      batch_shape: the batch axes, none by default.
      cell: whose parameters they are; if it does not start from zeros, what it starts
        from.
    """
    return Wiring(cell).initial_state(params, batch_shape)


def _check_states(
    check: Callable[..., Any], name: str, states: Any, expected: Any, inputs: Array
) -> tuple[Any, ...]:
    """Returns the states of a stack, checked layer by layer.

    Args:
      check: of a layer's state.
      name: of the argument.
      states: of all layers.
      expected: states of the right form.
      inputs: [T, ..., X] that they go with.

    Raises:
      ValueError: there are none for each layer, or one has another form or shape.
      TypeError: a dtype differs.
    """
    count = len(expected)
    if not isinstance(states, tuple | list) or hasattr(states, "_fields"):
        raise ValueError(
            f"{name}: {type(states).__name__} is no tuple of the states of {count} "
            "layers"
        )
    if len(states) != count:
        raise ValueError(
            f"{name}: {len(states)} states are not those of {count} layers"
        )
    pairs = zip(states, expected, strict=True)
    return tuple(
        check(f"{name}[{n}]", state, want, inputs)
        for n, (state, want) in enumerate(pairs)
    )


def _check_layers(wiring: Wiring, layers: Sequence[Any], size: int) -> None:
    """Raises ValueError unless each layer takes what those below it give.

    Args:
      wiring: how they are put together.
      layers: their parameters.
      size: X, of the input of the stack; that the first one takes it is seen elsewhere.
    """
    for n, layer in enumerate(layers[1:], 1):
        wanted = output_size(wiring._replace(connections="none"), layers[:n])
        wanted += size if wiring.connections == "skip" else 0
        directions = layer._asdict() if isinstance(layer, Directions) else {"": layer}
        for name, params in directions.items():
            if not hasattr(params, "w_x"):
                continue  # A cell of the user's own, which looks for itself.
            if jnp.shape(params.w_x)[:1] != (wanted,):
                raise ValueError(
                    f"params[{n}]{'.' if name else ''}{name}.w_x: shape "
                    f"{jnp.shape(params.w_x)} does not fit [X, K]; what is below "
                    f"gives X = {wanted}"
                )


def _wiring(
    cell: Cell,
    params: Sequence[Any],
    connections: Connections,
    dropout: float | Dropout,
    compute_dtype: Any,
) -> Wiring:
    check_choice("connections", connections, Connections)
    if not isinstance(cell, Cell):
        raise TypeError(
            f"cell: {type(cell).__name__} is no Cell; give one that is made, such as "
            'CELLS["slstm"]()'
        )
    if not isinstance(params, tuple | list) or hasattr(params, "_fields"):
        raise ValueError(
            f"params: {type(params).__name__} is no tuple of layers; write (params,) "
            "for a single one"
        )
    if not params:
        raise ValueError("params: there is no layer")
    options = check_dropout(dropout, cell, len(params))
    if options.embedding:
        raise OptionError(
            f"dropout.embedding: {options.embedding} is of symbols, and a stack has no "
            "embedding; use input, or make_model"
        )
    return Wiring(cell, connections, options, compute_dtype)


def _keys(
    key: Key | Keys | None, batch_shape: tuple[int, ...], purpose: int = 0
) -> Keys | None:
    return None if key is None else fold_in(of_batch(key, batch_shape), purpose)
