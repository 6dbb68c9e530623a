"""The rule by which a primitive is mapped."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.sharding import NamedSharding, PartitionSpec

from jaxqr._core.partition import Shape, is_sharded, partition
from jaxqr._core.undocumented import move_batch_to_front

Body = Callable[..., list[Array]]
# Which results have a column for each of the last operand's, perhaps by the parameters.
Columnwise = Sequence[bool] | Callable[..., Sequence[bool]]
# Whether the body is mapped, perhaps by the size of the mapped dimension and the operands.
MapBody = bool | Callable[[int, Sequence[Array]], bool]


def batch_rule(
    p: Primitive,
    body: Body,
    linear_from: int | None,
    map_body: MapBody,
    columnwise: Columnwise | None,
    args: Sequence[Array],
    dims: Sequence[int | None],
    **params: Any,
) -> tuple[list[Array], Sequence[int | None]]:
    """Move the mapped dimension to the front of every operand and bind again."""
    mapped, dim = next((x, d) for x, d in zip(args, dims, strict=True) if d is not None)
    size, axis = mapped.shape[dim], partition(jax.typeof(mapped))[dim]

    def is_mapped_beyond(operands: int) -> bool:
        """Say whether only operands after these are mapped, and over no sharded dimension."""
        return axis is None and all(d is None for d in dims[:operands])

    if columnwise is not None and is_mapped_beyond(-1) and not is_sharded(args[-1]):
        stacked = jnp.moveaxis(args[-1], cast(int, dims[-1]), -2)
        out = p.bind(*args[:-1], lax.collapse(stacked, stacked.ndim - 2), **params)
        has_columns = columnwise(**params) if callable(columnwise) else columnwise
        return _unstack(out, stacked.shape[-2:], has_columns)
    maps = map_body(size, args) if callable(map_body) else map_body
    if maps and linear_from is not None and is_mapped_beyond(linear_from):
        # Many tangents at one point (jacfwd, jacrev, hessian): the body's products and solves
        # take them as more columns, where `bind` would copy the fixed operands.
        out = jax.vmap(partial(body, **params), in_axes=tuple(dims))(*args)
        return out, [0] * len(out)

    def to_front(x: Array, d: int | None) -> Array:
        if d is not None or axis is None:
            return move_batch_to_front(x, d, size)
        # An operand that is not mapped must get the sharding of the mapped dimension.
        mesh = jax.typeof(mapped).sharding.mesh
        sharding = NamedSharding(mesh, PartitionSpec(axis, *partition(jax.typeof(x))))
        dimensions = range(1, x.ndim + 1)
        return lax.broadcast_in_dim(x, (size, *x.shape), dimensions, out_sharding=sharding)

    out = p.bind(*map(to_front, args, dims), **params)
    return out, [0] * len(out)


def _unstack(
    out: list[Array], shape: Shape, has_columns: Sequence[bool]
) -> tuple[list[Array], list[int | None]]:
    """Split columns into (mapped, s), and say where the mapped dimension of each result is."""
    pairs = [
        (x.reshape(*x.shape[:-1], *shape), x.ndim - 1) if columns else (x, None)
        for x, columns in zip(out, has_columns, strict=True)
    ]
    return [x for x, _ in pairs], [dim for _, dim in pairs]
