"""Least squares: from the arguments to the primitive and back."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AbstractMesh, Mesh
from jax.typing import ArrayLike

from jaxqr._core import arguments
from jaxqr._core.algebra import exceeds, mm, where
from jaxqr._core.partition import broadcast_batch, is_sharded
from jaxqr._core.results import LstsqResult
from jaxqr._core.settings import calling
from jaxqr._lstsq.lstsq_primitive import lstsq_p, solve_by_pseudoinverse, sum_squares
from jaxqr._lstsq.refinement import refine_solution
from jaxqr._sharded.row_blocks import (
    AxisName,
    are_axes_bound,
    find_row_axes,
    let_vary,
    map_blocks,
    warn_of_gathering,
)
from jaxqr._sharded.sharded_inverse import factor_sharded_inverse


def lstsq(
    a: ArrayLike,
    b: ArrayLike,
    *,
    rcond: float | None = None,
    pivoting: bool = True,
    refine: int = 0,
    axis_name: AxisName | None = None,
    mesh: Mesh | AbstractMesh | None = None,
) -> LstsqResult:
    """Solve least-squares problems: the x of minimum norm among those that minimize ``|b - a x|``.

    A pivoted QR of `a`, or of its adjoint for m < n, finds the rank; where rows and columns are
    both dependent, its leading rows are factored once more (complete orthogonal decomposition).
    Q is applied and never formed, and the derivatives use the same factors.

    Args:
        a: array (..., m, n), real or complex. Dtypes as in `qr`.
        b: right-hand sides: (m,), or (..., m, s) with batch dimensions that broadcast with those
            of `a`. As in NumPy 2's `solve`, `b` is a vector only if it has one dimension: of a
            batch of vectors (..., m) write ``lstsq(a, b[..., None])``, whose x has s = 1 too.
        rcond: what counts towards the rank. Diagonal entries of R of at most `rcond` times the
            largest do not, and the rest of R is then taken to be zero. By default every column
            (every row, for m < n) is judged by its own size: columns are brought to one size and
            pivoted, and a column does not count if at most 64 machine epsilons of the sum of the
            magnitudes in its column of R are left on the diagonal. Rounding may leave that much
            of a dependent column, at any number of rows. Of columns that depend on each other
            the larger ones count.

            NumPy's and SciPy's ``lstsq`` compare singular values with the largest one, times
            epsilon (NumPy: times max(m, n), too). Columns in small units are lost there, and so
            is long data in single precision with NumPy's. Pass `rcond` to do as they do.
        pivoting: if False, the rank is taken to be min(m, n) without looking: quicker, and for
            dependent rows or columns without meaning. `rcond` must then be None.
        refine: how many steps of iterative refinement follow, in which residuals are computed with
            twice the digits of the dtype, by sums and products of pairs. One step brings x to
            nearly all digits that the numbers in `a` and `b` determine, as long as the condition
            number is some digits below what the dtype resolves; more steps help beyond. A step
            takes some hundred operations for each entry of `a` and right-hand side. Derivatives
            are those without it.
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
            the rows of an `a` that is not tall are sharded, or `refine` is negative, or not 0
            where rows are sharded.
        TypeError: if an argument is not an array of numbers, or of a dtype that is not supported,
            or `rcond` is no number.

    Source: Golub and Pereyra, SIAM J. Numer. Anal. 10 (1973) 413-432; LAPACK's gelsy; refinement
    after Bjorck, BIT 7 (1967) 257-278; section 9 of ``derivations.md``.

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
    a = arguments.convert_array(name, "a", a)
    b = arguments.convert_array(name, "b", b, ndim=1)
    pivoting = arguments.require_choice(name, "pivoting", pivoting, (True, False))
    rcond = arguments.require_rcond(name, rcond)
    refine = arguments.require_count(name, "refine", refine)
    if rcond is not None and not pivoting:
        raise ValueError(f"{name}: rcond must be None without pivoting, got {rcond}")
    m = a.shape[-2]
    if b.shape[-2 if b.ndim > 1 else -1] != m:
        raise ValueError(
            f"{name}: b must be (m,) or (..., m, s) with m = {m} as a has rows, got b {b.shape} "
            f"for a {a.shape}"
        )
    arguments.require_matching_batches(name, a, b, "b")
    axes = find_row_axes(name, a, axis_name)
    if axes and refine:
        raise ValueError(f"{name}: refine must be 0 where rows are sharded, got {refine}")
    arguments.require_unsharded(name, "a", a, 1 if axes else 2)
    if not axes:
        arguments.require_unsharded(name, "b", b, min(b.ndim, 2))
        warn_of_gathering(name, a=(a, 2), b=(b, min(b.ndim, 2)))
    with calling("lstsq", a, b):
        return _lstsq(a, b, rcond, pivoting, refine, axes, mesh)


