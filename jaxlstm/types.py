"""Shared types, and the legend of axis letters.

    T  time            B  batch (any number of axes, or none)
    X  inputs          H  hidden units          Y  outputs
    L  layers          S  flat state            P  flat weights
    K  columns of z, the preactivations (4H for the LSTM)
    R  what the recurrent weights read (H for the LSTM)

Sequences are time-major, [T, ..., X]: features are the last axis, and what stands
between time and features is batch. Masks, resets and weights are [T, ...] and
broadcast from the left.
"""

from typing import Any

import jax

Array = jax.Array
Key = jax.Array
PyTree = Any
