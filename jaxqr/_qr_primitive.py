"""The primitive of QR, plain and with column pivoting: it computes the outputs it is asked for.

Its outputs, by name: "q" (m, k), "r" (k, n), "q_full" (m, m) for m > n, the packed reflectors
"h" (m, n) and "tau" (k,), and the permutation "p" (n,). Asking by name is what keeps unused work
undone: the derivative asks for what it needs beside what is wanted, and dead code elimination asks
for less. Pivoting differs in the packed factorization it starts from, in one more output and in the
order of dA's columns, so it is a parameter ("none", "exact" or "randomized") and not a primitive of
its own. So is `transposed`,
with which all matrices, A and the outputs, are the transposes of those above: LQ.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.core import min_dim

from jaxqr._algebra import (
    beside,
    column_scale,
    extended,
    identity_like,
    real_diagonal,
    row_minus_column,
    scaled,
    triu,
    unscaled,
    where,
    zero_or_nan,
)
from jaxqr._householder import geqp3_p, geqrf_p, orgqr_p
from jaxqr._linear import columns, qr_jvp_p, rows
from jaxqr._lowering import randomized
from jaxqr._primitive import (
    CoreResult,
    Shape,
    derivatives,
    is_zero,
    lower_to_kernel,
    make,
    name_outputs,
    zero_tangent,
)
from jaxqr._tangents import completion_jvp, raw_jvp

# -------------------------------------------------------------------------------- shape rule


def _results(
    a: Shape, *, outputs: tuple[str, ...], pivoting: str, transposed: bool
) -> list[CoreResult]:
    m, n = a[::-1] if transposed else a
    k = min_dim(m, n)
    table: dict[str, CoreResult] = {
        "q": ((m, k), None),
        "q_full": ((m, m), None),
        "r": ((k, n), None),
        "h": ((m, n), None),
        "tau": ((k,), None),
        "p": ((n,), jnp.int32),
    }
    if transposed:
        table.update((name, (table[name][0][::-1], None)) for name in _MATRICES)
    return [table[name] for name in outputs]


_MATRICES = ("q", "q_full", "r", "h")
_PIVOTED = {"exact": geqp3_p.bind, "randomized": randomized.geqp3}


def _flipped(values: dict[str, Array]) -> dict[str, Array]:
    """The outputs of the transposed problem."""
    return {name: x.mT if name in _MATRICES else x for name, x in values.items()}


# ---------------------------------------------------------------------------------- lowering


def _compute(a: Array, *, outputs: tuple[str, ...], pivoting: str, transposed: bool) -> list[Array]:
    if transposed:
        plain = _compute(a.mT, outputs=outputs, pivoting=pivoting, transposed=False)
        return list(_flipped(dict(zip(outputs, plain, strict=True))).values())
    if 0 in a.shape:
        return _compute_empty(a, outputs=outputs)
    m, n = a.shape[-2:]
    k = min_dim(m, n)
    h, tau, scale, *p = _factored(a) if pivoting == "none" else _pivoted(a, pivoting)
    # reading R and applying reflectors leaves the strictly lower triangle as it is
    values = dict(zip(("h", "tau", "p"), (h, tau, *p), strict=False))
    values["r"] = triu(real_diagonal(unscaled(h[..., :k, :], scale)))
    if "q_full" in outputs:
        values["q_full"] = orgqr_p.bind(extended(h, m, -1), tau)[0]
        values["q"] = values["q_full"][..., :, :k]
    elif "q" in outputs:
        values["q"] = orgqr_p.bind(h[..., :, :k], tau)[0]
    if "h" in outputs:
        values["h"] = where(row_minus_column(h) <= 0, unscaled(h, scale), h)
    return [values[name] for name in outputs]


def _factored(a: Array) -> tuple[Array, Array, Array]:
    """Factor A with its columns scaled: (h, tau), not yet unscaled, and the scale.

    All of a matrix that is not finite is NaN.
    """
    scale = column_scale(a) + zero_or_nan(a)
    h, tau = geqrf_p.bind(scaled(a, scale))
    return h, tau, scale


def _pivoted(a: Array, pivoting: str) -> tuple[Array, Array, Array, Array]:
    """The same with pivoting, and the permutation.

    Pivots are chosen by the norms of the columns as they are, all multiplied by one power of two
    that keeps them from overflow, or from underflow where even the largest column is small. Where
    columns differ so much that others need a power of their own, the permuted matrix is factored
    anew.
    """
    own = column_scale(a)
    largest = jnp.min(own, axis=-1, keepdims=True)  # the reciprocal of it
    huge = largest < 2.0 ** (16 - jnp.finfo(a.dtype).maxexp)
    whole = where(huge, lax.full_like(largest, 2.0**-16), jnp.maximum(largest, 1)) + zero_or_nan(a)
    h, tau, p = _PIVOTED[pivoting](scaled(a, whole))
    smallest = jnp.max(own, axis=-1, keepdims=True)
    uneven = (smallest > whole * 2.0 ** (jnp.finfo(a.dtype).maxexp // 4)) & (smallest > 1)
    scale = jnp.broadcast_to(whole, own.shape)

    def factor_anew() -> tuple[Array, Array, Array]:
        permuted, mine = (jnp.take_along_axis(x, p[..., None, :], axis=-1) for x in (a, own))
        found = geqrf_p.bind(scaled(permuted, jnp.where(uneven, mine, scale)))
        new_h, new_tau = found  # the other matrices of the batch keep theirs
        chosen = jnp.where(uneven, new_h, h), jnp.where(uneven[..., 0], new_tau, tau)
        return *chosen, jnp.where(uneven, mine, scale)

    return (*lax.cond(jnp.any(uneven), factor_anew, lambda: (h, tau, scale)), p)


def _compute_empty(a: Array, *, outputs: tuple[str, ...]) -> list[Array]:
    *batch, m, n = a.shape
    shapes = _results((m, n), outputs=outputs, pivoting="exact", transposed=False)

    def one(name: str, shape: Shape) -> Array:
        if name == "p":
            return jnp.arange(n, dtype=jnp.int32)
        zeros = jnp.zeros(shape, a.dtype)
        return identity_like(zeros) if name in ("q", "q_full") else zeros

    return [
        jnp.broadcast_to(one(name, shape), (*batch, *shape))
        for name, (shape, _) in zip(outputs, shapes, strict=True)
    ]


# --------------------------------------------------------------------------------------- JVP


def _jvp(
    primals: tuple[Array],
    tangents: tuple[Any],
    *,
    outputs: tuple[str, ...],
    pivoting: str,
    transposed: bool,
) -> tuple[list[Array], list[Any]]:
    (a,), (da,) = primals, tangents
    packed = not {"q_full", "h", "tau"}.isdisjoint(outputs)
    pivoted = pivoting != "none"
    needed = ("q", "r", *(("h", "tau") if packed else ()), *(("p",) if pivoted else ()))
    asked = (*outputs, *(name for name in needed if name not in outputs))
    found = qr_p.bind(a, outputs=asked, pivoting=pivoting, transposed=transposed)
    values = dict(zip(asked, found, strict=True))
    primal = [values[name] for name in outputs]
    if is_zero(da) or set(outputs) <= {"p"}:
        return primal, list(map(zero_tangent, primal))
    if pivoted:
        move = rows if transposed else columns
        da = move(da, values["p"])  # (7.1)
    wanted = ("q", "r") if packed else tuple(name for name in ("q", "r") if name in outputs)
    point = (values["q"], values["r"])
    thin = qr_jvp_p.bind(*point, da, outputs=wanted, pivoted=pivoted, transposed=transposed)
    known: dict[str, Any] = dict(zip(wanted, thin, strict=True))
    if packed:
        known = _packed_tangents(values, known, outputs, transposed)
    return primal, [known.get(name, zero_tangent(values[name])) for name in outputs]


def _packed_tangents(
    values: dict[str, Array], thin: dict[str, Array], outputs: tuple[str, ...], transposed: bool
) -> dict[str, Array]:
    """Tangents of the packed outputs and of complete Q, from those of the thin ones."""
    if transposed:
        values, thin = _flipped(values), _flipped(thin)
    found = dict(thin)
    q, h = values["q"], values["h"]
    if "q_full" in outputs:
        rest = completion_jvp(q, h, thin["q"])
        found["q_full"] = beside(thin["q"], rest, q.shape[-2])
    if "h" in outputs or "tau" in outputs:
        found["h"], found["tau"] = raw_jvp(q, h, values["tau"], thin["q"], thin["r"])
    return _flipped(found) if transposed else found


# ------------------------------------------------------------------------------ registration

qr_p = make("qr", ranks=(2,), results=_results, body=_compute)
lower_to_kernel(qr_p, ranks=(2,), results=_results, otherwise=_compute)
name_outputs(qr_p)
derivatives(qr_p, _jvp)
