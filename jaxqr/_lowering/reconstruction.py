"""Householder vectors of a Q that was found otherwise, and the signs that LAPACK gives it.

Q S - I = L U, where S is the diagonal of signs that LAPACK's R has more, holds V_1 = L and
U = -T V_1^H, as Q S = I - V T V^H. The signs are found with the factors: each is such that its
pivot has an absolute value of 1 or more, so nothing is exchanged.

Source: Ballard, Demmel, Grigori, Jacquelin, Nguyen and Solomonik, Reconstructing Householder
vectors from tall-skinny QR, 2014.
"""

import jax.numpy as jnp
from jax import Array, lax

from jaxqr._core.abstract import REAL, CoreResult
from jaxqr._core.algebra import identity_like, slo, triu, where
from jaxqr._core.partition import Shape
from jaxqr._core.primitive import make_primitive
from jaxqr._lowering import cuda
from jaxqr._lowering.by_columns import places, put, repeat, take_entry
from jaxqr._lowering.triangular import solve_right, solve_triangular


def find_lapack_signs(top: Array, beta: Array) -> tuple[Array, Array]:
    """Find the signs by which LAPACK's Q and R differ from those of another factorization.

    Args:
        top: (..., n, n), the leading rows of Q.
        beta: (..., n) real, the diagonal of R; zero where there was nothing to eliminate. As long
            as that is so from the first column on, LAPACK has no reflectors (tau = 0), and
            columns of Q are those of the identity.

    Returns:
        The signs (..., n), real, and L and U (..., n, n) of Q S - I, packed; the diagonal of U is
        -tau.
    """
    signs, lu = signs_p.bind(top, beta)
    return signs, lu


def reconstruct(q: Array, lu: Array) -> tuple[Array, Array]:
    """Find V (..., m, n) and T (..., n, n) of Q = I - V T V^H from LAPACK's Q and from L and U."""
    n = lu.shape[-1]
    top, u = slo(lu) + identity_like(lu), triu(lu)
    t = -solve_triangular(top, u, left=False, lower=True, adjoint=True, unit=True)
    # Where there is no reflector, tau = 0, any vector with a one will do.
    safe = u + where(u == 0, jnp.broadcast_to(identity_like(u), u.shape))
    below = solve_right(q[..., n:, :], safe)
    return jnp.concatenate([top, below], axis=-2), t


def _results(top: Shape, beta: Shape) -> list[CoreResult]:
    return [(beta, REAL), (top, None)]


def _find(top: Array, beta: Array) -> list[Array]:
    row, column = places(top, -2), places(top, -1)

    def step(j: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        signs, x, trivial = state
        left = take_entry(x, j, -1)
        pivot, beta_j = take_entry(left, j, -2), take_entry(beta, j, -1)[..., None]
        trivial &= beta_j == 0
        # LAPACK's R has the sign that its column's first entry, pivot * beta, has not.
        real = pivot.real
        negative = (where(real == 0, beta_j, real) > 0) & ~trivial
        one = lax.full_like(real, 1)
        sign = where(negative, -one, one)
        signed = sign.astype(x.dtype)
        u = where(~trivial, pivot * signed - 1)
        below = where((row > j) & ~trivial, left * signed / where(trivial, pivot, u))
        packed = where(row > j, below, where(row != j, left * signed, u))
        x = where(column != j, x - below * where(column > j, take_entry(x, j, -2)), packed)
        return put(signs, sign[..., 0], j, -1), x, trivial

    start = jnp.zeros_like(beta), top, jnp.ones_like(beta[..., :1, None], bool)
    signs, lu, _ = repeat(top.shape[-1], step, start)
    return [signs, lu]


signs_p = make_primitive(
    "signs",
    core_ranks=(2, 1),
    results=_results,
    body=_find,
    kernels={"cuda": cuda.compute},
)
