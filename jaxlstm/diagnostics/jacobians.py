"""Jacobians of a model's steps, their products over time, and how fast these decay."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.diagnostics.gates import gate_values
from jaxlstm.diagnostics.transition import Inputs, read_inputs, transition
from jaxlstm.estimators import Segment
from jaxlstm.model import Model, ModelParams
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array, Key


class Products(NamedTuple):
    """Norms of ds_t/ds_{t-k}, as logarithms: none overflows, none is lost.

    Attributes:
      lags: [K] of k.
      log_norms: [K, B] of the whole, natural logarithms; -inf where a reset cuts.
      by_field: of the blocks of the fields of the same name, such as dh_t/dh_{t-k} and
        dc_t/dc_{t-k}, in all layers.
    """

    lags: Array
    log_norms: Array
    by_field: dict[str, Array]


class Rate(NamedTuple):
    """A factor a step.

    Attributes:
      factor: the factor; below 1 what is fitted decays.
      error: its standard error by the scatter about the line.
    """

    factor: float
    error: float


def step_jacobians(
    model: Model,
    params: ModelParams,
    segment: Segment,
    *,
    state: Any = None,
    keys: Key | None = None,
) -> Array:
    """Returns J_t = ds_t/ds_{t-1} of every step, [T, B, S, S].

    The entry [t, b, i, j] is the derivative of entry i of s_t by entry j of s_{t-1},
    of the state laid flat: its leaves in the order of `jax.tree.leaves`, layer after
    layer. A masked step has the identity, a step after a reset has zeros.

    Args:
      model: has a `step`.
      params: of the model.
      segment: leaves [T, B, ...].
      state: before the first step, leaves [B, ...]; by default the initial one, as
        after a reset.
      keys: [B] of the examples' noise; None for none.

    Raises:
      OptionError: the model has no step, or a state of integers.
    """
    before, inputs = _states_before(model, params, segment, state, keys)

    def one(step: tuple[Any, Inputs]) -> Array:
        return _jacobian(model, params, *step, keys)

    return jax.lax.map(one, (before, inputs))


def jacobian_products(
    model: Model,
    params: ModelParams,
    segment: Segment,
    *,
    lags: Sequence[int] | None = None,
    state: Any = None,
    keys: Key | None = None,
) -> Products:
    """Returns the spectral norms of ds_t/ds_{t-k} of the last step t against k.

        ds_t/ds_{t-k} = J_t J_{t-1} ... J_{t-k+1}

    The norm is the largest factor by which a change of the state grows or shrinks in k
    steps. Memory O(B S^2); each lag costs B singular value decompositions [S, S].

    Args:
      model: has a `step`.
      params: of the model.
      segment: leaves [T, B, ...].
      lags: of k, from 1 to T; by default all. Fewer take less time.
      state: before the first step, leaves [B, ...]; by default the initial one, as
        after a reset, so that the norm at k = T is zero.
      keys: [B] of the examples' noise; None for none.

    Raises:
      OptionError: the model has no step, a state of integers, or there is no such lag.

    References:
      Pascanu, Mikolov and Bengio, On the Difficulty of Training Recurrent Neural
      Networks, ICML 2013.
    """
    before, inputs = _states_before(model, params, segment, state, keys)
    num_steps, batch_size = inputs.mask.shape
    wanted = read_lags(lags, num_steps)
    fields = _fields(before)
    size = sum(count for _, count in fields)
    names = list(dict.fromkeys(name for name, _ in fields))
    belongs = {
        name: np.concatenate([np.full(n, name == field) for field, n in fields])
        for name in names
    }

    def measure(product: Array) -> Array:
        blocks = [product, *(product[:, x][:, :, x] for x in belongs.values())]
        return jnp.stack([jnp.linalg.norm(x, ord=2, axis=(1, 2)) for x in blocks])

    def skip(product: Array) -> Array:
        return jnp.zeros((1 + len(names), batch_size), product.dtype)

    def body(carry: tuple[Array, Array], xs: Any) -> tuple[Any, Array]:
        product, log_scale = carry
        before, inputs, wanted = xs
        product = product @ _jacobian(model, params, before, inputs, keys)
        largest = jnp.max(jnp.abs(product), axis=(1, 2))
        scale = jnp.where(largest > 0, largest, 1)
        product = product / scale[:, None, None]
        log_scale = log_scale + jnp.log(scale)
        norms = jax.lax.cond(wanted, measure, skip, product)
        return (product, log_scale), jnp.log(norms) + log_scale[None]

    dtype = jax.tree.leaves(before)[0].dtype
    start = (
        jnp.broadcast_to(jnp.eye(size, dtype=dtype), (batch_size, size, size)),
        jnp.zeros(batch_size, dtype),
    )
    at_lag = np.isin(num_steps - np.arange(num_steps), wanted)
    xs = before, inputs, jnp.asarray(at_lag)
    _, log_norms = jax.lax.scan(body, start, xs, reverse=True)
    whole, *blocks = jnp.moveaxis(log_norms[num_steps - wanted], 1, 0)
    return Products(jnp.asarray(wanted), whole, dict(zip(names, blocks, strict=True)))


def forget_products(
    model: Model,
    params: ModelParams,
    segment: Segment,
    *,
    lags: Sequence[int] | None = None,
    state: Any = None,
    keys: Key | None = None,
) -> Array | None:
    """Returns the mean over units of f_t f_{t-1} ... f_{t-k+1}, as logarithms [K, B].

    It is what the memory cells alone let pass from step t-k to the last step t. Masked
    steps let all pass, resets nothing.

    Arguments and errors are those of `jacobian_products` and `gate_values`.

    Returns:
      Natural logarithms; None for a cell without a gate named "forget".
    """
    layers = gate_values(model, params, segment, state=state, keys=keys)
    if "forget" not in layers[0]:
        return None
    forget = jnp.concatenate([layer["forget"] for layer in layers], axis=-1)
    inputs = read_inputs(segment, begins=state is None)
    num_steps = len(forget)
    wanted = read_lags(lags, num_steps)
    logs = jnp.where(inputs.mask[..., None], jnp.log(forget), 0)
    logs = jnp.where(inputs.reset[..., None], -jnp.inf, logs)
    sums = jnp.cumsum(logs[::-1], axis=0)[wanted - 1]
    return jax.nn.logsumexp(sums, axis=-1) - jnp.log(forget.shape[-1])


def fit_rate(lags: Any, log_norms: Any) -> Rate | None:
    """Returns the factor a step by least squares on the logarithms.

        log norm(k) = log a + k log r + noise

    Args:
      lags: [K] of k.
      log_norms: [K] natural logarithms; those that are not finite are left out.

    Returns:
      r and its error; None if fewer than three points are left.
    """
    k, y = (np.asarray(x, np.float64) for x in (lags, log_norms))
    known = np.isfinite(y)
    k, y = k[known], y[known]
    if len(k) < 3:
        return None
    k = k - k.mean()
    slope = np.sum(k * y) / np.sum(k**2)
    rest = y - y.mean() - slope * k
    error = np.sqrt(np.sum(rest**2) / (len(k) - 2) / np.sum(k**2))
    return Rate(float(np.exp(slope)), float(np.exp(slope) * error))


def read_lags(lags: Sequence[int] | None, num_steps: int) -> np.ndarray:
    """Returns lags [K], by default 1 to T.

    Raises:
      OptionError: there are none, or one is not from 1 to T.
    """
    found = np.arange(1, num_steps + 1) if lags is None else np.array([*lags], int)
    wrong = found[(found < 1) | (found > num_steps)]
    if wrong.size or not found.size:
        what = f"value is {wrong[0]}" if wrong.size else "there are none"
        raise OptionError(
            f"lags: {what}; use some from 1 to {num_steps}, the segment's length"
        )
    return found


def _states_before(
    model: Model, params: ModelParams, segment: Segment, state: Any, keys: Key | None
) -> tuple[Any, Inputs]:
    """Returns the states that were there before each step, and the inputs."""
    inputs = read_inputs(segment, begins=state is None)
    if state is None:
        state = model.initial_state(params, inputs.mask.shape[1:])
    _fields(jax.tree.map(lambda x: x[None], state))

    def body(state: Any, inputs: Inputs) -> tuple[Any, Any]:
        return transition(model, params, state, inputs, keys), state

    return jax.lax.scan(body, state, inputs)[1], inputs


def _jacobian(
    model: Model, params: ModelParams, state: Any, inputs: Inputs, keys: Key | None
) -> Array:
    """Returns ds_t/ds_{t-1} of one step, [B, S, S]."""
    batch_size = inputs.mask.shape[0]
    leaves, structure = jax.tree.flatten(state)
    ends = np.cumsum([leaf[0].size for leaf in leaves])

    def flatten(state: Any) -> Array:
        leaves = jax.tree.leaves(state)
        return jnp.concatenate([x.reshape(batch_size, -1) for x in leaves], axis=-1)

    def advance(flat: Array) -> Array:
        parts = jnp.split(flat, ends[:-1], axis=-1)
        parts = [x.reshape(y.shape) for x, y in zip(parts, leaves, strict=True)]
        state = jax.tree.unflatten(structure, parts)
        return flatten(transition(model, params, state, inputs, keys))

    flat, push = jax.linearize(advance, flatten(state))
    size = flat.shape[-1]
    units = jnp.eye(size, dtype=flat.dtype)[:, None]
    columns = jax.vmap(push)(jnp.broadcast_to(units, (size, batch_size, size)))
    return jnp.moveaxis(columns, 0, -1)


def _fields(states: Any) -> list[tuple[str, int]]:
    """Returns name and size of each leaf [T, B, ...], in their order."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(states):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise OptionError(
                f"the state's {jax.tree_util.keystr(path)} is {leaf.dtype}, and has no "
                "derivative; make it floating-point"
            )
        name = jax.tree_util.keystr(path[-1:], simple=True) if path else "state"
        found.append((name, leaf[0, 0].size))
    return found
