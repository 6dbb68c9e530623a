"""Batch dimensions: the rule by which a primitive is mapped; how operands come to share them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching
from jax.sharding import NamedSharding, PartitionSpec

Shape = tuple[int, ...]
Body = Callable[..., list[Array]]


def partition(aval: ShapedArray) -> tuple[Any, ...]:
    """The partition of every dimension in an explicit mesh; None where there is none."""
    spec = tuple(aval.sharding.spec)
    return spec + (None,) * (aval.ndim - len(spec))


def axis_names(entry: Any) -> tuple[str, ...]:
    """The mesh axes in an entry of a partition."""
    return entry if isinstance(entry, tuple) else () if entry is None else (entry,)


def is_sharded(x: Array) -> bool:
    """Whether `x` is sharded over an explicit mesh."""
    return any(axis is not None for axis in partition(jax.typeof(x)))


def broadcast_batch(arrays: Sequence[Array], ranks: Sequence[int]) -> list[Array]:
    """Give arrays the same batch dimensions, on an explicit mesh sharded alike.

    Args:
        arrays: of batch dimensions that broadcast.
        ranks: how many trailing dimensions of each are not batch dimensions.
    """
    batches = [x.shape[: x.ndim - rank] for x, rank in zip(arrays, ranks, strict=True)]
    batch = jnp.broadcast_shapes(*batches)
    axes: list[Any] = [None] * len(batch)
    for x, own in zip(arrays, batches, strict=True):
        first = len(batch) - len(own)
        for i, axis in enumerate(partition(jax.typeof(x))[: len(own)]):
            axes[first + i] = axis if axes[first + i] is None else axes[first + i]

    def alike(x: Array, own: Shape) -> Array:
        if own == batch:
            return x
        core = x.shape[len(own) :]
        sharding = None
        if any(map(is_sharded, arrays)):
            mesh = next(jax.typeof(y).sharding.mesh for y in arrays if is_sharded(y))
            kept = partition(jax.typeof(x))[len(own) :]
            sharding = NamedSharding(mesh, PartitionSpec(*axes, *kept))
        first = len(batch) - len(own)
        dimensions = range(first, first + x.ndim)
        return lax.broadcast_in_dim(x, (*batch, *core), dimensions, out_sharding=sharding)

    return [alike(x, own) for x, own in zip(arrays, batches, strict=True)]


def vary_alike(arrays: Sequence[Array]) -> list[Array]:
    """Let arrays vary over the same manual axes of a shard_map."""
    axes = [jax.typeof(x).manual_axis_type.varying for x in arrays]
    union = frozenset().union(*axes)
    return [
        lax.pcast(x, tuple(union - own), to="varying") if union - own else x
        for x, own in zip(arrays, axes, strict=True)
    ]


def batch_rule(
    p: Primitive,
    body: Body,
    linear_from: int | None,
    columnwise: Callable[..., Sequence[bool]] | None,
    args: Sequence[Array],
    dims: Sequence[int | None],
    **params: Any,
) -> tuple[list[Array], Sequence[int | None]]:
    """Move the mapped dimension to the front of every operand and bind again."""
    mapped, dim = next((x, d) for x, d in zip(args, dims, strict=True) if d is not None)
    size, axis = mapped.shape[dim], partition(jax.typeof(mapped))[dim]

    def fixed(operands: int) -> bool:
        return axis is None and not any(d is not None for d in dims[:operands])

    if columnwise is not None and fixed(len(dims) - 1) and not is_sharded(args[-1]):
        stacked = jnp.moveaxis(args[-1], cast(int, dims[-1]), -2)
        out = p.bind(*args[:-1], lax.collapse(stacked, stacked.ndim - 2), **params)
        return _unstack(out, stacked.shape[-2:], columnwise(**params))
    if linear_from is not None and fixed(linear_from):
        # Many tangents at one point (jacfwd, jacrev, hessian): the body's products and solves
        # take them as more columns, where bind would copy the fixed operands.
        out = jax.vmap(partial(body, **params), in_axes=tuple(dims))(*args)
        return out, [0] * len(out)

    def to_front(x: Array, d: int | None) -> Array:
        if d is not None or axis is None:
            return batching.bdim_at_front(x, d, size)
        # an unmapped operand must come with the sharding of the mapped dimension
        mesh = jax.typeof(mapped).sharding.mesh
        sharding = NamedSharding(mesh, PartitionSpec(axis, *partition(jax.typeof(x))))
        dimensions = range(1, x.ndim + 1)
        return lax.broadcast_in_dim(x, (size, *x.shape), dimensions, out_sharding=sharding)

    out = p.bind(*map(to_front, args, dims), **params)
    return out, [0] * len(out)


def _unstack(
    out: list[Array], shape: Shape, has_columns: Sequence[bool]
) -> tuple[list[Array], list[int | None]]:
    """The columns of results apart, as (mapped, s), and where the mapped dimension is."""
    pairs = [
        (x.reshape(*x.shape[:-1], *shape), x.ndim - 1) if columns else (x, None)
        for x, columns in zip(out, has_columns, strict=True)
    ]
    return [x for x, _ in pairs], [dim for _, dim in pairs]
