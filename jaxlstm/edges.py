"""Edges: what the gradient meets on its way from step to step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxlstm.cells.base import Cell
from jaxlstm.select import like
from jaxlstm.shapes import check_time_axes
from jaxlstm.types import Array, PyTree


class Edges(NamedTuple):
    """Factors on the gradient that enters each step from the step before.

    Values stay as they are. At 1 the gradient passes, at 0 it is cut. A masked step has
    no edge: the state, and its gradient, are carried over it.

    Attributes:
      h: [T, ...] factor on the way through the recurrent weights, `h W_h`.
      c: [T, ...] factor on the way of the state itself into `update`: the memory cell
        of an LSTM, the carried part of a GRU's h. None: the same as h. A cell without
        a gated form has one way only, and takes no other.
    """

    h: Array
    c: Array | None = None


class Hooks(NamedTuple):
    """Functions that values pass through inside each step, for gradients of one's own.

    Each takes an array and returns it, as a function with a derivative of its own. They
    need not be linear in the gradient; so the rule of this module does not hold, and a
    sequence with hooks takes JAX's own derivative of the scan.

    Attributes:
      z: of the preactivations [..., K].
      h: of what the recurrent weights read [..., R]; in a cell without a gated form, of
        each leaf of the state that goes into the step.
      c: of each leaf [..., H] of the state on its own way into `update`.
    """

    z: Callable[[Array], Array] | None = None
    h: Callable[[Array], Array] | None = None
    c: Callable[[Array], Array] | None = None


# A primitive and not a `custom_jvp`: partial evaluation of a scan (jax 0.10) drops the
# rules of the latter, and the edges with them in reverse mode at second order.
edge_p = Primitive("edge")
edge_p.def_impl(lambda x, factor: x)
edge_p.def_abstract_eval(lambda x, factor: x)
ad.defjvp(edge_p, lambda dx, x, factor: dx * factor, None)
mlir.register_lowering(
    edge_p, mlir.lower_fun(lambda x, factor: x, multiple_results=False)
)


def _edge_batched(operands: Any, axes: Any) -> tuple[Array, int]:
    pairs = list(zip(operands, axes, strict=True))
    size = next(x.shape[n] for x, n in pairs if n is not None)
    x, factor = (
        jnp.broadcast_to(x, (size, *x.shape)) if n is None else jnp.moveaxis(x, n, 0)
        for x, n in pairs
    )
    return edge_p.bind(x, factor), 0


batching.primitive_batchers[edge_p] = _edge_batched


def edge(state: PyTree, factor: Array) -> PyTree:
    """Returns the state unchanged; its gradient is multiplied by the factor [...]."""

    def mark(x: Array) -> Array:
        factors = jnp.broadcast_to(like(factor, x), x.shape).astype(x.dtype)
        return edge_p.bind(x, factors)

    return jax.tree.map(mark, state)


def scale(tree: PyTree, factor: Array) -> PyTree:
    """Multiplies every leaf [..., H] by the factor [...], in the leaf's dtype."""
    return jax.tree.map(lambda x: x * like(factor, x).astype(x.dtype), tree)


def pass_over(edges: Edges | Hooks, name: str, value: Any) -> Any:
    """Takes a value over the edge of that name."""
    way = getattr(edges, name)
    if isinstance(edges, Edges):
        return edge(value, way)
    return value if way is None else jax.tree.map(way, value)


def check_hooks(cell: Cell, hooks: Hooks) -> Hooks:
    """Returns hooks; raises ValueError where a cell has no such way."""
    for name in ("z", "c"):
        if cell.gated is None and getattr(hooks, name) is not None:
            raise ValueError(
                f"edges.{name}: a cell without a gated form has one edge into each "
                "step, by h; leave it out"
            )
    return hooks


def check_edges(cell: Cell, edges: Edges, inputs: Array) -> Edges:
    """Returns edges [T, ...], both of them, checked against inputs [T, ..., X].

    Raises:
      ValueError: a shape does not fit, or the cell has one edge alone.
      TypeError: they are something else.
    """
    if not isinstance(edges, Edges):
        raise TypeError(f"edges: {type(edges).__name__} is not Edges(h, c)")
    h = check_time_axes("edges.h", edges.h, inputs)
    if edges.c is None:
        return Edges(h, h)
    if cell.gated is None:
        raise ValueError(
            "edges.c: a cell without a gated form has one edge into each step, by h; "
            "leave it out"
        )
    return Edges(h, check_time_axes("edges.c", edges.c, inputs))
