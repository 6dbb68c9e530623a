"""Orthonormal bases of what a matrix maps to, and of what it maps to zero."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import min_dim
from jax.typing import ArrayLike

from jaxqr._core import arguments
from jaxqr._core.algebra import H, exceeds, mm, where
from jaxqr._core.scaling import column_scale, is_huge, magnitude, scale_by
from jaxqr._core.settings import calling
from jaxqr._factor.independence import tolerance
from jaxqr._factor.permutation import permute_columns
from jaxqr._factor.qr_primitive import factor
from jaxqr._lstsq.decomposition import name_arrays
from jaxqr._lstsq.pseudoinverse import cod_p
from jaxqr._sharded.row_blocks import warn_of_gathering


def orth(a: ArrayLike, *, rank: int | None = None, rcond: float | None = None) -> Array:
    """Compute an orthonormal basis of the range: of all ``a x``, the span of the columns.

    Pivoted QR, of `a` or of its adjoint for m < n, finds independent columns (rows). The basis is
    Q of them, so it depends on them smoothly where one of singular vectors does not: those turn at
    once where singular values meet.

    Args:
        a: array (..., m, n), real or complex. Dtypes as in `qr`.
        rank: the number of vectors, from 0 to min(m, n), the same for all matrices of a batch. By
            default it is looked for, which needs values and not only shapes: where `a` is traced,
            in `jax.jit` or `jax.vmap`, pass it. In `jax.grad` and `jax.jvp` alone it can be found.
        rcond: what counts towards the rank that is looked for, as in `lstsq`: by default each
            column (row, for m < n) is judged by its own size.

    Returns:
        The basis (..., m, rank). It is differentiable, any number of times, forward and reverse:
        the derivative is the true one along matrices of this rank. In other directions it is that
        of the span of the columns (rows) that were chosen.

    Raises:
        ValueError: for fewer than two dimensions, a `rank` that is out of range or given beside
            `rcond`, one that is looked for where `a` is traced or that differs within the batch,
            or for rows or columns that are sharded over an explicit mesh.
        TypeError: if `a` is not an array of numbers, or of a dtype that is not supported, or
            `rank` or `rcond` is no number.

    Source: LAPACK's geqp3; rank by section 8 of ``derivations.md``, derivatives by its section 2.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxqr
        >>> left, right = jax.random.normal(jax.random.key(0), (2, 7, 3))
        >>> a = left @ right.T                                      # 7 x 7 of rank 3
        >>> basis = jaxqr.orth(a)
        >>> basis.shape, bool(jnp.allclose(basis @ (basis.T @ a), a, atol=1e-4))
        ((7, 3), True)
    """
    a, found, rcond = _check("orth", a, rank, rcond)
    with calling("orth", a):
        return _orth(a, found, rcond)


def null_space(a: ArrayLike, *, rank: int | None = None, rcond: float | None = None) -> Array:
    """Compute an orthonormal basis of the null space: of all x with ``a x = 0``.

    It is the complement of a basis of the row space, by the complete Q of independent columns of
    the adjoint of `a`, which pivoted QR finds.

    Args:
        a: array (..., m, n), real or complex. Dtypes as in `qr`.
        rank: the rank of `a`, from 0 to min(m, n), as in `orth`.
        rcond: what counts towards the rank that is looked for, as in `orth`.

    Returns:
        The basis (..., n, n - rank). It is differentiable, any number of times, forward and
        reverse, as `orth` is: the derivative is the true one along matrices of this rank. Where a
        reflector of the complete Q is the identity its direction is taken to be constant
        (section 4); the projector onto the null space has its true derivative there, too.

    Raises:
        ValueError: as `orth`.
        TypeError: as `orth`.

    Source: LAPACK's geqp3; derivatives after Papanicolopulos, arXiv 2409.13374; rank by section 8
    of ``derivations.md``.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxqr
        >>> a = jax.random.normal(jax.random.key(0), (2, 5))
        >>> basis = jaxqr.null_space(a)
        >>> basis.shape, bool(jnp.allclose(a @ basis, 0, atol=1e-5))
        ((5, 3), True)

        The projector onto it has the derivative of I - pinv(a) a:

        >>> def entry(a, project):
        ...     return project(a)[0, 1]
        >>> def ours(a):
        ...     basis = jaxqr.null_space(a, rank=2)
        ...     return basis @ basis.T
        >>> def other(a):
        ...     return jnp.eye(5) - jnp.linalg.pinv(a) @ a
        >>> bool(jnp.allclose(jax.grad(entry)(a, ours), jax.grad(entry)(a, other), atol=1e-4))
        True
    """
    a, found, rcond = _check("null_space", a, rank, rcond)
    with calling("null_space", a):
        return _null_space(a, found, rcond)


def _check(function: str, a: ArrayLike, rank: Any, rcond: Any) -> tuple[Array, int, float | None]:
    """Check the arguments of `function`, convert them, and find the rank if it is not given."""
    a = arguments.convert_array(function, "a", a)
    arguments.require_unsharded(function, "a", a)
    rcond = arguments.require_rcond(function, rcond)
    warn_of_gathering(function, a=(a, 2))
    if rank is None:
        return a, _look_for_rank(function, a, rcond), rcond
    if rcond is not None:
        raise ValueError(f"{function}: rcond must be None beside a rank, got {rcond}")
    return a, arguments.require_rank(function, rank, a), None


def _look_for_rank(function: str, a: Array, rcond: float | None) -> int:
    """Find the rank that all matrices of the batch have."""
    ranks = _find_ranks(lax.stop_gradient(a), rcond)
    arguments.require_known(function, ranks, "None", a)
    found = np.unique(np.asarray(ranks))
    if len(found) > 1:
        raise ValueError(
            f"{function}: all matrices of a batch must have the same rank, or rank must be given, "
            f"got ranks from {found[0]} to {found[-1]} for a {a.shape}"
        )
    return int(found[0]) if len(found) else min_dim(*a.shape[-2:])


@partial(jax.jit, static_argnums=1)
def _find_ranks(a: Array, rcond: float | None) -> Array:
    (a,), _ = arguments.promote_arrays(a)
    return _order_columns(_prepare(a)[1], rcond)[1]


@partial(jax.jit, static_argnums=(1, 2))
def _orth(a: Array, rank: int, rcond: float | None) -> Array:
    (a,), dtype = arguments.promote_arrays(a)
    a, deep = _prepare(a)
    columns = _take_columns(deep, rank, rcond)
    if deep is not a:  # the columns that were taken are rows of a
        columns = _project_rows(deep, columns)
    return factor(columns, "q")[0].astype(dtype)


@partial(jax.jit, static_argnums=(1, 2))
def _null_space(a: Array, rank: int, rcond: float | None) -> Array:
    (a,), dtype = arguments.promote_arrays(a)
    (a, deep), n = _prepare(a), a.shape[-1]
    columns = _take_columns(deep, rank, rcond)
    if deep is a:
        columns = _project_rows(deep, columns)
    full = "q_full" if exceeds(n, rank) else "q"
    return factor(columns, full)[0][..., rank:].astype(dtype)


def _prepare(a: Array) -> tuple[Array, Array]:
    """Give `a` without danger of overflow, and the same or, if that has more rows, its adjoint."""
    if 0 not in a.shape:
        least = jnp.min(column_scale(a), axis=-1, keepdims=True)
        one = lax.full_like(least, 1)
        a = scale_by(a, where(is_huge(least), one * 2.0**-16, one))
    return a, H(a) if exceeds(a.shape[-1], a.shape[-2]) else a


def _take_columns(deep: Array, rank: int, rcond: float | None) -> Array:
    """Take as many columns as the rank says, those which count."""
    return permute_columns(deep, _order_columns(deep, rcond)[0])[..., :rank]


def _project_rows(deep: Array, columns: Array) -> Array:
    """Give (Q^H A)^H for the Q of the columns taken from A, which has the rows of A as its range.

    Entries that are small in their column of Q^H A are taken for rounding, as in `lstsq`: where A
    has much smaller columns they would turn the space.
    """
    (q,) = factor(columns, "q")
    r = mm(H(q), deep)
    size = magnitude(r)
    small = size <= tolerance(r.dtype) * jnp.sum(size, axis=-2, keepdims=True)
    return H(r - lax.stop_gradient(where(small, r)))


def _order_columns(deep: Array, rcond: float | None) -> tuple[Array, Array]:
    """Order the columns, those which count towards the rank first, and find it."""
    names = name_arrays(*deep.shape[-2:], pivoting=True)
    found = dict(zip(names, cod_p.bind(deep, rcond=rcond, factors=names), strict=True))
    return found["p"], found["rank"]
