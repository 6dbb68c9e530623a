"""The exchange of columns as a linear primitive, whose transpose is an exchange again."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from jaxqr._core.abstract import CoreResult
from jaxqr._core.partition import Shape
from jaxqr._core.primitive import make_primitive


def permute_columns(x: Array, p: Array) -> Array:
    """Take x[..., :, p], matrix by matrix."""
    return permute_columns_p.bind(p, x, inverse=False)[0]


def _results(p: Shape, x: Shape, *, inverse: bool) -> list[CoreResult]:
    return [(x, None)]


def _permute(p: Array, x: Array, *, inverse: bool) -> list[Array]:
    p = jnp.argsort(p, axis=-1) if inverse else p
    return [jnp.take_along_axis(x, p[..., None, :], axis=-1)]


def _transpose(
    cotangents: Sequence[Array], fixed: Sequence[Array], wanted: Sequence[bool], *, inverse: bool
) -> list[Array]:
    """Exchange back (7.2): this is a gather, and the transpose of a gather a slow scatter."""
    del wanted  # the cotangent of X, which is the only one
    return permute_columns_p.bind(*fixed, cotangents[0], inverse=not inverse)


permute_columns_p = make_primitive(
    "columns",
    core_ranks=(1, 2),
    results=_results,
    body=_permute,
    linear_from=1,
    transpose=_transpose,
)
