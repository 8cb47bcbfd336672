"""The backward pass of the LSTM by hand: every equation a line, every delta returned.

For reading, and as an oracle for everything else: plain NumPy in float64, one loop
over time forward and one backward, no arithmetic shared with the rest of the library.
docs/gradients.md derives the equations, and names the test of each.

Steps run from t = 0 to T-1; h_{-1} and c_{-1} are the initial state, and `*` goes
element by element. The four gates stand side by side in z_t = [z_i | z_f | z_g | z_o].

Forward, for t = 0, 1, ..., T-1:

    z_t = x_t W_x + h_{t-1} W_h + b                                               (1)
    i_t = sigmoid(z_i)                                  input gate                (2)
    f_t = sigmoid(z_f)                                  forget gate               (3)
    g_t = tanh(z_g)                                     candidate                 (4)
    o_t = sigmoid(z_o)                                  output gate               (5)
    c_t = f_t * c_{t-1} + i_t * g_t                     memory cell               (6)
    h_t = o_t * tanh(c_t)                               hidden state              (7)
    p_t = h_t W + b_p                                   prediction                (8)

The loss at step t is l(t), weighted and summed over the examples, and the loss to come
is L(t), all that the state at step t can still change. With L(T) = 0,

    L(t) = l(t) + L(t+1)                                                          (9)

so that the loss of the whole sequence is L(0). By the chain rule, backward for
t = T-1, ..., 1, 0, with delta_v_t = dL(t)/dv_t for any quantity v:

    delta_p_t = dl(t)/dp_t                                                       (10)
    dl(t)/dh_t = delta_p_t W^T                                                   (11)
    delta_h_t = dl(t)/dh_t + dL(t+1)/dh_t                                        (12)
    delta_c_t = delta_h_t * o_t * (1 - tanh(c_t)^2) + dL(t+1)/dc_t               (13)

    delta_i_t = delta_c_t * g_t     * i_t * (1 - i_t)                            (14)
    delta_f_t = delta_c_t * c_{t-1} * f_t * (1 - f_t)                            (15)
    delta_g_t = delta_c_t * i_t     * (1 - g_t^2)                                (16)
    delta_o_t = delta_h_t * tanh(c_t) * o_t * (1 - o_t)                          (17)
    delta_z_t = [delta_i_t | delta_f_t | delta_g_t | delta_o_t]                  (18)

(10) is p_t - y_t for the squared error of a target y_t, and softmax(p_t) - onehot(y_t)
for the cross-entropy of a class y_t, times the weight of the step. The deltas of the
gates, (14) to (17), are those of their preactivations. Step t then hands on

    dL(t)/dx_t     = delta_z_t W_x^T                    to the layer below       (19)
    dL(t)/dh_{t-1} = delta_z_t W_h^T                    to step t-1, in (12)     (20)
    dL(t)/dc_{t-1} = delta_c_t * f_t                    to step t-1, in (13)     (21)

The last step comes first and has no later one: its dL(T)/dh and dL(T)/dc are zero. What
step 0 hands on is the gradient of the initial state. The weights are the same at every
step, so that their gradients are sums over time (and over the examples):

    dL/dW_x = sum_t x_t^T delta_z_t                                              (22)
    dL/dW_h = sum_t h_{t-1}^T delta_z_t                                          (23)
    dL/db   = sum_t delta_z_t                                                    (24)
    dL/dW   = sum_t h_t^T delta_p_t                                              (25)
    dL/db_p = sum_t delta_p_t                                                    (26)

References:
  Werbos, Backpropagation Through Time: What It Does and How to Do It, Proceedings of
  the IEEE 78(10), 1990. Greff et al., LSTM: A Search Space Odyssey, IEEE Transactions
  on Neural Networks and Learning Systems 28(10), 2017, whose section II has the same
  deltas with peepholes.
"""

import itertools
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxlstm.cells import LSTMParams, LSTMState
from jaxlstm.shapes import check_choice, check_inputs, check_time_axes
from jaxlstm.types import Array

