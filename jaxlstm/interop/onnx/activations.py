"""Activations by ONNX's names, with their alpha and beta, and those that are here."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlstm.cells.activations import Activation
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array


class Kind(NamedTuple):
    """An activation of ONNX.

    Attributes:
      name: there.
      numbers: which of "alpha" and "beta" it takes.
      defaults: of these; empty where ONNX has none, or not one alone.
      find: returns the activation here, given the numbers.
    """

    name: str
    numbers: tuple[str, ...]
    defaults: tuple[float, ...]
    find: Callable[..., Activation]


# Cached, so that activations alike are one function, which compiles once.
@functools.lru_cache
def _affine(alpha: float, beta: float) -> Activation:
    def affine(z: Array) -> Array:
        return alpha * z + beta

    return "identity" if (alpha, beta) == (1, 0) else affine


@functools.lru_cache
def _scaled_tanh(alpha: float, beta: float) -> Activation:
    def scaled_tanh(z: Array) -> Array:
        return alpha * jnp.tanh(beta * z)

    return "tanh" if (alpha, beta) == (1, 1) else scaled_tanh


@functools.lru_cache
def _leaky_relu(alpha: float) -> Activation:
    def leaky_relu(z: Array) -> Array:
        return jnp.where(z < 0, alpha * z, z)

    return "relu" if alpha == 0 else leaky_relu


@functools.lru_cache
def _thresholded_relu(alpha: float) -> Activation:
    def thresholded_relu(z: Array) -> Array:
        return jnp.where(z < alpha, 0, z)

    return thresholded_relu


@functools.lru_cache
def _hard_sigmoid(alpha: float, beta: float) -> Activation:
    def hard_sigmoid(z: Array) -> Array:
        return jnp.clip(alpha * z + beta, 0, 1)

    named = {0.2: "hard_sigmoid_0.2", _as_written(1 / 6): "hard_sigmoid"}
    return named.get(alpha, hard_sigmoid) if beta == 0.5 else hard_sigmoid


@functools.lru_cache
def _elu(alpha: float) -> Activation:
    def elu(z: Array) -> Array:
        return jnp.where(z < 0, alpha * jnp.expm1(jnp.minimum(z, 0)), z)

    return "elu" if alpha == 1 else elu


KINDS = {
    kind.name.lower(): kind
    for kind in (
        Kind("Sigmoid", (), (), lambda: "sigmoid"),
        Kind("Tanh", (), (), lambda: "tanh"),
        Kind("Relu", (), (), lambda: "relu"),
        Kind("Softsign", (), (), lambda: "softsign"),
        Kind("Softplus", (), (), lambda: "softplus"),
        Kind("Affine", ("alpha", "beta"), (), _affine),
        Kind("ScaledTanh", ("alpha", "beta"), (), _scaled_tanh),
        Kind("HardSigmoid", ("alpha", "beta"), (0.2, 0.5), _hard_sigmoid),
        Kind("LeakyRelu", ("alpha",), (0.01,), _leaky_relu),
        # The operator's default is 1, and onnxruntime takes 0 in an LSTM.
        Kind("ThresholdedRelu", ("alpha",), (), _thresholded_relu),
        Kind("Elu", ("alpha",), (1.0,), _elu),
    )
}

# The names and numbers in ONNX of those that have a name here.
THERE: dict[Activation, tuple[str, dict[str, float]]] = {
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "relu": ("Relu", {}),
    "softsign": ("Softsign", {}),
    "softplus": ("Softplus", {}),
    "identity": ("Affine", {"alpha": 1.0, "beta": 0.0}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "hard_sigmoid_0.2": ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
    "elu": ("Elu", {"alpha": 1.0}),
}


def read_activations(
    names: Sequence[str], alpha: Iterable[float] = (), beta: Iterable[float] = ()
) -> list[Activation]:
    """Returns activations as the cells here take them.

    Args:
      names: of ONNX, in any case.
      alpha: one number for each of them that takes an alpha, in their order; where
        they run out, ONNX's defaults follow.
      beta: likewise.

    Raises:
      OptionError: a name is unknown, a number is missing that has no default, or one
        is left over.
    """
    given = {"alpha": iter(alpha), "beta": iter(beta)}
    found = []
    for name in names:
        kind = KINDS.get(name.lower())
        if kind is None:
            known = ", ".join(kind.name for kind in KINDS.values())
            raise OptionError(f"activations: {name!r} is unknown; ONNX has {known}")
        found.append(kind.find(*_take_numbers(kind, given)))
    for name, rest in given.items():
        if left := list(rest):
            raise OptionError(
                f"activation_{name}: has {len(left)} more than {', '.join(names)} take"
            )
    return found


def write_activations(
    activations: dict[str, Activation],
) -> dict[str, list[str] | list[float]]:
    """Returns the attributes of activations.

    Args:
      activations: as the cells here take them, by the options that they are of.

    Raises:
      OptionError: one has no name in ONNX.
    """
    names: list[str] = []
    numbers: dict[str, list[float]] = {}
    for option, activation in activations.items():
        if activation not in THERE:
            said = "a function" if callable(activation) else repr(activation)
            raise OptionError(
                f"{option}: {said} has no name in ONNX; those that have are "
                f"{', '.join(map(str, THERE))}"
            )
        name, given = THERE[activation]
        names.append(name)
        for letter, number in given.items():
            numbers.setdefault(f"activation_{letter}", []).append(number)
    return {"activations": names, **numbers}


def _take_numbers(kind: Kind, given: dict[str, Iterator[float]]) -> list[float]:
    """Returns the numbers of one activation, and takes them from those given."""
    numbers = []
    for place, letter in enumerate(kind.numbers):
        number: Any = next(given[letter], None)
        if number is None and not kind.defaults:
            raise OptionError(
                f"activation_{letter}: is missing, and {kind.name} has no default"
            )
        numbers.append(kind.defaults[place] if number is None else _as_written(number))
    return numbers


def _as_written(number: float) -> float:
    """Returns 0.2 of the 0.200000003 that a file, in float32, has of it."""
    return float(str(np.float32(number)))
