"""What depends on what in a gated cell, whatever its parameters and states are.

A derivative may be zero at a point for two reasons: that there is none, or that a gate
is saturated, a unit dead, an input absent. Only the first is structure, and here it is
told by tangents that are not a number: they pass through a factor of zero, and show in
all that is computed from them. Where functions choose by value, as relu does, what is
seen at any of several points counts. Weights make ways as well: a recurrent weight that
the cell makes of its parameters as zero, at all draws of them, is not there.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxlstm.cells.base import dense_weights, num_columns, pad_columns, update
from jaxlstm.interface import Layers, Model

# Sizes of what is drawn at the points that are looked at, for thresholds of all sizes.
SCALES = 2 * (0.1, 0.3, 1.0, 1.0, 3.0, 10.0, 30.0, 100.0)


class LayerStructure(NamedTuple):
    """What may differ from zero in a layer's step, of arrays of booleans.

    Attributes:
      by_state: [S, S] a new entry of the state by an old one, at fixed z.
      by_z: [S, K] by a column of z.
      by_small: leaves [S, ...] by the small parameters.
      x: [K, X] the input weights there are, by the column of z.
      h: [K, S] the ways from the old state through the recurrent weights.
      read: [R, S] 1 where a row reads an entry of the state; None where it does more
        than select entries, none of them twice.
      output: [H, S] the output by the new state.
    """

    by_state: np.ndarray
    by_z: np.ndarray
    by_small: Any
    x: np.ndarray
    h: np.ndarray
    read: np.ndarray | None
    output: np.ndarray


@functools.lru_cache(maxsize=64)
def find_structure(model: Model) -> tuple[LayerStructure, ...]:
    """Returns the structure of all layers of a model of gated cells."""
    layers = model.layers
    assert layers is not None
    shapes = jax.eval_shape(model.init, jax.random.key(0)).recurrent.layers
    with jax.ensure_compile_time_eval():
        return tuple(_look(layers, n, params) for n, params in enumerate(shapes))


def _look(layers: Layers, number: int, shapes: Any) -> LayerStructure:
    """Returns the structure of a layer with parameters of these shapes."""
    cell, gated = layers.cell, layers.cell.gated
    assert gated is not None
    random = np.random.default_rng(0)

    def draw(shapes: Any, scale: float = 1.0) -> Any:
        return jax.tree.map(
            lambda x: (scale * random.normal(size=x.shape)).astype(x.dtype), shapes
        )

    state = jax.eval_shape(lambda p: cell.initial_state(p, ()), shapes)
    weights = jax.eval_shape(dense_weights(gated), shapes)
    columns = num_columns(weights)
    z = jax.ShapeDtypeStruct((columns,), jax.tree.leaves(state)[0].dtype)

    # Where old values may stay, the expectation has both ways, to them and to new ones.
    noise = layers.noise(draw(state), number, None, 0)

    def advance(small: Any, state: Any, z: Any) -> Any:
        return ravel_pytree(update(gated, small, state, z, noise))[0]

    def look(probe: Any) -> Any:
        @jax.jit
        def at(params: Any, state: Any, z: Any) -> Any:
            made = dense_weights(gated)(params)
            there = [None if w is None else w != 0 for w in (made.w_x, made.w_h)]
            found = probe(advance, (made.small, state, z))
            return found, probe(cell.output, (state,)), there

        points = (at(*draw((shapes, state, z), scale)) for scale in SCALES)
        return functools.reduce(lambda *x: jax.tree.map(np.logical_or, *x), points)

    units = jax.eval_shape(cell.output, state).size
    across = not _has_units(units, (weights.small, state, z))
    found = output = w_x = w_h = None
    if not across:
        found, output, (w_x, w_h) = look(functools.partial(_probe_units, units))
        across = found.across or output.across
        found, output = (_spread(each, units) for each in (found, output))
    if across:
        found, output, (w_x, w_h) = look(_probe_entries)
    by_small, by_state, by_z = _split(np.asarray(found), (weights.small, state, z))
    jacobian = np.asarray(_flat_read(gated.read, draw(state)))
    size = jacobian.shape[1]
    x = np.asarray(pad_columns(jnp.asarray(w_x), columns, "right")).T
    h = np.zeros((columns, size), bool)
    if w_h is not None:
        w_h = np.asarray(pad_columns(jnp.asarray(w_h), columns, "left"))
        h = follow(w_h.T, jacobian != 0)
    ones = np.sum(jacobian != 0, axis=1) == 1
    selects = np.all(np.isin(jacobian, (0, 1))) and np.all(ones)
    once = np.all(np.sum(jacobian != 0, axis=0) <= 1)
    return LayerStructure(
        _join(by_state),
        by_z,
        by_small,
        x,
        h,
        jacobian == 1 if selects and once else None,
        np.asarray(output),
    )


def follow(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Returns what is reached by one way after another, [I, K] from [I, J] and [J, K].

    The product of booleans, by that of floats, which processors are made for.
    """
    return second.astype(np.float32) @ first.astype(np.float32) > 0


