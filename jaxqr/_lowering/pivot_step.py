"""The step of column pivoting in blocks as two primitives, for which a platform may have kernels.

A block has V (..., w, m), its reflectors, and F (..., n, w), such that A - F V is what is left of
the matrix. Of that a step computes the pivot's column and row alone. Matrices of a batch are at
different places, and each ends a block by itself: steps that come after leave it as it is.

All matrices are held by columns. Lowerings alone bind these, so they have no derivative.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxqr._core.abstract import REAL, CoreResult
from jaxqr._core.algebra import H, mm, where
from jaxqr._core.partition import Shape
from jaxqr._core.primitive import make_primitive
from jaxqr._lowering.by_columns import (
    compute_norms,
    exchange_entries,
    make_reflector,
    places,
    take_entries,
    take_entry,
)
from jaxqr._lowering.compact_wy import take_rows


class Block(NamedTuple):
    """A block, some of whose columns are eliminated.

    Where less than the square root of the rounding unit is left of the square of a norm since it
    was last computed, it is in doubt (Drmac and Bujanovic, LAPACK working note 176), and the block
    has ended.
    """

    v: Array  # (..., w, m): the reflectors; zero where there is none yet
    f: Array  # (..., n, w): F
    r: Array  # (..., n, w): the block's rows of R, by columns
    tau: Array  # (..., w)
    order: Array  # (..., n) int32: which column is where; they are moved when the block is done
    norm: Array  # (..., n): the columns' norms in what is left, downdated; -1 if eliminated
    exact: Array  # (..., n): those that were last computed; negative where the norm is in doubt
    done: Array  # (...) int32: how many columns are eliminated


def eliminate_pivot(at: Array, first: Array, block: Block, steps: int) -> Block:
    """Eliminate the column of largest norm.

    Args:
        at: (..., n, m), the matrix before the block.
        first: int32 (...), the row where the block begins.
        block: what was done of the block.
        steps: how many columns are eliminated in all blocks.
    """
    v, f, r, tau, order, norm, exact, count = block
    pivot = pivot_p.bind(at, v, f, tau, order, norm, exact, first, count, steps=steps)
    v, tau, order, count, *chosen = pivot
    f, r, norm, exact = update_p.bind(at, v, f, r, tau, norm, exact, first, count, *chosen)
    return Block(v, f, r, tau, order, norm, exact, count)


def is_open(first: Array, block: Block, steps: int) -> Array:
    """Say of each matrix whether its block goes on (...)."""
    more = (block.done < block.tau.shape[-1]) & (first + block.done < steps)
    return more & ~(jnp.min(block.exact, axis=-1) < 0)


# ------------------------------------------------------------------------------ the pivot's column


def _pivot_results(
    at: Shape, v: Shape, f: Shape, tau: Shape, *rest: Shape, steps: int
) -> list[CoreResult]:
    n, _ = at
    column = [((), jnp.int32), ((), REAL), (tau, None)]
    return [(v, None), (tau, None), ((n,), jnp.int32), ((), jnp.int32), *column]


def _pivot(
    at: Array,
    v: Array,
    f: Array,
    tau: Array,
    order: Array,
    norm: Array,
    exact: Array,
    first: Array,
    count: Array,
    *,
    steps: int,
) -> list[Array]:
    """Choose a column, bring it up to date and make its reflector v_i.

    Returns:
        V, tau, the order and the count after it; which column it is (...), what it has on the
        diagonal of R (...), and V v_i^H (..., w). If the block has ended, the first four stay as
        they are, the column is -1, and the others mean nothing.
    """
    in_order, sure = take_entries(norm, order), take_entries(exact, order)
    best = lax.argmax(in_order, norm.ndim - 1, jnp.int32)[..., None]
    more = (count < tau.shape[-1]) & (first + count < steps)
    going = (more & ~(jnp.min(sure, axis=-1) < 0))[..., None]  # NaN is in no doubt
    position = jnp.minimum(first + count, min(at.shape[-2:]) - 1)[..., None]
    column, other = take_entries(order, best), take_entries(order, position)
    numbers = jnp.concatenate([going.astype(jnp.int32), best, position, column, other], axis=-1)
    # Otherwise a compiler would find them anew in all that follows.
    numbers = lax.optimization_barrier(numbers)
    going, best, position, column, other = jnp.split(numbers, 5, axis=-1)
    going = going > 0
    i = position - first[..., None]
    j = position[..., None]
    x = take_rows(at, column) - mm(take_rows(f, column), v)
    v_i, tau_i, beta = make_reflector(x, compute_norms(where(places(x, -1) >= j, x)), j)
    here = going & (places(tau, -1) == i)
    v = where(~here[..., None], v, v_i)
    return [
        v,
        where(~here, tau, tau_i[..., 0]),
        where(~going, order, exchange_entries(order, position, best, (other, column))),
        count + going[..., 0].astype(jnp.int32),
        where(going, column, lax.full_like(column, -1))[..., 0],
        beta[..., 0, 0].real,
        mm(v, H(v_i))[..., 0],
    ]


pivot_p = make_primitive(
    "pivot", core_ranks=(2, 2, 2, 1, 1, 1, 1, 0, 0), results=_pivot_results, body=_pivot
)


# --------------------------------------------------------------------------------- the pivot's row


def _update_results(at: Shape, v: Shape, f: Shape, *rest: Shape) -> list[CoreResult]:
    n, _ = at
    return [(f, None), (f, None), ((n,), REAL), ((n,), REAL)]


def _update(
    at: Array,
    v: Array,
    f: Array,
    r: Array,
    tau: Array,
    norm: Array,
    exact: Array,
    first: Array,
    count: Array,
    chosen: Array,
    beta: Array,
    g: Array,
    *,
    select_row: bool = False,
) -> list[Array]:
    """Find the column of F for the last reflector v_i, and the row of R; downdate the norms.

    They are those of A^H v_i and of A's row, up to date.

    Returns:
        F, the block's rows of R, the norms, and those last computed. They stay as they are if
        `chosen` is -1.
    """
    first, count, chosen, beta = (x[..., None, None] for x in (first, count, chosen, beta))
    i = jnp.maximum(count - 1, 0)
    j = jnp.minimum(first + i, at.shape[-1] - 1)
    v_i, tau_i = take_entry(v, i, -2), take_entry(tau[..., None, :], i, -1)
    known = mm(f, jnp.concatenate([g[..., None], take_entry(v, j, -1)], axis=-1))
    column = places(at, -2)
    f_i = where(column >= first, tau_i.conj() * (mm(at, H(v_i)) - known[..., :1]))
    if select_row:
        row = jnp.sum(where(places(at, -1) == j, at), axis=-1, keepdims=True)
    else:
        row = take_entry(at, j, -1)
    row = row - known[..., 1:] - f_i
    remains = column != chosen
    going = chosen >= 0
    here = going & (places(f, -1) == i)
    entry = where(remains, row, beta.astype(row.dtype))
    left = where(remains, norm[..., None], lax.full_like(norm[..., None], -1))
    downdated, known_norm = _downdate(left, exact[..., None], row)
    return [
        where(~here, f, f_i),
        where(~here, r, entry),
        where(~going[..., 0], norm, downdated[..., 0]),
        where(~going[..., 0], exact, known_norm[..., 0]),
    ]


def _downdate(norm: Array, exact: Array, row: Array) -> tuple[Array, Array]:
    """Take a row off the columns' norms; mark in `exact` those that are in doubt then."""
    one = lax.full_like(norm, 1)
    left = 1 - jnp.square(jnp.abs(row) / where(norm == 0, one, norm))
    left = jnp.maximum(left, 0)
    ratio = norm / where(exact == 0, one, exact)
    lost = left * jnp.square(ratio) <= jnp.sqrt(jnp.finfo(norm.dtype).eps / 2)
    downdated = where(norm > 0, norm * jnp.sqrt(left), norm)
    return downdated, where(lost & (norm > 0), -exact, exact)


update_p = make_primitive(
    "pivot_update",
    core_ranks=(2, 2, 2, 2, 1, 1, 1, 0, 0, 0, 0, 1),
    results=_update_results,
    body=_update,
    # To take a column of A^T as a sum is no pass of its own over A on a GPU, whose compiler would
    # otherwise copy A^T into the order in which that column is contiguous.
    platforms=dict.fromkeys(("cuda", "rocm"), partial(_update, select_row=True)),
)