@partial(jax.jit, static_argnums=(2, 3, 4, 5, 6))
def _lstsq(
    a: Array,
    b: Array,
    rcond: float | None,
    pivoting: bool,
    refine: int,
    axes: tuple[str, ...],
    mesh: Mesh | AbstractMesh | None,
) -> LstsqResult:
    (a, b), dtype = arguments.promote_arrays(a, b)
    vector = b.ndim == 1
    b = b[:, None] if vector else b
    # For a single matrix a batch of right-hand sides is nothing but more columns.
    stacked = a.ndim == 2 and b.ndim > 2 and not is_sharded(b)
    if stacked:
        columns = jnp.moveaxis(b, -2, 0)
        b = lax.collapse(columns, 1)
    else:
        a, b = broadcast_batch((a, b), (2, 2))
    if axes:
        x, residuals, rank = _solve_blocks(a, b, rcond, pivoting, axes, mesh)
    else:
        x, residuals, rank = _solve(a, b, rcond, pivoting)
        if refine and 0 not in (*a.shape, *x.shape):
            x, residuals = _refine(a, b, x, residuals, rcond, pivoting, refine)
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
        return [x, sum_squares(b), jnp.zeros(batch, jnp.int32)]
    if b.shape[-1] == 0:  # the rank is still asked for
        x, residuals, rank = _solve(a, jnp.zeros_like(a[..., :1]), rcond, pivoting)
        return [x[..., :0], residuals[..., :0], rank]
    if exceeds(n, m):
        return solve_by_pseudoinverse(a, b, rcond=rcond, pivoting=pivoting)
    return lstsq_p.bind(a, b, rcond=rcond, pivoting=pivoting)


def _refine(
    a: Array,
    b: Array,
    x: Array,
    residuals: Array,
    rcond: float | None,
    pivoting: bool,
    steps: int,
) -> tuple[Array, Array]:
    """Correct the values of both; their derivatives stay."""
    found, squares = refine_solution(a, b, x, rcond=rcond, pivoting=pivoting, steps=steps)
    return _replace_value(x, found), _replace_value(residuals, squares)


def _replace_value(x: Array, value: Array) -> Array:
    """Give `value` with the derivatives of `x`, which may be infinite."""
    zero = x - lax.stop_gradient(x)
    return value + where(zero == zero, zero)


def _solve_blocks(
    a: Array,
    b: Array,
    rcond: float | None,
    pivoting: bool,
    axes: tuple[str, ...],
    mesh: Mesh | AbstractMesh | None,
) -> LstsqResult:
    """Solve where rows are sharded over `axes`."""

    def solve(a: Array, b: Array) -> LstsqResult:
        a, b = let_vary(a, axes), let_vary(b, axes)
        if a.shape[-1] == 0:
            x, residuals, rank = _solve(a, b, rcond, pivoting)
            return LstsqResult(x, lax.psum(residuals, axes), rank)
        inverse = factor_sharded_inverse(a, rcond=rcond, pivoting=pivoting, axes=axes)
        x = inverse.solve(b)
        residuals = lax.psum(sum_squares(b - mm(a, x)), axes)
        return LstsqResult(x, residuals, inverse.rank)

    if are_axes_bound("lstsq", axes):
        return solve(a, b)
    if a.shape[-1] == 0:  # XLA takes no program on blocks that has no operands
        return LstsqResult(*_solve(a, b, rcond, pivoting))
    return map_blocks("lstsq", solve, axes, mesh, [a, b], lambda rows, rest: rest)
