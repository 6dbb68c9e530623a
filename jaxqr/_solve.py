"""Triangular solves as a linear primitive.

JAX's own has a derivative with respect to the triangle that fails on an explicit mesh, at every
order: so this one stays itself when it is differentiated, transposed or mapped.
"""

from collections.abc import Sequence
from typing import Any

from jax import Array, lax
from jax.interpreters import ad

from jaxqr._algebra import mm, row_minus_column, where
from jaxqr._batching import vary_alike
from jaxqr._primitive import CoreResult, Shape, derivatives, is_zero, make, zero_tangent


def solve(
    a: Array, b: Array, *, left: bool, lower: bool, adjoint: bool = False, unit: bool = False
) -> Array:
    """Solve op(a) x = b (left) or x op(a) = b for triangular `a`, op the identity or the adjoint.

    The other triangle of `a` is not read, nor is its diagonal if `unit`.
    """
    a, b = vary_alike((a, b))
    params = {"left": left, "lower": lower, "unit": unit}
    return solve_p.bind(a, b, transpose=adjoint, conjugate=adjoint, **params)[0]


def _results(a: Shape, b: Shape, **params: bool) -> list[CoreResult]:
    return [(b, None)]


def _body(
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
    (x,) = solve_p.bind(a, b, **params)
    if is_zero(da):
        rhs = db
    else:
        da = _read(da, lower=params["lower"], unit=params["unit"])
        da = da.mT if params["transpose"] else da
        da = da.conj() if params["conjugate"] else da
        pair = (da, x) if params["left"] else (x, da)
        rhs = -mm(*pair)
        rhs = rhs if is_zero(db) else db + rhs
    if is_zero(rhs):
        return [x], [zero_tangent(x)]
    return [x], solve_p.bind(a, rhs, **params)


def _read(a: Array, *, lower: bool, unit: bool) -> Array:
    """The entries of `a` that are read, and zeros."""
    inside = row_minus_column(a) if lower else -row_minus_column(a)
    return where(inside > 0 if unit else inside >= 0, a)


def _transpose(cotangents: list[Any], a: Array, b: Any, **params: bool) -> tuple[None, Any]:
    if is_zero(cotangents[0]):
        return None, ad.Zero(b.aval.to_ct_aval())
    params["transpose"] = not params["transpose"]
    return None, solve_p.bind(a, cotangents[0], **params)[0]


# Mapped over right-hand sides alone the triangle is copied for each, which costs no more memory
# than they do. Making them columns of one solve would gather a batch that is sharded.
solve_p = make("solve", ranks=(2, 2), results=_results, body=_body)
derivatives(solve_p, _jvp, _transpose)