Loss = Literal["squared_error", "softmax_cross_entropy"]


class TextbookReadout(NamedTuple):
    """Weights of the linear readout, p = h W + b_p.

    Attributes:
      w: [H, Y] weights.
      b: [Y] bias.
    """

    w: Array
    b: Array


class Cache(NamedTuple):
    """What the forward pass leaves behind at every step.

    Attributes:
      inputs: [T, ..., X] as they were given.
      initial_state: the state before step 0, [..., H] each.
      i, f, g, o: [T, ..., H] input gate, forget gate, candidate and output gate.
      c: [T, ..., H] memory cell.
      tanh_c: [T, ..., H] its tanh.
      h: [T, ..., H] hidden state.
      prediction: [T, ..., Y].
    """

    inputs: np.ndarray
    initial_state: LSTMState
    i: np.ndarray
    f: np.ndarray
    g: np.ndarray
    o: np.ndarray
    c: np.ndarray
    tanh_c: np.ndarray
    h: np.ndarray
    prediction: np.ndarray


class Backward(NamedTuple):
    """What the backward pass finds at every step. The sequence's loss is L(0).

    Attributes:
      loss: [T] l(t), the loss at the step, summed over the examples.
      loss_to_come: [T] L(t), the loss at the step and at all later ones.
      delta_prediction: [T, ..., Y] dl(t)/dp_t.
      delta_h_now: [T, ..., H] dl(t)/dh_t, the part of delta_h by the step's own loss.
      delta_h_later: [T, ..., H] dL(t+1)/dh_t, the part by all later ones.
      delta_h: [T, ..., H] dL(t)/dh_t, the sum of the two.
      delta_c_later: [T, ..., H] dL(t+1)/dc_t, the part of delta_c past step t.
      delta_c: [T, ..., H] dL(t)/dc_t, this part and that by way of h_t.
      delta_i, delta_f, delta_g, delta_o: [T, ..., H] of the gates' preactivations.
      delta_x: [T, ..., X] of the inputs: what a layer below takes as its dl(t)/dh_t.
      initial_state: gradient of the initial state, [..., H] each.
      params: gradient of the layer's weights.
      readout: gradient of the readout's weights.
    """

    loss: np.ndarray
    loss_to_come: np.ndarray
    delta_prediction: np.ndarray
    delta_h_now: np.ndarray
    delta_h_later: np.ndarray
    delta_h: np.ndarray
    delta_c_later: np.ndarray
    delta_c: np.ndarray
    delta_i: np.ndarray
    delta_f: np.ndarray
    delta_g: np.ndarray
    delta_o: np.ndarray
    delta_x: np.ndarray
    initial_state: LSTMState
    params: LSTMParams
    readout: TextbookReadout


class GateSetting(NamedTuple):
    """What one step does with its gates wide open (1) or shut (0).

    Attributes:
      i, f, o: the input, forget and output gate, 0 or 1 each.
      memory: "keeps", c_t = c_{t-1}; "overwrites", c_t = g_t; "adds", c_t = c_{t-1} +
        g_t; or "erases", c_t = 0.
      output: "shown", h_t = tanh(c_t); or "hidden", h_t = 0, and the gradient by h_t
        does not reach c_t.
    """

    i: int
    f: int
    o: int
    memory: str
    output: str


