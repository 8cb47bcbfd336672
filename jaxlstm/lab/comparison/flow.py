"""What a comparison measures of gradient flow, along the reference run."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells import LSTMParams
from jaxlstm.cells.gates import gate_names
from jaxlstm.diagnostics import (
    Flow,
    Products,
    Saturation,
    flow_norms,
    forget_products,
    gate_values,
    gradient_flow,
    jacobian_products,
    saturation,
)
from jaxlstm.diagnostics.terms import step_terms
from jaxlstm.diagnostics.transition import read_inputs
from jaxlstm.diagnostics.walk import walk
from jaxlstm.estimators import LossFn, Segment
from jaxlstm.lab.comparison.problem import Part, Problem, as_dtype
from jaxlstm.lab.comparison.windows import read_window
from jaxlstm.model import Model, ModelParams
from jaxlstm.types import Array, Key

# Singular values are what takes time: at most so many lags, and steps for the terms.
MOST_LAGS, MOST_STEPS = 48, 12


class Figures(NamedTuple):
    """What is computed at a snapshot.

    Attributes:
      flow: norms [T].
      products: of the first examples.
      forget: [K, B] logarithms of products of forget gates, or None.
      saturation: by layer and gate.
      terms: by layer, derivative and term, mean spectral norms []; or None.
    """

    flow: Flow
    products: Products
    forget: Array | None
    saturation: tuple[dict[str, Saturation], ...] | None
    terms: tuple[dict[str, dict[str, Array]], ...] | None


def measure(problem: Problem, *, num_segments: int = 1, num_examples: int = 2) -> Part:
    """Measures where the exact gradient of a window goes, and what the way is like.

    In float64, on the first window of the training data, from the initial state; a
    model with dropout draws there as it does in training.

    - Gradients by states and inputs of each layer, whose norms are over the batch.
    - Norms of ds_t/ds_{t-k} of the last step t, means over examples; beside them the
      product of the forget gates, the mean over units too.
    - Shares of saturated gates.
    - Terms of dc_t/dc_{t-1} and dh_t/dh_{t-1} of LSTMs, the means of their spectral
      norms.

    Args:
      problem: what is compared.
      num_segments: in the window.
      num_examples: whose Jacobians are multiplied.
    """
    with jax.enable_x64(True):
        model = problem.model("float64")
        segment = as_dtype(read_window(problem, 0, num_segments).whole, "float64")
        lags = choose_lags(len(segment.mask))
        keys = jax.random.split(jax.random.key(0), problem.experiment.batch_size)
        loss_fn = problem.config.task.loss
        run = jax.jit(functools.partial(_compute, model, loss_fn, lags, num_examples))
        gated = model.layers and model.layers.cell.gated
        gates = gate_names(gated) if gated else ()
        snapshots = []
        for snapshot in problem.snapshots:
            problem.progress(f"gradient flow after update {snapshot.update:,}")
            params = as_dtype(snapshot.params, "float64")
            figures = jax.device_get(run(params, segment, keys))
            snapshots.append({"update": snapshot.update, **_write(figures, gates)})
    return Part({"snapshots": snapshots})


def choose_lags(num_steps: int) -> list[int]:
    """Returns lags below T, all of them or evenly by their logarithms."""
    longest = max(1, num_steps - 1)
    if longest <= MOST_LAGS:
        return list(range(1, longest + 1))
    spaced = np.geomspace(1, longest, MOST_LAGS)
    return sorted({round(k) for k in spaced.tolist()})


def as_figures(log_norms: Any) -> list[float | None]:
    """Returns exponentials; None for those that no float holds."""
    with np.errstate(over="ignore"):
        norms = np.exp(np.asarray(log_norms, np.float64)).tolist()
    return [norm if np.isfinite(norm) else None for norm in norms]


def _compute(
    model: Model,
    loss_fn: LossFn,
    lags: Sequence[int],
    num_examples: int,
    params: ModelParams,
    segment: Segment,
    keys: Key,
) -> Figures:
    few = jax.tree.map(lambda x: x[:, :num_examples], segment)
    few_keys = keys[:num_examples]
    flow = flow_norms(gradient_flow(model, loss_fn, params, segment, keys=keys))
    products = jacobian_products(model, params, few, lags=lags, keys=few_keys)
    layers = model.layers
    if layers is None or layers.cell.gated is None:
        return Figures(flow, products, None, None, None)
    return Figures(
        flow,
        products,
        forget_products(model, params, few, lags=lags, keys=few_keys),
        saturation(model, params, segment, keys=keys),
        _terms(model, params, few, few_keys),
    )


def _terms(
    model: Model, params: ModelParams, segment: Segment, keys: Key
) -> tuple[dict[str, dict[str, Array]], ...] | None:
    """Returns the mean norms of the LSTM's terms, where there is a step before."""
    layers = params.recurrent.layers
    inputs = read_inputs(segment, begins=True)
    last = len(inputs.mask) - 1
    if not isinstance(layers[0], LSTMParams) or not last:
        return None
    start = model.initial_state(params, inputs.mask.shape[1:])
    steps = walk(model, params, inputs, start, keys)
    gates = gate_values(model, params, segment, keys=keys)
    at = np.unique(np.linspace(1, last, MOST_STEPS).round().astype(int))
    there = inputs.mask[at] & inputs.mask[at - 1] & ~inputs.reset[at]

    def measure(layer: Any, previous: Any, x: Array, states: Any, output: Array) -> Any:
        def one(xs: Any) -> Any:
            state, x, c, o = xs
            slope = o * (1 - jnp.tanh(c) ** 2)
            (memory, hidden), _, _ = step_terms(layer, state, slope, x)
            return jax.tree.map(
                lambda term: jnp.linalg.norm(term, ord=2, axis=(1, 2)),
                {"dc/dc": memory._asdict(), "dh/dh": hidden._asdict()},
            )

        before = states.c[at - 1], output[at - 1]
        xs = jax.tree.map(lambda x: x[at], previous), x[at], *before
        norms = jax.lax.map(one, xs)
        return jax.tree.map(lambda x: jnp.sum(x * there) / jnp.sum(there), norms)

    return tuple(
        measure(layer, previous, x, states, values["output"])
        for layer, previous, x, states, values in zip(
            layers, *steps, gates, strict=True
        )
    )


