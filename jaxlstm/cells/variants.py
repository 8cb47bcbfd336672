"""Variants of the LSTM, told apart by flags of one update; see `jaxlstm.cells.form`."""

import functools
from collections.abc import Callable
from typing import Literal

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
    ForgetActivation,
    Form,
    LayerNorm,
    Small,
    make_updates,
)
from jaxlstm.cells.initializers import (
    Initializer,
    check_chrono,
    find_initializer,
)
from jaxlstm.cells.variant_params import (
    GateRecurrentState,
    Heads,
    Layout,
    LSTMVariantParams,
    check_params,
    init_variant,
    make_start,
)
from jaxlstm.shapes import (
    OptionError,
    check_choice,
    check_sizes,
)
from jaxlstm.types import Array


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
    layout = Layout(form, bias, heads, projection_size)
    _check_options(layout)
    check_chrono(chrono, bias)
    if chrono is not None:
        _check_forgetting(form)
    init = functools.partial(
        init_variant,
        layout,
        find_initializer(initializer),
        forget_bias=forget_bias,
        chrono=chrono,
    )
    gated = _make_gated(form)
    return Cell(init, make_start(form), gated_step(gated), gated)


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


@functools.lru_cache(maxsize=256)
def _make_gated(form: Form) -> Gated:
    def weights(params: LSTMVariantParams) -> GatedWeights:
        check_params(form, params)
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
    updates = make_updates(form)
    return Gated(
        weights,
        read,
        updates.plain,
        form.describe(),
        updates.scaled,
        gate_values=updates.gate_values,
    )


def _read_h_and_gates(state: GateRecurrentState) -> Array:
    return jnp.concatenate([state.h, state.gates], axis=-1)


def _spread(form: Form, w_gates: Array) -> Array:
    """Returns [p H, G H] from [p H, p H]: the candidate reads no gates."""
    parts = iter(jnp.split(w_gates, len(form.gates), axis=-1))
    none = jnp.zeros((len(w_gates), len(w_gates) // len(form.gates)), w_gates.dtype)
    columns = [none if name == "candidate" else next(parts) for name in form.blocks]
    return jnp.concatenate(columns, axis=-1)


def _check_options(layout: Layout) -> None:
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
    for name in ("peepholes", "gate_recurrence"):
        if getattr(form, name) and not form.gates:
            raise OptionError(f"{name}: there is no gate to read; leave it out")
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


def _check_forgetting(form: Form) -> None:
    """Raises OptionError unless biases of the gates say how fast units forget."""
    squashed = form.gate_activation == "sigmoid" and form.exponential != "exp"
    if not (form.forget_gate and squashed):
        raise OptionError(
            "chrono: is of a forget gate that is a sigmoid, and this cell has none; "
            "leave it out"
        )
