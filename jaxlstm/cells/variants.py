"""Variants of the LSTM, told apart by flags of one update; see `jaxlstm.cells.form`."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.cells.activations import Activation, find_activation
from jaxlstm.cells.base import (
    Cell,
    Gated,
    GatedWeights,
    gated_step,
    num_recurrent_columns,
    read_h,
)
from jaxlstm.cells.form import (
    LOG_OF_ZERO,
    ForgetActivation,
    Form,
    LayerNorm,
    Small,
    make_updates,
)
from jaxlstm.cells.initializers import (
    Initializer,
    check_chrono,
    draw_blocks,
    draw_gates,
    find_initializer,
    set_gate_biases,
)
from jaxlstm.cells.lstm import LSTMState
from jaxlstm.shapes import (
    OptionError,
    check_choice,
    check_gates,
    check_heads,
    check_heads_of,
    check_sizes,
)
from jaxlstm.types import Array, Key

Heads = int | Literal["diagonal"]


class LSTMVariantParams(NamedTuple):
    """Weights of one layer of a variant of the LSTM.

    The G blocks of z are those that there are of i, f, g, o, in this order.

    Attributes:
      w_x: [X, G H] input weights.
      w_h: [R, G H] recurrent weights, R = H or, where the output is projected, P. Or
        [N, H/N, G, H/N] of N heads, which do not read each other.
      b: [G H] bias, or None.
      w_p: [H, P] projection, or None.
      peepholes: [p, H] on the memory, of the p gates that there are, in the order i,
        f, o; or None.
      w_gates: [p H, p H] on the gates of the step before, from and to those of the same
        order; or None.
      w_mx: [X, H] on the input, where it multiplies the hidden state; or None.
      w_mh: [H, H] on the hidden state, where the input multiplies it; or None.
      scale_x: [G H] gain of the normalised x W_x, or None.
      scale_h: [G H] gain of the normalised h W_h, or None.
      scale_c: [H] gain of the normalised memory, or None.
      shift_c: [H] bias of the normalised memory, or None.
    """

    w_x: Array
    w_h: Array
    b: Array | None = None
    w_p: Array | None = None
    peepholes: Array | None = None
    w_gates: Array | None = None
    w_mx: Array | None = None
    w_mh: Array | None = None
    scale_x: Array | None = None
    scale_h: Array | None = None
    scale_c: Array | None = None
    shift_c: Array | None = None


class GateRecurrentState(NamedTuple):
    """What a cell remembers whose gates read each other.

    Attributes:
      h: [..., H] hidden state; also the cell's output.
      c: [..., H] memory cell.
      gates: [..., p H] values of the gates, in the order i, f, o.
    """

    h: Array
    c: Array
    gates: Array


class ExponentialState(NamedTuple):
    """What a cell with exponential gates remembers.

    Attributes:
      h: [..., H] hidden state; also the cell's output.
      c: [..., H] memory cell, divided by its normaliser n.
      m: [..., H] log n.
    """

    h: Array
    c: Array
    m: Array


class _Layout(NamedTuple):
    """What is there beside the form, and at which sizes."""

    form: Form
    bias: bool
    heads: Heads
    projection_size: int | None


def make_lstm_variant(
    *,
    input_gate: bool = True,
    forget_gate: bool = True,
    output_gate: bool = True,
    coupled: bool = False,
    peepholes: bool = False,
    gate_recurrence: bool = False,
    layer_norm: LayerNorm = "none",
    exponential: ForgetActivation | None = None,
    multiplicative: bool = False,
    heads: Heads = 1,
    gate_activation: Activation = "sigmoid",
    candidate_activation: Activation = "tanh",
    output_activation: Activation = "tanh",
    forget_bias: float | None = 1.0,
    chrono: int | None = None,
    bias: bool = True,
    projection_size: int | None = None,
    initializer: str | Initializer = "glorot_orthogonal",
) -> Cell:
    """Returns a variant of the LSTM as a `Cell`.

        i, f, o = sigmoid(x W_x + h W_h + b)     input, forget and output gates
              g = tanh(x W_x + h W_h + b)        candidate for the memory
             c' = f c + i g
             h' = o tanh(c')

    is the LSTM, without any option. Options go together where nothing else is said.
    All gains are 1 at first, peepholes and weights from gate to gate are drawn as
    biases and as recurrent weights.

    Args:
      input_gate: whether there is one; else i = 1 [1].
      forget_gate: whether there is one; else f = 1 [1].
      output_gate: whether there is one; else o = 1 [1].
      coupled: f = 1 - i [1].
      peepholes: the gates read the memory too, each unit its own: i and f read c, o
        reads c' [2].
      gate_recurrence: the gates read all gates of the step before, as they read h [1].
      layer_norm: [3] x W_x and h W_h, and c' before its tanh, are normalised, and
        have gains of their own. "joint": each product over all blocks, as there;
        "gates": over each block by itself.
      exponential: i = exp(.), and f is this: "sigmoid" or "exp". The memory is divided
        by n' = f n + i, and its tanh is left out by `output_activation="identity"` [4].
        What is kept is c / n and m = log n, so that nothing overflows.
      multiplicative: (x W_mx) (h W_mh), element by element, takes the place of h [5].
        Of two products in a row the second is inside the update: its gradient by W_h
        is taken step by step, as plain autodiff does.
      heads: N, the blocks on the diagonal of the recurrent weights; H of them are
        "diagonal".
      gate_activation: a name of `ACTIVATIONS`, or a function.
      candidate_activation: likewise.
      output_activation: likewise, of c' before the output gate.
      forget_bias: as in `init_lstm`; with `coupled`, of the input gate with the other
        sign.
      chrono: as in `init_lstm`.
      bias: as in `init_lstm`.
      projection_size: as in `init_lstm`.
      initializer: as in `init_lstm`.

    Raises:
      OptionError: an option is unknown, or two do not go together.

    References:
      [1] Greff et al., LSTM: A Search Space Odyssey, IEEE Transactions on Neural
      Networks and Learning Systems 28(10), 2017.
      [2] Gers and Schmidhuber, Recurrent Nets that Time and Count, IJCNN 2000.
      [3] Ba, Kiros and Hinton, Layer Normalization, 2016, equations 20 to 22.
      [4] Beck et al., xLSTM: Extended Long Short-Term Memory, NeurIPS 2024, section
      2.2.
      [5] Krause et al., Multiplicative LSTM for Sequence Modelling, 2017.
    """
    check_choice("layer_norm", layer_norm, LayerNorm)
    if exponential is not None:
        check_choice("exponential", exponential, ForgetActivation)
    activations = {
        "gate_activation": gate_activation,
        "candidate_activation": candidate_activation,
        "output_activation": output_activation,
    }
    for option, activation in activations.items():
        find_activation(option, activation)
    form = Form(
        input_gate=input_gate,
        forget_gate=forget_gate,
        output_gate=output_gate,
        coupled=coupled,
        peepholes=peepholes,
        gate_recurrence=gate_recurrence,
        layer_norm=layer_norm,
        exponential=exponential,
        multiplicative=multiplicative,
        **activations,
    )
    layout = _Layout(form, bias, heads, projection_size)
    _check_options(layout)
    check_chrono(chrono, bias)
    init = functools.partial(
        _init,
        layout,
        find_initializer(initializer),
        forget_bias=forget_bias,
        chrono=chrono,
    )
    gated = _make_gated(form)
    return Cell(init, _make_start(form), gated_step(gated), gated)


VARIANTS: dict[str, Callable[..., Cell]] = {
    name: functools.partial(make_lstm_variant, **options)
    for name, options in {
        "lstm_variant": {},
        "peephole_lstm": {"peepholes": True},
        # The eight of Greff et al., each one change to the LSTM with peepholes.
        "nig_lstm": {"peepholes": True, "input_gate": False},
        "nfg_lstm": {"peepholes": True, "forget_gate": False},
        "nog_lstm": {"peepholes": True, "output_gate": False},
        "niaf_lstm": {"peepholes": True, "candidate_activation": "identity"},
        "noaf_lstm": {"peepholes": True, "output_activation": "identity"},
        "cifg_lstm": {"peepholes": True, "coupled": True},
        "np_lstm": {"peepholes": False},
        "fgr_lstm": {"peepholes": True, "gate_recurrence": True},
        "layer_norm_lstm": {"layer_norm": "joint"},
        "multiplicative_lstm": {"multiplicative": True},
        "diagonal_lstm": {"heads": "diagonal"},
        "multi_head_lstm": {"heads": 4},
        "slstm": {
            "exponential": "sigmoid",
            "output_activation": "identity",
            "heads": 4,
        },
    }.items()
}


def _init(
    layout: _Layout,
    draw: Initializer,
    key: Key,
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float | None,
    chrono: int | None,
    dtype: Any = jnp.float32,
) -> LSTMVariantParams:
    form, size = layout.form, layout.projection_size
    count, gates = len(form.blocks), len(form.gates)
    key_z, key_h, key_p, key_c, key_g, key_m, key_b = jax.random.split(key, 7)
    w_x, w_h, b = draw_gates(draw, key_z, input_size, hidden_size, count, dtype)

    def draw_matrix(kind: Any, key: Key, *shape: int, blocks: int = 1) -> Array:
        return draw_blocks(
            kind, key, shape, blocks, hidden_size=hidden_size, dtype=dtype
        )

    extra: dict[str, Array] = {}
    if size is not None:
        extra["w_p"] = draw_matrix(draw.readout, key_p, hidden_size, size)
        w_h = draw_matrix(draw.input, key_h, size, hidden_size, blocks=count)
    num_heads = hidden_size if layout.heads == "diagonal" else layout.heads
    if num_heads != 1 or layout.heads == "diagonal":
        width = check_heads(num_heads, hidden_size)
        w_h = jax.vmap(
            lambda key: draw_matrix(draw.recurrent, key, width, width, blocks=count)
        )(jax.random.split(key_h, num_heads))
        w_h = w_h.reshape(num_heads, width, count, width)
    if form.peepholes:
        drawn = draw_matrix(draw.bias, key_c, hidden_size, blocks=gates)
        extra["peepholes"] = drawn.reshape(gates, hidden_size)
    if form.gate_recurrence:
        extra["w_gates"] = jnp.concatenate(
            [
                draw_matrix(draw.recurrent, k, hidden_size, hidden_size, blocks=gates)
                for k in jax.random.split(key_g, gates)
            ]
        )
    if form.multiplicative:
        key_x, key_h = jax.random.split(key_m)
        extra["w_mx"] = draw_matrix(draw.input, key_x, input_size, hidden_size)
        extra["w_mh"] = draw_matrix(draw.recurrent, key_h, hidden_size, hidden_size)
    if form.layer_norm != "none":
        ones = jnp.ones(count * hidden_size, dtype)
        extra |= {"scale_x": ones, "scale_h": ones}
        extra["scale_c"] = ones[:hidden_size]
        extra["shift_c"] = jnp.zeros(hidden_size, dtype)
    if layout.bias:
        b = set_gate_biases(
            b, form.blocks, key_b, forget_bias, chrono, coupled=form.coupled
        )
    return LSTMVariantParams(w_x, w_h, b if layout.bias else None, **extra)


def _make_start(form: Form) -> Callable[[Any, tuple[int, ...]], Any]:
    """Returns the `initial_state` of a form: zeros, and log 0 for what is a log."""

    def initial_state(params: LSTMVariantParams, batch_shape: tuple[int, ...]) -> Any:
        def full(size: int, value: float = 0.0) -> Array:
            return jnp.full((*batch_shape, size), value, params.w_x.dtype)

        size = params.w_x.shape[-1] // len(form.blocks)
        h = full(size if params.w_p is None else params.w_p.shape[-1])
        if form.gate_recurrence:
            return GateRecurrentState(h, full(size), full(len(form.gates) * size))
        if form.exponential:
            return ExponentialState(h, full(size), full(size, LOG_OF_ZERO))
        return LSTMState(h, full(size))

    return initial_state


@functools.cache
def _make_gated(form: Form) -> Gated:
    def weights(params: LSTMVariantParams) -> GatedWeights:
        _check_params(form, params)
        small = Small(
            w_p=params.w_p,
            peepholes=params.peepholes,
            scale_x=params.scale_x,
            scale_h=params.scale_h,
            scale_c=params.scale_c,
            shift_c=params.shift_c,
        )
        w_x, w_h, b = params.w_x, params.w_h, params.b
        if form.gate_recurrence:
            assert params.w_gates is not None
            w_h = jnp.concatenate([w_h, _spread(form, params.w_gates)])
        if form.layer_norm != "none":
            small, b = small._replace(b=b), None
        if form.multiplicative:
            assert params.w_mx is not None
            small, w_h = small._replace(w_m=w_h), params.w_mh
            w_x = jnp.concatenate([w_x, params.w_mx], axis=-1)
        if form.multiplicative or form.layer_norm != "none":
            # The products stand side by side, and the bias is on some columns alone.
            columns = w_x.shape[-1] + num_recurrent_columns(w_h)
            b = jnp.zeros(0, w_x.dtype) if b is None else b
            b = jnp.pad(b, (0, columns - len(b)))
        there = any(leaf is not None for leaf in small)
        return GatedWeights(w_x, w_h, b, small if there else None)

    read = _read_h_and_gates if form.gate_recurrence else read_h
    plain, scaled = make_updates(form)
    return Gated(weights, read, plain, form.describe(), scaled)


def _read_h_and_gates(state: GateRecurrentState) -> Array:
    return jnp.concatenate([state.h, state.gates], axis=-1)


def _spread(form: Form, w_gates: Array) -> Array:
    """Returns [p H, G H] from [p H, p H]: the candidate reads no gates."""
    parts = iter(jnp.split(w_gates, len(form.gates), axis=-1))
    none = jnp.zeros((len(w_gates), len(w_gates) // len(form.gates)), w_gates.dtype)
    columns = [none if name == "candidate" else next(parts) for name in form.blocks]
    return jnp.concatenate(columns, axis=-1)


def _check_params(form: Form, params: LSTMVariantParams) -> None:
    """Raises ValueError unless parameters are those of a cell, and fit together."""
    columns = jnp.shape(params.w_x)[-1] if jnp.ndim(params.w_x) else 0
    count, gates = len(form.blocks), len(form.gates)
    size = columns // count
    if jnp.ndim(params.w_h) == 4:
        check_heads_of(params, count)
    else:
        check_gates(params, count, params.w_p)
    normal = form.layer_norm != "none"
    wanted = {
        "peepholes": ("[p, H]", (gates, size), form.peepholes),
        "w_gates": ("[p H, p H]", (gates * size,) * 2, form.gate_recurrence),
        "w_mx": ("[X, H]", (jnp.shape(params.w_x)[0], size), form.multiplicative),
        "w_mh": ("[H, H]", (size, size), form.multiplicative),
        "scale_x": ("[G H]", (columns,), normal),
        "scale_h": ("[G H]", (columns,), normal),
        "scale_c": ("[H]", (size,), normal),
        "shift_c": ("[H]", (size,), normal),
    }
    sizes = f"H = {size}, G = {count} blocks and p = {gates} gates"
    for name, (letters, shape, is_there) in wanted.items():
        value = getattr(params, name)
        if (value is not None) != is_there:
            said = "is missing" if is_there else "is not of this cell"
            raise ValueError(f"params.{name}: {said}; its blocks are {form.blocks}")
        if value is not None and jnp.shape(value) != shape:
            raise ValueError(
                f"params.{name}: shape {jnp.shape(value)} does not fit {letters}, "
                f"which is {shape} for {sizes}"
            )


def _check_options(layout: _Layout) -> None:
    """Raises OptionError where options do not go together."""
    form, heads = layout.form, layout.heads
    if layout.projection_size is not None:
        check_sizes({"projection_size": layout.projection_size})
    if isinstance(heads, str):
        check_choice("heads", heads, Literal["diagonal"])
    else:
        check_sizes({"heads": heads})
    if form.coupled and not (form.input_gate and form.forget_gate):
        raise OptionError(
            "coupled: is f = 1 - i; leave input_gate and forget_gate as they are"
        )
    gates = form.input_gate and form.forget_gate and not form.coupled
    if form.exponential and not gates:
        raise OptionError(
            "exponential: is of an input and a forget gate; leave out coupled, and "
            "leave input_gate and forget_gate as they are"
        )
    for name, is_there in (
        ("exponential", form.exponential is not None),
        ("multiplicative", form.multiplicative),
    ):
        if is_there and form.gate_recurrence:
            raise OptionError(f"gate_recurrence: does not go with {name}")
    if form.multiplicative and layout.projection_size is not None:
        raise OptionError("projection_size: does not go with multiplicative")
    if heads == 1:
        return
    for name, is_there in (
        ("gate_recurrence", form.gate_recurrence),
        ("multiplicative", form.multiplicative),
        ("projection_size", layout.projection_size is not None),
    ):
        if is_there:
            raise OptionError(
                f"heads: {heads!r} does not go with {name}; use heads = 1"
            )
