"""Randomized column pivoting: blocks of pivots at a time, chosen from a sketch (HQRRP, BQRRP).

A sketch is a product with a random matrix of few rows, and its pivots are good ones of the whole:
so everything of the matrix's size is a product of matrices. As in ``by_columns``, matrices are held
by columns, and the batch is in every array.

The random numbers are a hash of their place: fixed, the same on every platform, one fused loop in
the program. A key of JAX would depend on its configuration and take longer to compile than all
the rest.

Source: Martinsson, Quintana-Orti, Heavner and van de Geijn, arXiv 1512.02671; Melnichenko and
others, arXiv 2507.00976.
"""

import jax.numpy as jnp
from jax import Array, lax

from jaxqr._core.algebra import mm, where
from jaxqr._factor.packed import geqp3_p, geqrf_p
from jaxqr._lowering.by_columns import (
    Factors,
    factor_in_stages,
    make_natural_order,
    places,
    put,
    repeat,
    take_entries,
)
from jaxqr._lowering.compact_wy import apply_block, form_t, take_rows, unpack_panel
from jaxqr._lowering.sketch_pivots import find_sketch_pivots

WIDTH = 64  # columns of a block
OVERSAMPLING = 8  # rows that a sketch has more
SMALL = 2 * WIDTH  # so many columns or rows are pivoted exactly: that is as quick


def geqp3(a: Array) -> list[Array]:
    """Factor with column pivoting; give (h, tau, p), p counted from 0."""
    h, tau, p = factor_in_stages(a.mT, _eliminate_blocks, _factor_exactly, WIDTH, SMALL)
    return [h.mT, tau, p]


def _factor_exactly(at: Array) -> Factors:
    h, tau, p = geqp3_p.bind(at.mT)
    return Factors(h.mT, tau, p)


def _eliminate_blocks(at: Array, steps: int) -> Factors:
    """Eliminate the leading columns in blocks."""

    def block(b: Array, state: Factors) -> Factors:
        at, taus, p = state
        first = b * WIDTH
        order = _choose_order(at, first)
        panel = take_rows(at, lax.dynamic_slice_in_dim(order, first, WIDTH, axis=-1))
        # The rows from the diagonal on go to the top. The zeros below them change nothing.
        left = places(panel, -1) >= first
        h, tau = geqrf_p.bind(jnp.roll(where(left, panel), -first, axis=-1).mT)
        ht = jnp.roll(h.mT, first, axis=-1)
        v = unpack_panel(ht, first)
        t = form_t(mm(v.conj(), v.mT), tau)
        at = apply_block(at, v, t, first + WIDTH, order)
        at = put(at, where(left, ht, panel), first, -2)
        return Factors(at, put(taus, tau, first, -1), take_entries(p, order))

    tau = jnp.zeros((*at.shape[:-2], steps), at.dtype)
    return repeat(steps // WIDTH, block, Factors(at, tau, make_natural_order(at)))


def _choose_order(at: Array, first: Array) -> Array:
    """Order the columns so that the pivots of a sketch come to the place of the block.

    Every block has a sketch of its own, a third of all operations. One that is downdated would
    lose its digits where what is left decays, and to see that of a batch in time takes a branch
    common to all, which devices would have to agree on in every block.
    """
    *_, n, m = at.shape
    y = mm(at, _draw(m, WIDTH + OVERSAMPLING, first, at.dtype))
    # Columns that are done go to the end as zeros: among zeros the first is taken as the pivot.
    y = jnp.roll(where(places(y, -2) >= first, y), -first, axis=-2)
    p = find_sketch_pivots(y.mT, WIDTH)
    return lax.rem(jnp.roll(p, first, axis=-1) + first, jnp.int32(n))


def _draw(m: int, s: int, first: Array, dtype: jnp.dtype) -> Array:
    """Draw m x s uniform numbers of [-1, 1), with zeros in the rows before `first`.

    The hash is Wellons' lowbias32. What is left of the matrix has fewer rows in every block, so
    their number makes the blocks' numbers different.
    """
    row, column = (lax.broadcasted_iota(jnp.uint32, (m, s), axis) for axis in (0, 1))
    seed = (m - first).astype(jnp.uint32) * jnp.uint32(0x9E3779B9)
    x = row * jnp.uint32(s) + column + seed
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    signed = lax.bitcast_convert_type(x ^ (x >> 16), jnp.int32)
    uniform = signed.astype(jnp.finfo(dtype).dtype) / 2.0**31
    return where(row >= first.astype(jnp.uint32), uniform).astype(dtype)
