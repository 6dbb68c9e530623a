"""Triangular solves as a linear primitive.

JAX's own has a derivative with respect to the triangle that fails on an explicit mesh, at every
order: so this one stays itself when it is differentiated, transposed or mapped.
"""

from collections.abc import Sequence
from typing import Any

from jax import Array, lax

from jaxqr._core.abstract import CoreResult
from jaxqr._core.algebra import mm, row_minus_column, where
from jaxqr._core.partition import Shape, vary_alike
from jaxqr._core.primitive import is_zero, make_primitive
from jaxqr._core.undocumented import zero_tangent
from jaxqr._lowering import kernels


def solve_triangular(
    a: Array, b: Array, *, left: bool, lower: bool, adjoint: bool = False, unit: bool = False
) -> Array:
    """Solve op(a) x = b (left) or x op(a) = b for triangular `a`, op the identity or the adjoint.

    The other triangle of `a` is not read, nor is its diagonal if `unit`.
    """
    a, b = vary_alike((a, b))
    params = {"left": left, "lower": lower, "unit": unit}
    return solve_triangular_p.bind(a, b, transpose=adjoint, conjugate=adjoint, **params)[0]


def solve_right(x: Array, r: Array) -> Array:
    """Compute X R^{-1} for upper triangular R."""
    return solve_triangular(r, x, left=False, lower=False)


def solve_right_adjoint(x: Array, r: Array) -> Array:
    """Compute X R^{-H} for upper triangular R."""
    return solve_triangular(r, x, left=False, lower=False, adjoint=True)


def _results(a: Shape, b: Shape, **params: bool) -> list[CoreResult]:
    return [(b, None)]


def _solve(
    a: Array, b: Array, *, left: bool, lower: bool, transpose: bool, conjugate: bool, unit: bool
) -> list[Array]:
    solution = lax.linalg.triangular_solve(
        a,
        b,
        left_side=left,
        lower=lower,
        transpose_a=transpose,
        conjugate_a=conjugate,
        unit_diagonal=unit,
    )
    return [solution]


def _jvp(primals: Sequence[Array], tangents: Sequence[Any], **params: bool) -> Any:
    a, b = primals
    da, db = tangents
    (x,) = solve_triangular_p.bind(a, b, **params)
    rhs = db
    if not is_zero(da):
        da = _keep_what_is_read(da, lower=params["lower"], unit=params["unit"])
        da = da.mT if params["transpose"] else da
        da = da.conj() if params["conjugate"] else da
        product = mm(da, x) if params["left"] else mm(x, da)
        rhs = -product if is_zero(db) else db - product
    if is_zero(rhs):
        return [x], [zero_tangent(x)]
    return [x], solve_triangular_p.bind(a, rhs, **params)


def _keep_what_is_read(a: Array, *, lower: bool, unit: bool) -> Array:
    """Keep the entries of `a` that are read and set the others to zero."""
    inside = row_minus_column(a) if lower else -row_minus_column(a)
    return where(inside > 0 if unit else inside >= 0, a)


def _transpose(
    cotangents: Sequence[Array], fixed: Sequence[Array], wanted: Sequence[bool], **params: bool
) -> list[Array]:
    del wanted  # the right-hand side's, which is the only one
    (a,) = fixed
    params["transpose"] = not params["transpose"]
    return solve_triangular_p.bind(a, cotangents[0], **params)


def _solve_batch(*args: Any, batch_ndim: int, **params: Any) -> list[Array] | None:
    """Call the kernel for a batch.

    jaxlib's call may wait forever, where two of them are under way on two threads of XLA's pool:
    each waits there for tasks that only the other thread could begin. One matrix has no tasks.
    """
    batch = args[1][0].shape[:batch_ndim]
    one = all(size == 1 for size in batch)
    return None if one else kernels.compute(*args, batch_ndim=batch_ndim, **params)


solve_triangular_p = make_primitive(
    "solve",
    core_ranks=(2, 2),
    results=_results,
    body=_solve,
    linear_from=1,
    jvp=_jvp,
    transpose=_transpose,
    # Where only right-hand sides are mapped, the triangle is copied for each of them, which costs
    # no more memory than they do. As columns of one solve a sharded batch would be gathered.
    map_body=False,
    kernels={"cpu": _solve_batch},
)
