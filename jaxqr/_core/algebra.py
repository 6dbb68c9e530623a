"""Matrix algebra on the last two dimensions, for the solves, the rules and the lowerings.

Everything here can be differentiated again, mapped, transposed where it is linear, works on
arrays whose batch is sharded over an explicit mesh, and under JAX's strict promotion of dtypes
and ranks. That decides which of JAX's functions occur.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array, export, lax
from jax.errors import InconclusiveDimensionOperation

from jaxqr._core.partition import is_sharded
from jaxqr._core.undocumented import varying_axes


def exceeds(size: int, other: int) -> bool:
    """Say whether a size is larger than another, or, for symbolic sizes, at least as large.

    What is done for larger ones must then be right for equal ones as well.
    """
    try:
        return size > other
    except InconclusiveDimensionOperation:
        return size >= other


def H(x: Array) -> Array:
    """Transpose and conjugate."""
    return x.mT.conj()


def mm(x: Array, y: Array) -> Array:
    """Multiply in full precision: a factorization cannot be better than its products."""
    batch = tuple(range(x.ndim - 2)) if y.ndim > 2 else ()  # common to both, or y is one matrix
    contracted = ((x.ndim - 1,), (y.ndim - 2,))
    # jnp.matmul would fix a dtype that its transpose asks for, perhaps where it does not exist.
    return lax.dot_general(x, y, (contracted, (batch, batch)), precision=lax.Precision.HIGHEST)


def row_minus_column(x: Array) -> Array:
    """Give row index minus column index of every entry, which is negative above the diagonal."""
    shape, rows = (1,) * (x.ndim - 2) + x.shape[-2:], x.ndim - 2
    return lax.broadcasted_iota(jnp.int32, shape, rows) - lax.broadcasted_iota(
        jnp.int32, shape, rows + 1
    )


def where(keep: Array, x: Array, y: Array | None = None) -> Array:
    """Take `x` where `keep` (of as many dimensions) holds, and `y` or zero elsewhere.

    It is jnp.where, which as a jitted function would cost every program a millisecond each time.
    """
    if is_sharded(x):
        return jnp.where(keep, x, 0 if y is None else y)  # an explicit mesh: it knows shardings
    y = lax.full_like(x, 0) if y is None else y
    keep, y = (lax.broadcast_in_dim(z, x.shape, range(x.ndim)) for z in (keep, y))
    return lax.select(keep, x, y)


def triu(x: Array) -> Array:
    """Keep the upper triangle with the diagonal."""
    return where(row_minus_column(x) <= 0, x)


def slo(x: Array) -> Array:
    """Keep the strictly lower triangle."""
    return where(row_minus_column(x) > 0, x)


def dg(x: Array) -> Array:
    """Keep the diagonal, as a matrix."""
    return where(row_minus_column(x) == 0, x)


def identity_like(x: Array) -> Array:
    """Put ones on the diagonal of a matrix of `x`'s shape and dtype, for a batch of one."""
    return (row_minus_column(x) == 0).astype(x.dtype)


def imaginary_dg(x: Array) -> Array:
    """Keep the imaginary part of the diagonal of a complex `x`, as a complex matrix."""
    return dg((x - x.conj()) * 0.5)


def real_diagonal(x: Array) -> Array:
    """Drop the imaginary part of the diagonal."""
    return x - imaginary_dg(x) if jnp.iscomplexobj(x) else x


def diagonal(x: Array) -> Array:
    """Take the diagonal as a vector."""
    return jnp.diagonal(x, axis1=-2, axis2=-1)


def extend(x: Array, size: int, axis: int) -> Array:
    """Append zeros along an axis, a negative number, so that `x` has `size` there."""
    more = size - x.shape[axis]
    # A concatenation has no symbolic size, and its zeros would have to be sharded. Otherwise it is
    # better than padding, whose transpose needs a context in which the dtype of x exists.
    if export.is_symbolic_dim(more) or is_sharded(x) or varying_axes(x):
        return _pad(x, axis, 0, more)
    shape = list(x.shape)
    shape[axis] = more
    return jnp.concatenate([x, jnp.zeros(shape, x.dtype)], axis=axis)


def put_beside(x: Array, y: Array, size: int) -> Array:
    """Put two matrices beside each other, which have `size` columns together."""
    if export.is_symbolic_dim(x.shape[-1]):
        return extend(x, size, -1) + _pad(y, -1, x.shape[-1], 0)
    return jnp.concatenate([x, y], axis=-1)


def _pad(x: Array, axis: int, before: Any, after: Any) -> Array:
    pairs = [(before, after, 0) if i == x.ndim + axis else (0, 0, 0) for i in range(x.ndim)]
    return lax.pad(x, lax.full_like(x, 0, shape=()), pairs)
