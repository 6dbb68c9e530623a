"""Least squares: from the arguments to the pseudo-inverse and back."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxqr import _arguments
from jaxqr._pseudoinverse import pseudoinverse
from jaxqr._results import LstsqResult


def lstsq(
    a: ArrayLike, b: ArrayLike, *, rcond: float | None = None, pivoting: bool = True
) -> LstsqResult:
    """Solve least-squares problems: the x of minimum norm among those that minimize |b - a x|.

    A pivoted QR of `a`, or of its adjoint for m < n, finds the rank; where rows and columns are
    both dependent, its leading rows are factored once more (complete orthogonal decomposition).
    Q is applied and never formed, and the derivatives use the same factors.

    Args:
        a: array (..., m, n), real or complex. Dtypes as in `qr`.
        b: right-hand sides: (m,), or (..., m, s) with batch dimensions that broadcast with those
            of `a`.
        rcond: diagonal entries of R of at most `rcond` times the largest do not count towards
            the rank, and the rest of R is taken to be zero. By default the machine epsilon times
            max(m, n).
        pivoting: if False, the rank is taken to be min(m, n) without looking: quicker, and for
            dependent rows or columns without meaning. `rcond` must then be None.

    Returns:
        `LstsqResult(x, residuals, rank)`: x (n,) or (..., n, s); residuals, real, () or (..., s):
        the squared norms of b - a x, for every shape and rank; rank (...) int32.

        x and residuals are differentiable in `a` and `b`, any number of times, forward and
        reverse, at every rank: the derivative is that of Golub and Pereyra along matrices of the
        same rank (at others the solution jumps). rank is constant.

    Raises:
        ValueError: if the shapes do not match or `rcond` is negative or given without pivoting.
        TypeError: if an argument is not an array of numbers, or of a dtype that is not supported.

    Source: Golub and Pereyra, SIAM J. Numer. Anal. 10 (1973) 413-432; LAPACK's gelsy; section 9
    of ``notebooks/derivations.md``.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxqr
        >>> a = jax.random.normal(jax.random.key(0), (20, 3))
        >>> b = jax.random.normal(jax.random.key(1), (20,))
        >>> x, residuals, rank = jaxqr.lstsq(a, b)
        >>> bool(jnp.allclose(a.T @ (b - a @ x), 0, atol=1e-4))
        True

        The gradient is finite where the matrix loses rank, and of minimum norm:

        >>> repeated = jnp.stack([a[:, 0], a[:, 0]], axis=-1)
        >>> jax.grad(lambda b: jaxqr.lstsq(repeated, b).x[0])(b).shape
        (20,)
        >>> x, _, rank = jaxqr.lstsq(repeated, b)
        >>> int(rank), bool(jnp.allclose(x[0], x[1]))
        (1, True)
    """
    name = "lstsq"
    a = _arguments.array(name, "a", a)
    b = _arguments.array(name, "b", b, ndim=1)
    _arguments.choice(name, "pivoting", pivoting, (True, False))
    if rcond is not None and not (pivoting and 0 <= rcond < float("inf")):
        raise ValueError(
            f"{name}: rcond must be None, or with pivoting a finite number not below 0, "
            f"got {rcond!r} with pivoting={pivoting}"
        )
    m = a.shape[-2]
    if b.shape[-2 if b.ndim > 1 else -1] != m:
        raise ValueError(
            f"{name}: b must be (m,) or (..., m, s) with m = {m} as a has rows, got b {b.shape} "
            f"for a {a.shape}"
        )
    try:
        jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError as error:
        raise ValueError(
            f"{name}: batch dimensions of a and b must broadcast, got b {b.shape} for a {a.shape}"
        ) from error
    return _lstsq(a, b, None if rcond is None else float(rcond), pivoting)


@partial(jax.jit, static_argnums=(2, 3))
def _lstsq(a: Array, b: Array, rcond: float | None, pivoting: bool) -> LstsqResult:
    (a, b), dtype = _arguments.common(a, b)
    if b.ndim == 1:
        x, residuals, rank = _lstsq(a, b[:, None], rcond, pivoting)
        return LstsqResult(x[..., 0].astype(dtype), residuals[..., 0], rank)
    if rcond is None:
        rcond = max(a.shape[-2:]) * float(jnp.finfo(a.dtype).eps)
    inverse = pseudoinverse(a, rcond=rcond, pivoting=pivoting)
    x, rest = inverse.solve(b), inverse.rest(b)
    residuals = jnp.sum(rest.real**2 + rest.imag**2, axis=-2)
    return LstsqResult(x.astype(dtype), residuals, inverse.rank)
