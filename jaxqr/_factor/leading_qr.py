"""The primitive of QR with the leading pivots only: k columns, and what they say of all others.

A P is Q R + E, where Q (m, k) and the leading k columns of R (k, n) are the QR of the k columns
that pivoting takes first, the other columns of R are Q^H times the other columns of A, and E is
what is left of these. With k = min(m, n) nothing is left, and it is the QR of ``qr_primitive``.

Its outputs, by name: "q", "r" and the permutation "p" (n,). The primitive has a mirror, for LQ.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxqr._core.abstract import CoreResult
from jaxqr._core.algebra import H, mm, put_beside, real_diagonal, triu
from jaxqr._core.partition import Shape
from jaxqr._core.primitive import is_zero, make_primitive
from jaxqr._core.scaling import unscale_by
from jaxqr._core.undocumented import zero_tangent
from jaxqr._factor.packed import orgqr_p
from jaxqr._factor.permutation import permute_columns
from jaxqr._factor.pivoting import find_method
from jaxqr._factor.qr_primitive import bind_for_more, factor_pivoted
from jaxqr._factor.tangent_maps import qr_jvp_p
from jaxqr._lowering import kernels


def _results(a: Shape, *, outputs: tuple[str, ...], pivoting: str, steps: int) -> list[CoreResult]:
    m, n = a
    table: dict[str, CoreResult] = {
        "q": ((m, steps), None),
        "r": ((steps, n), None),
        "p": ((n,), jnp.int32),
    }
    return [table[name] for name in outputs]


def _factor(a: Array, *, outputs: tuple[str, ...], pivoting: str, steps: int) -> list[Array]:
    """Factor with all pivots, and keep the leading ones: rows of R do not change any more."""
    pivot = find_method(pivoting).factor
    assert pivot is not None, "leading pivots without pivoting"
    h, tau, scale, p = factor_pivoted(a, pivot)
    found = {"p": p}
    if "r" in outputs:
        found["r"] = triu(real_diagonal(unscale_by(h[..., :steps, :], scale)))
    if "q" in outputs:
        (found["q"],) = orgqr_p.bind(h[..., :steps], tau[..., :steps])
    return [found[name] for name in outputs]


def _jvp(
    bind: Callable[..., list[Array]],
    primals: Sequence[Array],
    tangents: Sequence[Any],
    *,
    outputs: tuple[str, ...],
    pivoting: str,
    steps: int,
) -> tuple[list[Array], list[Any]]:
    """Differentiate with the pivots held: (7.1), and R's other columns as the products they are."""
    (a,), (da,) = primals, tangents
    params = {"pivoting": pivoting, "steps": steps}
    values = bind_for_more(bind, leading_qr_p, a, outputs, ("q", "r", "p"), **params)
    primal = [values[name] for name in outputs]
    if is_zero(da) or set(outputs) <= {"p"}:
        return primal, list(map(zero_tangent, primal))
    q, r, p = (values[name] for name in ("q", "r", "p"))
    permuted, da = permute_columns(a, p), permute_columns(da, p)
    thin = r[..., :steps], da[..., :steps]
    dq, dr1 = bind(qr_jvp_p, q, *thin, outputs=("q", "r"), pivoted=True)
    dr2 = mm(H(dq), permuted[..., steps:]) + mm(H(q), da[..., steps:])
    known = {"q": dq, "r": put_beside(dr1, dr2, a.shape[-1])}
    return primal, [known.get(name, zero_tangent(values[name])) for name in outputs]


leading_qr_p = make_primitive(
    "leading_qr",
    core_ranks=(2,),
    results=_results,
    body=_factor,
    jvp=_jvp,
    named_outputs=True,
    mirrored=True,
    kernels={"cpu": kernels.compute},
)


def _factor_without_steps(a: Array, outputs: tuple[str, ...], transposed: bool) -> list[Array]:
    found = {"q": a[..., :0], "r": a[..., :0, :]}
    found = {name: x.mT if transposed else x for name, x in found.items()}
    row = jnp.sum(a, axis=-2)  # for its shape and sharding
    place = lax.broadcasted_iota(jnp.int32, (1,) * (row.ndim - 1) + row.shape[-1:], row.ndim - 1)
    found["p"] = lax.full_like(row, 0, jnp.int32) + place
    return [found[name] for name in outputs]


def factor_leading(
    a: Array, *outputs: str, steps: int, pivoting: str, transposed: bool = False
) -> list[Array]:
    """Factor matrices (..., m, n) with as many pivots as `steps` says; give the outputs named."""
    if steps == 0:
        return _factor_without_steps(a.mT if transposed else a, outputs, transposed)
    params = {"steps": steps, "pivoting": pivoting, "transposed": transposed}
    return leading_qr_p.bind(a, outputs=outputs, **params)
