"""ONNX's operators LSTM, GRU and RNN: as specified, in NumPy, and by the cells here."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlstm import Directions, interop
from jaxlstm.sequence import unroll

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
T, B, X, H = 5, 3, 3, 4


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


# As the specification has them, of z, alpha and beta.
FUNCTIONS = {
    "Relu": lambda z, a, b: np.maximum(0, z),
    "Tanh": lambda z, a, b: np.tanh(z),
    "Sigmoid": lambda z, a, b: sigmoid(z),
    "Affine": lambda z, a, b: a * z + b,
    "LeakyRelu": lambda z, a, b: np.where(z >= 0, z, a * z),
    "ThresholdedRelu": lambda z, a, b: np.where(z >= a, z, 0),
    "ScaledTanh": lambda z, a, b: a * np.tanh(b * z),
    "HardSigmoid": lambda z, a, b: np.minimum(np.maximum(a * z + b, 0), 1),
    "Elu": lambda z, a, b: np.where(z >= 0, z, a * (np.exp(z) - 1)),
    "Softsign": lambda z, a, b: z / (1 + np.abs(z)),
    "Softplus": lambda z, a, b: np.log(1 + np.exp(z)),
}
TAKES_ALPHA = (
    "Affine",
    "LeakyRelu",
    "ThresholdedRelu",
    "ScaledTanh",
    "HardSigmoid",
    "Elu",
)
TAKES_BETA = "Affine", "ScaledTanh", "HardSigmoid"
DEFAULTS = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}
BOTH = {"direction": "bidirectional"}


class Operator(NamedTuple):
    """An operator, what it has beside its tensors, and which of these there are.

    Attributes:
      kind: "LSTM", "GRU" or "RNN".
      attributes: as in a node.
      tensors: of W, R, B and P those that there are.
      lengths: whether sequences end before the last step.
      start: whether there is a state to start from.
    """

    kind: str = "LSTM"
    attributes: dict[str, Any] = {}  # noqa: RUF012
    tensors: str = "WRB"
    lengths: bool = False
    start: bool = False

    def draw(self, dtype=np.float64, seed=0):
        """Returns tensors, X, sequence_lens or None, and the first state or ()."""
        rng = np.random.default_rng(seed)
        gates, count = GATES[self.kind], self.num_directions
        shapes = {
            "W": (count, gates * H, X),
            "R": (count, gates * H, H),
            "B": (count, 2 * gates * H),
            "P": (count, 3 * H),
        }
        tensors = {n: rng.normal(size=shapes[n]).astype(dtype) for n in self.tensors}
        x = rng.normal(size=(T, B, X)).astype(dtype)
        parts = 2 if self.kind == "LSTM" else 1
        start = rng.normal(size=(parts, count, B, H)).astype(dtype)
        if self.layout:
            x, start = x.swapaxes(0, 1), start.swapaxes(1, 2)
        lengths = np.array([T, 2, 3], np.int32) if self.lengths else None
        return tensors, x, lengths, tuple(start) if self.start else ()

    @property
    def num_directions(self):
        return 2 if self.direction == "bidirectional" else 1

    @property
    def direction(self):
        return self.attributes.get("direction", "forward")

    @property
    def layout(self):
        return self.attributes.get("layout", 0)


def read_functions(operator: Operator):
    """Returns f, g and h of each direction."""
    default = DEFAULTS[operator.kind] * operator.num_directions
    names = operator.attributes.get("activations", default)
    alpha = iter(operator.attributes.get("activation_alpha", ()))
    beta = iter(operator.attributes.get("activation_beta", ()))
    found = []
    for name in names:
        a = next(alpha) if name in TAKES_ALPHA else None
        b = next(beta) if name in TAKES_BETA else None
        found.append(lambda z, f=FUNCTIONS[name], a=a, b=b: f(z, a, b))
    size = len(DEFAULTS[operator.kind])
    return [found[n : n + size] for n in range(0, len(found), size)]


def step(operator, functions, weights, x, h, c):
    """Makes a step of one sequence, x [X], h and c [H]."""
    w, r, b, p = weights
    w_b, r_b = np.split(b, 2)
    by_x, by_h = w @ x + w_b, r @ h + r_b
    f, *rest = functions
    if operator.kind == "RNN":
        return f(by_x + by_h), c
    if operator.kind == "GRU":
        (g,) = rest
        (z_x, r_x, n_x), (z_h, r_h, n_h) = np.split(by_x, 3), np.split(by_h, 3)
        z, reset = f(z_x + z_h), f(r_x + r_h)
        return (1 - z) * g(n_x + reset * n_h) + z * h, c
    g, last = rest
    (i, o, forget, n), (p_i, p_o, p_f) = np.split(by_x + by_h, 4), np.split(p, 3)
    i = f(i + p_i * c)
    coupled = operator.attributes.get("input_forget")
    forget = 1 - i if coupled else f(forget + p_f * c)
    c = forget * c + i * g(n)
    return f(o + p_o * c) * last(c), c


def run_operator(operator: Operator, tensors, x, lengths, start):
    """Returns Y, Y_h and, of an LSTM, Y_c, in the layout of the operator.

    A sequence is read within its length; past it, Y is zero.
    """
    if operator.layout:
        x = x.swapaxes(0, 1)
        start = tuple(part.swapaxes(0, 1) for part in start)
    count, dtype = operator.num_directions, x.dtype
    none = {"B": 2 * GATES[operator.kind] * H, "P": 3 * H}
    given = {n: np.zeros((count, size), dtype) for n, size in none.items()} | tensors
    h_all, c_all = np.zeros((2, count, x.shape[1], H), dtype)
    for part, value in zip((h_all, c_all), start, strict=False):
        part[:] = value
    y = np.zeros((len(x), count, x.shape[1], H), dtype)
    functions = read_functions(operator)
    for d in range(count):
        backward = d == 1 or operator.direction == "reverse"
        weights = [given[name][d] for name in "WRBP"]
        for b in range(x.shape[1]):
            order = range(len(x) if lengths is None else lengths[b])
            h, c = h_all[d, b], c_all[d, b]
            for t in reversed(order) if backward else order:
                h, c = step(operator, functions[d], weights, x[t, b], h, c)
                y[t, d, b] = h
            h_all[d, b], c_all[d, b] = h, c
    found = [y, h_all, c_all] if operator.kind == "LSTM" else [y, h_all]
    if operator.layout:
        found = [y.transpose(2, 0, 1, 3), *(part.swapaxes(0, 1) for part in found[1:])]
    return found


def with_numbers(names, alpha=None, beta=None):
    """Returns the attributes of activations."""
    numbers = {"activation_alpha": alpha, "activation_beta": beta}
    return {"activations": names} | {key: n for key, n in numbers.items() if n}


OPERATORS = {
    "lstm": Operator(lengths=True, start=True),
    "no biases": Operator(tensors="WR", attributes={"direction": "reverse"}),
    "peepholes": Operator(tensors="WRBP", attributes=BOTH, lengths=True, start=True),
    "coupled": Operator(tensors="WRBP", attributes={"input_forget": 1}, start=True),
    "both coupled": Operator(attributes=BOTH | {"input_forget": 1}, lengths=True),
    "batch first": Operator(attributes=BOTH | {"layout": 1}, start=True),
    "batch-first peepholes": Operator(
        tensors="WRP", attributes={"layout": 1, "direction": "reverse"}, start=True
    ),
    "hard": Operator(
        attributes=with_numbers(
            ["HardSigmoid", "Softsign", "ScaledTanh"], [0.2, 1.5], [0.5, 0.75]
        ),
        tensors="WRBP",
        lengths=True,
    ),
    "both hard": Operator(
        attributes=BOTH
        | with_numbers(
            ["HardSigmoid", "LeakyRelu", "Affine"] * 2,
            [0.25, 0.125, 0.5] * 2,
            [0.5, 0.25] * 2,
        ),
    ),
    "gru": Operator("GRU", BOTH | {"linear_before_reset": 1}, lengths=True, start=True),
    "gru, batch first": Operator(
        "GRU", {"linear_before_reset": 1, "layout": 1}, tensors="WR", start=True
    ),
    "rnn": Operator("RNN", BOTH, lengths=True, start=True),
    "rnn, reverse": Operator("RNN", {"direction": "reverse"}, tensors="WR"),
}


def run_layer(layer, x, lengths, state):
    """Returns Y, Y_h and Y_c of a layer as `layer_from_onnx` gives it.

    Args:
      layer: with its cell, parameters, direction and layout.
      x: in the layout.
      lengths: or None.
      state: of the layer, or None.
    """
    x = x.swapaxes(0, 1) if layer.layout else x
    both = layer.direction == "bidirectional"
    cells = layer.params if both else [layer.params]
    starts = [None] * len(cells) if state is None else state if both else [state]
    made = [
        unroll(
            layer.cell,
            params,
            x,
            start,
            lengths=lengths,
            reverse=n == 1 or layer.direction == "reverse",
        )
        for n, (params, start) in enumerate(zip(cells, starts, strict=True))
    ]
    y = jnp.stack([states.h for _, states in made], axis=1)
    if lengths is not None:
        there = np.arange(len(x))[:, None] < lengths
        y = jnp.where(there[:, None, :, None], y, 0)
    last = Directions(*(last for last, _ in made)) if both else made[0][0]
    last = interop.state_to_onnx(last, layout=layer.layout)
    y = y.transpose(2, 0, 1, 3) if layer.layout else y
    return [y, *(last if isinstance(last, tuple) else [last])]


def run_here(operators, dtype=None):
    """Returns a function that runs operators by the cells here, from their draws.

    Args:
      operators: by name.
      dtype: of what is drawn; float64 by default.

    Returns:
      The function, of the parameters of each, and these.
    """
    draws = {name: op.draw(dtype or np.float64) for name, op in operators.items()}
    layers = {
        name: interop.layer_from_onnx(draws[name][0], op.attributes)
        for name, op in operators.items()
    }

    def run(params):
        found = {}
        for name, layer in layers.items():
            _, x, lengths, start = draws[name]
            here = layer._replace(params=params[name])
            state = None
            if start:
                given = start if len(start) == 2 else start[0]
                state = interop.state_from_onnx(
                    given, params[name], layout=layer.layout
                )
            found[name] = run_layer(here, x, lengths, state)
        return found

    return run, {name: layer.params for name, layer in layers.items()}
