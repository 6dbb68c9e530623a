"""Matrix algebra on the last two dimensions, for the rules and the portable lowering.

Everything here can be differentiated again, mapped, transposed where it is linear, works on
arrays whose batch is sharded over an explicit mesh, and under JAX's strict promotion of dtypes
and ranks. That decides which of JAX's functions occur.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax


def H(x: Array) -> Array:
    """Conjugate transpose."""
    return x.mT.conj()


def mm(x: Array, y: Array) -> Array:
    """Multiply in full precision: a factorization cannot be better than its products."""
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)


def row_minus_column(x: Array) -> Array:
    """Row index minus column index of every entry: negative above the diagonal."""
    shape, rows = (1,) * (x.ndim - 2) + x.shape[-2:], x.ndim - 2
    return lax.broadcasted_iota(jnp.int32, shape, rows) - lax.broadcasted_iota(
        jnp.int32, shape, rows + 1
    )


def triu(x: Array) -> Array:
    """Upper triangle, diagonal included."""
    return jnp.where(row_minus_column(x) <= 0, x, 0)


def slo(x: Array) -> Array:
    """Strictly lower triangle."""
    return jnp.where(row_minus_column(x) > 0, x, 0)


def dg(x: Array) -> Array:
    """Diagonal part, as a matrix."""
    return jnp.where(row_minus_column(x) == 0, x, 0)


def identity_like(x: Array) -> Array:
    """Ones on the diagonal of a matrix of `x`'s shape and dtype, for a batch of one."""
    return (row_minus_column(x) == 0).astype(x.dtype)


def imaginary_dg(x: Array) -> Array:
    """The imaginary part of the diagonal, as a complex matrix, of complex `x`."""
    return dg(lax.complex(jnp.zeros_like(x.real), x.imag))


def real_diagonal(x: Array) -> Array:
    """Drop the imaginary part of the diagonal."""
    return x - imaginary_dg(x) if jnp.iscomplexobj(x) else x


def diagonal(x: Array) -> Array:
    """Diagonal entries, as a vector."""
    return jnp.diagonal(x, axis1=-2, axis2=-1)


class _Op(NamedTuple):
    left: bool
    lower: bool
    adjoint: bool
    unit: bool


def solve(
    a: Array, b: Array, *, left: bool, lower: bool, adjoint: bool = False, unit: bool = False
) -> Array:
    """Solve op(a) x = b (left) or x op(a) = b for triangular `a`, op the identity or the adjoint.

    JAX's own derivative with respect to `a` fails on an explicit mesh; this one does not.
    """
    return _solve(a, b, _Op(left, lower, adjoint, unit))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _solve(a: Array, b: Array, op: _Op) -> Array:
    return lax.linalg.triangular_solve(
        a,
        b,
        left_side=op.left,
        lower=op.lower,
        transpose_a=op.adjoint,
        conjugate_a=op.adjoint,
        unit_diagonal=op.unit,
    )


@_solve.defjvp
def _solve_jvp(
    op: _Op, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (a, b), (da, db) = primals, tangents
    x = _solve(a, b, op)
    inside = row_minus_column(da) if op.lower else -row_minus_column(da)
    da = jnp.where(inside > 0 if op.unit else inside >= 0, da, 0)
    da = H(da) if op.adjoint else da
    return x, _solve(a, db - (mm(da, x) if op.left else mm(x, da)), op)


def exponent_scale(a: Array) -> Array:
    """A power of two for each matrix that brings its entries far from overflow and underflow.

    It is 1 unless the largest entry is near the ends of the exponent range, where reflectors
    lose digits (XLA flushes denormal numbers to zero: so does the reciprocal of a large one).
    It is NaN where an entry is NaN or infinite: multiplied by it, all of the matrix is NaN.

    Returns:
        The scales, real, of shape (..., 1, 1).
    """
    a = lax.stop_gradient(a)
    info = jnp.finfo(a.dtype)
    safe, factor = 2.0 ** (info.maxexp // 2 - 12), 2.0 ** (info.maxexp * 5 // 8)
    parts = [a.real, a.imag] if jnp.iscomplexobj(a) else [a]
    size = [jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True) for x in parts]
    largest = size[0] if len(size) == 1 else jnp.maximum(*size)
    scale = jnp.where(largest > safe, 1 / factor, jnp.where(largest < 1 / safe, factor, 1.0))
    return jnp.where(jnp.isfinite(largest), scale, jnp.nan).astype(largest.dtype)


def scaled(x: Array, scale: Array) -> Array:
    """Multiply by a real scale."""
    if jnp.iscomplexobj(x):
        return lax.complex(x.real * scale, x.imag * scale)
    return x * scale


def reflectors(h: Array, k: int) -> Array:
    """The k Householder vectors packed in `h`, as columns: V, unit lower trapezoidal."""
    v = h[..., :, :k]
    return slo(v) + identity_like(v)


def apply_reflectors(h: Array, tau: Array, c: Array, *, left: bool, adjoint: bool) -> Array:
    """Multiply `c` by Q = I - V T V^H or its adjoint, from the left or the right."""
    if not left:
        return H(apply_reflectors(h, tau, H(c), left=True, adjoint=not adjoint))
    v = reflectors(h, tau.shape[-1])
    return c - mm(v, _apply_t(v, tau, mm(H(v), c), adjoint=adjoint))


def form_reflectors(h: Array, tau: Array) -> Array:
    """The leading columns of Q = I - V T V^H, as many as `h` has."""
    v = reflectors(h, tau.shape[-1])
    top = v[..., : h.shape[-1], :]
    return identity_like(h) - mm(v, _apply_t(v, tau, H(top), adjoint=False))


def _apply_t(v: Array, tau: Array, x: Array, *, adjoint: bool) -> Array:
    """T x or T^H x, by (4.2): T = (I + D sup(V^H V))^{-1} D with D = diag(tau)."""
    d = tau[..., :, None]
    gram = mm(H(v), v)
    inverse = d * gram  # its strict upper triangle; the solver takes a diagonal of ones
    if adjoint:
        return d.conj() * solve(inverse, x, left=True, lower=False, adjoint=True, unit=True)
    return solve(inverse, d * x, left=True, lower=False, unit=True)