def forward(
    params: LSTMParams,
    readout: TextbookReadout,
    inputs: Any,
    state: LSTMState | None = None,
) -> Cache:
    """Runs the layer and its readout over a sequence, and keeps everything.

    Equations (1) to (8) of this module. Everything is converted to float64 first.

    Args:
      params: weights of the layer, w_x [X, 4H], w_h [H, 4H], b [4H].
      readout: weights of the readout, w [H, Y], b [Y].
      inputs: [T, ..., X], with any batch axes or none.
      state: the state before step 0, [..., H] each; zeros by default.

    Returns:
      The cache that `backward` needs.

    Raises:
      ValueError: shapes do not fit together.
    """
    params, readout = _check_weights(params, readout)
    x: Any = np.asarray(inputs, dtype=np.float64)
    check_inputs(x, params.w_x)
    steps, *batch = x.shape[:-1]
    hidden_size, output_size = readout.w.shape
    zeros = np.zeros((2, *batch, hidden_size))
    state = LSTMState(*_float64(zeros if state is None else state))
    _check_shape("state.h", state.h, (*batch, hidden_size), "[..., H]")
    _check_shape("state.c", state.c, (*batch, hidden_size), "[..., H]")

    i, f, g, o, c, tanh_c, h = np.zeros((7, steps, *batch, hidden_size))
    p = np.zeros((steps, *batch, output_size))
    h_before, c_before = state
    for t in range(steps):
        z = x[t] @ params.w_x + h_before @ params.w_h + params.b  # (1)
        z_i, z_f, z_g, z_o = np.split(z, 4, axis=-1)
        i[t] = sigmoid(z_i)  # (2)
        f[t] = sigmoid(z_f)  # (3)
        g[t] = np.tanh(z_g)  # (4)
        o[t] = sigmoid(z_o)  # (5)
        c[t] = f[t] * c_before + i[t] * g[t]  # (6)
        tanh_c[t] = np.tanh(c[t])
        h[t] = o[t] * tanh_c[t]  # (7)
        p[t] = h[t] @ readout.w + readout.b  # (8)
        h_before, c_before = h[t], c[t]
    return Cache(x, state, i, f, g, o, c, tanh_c, h, p)