class _Units(NamedTuple):
    """What blocks of an entry a unit reach, where no unit reaches another one.

    Attributes:
      blocks: [F, outputs] whether any entry of a block does.
      across: [] whether any unit reaches another one.
    """

    blocks: Any
    across: Any


def _has_units(num_units: int, arguments: Any) -> bool:
    """Returns whether all leaves are made of blocks of an entry a unit."""
    return all(leaf.size % num_units == 0 for leaf in jax.tree.leaves(arguments))


def _probe_units(num_units: int, function: Any, arguments: tuple[Any, ...]) -> _Units:
    """Looks at blocks as a whole, and at whether units work apart from each other.

    The units whose number has a bit are sent in together: they reach one that has not,
    or the others one that has, where any unit reaches another one, as two numbers
    differ in some bit. So the probes are few.
    """
    reach, size = _reacher(function, arguments)
    unit, block = np.arange(size) % num_units, np.arange(size) // num_units
    bits = range((num_units - 1).bit_length())
    halves = [(unit >> bit) % 2 == value for bit in bits for value in (0, 1)]
    whole = [block == n for n in range(size // num_units)]
    reached = jax.lax.map(reach, jnp.asarray(np.stack(whole + halves)))
    own = np.arange(reached.shape[1]) % num_units
    others = [(own >> bit) % 2 != value for bit in bits for value in (0, 1)]
    met = reached[len(whole) :] & np.reshape(np.array(others, bool), (-1, len(own)))
    return _Units(reached[: len(whole)], jnp.any(met))


def _spread(found: _Units, num_units: int) -> np.ndarray:
    """Returns the same entry by entry, [outputs, entries]."""
    blocks = np.asarray(found.blocks)
    own = np.arange(blocks.shape[1]) % num_units
    same = own[:, None] == np.arange(num_units)
    return np.concatenate([same & block[:, None] for block in blocks], axis=1)


def _probe_entries(function: Any, arguments: tuple[Any, ...]) -> Any:
    """Returns what each entry of the arguments reaches, [outputs, entries]."""
    reach, size = _reacher(function, arguments)
    return jax.vmap(lambda n: reach(jnp.arange(size) == n))(jnp.arange(size)).T


def _reacher(function: Any, arguments: tuple[Any, ...]) -> tuple[Any, int]:
    """Returns what tells the outputs that entries reach, and how many entries."""
    vector, unflatten = ravel_pytree(arguments)
    _, push = jax.linearize(function, *arguments)

    def passes(entries: Any) -> Any:
        tangent = jnp.where(entries, jnp.nan, 0)
        return jnp.isnan(push(*unflatten(tangent.astype(vector.dtype))))

    # Where values overflow, all is not a number, and nothing is said.
    overflown = passes(jnp.zeros(len(vector), bool))
    return lambda entries: passes(entries) & ~overflown, len(vector)


def _split(reached: np.ndarray, arguments: Any) -> Any:
    """Gives [outputs, entries] the structure of the arguments, leaves [outputs, ...].

    What an argument of one leaf alone has is [outputs, its size].
    """
    leaves, structure = jax.tree.flatten(arguments)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = np.split(reached, ends[:-1], axis=1)
    shaped = [
        part.reshape(len(part), *leaf.shape)
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, shaped)


def _flat_read(read: Any, state: Any) -> Any:
    """Returns the matrix [R, S] of a linear `read`."""
    vector, unflatten = ravel_pytree(state)
    return jax.jacfwd(lambda v: read(unflatten(v)))(vector)


def _join(tree: Any) -> np.ndarray:
    """Joins leaves [outputs, ...] to [outputs, entries]."""
    leaves = [np.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves, axis=1)
