"""What a model is: pure functions from parameters, state and input to predictions."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from jaxlstm.cells import Cell
from jaxlstm.cells.base import StepNoise
from jaxlstm.edges import Edges, Hooks
from jaxlstm.sequence import Engine, Remat
from jaxlstm.types import Array, Key


class ModelParams(NamedTuple):
    """The parameters of a model.

    Attributes:
      recurrent: those that `step` uses, and what the state starts from.
      readout: those that only the readout uses.
    """

    recurrent: Any
    readout: Any


class StepFn(Protocol):
    """Advances a model by one time step."""

    def __call__(
        self,
        recurrent: Any,
        state: Any,
        x: Array,
        *,
        key: Key | None = None,
        time: int | Array = 0,
    ) -> Any:
        """Takes x [..., X] and returns the next state."""
        ...


class UnrollFn(Protocol):
    """Runs a model over a segment of time."""

    def __call__(
        self,
        recurrent: Any,
        state: Any,
        inputs: Array,
        *,
        mask: Array | None = None,
        resets: Array | None = None,
        edges: Edges | Hooks | None = None,
        key: Key | None = None,
        time: int | Array = 0,
        remat: Remat = "none",
    ) -> tuple[Any, Any]:
        """Takes inputs [T, ..., X]; returns the last state and all [T, ...]."""
        ...


class ReadoutFn(Protocol):
    """Turns states into predictions."""

    def __call__(
        self, params: Any, state: Any, *, key: Key | None = None, time: int | Array = 0
    ) -> Any:
        """Takes whole parameters and a state with any leading axes."""
        ...


class InitFn(Protocol):
    """Draws the parameters of a model."""

    def __call__(self, key: Key) -> ModelParams:
        """Consumes the key whole."""
        ...


class InitialStateFn(Protocol):
    """Makes the state that a sequence starts from."""

    def __call__(self, params: ModelParams, batch_shape: tuple[int, ...]) -> Any:
        """Returns leaves [*batch_shape, ...]."""
        ...


class Layers(NamedTuple):
    """How a stack of layers makes its step, for estimators that look inside.

    Such a step takes `edges` too, as in `jaxlstm.unroll`, of one step.

        x^1 = encode(embedding, x, key, time)
        s^l' = step of the cell from s^l, at drop(x^l, l, key, time), disturbed by
               noise(s^l, l, key, time)
        x^{l+1} = output(s^l')

    Its parameters are `RecurrentParams`, its state a tuple of the layers' states.

    Attributes:
      cell: of every layer.
      encode: `(embedding, x, key=None, time=0) -> x^1`, [..., width]. Linear in the
        embedding, which may be None.
      width: of x^1.
      drop: `(x, layer, key, time) -> x`, the noise on the way into a layer.
      noise: `(state, layer, key, time) -> StepNoise`, that inside it, or None.
      compute_dtype: dtype of the factors of the cells' products, or None.
    """

    cell: Cell
    encode: Callable[..., Array]
    width: int
    drop: Callable[[Array, int, Key | None, int | Array], Array]
    noise: Callable[[Any, int, Key | None, int | Array], StepNoise | None]
    compute_dtype: Any


class Model(NamedTuple):
    """Pure functions from parameters, state and input to predictions.

    A key is `jaxlstm.noise.Keys`, or an array of keys of the batch's shape, one for
    each example, so that draws do not depend on how the batch is spread over devices;
    or, but for the readout, one key [], of which they are made. The noise of a step
    comes from its key and its time, `fold_in(key, time)`; `time` is the number of the
    step, or of the first one. So `unroll` draws what scanning `step` does, and a
    sequence run in chunks what it does as a whole. None means no noise: evaluation.

    Attributes:
      init: `(key) -> ModelParams`.
      initial_state: `(params, batch_shape) -> state`, leaves [*batch_shape, ...].
      step: `(recurrent, state, x [..., X], *, key=None, time=0) -> state`. None for a
        model with no online form, one that reads in both directions: what it predicts
        is read out of the last state.
      unroll: `(recurrent, state, inputs [T, ..., X], *, mask=None, resets=None,
        edges=None, key=None, time=0, remat="none") -> (state, states [T, ...])`: what
        scanning `step` gives, only faster. A reset puts the initial state in place.
      readout: `(params, state, *, key=None, time=0) -> prediction [..., Y]`, of the
        state alone, with any axes before it; of the whole parameters, so that weights
        can be tied.
      layers: how `step` is made; None for a model of one's own, and where layers are
        no plain chain or their weights are dropped. Some estimators need it, and say
        so.
      output: `(state, *, key=None, time=0) -> [..., H]`, what the readout takes, or
        None where that is not known.
      example_input: shape and dtype of an input without time and batch, or None.
      engine: what `unroll` runs on, as in `jaxlstm.unroll`.
    """

    init: InitFn
    initial_state: InitialStateFn
    step: StepFn | None
    unroll: UnrollFn
    readout: ReadoutFn
    layers: Layers | None = None
    output: Callable[..., Array] | None = None
    example_input: Any = None
    engine: Engine = "scan"
