"""Products with the Q of a factorization, and R, without forming Q or its derivative."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import min_dim
from jax.typing import ArrayLike

from jaxqr._core import arguments
from jaxqr._core.partition import Shape, broadcast_batch, is_sharded
from jaxqr._core.results import PivotedQRMultiplyResult, QRMultiplyResult
from jaxqr._core.settings import calling
from jaxqr._factor.multiply_primitive import QOperator, make_operator
from jaxqr._factor.pivoting import METHODS, Pivoted, Pivoting
from jaxqr._sharded.row_blocks import warn_of_gathering

_Mode = Literal["left", "right"]


# fmt: off
@overload
def qr_multiply(a: ArrayLike, c: ArrayLike, mode: _Mode = ..., *, pivoting: Literal[False] = ..., conjugate: bool = ...) -> QRMultiplyResult: ...  # noqa: E501
@overload
def qr_multiply(a: ArrayLike, c: ArrayLike, mode: _Mode = ..., *, pivoting: Pivoted, conjugate: bool = ...) -> PivotedQRMultiplyResult: ...  # noqa: E501
@overload
def qr_multiply(a: ArrayLike, c: ArrayLike, mode: str = ..., *, pivoting: Pivoting = ..., conjugate: bool = ...) -> Any: ...  # noqa: E501
# fmt: on
def qr_multiply(
    a: ArrayLike,
    c: ArrayLike,
    mode: str = "right",
    *,
    pivoting: Pivoting = False,
    conjugate: bool = False,
) -> Any:
    """Factor ``a = Q @ R`` and multiply by the reduced Q, as ``scipy.linalg.qr_multiply``.

    Q is applied reflector by reflector and never formed, nor is its derivative or its cotangent.

    Args:
        a: array (..., m, n), real or complex; k = min(m, n). Dtypes as in `qr`.
        c: array to multiply, with batch dimensions that broadcast with those of `a`: (m,) or
            (..., s, m) in mode "right", (k,) or (..., k, s) in mode "left". Complex numbers are
            fine beside a real `a`.
        mode: "right" for ``c @ Q``, "left" for ``Q @ c``.
        pivoting: permute the columns as `qr` does, also "randomized": ``a[..., :, P] = Q @ R``.
        conjugate: whether to multiply by conj(Q) in place of Q.

    Returns:
        `QRMultiplyResult(CQ, R)`, or with pivoting `PivotedQRMultiplyResult(CQ, R, P)`: CQ
        (k,) or (..., s, k) in mode "right", (m,) or (..., m, s) in mode "left", with the batch
        dimensions of `a` and `c`; R (..., k, n) and P (..., n) int32 with those of `a`, each
        matrix being factored once.

        CQ and R are differentiable in `a` and `c`, any number of times, forward and reverse,
        where `qr` is and with the same derivatives. P is constant.

    Raises:
        ValueError: if the shapes do not match or the mode is unknown.
        TypeError: if an argument is not an array of numbers, or of a dtype that is not supported.

    Source: LAPACK's geqrf, geqp3 and ormqr; derivatives by section 10 of
    ``derivations.md``.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxqr
        >>> a = jax.random.normal(jax.random.key(0), (20, 3))
        >>> b = jax.random.normal(jax.random.key(1), (20,))
        >>> qtb, r = jaxqr.qr_multiply(a, b)        # a least-squares fit
        >>> x = jax.scipy.linalg.solve_triangular(r, qtb)
        >>> bool(jnp.allclose(a.T @ (b - a @ x), 0, atol=1e-4))
        True
        >>> product, r = jaxqr.qr_multiply(a, r, mode="left")
        >>> bool(jnp.allclose(product, a, atol=1e-5))
        True
    """
    name = "qr_multiply"
    a = arguments.convert_array(name, "a", a)
    c = arguments.convert_array(name, "c", c, ndim=1)
    arguments.require_choice(name, "mode", mode, ("left", "right"))
    pivoting = arguments.require_choice(name, "pivoting", pivoting, tuple(METHODS))
    conjugate = arguments.require_choice(name, "conjugate", conjugate, (True, False))
    m, k = a.shape[-2], min_dim(*a.shape[-2:])
    length, form = (k, f"{k}, s") if mode == "left" else (m, f"s, {m}")
    if c.shape[-2 if mode == "left" and c.ndim > 1 else -1] != length:
        raise ValueError(
            f"{name}: c must be ({length},) or (..., {form}) in mode {mode!r}, got c {c.shape} "
            f"for a {a.shape}"
        )
    arguments.require_matching_batches(name, a, c, "c")
    for argument, x in (("a", a), ("c", c)):
        arguments.require_unsharded(name, argument, x, min(x.ndim, 2))
    warn_of_gathering(name, a=(a, 2), c=(c, min(c.ndim, 2)))
    with calling("qr_multiply", a, c):
        return _qr_multiply(a, c, mode, pivoting, conjugate)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _qr_multiply(a: Array, c: Array, mode: str, pivoting: Pivoting, conjugate: bool) -> Any:
    real = not jnp.iscomplexobj(a)
    (a, c), dtype = arguments.promote_arrays(a, c)
    left, vector = mode == "left", c.ndim == 1
    u = c[:, None] if vector else c if left else c.mT
    # Here conj(Q) u = conj(Q conj(u)), and c Q is the adjoint of Q^H c^H.
    conjugated = conjugate == left
    u = u.conj() if conjugated else u
    sharded = is_sharded(a) or is_sharded(u)
    u, restore = (u, None) if sharded else _as_columns(u, a.shape[:-2])
    if split := real and jnp.iscomplexobj(a):  # only c is complex
        a, u = a.real, jnp.concatenate([u.real, u.imag], axis=-1)
    q, p = make_operator(a, METHODS[pivoting].name)
    if restore is None:  # columns of different matrices stay apart, each where it is
        (r,) = q.bind(a[..., : u.shape[-2], :1], outputs=("r",), adjoint=not left)
        y = _broadcast(q, u, adjoint=not left)
    else:
        y, r = q.bind(u, outputs=("y", "r"), adjoint=not left)
    y = lax.complex(*jnp.split(y, 2, axis=-1)) if split else y
    y = y if restore is None else restore(y)
    y = (y.conj() if conjugated else y).astype(dtype)
    y = y[..., 0] if vector else y if left else y.mT
    r = r.astype(jnp.finfo(dtype).dtype if real else dtype)
    return QRMultiplyResult(y, r) if p is None else PivotedQRMultiplyResult(y, r, p)


def _broadcast(q: QOperator, u: Array, *, adjoint: bool) -> Array:
    """Compute Q u or Q^H u where the batch dimensions of Q and u broadcast."""
    operands = broadcast_batch((q.a, *q.constants, u), (*q.core_ranks, 2))
    a, *constants, u = operands
    return QOperator(a, constants, q.pivoted).apply(u, adjoint=adjoint)


def _as_columns(u: Array, batch: Shape) -> tuple[Array, Callable[[Array], Array]]:
    """Give `u` the batch dimensions `batch`; what more it has becomes columns.

    Returns:
        The array (*batch, rows, columns), and what brings a product with it back to the batch
        dimensions of both.
    """
    full = jnp.broadcast_shapes(batch, u.shape[:-2])
    own = (1,) * (len(full) - len(batch)) + batch
    more = [i for i, sizes in enumerate(zip(own, full, strict=True)) if len(set(sizes)) > 1]
    last = range(-len(more), 0)
    moved = jnp.moveaxis(jnp.broadcast_to(u, (*full, *u.shape[-2:])), more, last)
    rest = len(full) - len(more)  # the dimensions before the rows
    kept, width = moved.shape[:rest], moved.shape[rest + 1 :]

    def restore(y: Array) -> Array:
        return jnp.moveaxis(y.reshape(*kept, y.shape[-2], *width), last, more)

    return moved.reshape(*batch, u.shape[-2], math.prod(width)), restore
