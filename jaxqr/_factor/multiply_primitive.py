"""Products with the Q of a matrix as a primitive: Q is applied and never formed.

Its operands are the matrix A, constants that compute the products (the packed reflectors h and tau
of A, and R) and U. Its results, by name: "y", which is Q^H U or Q U, and "r". The derivative is
that of A's Q and R, not of the reflectors, so the constants have none.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxqr._core.abstract import CoreResult
from jaxqr._core.algebra import H, exceeds, extend, mm, where
from jaxqr._core.partition import Shape
from jaxqr._core.primitive import is_zero, make_primitive
from jaxqr._core.scaling import multiply_linearly
from jaxqr._core.undocumented import zero_tangent
from jaxqr._factor.independence import Point, find_point
from jaxqr._factor.packed import ormqr_p
from jaxqr._factor.permutation import permute_columns
from jaxqr._factor.qr_primitive import factor
from jaxqr._factor.rules import find_rotation
from jaxqr._lowering.triangular import solve_triangular


class QOperator(NamedTuple):
    """The reduced Q of the matrix `a` as an operator."""

    a: Array  # (..., m, n), its columns permuted if pivoted
    constants: Sequence[Array]  # h (..., m, k), tau (..., k) and R (..., k, n)
    pivoted: bool

    @property
    def core_ranks(self) -> tuple[int, ...]:
        """How many dimensions of `a` and of each constant are not batch dimensions."""
        return 2, 2, 1, 2

    def apply(self, u: Array, *, adjoint: bool) -> Array:
        """Compute Q u or Q^H u."""
        return self.bind(u, outputs=("y",), adjoint=adjoint)[0]

    def bind(self, u: Array, *, outputs: tuple[str, ...], adjoint: bool) -> list[Array]:
        """Compute outputs of the primitive: "y", the product, and "r"."""
        params = {"outputs": outputs, "adjoint": adjoint, "pivoted": self.pivoted}
        return multiply_p.bind(self.a, *self.constants, u, **params)


def make_operator(a: Array, pivoting: str) -> tuple[QOperator, Array | None]:
    """Factor `a`, and give its Q as an operator and the permutation, if there is one."""
    fixed = lax.stop_gradient(a)
    if pivoting == "none":
        h, tau, r = factor(fixed, "h", "tau", "r")
        return QOperator(a, (h[..., : tau.shape[-1]], tau, r), False), None
    h, tau, r, p = factor(fixed, "h", "tau", "r", "p", pivoting=pivoting)
    return QOperator(permute_columns(a, p), (h[..., : tau.shape[-1]], tau, r), True), p


# ------------------------------------------------------------------- shape rule and lowering


def _results(
    a: Shape, *operands: Shape, outputs: tuple[str, ...], adjoint: bool, pivoted: bool
) -> list[CoreResult]:
    *_, r, u = operands
    shapes = {"y": (r[0] if adjoint else a[0], u[1]), "r": r}
    return [(shapes[name], None) for name in outputs]


def _multiply(
    a: Array, *operands: Array, outputs: tuple[str, ...], adjoint: bool, pivoted: bool
) -> list[Array]:
    h, tau, r, u = operands
    return [r if name == "r" else _apply(h, tau, u, adjoint) for name in outputs]


def _apply(h: Array, tau: Array, u: Array, adjoint: bool) -> Array:
    """Compute Q^H u or Q u for the reduced Q."""
    m, k = h.shape[-2:]
    if 0 in (m, k, u.shape[-1]):
        return jnp.zeros((*u.shape[:-2], k if adjoint else m, u.shape[-1]), u.dtype)
    if not adjoint and exceeds(m, k):
        u = extend(u, m, -2)
    return ormqr_p.bind(h, tau, u, left=True, adjoint=adjoint)[0][..., : k if adjoint else m, :]


# -------------------------------------------------------------------------------- derivatives


def _jvp(
    primals: Sequence[Array],
    tangents: Sequence[Any],
    *,
    outputs: tuple[str, ...],
    adjoint: bool,
    pivoted: bool,
) -> Any:
    (a, *constants, u), (da, *_, du) = primals, tangents
    q = QOperator(a, constants, pivoted)
    moving = not is_zero(da) and 0 not in a.shape
    # R is an output too, as the rules must see that it depends on A when they are differentiated
    # again (12.2).
    asked = (*outputs, "r") if moving and "r" not in outputs else outputs
    found = q.bind(u, outputs=asked, adjoint=adjoint)
    values = dict(zip(asked, found, strict=True))
    known: dict[str, Any] = {}
    if moving:
        known = _find_tangents(q, values, u, du, da, outputs, adjoint)
    elif "y" in outputs and not is_zero(du):
        known = {"y": q.apply(du, adjoint=adjoint)}
    return found[: len(outputs)], [known.get(x, zero_tangent(values[x])) for x in outputs]


def _find_tangents(
    q: QOperator,
    values: dict[str, Array],
    u: Array,
    du: Any,
    da: Array,
    outputs: tuple[str, ...],
    adjoint: bool,
) -> dict[str, Array]:
    """Find the tangents of the product and of R by the rules (8.5) and (8.7), dQ being applied."""
    point = find_point(values["r"], pivoted=q.pivoted)
    k = point.triangle.shape[-1]
    da = multiply_linearly(da, point.scale)
    c = q.apply(da if "r" in outputs else da[..., :k], adjoint=True)
    e, omega = find_rotation(c, point)
    tangents = {}
    if "r" in outputs:
        tangents["r"] = point.finish_tangent(c - mm(omega, point.r))
    if "y" in outputs and adjoint:
        tangents["y"] = _product_with_adjoint_tangent(q, point, values["y"], u, du, da, e, omega)
    elif "y" in outputs:
        tangents["y"] = _product_tangent(q, point, u, du, da, e, omega)
    return tangents


def _product_tangent(
    q: QOperator, point: Point, u: Array, du: Any, da: Array, e: Array, omega: Array
) -> Array:
    """Give the tangent of Q U (10.9)."""
    deep = exceeds(*da.shape[-2:])
    inner = mm(omega - e if deep else omega, u)
    dy = q.apply(inner if is_zero(du) else du + inner, adjoint=False)
    if not deep:
        return dy
    counted = where(point.counts.mT, u)
    return dy + mm(da, solve_triangular(point.triangle, counted, left=True, lower=False))


def _product_with_adjoint_tangent(
    q: QOperator,
    point: Point,
    y: Array,
    u: Array,
    du: Any,
    da: Array,
    e: Array,
    omega: Array,
) -> Array:
    """Give the tangent of Y = Q^H U (10.11)."""
    dy = -mm(omega, y)
    if exceeds(*da.shape[-2:]):
        ha_u = H(mm(H(u), da))
        turned = solve_triangular(point.triangle, ha_u, left=True, lower=False, adjoint=True)
        dy = where(point.counts.mT, turned) - mm(H(e - omega), y)
    return dy if is_zero(du) else dy + q.apply(du, adjoint=True)


def _transpose(
    cotangents: Sequence[Any],
    fixed: Sequence[Array],
    wanted: Sequence[bool],
    *,
    outputs: tuple[str, ...],
    adjoint: bool,
    pivoted: bool,
) -> list[Array]:
    """Transpose the product, which is linear in U; R is no function of U."""
    del wanted  # the cotangent of U, which is the only one
    a, *constants = fixed
    ct = dict(zip(outputs, cotangents, strict=True))["y"]
    # JAX pairs cotangents without conjugation (0.5).
    return [QOperator(a, constants, pivoted).apply(ct.conj(), adjoint=not adjoint).conj()]


# ------------------------------------------------------------------------------ registration


def _has_columns(*, outputs: tuple[str, ...], **params: Any) -> list[bool]:
    """Say which results have a column for each column of U."""
    return [name == "y" for name in outputs]


multiply_p = make_primitive(
    "multiply",
    core_ranks=(2, 2, 1, 2, 2),
    results=_results,
    body=_multiply,
    linear_from=-1,
    jvp=_jvp,
    transpose=_transpose,
    map_body=False,
    columnwise=_has_columns,
    named_outputs=True,
)
