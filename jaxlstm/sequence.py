"""A cell over time: masks, lengths, resets, direction, edges, rematerialisation."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.backends.deer import deer
from jaxlstm.backends.parallel import check_parallel, parallel
from jaxlstm.cells.base import Cell, Gated, StepNoise, preactivations, update
from jaxlstm.cells.lstm import LSTMParams, LSTMState, make_lstm
from jaxlstm.edges import Edges, Hooks, check_edges, check_hooks, pass_over
from jaxlstm.rule import Controls, Static, gated_scan
from jaxlstm.select import keep, like, select
from jaxlstm.shapes import (
    OptionError,
    broadcast_state,
    check_choice,
    check_floating,
    check_inputs,
    check_lengths,
    check_state,
    check_time_axes,
    check_wide,
)
from jaxlstm.types import Array
from jaxlstm.varying import vary_together

Remat = Literal["none", "step", "sqrt", "sqrt_step"]
Derivative = Literal["rule", "autodiff"]
Engine = Literal["scan", "deer", "parallel"]


def unroll(
    cell: Cell,
    params: Any,
    inputs: Array,
    state: Any = None,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    resets: Array | None = None,
    reset_state: Any = None,
    reverse: bool = False,
    edges: Edges | Hooks | None = None,
    noise: StepNoise | None = None,
    remat: Remat = "none",
    derivative: Derivative = "rule",
    compute_dtype: Any = None,
    engine: Engine = "scan",
) -> tuple[Any, Any]:
    """Runs a cell over a sequence.

    Args:
      cell: the cell.
      params: its parameters.
      inputs: [T, ..., X].
      state: the state before the first step, leaves [..., H]; by default
        `cell.initial_state`.
      mask: [T, ...]. Where it is 0 the step is not there: the state is carried over
        it, and what stands in the input, NaN included, changes nothing.
      lengths: [...] integers. Steps from there on are masked. With a mask, a step has
        to pass both.
      resets: [T, ...]. Where it is not 0, the state becomes `reset_state` before the
        step, so that nothing flows from t-1 to t. In reverse the cut is at the same
        place: after step t has been processed. Resets on masked steps count.
      reset_state: leaves that broadcast to [..., H]; by default
        `cell.initial_state`, never `state`.
      reverse: reads each sequence from its last step to its first. What belongs to
        step t stays at index t.
      edges: factors on the gradient from step to step, see `Edges`; or functions with
        gradients of their own, see `Hooks`, which always take "autodiff".
      noise: what disturbs the updates of a gated cell, leaves [T, ..., H], as
        `jaxlstm.noise` draws it; no gradient is taken by it.
      remat: what is computed again in the backward pass to save memory. "none":
        nothing. "step": only states are kept, z is made again. "sqrt": time is cut
        into about sqrt(T) chunks, and only the states between them are kept.
        "sqrt_step": both.
      derivative: "rule" (the rule of `jaxlstm.rule`, for cells with a gated form) or
        "autodiff" (JAX's own through the scan). Cells without a gated form always
        take the latter.
      compute_dtype: dtype of the factors of all products that make z, such as
        `jnp.bfloat16`; sums, states, parameters and products inside `update` (of a
        projection, the second one of the multiplicative LSTM) keep theirs. For gated
        cells.
      engine: "scan", step after step; "deer", all steps at once by Newton's method, see
        `jaxlstm.backends.deer`; or "parallel", all at once in a cell that is a linear
        recurrence, see `jaxlstm.backends.parallel`. The latter two have derivatives of
        their own and take neither "autodiff" nor `Hooks`; "deer" takes neither
        `remat`, `compute_dtype` nor noise.

    Returns:
      The last state, and the states after every step, leaves [T, ..., H]. On masked
      steps that is the state carried over them.

    Raises:
      ValueError: shapes do not fit together, or an option is unknown.
      TypeError: `lengths` are not integers, the state's dtype is not that of the
        parameters, or the rule is given a state of integers.

    References:
      Remat "sqrt": Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016;
      Gruslys et al., Memory-Efficient Backpropagation Through Time, NIPS 2016.
    """
    check_choice("remat", remat, Remat)
    check_choice("derivative", derivative, Derivative)
    check_choice("engine", engine, Engine)
    if engine == "deer":
        check_deer(remat, derivative, compute_dtype, edges, noise is not None)
    if engine == "parallel":
        check_parallel(cell, derivative=derivative, edges=edges)
    if cell.gated is None:
        for name, given in (("compute_dtype", compute_dtype), ("noise", noise)):
            if given is not None:
                raise ValueError(f"{name}: the cell has no gated form to apply it to")
    inputs = jnp.asarray(inputs)
    if cell.gated is not None:
        w_x = cell.gated.weights(params).w_x
        check_inputs(inputs, w_x)
        inputs = inputs.astype(w_x.dtype)
    start = cell.initial_state(params, inputs.shape[1:-1])
    if state is None:
        state = start
    check_state("state", state, start, inputs)
    if reset_state is None:
        reset_state = start
    else:
        reset_state = broadcast_state("reset_state", reset_state, start, inputs)
    if mask is not None:
        mask = check_time_axes("mask", mask, inputs)
    if lengths is not None:
        mask = mask_by_length(check_lengths(lengths, inputs), mask, inputs)
    hooks = check_hooks(cell, edges) if isinstance(edges, Hooks) else None
    factors = None if isinstance(edges, Hooks) else edges
    controls = Controls(
        mask,
        resets if resets is None else check_time_axes("resets", resets, inputs),
        factors if factors is None else check_edges(cell, factors, inputs),
        noise,
    )
    if controls.mask is not None:
        # NaN times zero is NaN: what must not matter is taken out before any product.
        inputs = keep(controls.mask, inputs, jnp.zeros_like(inputs))

    # Under shard_map a zero state is alike on all devices and the inputs are not; the
    # carry of a scan has to be one or the other. Parameters are marked here as well:
    # inside the scan, their gradients would be summed over devices at every step.
    params, state, reset_state, inputs, controls = vary_together(
        (params, state, reset_state, inputs, controls)
    )
    by_rule = derivative == "rule" and cell.gated is not None and hooks is None
    run = _rule_scan if by_rule else _plain_scan
    if engine == "parallel":
        run = _parallel
    elif engine == "deer":
        check_wide("state", start)
        run = _deer
    elif by_rule:
        check_floating("state", start)
    options = Options(reverse, "step" in remat, compute_dtype, hooks)

    def scan(state: Any, xs: Any) -> tuple[Any, Any]:
        inputs, controls = xs
        return run(cell, params, state, reset_state, inputs, controls, options)

    last_reset = None
    if reverse and controls.resets is not None and len(inputs):
        # The cut before step t comes after it in the order of processing.
        last_reset = controls.resets[0]
        before = jnp.concatenate(
            [controls.resets[1:], jnp.zeros_like(controls.resets[:1])]
        )
        controls = controls._replace(resets=before)
    if "sqrt" in remat:
        last, states = scan_chunks(scan, state, (inputs, controls), reverse=reverse)
    else:
        last, states = scan(state, (inputs, controls))
    return select(last_reset, reset_state, last), states


def lstm(
    params: LSTMParams, inputs: Array, state: LSTMState | None = None, **options: Any
) -> tuple[LSTMState, Array]:
    """Runs an LSTM layer over a sequence.

    Args:
      params: weights of the layer.
      inputs: [T, ..., X], with any batch axes or none.
      state: the state before the first step, [..., H] each; zeros by default.
      **options: mask, lengths, resets, reset_state, reverse, edges, remat,
        derivative and compute_dtype, as in `unroll`.

    Returns:
      The last state, and the outputs [T, ..., H], zero on masked steps.

    Raises:
      ValueError, TypeError: as `unroll`.
    """
    last, states = unroll(LSTM, params, inputs, state, **options)
    mask, lengths = options.get("mask"), options.get("lengths")
    if lengths is not None:
        mask = mask_by_length(jnp.asarray(lengths), mask, states.h)
    if mask is not None:
        mask = jnp.asarray(mask)
    return last, keep(mask, states.h, jnp.zeros_like(states.h))


LSTM = make_lstm()


def scan_chunks(
    scan: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any,
    *,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Scans over about sqrt(T) chunks of time, each made again in the backward pass.

    Args:
      scan: `(carry, xs) -> (carry, ys)` for any stretch of time, leaves [t, ...].
      carry: what goes from chunk to chunk. Only this is kept of the forward pass.
      xs: leaves [T, ...]. T need not divide: what is left is a shorter last chunk.
      reverse: from the last chunk to the first.

    Returns:
      The last carry, and ys [T, ...] of the whole.
    """
    length = len(jax.tree.leaves(xs)[0])
    size = max(1, math.isqrt(length))
    count = length // size
    whole = count * size

    def fold(x: Array) -> Array:
        return x[:whole].reshape(count, size, *x.shape[1:])

    def unfold(y: Array) -> Array:
        return y.reshape(y.shape[0] * y.shape[1], *y.shape[2:])

    chunk = jax.checkpoint(scan, prevent_cse=False)
    parts = [
        lambda carry: jax.lax.scan(
            chunk, carry, jax.tree.map(fold, xs), reverse=reverse
        )
    ]
    if whole < length:
        rest = jax.tree.map(lambda x: x[whole:], xs)
        parts.append(lambda carry: jax.checkpoint(scan)(carry, rest))
    ys = [None] * len(parts)
    order = range(len(parts))
    for n in reversed(order) if reverse else order:
        carry, ys[n] = parts[n](carry)
    ys[0] = jax.tree.map(unfold, ys[0])
    return carry, jax.tree.map(lambda *y: jnp.concatenate(y), *ys)


class Options(NamedTuple):
    """How a scan is run: direction, whether z is made again, dtype of products."""

    reverse: bool
    remat_step: bool
    compute_dtype: Any
    hooks: Hooks | None


def _rule_scan(
    cell: Cell,
    params: Any,
    state: Any,
    reset_state: Any,
    inputs: Array,
    controls: Controls,
    options: Options,
) -> tuple[Any, Any]:
    assert cell.gated is not None
    static, weights = _static(cell.gated, options), cell.gated.weights(params)
    last, states, _ = gated_scan(static, weights, state, reset_state, inputs, controls)
    return last, states


def _parallel(
    cell: Cell,
    params: Any,
    state: Any,
    reset_state: Any,
    inputs: Array,
    controls: Controls,
    options: Options,
) -> tuple[Any, Any]:
    assert cell.gated is not None
    static, weights = _static(cell.gated, options), cell.gated.weights(params)
    return parallel(static, weights, state, reset_state, inputs, controls)


def _static(gated: Gated, options: Options) -> Static:
    return Static(
        gated,
        reverse=options.reverse,
        keep_z=not options.remat_step,
        compute_dtype=options.compute_dtype,
    )


def _plain_scan(
    cell: Cell,
    params: Any,
    state: Any,
    reset_state: Any,
    inputs: Array,
    controls: Controls,
    options: Options,
) -> tuple[Any, Any]:
    def step(state: Any, xs: Any) -> tuple[Any, Any]:
        x, (mask, reset, edges, noise) = xs
        state = select(reset, reset_state, state)
        edges = edges if options.hooks is None else options.hooks
        new = advance(cell, params, state, x, edges, options.compute_dtype, noise)
        state = keep(mask, new, state)
        return state, state

    if options.remat_step:
        step = jax.checkpoint(step, prevent_cse=False)
    return jax.lax.scan(step, state, (inputs, controls), reverse=options.reverse)


def _deer(
    cell: Cell,
    params: Any,
    state: Any,
    reset_state: Any,
    inputs: Array,
    controls: Controls,
    options: Options,
) -> tuple[Any, Any]:
    def turn(tree: Any) -> Any:
        return jax.tree.map(lambda x: x[::-1], tree) if options.reverse else tree

    def step(params: Any, state: Any, x: Array, edges: Edges | None) -> Any:
        return advance(cell, params, state, x, edges)

    mask, resets, edges, _ = turn(controls)
    last, states = deer(
        step,
        params,
        state,
        reset_state,
        turn(inputs),
        mask=mask,
        resets=resets,
        edges=edges,
    )
    return last, turn(states)


def advance(
    cell: Cell,
    params: Any,
    state: Any,
    x: Array,
    edges: Edges | Hooks | None = None,
    compute_dtype: Any = None,
    noise: StepNoise | None = None,
) -> Any:
    """Makes one step as `unroll` makes it.

    Args:
      cell: the cell.
      params: its parameters.
      state: the state left by the step before, leaves [..., H].
      x: [..., X].
      edges: factors on the gradient into the step, [...] each, or hooks, or None.
      compute_dtype: dtype of the factors of the products, or None.
      noise: what disturbs the update, leaves [..., H], or None.

    Returns:
      The next state.
    """
    plain = edges is None and compute_dtype is None and noise is None
    if cell.gated is None or plain:
        state = state if edges is None else pass_over(edges, "h", state)
        return cell.step(params, state, x)[0]
    weights, h = cell.gated.weights(params), cell.gated.read(state)
    if edges is not None:
        h, state = pass_over(edges, "h", h), pass_over(edges, "c", state)
    z = preactivations(weights, x, h, compute_dtype)
    if isinstance(edges, Hooks):
        z = pass_over(edges, "z", z)
    return update(cell.gated, weights.small, state, z, noise)


def check_deer(
    remat: Remat = "none",
    derivative: Derivative = "rule",
    compute_dtype: Any = None,
    edges: Edges | Hooks | None = None,
    noise: bool = False,
) -> None:
    """Raises OptionError if an option of `unroll` is not for the engine "deer"."""
    refused = {
        f'remat: is "{remat}"': remat != "none",
        f'derivative: is "{derivative}"': derivative != "rule",
        f"compute_dtype: is {compute_dtype}": compute_dtype is not None,
        "edges: are hooks": isinstance(edges, Hooks),
        "dropout: acts inside the cell": noise,
    }
    for value, wrong in refused.items():
        if wrong:
            raise OptionError(
                f'{value}, which engine "deer" does not take; use engine="scan"'
            )


def mask_by_length(lengths: Array, mask: Any, inputs: Array) -> Array:
    """Returns which steps of [T, ..., X] are within lengths [...], and in the mask."""
    steps = jnp.arange(inputs.shape[0])
    within = like(steps, jnp.empty((1,) * (lengths.ndim + 1))) < lengths[None]
    return within if mask is None else within & (like(jnp.asarray(mask), within) != 0)
