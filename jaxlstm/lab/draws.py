"""Draws: the next symbols from their logits."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.lab.errors import UserError
from jaxlstm.types import Array, Key

# Below it, float32 logits over the temperature are out of range.
LOWEST_TEMPERATURE = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next symbol is drawn from its logits.

    The logits are divided by the temperature; then the top-k symbols are kept; then,
    by their probabilities among those, the top-p ones. Of symbols equally probable,
    the first in the vocabulary comes first.

    Attributes:
      temperature: above 0; None is 1.
      top_k: keeps this many of the most probable symbols.
      top_p: in (0, 1]; keeps the fewest of the most probable symbols whose
        probabilities reach this sum (nucleus sampling).
      greedy: takes the most probable symbol each time, without a draw.

    Raises:
      UserError: a value is out of range, or `greedy` is not alone.

    References:
      Top-k: Fan, Lewis and Dauphin, Hierarchical Neural Story Generation, ACL 2018.
      Top-p: Holtzman et al., The Curious Case of Neural Text Degeneration, ICLR 2020.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    greedy: bool = False

    def __post_init__(self):
        """Checks the values."""
        temperature, top_k, top_p = self.temperature, self.top_k, self.top_p
        for name, value in (("temperature", temperature), ("top-p", top_p)):
            if value is not None and math.isnan(value):
                raise UserError(f"--{name} nan: is not a number; write one")
        if temperature is not None and not LOWEST_TEMPERATURE <= temperature < math.inf:
            least = "above 0" if temperature <= 0 else f"{LOWEST_TEMPERATURE:g} or more"
            raise UserError(
                f"--temperature {temperature:g}: has to be {least}, and finite; for "
                "the most probable symbol each time, use --greedy"
            )
        if top_k is not None and top_k < 1:
            raise UserError(f"--top-k {top_k}: has to be 1 or more")
        if top_p is not None and not 0 < top_p <= 1:
            raise UserError(f"--top-p {top_p:g}: has to be above 0 and at most 1")
        if self.greedy:
            for name in ("temperature", "top_k", "top_p"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"--greedy: takes no --{name.replace('_', '-')}; leave one out"
                    )

    def check(self, num_symbols: int) -> None:
        """Raises UserError where more symbols are to be kept than there are."""
        if self.top_k is not None and self.top_k > num_symbols:
            raise UserError(
                f"--top-k {self.top_k}: the model has {num_symbols} symbols; use at "
                "most that"
            )

    def candidates(self, logits: Array) -> tuple[Array, Array | None]:
        """Returns the symbols to draw from.

        Args:
          logits: [..., Y].

        Returns:
          Unnormalised log-probabilities [..., K], -inf for what is not kept, and the
          symbols [..., K] that they belong to; None where they are 0, ..., Y - 1.
        """
        logits = logits.astype(jnp.float32) / (self.temperature or 1.0)
        # At 1 a sum that rounding has brought to 1 too early would cut the tail off.
        top_p = None if self.top_p == 1 else self.top_p
        if self.top_k is None and top_p is None:
            return logits, None
        logits, symbols = jax.lax.top_k(logits, self.top_k or logits.shape[-1])
        if top_p is not None:
            reached = jnp.cumsum(jax.nn.softmax(logits), axis=-1)
            first = jnp.ones_like(reached[..., :1], bool)
            kept = jnp.concatenate([first, reached[..., :-1] < top_p], axis=-1)
            logits = jnp.where(kept, logits, -jnp.inf)
        return logits, symbols

    def draw(self, logits: Array, noise: Array | None) -> Array:
        """Returns one symbol [...] for each of the logits [..., Y].

        The largest of log-probabilities plus Gumbel noise falls on each symbol with
        its probability. The noise belongs to the symbols, whichever are kept.

        Args:
          logits: [..., Y].
          noise: [..., Y], or None if greedy.
        """
        if noise is None:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        logits, symbols = self.candidates(logits)
        if symbols is None:
            return jnp.argmax(logits + noise, axis=-1).astype(jnp.int32)
        noise = jnp.take_along_axis(noise, symbols, axis=-1)
        best = jnp.argmax(logits + noise, axis=-1, keepdims=True)
        return jnp.take_along_axis(symbols, best, axis=-1)[..., 0].astype(jnp.int32)


def draw_noise(key: Key, first: Any, count: int, shape: tuple[int, ...]) -> Array:
    """Returns the Gumbel noise of steps first, ..., first + count - 1.

    Args:
      key: of all samples.
      first: the number of the first step.
      count: C, how many steps.
      shape: [B, Y], of the logits of a step.

    Returns:
      [C, B, Y]. The noise of sample b at step t depends on key, b and t alone.
    """
    num_samples, num_symbols = shape

    def draw(step: Array, sample: Array) -> Array:
        own = jax.random.fold_in(jax.random.fold_in(key, sample), step)
        return jax.random.gumbel(own, (num_symbols,), jnp.float32)

    rows = jax.vmap(draw, in_axes=(None, 0))
    return jax.vmap(rows, in_axes=(0, None))(
        first + jnp.arange(count), jnp.arange(num_samples)
    )
