"""Sparse n-step approximations of real-time recurrent learning."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.estimators.base import GradientEstimator, LossFn, Traits, check_online_form
from jaxlstm.estimators.columns import (
    FIRST,
    Pattern,
    Rest,
    columns_of,
    find_pattern,
    join,
    linearise,
    push,
    split,
    spread,
    start_rest,
)
from jaxlstm.estimators.dense import dense, flat, jacobians
from jaxlstm.estimators.layered import layered
from jaxlstm.estimators.structure import follow
from jaxlstm.estimators.traces import LinearStep, Trace, add, online
from jaxlstm.estimators.units import find_units
from jaxlstm.model import Model
from jaxlstm.shapes import OptionError, check_choice
from jaxlstm.types import Array, Key

Level = Literal["entry", "unit"]
NUM_POINTS = 8


class Influence(NamedTuple):
    """Of all layers' weights where it is followed, and of the rest as a whole.

    Attributes:
      layers: of each layer, w_x [N, X, K_x], w_h [N, R, K_h] and b [N, K]: N entries of
        the state for each column of z.
      rest: leaves [S, *shape].
    """

    layers: tuple[Any, ...]
    rest: Rest


def snap(
    model: Model, loss_fn: LossFn, *, n: int = 1, level: Level = "entry"
) -> GradientEstimator:
    """Carries the influence where parameters reach the state within n steps.

        M_t = S_n o (J_t M_{t-1} + I_t)                                              (1)
        S_1 = nz(I),    S_{k+1} = nz(J) S_k or S_1                                   (2)

    where nz is what may differ from zero by structure, whatever parameters and inputs
    are. With dense recurrent weights S_1 of an LSTM holds 7 / (8 H) of all entries and
    S_2 all of them, so that n > 1 is for sparse ones: a cell whose gated form makes
    zeros of some recurrent weights says so by that.

    *Biased*; the more so, the longer the ways between units. With a zero diagonal in
    the recurrent weights, n = 1 is e-prop. With diagonal recurrent weights n = 1 is
    exact at the level of units, and not at that of entries: an output gate's weight
    reaches the memory at its second step only.

    Costs O(P) memory and time a step in a single layer at n = 1, of a cell that works
    unit by unit and has neither an embedding nor small parameters. Else, with N entries
    of the state reached from a column of z, N P + N^2 K floats an example and O(N^2 P)
    operations, and S passes for J. A model without gated cells keeps a masked M of S P
    floats, and its pattern is looked for at random points, where what is saturated at
    all of them is missed.

    Args:
      model: the model; any with a step.
      loss_fn: `(prediction [..., Y], target [...]) -> loss of each example [...]`.
      n: steps, from 1 on.
      level: "entry": what is reached is followed; "unit": for what is reached, all
        fields of its unit are followed, in an LSTM h and c.

    Returns:
      The estimator.

    Raises:
      OptionError: an option is out of range, the model has no online form, or the
        pattern cannot be found.

    References:
      Menick et al., Practical Real Time Recurrent Learning with a Sparse Approximation
      to the Jacobian, ICLR 2021.
    """
    check_online_form(model)
    check_choice("level", level, Level)
    if n < 1:
        raise OptionError(f"n: {n} is not 1 or more; 1 is the sparsest")
    layers = model.layers
    if layers is None or layers.cell.gated is None:
        trace = dense(model, functools.partial(_dense_mask, model, n, level))
    else:
        trace = _gated_trace(model, n, level)
    traits = Traits(kind="biased", segment_invariant=True, online=True)
    return online(model, loss_fn, trace, traits=traits)


def _gated_trace(model: Model, n: int, level: Level) -> Trace:
    params = jax.eval_shape(model.init, jax.random.key(0))
    state = jax.eval_shape(lambda params: model.initial_state(params, ()), params)
    rest = jax.eval_shape(lambda params: split(model, params.recurrent)[1], params)
    units = find_units(model)
    whole = len(state) > 1 or jax.tree.leaves((rest.small, rest.embedding))
    if n == 1 and units is not None and not whole:
        kept = units.by_z if level == "entry" else None
        return layered(model, units, carry="unit", own=True, kept=kept)
    return _columns(model, _reach(find_pattern(model), n, level, state))


def _reach(pattern: Pattern, n: int, level: Level, state: Any) -> Pattern:
    """Returns S_n in place of the pattern of I."""
    jacobian = pattern.jacobian
    groups = _groups(state) if level == "unit" else np.eye(len(jacobian), dtype=bool)

    def reach(first: np.ndarray) -> np.ndarray:
        shape = first.shape
        first = follow(groups, first.reshape(len(first), -1))
        found = first
        for _ in range(n - 1):
            found = follow(groups, follow(jacobian, found) | first)
        return found.reshape(shape)

    rest = jax.tree.map(reach, pattern.by_rest)
    return Pattern(jacobian, tuple(map(reach, pattern.by_z)), rest)


def _groups(state: Any) -> np.ndarray:
    """Returns [S, S]: whether two entries of a state belong to one unit."""
    numbers, first = [], 0
    for layer in state if isinstance(state, tuple) else (state,):
        leaves = jax.tree.leaves(layer)
        if len({leaf.shape for leaf in leaves}) != 1:
            raise OptionError(
                'level: is "unit", and the fields of the state differ in shape; use '
                'level = "entry"'
            )
        size = leaves[0].size
        numbers += [first + np.arange(size)] * len(leaves)
        first += size
    units = np.concatenate(numbers)
    return units[:, None] == units


def _columns(model: Model, kept: Pattern) -> Trace:
    """Keeps the influence on the entries of a pattern, column by column of z."""
    size = len(kept.jacobian)
    # Where fewer entries are reached than by others, the last one, S, stands for none.
    places = [_places(reached, size) for reached in kept.by_z]

    def start(params: Any, key: Key, time: Array) -> Influence:
        del key, time
        weights, _ = split(model, params.recurrent)
        rest = start_rest(model, params)
        layers = tuple(
            [_zeros(len(place), leaf) for leaf in w[:3]]
            for w, place in zip(weights, places, strict=True)
        )
        return Influence(layers, _mask(rest))

    def _mask(rest: Rest) -> Rest:
        return jax.tree.map(lambda m, keep: jnp.where(keep, m, 0), rest, kept.by_rest)

    def advance(influence: Influence, step: LinearStep, key: Key) -> Influence:
        del key
        linear = linearise(model, step)
        weights, _ = split(model, step.recurrent)
        jacobian = jnp.pad(linear.jacobian, ((0, 1), (0, 1)))
        layers = []
        for m, (w, place) in enumerate(zip(weights, places, strict=True)):
            within = jacobian[place[:, None], place[None]]
            by_z = jnp.pad(linear.by_z[m], ((0, 1), (0, 0)))
            by_z = jnp.take_along_axis(by_z, place, 0)
            immediate = spread(w, (*linear.factors[m], 1.0), by_z)
            pushed = _push(within, influence.layers[m])
            layers.append(jax.tree.map(jnp.add, pushed, immediate))
        rest = add(push(linear.jacobian, influence.rest), linear.by_rest)
        return Influence(tuple(layers), _mask(rest))

    def pull_back(influence: Influence, q: Any, step: LinearStep) -> Any:
        del step
        q = flat(q)
        layers = []
        for place, leaves in zip(places, influence.layers, strict=True):
            by_column = jnp.pad(q, (0, 1))[place]
            layers.append(
                [
                    None
                    if leaf is None
                    else jnp.einsum(
                        "nk,n...k->...k", columns_of(by_column, leaf, first=first), leaf
                    )
                    for leaf, first in zip(leaves, FIRST, strict=True)
                ]
            )
        rest = jax.tree.map(lambda m: jnp.tensordot(q, m, 1), influence.rest)
        return layers, rest

    def finish(recurrent: Any, sums: Any) -> Any:
        return join(model, recurrent, *sums)

    return Trace(start, advance, pull_back, finish)


def _zeros(count: int, leaf: Array | None) -> Array | None:
    return None if leaf is None else jnp.zeros((count, *leaf.shape), leaf.dtype)


def _push(within: Array, leaves: list[Any]) -> list[Any]:
    """Returns J M on the entries that are followed; J [N, N, K] a column."""
    return [
        None
        if leaf is None
        else jnp.einsum("nmk,m...k->n...k", columns_of(within, leaf, first=first), leaf)
        for leaf, first in zip(leaves, FIRST, strict=True)
    ]


def _places(reached: np.ndarray, size: int) -> np.ndarray:
    """Returns the entries [N, K] that each column reaches, filled up with S."""
    count = max(1, int(reached.sum(axis=0).max()))
    places = np.full((count, reached.shape[1]), size)
    for k, column in enumerate(reached.T):
        found = np.flatnonzero(column)
        places[: len(found), k] = found
    return places


def _dense_mask(model: Model, n: int, level: Level, step: LinearStep) -> Any:
    """Returns S_n of a model without gated cells, by probing its step."""
    if not jnp.issubdtype(step.x.dtype, jnp.inexact):
        raise OptionError(
            "snap: the pattern of a model without gated cells is found with vectors as "
            'inputs, and these are integers; use name = "rtrl"'
        )
    random, found = np.random.default_rng(0), []
    params = jax.eval_shape(model.init, jax.random.key(0))
    step_fn, start = model.step, dense(model).start
    assert step_fn is not None

    @jax.jit
    def at(params: Any, previous: Any, x: Array) -> Any:
        # Without noise: what it drops at one step it does not at another.
        key, time = jax.random.key(0), jnp.zeros((), jnp.int32)
        point = LinearStep(params.recurrent, previous, x, None, time)
        jacobian, immediate = jacobians(step_fn, point)
        reached = jax.tree.map(
            lambda i, m: (i != 0) | (m != 0), immediate, start(params, key, time)
        )
        return jacobian != 0, reached

    def draw(x: Any) -> np.ndarray:
        # No unit is saturated then, where a derivative would be zero by rounding.
        scale = np.sqrt(x.shape[0]) if len(x.shape) > 1 else 1
        return (random.normal(size=x.shape) / scale).astype(x.dtype)

    with jax.ensure_compile_time_eval():
        for _ in range(NUM_POINTS):
            point = jax.tree.map(draw, (params, step.previous, step.x))
            found.append(jax.tree.map(np.asarray, at(*point)))
    jacobian, reached = jax.tree.map(lambda *x: np.any(x, axis=0), *found)
    # What reached nothing may do so elsewhere.
    reached = jax.tree.map(lambda x: x | ~x.any(axis=0), reached)
    return _reach(Pattern(jacobian, (), reached), n, level, step.previous).by_rest
