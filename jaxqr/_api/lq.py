"""LQ, RQ and QL: QR seen through the plain transpose and through reversals.

A^T = Q' R' gives A = R'^T Q'^T without any conjugation, also for complex matrices (6.1), so
values and every derivative transfer by transposition, which XLA turns into a layout.
"""

from functools import partial
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxqr._api.modes import check_arguments, factor_by_mode, factor_rows_by_mode
from jaxqr._core import arguments
from jaxqr._core.results import (
    LQResult,
    PivotedL,
    PivotedLQResult,
    PivotedRawResult,
    QLResult,
    RawResult,
    RQResult,
)
from jaxqr._core.settings import calling
from jaxqr._factor.pivoting import Pivoted, Pivoting
from jaxqr._sharded.row_blocks import find_column_axes

_Formed = Literal["reduced", "economic", "complete"]
_No = Literal[False]


# fmt: off
@overload
def lq(a: ArrayLike, mode: _Formed = ..., *, pivoting: _No = ..., positive_diagonal: bool = ...) -> LQResult: ...  # noqa: E501
@overload
def lq(a: ArrayLike, mode: _Formed = ..., *, pivoting: Pivoted, positive_diagonal: bool = ..., rank: int | None = ...) -> PivotedLQResult: ...  # noqa: E501
@overload
def lq(a: ArrayLike, mode: Literal["l"], *, pivoting: _No = ..., positive_diagonal: bool = ...) -> Array: ...  # noqa: E501
@overload
def lq(a: ArrayLike, mode: Literal["l"], *, pivoting: Pivoted, positive_diagonal: bool = ..., rank: int | None = ...) -> PivotedL: ...  # noqa: E501
@overload
def lq(a: ArrayLike, mode: Literal["raw"], *, pivoting: _No = ..., positive_diagonal: _No = ...) -> RawResult: ...  # noqa: E501
@overload
def lq(a: ArrayLike, mode: Literal["raw"], *, pivoting: Pivoted, positive_diagonal: _No = ...) -> PivotedRawResult: ...  # noqa: E501
@overload
def lq(a: ArrayLike, mode: str, *, pivoting: Pivoting = ..., positive_diagonal: bool = ..., rank: int | None = ...) -> Any: ...  # noqa: E501
# fmt: on
def lq(
    a: ArrayLike,
    mode: str = "reduced",
    *,
    pivoting: Pivoting = False,
    positive_diagonal: bool = False,
    rank: int | None = None,
) -> Any:
    """Factor matrices into a lower triangular L and an orthonormal Q: ``a = L @ Q``.

    The mirror of `qr` in everything; on the CPU it costs no transposition of a row-major matrix.

    Args:
        a: array (..., m, n), real or complex; k = min(m, n). Dtypes as in `qr`.
        mode: "reduced" or "economic" for L (..., m, k) and Q (..., k, n); "complete" for
            L (..., m, n) and Q (..., n, n); "l" for L (..., m, k) alone; "raw" for the packed
            reflectors in the storage of LAPACK's gelqf, h (..., m, n) and tau (..., k).
        pivoting: permute the rows so that abs(diag(L)) does not increase:
            ``a[..., P, :] = L @ Q`` with P (..., m) int32 as one more result. "randomized" is
            quicker for large matrices, and abs(diag(L)) only nearly non-increasing.
        positive_diagonal: make diag(L) non-negative. Not in mode "raw".
        rank: take this many pivots only, as in `qr`: L (..., m, rank), Q (..., rank, n).

    Returns:
        `LQResult(L, Q)`, the array L, or `RawResult(h, tau)`; with pivoting `PivotedLQResult`,
        `PivotedL` or `PivotedRawResult`, which end with P. diag(L) is real.

    Raises:
        ValueError: for fewer than two dimensions, an unknown mode or `pivoting`,
            `positive_diagonal` in mode "raw", or a matrix that is sharded over an explicit mesh
            otherwise than said below.
        TypeError: if `a` is not an array of numbers, or of a dtype that is not supported.

    All results but P are differentiable as in `qr`, with rows in the place of columns. As rows in
    `qr`, the columns of a wide matrix may be sharded over an explicit mesh, in modes "reduced" and
    "l" without pivoting.

    Source: Roberts and Roberts, arXiv 2009.10071; section 6 of ``derivations.md``.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxqr
        >>> a = jax.random.normal(jax.random.key(0), (3, 5))
        >>> l, q = jaxqr.lq(a)
        >>> bool(jnp.allclose(l @ q, a, atol=1e-5) & jnp.allclose(q @ q.T, jnp.eye(3), atol=1e-5))
        True
    """
    modes = ("reduced", "complete", "l", "raw")
    a, mode, pivoting, positive_diagonal, rank = check_arguments(
        "lq", a, mode, pivoting, positive_diagonal, modes, rank
    )
    axes = find_column_axes(a)
    if axes:
        found = factor_rows_by_mode("lq", a, mode, pivoting, positive_diagonal, axes, True)
        return found if mode == "l" else LQResult(found.R, found.Q)
    arguments.require_unsharded("lq", "a", a)
    with calling("lq", a):
        return _lq(a, mode, pivoting, positive_diagonal, rank)


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _lq(
    a: Array, mode: str, pivoting: Pivoting, positive_diagonal: bool, rank: int | None = None
) -> Any:
    out = factor_by_mode(
        a, "r" if mode == "l" else mode, pivoting, positive_diagonal, rank, transposed=True
    )
    if mode == "l":
        return PivotedL(out.R, out.P) if pivoting else out
    if mode == "raw":
        # gelqf defines Q as the product of the adjoint reflectors, and stores their conjugates
        return out._replace(tau=out.tau.conj())
    if pivoting:
        return PivotedLQResult(out.R, out.Q, out.P)
    return LQResult(out.R, out.Q)


