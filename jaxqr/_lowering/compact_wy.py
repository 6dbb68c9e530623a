"""Products of packed Householder reflectors in the compact form Q = I - V T V^H.

They are the portable lowering of forming and applying Q, and what is differentiated for the
derivative with respect to the reflectors.
"""

import jax.numpy as jnp
from jax import Array, lax

from jaxqr._core.algebra import H, identity_like, mm, slo, where
from jaxqr._core.triangular import solve_triangular


def unpack_reflectors(h: Array, k: int) -> Array:
    """Take the k Householder vectors packed in `h` as the columns of V, unit lower trapezoidal."""
    v = h[..., :, :k]
    return slo(v) + identity_like(v)


def apply_reflectors(h: Array, tau: Array, c: Array, *, left: bool, adjoint: bool) -> Array:
    """Multiply `c` by Q = I - V T V^H or its adjoint, from the left or the right."""
    v = unpack_reflectors(h, tau.shape[-1])
    t = _form_t(v, tau)
    t = H(t) if adjoint else t
    return c - (mm(v, mm(t, mm(H(v), c))) if left else mm(mm(mm(c, v), t), H(v)))


def form_reflectors(h: Array, tau: Array) -> Array:
    """Form the leading columns of Q = I - V T V^H, as many as `h` has."""
    v = unpack_reflectors(h, tau.shape[-1])
    top = v[..., : h.shape[-1], :]
    return identity_like(h) - mm(v, mm(_form_t(v, tau), H(top)))


def apply_block(
    at: Array, v: Array, tau: Array, first: Array | int, order: Array | None = None
) -> Array:
    """Multiply columns of A by Q^H, from column `first` on: A - V T^H V^H A.

    All are held by columns, as LAPACK does: A^T (..., n, m) is given and returned, and the
    reflectors are the rows of `v` (..., k, m), with zeros before their ones. If an `order`
    (..., n) is given, the columns are brought into it beforehand, in one pass with the update.
    """
    column = lax.broadcasted_iota(jnp.int32, (1,) * (at.ndim - 2) + (at.shape[-2], 1), at.ndim - 2)
    t = _form_t(v.mT, tau)
    products = mm(mm(at, H(v)), t.conj())
    if order is not None:
        at, products = take_rows(at, order), take_rows(products, order)
    return at - mm(where(column >= first, products), v)


def take_rows(x: Array, index: Array) -> Array:
    """Take rows of matrices, which are columns of what is held by columns."""
    return jnp.take_along_axis(x, index[..., None], axis=-2, mode="promise_in_bounds")


def _form_t(v: Array, tau: Array) -> Array:
    """Form T of the compact form: T = (I + D sup(V^H V))^{-1} D with D = diag(tau) (4.2)."""
    d = tau[..., :, None]
    # The solver takes the diagonal as ones and what is below as zeros.
    inverse = d * mm(H(v), v)
    return solve_triangular(inverse, d * identity_like(inverse), left=True, lower=False, unit=True)
