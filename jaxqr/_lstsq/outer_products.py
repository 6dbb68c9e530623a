"""Products with a tangent from both sides, and their transpose, as linear primitives.

The rules of the pseudo-inverse multiply dA from both sides. The transpose of both products is one
sum of outer products, which as one primitive passes once over the cotangent of A.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.interpreters import ad

from jaxqr._core.abstract import CoreResult
from jaxqr._core.algebra import H, mm
from jaxqr._core.partition import Shape
from jaxqr._core.primitive import make_primitive


def multiply_both_sides(da: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Compute dA X and dA^H Y for a tangent dA."""
    da_x, ha_y = products_p.bind(x, y, da)
    return da_x, ha_y


# -------------------------------------------------------------------------- dA X and dA^H Y


def _products_results(x: Shape, y: Shape, da: Shape) -> list[CoreResult]:
    return [((da[0], x[1]), None), ((da[1], y[1]), None)]


def _products(x: Array, y: Array, da: Array) -> list[Array]:
    return [mm(da, x), mm(H(da), y)]


def _transpose_products(
    cotangents: Sequence[Any], fixed: Sequence[Array], wanted: Sequence[bool]
) -> list[Array]:
    del wanted  # the cotangent of dA, which is the only one
    # JAX pairs cotangents without conjugation (0.5).
    s, t = (ad.instantiate_zeros(ct).conj() for ct in cotangents)
    return [outer_p.bind(*fixed, s, t)[0].conj()]


products_p = make_primitive(
    "products",
    core_ranks=(2, 2, 2),
    results=_products_results,
    body=_products,
    linear_from=2,
    transpose=_transpose_products,
)


# ----------------------------------------------------------------------------- S X^H + Y T^H


def _outer_results(x: Shape, y: Shape, s: Shape, t: Shape) -> list[CoreResult]:
    return [((y[0], x[0]), None)]


def _outer(x: Array, y: Array, s: Array, t: Array) -> list[Array]:
    return [mm(jnp.concatenate([s, y], axis=-1), H(jnp.concatenate([x, t], axis=-1)))]


def _transpose_outer(
    cotangents: Sequence[Array], fixed: Sequence[Array], wanted: Sequence[bool]
) -> list[Array]:
    both = products_p.bind(*fixed, cotangents[0].conj())
    return [z.conj() for z, w in zip(both, wanted, strict=True) if w]


outer_p = make_primitive(
    "outer",
    core_ranks=(2, 2, 2, 2),
    results=_outer_results,
    body=_outer,
    linear_from=2,
    transpose=_transpose_outer,
)
