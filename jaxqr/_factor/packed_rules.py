"""The derivative rules of packed reflectors and of complete Q, from those of thin Q and R.

They are plain functions of arrays. Equation numbers are those of ``notebooks/derivations.md``.
"""

import jax.numpy as jnp
from jax import Array

from jaxqr._core.algebra import (
    H,
    dg,
    exceeds,
    extend,
    identity_like,
    mm,
    put_beside,
    row_minus_column,
    slo,
    triu,
    where,
)
from jaxqr._lowering.compact_wy import unpack_reflectors
from jaxqr._lowering.triangular import solve_right, solve_triangular


def completion_jvp(q: Array, h: Array, dq: Array) -> Array:
    """Find the tangent of the columns that complete mode adds from that of the others (4.4).

    Args:
        q: (..., m, n) leading columns.
        h: (..., m, n) packed reflectors.
        dq: (..., m, n) tangent of `q`.

    Returns:
        The tangent (..., m, m - n). It is finite and tangent to the orthonormal matrices even
        where some tau = 0; there LAPACK's completion itself jumps (section 4).
    """
    n = q.shape[-1]
    v = unpack_reflectors(h, n)
    z = solve_triangular(v[..., :n, :], v[..., n:, :], left=False, lower=True, unit=True)
    y = q + mm(q - identity_like(q), mm(H(z), z))
    m = q.shape[-2]
    y = put_beside(y[..., :n, :].mT, (y[..., n:, :] + z).mT, m).mT
    # This is [-Z I] dQ as one product: the transposes of slices ask for a dtype or a size that is
    # perhaps not known there.
    minus_z = -extend(z, m, -1)
    f = mm(minus_z + (row_minus_column(minus_z) == -n).astype(z.dtype), dq)
    # One product of stacked blocks would hide from JAX that this is linear in dQ (12.3).
    return mm(dq, H(z)) - mm(y, H(f))


def raw_jvp(q: Array, h: Array, tau: Array, dq: Array, dr: Array) -> tuple[Array, Array]:
    """Find the tangents of packed reflectors (5.1) and tau (5.2) from those of Q and R.

    A reflector with tau = 0 is the identity and stays it: its tangent is zero.
    """
    k = tau.shape[-1]
    v = unpack_reflectors(h, k)
    v1, v2 = v[..., :k, :], v[..., k:, :]
    live = (tau != 0)[..., None, :]

    def solve_v1(x: Array) -> Array:
        return solve_triangular(v1, x, left=True, lower=True, unit=True)

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
