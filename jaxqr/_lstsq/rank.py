"""Which columns of a pivoted factorization count towards the rank.

By default those count that are not small beside their own column of R, criterion (8.3), among
columns brought to one size; for an `rcond` those with |R_jj| > rcond |R_11|.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxqr._core.algebra import H, diagonal, mm, triu, where
from jaxqr._core.scaling import column_scale, scale_by
from jaxqr._factor.independence import find_independent, tolerance
from jaxqr._factor.qr_primitive import factor

Tree = TypeVar("Tree", bound=Any)


def counted_rows(rank: Array, n: int) -> Array:
    """Make a boolean column (..., n, 1) that says which of the n rows are before the rank."""
    return lax.broadcasted_iota(jnp.int32, (*rank.shape, n, 1), rank.ndim) < rank[..., None, None]


def find_rank(r: Array, rcond: float | None) -> Array:
    """Count the leading run of columns that count. NaN counts, so that it comes through."""
    if rcond is None:
        counts = find_independent(triu(r), pivoted=True)[..., 0, :]
    else:
        size = jnp.abs(diagonal(r).real)
        counts = ~(size <= rcond * size[..., :1])
    run = lax.cumprod(counts.astype(jnp.int32), axis=counts.ndim - 1)
    return jnp.sum(run, axis=-1, dtype=jnp.int32)


def keep_leading_rows(r: Array, rank: Array, rcond: float | None) -> Array:
    """Keep the rows of R that count and set the others to zero.

    Where columns are judged by their own size, what is small in a column that does not count is
    taken for rounding in all rows: a small column that counts may be smaller still.
    """
    n = r.shape[-1]
    r = triu(r)
    rows = where(counted_rows(rank, n), r)
    if rcond is not None:
        return rows
    size = jnp.abs(r)
    least = tolerance(r.dtype) * jnp.sum(size, axis=-2, keepdims=True)
    return where(counted_rows(rank, n).mT | (size > least), rows)


def order_by_own_size(
    factors: Tree, r: Array, factor_anew: Callable[[Array], Tree]
) -> tuple[Tree, Array]:
    """Find the rank with each column judged by its own size, and factors that go with it.

    Where a large column depends on others, what rounding leaves of it may be larger than all of a
    small column that is independent, and what is left of a small one that depends on large ones is
    rounding of theirs: so the rank is found among columns of one size. If it is not full, the
    matrix is factored anew, the columns that count first, of those that could the largest.

    Args:
        factors: arrays of a pivoted factorization, batch first.
        r: (..., n, n), R of it in the upper triangle.
        factor_anew: gives the like of `factors` for the columns in another order (..., n).
    """
    n = r.shape[-1]
    size = jnp.abs(diagonal(r).real)
    # No entry is larger than the first, and none on the diagonal is smaller than the last: so where
    # these two are close the rank is full. NaN counts as full.
    certain = ~(size[..., -1] <= 4 * n * tolerance(r.dtype) * size[..., 0])
    full = jnp.full(certain.shape, n, jnp.int32)

    def look() -> tuple[Tree, Array]:
        triangle = triu(r)
        scale = column_scale(triangle)
        even = scale_by(triangle, scale)
        most, least = (f(scale[..., 0, :], axis=-1) for f in (jnp.max, jnp.min))
        alike = ~(most / 16 > least)
        among_even = find_rank(factor(even, "r", "p", pivoting="exact")[0], None)
        rank = where(certain, full, where(alike, find_rank(triangle, None), among_even))
        found = factor_anew(_order_by_what_is_left(even, scale[..., 0, :]))
        keep = alike | (rank == n)
        return jax.tree.map(lambda x, y: _choose(keep, x, y), factors, found), rank

    return lax.cond(jnp.all(certain), lambda: (factors, full), look)


def _order_by_what_is_left(even: Array, scale: Array) -> Array:
    """Order the columns, those of which more than rounding is left first and by what is left.

    The columns were multiplied by `scale` to be of one size. They are taken apart by Gram and
    Schmidt's method: only the order is wanted.
    """
    own = jnp.sum(jnp.square(jnp.abs(even)), axis=-2)
    least = tolerance(even.dtype) ** 2
    place = lax.broadcasted_iota(jnp.int32, own.shape, own.ndim - 1)
    unmarked = 2**30

    def step(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        x, order = state
        square = jnp.sum(jnp.square(jnp.abs(x)), axis=-2)
        free = order == unmarked
        size = where(square > least * own, jnp.sqrt(square) / scale)
        best = jnp.argmax(where(free, size, lax.full_like(size, -1)), axis=-1, keepdims=True)
        chosen = place == best.astype(jnp.int32)
        column = jnp.sum(where(chosen[..., None, :] & (x == x), x), axis=-1, keepdims=True)
        norm = jnp.sqrt(jnp.sum(where(chosen, square), axis=-1))[..., None, None]
        v = column / where(norm > 0, norm, lax.full_like(norm, 1)).astype(x.dtype)
        return x - mm(v, mm(H(v), x)), where(chosen, lax.full_like(order, 0) + i, order)

    start = lax.full_like(place, unmarked)  # what is chosen is marked by its step
    _, order = lax.fori_loop(0, own.shape[-1], step, (even, start))
    return jnp.argsort(order, axis=-1).astype(jnp.int32)


def _choose(keep: Array, x: Array, y: Array) -> Array:
    """Take `x` for the matrices, or vectors, that are kept and `y` for the others."""
    return where(keep.reshape(keep.shape + (1,) * (x.ndim - keep.ndim)), x, y)
