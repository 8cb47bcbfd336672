"""DEER: all steps of a recurrence at once, by Newton's method over the sequence.

The states of s_t = f_t(s_{t-1}) are the root of the defects e_t = f_t(s_{t-1}) - s_t,
all t together. Newton's method linearises each step at a guess of the states,
J_t = df_t/ds, and solves for the change of all of them,

    delta_t = J_t delta_{t-1} + e_t                                              (1)

which is linear, so that `associative_scan` does it in O(log T) rounds: two steps
in a row are one step, of matrix J_2 J_1 and offset J_2 e_1 + e_2.                (2)

Far from the root, where steps expand, products of J grow like gain^T: (1) overflows,
or throws the guess so far off that the next one is no better. Here (2) is damped: every
offset is cut to at most R = max |f|, the size of the states themselves, and every
matrix where its product could overflow. Near the root nothing is cut, and this is
Newton's method, of second order.

What the method has not settled after `MAX_ITERATIONS` is scanned step by step, from
the first such step on, so the result is always that of the scan up to rounding. It
comes to that in chaotic sequences, of which no method knows the end before the middle.

The derivative is that of the root: the tangent solves (1) with the tangent of f_t at
fixed s_{t-1} for e_t, in one linear scan, and JAX transposes it into the reversed one.

References:
  Lim, Zhu, Selfridge and Kasim, Parallelizing Non-Linear Sequential Models over the
  Sequence Length, ICLR 2024.
  Gonzalez, Warrington, Smith and Linderman, Towards Scalable and Stable
  Parallelization of Nonlinear RNNs, NeurIPS 2024, on why to damp; they do it by a
  trust region, with a Kalman smoother.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxlstm.backends.linear import damped_scan, linear_scan
from jaxlstm.types import Array, PyTree

MAX_ITERATIONS = 64

# What is met to within so many roundings holds, as in a scan.
ROUNDINGS = 16

# (params, state, x, edges) -> state, of one example.
StepFn = Callable[[Any, Any, Any, Any], Any]


class System(NamedTuple):
    """A recurrence over time, of N examples with S entries of state each.

    Attributes:
      params: of the step, pytree.
      start: [N, S] the state before the first step.
      reset_state: [N, S] what a reset puts in its place.
      inputs: [T, N, ...].
      mask: [T, N], False where a step is not there, or None.
      resets: [T, N], True where the state is reset before the step, or None.
      edges: pytree, [T, N] each, given to the step: it may scale its derivative by
        them, and not its value. Or None.
    """

    params: PyTree
    start: Array
    reset_state: Array
    inputs: Array
    mask: Array | None
    resets: Array | None
    edges: PyTree


class Progress(NamedTuple):
    """How far Newton's method has come.

    Attributes:
      states: [T, N, S] the guess.
      defects: [T, N, S] what each step gives, less the guess.
      num_iterations: [] how many linear scans were made.
      worst: [] the largest defect of an entry, relative to the entry.
      settled: [] whether rounding alone is left.
    """

    states: Array
    defects: Array
    num_iterations: Array
    worst: Array
    settled: Array


def deer(
    step: StepFn,
    params: PyTree,
    state: PyTree,
    reset_state: PyTree,
    inputs: Array,
    *,
    mask: Array | None = None,
    resets: Array | None = None,
    edges: PyTree = None,
) -> tuple[PyTree, PyTree]:
    """Runs a recurrence over time, all steps at once.

    Exact: what scanning `step` gives, up to rounding, and its derivatives of any order.
    Each iteration costs O(T B S^3) time and O(T B S^2) memory, in O(log T) rounds.

    Args:
      step: `(params, state, x, edges) -> state` of one example, leaves of floating
        point in one dtype.
      params: of the step.
      state: before the first step, leaves [..., H].
      reset_state: leaves [..., H].
      inputs: [T, ..., X], finite on masked steps too.
      mask: [T, ...]; where it is 0, the state is carried over the step.
      resets: [T, ...]; where it is not 0, the state becomes `reset_state` first.
      edges: pytree, [T, ...] each, given to the step, whose value does not depend on
        them.

    Returns:
      The last state, and the states after every step, leaves [T, ..., H].
    """
    batch_shape, length = inputs.shape[1:-1], inputs.shape[0]
    if not inputs.size:
        empty = jax.tree.map(lambda x: jnp.zeros((length, *x.shape), x.dtype), state)
        return state, empty

    def rows(x: Array) -> Array:
        return x.reshape(-1, *x.shape[len(batch_shape) :])

    def flatten(tree: PyTree) -> Array:
        return jax.vmap(lambda tree: ravel_pytree(tree)[0])(jax.tree.map(rows, tree))

    def spread(value: Any) -> Array:
        axes = value.shape + (1,) * (1 + len(batch_shape) - value.ndim)
        value = jnp.broadcast_to(value.reshape(axes), (length, *batch_shape))
        return value.reshape(length, -1)

    _, unflatten = ravel_pytree(jax.tree.map(lambda x: rows(x)[0], state))

    def flat_step(params: PyTree, state: Array, x: Array, edges: PyTree) -> Array:
        return ravel_pytree(step(params, unflatten(state), x, edges))[0]

    system = System(
        params,
        flatten(state),
        flatten(reset_state),
        inputs.reshape(length, -1, inputs.shape[-1]),
        None if mask is None else spread(mask) != 0,
        None if resets is None else spread(resets) != 0,
        jax.tree.map(spread, edges),
    )
    states = jax.vmap(jax.vmap(unflatten))(solve(flat_step, system))
    states = jax.tree.map(
        lambda x: x.reshape(length, *batch_shape, *x.shape[2:]), states
    )
    return jax.tree.map(lambda x: x[-1], states), states


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def solve(step: StepFn, system: System) -> Array:
    """Returns the states [T, N, S] of a system."""
    return finish(step, system, iterate(step, system, MAX_ITERATIONS))


@solve.defjvp
def _solve_jvp(step: StepFn, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (system,), (dsystem,) = primals, tangents
    states = solve(step, system)

    def at_fixed_states(params: Any, start: Any, reset_state: Any, inputs: Any) -> Any:
        changed = system._replace(
            params=params, start=start, reset_state=reset_state, inputs=inputs
        )
        return _advance(step, changed, _before(changed, states))

    _, immediate = jax.jvp(at_fixed_states, system[:4], dsystem[:4])
    return states, linear_scan(_jacobians(step, system, states), immediate)


def iterate(step: StepFn, system: System, max_iterations: int) -> Progress:
    """Applies Newton's method until every step holds, or up to a bound.

    Args:
      step: of one example, on flat states.
      system: what to solve. Its edges are left out: they change no value.
      max_iterations: the bound.

    Returns:
      The states it comes to, and how well they hold. They are settled where each entry
      holds; or where each step nearly does, by the size of its largest entry, and
      one more iteration did not halve the worst defect: that is rounding, of large
      terms that cancel. Near the root it squares defects of any other kind.
    """
    system = system._replace(edges=None)

    def at(states: Array, num_iterations: Array, worst_before: Array) -> Progress:
        defects = _advance(step, system, _before(system, states)) - states
        errors, sizes = jnp.abs(defects), jnp.abs(states + defects)
        eps = jnp.finfo(states.dtype).eps
        rounding = ROUNDINGS * eps
        worst = jnp.where(errors == 0, 0, errors / sizes).max()
        nearly = (errors.max(-1) <= eps**0.75 * sizes.max(-1)).all()
        stalled = nearly & (worst > worst_before / 2)
        settled = jnp.isfinite(defects).all() & ((worst <= rounding) | stalled)
        return Progress(states, defects, num_iterations, worst, settled)

    def unsettled(progress: Progress) -> Array:
        within = progress.num_iterations < max_iterations
        return within & jnp.isfinite(progress.defects).all() & ~progress.settled

    def improve(progress: Progress) -> Progress:
        states, defects = progress.states, progress.defects
        size = jnp.abs(states + defects).max((0, 2), keepdims=True)
        jacobians = _jacobians(step, system, states)
        change = damped_scan(jacobians, defects, size)
        return at(states + change, progress.num_iterations + 1, progress.worst)

    length = len(system.inputs)
    guess = jnp.broadcast_to(system.start, (length, *system.start.shape))
    guess = _advance(step, system, _before(system, guess))
    begin = at(guess, jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, guess.dtype))
    return jax.lax.while_loop(unsettled, improve, begin)


def finish(step: StepFn, system: System, progress: Progress) -> Array:
    """Scans what is not settled, from the first step on that does not hold exactly.

    Args:
      step: of one example, on flat states.
      system: what to solve.
      progress: what Newton's method made of it.

    Returns:
      The states [T, N, S].
    """
    holds = progress.settled | (progress.defects == 0).all((1, 2))
    length = len(holds)

    def scan(t: Array, states: Array) -> Array:
        here = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, t, 1),
            system._replace(params=None, start=None, reset_state=None, edges=None),
        )
        here = here._replace(
            params=system.params,
            start=jnp.where(t == 0, system.start, states[jnp.maximum(t - 1, 0)]),
            reset_state=system.reset_state,
        )
        new = _advance(step, here, _before(here, states[:1]))
        return jax.lax.dynamic_update_slice_in_dim(states, new, t, 0)

    num_held = jnp.where(holds.all(), length, jnp.argmin(holds))
    return jax.lax.fori_loop(num_held, length, scan, progress.states)


def _before(system: System, states: Array) -> Array:
    """Returns the state that goes into each step, from those after each."""
    before = jnp.concatenate([system.start[None], states[:-1]])
    if system.resets is None:
        return before
    return jnp.where(system.resets[..., None], system.reset_state[None], before)


def _advance(step: StepFn, system: System, before: Array) -> Array:
    """Returns the states after each step [T, N, S], from those before."""
    after = _map(functools.partial(step, system.params), system, before)
    if system.mask is None:
        return after
    return jnp.where(system.mask[..., None], after, before)


def _jacobians(step: StepFn, system: System, states: Array) -> Array:
    """Returns the derivative of each step by the state after the one before.

    Being made for one example at a time, its product of the recurrent weights with the
    directions of the state is the same for all of them, and is made once.
    """
    by_state = jax.jacfwd(functools.partial(step, system.params))
    jacobians = _map(by_state, system, _before(system, states))
    if system.mask is not None:
        identity = jnp.eye(states.shape[-1], dtype=states.dtype)[None, None]
        jacobians = jnp.where(system.mask[..., None, None], jacobians, identity)
    if system.resets is not None:
        jacobians = jnp.where(system.resets[..., None, None], 0, jacobians)
    return jacobians


def _map(function: Callable[..., Array], system: System, before: Array) -> Array:
    """Maps `(state, x, edges) -> array` over the rows of time and batch, as one axis.

    Weight gradients are then plain products.
    """
    arguments = before, system.inputs, system.edges
    length, count = before.shape[:2]
    rows = jax.tree.map(lambda x: x.reshape(length * count, *x.shape[2:]), arguments)
    mapped = jax.vmap(function)(*rows)
    return mapped.reshape(length, count, *mapped.shape[1:])
