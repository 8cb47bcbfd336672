"""One step of each variant of the LSTM in NumPy, by the equations of its paper.

For one example, in the paper's letters where it has its own: the block input is z, the
hidden state y or h. Weights come by name, such as W_f, R_f, b_f and p_f of the forget
gate; those on the left of a product here are those on its right there, transposed.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Weights = dict[str, np.ndarray]
# (weights, state by name, x [X]) -> the next state by name.
Step = Callable[[Weights, dict[str, Any], np.ndarray], dict[str, Any]]

EPSILON = 1e-5
LETTERS = {"input": "i", "forget": "f", "candidate": "z", "output": "o"}


def name_weights(params: Any, blocks: str) -> Weights:
    """Returns the parameters of a variant by the names of this module.

    Args:
      params: `LSTMVariantParams` of NumPy arrays.
      blocks: the letters of its blocks, in their order.
    """
    w: Weights = {}
    size = params.w_x.shape[-1] // len(blocks)
    gates = blocks.replace("z", "")

    def part(array: np.ndarray, n: int) -> np.ndarray:
        return array[..., n * size : (n + 1) * size]

    for n, letter in enumerate(blocks):
        w[f"W_{letter}"] = part(params.w_x, n)
        b = np.zeros(params.w_x.shape[-1]) if params.b is None else params.b
        w[f"b_{letter}"] = part(b, n)
        if params.w_h.ndim == 2:
            w[f"R_{letter}"] = part(params.w_h, n)
            continue
        heads, width, _, _ = params.w_h.shape
        whole = np.zeros((size, size))
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            whole[own, own] = params.w_h[head, :, n]
        w[f"R_{letter}"] = whole
    for n, letter in enumerate(gates):
        if params.peepholes is not None:
            w[f"p_{letter}"] = params.peepholes[n]
        if params.w_gates is not None:
            rows = params.w_gates[n * size : (n + 1) * size]
            for k, to in enumerate(gates):
                w[f"R_{letter}{to}"] = part(rows, k)
    for name in ("w_mx", "w_mh", "w_p", "scale_x", "scale_h", "scale_c", "shift_c"):
        if getattr(params, name) is not None:
            w[name] = getattr(params, name)
    return w


def sigma(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def raw(w: Weights, letter: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """W x + R y + b of a block."""
    return x @ w[f"W_{letter}"] + y @ w[f"R_{letter}"] + w[f"b_{letter}"]


class Greff(NamedTuple):
    """The vanilla LSTM of Greff et al. 2017, section II, and the eight of III-C.

        z = g(W_z x + R_z y + b_z)
        i = sigma(W_i x + R_i y + p_i * c + b_i)
        f = sigma(W_f x + R_f y + p_f * c + b_f)
        c' = z * i + c * f
        o = sigma(W_o x + R_o y + p_o * c' + b_o)
        y' = h(c') * o

    Attributes:
      without: gates that are 1, of "ifo": NIG, NFG, NOG.
      g: the activation of the block input: the identity in NIAF.
      h: that of the output: the identity in NOAF.
      coupled: CIFG, f = 1 - i.
      peepholes: no in NP.
      full_gate_recurrence: FGR: R_ii i + R_fi f + R_oi o of the step before are added
        in the input gate, and likewise in the others, before the squashing.
      sigma: that of the gates.
    """

    without: str = ""
    g: Callable[[Any], Any] = np.tanh
    h: Callable[[Any], Any] = np.tanh
    coupled: bool = False
    peepholes: bool = True
    full_gate_recurrence: bool = False
    sigma: Callable[[Any], Any] = sigma

    def __call__(
        self, w: Weights, state: dict[str, Any], x: np.ndarray
    ) -> dict[str, Any]:
        y, c = state["h"], state["c"]

        def gate(letter: str, memory: np.ndarray) -> Any:
            if letter in self.without:
                return 1.0
            inside = raw(w, letter, x, y)
            if self.peepholes:
                inside = inside + w[f"p_{letter}"] * memory
            if self.full_gate_recurrence:
                before = np.split(state["gates"], 3)
                for source, value in zip("ifo", before, strict=True):
                    inside = inside + value @ w[f"R_{source}{letter}"]
            return self.sigma(inside)

        z = self.g(raw(w, "z", x, y))
        i = gate("i", c)
        f = 1 - i if self.coupled else gate("f", c)
        new = z * i + c * f
        o = gate("o", new)
        after = {"h": self.h(new) * o, "c": new}
        if self.full_gate_recurrence:
            after["gates"] = np.concatenate([i, f, o])
        return after


def normalise(a: np.ndarray) -> np.ndarray:
    mean = sum(a) / len(a)
    variance = sum((a - mean) ** 2) / len(a)
    return (a - mean) / math.sqrt(variance + EPSILON)


def layer_norm(*, by_block: bool) -> Step:
    """Ba, Kiros and Hinton 2016, equations 20 to 22; one bias for those that add up.

    (f, i, o, g) = LN(W_h h; alpha_1) + LN(W_x x; alpha_2) + b
    c' = sigma(f) * c + sigma(i) * tanh(g)
    h' = sigma(o) * tanh(LN(c'; alpha_3, beta_3))
    """

    def step(w: Weights, state: dict[str, Any], x: np.ndarray) -> dict[str, Any]:
        letters = "ifzo"

        def join(name: str) -> np.ndarray:
            return np.concatenate([w[f"{name}_{letter}"] for letter in letters], -1)

        sums = join("b")
        for product, gain in (
            (x @ join("W"), w["scale_x"]),
            (state["h"] @ join("R"), w["scale_h"]),
        ):
            parts = np.split(product, 4) if by_block else [product]
            sums = sums + gain * np.concatenate([normalise(part) for part in parts])
        i, f, g, o = np.split(sums, 4)
        c = sigma(f) * state["c"] + sigma(i) * np.tanh(g)
        seen = normalise(c) * w["scale_c"] + w["shift_c"]
        return {"h": sigma(o) * np.tanh(seen), "c": c}

    return step


def multiplicative(w: Weights, state: dict[str, Any], x: np.ndarray) -> dict[str, Any]:
    """Krause et al. 2017, section 3, with biases, and tanh where they are.

    m = (W_mx x) * (W_mh h)
    h^ = tanh(W_hx x + W_hm m)
    i, o, f = sigma(W_ix x + W_im m), ...
    c' = f * c + i * h^         h' = tanh(c') * o
    """
    m = (x @ w["w_mx"]) * (state["h"] @ w["w_mh"])
    i, f, o = (sigma(raw(w, letter, x, m)) for letter in "ifo")
    c = f * state["c"] + i * np.tanh(raw(w, "z", x, m))
    return {"h": o * np.tanh(c), "c": c}


def lstm(w: Weights, state: dict[str, Any], x: np.ndarray) -> dict[str, Any]:
    """The LSTM; of heads and of the diagonal too, whose R are zero between them."""
    return Greff(peepholes=False)(w, state, x)


def projected(w: Weights, state: dict[str, Any], x: np.ndarray) -> dict[str, Any]:
    """Sak et al. 2014, equations 1 to 6: the output is projected, r = W_rm m."""
    after = Greff()(w, state, x)
    return after | {"h": after["h"] @ w["w_p"]}


def slstm(forget: str) -> Step:
    """Beck et al. 2024, equations 8 to 14, by the plain formula.

    z = tanh(W_z x + R_z h + b_z)     i = exp(~i)     f = sigma(~f) or exp(~f)
    c' = f c + i z      n' = f n + i      h' = o c' / n'
    """

    def step(w: Weights, state: dict[str, Any], x: np.ndarray) -> dict[str, Any]:
        i, f, z, o = (raw(w, letter, x, state["h"]) for letter in "ifzo")
        i, f = np.exp(i), np.exp(f) if forget == "exp" else sigma(f)
        c = f * state["c"] + i * np.tanh(z)
        n = f * state["n"] + i
        return {"h": sigma(o) * c / n, "c": c, "n": n}

    return step
