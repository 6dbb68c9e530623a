"""Matrix algebra on the last two dimensions, for the solves, the rules and the lowerings.

Everything here can be differentiated again, mapped, transposed where it is linear, works on
arrays whose batch is sharded over an explicit mesh, and under JAX's strict promotion of dtypes
and ranks. That decides which of JAX's functions occur.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, export, lax
from jax.errors import InconclusiveDimensionOperation


def exceeds(size: int, other: int) -> bool:
    """Whether a size is larger than another; of symbolic sizes (`jax.export`) perhaps equal.

    What is done for larger ones must then be right for equal ones as well.
    """
    try:
        return size > other
    except InconclusiveDimensionOperation:
        return size >= other


def H(x: Array) -> Array:
    """Conjugate transpose."""
    return x.mT.conj()


def mm(x: Array, y: Array) -> Array:
    """Multiply in full precision: a factorization cannot be better than its products."""
    batch = tuple(range(x.ndim - 2)) if y.ndim > 2 else ()  # common to both, or y is one matrix
    contracted = ((x.ndim - 1,), (y.ndim - 2,))
    # not jnp.matmul, which fixes a dtype that the transpose asks for, perhaps where it is not known
    return lax.dot_general(x, y, (contracted, (batch, batch)), precision=lax.Precision.HIGHEST)


def row_minus_column(x: Array) -> Array:
    """Row index minus column index of every entry: negative above the diagonal."""
    shape, rows = (1,) * (x.ndim - 2) + x.shape[-2:], x.ndim - 2
    return lax.broadcasted_iota(jnp.int32, shape, rows) - lax.broadcasted_iota(
        jnp.int32, shape, rows + 1
    )


def where(keep: Array, x: Array, y: Array | None = None) -> Array:
    """Take `x` where `keep`, which has its rank, and `y` or zero elsewhere.

    It is jnp.where, which as a jitted function would cost every program a millisecond each time.
    """
    if any(axis is not None for axis in jax.typeof(x).sharding.spec):
        return jnp.where(keep, x, 0 if y is None else y)  # an explicit mesh: it knows shardings
    y = lax.full_like(x, 0) if y is None else y
    keep, y = (lax.broadcast_in_dim(z, x.shape, range(x.ndim)) for z in (keep, y))
    return lax.select(keep, x, y)


def triu(x: Array) -> Array:
    """Upper triangle, diagonal included."""
    return where(row_minus_column(x) <= 0, x)


def slo(x: Array) -> Array:
    """Strictly lower triangle."""
    return where(row_minus_column(x) > 0, x)


def dg(x: Array) -> Array:
    """Diagonal part, as a matrix."""
    return where(row_minus_column(x) == 0, x)


def identity_like(x: Array) -> Array:
    """Ones on the diagonal of a matrix of `x`'s shape and dtype, for a batch of one."""
    return (row_minus_column(x) == 0).astype(x.dtype)


def imaginary_dg(x: Array) -> Array:
    """The imaginary part of the diagonal, as a complex matrix, of complex `x`."""
    return dg((x - x.conj()) * 0.5)


def real_diagonal(x: Array) -> Array:
    """Drop the imaginary part of the diagonal."""
    return x - imaginary_dg(x) if jnp.iscomplexobj(x) else x


def diagonal(x: Array) -> Array:
    """Diagonal entries, as a vector."""
    return jnp.diagonal(x, axis1=-2, axis2=-1)


def extended(x: Array, size: int, axis: int) -> Array:
    """`x` with zeros after its entries along an axis (a negative number), so that it has `size`."""
    more = size - x.shape[axis]
    aval = jax.typeof(x)
    sharded = any(entry is not None for entry in aval.sharding.spec)
    # Concatenated, its type would not have a symbolic size, and zeros would have to be sharded.
    # (Padded, the transpose would need the context in which x has its dtype.)
    if export.is_symbolic_dim(more) or sharded or aval.manual_axis_type.varying:
        return _padded(x, axis, 0, more)
    shape = list(x.shape)
    shape[axis] = more
    return jnp.concatenate([x, jnp.zeros(shape, x.dtype)], axis=axis)


