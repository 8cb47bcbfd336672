"""Direction and size of a gradient beside another one."""

import jax
import numpy as np

from jaxlstm.types import PyTree


def align(grads: PyTree, reference: PyTree) -> dict[str, dict[str, float | None]]:
    """Returns cosine and norm ratio of two gradients, whole and by parameter.

        cosine = g.r / (|g| |r|),    norm_ratio = |g| / |r|

    Args:
      grads: g, of one estimator.
      reference: r, of another one.

    Returns:
      `cosine` and `norm_ratio` by the parameter's path, "" for all of them together;
      None where a norm that divides is zero, or an entry is not finite.
    """
    leaves = jax.tree_util.tree_leaves_with_path(grads)
    pairs = {
        jax.tree_util.keystr(path).lstrip("."): (np.ravel(g), np.ravel(r))
        for (path, g), r in zip(leaves, jax.tree.leaves(reference), strict=True)
    }
    whole = [np.concatenate(leaves) for leaves in zip(*pairs.values(), strict=True)]
    return {name: align_vectors(*pair) for name, pair in ({"": whole} | pairs).items()}


def align_vectors(g: np.ndarray, r: np.ndarray) -> dict[str, float | None]:
    """Returns cosine and norm ratio of g [P] beside r [P], None as in `align`."""
    g, r = g.astype(np.float64), r.astype(np.float64)
    most_g, most_r = (float(np.max(np.abs(x), initial=0)) for x in (g, r))
    if not most_r or not np.isfinite([most_g, most_r]).all():
        return {"cosine": None, "norm_ratio": None}
    if not most_g:
        return {"cosine": None, "norm_ratio": 0.0}
    # By their largest entries, so that no square is too small or too large.
    g, r = g / most_g, r / most_r
    squares_g, squares_r = np.sum(g * g), np.sum(r * r)
    cosine = np.sum(g * r) / np.sqrt(squares_g * squares_r)
    return {
        "cosine": float(np.clip(cosine, -1, 1)),
        "norm_ratio": float(most_g / most_r * np.sqrt(squares_g / squares_r)),
    }
