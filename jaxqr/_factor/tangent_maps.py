"""The derivative of QR as linear primitives: the tangent map and the cotangent map.

The tangent map is linear in dA, and its transpose is the matrix backpropagation of Roberts and
Roberts (arXiv 2009.10071), whose transpose is the tangent map again. So forward mode runs the
tangent's formula and reverse mode the cotangent's, at every order. The fixed operands of both are
Q and R. Both have a mirror: LQ.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, export

from jaxqr._core.abstract import CoreResult
from jaxqr._core.partition import Shape
from jaxqr._core.primitive import is_zero, make_primitive
from jaxqr._factor.rules import thin_jvp, thin_vjp
from jaxqr._lowering import cuda, kernels

# A kernel is quicker on copies of Q and R for so many tangents, or for matrices of such a size,
# than products and solves that take all tangents at once (measured with up to 256 x 256).
MANY_TANGENTS = 16
SMALL_MATRIX = 16


def _map_body(size: int, operands: Sequence[Array]) -> bool:
    """Say whether tangents at one point are to be more columns of the rules' products."""
    if not (kernels.available() or cuda.available()):
        return True
    sizes = (size, *operands[0].shape[-2:], *operands[1].shape[-2:])
    if any(map(export.is_symbolic_dim, sizes)):
        return True
    return size < MANY_TANGENTS and max(sizes[1:]) > SMALL_MATRIX


# ------------------------------------------------------------------------- tangent of (Q, R)


def _tangent_results(
    q: Shape, r: Shape, da: Shape, *, outputs: tuple[str, ...], pivoted: bool
) -> list[CoreResult]:
    shapes = {"q": q, "r": r}
    return [(shapes[name], None) for name in outputs]


def _tangent(
    q: Array, r: Array, da: Array, *, outputs: tuple[str, ...], pivoted: bool
) -> list[Array]:
    if 0 in da.shape:
        return [jnp.zeros_like(q if name == "q" else r) for name in outputs]
    return thin_jvp(q, r, da, outputs=outputs, pivoted=pivoted)


def _transpose_tangent(
    bind: Callable[..., list[Array]],
    cotangents: Sequence[Any],
    fixed: Sequence[Array],
    wanted: Sequence[bool],
    *,
    outputs: tuple[str, ...],
    pivoted: bool,
) -> list[Array]:
    del wanted  # the cotangent of dA, which is the only one
    live = [(name, ct) for name, ct in zip(outputs, cotangents, strict=True) if not is_zero(ct)]
    names, cts = zip(*live, strict=True)
    return bind(qr_vjp_p, *fixed, *cts, inputs=names, pivoted=pivoted)


qr_jvp_p = make_primitive(
    "qr_jvp",
    core_ranks=(2, 2, 2),
    results=_tangent_results,
    body=_tangent,
    linear_from=2,
    transpose=_transpose_tangent,
    map_body=_map_body,
    named_outputs=True,
    mirrored=True,
    kernels={"cpu": kernels.compute, "cuda": cuda.compute},
)


# ----------------------------------------------------------------------------- cotangent of A


def _cotangent_ranks(*, inputs: tuple[str, ...], **params: Any) -> tuple[int, ...]:
    return 2, 2, *(2 for _ in inputs)


def _cotangent_results(
    q: Shape, r: Shape, *cts: Shape, inputs: tuple[str, ...], pivoted: bool
) -> list[CoreResult]:
    return [((q[0], r[1]), None)]


def _cotangent(
    q: Array, r: Array, *cts: Array, inputs: tuple[str, ...], pivoted: bool
) -> list[Array]:
    if 0 in q.shape or 0 in r.shape:
        return [jnp.zeros((*q.shape[:-1], r.shape[-1]), q.dtype)]
    # JAX pairs cotangents without conjugation (0.5).
    given = {name: ct.conj() for name, ct in zip(inputs, cts, strict=True)}
    return [thin_vjp(q, r, given.get("q"), given.get("r"), pivoted=pivoted).conj()]


def _transpose_cotangent(
    bind: Callable[..., list[Array]],
    cotangents: Sequence[Array],
    fixed: Sequence[Array],
    wanted: Sequence[bool],
    *,
    inputs: tuple[str, ...],
    pivoted: bool,
) -> list[Array]:
    names = tuple(name for name, w in zip(inputs, wanted, strict=True) if w)
    return bind(qr_jvp_p, *fixed, cotangents[0], outputs=names, pivoted=pivoted)


qr_vjp_p = make_primitive(
    "qr_vjp",
    core_ranks=_cotangent_ranks,
    results=_cotangent_results,
    body=_cotangent,
    linear_from=2,
    transpose=_transpose_cotangent,
    map_body=_map_body,
    mirrored=True,
    kernels={"cpu": kernels.compute, "cuda": cuda.compute},
)