def backward(
    params: LSTMParams,
    readout: TextbookReadout,
    cache: Cache,
    targets: Any,
    *,
    loss: Loss = "squared_error",
    weights: Any = None,
) -> Backward:
    """Takes the gradient of the loss back through every step.

    Equations (9) to (26) of this module, for the loss summed over steps and examples.

    Args:
      params: the weights that made the cache.
      readout: likewise.
      cache: from `forward`.
      targets: [T, ..., Y] for "squared_error", integers [T, ...] from 0 to Y-1 for
        "softmax_cross_entropy".
      loss: "squared_error", the sum over Y of (p - y)^2 / 2; or
        "softmax_cross_entropy", minus the logarithm of the target's probability, in
        nats.
      weights: [T, ...] factors on the losses, broadcast from the left; ones by
        default.

    Returns:
      The losses, every delta, and the gradients.

    Raises:
      ValueError: shapes do not fit together, a class is out of range, or the loss is
        unknown.
      TypeError: classes are not integers.
    """
    check_choice("loss", loss, Loss)
    params, readout = _check_weights(params, readout)
    x, initial_state, i, f, g, o, c, tanh_c, h, p = cache
    _check_shape("cache.inputs", x, (*h.shape[:-1], len(params.w_x)), "[T, ..., X]")
    _check_shape("cache.h", h, (*x.shape[:-1], len(params.w_h)), "[T, ..., H]")
    _check_shape("cache.prediction", p, (*x.shape[:-1], len(readout.b)), "[T, ..., Y]")
    targets = _check_targets(loss, targets, p)
    weights = _spread(weights, x)
    loss_fn = squared_error if loss == "squared_error" else softmax_cross_entropy

    steps = len(x)
    step_loss, loss_to_come = np.zeros((2, steps))
    delta_p, delta_x = _zeros_like(p, x)
    delta_h_now, delta_h_later, delta_h = _zeros_like(h, h, h)
    delta_c_later, delta_c = _zeros_like(c, c)
    delta_i, delta_f, delta_g, delta_o = _zeros_like(i, f, g, o)
    d_w_x, d_w_h, d_b, d_w, d_b_p = _zeros_like(*params, *readout)
    h_before = np.concatenate([initial_state.h[None], h[:-1]])
    c_before = np.concatenate([initial_state.c[None], c[:-1]])

    later_loss, (later_h, later_c) = 0.0, _zeros_like(*initial_state)
    for t in reversed(range(steps)):
        losses, slopes = loss_fn(p[t], targets[t])
        step_loss[t] = np.sum(weights[t] * losses)
        loss_to_come[t] = step_loss[t] + later_loss  # (9)

        delta_p[t] = weights[t][..., None] * slopes  # (10)
        delta_h_now[t] = delta_p[t] @ readout.w.T  # (11)
        delta_h_later[t] = later_h
        delta_h[t] = delta_h_now[t] + later_h  # (12)
        delta_c_later[t] = later_c
        delta_c[t] = delta_h[t] * o[t] * (1 - tanh_c[t] ** 2) + later_c  # (13)

        delta_i[t] = delta_c[t] * g[t] * i[t] * (1 - i[t])  # (14)
        delta_f[t] = delta_c[t] * c_before[t] * f[t] * (1 - f[t])  # (15)
        delta_g[t] = delta_c[t] * i[t] * (1 - g[t] ** 2)  # (16)
        delta_o[t] = delta_h[t] * tanh_c[t] * o[t] * (1 - o[t])  # (17)
        delta_z = _join(delta_i[t], delta_f[t], delta_g[t], delta_o[t])  # (18)

        delta_x[t] = delta_z @ params.w_x.T  # (19)
        later_h = delta_z @ params.w_h.T  # (20)
        later_c = delta_c[t] * f[t]  # (21)
        later_loss = loss_to_come[t]

        d_w_x += rows(x[t]).T @ rows(delta_z)  # (22)
        d_w_h += rows(h_before[t]).T @ rows(delta_z)  # (23)
        d_b += rows(delta_z).sum(axis=0)  # (24)
        d_w += rows(h[t]).T @ rows(delta_p[t])  # (25)
        d_b_p += rows(delta_p[t]).sum(axis=0)  # (26)

    return Backward(
        loss=step_loss,
        loss_to_come=loss_to_come,
        delta_prediction=delta_p,
        delta_h_now=delta_h_now,
        delta_h_later=delta_h_later,
        delta_h=delta_h,
        delta_c_later=delta_c_later,
        delta_c=delta_c,
        delta_i=delta_i,
        delta_f=delta_f,
        delta_g=delta_g,
        delta_o=delta_o,
        delta_x=delta_x,
        initial_state=LSTMState(later_h, later_c),
        params=LSTMParams(d_w_x, d_w_h, d_b),
        readout=TextbookReadout(d_w, d_b_p),
    )


def gate_table() -> list[GateSetting]:
    """Tells from the numbers what each extreme setting of the gates does.

    Runs one step of one unit forward and back, for several pairs of c_{t-1} and g_t at
    once. At a preactivation of -1000 or 1000 a gate is 0 or 1 to the last bit, so that
    c_t, h_t and delta_c_t are compared exactly with what each effect would leave.

    Returns:
      The 8 settings, (i, f, o) from (0, 0, 0) to (1, 1, 1).
    """
    x, c_before = np.reshape(np.meshgrid([-1.0, 0.5], [-1.5, 0.25, 2.0]), (2, -1, 1))
    state = LSTMState(*_float64([np.ones_like(c_before), c_before]))
    w_x, w_h = _float64([[[0, 0, 1, 0]], [[0, 0, 0, 0]]])
    readout = TextbookReadout(*_float64([[[1]], [1]]))

    settings = []
    for i, f, o in itertools.product((0, 1), repeat=3):
        (b,) = _float64([[2000 * i - 1000, 2000 * f - 1000, 0, 2000 * o - 1000]])
        params = LSTMParams(w_x, w_h, b)
        cache = forward(params, readout, x[None], state)
        found = backward(params, readout, cache, targets=np.zeros((1, *x.shape)))

        g, c, zeros = cache.g[0], cache.c[0], np.zeros_like(x)
        memory = _tell(c, keeps=c_before, overwrites=g, adds=c_before + g, erases=zeros)
        output = _tell(
            np.stack([cache.h[0], found.delta_c[0]]),
            shown=np.stack([np.tanh(c), found.delta_h[0] * (1 - np.tanh(c) ** 2)]),
            hidden=np.stack([zeros, zeros]),
        )
        settings.append(GateSetting(i, f, o, memory, output))
    return settings


