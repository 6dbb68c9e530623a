"""The primitive of QR, plain and with column pivoting: it computes the outputs it is asked for.

Its outputs, by name: "q" (m, k), "r" (k, n), "q_full" (m, m) for m > n, the packed reflectors
"h" (m, n) and "tau" (k,), and the permutation "p" (n,). Asking by name is what keeps unused work
undone: the derivative asks for what it needs beside what is wanted, and dead code elimination asks
for less.

Pivoting differs in the packed factorization that it starts from, in one more output and in the
order of dA's columns. So it is a parameter, the name of a method in ``pivoting``, and not a
primitive of its own. The primitive has a mirror: LQ.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.core import min_dim
from jax.extend.core import Primitive

from jaxqr._core.abstract import CoreResult
from jaxqr._core.algebra import (
    identity_like,
    put_beside,
    where,
)
from jaxqr._core.batching import Body
from jaxqr._core.mirror import mirror_body
from jaxqr._core.partition import Shape
from jaxqr._core.primitive import is_zero, make_primitive
from jaxqr._core.scaling import column_scale, is_huge, scale_by, zero_or_nan
from jaxqr._core.undocumented import zero_tangent
from jaxqr._factor import shapes
from jaxqr._factor.packed import geqrf_p, orgqr_p
from jaxqr._factor.packed_rules import completion_jvp, raw_jvp
from jaxqr._factor.permutation import permute_columns
from jaxqr._factor.pivoting import find_method
from jaxqr._factor.shapes import ByShape, Values, factor_scaled, form_outputs, unscale
from jaxqr._factor.tangent_maps import qr_jvp_p
from jaxqr._lowering import cuda, kernels

# -------------------------------------------------------------------------------- shape rule


def _results(a: Shape, *, outputs: tuple[str, ...], pivoting: str) -> list[CoreResult]:
    m, n = a
    k = min_dim(m, n)
    table: dict[str, CoreResult] = {
        "q": ((m, k), None),
        "q_full": ((m, m), None),
        "r": ((k, n), None),
        "h": ((m, n), None),
        "tau": ((k,), None),
        "p": ((n,), jnp.int32),
    }
    return [table[name] for name in outputs]


# ---------------------------------------------------------------------------------- lowering


def _factor(
    a: Array, *, outputs: tuple[str, ...], pivoting: str, by_shape: ByShape | None = None
) -> list[Array]:
    """Factor by geqrf and orgqr, or `by_shape` where it serves the matrix."""
    if 0 in a.shape:
        return _factor_empty(a, outputs)
    pivot = find_method(pivoting).factor
    if pivot is None:
        values = None if by_shape is None else by_shape(a, outputs)
        values = values or factor_scaled(a, partial(_factor_plain, outputs=outputs))
    else:
        h, tau, scale, p = factor_pivoted(a, pivot)
        values = {**unscale(form_outputs(h, tau, outputs, orgqr_p.bind), scale), "p": p}
    return [values[name] for name in outputs]


def _factor_plain(a: Array, outputs: tuple[str, ...]) -> Values:
    h, tau = geqrf_p.bind(a)
    return form_outputs(h, tau, outputs, orgqr_p.bind)


def factor_pivoted(
    a: Array, pivot: Callable[[Array], list[Array]]
) -> tuple[Array, Array, Array, Array]:
    """Factor with pivoting; give (h, tau) of the scaled columns, the scale and the permutation.

    Pivots are chosen by the norms of the columns as they are, all multiplied by one power of two
    that keeps them from overflow, or from underflow where even the largest column is small. Where
    columns differ so much that others need a power of their own, the permuted matrix is factored
    anew.
    """
    own = column_scale(a)
    largest = jnp.min(own, axis=-1, keepdims=True)  # the reciprocal of it
    whole = where(
        is_huge(largest), lax.full_like(largest, 2.0**-16), jnp.maximum(largest, 1)
    ) + zero_or_nan(a)
    h, tau, p = pivot(scale_by(a, whole))
    smallest = jnp.max(own, axis=-1, keepdims=True)
    uneven = (smallest > whole * 2.0 ** (jnp.finfo(a.dtype).maxexp // 4)) & (smallest > 1)
    scale = jnp.broadcast_to(whole, own.shape)

    def factor_anew() -> tuple[Array, Array, Array]:
        permuted, mine = (jnp.take_along_axis(x, p[..., None, :], axis=-1) for x in (a, own))
        found = geqrf_p.bind(scale_by(permuted, jnp.where(uneven, mine, scale)))
        new_h, new_tau = found  # the other matrices of the batch keep theirs
        chosen = jnp.where(uneven, new_h, h), jnp.where(uneven[..., 0], new_tau, tau)
        return *chosen, jnp.where(uneven, mine, scale)

    return (*lax.cond(jnp.any(uneven), factor_anew, lambda: (h, tau, scale)), p)


def _factor_empty(a: Array, outputs: tuple[str, ...]) -> list[Array]:
    *batch, m, n = a.shape
    results = _results((m, n), outputs=outputs, pivoting="none")

    def make(name: str, shape: Shape) -> Array:
        if name == "p":
            return jnp.arange(n, dtype=jnp.int32)
        zeros = jnp.zeros(shape, a.dtype)
        return identity_like(zeros) if name in ("q", "q_full") else zeros

    return [
        jnp.broadcast_to(make(name, shape), (*batch, *shape))
        for name, (shape, _) in zip(outputs, results, strict=True)
    ]


# --------------------------------------------------------------------------------------- JVP


def _jvp(
    bind: Callable[..., list[Array]],
    primals: Sequence[Array],
    tangents: Sequence[Any],
    *,
    outputs: tuple[str, ...],
    pivoting: str,
) -> tuple[list[Array], list[Any]]:
    (a,), (da,) = primals, tangents
    packed = not {"q_full", "h", "tau"}.isdisjoint(outputs)
    pivoted = pivoting != "none"
    needed = ("q", "r", *(("h", "tau") if packed else ()), *(("p",) if pivoted else ()))
    values = bind_for_more(bind, qr_p, a, outputs, needed, pivoting=pivoting)
    primal = [values[name] for name in outputs]
    if is_zero(da) or set(outputs) <= {"p"}:
        return primal, list(map(zero_tangent, primal))
    if pivoted:
        da = permute_columns(da, values["p"])  # the tangent of A P is dA P (7.1)
    wanted = ("q", "r") if packed else tuple(name for name in ("q", "r") if name in outputs)
    thin = bind(qr_jvp_p, values["q"], values["r"], da, outputs=wanted, pivoted=pivoted)
    known: dict[str, Any] = dict(zip(wanted, thin, strict=True))
    if packed:
        known.update(_packed_tangents(values, known, outputs))
    return primal, [known.get(name, zero_tangent(values[name])) for name in outputs]


def bind_for_more(
    bind: Callable[..., list[Array]],
    p: Primitive,
    a: Array,
    outputs: tuple[str, ...],
    needed: tuple[str, ...],
    **params: Any,
) -> Values:
    """Bind a primitive with named outputs for those that are wanted and what a rule needs more."""
    asked = (*outputs, *(name for name in needed if name not in outputs))
    return dict(zip(asked, bind(p, a, outputs=asked, **params), strict=True))


def _packed_tangents(
    values: dict[str, Array], thin: dict[str, Array], outputs: tuple[str, ...]
) -> dict[str, Array]:
    """Find the tangents of packed outputs and of complete Q from those of thin Q and R."""
    found = {}
    q, h = values["q"], values["h"]
    if "q_full" in outputs:
        rest = completion_jvp(q, h, thin["q"])
        found["q_full"] = put_beside(thin["q"], rest, q.shape[-2])
    if "h" in outputs or "tau" in outputs:
        found["h"], found["tau"] = raw_jvp(q, h, values["tau"], thin["q"], thin["r"])
    return found


# ------------------------------------------------------------------------------ registration


def _call_kernel(*args: Any, pivoting: str, **params: Any) -> list[Array] | None:
    if not find_method(pivoting).has_kernel:
        return None
    return kernels.compute(*args, pivoting=pivoting, **params)


def _lower_by_shape(by_shape: ByShape) -> Body:
    """Make a lowering of what computes some shapes otherwise than geqrf and orgqr."""
    return mirror_body(partial(_factor, by_shape=by_shape))


def _factor_on_cuda(a: Array, outputs: tuple[str, ...]) -> Values | None:
    return shapes.factor_on_cuda(a, outputs, factor)


_lower_routines = mirror_body(_factor)

# A lowering of the whole factorization for a platform is a function of the matrix and of the
# parameters outputs, pivoting and transposed.
qr_p = make_primitive(
    "qr",
    core_ranks=(2,),
    results=_results,
    body=_factor,
    jvp=_jvp,
    named_outputs=True,
    mirrored=True,
    kernels={"cpu": _call_kernel, "cuda": cuda.compute},
    platforms={
        "cuda": _lower_by_shape(_factor_on_cuda),
        "rocm": _lower_by_shape(shapes.factor_tiny),
        "tpu": _lower_by_shape(shapes.factor_tiny),
    },
    exported=dict.fromkeys(("cuda", "rocm", "tpu"), _lower_routines),
)


def factor(
    a: Array, *outputs: str, pivoting: str = "none", transposed: bool = False
) -> list[Array]:
    """Factor matrices (..., m, n) by the primitive, and give the outputs of these names."""
    return qr_p.bind(a, outputs=outputs, pivoting=pivoting, transposed=transposed)
