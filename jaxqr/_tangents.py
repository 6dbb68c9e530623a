"""The derivative rules, as plain functions of arrays: no primitives.

Equation numbers are those of ``notebooks/derivations.md``, where each rule is derived. The
inner product is <X, Y> = Re tr(X^H Y) throughout, dg(R) is real, and the rules hold on the
manifold Q^H Q = I, R upper triangular, which every factorization here is on.

A column of R whose diagonal entry is rounding noise has no derivative. The rules leave such
columns out (section 8), so they are finite for every finite matrix; for full rank nothing is
left out and they are the textbook's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxqr._algebra import (
    H,
    beside,
    dg,
    exceeds,
    extended,
    identity_like,
    imaginary_dg,
    middle_scale,
    mm,
    real_diagonal,
    row_minus_column,
    slo,
    times,
    triu,
    where,
)
from jaxqr._reflectors import reflectors
from jaxqr._solve import solve


def solve_right(x: Array, r: Array) -> Array:
    """X R^{-1} for upper triangular R."""
    return solve(r, x, left=False, lower=False)


def solve_right_adjoint(x: Array, r: Array) -> Array:
    """X R^{-H} for upper triangular R."""
    return solve(r, x, left=False, lower=False, adjoint=True)


def skw(e: Array) -> Array:
    """(0.1): the skew-Hermitian part whose complement is upper triangular with real diagonal."""
    below = slo(e)
    skew = below - H(below)
    return skew + imaginary_dg(e) if jnp.iscomplexobj(e) else skew


def skw_adjoint(x: Array) -> Array:
    """(0.2): the adjoint of `skw`."""
    skew = slo(x - H(x))
    return skew + imaginary_dg(x) if jnp.iscomplexobj(x) else skew


def cpl(m: Array) -> Array:
    """(0.2): the Hermitian matrix with the lower triangle of `m` and a real diagonal."""
    offset = row_minus_column(m)
    if jnp.iscomplexobj(m):
        return where(offset > 0, m, where(offset < 0, H(m), m.real.astype(m.dtype)))
    return where(offset >= 0, m, m.mT)


def tolerance(dtype: Any) -> float:
    """What rounding may leave of a dependent column, relative to the sum of its magnitudes in R.

    It depends neither on the rows nor on the columns: section 8 of ``notebooks/derivations.md`` has
    the reason and the measurements. ``native/independent.h`` has it for the kernels.
    """
    return 64 * float(jnp.finfo(dtype).eps)


def independent(r: Array, *, pivoted: bool) -> Array:
    """(8.3): which of the leading columns count, each judged against its own size.

    Args:
        r: (..., k, n) triangle.
        pivoted: whether the columns that count are the leading run only.

    Returns:
        A boolean array (..., 1, k). Columns that are not a number count, so that they come through.
    """
    size = jnp.abs(lax.stop_gradient(r[..., :, : r.shape[-2]]))
    # |R_jj| > tolerance sum_i |R_ij| in one reduction, by a weight for the diagonal. The other
    # weights keep their sum from overflow; it is well if the diagonal overflows.
    other = 2.0**-16
    weight = other - (other / tolerance(r.dtype)) * identity_like(size)
    counts = ~(jnp.sum(weight * size, axis=-2, keepdims=True) >= 0)
    if pivoted:
        counts = lax.cumprod(counts.astype(jnp.int32), axis=counts.ndim - 1) > 0
    return counts


def restrict(r: Array, counts: Array) -> Array:
    """R_m of (8.5): identity rows where a column does not count."""
    leading = r[..., :, : r.shape[-2]]
    return where(counts.mT, leading, identity_like(leading))


# Of a matrix product of blocks of rows, the sum over all blocks.
Total = Callable[[Array], Array]


def _whole(product: Array) -> Array:
    """The sum over the blocks of a matrix that is one block."""
    return product


def thin_jvp(
    q: Array,
    r: Array,
    da: Array,
    *,
    outputs: tuple[str, ...],
    pivoted: bool,
    total: Total | None = None,
    rows: int | None = None,
) -> list[Array]:
    """Tangents of those of Q and R that `outputs` names: (8.5), or (8.7) for wide matrices.

    With full rank these are (1.1) and (2.1). `da` has its columns permuted if `pivoted`. The
    rules are homogeneous (8.8): they run on R and dA multiplied by a power of two.

    `q` and `da` may be blocks of the rows of deep matrices with `rows` rows (11.2); `total` then
    sums over the blocks.
    """
    m, n = rows or da.shape[-2], da.shape[-1]
    scale = middle_scale(r)
    r = times(r, scale)
    counts = independent(r, pivoted=pivoted)
    triangle = restrict(r, counts)
    rule = _wide_jvp if exceeds(n, m) else partial(_deep_jvp, total=total or _whole)
    tangents = rule(q, r, times(da, scale), counts, triangle, outputs)

    def finish(name: str) -> Array:
        tangent = tangents[name]()
        if name == "q":
            return tangent
        tangent = triu(real_diagonal(times(tangent, 1 / scale)))
        return where(counts.mT, tangent) if pivoted else tangent

    return [finish(name) for name in outputs]


def _deep_jvp(
    q: Array,
    r: Array,
    da: Array,
    counts: Array,
    triangle: Array,
    outputs: tuple[str, ...],
    *,
    total: Total,
) -> dict[str, Callable[[], Array]]:
    if "q" in outputs:
        b = solve_right(da, triangle)
        e = total(mm(H(q), b))
    else:  # a solve with n rows instead of m
        b = e = solve_right(total(mm(H(q), da)), triangle)
    counted = where(counts, e)
    psi = counted - skw(counted)
    return {
        "q": lambda: where(counts, b) - mm(q, psi),
        "r": lambda: mm(psi, r) + where(~counts, e),
    }


def _wide_jvp(
    q: Array,
    r: Array,
    da: Array,
    counts: Array,
    triangle: Array,
    outputs: tuple[str, ...],
) -> dict[str, Callable[[], Array]]:
    c = mm(H(q), da)
    e = solve_right(c[..., : q.shape[-2]], triangle)
    omega = skw(where(counts, e))
    return {"q": lambda: mm(q, omega), "r": lambda: c - mm(omega, r)}


def thin_vjp(
    q: Array,
    r: Array,
    qbar: Array | None,
    rbar: Array | None,
    *,
    pivoted: bool,
) -> Array:
    """Cotangent of A from those of Q and R; None is zero: (8.6), and (8.7) for wide matrices.

    With full rank these are (1.3), the paper's equation (3), and (2.2). The columns of the
    result are permuted if `pivoted`. By (8.8) a power of two may multiply R and Qbar, or in a
    product of two what costs no pass of its own over memory.
    """
    m, n = q.shape[-2], r.shape[-1]
    scale = middle_scale(r)
    r = times(r, scale)
    counts = independent(r, pivoted=pivoted)
    triangle = restrict(r, counts)
    if rbar is not None:
        rbar = triu(real_diagonal(rbar))
        rbar = where(counts.mT, rbar) if pivoted else rbar
    rule = _wide_vjp if exceeds(n, m) else _deep_vjp
    return rule(q, r, scale, qbar, rbar, counts, triangle)


def _deep_vjp(
    q: Array,
    r: Array,
    scale: Array,
    qbar: Array | None,
    rbar: Array | None,
    counts: Array,
    triangle: Array,
) -> Array:
    big_m = _sum(
        None if rbar is None else mm(r, H(rbar)),
        None if qbar is None else -times(mm(H(qbar), q), scale),
    )
    ebar = where(counts, cpl(big_m), rbar)
    if qbar is None:  # a solve with n rows instead of m
        return mm(q, solve_right_adjoint(ebar, triangle))
    bbar = times(where(counts, qbar), scale) + mm(q, ebar)
    return solve_right_adjoint(bbar, triangle)


def _wide_vjp(
    q: Array,
    r: Array,
    scale: Array,
    qbar: Array | None,
    rbar: Array | None,
    counts: Array,
    triangle: Array,
) -> Array:
    m, n = r.shape[-2:]
    x = _sum(
        None if qbar is None else times(mm(H(q), qbar), scale),
        None if rbar is None else -mm(rbar, H(r)),
    )
    y = solve_right_adjoint(where(counts, skw_adjoint(x)), triangle)
    y = jnp.concatenate([y, jnp.zeros_like(r[..., m:])], axis=-1) if exceeds(n, m) else y
    return mm(q, y if rbar is None else rbar + y)


def _sum(*terms: Array | None) -> Array:
    """The sum of the terms that are there, at least one."""
    first, *rest = (term for term in terms if term is not None)
    return sum(rest, start=first)


def completion_jvp(q: Array, h: Array, dq: Array) -> Array:
    """(4.4): tangent of the columns that LAPACK adds in complete mode, from that of the others.

    Args:
        q: (..., m, n) leading columns.
        h: (..., m, n) packed reflectors.
        dq: (..., m, n) tangent of `q`.

    Returns:
        The tangent (..., m, m - n). It is finite and tangent to the orthonormal matrices even
        where some tau = 0; there LAPACK's completion itself jumps (section 4).
    """
    n = q.shape[-1]
    v = reflectors(h, n)
    z = solve(v[..., :n, :], v[..., n:, :], left=False, lower=True, unit=True)
    y = q + mm(q - identity_like(q), mm(H(z), z))
    m = q.shape[-2]
    y = beside(y[..., :n, :].mT, (y[..., n:, :] + z).mT, m).mT
    # [-Z I] dQ: of slices the transposes ask for a dtype or a size that perhaps is not known there
    minus_z = -extended(z, m, -1)
    f = mm(minus_z + (row_minus_column(minus_z) == -n).astype(z.dtype), dq)
    # not as one product of stacked blocks: JAX could not see that it is linear (12.3)
    return mm(dq, H(z)) - mm(y, H(f))


def raw_jvp(q: Array, h: Array, tau: Array, dq: Array, dr: Array) -> tuple[Array, Array]:
    """(5.1), (5.2): tangents of the packed reflectors and of tau from those of Q and R.

    A reflector with tau = 0 is the identity and stays it: its tangent is zero.
    """
    k = tau.shape[-1]
    v = reflectors(h, k)
    v1, v2 = v[..., :k, :], v[..., k:, :]
    live = (tau != 0)[..., None, :]

    def solve_v1(x: Array) -> Array:
        return solve(v1, x, left=True, lower=True, unit=True)

    s = triu(solve_v1(identity_like(v1) - q[..., :k, :]))  # (4.1): E1 - Q1 = V S, dg(S) = tau
    s_safe = where(live, s, identity_like(s))
    top, below = jnp.split(dq, [k], axis=-2)
    minus_n = solve_v1(top)
    lower = slo(where(live, solve_right(-minus_n, s_safe)))
    dv1 = mm(v1, lower)
    ds = triu(-minus_n - mm(lower, s))
    dv2 = where(live, solve_right(-below - mm(v2, ds), s_safe))
    dtau = where(live[..., 0, :], jnp.sum(dg(ds), axis=-1))
    dv = slo(jnp.concatenate([dv1, dv2], axis=-2))
    m, n = h.shape[-2:]
    if exceeds(n, k):
        dv = jnp.concatenate([dv, jnp.zeros_like(h[..., :, k:])], axis=-1)
    if exceeds(m, k):
        dr = jnp.concatenate([dr, jnp.zeros_like(h[..., k:, :])], axis=-2)
    return dv + dr, dtau
