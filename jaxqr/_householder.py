"""Packed Householder reflectors: factor, form Q, apply Q.

A factorization in LAPACK's packed form is a matrix `h` that holds R in its upper triangle and
the vectors v_i below it, and their factors `tau`: Q = H_1 ... H_k with H_i = I - tau_i v_i v_i^H.
The names are LAPACK's. These are the only primitives that depend on the platform.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.core import min_dim
from jax.extend.core import Primitive
from jax.interpreters import ad
from jax.typing import ArrayLike

from jaxqr import _arguments
from jaxqr._algebra import exceeds, identity_like
from jaxqr._batching import broadcast_batch
from jaxqr._lowering import portable
from jaxqr._lowering.library import CUSOLVER, HIPSOLVER, LAPACK
from jaxqr._lowering.xla import XLA
from jaxqr._primitive import (
    CoreResult,
    Shape,
    derivatives,
    is_zero,
    linear_jvp,
    lower,
    lower_to_kernel,
    make,
)
from jaxqr._row_blocks import refuse_gathering
from jaxqr._settings import calling


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

    Source: LAPACK; compact form by (4.1), (4.2) of ``notebooks/derivations.md``.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxqr
        >>> a = jax.random.normal(jax.random.key(0), (5, 3))
        >>> h, tau = jaxqr.qr(a, mode="raw")
        >>> q = jaxqr.householder_product(h.mT, tau)
        >>> bool(jnp.allclose(q, jaxqr.qr(a).Q, atol=1e-6))
        True
    """
    name = "householder_product"
    h, tau = _packed(name, h, tau)
    m, n = h.shape[-2:]
    if exceeds(n, m):
        raise ValueError(f"{name}: h must have at least as many rows as columns, got {h.shape}")
    with calling(name, h, tau):
        (h, tau), dtype = _arguments.common(h, tau)
        if 0 in h.shape or 0 in tau.shape:
            return (jnp.zeros_like(h) + identity_like(h)).astype(dtype)
        return orgqr_p.bind(h, tau)[0].astype(dtype)


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
    ``notebooks/derivations.md``.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxqr
        >>> a = jax.random.normal(jax.random.key(0), (5, 3))
        >>> h, tau = jaxqr.qr(a, mode="raw")
        >>> r = jaxqr.householder_multiply(h.mT, tau, a, adjoint=True)
        >>> bool(jnp.allclose(r[:3], jaxqr.qr(a, mode="r"), atol=1e-5))
        True
    """
    name = "householder_multiply"
    left = _arguments.choice(name, "left", left, (True, False))
    adjoint = _arguments.choice(name, "adjoint", adjoint, (True, False))
    h, tau = _packed(name, h, tau)
    c = _arguments.array(name, "c", c, ndim=1)
    m = h.shape[-2]
    if c.shape[-2 if left and c.ndim > 1 else -1] != m:
        form = f"{m}, s" if left else f"s, {m}"
        raise ValueError(
            f"{name}: c must be ({m},) or (..., {form}), as h has {m} rows, got c {c.shape} for h "
            f"{h.shape}"
        )
    _arguments.batches(name, h, c, "c", of="h")
    _whole(name, "c", c, min(c.ndim, 2))
    with calling(name, h, tau, c):
        return _multiply(h, tau, c, left, adjoint)


def _multiply(h: Array, tau: Array, c: Array, left: bool, adjoint: bool) -> Array:
    (h, tau, c), dtype = _arguments.common(h, tau, c)
    vector = c.ndim == 1
    if vector:
        c = c[:, None] if left else c[None]
    h, tau, c = broadcast_batch((h[..., :, : tau.shape[-1]], tau, c), (2, 1, 2))
    if 0 not in c.shape and 0 not in tau.shape:
        (c,) = ormqr_p.bind(h, tau, c, left=left, adjoint=adjoint)
    if vector:
        c = c[..., 0] if left else c[..., 0, :]
    return c.astype(dtype)


def _packed(function: str, h: ArrayLike, tau: ArrayLike) -> tuple[Array, Array]:
    h = _arguments.array(function, "h", h)
    tau = _arguments.array(function, "tau", tau, ndim=1)
    most = min_dim(*h.shape[-2:])
    if tau.shape[:-1] != h.shape[:-2] or exceeds(tau.shape[-1], most):
        raise ValueError(
            f"{function}: tau must have h's batch dimensions and at most min(m, n) = {most} "
            f"entries, got tau {tau.shape} for h {h.shape}"
        )
    _whole(function, "h", h, 2)
    _whole(function, "tau", tau, 1)
    return h, tau


def _whole(function: str, name: str, x: Array, ndim: int) -> None:
    """Raise if the last `ndim` dimensions are sharded."""
    refuse_gathering(function, name, x, ndim)
    _arguments.whole(function, name, x, ndim)


# ------------------------------------------------------------------------------ shape rules


def _geqrf_results(a: Shape) -> list[CoreResult]:
    return [(a, None), ((min_dim(*a),), None)]


def _geqp3_results(a: Shape) -> list[CoreResult]:
    return [(a, None), ((min_dim(*a),), None), ((a[1],), jnp.int32)]


def _orgqr_results(h: Shape, tau: Shape) -> list[CoreResult]:
    return [(h, None)]


def _ormqr_results(
    h: Shape, tau: Shape, c: Shape, *, left: bool, adjoint: bool
) -> list[CoreResult]:
    return [(c, None)]


# -------------------------------------------------------------------------------- transpose


def _ormqr_transpose(
    cotangents: list[Any], h: Array, tau: Array, c: Any, *, left: bool, adjoint: bool
) -> tuple[None, None, Any]:
    (ct,) = cotangents
    if is_zero(ct):
        return None, None, ad.Zero(c.aval.to_ct_aval())
    # JAX pairs without conjugation (0.5): the plain transpose is the conjugated adjoint
    out = ormqr_p.bind(h, tau, ct.conj(), left=left, adjoint=not adjoint)[0]
    return None, None, out.conj()


# ----------------------------------------------------------------------------- registration

geqrf_p = make("geqrf", ranks=(2,), results=_geqrf_results, body=portable.geqrf)
geqp3_p = make("geqp3", ranks=(2,), results=_geqp3_results, body=portable.geqp3)
orgqr_p = make("orgqr", ranks=(2, 1), results=_orgqr_results, body=portable.orgqr)
ormqr_p = make("ormqr", ranks=(2, 1, 2), results=_ormqr_results, body=portable.ormqr, linear_from=2)

# What computes each routine; where a platform has nothing of its own, the portable body does.
ROUTINES: dict[str, tuple[Primitive, dict[str, Any]]] = {
    "geqrf": (geqrf_p, {"cpu": LAPACK, "cuda": CUSOLVER, "rocm": HIPSOLVER, "tpu": XLA}),
    "geqp3": (geqp3_p, {"cpu": LAPACK}),
    "orgqr": (orgqr_p, {"cpu": LAPACK, "cuda": CUSOLVER, "rocm": HIPSOLVER, "tpu": XLA}),
    "ormqr": (ormqr_p, {"cpu": LAPACK, "cuda": CUSOLVER, "rocm": HIPSOLVER}),
}
# What takes its place where a program is exported: who does that names its calls, of one dtype.
_EXPORTED = {("geqp3", "cpu"): LAPACK.geqp3_of_even_columns}
for _routine, (_p, _providers) in ROUTINES.items():
    for _platform, _provider in _providers.items():
        _exported = _EXPORTED.get((_routine, _platform))
        lower(_p, getattr(_provider, _routine), _platform, _exported)

# Factorizations have kernels as a whole, see _qr_primitive; Q's reflectors here.
lower_to_kernel(orgqr_p, ranks=(2, 1), results=_orgqr_results, otherwise=LAPACK.orgqr)
lower_to_kernel(ormqr_p, ranks=(2, 1, 2), results=_ormqr_results, otherwise=LAPACK.ormqr)

linear_jvp(orgqr_p, portable.orgqr, linear_from=2)
linear_jvp(ormqr_p, portable.ormqr, linear_from=2)
derivatives(ormqr_p, transpose=_ormqr_transpose)
