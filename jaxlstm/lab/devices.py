"""Devices: how many, and how a batch is spread over them."""

from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

from jaxlstm.lab.errors import UserError
from jaxlstm.lab.machine import usable_cores
from jaxlstm.types import PyTree
from jaxlstm.varying import vary

AXIS = "batch"


def make_mesh(devices: Literal["all"] | int, batch_size: int) -> Mesh:
    """Returns a mesh of the devices that a batch is spread over.

    On a CPU, one XLA device a core is made, if no backend exists yet: each scans its
    own part of the batch, and no core waits for another at every small product.

    Args:
      devices: "all": the most that the batch divides over; or how many.
      batch_size: B.

    Raises:
      UserError: there are not as many devices, or the batch does not divide.
    """
    if devices != "all" and batch_size % devices:
        raise UserError(
            f"devices = {devices}: a batch of {batch_size} does not divide over them; "
            "change train.batch_size, or use devices = 1"
        )
    cores = usable_cores()
    wanted = _divisor(batch_size, cores) if devices == "all" else devices
    try:
        jax.config.update("jax_num_cpu_devices", min(wanted, cores))
    except RuntimeError:
        pass  # A backend exists already, with as many devices as it has.
    found = jax.devices()
    if devices == "all":
        wanted = _divisor(batch_size, len(found))
    elif devices > len(found):
        raise UserError(
            f"devices = {devices}: there are {len(found)} ({found[0].platform}); "
            'use fewer, or devices = "all"'
        )
    return jax.make_mesh(
        (wanted,), (AXIS,), axis_types=(AxisType.Auto,), devices=found[:wanted]
    )


def _divisor(number: int, most: int) -> int:
    return max(d for d in range(1, max(1, most) + 1) if number % d == 0)


def spread(
    function: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
    """Maps a function over the mesh; on one device, returns it as it is."""
    if mesh.size == 1:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs)


def batch_specs(tree: PyTree, *, axis: int) -> PyTree:
    """Returns the specs of leaves whose batch is at `axis`, or that have none."""
    sharded = PartitionSpec(*[None] * axis, AXIS)
    return jax.tree.map(
        lambda leaf: sharded if leaf.ndim > axis else PartitionSpec(), tree
    )


def local(tree: PyTree, mesh: Mesh) -> PyTree:
    """Marks what is alike on all devices as each device's own.

    Gradients by what is alike are summed over devices by autodiff, and those of
    estimators that go forward in time are not; of one's own, none is.
    """
    return tree if mesh.size == 1 else vary(tree, frozenset({AXIS}))


def total(tree: PyTree, mesh: Mesh) -> PyTree:
    """Sums over devices."""
    return tree if mesh.size == 1 else jax.lax.psum(tree, AXIS)