def beside(x: Array, y: Array, size: int) -> Array:
    """Two matrices beside each other, which together have `size` columns."""
    if export.is_symbolic_dim(x.shape[-1]):
        return extended(x, size, -1) + _padded(y, -1, x.shape[-1], 0)
    return jnp.concatenate([x, y], axis=-1)


def _padded(x: Array, axis: int, before: Any, after: Any) -> Array:
    pairs = [(before, after, 0) if i == x.ndim + axis else (0, 0, 0) for i in range(x.ndim)]
    return lax.pad(x, lax.full_like(x, 0, shape=()), pairs)


def column_scale(a: Array) -> Array:
    """A power of two for each column that brings its largest entry near one.

    Squares of entries might leave the range of the type, and then reflectors lose digits (XLA
    flushes denormal numbers to zero). QR does not change when columns are multiplied by powers of
    two, but for the columns of R, which are multiplied alike: so each has a power of its own.

    Args:
        a: array (..., m, n), m > 0.

    Returns:
        The powers, real, of shape (..., 1, n), constant to derivatives; 1 for a column of zeros.
    """
    largest = jnp.max(_magnitude(a), axis=-2, keepdims=True)
    return lax.select(largest > 0, 1 / _power_of_two(largest), lax.full_like(largest, 1))


def middle_scale(r: Array) -> Array:
    """A power of two that brings what is large in triangles and what is small to two sides of one.

    Args:
        r: array (..., k, n), upper triangular.

    Returns:
        The powers, real, of shape (..., 1, 1), constant to derivatives.
    """
    size = jnp.max(_magnitude(r), axis=-2, keepdims=True)
    inverse = where(size > 0, 1 / size)
    zero = lax.full((), 0, size.dtype)

    def larger(x: tuple[Array, Array], y: tuple[Array, Array]) -> tuple[Array, Array]:
        return lax.max(x[0], y[0]), lax.max(x[1], y[1])

    # both in one pass
    pair = lax.reduce((size, inverse), (zero, zero), larger, (size.ndim - 2, size.ndim - 1))
    most, inverse_of_least = (x[..., None, None] for x in pair)
    middle = jnp.sqrt(most) / jnp.sqrt(jnp.maximum(inverse_of_least, 1 / most))
    return lax.select(most > 0, 1 / _power_of_two(middle), lax.full_like(most, 1))


def _magnitude(a: Array) -> Array:
    """The larger of the real and the imaginary part's magnitude, constant to derivatives."""
    a = lax.stop_gradient(a)
    return jnp.maximum(abs(a.real), abs(a.imag)) if jnp.iscomplexobj(a) else abs(a)


def _power_of_two(x: Array) -> Array:
    """A power of two near a positive number, whose reciprocal is a normal number as well."""
    info = jnp.finfo(x.dtype)
    constant = partial(lax.full_like, x)
    bounded = lax.clamp(constant(info.tiny), x, constant(2.0 ** (info.maxexp - 2)))
    exponent_bits = info.bits - info.nmant - 1
    return lax.reduce_precision(bounded, exponent_bits=exponent_bits, mantissa_bits=0)


def zero_or_nan(a: Array) -> Array:
    """Zero for a matrix all of whose entries are finite, else NaN: real, of shape (..., 1, 1)."""
    # not of the largest entry: XLA's maximum for the CPU drops NaN in large matrices
    zero = _magnitude(a) * 0
    return jnp.sum(zero, axis=(-2, -1), keepdims=True)


def scaled(x: Array, scale: Array) -> Array:
    """Multiply by a real scale."""
    if jnp.iscomplexobj(x):
        return lax.complex(x.real * scale, x.imag * scale)
    return x * scale


def times(x: Array, scale: Array) -> Array:
    """Multiply by a real scale, in rules: JAX's transposes of parts depend on the context.

    A complex product may change the sign of a zero, which matters to a factorization only.
    """
    return x * scale.astype(x.dtype)


def unscaled(x: Array, scale: Array) -> Array:
    """Divide by a real scale."""
    if jnp.iscomplexobj(x):
        return lax.complex(x.real / scale, x.imag / scale)
    return x / scale
