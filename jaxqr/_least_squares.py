"""Least squares: from the arguments to the pseudo-inverse and back."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AbstractMesh, Mesh
from jax.typing import ArrayLike

from jaxqr import _arguments
from jaxqr._algebra import H, exceeds, mm
from jaxqr._batching import broadcast_batch, is_sharded
from jaxqr._primitive import (
    REAL,
    CoreResult,
    Shape,
    derivatives,
    is_zero,
    lower_to_kernel,
    make,
    zero_tangent,
)
from jaxqr._pseudoinverse import pseudoinverse
from jaxqr._results import LstsqResult
from jaxqr._row_blocks import AxisName, bound_axes, over_blocks, refuse_gathering, row_axes, varying
from jaxqr._settings import calling
from jaxqr._sharded_inverse import sharded_inverse


def lstsq(
    a: ArrayLike,
    b: ArrayLike,
    *,
    rcond: float | None = None,
    pivoting: bool = True,
    axis_name: AxisName | None = None,
    mesh: Mesh | AbstractMesh | None = None,
) -> LstsqResult:
    """Solve least-squares problems: the x of minimum norm among those that minimize |b - a x|.

    A pivoted QR of `a`, or of its adjoint for m < n, finds the rank; where rows and columns are
    both dependent, its leading rows are factored once more (complete orthogonal decomposition).
    Q is applied and never formed, and the derivatives use the same factors.

    Args:
        a: array (..., m, n), real or complex. Dtypes as in `qr`.
        b: right-hand sides: (m,), or (..., m, s) with batch dimensions that broadcast with those
            of `a`. As in NumPy 2's `solve`, `b` is a vector only if it has one dimension: of a
            batch of vectors (..., m) write ``lstsq(a, b[..., None])``, whose x has s = 1 too.
        rcond: diagonal entries of R of at most `rcond` times the largest do not count towards
            the rank, and the rest of R is taken to be zero. By default every column (row, for
            m < n) is judged by its own size, whatever the number of rows: among columns brought
            to one size, and pivoted, it does not count if what is left of it after those before
            it is at most 64 machine epsilons of the sum of the magnitudes in its column of R,
            which rounding may leave of a dependent one. Of columns that depend on each other the
            larger ones count.
            (`numpy.linalg.lstsq` compares singular values with the largest one, times epsilon
            times max(m, n), and `scipy.linalg.lstsq` times epsilon: columns in small units are
            lost there, and with NumPy's in single precision all of long data. To compare with
            the largest entry as they do, pass `rcond`.)
        pivoting: if False, the rank is taken to be min(m, n) without looking: quicker, and for
            dependent rows or columns without meaning. `rcond` must then be None.
        axis_name: the mesh axis, or a tuple of axes, along which the rows of a tall `a`, and those
            of `b`, are sharded: in `jax.shard_map`, where each device passes its blocks of both,
            or with `mesh`, as in `tsqr`. Of rows sharded over an explicit mesh it is known. Then
            devices exchange the n x n triangles of `tsqr` and sums of blocks n x s, for value
            and derivatives, and each of them has all results.
        mesh: for an `axis_name` outside of `jax.shard_map`; by default that of `jax.set_mesh`.

    Returns:
        `LstsqResult(x, residuals, rank)`: x (n,) or (..., n, s); residuals, real, () or (..., s):
        the squared norms of b - a x, for every shape and rank; rank () or (...) int32.

        x and residuals are differentiable in `a` and `b`, any number of times, forward and
        reverse, at every rank: the derivative is that of Golub and Pereyra along matrices of the
        same rank (at others the solution jumps). rank is constant.

    Raises:
        ValueError: if the shapes do not match, `rcond` is negative or given without pivoting, or
            rows are sharded of an `a` that is not tall.
        TypeError: if an argument is not an array of numbers, or of a dtype that is not supported,
            or `rcond` is no number.

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
    pivoting = _arguments.choice(name, "pivoting", pivoting, (True, False))
    rcond = _arguments.rcond(name, rcond)
    if rcond is not None and not pivoting:
        raise ValueError(f"{name}: rcond must be None without pivoting, got {rcond}")
    m = a.shape[-2]
    if b.shape[-2 if b.ndim > 1 else -1] != m:
        raise ValueError(
            f"{name}: b must be (m,) or (..., m, s) with m = {m} as a has rows, got b {b.shape} "
            f"for a {a.shape}"
        )
    _arguments.batches(name, a, b, "b")
    axes = row_axes(name, a, axis_name)
    _arguments.whole(name, "a", a, 1 if axes else 2)
    if not axes:
        refuse_gathering(name, "a", a)
        refuse_gathering(name, "b", b, min(b.ndim, 2))
        _arguments.whole(name, "b", b, min(b.ndim, 2))
    with calling("lstsq", a, b):
        return _lstsq(a, b, rcond, pivoting, axes, mesh)


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _lstsq(
    a: Array,
    b: Array,
    rcond: float | None,
    pivoting: bool,
    axes: tuple[str, ...],
    mesh: Mesh | AbstractMesh | None,
) -> LstsqResult:
    (a, b), dtype = _arguments.common(a, b)
    vector = b.ndim == 1
    b = b[:, None] if vector else b
    # one matrix: a batch of right-hand sides is more columns
    stacked = a.ndim == 2 < b.ndim and not is_sharded(b)
    if stacked:
        columns = jnp.moveaxis(b, -2, 0)
        b = lax.collapse(columns, 1)
    else:
        a, b = broadcast_batch((a, b), (2, 2))
    if axes:
        x, residuals, rank = _solve_blocks(a, b, rcond, pivoting, axes, mesh)
    else:
        x, residuals, rank = _solve(a, b, rcond, pivoting)
    if stacked:
        x = jnp.moveaxis(x.reshape(x.shape[0], *columns.shape[1:]), 0, -2)
        residuals = residuals.reshape(columns.shape[1:])
        rank = jnp.broadcast_to(rank, columns.shape[1:-1])
    if vector:
        x, residuals = x[..., 0], residuals[..., 0]
    return LstsqResult(x.astype(dtype), residuals.astype(jnp.finfo(dtype).dtype), rank)


