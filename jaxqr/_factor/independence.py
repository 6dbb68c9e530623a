"""Which columns of R have a derivative, and the point at which the rules take it.

A column of R whose diagonal entry is rounding noise has no derivative. The rules leave such
columns out (section 8 of ``notebooks/derivations.md``), so they are finite for every finite
matrix; for full rank nothing is left out and they are the textbook's.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxqr._core.algebra import identity_like, real_diagonal, triu, where
from jaxqr._core.scaling import middle_scale, multiply_linearly


def tolerance(dtype: Any) -> float:
    """Give what rounding may leave of a dependent column, relative to its sum of magnitudes in R.

    It depends neither on the rows nor on the columns: section 8 of ``notebooks/derivations.md`` has
    the reason and the measurements. The kernels have it in ``common/independent_columns.h``.
    """
    return 64 * float(jnp.finfo(dtype).eps)


def find_independent(r: Array, *, pivoted: bool) -> Array:
    """Find which of the leading columns count, each judged by its own size: criterion (8.3).

    Args:
        r: (..., k, n) triangle.
        pivoted: whether the columns that count are the leading run only.

    Returns:
        A boolean array (..., 1, k). Columns that are not a number count, so that they come through.
    """
    size = jnp.abs(lax.stop_gradient(r[..., :, : r.shape[-2]]))
    # |R_jj| > tolerance sum_i |R_ij| in one reduction, by a weight for the diagonal. The other
    # weights keep their sum from overflow; it is well if the diagonal overflows.
    other = 2.0**-16
    weight = other - (other / tolerance(r.dtype)) * identity_like(size)
    counts = ~(jnp.sum(weight * size, axis=-2, keepdims=True) >= 0)
    if pivoted:
        counts = lax.cumprod(counts.astype(jnp.int32), axis=counts.ndim - 1) > 0
    return counts


def restrict(r: Array, counts: Array) -> Array:
    """Make R_m of (8.5): the leading square of R, with identity rows for what does not count."""
    leading = r[..., :, : r.shape[-2]]
    return where(counts.mT, leading, identity_like(leading))


class Point(NamedTuple):
    """The R at which a derivative is taken, multiplied by a power of two: the rules allow it (8.8).

    The rules are homogeneous, so dA, or the cotangents, are multiplied by the same power, and what
    they give is divided by it.
    """

    scale: Array  # (..., 1, 1): the power of two
    r: Array  # (..., k, n)
    counts: Array  # (..., 1, k): the columns that count
    triangle: Array  # (..., k, k): R with the identity's rows for those that do not
    pivoted: bool

    def finish_tangent(self, dr: Array) -> Array:
        """Make the tangent of R from that of the scaled R: a triangle with a real diagonal."""
        unscaled = multiply_linearly(dr, 1 / self.scale)
        return self.keep_counted_rows(triu(real_diagonal(unscaled)))

    def prepare_cotangent(self, rbar: Array) -> Array:
        """Keep what of a cotangent pairs with R, a triangle with a real diagonal."""
        return self.keep_counted_rows(triu(real_diagonal(rbar)))

    def keep_counted_rows(self, dr: Array) -> Array:
        """Set rows that do not count to zero if pivoted, when they come after all that do."""
        return where(self.counts.mT, dr) if self.pivoted else dr


def find_point(r: Array, *, pivoted: bool) -> Point:
    """Find the point from R (..., k, n)."""
    scale = middle_scale(r)
    r = multiply_linearly(r, scale)
    counts = find_independent(r, pivoted=pivoted)
    return Point(scale, r, counts, restrict(r, counts), pivoted)
