"""Least squares as one primitive: the solution, the squared residuals and the rank."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxqr._core.abstract import REAL, CoreResult
from jaxqr._core.algebra import H, exceeds, mm
from jaxqr._core.partition import Shape
from jaxqr._core.primitive import is_zero, make_primitive
from jaxqr._core.undocumented import zero_tangent
from jaxqr._lowering import cuda, kernels
from jaxqr._lstsq.joined_triangle import solve_by_triangle
from jaxqr._lstsq.pseudoinverse import factor_pseudoinverse

# -------------------------------------------------------------------------------- shape rule


def _results(a: Shape, b: Shape, *, rcond: float | None, pivoting: bool) -> list[CoreResult]:
    return [((a[1], b[1]), None), ((b[1],), REAL), ((), jnp.int32)]


# ---------------------------------------------------------------------------------- lowering


def solve_by_pseudoinverse(
    a: Array, b: Array, *, rcond: float | None, pivoting: bool
) -> list[Array]:
    """Solve by operations whose derivatives are known: these are what is differentiated."""
    wide = exceeds(a.shape[-1], a.shape[-2])
    deep = H(a) if wide else a
    inverse = factor_pseudoinverse(deep, rcond=rcond, pivoting=pivoting)
    x = inverse.solve_adjoint(b) if wide else inverse.solve(b)
    rest = b - mm(a, x)
    return [x, sum_squares(rest), inverse.rank]


def _solve_on_cuda(a: Array, b: Array, *, rcond: float | None, pivoting: bool) -> list[Array]:
    found = solve_by_triangle(a, b, rcond=rcond, pivoting=pivoting) if cuda.available() else None
    return solve_by_pseudoinverse(a, b, rcond=rcond, pivoting=pivoting) if found is None else found


def sum_squares(x: Array) -> Array:
    """Compute the squared norm of every column."""
    squares = x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x**2
    return jnp.sum(squares, axis=-2)


# --------------------------------------------------------------------------------------- JVP


def _jvp(primals: Sequence[Array], tangents: Sequence[Any], **params: Any) -> Any:
    live = [i for i, tangent in enumerate(tangents) if not is_zero(tangent)]

    def at(*moving: Array) -> tuple[tuple[Array, Array], Array]:
        replaced = dict(zip(live, moving, strict=True))
        x, residuals, rank = solve_by_pseudoinverse(
            *(replaced.get(i, z) for i, z in enumerate(primals)), **params
        )
        return (x, residuals), rank

    points, directions = [primals[i] for i in live], [tangents[i] for i in live]
    out, d_out, rank = jax.jvp(at, points, directions, has_aux=True)
    return [*out, rank], [*d_out, zero_tangent(rank)]


# ------------------------------------------------------------------------------ registration


lstsq_p = make_primitive(
    "lstsq",
    core_ranks=(2, 2),
    results=_results,
    body=solve_by_pseudoinverse,
    jvp=_jvp,
    columnwise=(True, True, False),  # the rank does not depend on b
    kernels={"cpu": kernels.compute},
    platforms={"cuda": _solve_on_cuda},
    exported={"cuda": solve_by_pseudoinverse},
)
