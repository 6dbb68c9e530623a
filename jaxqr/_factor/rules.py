"""The derivative rules of thin QR, as plain functions of arrays: no primitives of QR.

Equation numbers are those of ``notebooks/derivations.md``, where each rule is derived. The
inner product is <X, Y> = Re tr(X^H Y) throughout, dg(R) is real, and the rules hold on the
manifold Q^H Q = I, R upper triangular, which every factorization here is on.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jax import Array

from jaxqr._core.algebra import H, exceeds, imaginary_dg, mm, row_minus_column, slo, where
from jaxqr._core.scaling import multiply_linearly
from jaxqr._factor.independence import Point, find_point
from jaxqr._lowering.triangular import solve_right, solve_right_adjoint


def skw(e: Array) -> Array:
    """Take the skew-Hermitian part that leaves an upper triangle with a real diagonal (0.1)."""
    below = slo(e)
    skew = below - H(below)
    return skew + imaginary_dg(e) if jnp.iscomplexobj(e) else skew


def skw_adjoint(x: Array) -> Array:
    """Apply the adjoint of `skw` (0.2)."""
    skew = slo(x - H(x))
    return skew + imaginary_dg(x) if jnp.iscomplexobj(x) else skew


def cpl(m: Array) -> Array:
    """Make the Hermitian matrix that has the lower triangle of `m` and a real diagonal (0.2)."""
    offset = row_minus_column(m)
    if jnp.iscomplexobj(m):
        return where(offset > 0, m, where(offset < 0, H(m), m.real.astype(m.dtype)))
    return where(offset >= 0, m, m.mT)


# Sums a product of blocks of rows over all blocks.
Total = Callable[[Array], Array]


def _return_whole(product: Array) -> Array:
    """Sum over the blocks of a matrix that is all in one block."""
    return product


def thin_jvp(
    q: Array,
    r: Array,
    da: Array,
    *,
    outputs: tuple[str, ...],
    pivoted: bool,
    total: Total = _return_whole,
    rows: int | None = None,
) -> list[Array]:
    """Find the tangents of Q and R: (8.5) for deep and (8.7) for wide matrices of any rank.

    With full rank they are the well-known (1.1) and (2.1).

    Args:
        q: (..., m, k), or a block of the rows of a deep matrix with `rows` rows (11.2).
        r: (..., k, n).
        da: (..., m, n) like `q`, its columns permuted if `pivoted`.
        outputs: whose tangents are wanted: "q", "r" or both.
        pivoted: whether the columns that count are the leading run only.
        total: the sum over the blocks.
        rows: of all blocks together; by default those of `da`.
    """
    m, n = rows or da.shape[-2], da.shape[-1]
    point = find_point(r, pivoted=pivoted)
    rule = _wide_jvp if exceeds(n, m) else partial(_deep_jvp, total=total)
    tangents = rule(q, point, multiply_linearly(da, point.scale), outputs)
    if "r" in tangents:
        tangents["r"] = point.finish_tangent(tangents["r"])
    return [tangents[name] for name in outputs]


def _deep_jvp(
    q: Array, point: Point, da: Array, outputs: tuple[str, ...], *, total: Total
) -> dict[str, Array]:
    _, r, counts, triangle, _ = point
    if "q" in outputs:
        b = solve_right(da, triangle)
        e = total(mm(H(q), b))
    else:  # a solve with n rows instead of m
        b = e = solve_right(total(mm(H(q), da)), triangle)
    counted = where(counts, e)
    psi = counted - skw(counted)
    tangents = {}
    if "q" in outputs:
        tangents["q"] = where(counts, b) - mm(q, psi)
    if "r" in outputs:
        tangents["r"] = mm(psi, r) + where(~counts, e)
    return tangents


def _wide_jvp(q: Array, point: Point, da: Array, outputs: tuple[str, ...]) -> dict[str, Array]:
    c = mm(H(q), da)
    _, omega = find_rotation(c, point)
    tangents = {}
    if "q" in outputs:
        tangents["q"] = mm(q, omega)
    if "r" in outputs:
        tangents["r"] = c - mm(omega, point.r)
    return tangents


def find_rotation(c: Array, point: Point) -> tuple[Array, Array]:
    """Find E and Omega = skw(E) from C = Q^H dA.

    E is C_1 R_m^{-1} in the columns that count and zero in the others, where C_1 is the leading
    square of C; Omega is then the part of Q^H dQ that rotates the columns which count (8.5).
    """
    e = solve_right(c[..., : point.triangle.shape[-1]], point.triangle)
    counted = where(point.counts, e)
    return counted, skw(counted)


def thin_vjp(
    q: Array,
    r: Array,
    qbar: Array | None,
    rbar: Array | None,
    *,
    pivoted: bool,
) -> Array:
    """Find the cotangent of A from those of Q and R, None being zero.

    The rule is (8.6) for deep and (8.7) for wide matrices of any rank.

    With full rank these are the paper's equation (3), here (1.3), and (2.2). The columns of the
    result are permuted if `pivoted`. A power of two may multiply R and Qbar (8.8), or in a
    product of two what costs no pass of its own over memory.
    """
    m, n = q.shape[-2], r.shape[-1]
    point = find_point(r, pivoted=pivoted)
    rbar = None if rbar is None else point.prepare_cotangent(rbar)
    rule = _wide_vjp if exceeds(n, m) else _deep_vjp
    return rule(q, point, qbar, rbar)


def _deep_vjp(q: Array, point: Point, qbar: Array | None, rbar: Array | None) -> Array:
    scale, r, counts, triangle, _ = point
    big_m = _add(
        None if rbar is None else mm(r, H(rbar)),
        None if qbar is None else -multiply_linearly(mm(H(qbar), q), scale),
    )
    ebar = where(counts, cpl(big_m), rbar)
    if qbar is None:  # a solve with n rows instead of m
        return mm(q, solve_right_adjoint(ebar, triangle))
    bbar = multiply_linearly(where(counts, qbar), scale) + mm(q, ebar)
    return solve_right_adjoint(bbar, triangle)


def _wide_vjp(q: Array, point: Point, qbar: Array | None, rbar: Array | None) -> Array:
    scale, r, counts, triangle, _ = point
    m, n = r.shape[-2:]
    x = _add(
        None if qbar is None else multiply_linearly(mm(H(q), qbar), scale),
        None if rbar is None else -mm(rbar, H(r)),
    )
    y = solve_right_adjoint(where(counts, skw_adjoint(x)), triangle)
    y = jnp.concatenate([y, jnp.zeros_like(r[..., m:])], axis=-1) if exceeds(n, m) else y
    return mm(q, y if rbar is None else rbar + y)


def _add(*terms: Array | None) -> Array:
    """Add those of the terms that are not None, of which there is at least one."""
    first, *rest = (term for term in terms if term is not None)
    return sum(rest, start=first)
