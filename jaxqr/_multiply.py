"""Products with the Q of a factorization, and R, differentiable without forming Q or dQ.

`multiply_p` applies what reflectors stand for. As in `_pseudoinverse.py`, its derivative is not
that of the reflectors: Q u, Q^H u and R are functions of A whose derivatives are made of the same
operations (section 10), and the factors are constants that merely compute them. So derivatives
of all orders come from one factorization.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import min_dim
from jax.interpreters import ad
from jax.typing import ArrayLike

from jaxqr import _arguments
from jaxqr._algebra import (
    H,
    exceeds,
    extended,
    middle_scale,
    mm,
    real_diagonal,
    times,
    triu,
    where,
)
from jaxqr._arguments import Pivoting
from jaxqr._batching import broadcast_batch, is_sharded
from jaxqr._householder import ormqr_p
from jaxqr._linear import columns
from jaxqr._primitive import (
    CoreResult,
    Shape,
    derivatives,
    is_zero,
    make,
    name_outputs,
    zero_tangent,
)
from jaxqr._qr_primitive import qr_p
from jaxqr._results import PivotedQRMultiplyResult, QRMultiplyResult
from jaxqr._row_blocks import refuse_gathering
from jaxqr._settings import calling
from jaxqr._solve import solve
from jaxqr._tangents import independent, restrict, skw, solve_right

_Mode = Literal["left", "right"]


# fmt: off
@overload
def qr_multiply(a: ArrayLike, c: ArrayLike, mode: _Mode = ..., *, pivoting: Literal[False] = ..., conjugate: bool = ...) -> QRMultiplyResult: ...  # noqa: E501
@overload
def qr_multiply(a: ArrayLike, c: ArrayLike, mode: _Mode = ..., *, pivoting: Literal[True, "randomized"], conjugate: bool = ...) -> PivotedQRMultiplyResult: ...  # noqa: E501
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
    ``notebooks/derivations.md``.

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
    a = _arguments.array(name, "a", a)
    c = _arguments.array(name, "c", c, ndim=1)
    _arguments.choice(name, "mode", mode, ("left", "right"))
    pivoting = _arguments.choice(name, "pivoting", pivoting, tuple(_arguments.PIVOTING))
    conjugate = _arguments.choice(name, "conjugate", conjugate, (True, False))
    m, k = a.shape[-2], min_dim(*a.shape[-2:])
    length, form = (k, f"{k}, s") if mode == "left" else (m, f"s, {m}")
    if c.shape[-2 if mode == "left" and c.ndim > 1 else -1] != length:
        raise ValueError(
            f"{name}: c must be ({length},) or (..., {form}) in mode {mode!r}, got c {c.shape} "
            f"for a {a.shape}"
        )
    _arguments.batches(name, a, c, "c")
    for argument, x in (("a", a), ("c", c)):
        refuse_gathering(name, argument, x, min(x.ndim, 2))
        _arguments.whole(name, argument, x, min(x.ndim, 2))
    with calling("qr_multiply", a, c):
        return _qr_multiply(a, c, mode, pivoting, conjugate)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _qr_multiply(a: Array, c: Array, mode: str, pivoting: Pivoting, conjugate: bool) -> Any:
    real = not jnp.iscomplexobj(a)
    (a, c), dtype = _arguments.common(a, c)
    left, vector = mode == "left", c.ndim == 1
    u = c[:, None] if vector else c if left else c.mT
    # conj(Q) u = conj(Q conj(u)), and c Q is the adjoint of Q^H c^H
    conjugated = conjugate == left
    u = u.conj() if conjugated else u
    sharded = is_sharded(a) or is_sharded(u)
    u, restore = (u, None) if sharded else _as_columns(u, a.shape[:-2])
    if split := real and jnp.iscomplexobj(a):  # only c is complex
        a, u = a.real, jnp.concatenate([u.real, u.imag], axis=-1)
    a, p, factors = _factored(a, pivoting)
    params = {"adjoint": not left, "pivoted": bool(pivoting)}
    if restore is None:  # columns of different matrices stay apart, each where it is
        (r,) = multiply_p.bind(a, *factors, a[..., : u.shape[-2], :1], outputs=("r",), **params)
        operands = broadcast_batch((a, *factors, u), _RANKS)
        (y,) = multiply_p.bind(*operands, outputs=("y",), **params)
    else:
        y, r = multiply_p.bind(a, *factors, u, outputs=("y", "r"), **params)
    y = lax.complex(*jnp.split(y, 2, axis=-1)) if split else y
    y = y if restore is None else restore(y)
    y = (y.conj() if conjugated else y).astype(dtype)
    y = y[..., 0] if vector else y if left else y.mT
    r = r.astype(jnp.finfo(dtype).dtype if real else dtype)
    return QRMultiplyResult(y, r) if p is None else PivotedQRMultiplyResult(y, r, p)


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


def _factored(a: Array, pivoting: Pivoting) -> tuple[Array, Array | None, tuple[Array, ...]]:
    """`a` with its columns permuted, the permutation, and the constants of `multiply_p`."""
    outputs = ("h", "tau", "r", *(("p",) if pivoting else ()))
    fixed = lax.stop_gradient(a)
    h, tau, r, *p = qr_p.bind(
        fixed, outputs=outputs, pivoting=_arguments.PIVOTING[pivoting], transposed=False
    )
    factors = (h[..., : tau.shape[-1]], tau, r)
    return (columns(a, p[0]), p[0], factors) if pivoting else (a, None, factors)


# ------------------------------------------------------------------- shape rule and lowering


def _results(
    a: Shape, *operands: Shape, outputs: tuple[str, ...], adjoint: bool, pivoted: bool
) -> list[CoreResult]:
    *_, r, u = operands
    shapes = {"y": (r[0] if adjoint else a[0], u[1]), "r": r}
    return [(shapes[name], None) for name in outputs]


def _compute(
    a: Array, *operands: Array, outputs: tuple[str, ...], adjoint: bool, pivoted: bool
) -> list[Array]:
    h, tau, r, u = operands
    return [r if name == "r" else _apply(h, tau, u, adjoint) for name in outputs]


def _apply(h: Array, tau: Array, u: Array, adjoint: bool) -> Array:
    """Q^H u or Q u for the reduced Q."""
    m, k = h.shape[-2:]
    if 0 in (m, k, u.shape[-1]):
        return jnp.zeros((*u.shape[:-2], k if adjoint else m, u.shape[-1]), u.dtype)
    if not adjoint and exceeds(m, k):
        u = extended(u, m, -2)
    return ormqr_p.bind(h, tau, u, left=True, adjoint=adjoint)[0][..., : k if adjoint else m, :]


# -------------------------------------------------------------------------------- derivatives


class _Point(NamedTuple):
    """Where a tangent is taken: Q of `a` as an operator."""

    a: Array
    factors: Sequence[Array]
    pivoted: bool

    def apply(self, u: Array, *, adjoint: bool) -> Array:
        """Q u or Q^H u."""
        params = {"adjoint": adjoint, "pivoted": self.pivoted}
        return multiply_p.bind(self.a, *self.factors, u, outputs=("y",), **params)[0]


def _jvp(
    primals: Sequence[Array],
    tangents: Sequence[Any],
    *,
    outputs: tuple[str, ...],
    adjoint: bool,
    pivoted: bool,
) -> Any:
    (a, *_, u), (da, *_, du) = primals, tangents
    moving = not is_zero(da) and 0 not in a.shape
    # R is asked for too, as an output: the rules must see that it moves (12.2)
    asked = (*outputs, "r") if moving and "r" not in outputs else outputs
    found = multiply_p.bind(*primals, outputs=asked, adjoint=adjoint, pivoted=pivoted)
    values = dict(zip(asked, found, strict=True))
    point = _Point(a, primals[1:-1], pivoted)
    known: dict[str, Any] = {}
    if moving:
        known = _tangents(point, values, u, du, da, outputs, adjoint)
    elif "y" in outputs and not is_zero(du):
        known = {"y": point.apply(du, adjoint=adjoint)}
    return found[: len(outputs)], [known.get(x, zero_tangent(values[x])) for x in outputs]


def _tangents(
    point: _Point,
    values: dict[str, Array],
    u: Array,
    du: Any,
    da: Array,
    outputs: tuple[str, ...],
    adjoint: bool,
) -> dict[str, Array]:
    """(8.4), (8.7), (10.9) and (10.11), on R and dA multiplied by a power of two (8.8)."""
    m, n = da.shape[-2:]
    k = values["r"].shape[-2]
    scale = middle_scale(values["r"])
    r, da = times(values["r"], scale), times(da, scale)
    counts = independent(r, pivoted=point.pivoted)
    triangle = restrict(r, counts)
    c = point.apply(da if "r" in outputs else da[..., :k], adjoint=True)
    e = where(counts, solve_right(c[..., :k], triangle))
    omega = skw(e)
    tangents = {}
    if "r" in outputs:
        dr = triu(real_diagonal(times(c - mm(omega, r), 1 / scale)))
        tangents["r"] = where(counts.mT, dr) if point.pivoted else dr
    if "y" not in outputs:
        return tangents
    y, deep = values["y"], exceeds(m, n)
    if adjoint:
        dy = -mm(omega, y)
        if deep:
            ha_u = H(mm(H(u), da))
            turned = solve(triangle, ha_u, left=True, lower=False, adjoint=True)
            dy = where(counts.mT, turned) - mm(H(e - omega), y)
        tangents["y"] = dy if is_zero(du) else dy + point.apply(du, adjoint=True)
        return tangents
    inner = mm(omega - e if deep else omega, u)
    dy = point.apply(inner if is_zero(du) else du + inner, adjoint=False)
    if deep:
        dy += mm(da, solve(triangle, where(counts.mT, u), left=True, lower=False))
    tangents["y"] = dy
    return tangents


def _transpose(
    cotangents: list[Any],
    a: Array,
    *operands: Any,
    outputs: tuple[str, ...],
    adjoint: bool,
    pivoted: bool,
) -> tuple[Any, ...]:
    *factors, u = operands
    none = (None,) * (1 + len(factors))
    if is_zero(cotangents[0]):
        return *none, ad.Zero(u.aval.to_ct_aval())
    # linear is only the product, and JAX pairs without conjugation (0.5)
    point = _Point(a, factors, pivoted)
    return *none, point.apply(cotangents[0].conj(), adjoint=not adjoint).conj()


# ------------------------------------------------------------------------------ registration

_RANKS = (2, 2, 1, 2, 2)

multiply_p = make(
    "multiply",
    ranks=_RANKS,
    results=_results,
    body=_compute,
    columnwise=lambda outputs, **_: [name == "y" for name in outputs],
)
name_outputs(multiply_p)
derivatives(multiply_p, _jvp, _transpose)
