"""The linear primitives: tangent map and cotangent map of QR, and the exchange of columns.

The tangent map is linear in dA, and its transpose is the matrix backpropagation of Roberts and
Roberts (arXiv 2009.10071), whose transpose is the tangent map again. So forward mode runs the
tangent's formula and reverse mode the cotangent's, at every order. The fixed operands of both are
Q and R. With `transposed` all matrices are the transposes of those: LQ.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.interpreters import ad

from jaxqr._algebra import H, mm
from jaxqr._primitive import (
    CoreResult,
    Shape,
    derivatives,
    is_zero,
    linear_jvp,
    lower_to_kernel,
    make,
    name_outputs,
)
from jaxqr._tangents import thin_jvp, thin_vjp


def columns(x: Array, p: Array) -> Array:
    """x[..., :, p], matrix by matrix."""
    return columns_p.bind(p, x, inverse=False)[0]


def rows(x: Array, p: Array) -> Array:
    """x[..., p, :], matrix by matrix."""
    return columns(x.mT, p).mT


# ------------------------------------------------------------------------- tangent of (Q, R)


def _tangent_results(
    q: Shape,
    r: Shape,
    da: Shape,
    *,
    outputs: tuple[str, ...],
    pivoted: bool,
    transposed: bool,
) -> list[CoreResult]:
    return [({"q": q, "r": r}[name], None) for name in outputs]


def _tangent(
    q: Array,
    r: Array,
    da: Array,
    *,
    outputs: tuple[str, ...],
    pivoted: bool,
    transposed: bool,
) -> list[Array]:
    if 0 in da.shape:
        return [jnp.zeros_like({"q": q, "r": r}[name]) for name in outputs]
    if transposed:
        plain = thin_jvp(q.mT, r.mT, da.mT, outputs=outputs, pivoted=pivoted)
        return [x.mT for x in plain]
    return thin_jvp(q, r, da, outputs=outputs, pivoted=pivoted)


def _transpose_tangent(
    cotangents: list[Any],
    q: Array,
    r: Array,
    da: Any,
    *,
    outputs: tuple[str, ...],
    pivoted: bool,
    transposed: bool,
) -> tuple[None, None, Any]:
    live = [(name, ct) for name, ct in zip(outputs, cotangents, strict=True) if not is_zero(ct)]
    if not live:
        return None, None, ad.Zero(da.aval.to_ct_aval())
    names, cts = zip(*live, strict=True)
    (abar,) = qr_vjp_p.bind(q, r, *cts, inputs=names, pivoted=pivoted, transposed=transposed)
    return None, None, abar


qr_jvp_p = make("qr_jvp", ranks=(2,), results=_tangent_results, body=_tangent, linear_from=2)
name_outputs(qr_jvp_p)
lower_to_kernel(qr_jvp_p, ranks=(2,), results=_tangent_results, otherwise=_tangent)
linear_jvp(qr_jvp_p, _tangent, linear_from=2)
derivatives(qr_jvp_p, transpose=_transpose_tangent)


# ----------------------------------------------------------------------------- cotangent of A


def _cotangent_results(
    q: Shape,
    r: Shape,
    *cts: Shape,
    inputs: tuple[str, ...],
    pivoted: bool,
    transposed: bool,
) -> list[CoreResult]:
    return [((r[0], q[1]) if transposed else (q[0], r[1]), None)]


def _cotangent(
    q: Array,
    r: Array,
    *cts: Array,
    inputs: tuple[str, ...],
    pivoted: bool,
    transposed: bool,
) -> list[Array]:
    if transposed:
        flipped = (x.mT for x in cts)
        plain = _cotangent(q.mT, r.mT, *flipped, inputs=inputs, pivoted=pivoted, transposed=False)
        return [plain[0].mT]
    if 0 in q.shape or 0 in r.shape:
        return [jnp.zeros((*q.shape[:-1], r.shape[-1]), q.dtype)]
    # JAX pairs cotangents without conjugation (0.5)
    given = {name: ct.conj() for name, ct in zip(inputs, cts, strict=True)}
    return [thin_vjp(q, r, given.get("q"), given.get("r"), pivoted=pivoted).conj()]


def _transpose_cotangent(
    cotangents: list[Any],
    q: Array,
    r: Array,
    *linear: Any,
    inputs: tuple[str, ...],
    pivoted: bool,
    transposed: bool,
) -> tuple[Any, ...]:
    wanted = [ad.is_undefined_primal(x) for x in linear]
    if is_zero(cotangents[0]):
        out = [ad.Zero(x.aval.to_ct_aval()) for x in linear if ad.is_undefined_primal(x)]
    else:
        names = tuple(name for name, w in zip(inputs, wanted, strict=True) if w)
        out = qr_jvp_p.bind(
            q, r, cotangents[0], outputs=names, pivoted=pivoted, transposed=transposed
        )
    given = iter(out)
    return None, None, *(next(given) if w else None for w in wanted)


qr_vjp_p = make("qr_vjp", ranks=(2,), results=_cotangent_results, body=_cotangent, linear_from=2)
lower_to_kernel(qr_vjp_p, ranks=(2,), results=_cotangent_results, otherwise=_cotangent)
linear_jvp(qr_vjp_p, _cotangent, linear_from=2)
derivatives(qr_vjp_p, transpose=_transpose_cotangent)


# --------------------------------------------------------------------------- exchange of columns


def _columns_results(p: Shape, x: Shape, *, inverse: bool) -> list[CoreResult]:
    return [(x, None)]


def _columns(p: Array, x: Array, *, inverse: bool) -> list[Array]:
    p = jnp.argsort(p, axis=-1) if inverse else p
    return [jnp.take_along_axis(x, p[..., None, :], axis=-1)]


def _transpose_columns(
    cotangents: list[Any], p: Array, x: Any, *, inverse: bool
) -> tuple[None, Any]:
    if is_zero(cotangents[0]):
        return None, ad.Zero(x.aval.to_ct_aval())
    # (7.2): a gather again, where the transpose of a gather would be a scatter
    return None, columns_p.bind(p, cotangents[0], inverse=not inverse)[0]


columns_p = make("columns", ranks=(1, 2), results=_columns_results, body=_columns, linear_from=1)
linear_jvp(columns_p, _columns, linear_from=1)
derivatives(columns_p, transpose=_transpose_columns)


# ------------------------------------------------------------- products with a tangent, both sides


def products(da: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Of a tangent dA: dA X and dA^H Y. Their transpose is one sum of outer products."""
    da_x, ha_y = products_p.bind(x, y, da)
    return da_x, ha_y