def _solve(a: Array, b: Array, rcond: float | None, pivoting: bool) -> list[Array]:
    *batch, m, n = a.shape
    if 0 in (m, n):
        x = jnp.zeros((*batch, n, b.shape[-1]), b.dtype)
        return [x, _squares(b), jnp.zeros(batch, jnp.int32)]
    if b.shape[-1] == 0:  # the rank is still asked for
        x, residuals, rank = _solve(a, jnp.zeros_like(a[..., :1]), rcond, pivoting)
        return [x[..., :0], residuals[..., :0], rank]
    if exceeds(n, m):
        return _compute(a, b, rcond=rcond, pivoting=pivoting)
    return lstsq_p.bind(a, b, rcond=rcond, pivoting=pivoting)


def _solve_blocks(
    a: Array,
    b: Array,
    rcond: float | None,
    pivoting: bool,
    axes: tuple[str, ...],
    mesh: Mesh | AbstractMesh | None,
) -> LstsqResult:
    """Of rows that are sharded over `axes`."""

    def solve(a: Array, b: Array) -> LstsqResult:
        a, b = varying(a, axes), varying(b, axes)
        if a.shape[-1] == 0:
            x, residuals, rank = _solve(a, b, rcond, pivoting)
            return LstsqResult(x, lax.psum(residuals, axes), rank)
        inverse = sharded_inverse(a, rcond=rcond, pivoting=pivoting, axes=axes)
        x = inverse.solve(b)
        residuals = lax.psum(_squares(b - mm(a, x)), axes)
        return LstsqResult(x, residuals, inverse.rank)

    if bound_axes("lstsq", axes):
        return solve(a, b)
    if a.shape[-1] == 0:  # XLA takes no program on blocks that has no operands
        return LstsqResult(*_solve(a, b, rcond, pivoting))
    return over_blocks("lstsq", solve, axes, mesh, [a, b], lambda rows, rest: rest)


# -------------------------------------------------------------------------------- shape rule


def _results(a: Shape, b: Shape, *, rcond: float | None, pivoting: bool) -> list[CoreResult]:
    return [((a[1], b[1]), None), ((b[1],), REAL), ((), jnp.int32)]


# ---------------------------------------------------------------------------------- lowering


def _compute(a: Array, b: Array, *, rcond: float | None, pivoting: bool) -> list[Array]:
    """By operations whose derivatives are known: what is differentiated, too."""
    wide = exceeds(a.shape[-1], a.shape[-2])
    deep = H(a) if wide else a
    inverse = pseudoinverse(deep, rcond=rcond, pivoting=pivoting)
    x = inverse.solve_adjoint(b) if wide else inverse.solve(b)
    rest = b - mm(a, x)
    return [x, _squares(rest), inverse.rank]


def _squares(x: Array) -> Array:
    """The squared norm of every column."""
    squares = x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x**2
    return jnp.sum(squares, axis=-2)


# --------------------------------------------------------------------------------------- JVP


def _jvp(primals: Sequence[Array], tangents: Sequence[Any], **params: Any) -> Any:
    live = [i for i, tangent in enumerate(tangents) if not is_zero(tangent)]

    def at(*moving: Array) -> tuple[tuple[Array, Array], Array]:
        replaced = dict(zip(live, moving, strict=True))
        x, residuals, rank = _compute(
            *(replaced.get(i, z) for i, z in enumerate(primals)), **params
        )
        return (x, residuals), rank

    points, directions = [primals[i] for i in live], [tangents[i] for i in live]
    out, d_out, rank = jax.jvp(at, points, directions, has_aux=True)
    return [*out, rank], [*d_out, zero_tangent(rank)]


# ------------------------------------------------------------------------------ registration

lstsq_p = make(
    "lstsq",
    ranks=(2,),
    results=_results,
    body=_compute,
    columnwise=lambda **_: (True, True, False),
)
lower_to_kernel(lstsq_p, ranks=(2,), results=_results, otherwise=_compute)
derivatives(lstsq_p, _jvp)
