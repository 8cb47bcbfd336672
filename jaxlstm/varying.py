"""Values under `shard_map`: alike on all devices, or varying from one to another."""

import jax

from jaxlstm.types import Array, PyTree


def varying_axes(tree: PyTree) -> frozenset[str]:
    """Returns the mesh axes along which any leaf varies; none outside `shard_map`."""
    axes: frozenset[str] = frozenset()
    for leaf in jax.tree.leaves(tree):
        manual = getattr(jax.typeof(leaf), "manual_axis_type", None)
        axes |= frozenset() if manual is None else manual.varying
    return axes


def vary(tree: PyTree, axes: frozenset[str]) -> PyTree:
    """Marks every leaf as varying along the axes."""

    def mark(leaf: Array) -> Array:
        missing = tuple(sorted(axes - varying_axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(mark, tree)


def vary_together(tree: PyTree) -> PyTree:
    """Marks every leaf as varying along all axes along which some leaf varies."""
    return vary(tree, varying_axes(tree))


def like_varying(tree: PyTree, other: PyTree) -> PyTree:
    """Marks every leaf as varying along the axes along which `other` varies."""
    return vary(tree, varying_axes(other))
