"""Layers of a cell, in one direction or two, and what goes from layer to layer."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.cells import Cell
from jaxlstm.dropout import BACKWARD, Dropout, draw_noise, drop_feed, drop_weights
from jaxlstm.edges import Edges, Hooks
from jaxlstm.noise import Keys
from jaxlstm.sequence import Derivative, Engine, Remat, advance, unroll
from jaxlstm.types import Array, Key

Connections = Literal["none", "residual", "skip"]


class Directions(NamedTuple):
    """The two directions of a layer: their parameters, their states, or others.

    Attributes:
      forward: of the cell that reads from the first step to the last.
      backward: of the one that reads from the last step to the first.
    """

    forward: Any
    backward: Any


class Wiring(NamedTuple):
    """How layers are put together.

    Attributes:
      cell: of every layer.
      connections: "none": a layer is fed by the outputs of the one below; "residual":
        by the sum of the outputs of all below [1], and the sum of all is the output of
        the stack; "skip": by the input of the stack beside the outputs of the one
        below, and all outputs side by side are that of the stack [2].
      dropout: what is dropped in training.
      compute_dtype: dtype of the factors of the cells' products, or None.

    References:
      [1] Wu et al., Google's Neural Machine Translation System, 2016, section 3.1.
      [2] Graves, Generating Sequences with Recurrent Neural Networks, 2013, section 2.
    """

    cell: Cell
    connections: Connections = "none"
    dropout: Dropout = Dropout()
    compute_dtype: Any = None

    def feed(
        self,
        x: Array,
        outputs: Sequence[Array],
        keys: Keys | None,
        time: int | Array,
    ) -> Array:
        """Returns what goes into the layer above some layers.

        Args:
          x: [..., X] the input of the stack.
          outputs: [..., H] of each layer below, from the input up.
          keys: of the noise, or None.
          time: [] the number of the first step.
        """
        layer = len(outputs)
        if not layer:
            return drop_feed(x, 0, self.dropout, keys, time)
        below = sum(outputs) if self.connections == "residual" else outputs[-1]
        below = drop_feed(jnp.asarray(below), layer, self.dropout, keys, time)
        if self.connections != "skip":
            return below
        x = drop_feed(x, 0, self.dropout, keys, time)
        return jnp.concatenate([x, below], axis=-1)

    def output(self, states: Sequence[Any]) -> Array:
        """Returns the output of the stack [..., H], by the states of its layers."""
        if self.connections == "none":
            return self.layer_output(states[-1])
        outputs = [self.layer_output(state) for state in states]
        if self.connections == "skip":
            return jnp.concatenate(outputs, axis=-1)
        return jnp.asarray(sum(outputs))

    def layer_output(self, state: Any) -> Array:
        """Returns the output of a layer [..., H], of both directions side by side."""
        if not isinstance(state, Directions):
            return self.cell.output(state)
        return jnp.concatenate([self.cell.output(s) for s in state], axis=-1)

    def initial_state(
        self, layers: Sequence[Any], batch_shape: tuple[int, ...]
    ) -> tuple[Any, ...]:
        """Returns the states that a sequence starts from, leaves [*batch_shape, H]."""

        def start(params: Any) -> Any:
            if isinstance(params, Directions):
                return Directions(*map(start, params))
            return self.cell.initial_state(params, batch_shape)

        return tuple(start(params) for params in layers)


def init_layers(
    cell: Cell,
    keys: Sequence[Key],
    input_size: int,
    hidden_size: int,
    *,
    bidirectional: bool = False,
    connections: Connections = "none",
    dtype: Any = jnp.float32,
) -> tuple[Any, ...]:
    """Draws the parameters of all layers.

    Args:
      cell: of every layer.
      keys: one a layer, consumed whole.
      input_size: X.
      hidden_size: H.
      bidirectional: whether a layer reads in both directions.
      connections: as in `Wiring`.
      dtype: of all parameters.

    Returns:
      The parameters of each layer: the cell's, or `Directions` of them.
    """
    wiring, layers, size = Wiring(cell, connections), [], input_size
    for key in keys:

        def draw(key: Key, size: int = size) -> Any:
            return cell.init(key, size, hidden_size, dtype=dtype)

        both = Directions(*jax.random.split(key)) if bidirectional else key
        layers.append(Directions(*map(draw, both)) if bidirectional else draw(key))
        size = output_size(wiring, layers[-1:])
        size += input_size if connections == "skip" else 0
    return tuple(layers)


def output_size(wiring: Wiring, layers: Sequence[Any]) -> int:
    """Returns the size of the output of a stack with these parameters."""

    def output(layers: Any) -> Array:
        return wiring.output(wiring.initial_state(layers, ()))

    return jax.eval_shape(output, tuple(layers)).shape[-1]


def unroll_stack(
    wiring: Wiring,
    layers: Sequence[Any],
    inputs: Array,
    state: Any,
    *,
    mask: Array | None = None,
    resets: Array | None = None,
    reset_state: Any = None,
    edges: Edges | Hooks | None = None,
    keys: Keys | None = None,
    time: int | Array = 0,
    remat: Remat = "none",
    derivative: Derivative = "rule",
    engine: Engine = "scan",
) -> tuple[Any, Any]:
    """Runs layers over a sequence, one after the other.

    Args:
      wiring: how they are put together.
      layers: the parameters of each.
      inputs: [T, ..., X].
      state: of each layer before the first step, or, of a backward direction, after the
        last one.
      mask: as in `jaxlstm.unroll`, and so are `resets` and `edges`.
      resets: [T, ...].
      reset_state: of each layer; by default what it starts from.
      edges: into the steps of every layer.
      keys: [...] of the examples' noise; None for evaluation.
      time: [] the number of the first step.
      remat: as in `jaxlstm.unroll`, and so are `derivative` and `engine`.
      derivative: "rule" or "autodiff".
      engine: "scan", "deer" or "parallel".

    Returns:
      The last state of each layer, and its states after every step, leaves
      [T, ..., H]. The last state of a backward direction is that after step 0.
    """
    if reset_state is None:
        reset_state = wiring.initial_state(layers, inputs.shape[1:-1])
    outputs: list[Array] = []
    lasts, states = [], []

    def run(params: Any, state: Any, reset_state: Any, x: Array, place: int) -> Any:
        params = drop_weights(params, place, wiring.dropout, keys)
        noise = draw_noise(state, place, wiring.dropout, keys, time, len(x))
        return unroll(
            wiring.cell,
            params,
            x,
            state,
            mask=mask,
            resets=resets,
            reset_state=reset_state,
            reverse=place >= BACKWARD,
            edges=edges,
            noise=noise,
            remat=remat,
            derivative=derivative,
            compute_dtype=wiring.compute_dtype,
            engine=engine,
        )

    for n, (params, begin, reset) in enumerate(
        zip(layers, state, reset_state, strict=True)
    ):
        x = wiring.feed(inputs, outputs, keys, time)
        if isinstance(params, Directions):
            pairs = zip(params, begin, reset, (n, BACKWARD + n), strict=True)
            made = [run(p, s, r, x, place) for p, s, r, place in pairs]
            last, after = (Directions(*each) for each in zip(*made, strict=True))
        else:
            last, after = run(params, begin, reset, x, n)
        outputs.append(wiring.layer_output(after))
        lasts.append(last)
        states.append(after)
    return tuple(lasts), tuple(states)


def advance_stack(
    wiring: Wiring,
    layers: Sequence[Any],
    state: Any,
    x: Array,
    *,
    edges: Edges | None = None,
    keys: Keys | None = None,
    time: int | Array = 0,
) -> tuple[Any, ...]:
    """Makes one step of all layers, as `unroll_stack` makes it.

    Args:
      wiring: how they are put together.
      layers: the parameters of each, in one direction.
      state: of each, leaves [..., H].
      x: [..., X].
      edges: into the step.
      keys: [...] of the examples' noise; None for evaluation.
      time: [] the number of the step.

    Returns:
      The next state of each layer.
    """
    outputs: list[Array] = []
    states = []
    for n, (params, before) in enumerate(zip(layers, state, strict=True)):
        fed = wiring.feed(x, outputs, keys, time)
        params = drop_weights(params, n, wiring.dropout, keys)
        noise = draw_noise(before, n, wiring.dropout, keys, time)
        after = advance(
            wiring.cell, params, before, fed, edges, wiring.compute_dtype, noise
        )
        outputs.append(wiring.cell.output(after))
        states.append(after)
    return tuple(states)
