"""QR: from the arguments and the mode to the primitive and back."""

from typing import Any, Literal, overload

import jax
from jax import Array
from jax.typing import ArrayLike

from jaxqr._api.modes import check_arguments, factor_by_mode, factor_rows_by_mode
from jaxqr._core import arguments
from jaxqr._core.results import PivotedQRResult, PivotedR, PivotedRawResult, QRResult, RawResult
from jaxqr._core.settings import calling
from jaxqr._factor.pivoting import Pivoted, Pivoting
from jaxqr._sharded.row_blocks import find_row_axes

_Formed = Literal["reduced", "economic", "complete"]
_No = Literal[False]


# fmt: off
@overload
def qr(a: ArrayLike, mode: _Formed = ..., *, pivoting: _No = ..., positive_diagonal: bool = ...) -> QRResult: ...  # noqa: E501
@overload
def qr(a: ArrayLike, mode: _Formed = ..., *, pivoting: Pivoted, positive_diagonal: bool = ..., rank: int | None = ...) -> PivotedQRResult: ...  # noqa: E501
@overload
def qr(a: ArrayLike, mode: Literal["r"], *, pivoting: _No = ..., positive_diagonal: bool = ...) -> Array: ...  # noqa: E501
@overload
def qr(a: ArrayLike, mode: Literal["r"], *, pivoting: Pivoted, positive_diagonal: bool = ..., rank: int | None = ...) -> PivotedR: ...  # noqa: E501
@overload
def qr(a: ArrayLike, mode: Literal["raw"], *, pivoting: _No = ..., positive_diagonal: _No = ...) -> RawResult: ...  # noqa: E501
@overload
def qr(a: ArrayLike, mode: Literal["raw"], *, pivoting: Pivoted, positive_diagonal: _No = ...) -> PivotedRawResult: ...  # noqa: E501
@overload
def qr(a: ArrayLike, mode: str, *, pivoting: Pivoting = ..., positive_diagonal: bool = ..., rank: int | None = ...) -> Any: ...  # noqa: E501
# fmt: on
def qr(
    a: ArrayLike,
    mode: str = "reduced",
    *,
    pivoting: Pivoting = False,
    positive_diagonal: bool = False,
    rank: int | None = None,
) -> Any:
    """Factor matrices into an orthonormal Q and an upper triangular R: ``a = Q @ R``.

    Args:
        a: array (..., m, n), real or complex; k = min(m, n). Integers and booleans are promoted
            to the default floating dtype; half precision is factored, and differentiated, in
            single precision and rounded at the end.
        mode: "reduced", or SciPy's name "economic", for Q (..., m, k) and R (..., k, n);
            "complete" for Q (..., m, m) and R (..., m, n); "r" for R (..., k, n) alone; "raw" for
            the packed reflectors h (..., n, m), transposed as in NumPy, and tau (..., k).
        pivoting: permute the columns so that abs(diag(R)) does not increase:
            ``a[..., :, P] = Q @ R`` with P (..., n) int32 as one more result. "randomized" takes
            blocks of pivots at a time, chosen from products with fixed random matrices: quicker
            for large matrices (small ones get exact pivots), and abs(diag(R)) is only nearly
            non-increasing. The pivots are the same in every call, but may be others on another
            platform.
        positive_diagonal: make diag(R) non-negative. That makes the factorization of a matrix
            with independent leading columns unique, hence the same on every platform. Not in
            mode "raw".
        rank: take this many pivots only, from 0 to min(m, n), with pivoting and in modes
            "reduced" and "r": Q (..., m, rank), R (..., rank, n). The leading columns of
            ``a[..., :, P]`` are those of Q @ R; what it has for the others, which come in no
            particular order, is nearest to them. With the kernels it takes the time of so many
            steps. Symbolic sizes need a constraint that `rank` does not exceed them.

    Returns:
        `QRResult(Q, R)`, the array R, or `RawResult(h, tau)`; with pivoting `PivotedQRResult`,
        `PivotedR` or `PivotedRawResult`, which end with P. diag(R) is real, also for complex
        `a`. A NaN or an infinity makes all of its own matrix NaN and no other of the batch.

    Raises:
        ValueError: for fewer than two dimensions, an unknown mode or `pivoting`,
            `positive_diagonal` in mode "raw", or a matrix that is sharded over an explicit mesh
            otherwise than said below.
        TypeError: if `a` is not an array of numbers, or of a dtype that is not supported.

    All results but P are differentiable, any number of times, forward and reverse, where the
    leading k columns (the permuted ones) are linearly independent. P is constant.

    A column counts as dependent if its diagonal entry of R is at most 64 machine epsilons of the
    sum of the magnitudes in its own column of R: rounding may leave that much of a column that
    depends on others, at any number of rows (criterion (8.3)). The derivative is then that of the
    columns which count, and finite. With pivoting it is the true first derivative of all that
    depends on the range of `a` or on R^H R only, and the true higher ones in directions that keep
    the rank. Without pivoting, what stands after a dependent column has no derivative. With `rank`
    the columns that count are among the leading ones, and the other columns of R are the products
    Q^H a that they are, with the derivative of these.

    The rows of a tall matrix may be sharded over an explicit mesh, in modes "reduced" and "r"
    without pivoting: it is factored where it is, by `tsqr`'s reduction. One more sum, of n x n,
    gives it the signs that it has on a single device; `positive_diagonal` saves that sum and a
    copy of the rows. What is sharded over an automatic mesh is gathered, with a warning unless the
    call is traced.

    Signs are LAPACK's: a diagonal entry of R has the sign that its column's first remaining entry
    has not, or keeps it where nothing remains below. Where that entry is a rounding error, as in
    columns that depend on others, its sign is one, too, and may differ between platforms, kernels,
    and numbers of devices.

    A reflector with tau = 0 is the identity, and LAPACK's choice jumps there. In modes "complete"
    and "raw" its direction is taken to be constant (section 4).

    Source: Roberts and Roberts, arXiv 2009.10071, equation (3); complete mode after
    Papanicolopulos, arXiv 2409.13374; randomized pivots after Martinsson and others, arXiv
    1512.02671, and Melnichenko and others, arXiv 2507.00976. ``derivations.md`` has all rules.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxqr
        >>> a = jax.random.normal(jax.random.key(0), (2, 5, 3))
        >>> q, r = jaxqr.qr(a)
        >>> bool(jnp.allclose(q @ r, a, atol=1e-5))
        True
        >>> q, r, p = jaxqr.qr(a, pivoting=True)
        >>> bool(jnp.allclose(q @ r, jnp.take_along_axis(a, p[:, None, :], -1), atol=1e-5))
        True

        abs(det(R)) = sqrt(det(A^H A)), whose logarithm has the pseudo-inverse as its gradient:

        >>> def volume(a):
        ...     return jnp.sum(jnp.log(jnp.abs(jnp.diagonal(jaxqr.qr(a, mode="r")))))
        >>> bool(jnp.allclose(jax.grad(volume)(a[0]).T, jnp.linalg.pinv(a[0]), atol=1e-4))
        True
    """
    a, mode, pivoting, positive_diagonal, rank = check_arguments(
        "qr", a, mode, pivoting, positive_diagonal, ("reduced", "complete", "r", "raw"), rank
    )
    axes = find_row_axes("qr", a)
    arguments.require_unsharded("qr", "a", a, 1 if axes else 2)
    if axes:
        return factor_rows_by_mode("qr", a, mode, pivoting, positive_diagonal, axes)
    with calling("qr", a):
        return _qr(a, mode, pivoting, positive_diagonal, rank)


# As a compiled function, called eagerly, its backward pass is one compiled program as well.
_qr = jax.jit(factor_by_mode, static_argnums=(1, 2, 3, 4))
