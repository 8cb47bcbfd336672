"""Linear recurrences entry by entry, parallel in time.

    y_t = a_t y_{t-1} + b_t                                                        (1)

Two steps in a row are one step, of factor a_2 a_1 and offset a_2 b_1 + b_2, so that
`associative_scan` joins neighbouring stretches of time in O(log T) rounds. The tangent
is another such recurrence, and its transpose one backward in time:

    dy_t = a_t dy_{t-1} + (da_t y_{t-1} + db_t)                                    (2)
     x_t = a_{t+1} x_{t+1} + dL/dy_t,    dL/db_t = x_t,    dL/da_t = x_t y_{t-1}   (3)

So a derivative of any order runs (1) again, and keeps y alone, where JAX's own
derivative of `associative_scan` keeps what each of its rounds made.

References:
  Blelloch, Prefix Sums and Their Applications, 1990.
  Martin and Cundy, Parallelizing Linear Recurrent Neural Nets Over Sequence Length,
  ICLR 2018.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxlstm.edges import edge
from jaxlstm.types import Array


class Terms(NamedTuple):
    """What makes a recurrence, all of the same number of axes.

    Attributes:
      factors: [T, ...], a.
      offsets: [T, ...], b.
      cuts: [T, ...] bool, axes of size 1 broadcast: True where y_{t-1} counts for
        nothing, infinite or NaN though it be; or None.
      edges: [T, ...], axes of size 1 broadcast: factors on the derivative by y_{t-1},
        which change no value; or None.
    """

    factors: Array
    offsets: Array
    cuts: Array | None = None
    edges: Array | None = None


def diagonal_scan(terms: Terms, *, reverse: bool = False) -> Array:
    """Solves y_t = a_t y_{t-1} + b_t, from y = 0, in O(log T) rounds.

    Args:
      terms: a, b and what governs them, T at least 1.
      reverse: whether time runs backwards, y_t = a_t y_{t+1} + b_t.

    Returns:
      y [T, ...].
    """
    given = [value for value in terms if value is not None]
    return recurrence_p.bind(
        *given,
        reverse=reverse,
        cut=terms.cuts is not None,
        edged=terms.edges is not None,
    )


# A primitive and not a `custom_jvp`, for the reason given in `jaxlstm.edges`: a scan
# around it would drop the rule, and the edges with it.
recurrence_p = Primitive("linear_recurrence")


def _terms(operands: Any, cut: bool, edged: bool) -> Terms:
    factors, offsets, *rest = operands
    return Terms(
        factors, offsets, rest[0] if cut else None, rest[-1] if edged else None
    )


@functools.partial(jax.jit, static_argnames=("reverse", "cut", "edged"))
def _solve(*operands: Array, reverse: bool, cut: bool, edged: bool) -> Array:
    def join(first: Any, second: Any) -> Any:
        (a_1, b_1, *_), (a_2, b_2, *_) = first, second
        factor, offset = a_2 * a_1, a_2 * b_1 + b_2
        if not cut:
            return factor, offset
        # The factor of a stretch with a cut is never used.
        return factor, jnp.where(second[2], b_2, offset), first[2] | second[2]

    elements = tuple(operands[: 3 if cut else 2])
    return jax.lax.associative_scan(join, elements, reverse=reverse)[1]


def _jvp(
    primals: Any, tangents: Any, *, reverse: bool, cut: bool, edged: bool
) -> tuple[Array, Any]:
    factors, _, cuts, edges = terms = _terms(primals, cut, edged)
    dfactors, immediate, *_ = tangents
    y = diagonal_scan(terms, reverse=reverse)
    if not isinstance(dfactors, ad.Zero):
        before = _before(y, reverse=reverse)
        if cuts is not None:
            before = jnp.where(cuts, 0, before)
        if edges is not None:
            before = edge(before, edges)
        immediate = ad.add_tangents(immediate, dfactors * before)
    if isinstance(immediate, ad.Zero):  # Of the edges alone, which change no value.
        return y, jnp.zeros_like(y)
    if edges is not None:
        factors = factors * edges
    return y, diagonal_scan(Terms(factors, immediate, cuts), reverse=reverse)


def _transpose(
    cotangent: Any, *operands: Any, reverse: bool, cut: bool, edged: bool
) -> list[Any]:
    factors, offsets, cuts, _ = _terms(operands, cut, edged)
    assert ad.is_undefined_primal(offsets) and not edged
    shift = 1 if reverse else -1
    # What is rolled to the end, where this recurrence begins, meets nothing there.
    following = Terms(
        jnp.roll(factors, shift, axis=0),
        cotangent,
        None if cuts is None else jnp.roll(cuts, shift, axis=0),
    )
    solved = diagonal_scan(following, reverse=not reverse)
    return [None, solved, *[None] * (len(operands) - 2)]


def _batched(operands: Any, axes: Any, **options: bool) -> tuple[Array, int]:
    """Puts the mapped axis behind that of time."""
    pairs = list(zip(operands, axes, strict=True))
    size = next(x.shape[n] for x, n in pairs if n is not None)

    def move(x: Array, axis: int | None) -> Array:
        if axis is not None:
            return jnp.moveaxis(x, axis, 1)
        return jnp.broadcast_to(x[:, None], (x.shape[0], size, *x.shape[1:]))

    return recurrence_p.bind(*(move(x, n) for x, n in pairs), **options), 1


def _before(y: Array, *, reverse: bool) -> Array:
    """Returns what goes into each step, zero into the first."""
    zero = jnp.zeros_like(y[:1])
    return jnp.concatenate([y[1:], zero] if reverse else [zero, y[:-1]])


recurrence_p.def_impl(_solve)
recurrence_p.def_abstract_eval(lambda factors, offsets, *rest, **options: offsets)
ad.primitive_jvps[recurrence_p] = _jvp
ad.primitive_transposes[recurrence_p] = _transpose
batching.primitive_batchers[recurrence_p] = _batched
mlir.register_lowering(
    recurrence_p, mlir.lower_fun(_solve, multiple_results=False), inline=False
)
