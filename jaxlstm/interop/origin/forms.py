"""The forms that arrays may have as an LSTM, and the first step that sorts them out."""

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxlstm.interop.origin.readings import Reading, Weight
from jaxlstm.interop.origin.samples import Sample, Weights, sigmoid

GATES = "ifgo"
ORDERS = list(itertools.permutations(range(len(GATES))))
EIGHT = frozenset(range(8))
PAIRS = list(itertools.combinations(EIGHT, 2))
# How many numbers of the first step are compared: of all orders, and of those left.
NUMBERS = 2, 64, 1024

Order = tuple[int, ...]


class Form(NamedTuple):
    """One way in which arrays may be an LSTM, and a sample one of its runs.

    Attributes:
      reading: what the arrays are by their shapes.
      sample: which of its axes is time.
      orders: of w_x, w_h and b: at which places the blocks of i, f, g and o stand.
      forget_bias: what is added to the forget gate when the layer is called.
    """

    reading: Reading
    sample: Sample
    orders: tuple[Order, Order, Order]
    forget_bias: float = 0.0

    def weights(self) -> Weights:
        """Returns w_x [X, 4H], w_h [H, 4H] and b [4H]."""
        w_x, w_h, b = (
            np.concatenate(part.blocks[list(order)], axis=-1)
            for part, order in zip(self.reading[:3], self.orders, strict=True)
        )
        size = len(b) // 4
        b[size : 2 * size] += self.forget_bias
        return w_x, w_h, b

    def same_weights(self, other: "Form") -> bool:
        """Returns whether both forms are the same function."""
        pairs = zip(self.weights(), other.weights(), strict=True)
        return all(np.array_equal(a, b) for a, b in pairs)

    def describe(self) -> str:
        """Says which form it is, in a line."""
        w_x, w_h, _, layout, bias = self.reading
        matrices = [("w_x", w_x), ("w_h", w_h)]
        if layout != "apart":
            matrices = [(f"one matrix on {layout}", w_x)]
        parts = [
            f"{name} {weight.axes}{'' if weight.joined else ' of each gate'}"
            for name, weight in matrices
        ]
        return "; ".join(
            [
                _describe_orders(self),
                *parts,
                f"biases: {bias}",
                f"{self.forget_bias:g} added to the forget gate when called",
                f"the sample {'batch' if self.sample.batch_first else 'time'}-first",
            ]
        )


def first_step(
    reading: Reading, sample: Sample, limit: float, least: int
) -> Iterator[tuple[float, tuple[Order, Order, Order]]]:
    """Yields orders of the gates, and the squared error of each in the first step.

    That is of some examples and units alone, by which no order is lost that fits the
    whole.

    Args:
      reading: what the arrays are.
      sample: what they should give.
      limit: of the squared error of a form that fits the whole.
      least: how many orders are given at least, whether they fit or not.
    """
    if not sample.step_by_step:
        for order in ORDERS:
            pairs = tuple(PAIRS.index((k, k + 4)) for k in order)
            yield 0.0, (order, order, order if len(reading.b.blocks) == 4 else pairs)
        return
    x_orders, b_orders = _first_orders(reading)
    errors = np.zeros(len(x_orders))
    for count in NUMBERS:
        errors = _first_errors(reading, sample, x_orders, b_orders, count)
        left = np.flatnonzero(errors <= limit)
        if len(left) < least:
            few = min(least, len(errors) - 1)
            left = np.sort(np.argpartition(errors, few)[:least])
        x_orders, b_orders, errors = (a[left] for a in (x_orders, b_orders, errors))
    for x_order, b_order, error in zip(
        x_orders.tolist(), b_orders.tolist(), errors.tolist(), strict=True
    ):
        yield error, (tuple(x_order), tuple(x_order), tuple(b_order))


def _first_errors(
    reading: Reading,
    sample: Sample,
    x_orders: np.ndarray,
    b_orders: np.ndarray,
    count: int,
) -> np.ndarray:
    """Returns the squared errors [N] of orders in so many numbers of the first step."""
    units = min(count, reading.b.blocks.shape[-1])
    x = sample.inputs[0, : max(1, count // units)]
    z = (x @ reading.w_x.blocks)[..., :units]
    z = z[:, None] + reading.b.blocks[:, None, :units]
    squashed, candidates = sigmoid(z), np.tanh(z)
    i, _, g, o = zip(x_orders.T, b_orders.T, strict=True)
    h = squashed[o] * np.tanh(squashed[i] * candidates[g])
    return ((h - sample.outputs[0, : len(x), :units]) ** 2).sum((1, 2))


def _first_orders(reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """Returns the orders [N, 4] of w_x and of b that are to be tried."""
    w_x, _, b, _, bias = reading
    x_orders = b_orders = np.array(ORDERS)
    if bias != "none" and not (w_x.joined and b.joined):
        x_orders, b_orders = _all_orders(len(b.blocks) == len(PAIRS))
    same_x, same_b = find_twins(w_x), find_twins(b)
    if (np.diff(same_x) < 1).any() or (np.diff(same_b) < 1).any():
        keys = np.concatenate([same_x[x_orders], same_b[b_orders]], axis=1)
        _, first = np.unique(keys, axis=0, return_index=True)
        x_orders, b_orders = x_orders[np.sort(first)], b_orders[np.sort(first)]
    return x_orders, b_orders


@functools.cache
def _all_orders(of_pairs: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns all orders [N, 4] of w_x and b, each in its own."""
    each = np.array(list(_pairings()) if of_pairs else ORDERS)
    return np.repeat(ORDERS, len(each), axis=0), np.tile(each, (len(ORDERS), 1))


def find_twins(weight: Weight) -> np.ndarray:
    """Returns of each block the first that is equal to it."""
    return np.array(
        [
            next(n for n, other in enumerate(weight.blocks) if (other == block).all())
            for block in weight.blocks
        ]
    )


def _pairings(chosen: Order = (), left: frozenset[int] = EIGHT) -> Iterator[Order]:
    """Yields all ways to give i, f, g and o two of eight biases each."""
    if not left:
        yield chosen
    for n, pair in enumerate(PAIRS):
        if left.issuperset(pair):
            yield from _pairings((*chosen, n), left.difference(pair))


def with_recurrent_orders(form: Form) -> Iterator[Form]:
    """Yields a form in all orders of the recurrent weights."""
    reading, (order, _, b_order) = form.reading, form.orders
    orders = ORDERS
    if not form.sample.step_by_step or (reading.w_x.joined and reading.w_h.joined):
        orders = [order]
    elif reading.w_h.joined and reading.b.joined and reading.bias != "none":
        orders = [b_order]
    twins, seen = find_twins(reading.w_h), set()
    for h_order in orders:
        key = tuple(twins[list(h_order)])
        if key not in seen:
            seen.add(key)
            yield form._replace(orders=(order, h_order, b_order))


def stored_order(order: Order) -> str:
    """Returns which gate stands at each place."""
    return "".join(GATES[order.index(place)] for place in range(len(GATES)))


def _describe_orders(form: Form) -> str:
    x_order, h_order, _ = form.orders
    text = f"gates in the order {', '.join(stored_order(x_order))}"
    if h_order != x_order:
        text += f", of w_h {', '.join(stored_order(h_order))}"
    return text
