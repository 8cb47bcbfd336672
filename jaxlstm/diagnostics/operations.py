"""How many operations a function makes, counted from its jaxpr.

XLA's own count, `cost_analysis()["flops"]`, takes the body of a loop once, however
often it runs. Here it is multiplied by the number of its steps.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jax.interpreters.partial_eval import dce_jaxpr

# A number known while tracing, or None.
Known = Any

# Floating-point operations for each entry of the result.
ELEMENTWISE = dict.fromkeys(
    """
    abs acos acosh add add_any asin asinh atan atan2 atanh cbrt ceil cos cosh digamma
    div erf erf_inv erfc exp exp2 expm1 floor integer_pow lgamma log log1p logistic mul
    neg nextafter pow psum psum_invariant rem round rsqrt sign sin sinh sqrt square sub
    tan tanh
    """.split(),
    1,
) | {"one_minus_square": 2}
# Values are moved, compared or chosen between, and none is computed.
FREE = frozenset(
    """
    all_gather all_gather_invariant all_to_all bitcast_convert_type broadcast_in_dim
    clamp concatenate convert_element_type copy copy_p cummax cummin device_put
    dynamic_slice dynamic_update_slice edge expand_dims gather iota max min
    optimization_barrier pad pbroadcast pcast ppermute pvary reduce_max reduce_min
    reduce_precision reshape rev scatter scatter-max scatter-min select_n
    sharding_constraint slice sort split squeeze stack stop_gradient tile top_k
    transpose
    """.split()
)
# Functions that an equation calls once, by the parameter that holds them.
CALLS = {
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat2": "jaxpr",
    "shard_map": "jaxpr",
}
# What becomes of integers that are known, so that bounds of loops are.
SCALARS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "and": np.bitwise_and,
    "broadcast_in_dim": lambda a: a,
    "convert_element_type": lambda a: a,
    "copy": lambda a: a,
    "div": lambda a, b: a // b if (a < 0) == (b < 0) else -(-a // b),
    "eq": np.equal,
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.invert,
    "or": np.bitwise_or,
    "rem": np.fmod,
    "reshape": lambda a: a,
    "select_n": lambda which, *cases: cases[int(which)],
    "sign": np.sign,
    "squeeze": lambda a: a,
    "sub": np.subtract,
}


class Operations(NamedTuple):
    """What a function makes of operations.

    Attributes:
      flops: floating-point operations; None where they cannot be counted.
      unknown: the primitives that stood in the way, by name.
    """

    flops: int | None
    unknown: tuple[str, ...] = ()


def count_operations(function: Callable[..., Any], *arguments: Any) -> Operations:
    """Counts the floating-point operations of a function.

        product [m, k] by [k, n]             2 m n k
        convolution                          2 for each entry of the result, and each
                                             weight that it is a sum over
        result of n entries, by entry        n: a division or a tanh as an addition
        sum of n entries                     n - 1
        scan                                 length times its body
        loop over i < n, in steps of one     as many times its body, where start and end
                                             are integers known from the arguments
        branches                             the dearest
        integers, comparing, choosing,
        moving, and results not used         0

    Any other loop, and any primitive that is not known, leave no figure: none is
    guessed. What one device of `shard_map` makes counts for each.

    Args:
      function: is traced, and not run.
      *arguments: of it, pytrees of arrays or of `jax.ShapeDtypeStruct`. Integers []
        that are arrays, such as the number of the first step, are known.

    Returns:
      The operations.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    given = [_known(leaf) for leaf in jax.tree.leaves(arguments)]
    jaxpr = closed.jaxpr
    used, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
    counter = _Counter()
    flops, _ = counter.count(used, given, closed.consts)
    if counter.unknown:
        return Operations(None, tuple(sorted(counter.unknown)))
    return Operations(flops)


class _Counter:
    """Walks jaxprs, and notes the primitives that it cannot count."""

    def __init__(self):
        self.unknown: set[str] = set()

    def count(
        self, jaxpr: Any, given: Sequence[Known], consts: Sequence[Any] = ()
    ) -> tuple[int, list[Known]]:
        """Returns the operations of a jaxpr, and which of its results are known."""
        consts = getattr(jaxpr, "consts", consts)
        jaxpr = _open(jaxpr)
        values = dict(zip(jaxpr.constvars, map(_known, consts), strict=False))
        values.update(zip(jaxpr.invars, given, strict=True))

        def read(atom: Any) -> Known:
            if isinstance(atom, Literal):
                return _known(atom.val)
            return values.get(atom)

        flops = 0
        for eqn in jaxpr.eqns:
            made, known = self._equation(eqn, [read(atom) for atom in eqn.invars])
            flops += made
            values.update(zip(eqn.outvars, known, strict=True))
        return flops, [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, given: list[Known]) -> tuple[int, list[Known]]:
        name, params = eqn.primitive.name, eqn.params
        nothing: list[Known] = [None] * len(eqn.outvars)
        if name in CALLS:
            flops, known = self.count(params[CALLS[name]], given)
            if name == "shard_map":
                # Each device may know another number.
                return flops * params["mesh"].size, nothing
            return flops, known
        if name == "scan":
            made, _ = self.count(params["jaxpr"], [None] * len(given))
            return params["length"] * made, nothing
        if name == "while":
            return self._while(eqn, given), nothing
        if name == "cond":
            counts = [self.count(each, given[1:])[0] for each in params["branches"]]
            return max(counts), nothing
        flops = _primitive(eqn)
        if flops is None:
            self.unknown.add(name)
            return 0, nothing
        return flops, _evaluate(eqn, given)

    def _while(self, eqn: Any, given: list[Known]) -> int:
        condition, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
        consts, carry = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        start = consts + carry
        steps = _steps(
            _open(condition), _open(body), given[:consts], given[start:], carry
        )
        if steps is None:
            self.unknown.add("while")
            return 0
        free = [None] * (len(given) - start)
        tested, _ = self.count(condition, given[:consts] + free)
        made, _ = self.count(body, given[consts:start] + free)
        return steps * made + (steps + 1) * tested