@overload
def rq(a: ArrayLike, mode: _Formed = ..., *, positive_diagonal: bool = ...) -> RQResult: ...
@overload
def rq(a: ArrayLike, mode: Literal["r"], *, positive_diagonal: bool = ...) -> Array: ...
@overload
def rq(a: ArrayLike, mode: str, *, positive_diagonal: bool = ...) -> Any: ...
def rq(a: ArrayLike, mode: str = "reduced", *, positive_diagonal: bool = False) -> Any:
    """Factor matrices into an upper triangular R and an orthonormal Q: ``a = R @ Q``.

    It is `lq` of the matrix with its rows and columns reversed.

    Args:
        a: array (..., m, n), real or complex; k = min(m, n). Dtypes as in `qr`.
        mode: "reduced" or "economic" for R (..., m, k) and Q (..., k, n); "complete"
            for R (..., m, n) and Q (..., n, n), as SciPy's "full"; "r" for R (..., m, k) alone.
        positive_diagonal: make the diagonal that ends in R's last row and column non-negative.

    Returns:
        `RQResult(R, Q)` or the array R. R is zero below the diagonal that ends in its last row
        and column, which is real. Differentiable as `qr`, with the last rows in the place of
        the leading columns.

    Raises:
        ValueError: for fewer than two dimensions or an unknown mode.
        TypeError: if `a` is not an array of numbers, or of a dtype that is not supported.

    Source: LAPACK's gerqf; section 6 of ``derivations.md``.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxqr
        >>> a = jax.random.normal(jax.random.key(0), (3, 5))
        >>> r, q = jaxqr.rq(a)
        >>> bool(jnp.allclose(r @ q, a, atol=1e-5) & jnp.all(jnp.tril(r, -1) == 0))
        True
    """
    a, mode, _, positive, _ = check_arguments(
        "rq", a, mode, False, positive_diagonal, ("reduced", "complete", "r")
    )
    arguments.require_unsharded("rq", "a", a)
    with calling("rq", a):
        return _rq(a, mode, positive)


@partial(jax.jit, static_argnums=(1, 2))
def _rq(a: Array, mode: str, positive_diagonal: bool) -> Any:
    out = _lq(_reverse(a), "l" if mode == "r" else mode, False, positive_diagonal)
    return _reverse(out) if mode == "r" else RQResult(_reverse(out.L), _reverse(out.Q))


@overload
def ql(a: ArrayLike, mode: _Formed = ..., *, positive_diagonal: bool = ...) -> QLResult: ...
@overload
def ql(a: ArrayLike, mode: Literal["l"], *, positive_diagonal: bool = ...) -> Array: ...
@overload
def ql(a: ArrayLike, mode: str, *, positive_diagonal: bool = ...) -> Any: ...
def ql(a: ArrayLike, mode: str = "reduced", *, positive_diagonal: bool = False) -> Any:
    """Factor matrices into an orthonormal Q and a lower triangular L: ``a = Q @ L``.

    It is `qr` of the matrix with its rows and columns reversed; the mirror of `rq`.

    Args:
        a: array (..., m, n), real or complex; k = min(m, n). Dtypes as in `qr`.
        mode: "reduced" or "economic" for Q (..., m, k) and L (..., k, n); "complete" for
            Q (..., m, m) and L (..., m, n); "l" for L (..., k, n) alone.
        positive_diagonal: make the diagonal that ends in L's last row and column non-negative.

    Returns:
        `QLResult(Q, L)` or the array L. L is zero above the diagonal that ends in its last row
        and column, which is real. Differentiable as `qr`, with the last columns in the place of
        the leading ones.

    Raises:
        ValueError: for fewer than two dimensions or an unknown mode.
        TypeError: if `a` is not an array of numbers, or of a dtype that is not supported.

    Source: LAPACK's geqlf; section 6 of ``derivations.md``.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxqr
        >>> a = jax.random.normal(jax.random.key(0), (5, 3))
        >>> q, l = jaxqr.ql(a)
        >>> bool(jnp.allclose(q @ l, a, atol=1e-5) & jnp.all(jnp.triu(l, 1) == 0))
        True
    """
    a, mode, _, positive, _ = check_arguments(
        "ql", a, mode, False, positive_diagonal, ("reduced", "complete", "l")
    )
    arguments.require_unsharded("ql", "a", a)
    with calling("ql", a):
        return _ql(a, mode, positive)


@partial(jax.jit, static_argnums=(1, 2))
def _ql(a: Array, mode: str, positive_diagonal: bool) -> Any:
    out = factor_by_mode(_reverse(a), "r" if mode == "l" else mode, False, positive_diagonal)
    return _reverse(out) if mode == "l" else QLResult(_reverse(out.Q), _reverse(out.R))


def _reverse(x: Array) -> Array:
    """Reverse the rows and the columns."""
    return jnp.flip(x, axis=(-2, -1))
