"""How arrays are sharded and over what they vary, and how operands are made to agree in both."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import ShapedArray
from jax.sharding import NamedSharding, PartitionSpec

from jaxqr._core.undocumented import varying_axes

Shape = tuple[int, ...]


def partition(aval: ShapedArray) -> tuple[Any, ...]:
    """Find how each dimension is partitioned over an explicit mesh; None where it is not."""
    spec = tuple(aval.sharding.spec)
    return spec + (None,) * (aval.ndim - len(spec))


def axis_names(entry: Any) -> tuple[str, ...]:
    """List the mesh axes in an entry of a partition."""
    if entry is None:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)


def is_sharded(x: Array) -> bool:
    """Say whether `x` is sharded over an explicit mesh."""
    return any(axis is not None for axis in partition(jax.typeof(x)))


def broadcast_batch(arrays: Sequence[Array], ranks: Sequence[int]) -> list[Array]:
    """Give arrays the same batch dimensions, on an explicit mesh sharded alike.

    Args:
        arrays: of batch dimensions that broadcast.
        ranks: how many trailing dimensions of each are not batch dimensions.
    """
    batches = [x.shape[: x.ndim - rank] for x, rank in zip(arrays, ranks, strict=True)]
    batch = jnp.broadcast_shapes(*batches)
    axes = _batch_partition(arrays, batches, len(batch))
    meshes = [jax.typeof(x).sharding.mesh for x in arrays if is_sharded(x)]

    def broadcast(x: Array, own: Shape) -> Array:
        wanted = (*axes, *partition(jax.typeof(x))[len(own) :])
        sharding = NamedSharding(meshes[0], PartitionSpec(*wanted)) if meshes else None
        if own == batch:
            # Only what is not sharded can lack a part, so no device asks another for data.
            whole = sharding is None or partition(jax.typeof(x)) == wanted
            return x if whole else jax.sharding.reshard(x, sharding)
        first = len(batch) - len(own)
        dimensions = range(first, first + x.ndim)
        shape = (*batch, *x.shape[len(own) :])
        return lax.broadcast_in_dim(x, shape, dimensions, out_sharding=sharding)

    return [broadcast(x, own) for x, own in zip(arrays, batches, strict=True)]


def _batch_partition(arrays: Sequence[Array], batches: Sequence[Shape], ndim: int) -> list[Any]:
    """Find the partition of a common batch: of each dimension that of the first array with one."""
    axes: list[Any] = [None] * ndim
    for x, own in zip(arrays, batches, strict=True):
        first = ndim - len(own)
        for i, axis in enumerate(partition(jax.typeof(x))[: len(own)]):
            axes[first + i] = axis if axes[first + i] is None else axes[first + i]
    return axes


def vary_alike(arrays: Sequence[Array]) -> list[Array]:
    """Let arrays vary over the same manual axes of a shard_map."""
    axes = [varying_axes(x) for x in arrays]
    union = frozenset().union(*axes)
    return [
        lax.pcast(x, tuple(union - own), to="varying") if union - own else x
        for x, own in zip(arrays, axes, strict=True)
    ]
