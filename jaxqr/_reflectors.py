"""Products of packed Householder reflectors in the compact form Q = I - V T V^H.

They are the portable lowering of forming and applying Q, and what is differentiated for the
derivative with respect to the reflectors.
"""

from jax import Array

from jaxqr._algebra import H, identity_like, mm, slo
from jaxqr._solve import solve


def reflectors(h: Array, k: int) -> Array:
    """The k Householder vectors packed in `h`, as columns: V, unit lower trapezoidal."""
    v = h[..., :, :k]
    return slo(v) + identity_like(v)


def apply_reflectors(h: Array, tau: Array, c: Array, *, left: bool, adjoint: bool) -> Array:
    """Multiply `c` by Q = I - V T V^H or its adjoint, from the left or the right."""
    v = reflectors(h, tau.shape[-1])
    t = _compact_factor(v, tau)
    t = H(t) if adjoint else t
    return c - (mm(v, mm(t, mm(H(v), c))) if left else mm(mm(mm(c, v), t), H(v)))


def form_reflectors(h: Array, tau: Array) -> Array:
    """The leading columns of Q = I - V T V^H, as many as `h` has."""
    v = reflectors(h, tau.shape[-1])
    top = v[..., : h.shape[-1], :]
    return identity_like(h) - mm(v, mm(_compact_factor(v, tau), H(top)))


def _compact_factor(v: Array, tau: Array) -> Array:
    """(4.2): T = (I + D sup(V^H V))^{-1} D with D = diag(tau)."""
    d = tau[..., :, None]
    # its diagonal of ones and its zeros are the solver's
    inverse = d * mm(H(v), v)
    return solve(inverse, d * (identity_like(inverse)), left=True, lower=False, unit=True)