def _products_results(x: Shape, y: Shape, da: Shape) -> list[CoreResult]:
    return [((da[0], x[1]), None), ((da[1], y[1]), None)]


def _products(x: Array, y: Array, da: Array) -> list[Array]:
    return [mm(da, x), mm(H(da), y)]


def _transpose_products(cotangents: list[Any], x: Array, y: Array, da: Any) -> tuple[Any, ...]:
    if all(map(is_zero, cotangents)):
        return None, None, ad.Zero(da.aval.to_ct_aval())
    s, t = (ad.instantiate_zeros(ct).conj() for ct in cotangents)
    return None, None, outer_p.bind(x, y, s, t)[0].conj()


products_p = make("products", ranks=(2,), results=_products_results, body=_products, linear_from=2)
linear_jvp(products_p, _products, linear_from=2)
derivatives(products_p, transpose=_transpose_products)


def _outer_results(x: Shape, y: Shape, s: Shape, t: Shape) -> list[CoreResult]:
    return [((y[0], x[0]), None)]


def _outer(x: Array, y: Array, s: Array, t: Array) -> list[Array]:
    """S X^H + Y T^H."""
    return [mm(jnp.concatenate([s, y], axis=-1), H(jnp.concatenate([x, t], axis=-1)))]


def _transpose_outer(cotangents: list[Any], x: Array, y: Array, s: Any, t: Any) -> tuple[Any, ...]:
    wanted = [ad.is_undefined_primal(z) for z in (s, t)]
    if is_zero(cotangents[0]):
        zeros = (ad.Zero(z.aval.to_ct_aval()) for z in (s, t) if ad.is_undefined_primal(z))
        return None, None, *(next(zeros) if w else None for w in wanted)
    both = products_p.bind(x, y, cotangents[0].conj())
    return None, None, *(z.conj() if w else None for z, w in zip(both, wanted, strict=True))


outer_p = make("outer", ranks=(2,), results=_outer_results, body=_outer, linear_from=2)
linear_jvp(outer_p, _outer, linear_from=2)
derivatives(outer_p, transpose=_transpose_outer)
