"""Packed Householder reflectors: form Q, apply Q."""

import jax.numpy as jnp
from jax import Array
from jax.core import min_dim
from jax.typing import ArrayLike

from jaxqr._core import arguments
from jaxqr._core.algebra import exceeds, identity_like
from jaxqr._core.partition import broadcast_batch
from jaxqr._core.settings import calling
from jaxqr._factor.packed import orgqr_p, ormqr_p
from jaxqr._sharded.row_blocks import warn_of_gathering


def householder_product(h: ArrayLike, tau: ArrayLike) -> Array:
    """Form the leading columns of Q from packed reflectors, as LAPACK's orgqr and ungqr.

    Args:
        h: array (..., m, n), m >= n, in LAPACK's orientation: the reflectors are below the
            diagonal of its leading k columns. (`qr` in raw mode returns it transposed.)
        tau: array (..., k), k <= n: the factors of the reflectors.

    Returns:
        The first n columns of H_1 ... H_k, shape (..., m, n). Differentiable in both arguments,
        which need not come from a factorization.

    Raises:
        ValueError: if m < n, k > n, or the batch dimensions differ.
        TypeError: if an argument is not an array of numbers.

    Source: LAPACK; compact form by (4.1), (4.2) of ``derivations.md``.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxqr
        >>> a = jax.random.normal(jax.random.key(0), (5, 3))
        >>> h, tau = jaxqr.qr(a, mode="raw")
        >>> q = jaxqr.householder_product(h.mT, tau)
        >>> bool(jnp.allclose(q, jaxqr.qr(a).Q, atol=1e-6))
        True
    """
    name = "householder_product"
    h, tau = _check_packed(name, h, tau)
    m, n = h.shape[-2:]
    if exceeds(n, m):
        raise ValueError(f"{name}: h must have at least as many rows as columns, got {h.shape}")
    warn_of_gathering(name, h=(h, 2), tau=(tau, 1))
    with calling(name, h, tau):
        return form_product(h, tau)


def householder_multiply(
    h: ArrayLike, tau: ArrayLike, c: ArrayLike, *, left: bool = True, adjoint: bool = False
) -> Array:
    """Multiply by the m x m matrix Q of packed reflectors, as LAPACK's ormqr and unmqr.

    Q is applied reflector by reflector, never formed.

    Args:
        h: array (..., m, n) in LAPACK's orientation, its reflectors below the diagonal of its
            leading k columns.
        tau: array (..., k), k <= min(m, n): the factors of the reflectors.
        c: array to multiply, with batch dimensions that broadcast with those of `h`: (m,), or
            (..., m, s) if `left`, else (..., s, m).
        left: whether to compute Q c rather than c Q.
        adjoint: whether to take the adjoint of Q in place of Q.

    Returns:
        The product, of `c`'s shape, but with the batch dimensions of `h` and `c`. Differentiable
        in all three arguments.

    Raises:
        ValueError: if the shapes do not match.
        TypeError: if an argument is not an array of numbers.

    Source: LAPACK; derivatives through the compact form (4.1), (4.2) of
    ``derivations.md``.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxqr
        >>> a = jax.random.normal(jax.random.key(0), (5, 3))
        >>> h, tau = jaxqr.qr(a, mode="raw")
        >>> r = jaxqr.householder_multiply(h.mT, tau, a, adjoint=True)
        >>> bool(jnp.allclose(r[:3], jaxqr.qr(a, mode="r"), atol=1e-5))
        True
    """
    name = "householder_multiply"
    left = arguments.require_choice(name, "left", left, (True, False))
    adjoint = arguments.require_choice(name, "adjoint", adjoint, (True, False))
    h, tau = _check_packed(name, h, tau)
    c = arguments.convert_array(name, "c", c, ndim=1)
    m = h.shape[-2]
    if c.shape[-2 if left and c.ndim > 1 else -1] != m:
        form = f"{m}, s" if left else f"s, {m}"
        raise ValueError(
            f"{name}: c must be ({m},) or (..., {form}), as h has {m} rows, got c {c.shape} for h "
            f"{h.shape}"
        )
    arguments.require_matching_batches(name, h, c, "c", of="h")
    arguments.require_unsharded(name, "c", c, min(c.ndim, 2))
    warn_of_gathering(name, h=(h, 2), tau=(tau, 1), c=(c, min(c.ndim, 2)))
    with calling(name, h, tau, c):
        return multiply(h, tau, c, left=left, adjoint=adjoint)


def form_product(h: Array, tau: Array) -> Array:
    """Form the leading columns of Q as `householder_product` does, from checked arguments."""
    (h, tau), dtype = arguments.promote_arrays(h, tau)
    if 0 in h.shape or 0 in tau.shape:
        return (jnp.zeros_like(h) + identity_like(h)).astype(dtype)
    return orgqr_p.bind(h, tau)[0].astype(dtype)


def multiply(h: Array, tau: Array, c: Array, *, left: bool, adjoint: bool) -> Array:
    """Multiply by Q as `householder_multiply` does, from checked arguments."""
    (h, tau, c), dtype = arguments.promote_arrays(h, tau, c)
    vector = c.ndim == 1
    if vector:
        c = c[:, None] if left else c[None]
    h, tau, c = broadcast_batch((h[..., :, : tau.shape[-1]], tau, c), (2, 1, 2))
    if 0 not in c.shape and 0 not in tau.shape:
        (c,) = ormqr_p.bind(h, tau, c, left=left, adjoint=adjoint)
    if vector:
        c = c[..., 0] if left else c[..., 0, :]
    return c.astype(dtype)


def _check_packed(function: str, h: ArrayLike, tau: ArrayLike) -> tuple[Array, Array]:
    h = arguments.convert_array(function, "h", h)
    tau = arguments.convert_array(function, "tau", tau, ndim=1)
    most = min_dim(*h.shape[-2:])
    if tau.shape[:-1] != h.shape[:-2]:
        raise ValueError(
            f"{function}: tau must have h's batch dimensions, got tau {tau.shape} for h {h.shape}"
        )
    if exceeds(tau.shape[-1], most):
        raise ValueError(
            f"{function}: tau must have at most min(m, n) = {most} entries, got tau {tau.shape} "
            f"for h {h.shape}"
        )
    arguments.require_unsharded(function, "h", h, 2)
    arguments.require_unsharded(function, "tau", tau, 1)
    return h, tau