def _steps(
    condition: Any,
    body: Any,
    consts: list[Known],
    carry: list[Known],
    body_consts: int,
) -> int | None:
    """Returns how often a loop runs; None unless it is `i < n`, in steps of one."""
    if len(condition.eqns) != 1 or condition.eqns[0].primitive.name != "lt":
        return None
    if condition.outvars[0] is not condition.eqns[0].outvars[0]:
        return None
    index, end = condition.eqns[0].invars
    place = _position(index, condition.invars) - len(consts)
    if place < 0 or not _adds_one(body, body_consts + place, place):
        return None
    first, last = carry[place], None
    if isinstance(end, Literal):
        last = _known(end.val)
    else:
        where = _position(end, condition.invars)
        if where < len(consts):
            last = consts[where]
        else:
            where -= len(consts)
            if body.outvars[where] is body.invars[body_consts + where]:
                last = carry[where]
    if first is None or last is None:
        return None
    return max(0, int(last) - int(first))


def _adds_one(body: Any, before: int, after: int) -> bool:
    for eqn in body.eqns:
        if body.outvars[after] in eqn.outvars:
            atoms = list(eqn.invars)
            ones = [x for x in atoms if isinstance(x, Literal) and x.val == 1]
            return (
                eqn.primitive.name == "add"
                and len(ones) == 1
                and any(x is body.invars[before] for x in atoms)
            )
    return False


def _position(atom: Any, atoms: Sequence[Any]) -> int:
    return next((n for n, each in enumerate(atoms) if each is atom), -1)


def _primitive(eqn: Any) -> int | None:
    """Returns the operations of a primitive; None where they are not known."""
    name, params = eqn.primitive.name, eqn.params
    sizes = [math.prod(atom.aval.shape) for atom in eqn.invars if _shaped(atom)]
    results = [atom.aval for atom in eqn.outvars if _shaped(atom)]
    if not any(jnp.issubdtype(aval.dtype, jnp.inexact) for aval in results):
        return 0
    size = sum(math.prod(aval.shape) for aval in results)
    if name in FREE:
        return 0
    if name in ELEMENTWISE:
        return ELEMENTWISE[name] * size
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return 2 * size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        shape, axes = eqn.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
        return 2 * size * math.prod(shape) // max(1, shape[axes[0]])
    if name in ("reduce_sum", "reduce_prod"):
        return max(0, sizes[0] - size)
    if name in ("cumsum", "cumprod"):
        length = eqn.invars[0].aval.shape[params["axis"]]
        return size - size // max(1, length)
    if name in ("scatter-add", "scatter-mul"):
        return sizes[2]
    return None


def _evaluate(eqn: Any, given: list[Known]) -> list[Known]:
    """Returns the number that an equation makes of numbers that are known."""
    nothing: list[Known] = [None] * len(eqn.outvars)
    name, known = eqn.primitive.name, [each for each in given if each is not None]
    if len(known) < len(given) or len(nothing) != 1:
        return nothing
    aval = eqn.outvars[0].aval
    if name not in SCALARS or np.shape(aval) or not _whole(aval.dtype):
        return nothing
    with np.errstate(all="ignore"):
        return [aval.dtype.type(SCALARS[name](*known))]


def _known(value: Any) -> Known:
    """Returns a number, if it is whole and stands alone."""
    if isinstance(value, jax.ShapeDtypeStruct):
        return None
    if np.shape(value) or not _whole(jnp.result_type(value)):
        return None
    return np.asarray(value)[()]


def _whole(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)


def _shaped(atom: Any) -> bool:
    return hasattr(atom.aval, "shape") and hasattr(atom.aval, "dtype")


def _open(jaxpr: Any) -> Any:
    """Returns a jaxpr without its constants."""
    return getattr(jaxpr, "jaxpr", jaxpr)
