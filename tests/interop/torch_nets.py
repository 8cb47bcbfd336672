"""Recurrent nets as PyTorch's documentation writes them, by loops in NumPy."""

from typing import NamedTuple

import numpy as np

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


class Net(NamedTuple):
    """Which net, in PyTorch's words.

    Attributes:
      kind: "lstm", "gru" or "rnn".
      num_layers: how many layers.
      bidirectional: whether each reads in both directions.
      bias: whether there are biases.
      proj_size: size of the projected output of an LSTM; 0 for none.
      sizes: of the input and of the hidden state.
    """

    kind: str = "lstm"
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    proj_size: int = 0
    sizes: tuple[int, int] = (3, 4)

    @property
    def suffixes(self) -> list[list[str]]:
        """What the names of each layer end in, one or two."""
        ends = ["", "_reverse"][: 1 + self.bidirectional]
        return [[f"_l{n}{end}" for end in ends] for n in range(self.num_layers)]

    def draw(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Draws a state_dict in float64, no entry of which is zero."""
        rng = np.random.default_rng(seed)
        width, hidden_size = self.sizes
        rows, output_size = (
            GATES[self.kind] * hidden_size,
            self.proj_size or hidden_size,
        )
        arrays = {}
        for ends in self.suffixes:
            for end in ends:
                shapes = {"weight_ih": (rows, width), "weight_hh": (rows, output_size)}
                if self.bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                if self.proj_size:
                    shapes["weight_hr"] = output_size, hidden_size
                for name, shape in shapes.items():
                    arrays[name + end] = 0.5 * rng.normal(size=shape)
            width = len(ends) * output_size
        return arrays


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def step(kind, arrays, end, x, h, c):
    """Makes a step of `torch.nn.LSTM`, `GRU` or `RNN`, as their pages write it."""
    w_x, w_h = arrays[f"weight_ih{end}"], arrays[f"weight_hh{end}"]
    none = np.zeros(len(w_x))
    b_x, b_h = (arrays.get(f"bias_{name}{end}", none) for name in ("ih", "hh"))
    by_x, by_h = w_x @ x + b_x, w_h @ h + b_h
    if kind == "rnn":
        return np.tanh(by_x + by_h), c
    if kind == "gru":
        (r_x, z_x, n_x), (r_h, z_h, n_h) = np.split(by_x, 3), np.split(by_h, 3)
        r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
        return (1 - z) * np.tanh(n_x + r * n_h) + z * h, c
    i, f, g, o = np.split(by_x + by_h, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return (arrays[f"weight_hr{end}"] @ h if f"weight_hr{end}" in arrays else h), c


def run(net: Net, arrays, inputs, h_0, c_0, lengths):
    """Runs a net on right-padded sequences, each by itself within its length.

    Args:
      net: which.
      arrays: its state_dict.
      inputs: [T, B, X].
      h_0: [layers x directions, B, R].
      c_0: [layers x directions, B, H].
      lengths: [B].

    Returns:
      outputs [T, B, D R], zero from each length on, h_n and c_n.
    """
    h_n, c_n, columns = h_0.copy(), c_0.copy(), []
    for b, length in enumerate(lengths):
        outputs, place = inputs[:length, b], 0
        for ends in net.suffixes:
            both = []
            for end in ends:
                order = range(length)
                after = [None] * length
                h, c = h_0[place, b], c_0[place, b]
                for t in reversed(order) if end.endswith("_reverse") else order:
                    h, c = step(net.kind, arrays, end, outputs[t], h, c)
                    after[t] = h
                h_n[place, b], c_n[place, b] = h, c
                both.append(np.stack(after))
                place += 1
            outputs = np.concatenate(both, axis=-1)
        padding = np.zeros((len(inputs) - length, outputs.shape[-1]))
        columns.append(np.concatenate([outputs, padding]))
    return np.stack(columns, axis=1), h_n, c_n