def _write(figures: Figures, gates: Sequence[str]) -> dict[str, Any]:
    """Returns a snapshot's values as JSON holds them, gates in their order."""

    def shares(found: Mapping[str, Saturation]) -> dict[str, Any]:
        return {
            name: {end: float(x) for end, x in found[name]._asdict().items()}
            for name in gates
            if name in found
        }

    flow, products = figures.flow, figures.products
    curves = [
        {
            "name": f"layer {n}",
            **{field: _curve(getattr(states, field, None)) for field in ("h", "c")},
            "x": _curve(inputs),
        }
        for n, (states, inputs) in enumerate(
            zip(flow.states, flow.inputs, strict=True), start=1
        )
    ]
    fields = dict.fromkeys(
        jax.tree_util.keystr(path[-1:], simple=True)
        for path, _ in jax.tree_util.tree_leaves_with_path(flow.states)
    )
    jacobians = {
        "k": products.lags.tolist(),
        "spectral": as_figures(_mean(products.log_norms)),
        "by_state": {
            name: as_figures(_mean(products.by_field[name])) for name in fields
        },
        "forget_product": None
        if figures.forget is None
        else as_figures(_mean(figures.forget)),
    }
    return {
        "steps": list(range(len(jax.tree.leaves(flow.states)[0]))),
        "layers": curves,
        "jacobians": jacobians,
        **_by_layer("saturation", figures.saturation, shares),
        **_by_layer("terms", figures.terms, _norms),
    }


def _by_layer(name: str, layers: Any, write: Any) -> dict[str, Any]:
    """Returns figures of all layers together, and of each where there are several."""
    if layers is None:
        return {name: {} if name == "saturation" else None}
    together = jax.tree.map(lambda *x: np.mean(x), *layers)
    found = {name: write(together)}
    if len(layers) > 1:
        found[f"{name}_by_layer"] = [write(layer) for layer in layers]
    return found


def _norms(terms: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the norms by derivative and term; None for a term that it lacks."""
    names = "direct", "forget", "input", "candidate", "output"

    def figure(value: Any) -> float | None:
        return None if value is None or not np.isfinite(value) else float(value)

    return {
        derivative: {name: figure(norms.get(name)) for name in names}
        for derivative, norms in terms.items()
    }


def _curve(norms: Any) -> list[float | None] | None:
    if norms is None:
        return None
    return [x if np.isfinite(x) else None for x in np.asarray(norms).tolist()]


def _mean(logs: Any) -> np.ndarray:
    """Returns the logarithm of the mean over examples, of logarithms [K, B]."""
    logs = np.asarray(logs)
    return np.logaddexp.reduce(logs, axis=1) - np.log(logs.shape[1])
