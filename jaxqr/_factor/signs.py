"""The sign convention that makes a factorization unique: diag(R) is not negative."""

import jax.numpy as jnp
from jax import Array

from jaxqr._core.algebra import diagonal


def find_signs(r: Array) -> Array:
    """Find the signs (..., k) of the diagonal of R, 1 for zero. They are locally constant (0.3)."""
    return jnp.where(diagonal(r).real < 0, -1, 1).astype(r.dtype)


def make_diagonal_positive(q: Array | None, r: Array) -> tuple[Array | None, Array]:
    """Change the signs of columns of Q and rows of R; columns of Q that have no row stay."""
    signs = find_signs(r)
    if q is not None:
        k = r.shape[-2]
        changed = q[..., :, :k] * signs[..., None, :]
        q = changed if q.shape[-1] == k else jnp.concatenate([changed, q[..., k:]], axis=-1)
    return q, r * signs[..., :, None]
