"""The pivots of a sketch, for which a platform may have a kernel: nothing else of it is needed.

What is left of a column is its part orthogonal to the pivots before. That is found by projections,
of which rounding changes the norms as little as it does those that reflectors leave.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxqr._core.abstract import CoreResult
from jaxqr._core.algebra import H, mm, where
from jaxqr._core.partition import Shape
from jaxqr._core.primitive import make_primitive
from jaxqr._core.scaling import unscale_by
from jaxqr._lowering import cuda, cuda_pivoted
from jaxqr._lowering.by_columns import (
    compute_norms,
    exchange_entries,
    make_natural_order,
    places,
    repeat,
    take_entries,
    take_entry,
)
from jaxqr._lowering.compact_wy import take_rows
from jaxqr._lowering.lapack import LAPACK


def find_sketch_pivots(y: Array, count: int) -> Array:
    """Find the first `count` pivots of a matrix (..., s, n), count <= s and count <= n.

    Returns:
        A permutation (..., n) int32, which begins with the pivots as geqp3's does. Of columns of
        the same norm the first is taken, also where nothing is left of any.
    """
    return sketch_pivots_p.bind(y, count=count)[0]


def _results(y: Shape, *, count: int) -> list[CoreResult]:
    return [((y[1],), jnp.int32)]


def _find(y: Array, *, count: int) -> list[Array]:
    def step(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        yt, order = state
        norm = compute_norms(yt)
        in_order = take_entries(norm[..., 0], order)
        candidates = where(places(order, -1) >= i, in_order, lax.full_like(in_order, -1))
        best = lax.argmax(candidates, order.ndim - 1, jnp.int32)[..., None]
        found = take_entry(order, i, -1), take_entries(order, best)
        # Without the barriers a compiler would find this anew wherever it is used, and would have
        # to copy what it is found in.
        numbers = lax.optimization_barrier(jnp.concatenate([best, *found], axis=-1))
        best, other, chosen = jnp.split(numbers, 3, axis=-1)
        order = exchange_entries(order, i, best, (other, chosen))
        size = take_rows(norm, chosen)
        size = where(size > 0, size, lax.full_like(size, 1))
        direction = lax.optimization_barrier(unscale_by(take_rows(yt, chosen), size))
        return yt - mm(yt, H(direction)) * direction, order

    yt = y.mT
    return [repeat(count, step, (yt, make_natural_order(yt)))[1]]


def _find_by_lapack(y: Array, *, count: int) -> list[Array]:
    del count
    return LAPACK.geqp3(y)[2:]


def _find_by_one_call(y: Array, **params: Any) -> list[Array]:
    del params
    return LAPACK.geqp3_of_even_columns(y)[2:]


def _find_on_cuda(y: Array, *, count: int) -> list[Array]:
    return [cuda_pivoted.choose_pivots(y, count)] if cuda.available() else _find(y, count=count)


sketch_pivots_p = make_primitive(
    "sketch_pivots",
    core_ranks=(2,),
    results=_results,
    body=_find,
    platforms={"cpu": _find_by_lapack, "cuda": _find_on_cuda},
    exported={"cpu": _find_by_one_call, "cuda": _find},
)
