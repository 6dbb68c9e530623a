"""The interpolative decomposition: columns of a matrix, and all others in terms of them."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jaxqr._api.modes import check_arguments, factor_by_mode
from jaxqr._core import arguments
from jaxqr._core.algebra import diagonal, identity_like, put_beside
from jaxqr._core.results import InterpolativeResult
from jaxqr._core.settings import calling
from jaxqr._factor.leading_qr import factor_leading
from jaxqr._factor.permutation import permute_columns_p
from jaxqr._factor.pivoting import METHODS
from jaxqr._lstsq.lstsq_primitive import lstsq_p


def interpolative(
    a: ArrayLike,
    *,
    rank: int | None = None,
    tol: float | None = None,
    pivoting: Literal[True, "randomized"] = True,
) -> InterpolativeResult:
    """Express the columns of matrices by a few of them: ``a`` is nearly ``a[:, columns] @ c``.

    Pivoted QR chooses the columns, and the coefficients c are those of the least squares fits of
    all columns on the chosen ones.

    Args:
        a: array (..., m, n), real or complex. Dtypes as in `qr`.
        rank: the number k of columns, from 0 to min(m, n).
        tol: in place of `rank`: take as many columns as have more than `tol` times the size of the
            largest column left when they are chosen; of a batch, as many as any of its matrices
            needs. That depends on values, so where `a` is traced, in `jax.jit` or `jax.vmap`, pass
            `rank`.
        pivoting: True, or "randomized", which is quicker for large matrices, as in `qr`.

    Returns:
        `InterpolativeResult(columns, coefficients)`: columns (..., k) int32, in the order in which
        they were chosen; coefficients (..., k, n), which are the identity at these columns. They
        are differentiable, any number of times, forward and reverse, with the columns held;
        columns are constant.

    Raises:
        ValueError: for fewer than two dimensions, a `rank` out of range, a `tol` that is negative
            or used where `a` is traced, both or none of them, an unknown `pivoting`, or rows or
            columns that are sharded over an explicit mesh.
        TypeError: if `a` is not an array of numbers, or of a dtype that is not supported, or
            `rank` or `tol` is no number.

    Source: Cheng, Gimbutas, Martinsson and Rokhlin, SIAM J. Sci. Comput. 26 (2005) 1389-1404;
    SciPy's ``interp_decomp``; derivatives by sections 7 and 9 of ``derivations.md``.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxqr
        >>> left, right = jax.random.normal(jax.random.key(0), (2, 9, 3))
        >>> a = left @ right.T                                      # 9 x 9 of rank 3
        >>> columns, c = jaxqr.interpolative(a, tol=1e-4)
        >>> columns.shape, bool(jnp.allclose(a[:, columns] @ c, a, atol=1e-4))
        ((3,), True)
    """
    name = "interpolative"
    arguments.require_choice(name, "pivoting", pivoting, (True, "randomized"))
    if (rank is None) == (tol is None):
        raise ValueError(f"{name}: give either rank or tol, got rank {rank} and tol {tol}")
    modes = ("reduced", "complete", "r")
    a, _, method, _, rank = check_arguments(name, a, "r", pivoting, False, modes, rank)
    arguments.require_unsharded(name, "a", a)
    with calling(name, a):
        if rank is None:
            rank = _count_columns(a, arguments.require_tolerance(name, tol), method)
        return _interpolate(a, rank, method)


def _count_columns(a: Array, tol: float, pivoting: Any) -> int:
    """Count the columns that the most demanding matrix of a batch needs."""
    if 0 in a.shape:
        return 0
    r, _ = _find_triangle(lax.stop_gradient(a), pivoting)
    arguments.require_known("interpolative", r, f"tol {tol}", a)
    left = np.abs(np.asarray(diagonal(r)).astype(np.result_type(r.dtype, np.float32)))
    return int(np.max(np.sum(~(left <= tol * left[..., :1]), axis=-1)))


@partial(jax.jit, static_argnums=1)
def _find_triangle(a: Array, pivoting: Any) -> tuple[Array, Array]:
    r, p = factor_by_mode(a, "r", pivoting, False)
    return r, p


@partial(jax.jit, static_argnums=(1, 2))
def _interpolate(a: Array, rank: int, pivoting: Any) -> InterpolativeResult:
    (a,), dtype = arguments.promote_arrays(a)
    r, p = factor_leading(a, "r", "p", steps=rank, pivoting=METHODS[pivoting].name)
    r11, r12 = r[..., :rank], r[..., rank:]
    if 0 in r12.shape:
        rest = jnp.zeros_like(r12)
    else:
        rest = lstsq_p.bind(r11, r12, rcond=None, pivoting=True)[0]
    identity = lax.full_like(r11, 0) + identity_like(r11)  # sharded as R is
    (c,) = permute_columns_p.bind(p, put_beside(identity, rest, a.shape[-1]), inverse=True)
    return InterpolativeResult(p[..., :rank], c.astype(dtype))