def _tell(value: np.ndarray, **effects: np.ndarray) -> str:
    """Returns the name of the one effect that leaves this value."""
    (name,) = (name for name, left in effects.items() if np.array_equal(value, left))
    return name


def sigmoid(z: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + exp(-z)), in a form that does not overflow."""
    return np.exp(-np.logaddexp(0, -z))


def squared_error(p: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns sum_Y (p - y)^2 / 2, [...], and its derivative by p, p - y, [..., Y]."""
    return np.sum((p - y) ** 2, axis=-1) / 2, p - y


def softmax_cross_entropy(
    p: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns -log q_y, [...], and its derivative by p, q - onehot(y), [..., Y].

    q = softmax(p), and y [...] are the classes.
    """
    log_q = p - np.logaddexp.reduce(p, axis=-1, keepdims=True)
    onehot = np.eye(p.shape[-1])[y]
    return -np.sum(onehot * log_q, axis=-1), np.exp(log_q) - onehot


def rows(v: Any) -> Any:
    """Returns the examples [..., N] as the rows of one matrix."""
    return v.reshape(-1, v.shape[-1])


def _join(*gates: Any) -> Any:
    return np.concatenate(gates, axis=-1)


def _float64(fields: Any) -> list[Any]:
    return [np.asarray(field, dtype=np.float64) for field in fields]


def _zeros_like(*arrays: Any) -> list[Any]:
    return [np.zeros_like(array) for array in arrays]


def _check_shape(name: str, value: Any, shape: tuple[int, ...], axes: str) -> None:
    if value.shape != shape:
        raise ValueError(f"{name}: shape {value.shape} is not {shape}, which is {axes}")


def _check_weights(params: Any, readout: Any) -> tuple[Any, Any]:
    params = LSTMParams(*_float64(params))
    readout = TextbookReadout(*_float64(readout))
    h, x, y = len(params.w_h), len(params.w_x), len(readout.b)
    _check_shape("params.w_h", params.w_h, (h, 4 * h), "[H, 4H]")
    _check_shape("params.w_x", params.w_x, (x, 4 * h), "[X, 4H]")
    _check_shape("params.b", params.b, (4 * h,), "[4H]")
    _check_shape("readout.w", readout.w, (h, y), "[H, Y]")
    _check_shape("readout.b", readout.b, (y,), "[Y]")
    return params, readout


def _check_targets(loss: Loss, targets: Any, prediction: np.ndarray) -> np.ndarray:
    targets = np.asarray(targets)
    if loss == "squared_error":
        _check_shape("targets", targets, prediction.shape, "[T, ..., Y]")
        return targets.astype(np.float64)
    if not np.issubdtype(targets.dtype, np.integer):
        raise TypeError(f"targets: dtype {targets.dtype} is not an integer")
    _check_shape("targets", targets, prediction.shape[:-1], "[T, ...]")
    classes = prediction.shape[-1]
    wrong = targets[(targets < 0) | (targets >= classes)]
    if wrong.size:
        raise ValueError(f"targets: {wrong[0]} is not in 0..Y-1 = {classes - 1}")
    return targets


def _spread(weights: Any, x: Any) -> np.ndarray:
    """Returns weights [T, ...] spread over all of time and batch; ones for None."""
    axes = x.shape[:-1]
    if weights is None:
        return np.ones(axes)
    check_time_axes("weights", weights, x)
    weights = np.asarray(weights, dtype=np.float64)
    missing = len(axes) - weights.ndim
    return np.broadcast_to(weights.reshape(weights.shape + (1,) * missing), axes)
