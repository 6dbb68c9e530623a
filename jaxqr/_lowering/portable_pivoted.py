"""Column pivoting in blocks, as LAPACK's laqps, in plain HLO.

Of what is left of the matrix after some columns only the pivot's column and row are computed. The
rest is brought up to date when the block is done.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxqr._core.algebra import H, mm, where
from jaxqr._lowering.by_columns import (
    WIDTH,
    Factors,
    compute_norms,
    exchange_entries,
    make_natural_order,
    make_reflector,
    places,
    put,
    take_entries,
    take_entry,
)
from jaxqr._lowering.compact_wy import take_rows


class _Block(NamedTuple):
    """A block, some of whose columns are eliminated. V F is yet to be subtracted from A."""

    v: Array  # (..., w, m): the reflectors
    f: Array  # (..., n, w): F, by columns
    r: Array  # (..., n, w): the block's rows of R, by columns
    tau: Array  # (..., w)
    order: Array  # (..., n) int32: which column is where; they are moved when the block is done
    norm: Array  # (..., n, 1): the columns' norms in what is left, downdated; -1 if eliminated
    exact: Array  # (..., n, 1): the norms that were last computed, from which they were downdated
    i: Array  # how many columns are eliminated
    doubt: Array  # whether a norm of any matrix is in doubt


def eliminate_pivoted_blocks(at: Array, steps: int) -> Factors:
    """Eliminate the leading columns in blocks, as LAPACK's laqps, with its pivots.

    A block ends early where a norm is in doubt: small columns of what is left are known best when
    the large ones that they came from have been subtracted.
    """

    def block(state: tuple[Array, Factors]) -> tuple[Array, Factors]:
        first, (at, tau, p) = state
        width = jnp.minimum(WIDTH, steps - first)
        done = lax.while_loop(
            lambda block: (block.i < width) & ~block.doubt,
            partial(_step, at, first),
            _start(at, first),
        )
        after = first + done.i
        at = at - where(places(at, -1) >= after, mm(done.f, done.v))
        at = take_rows(_put_block(at, done.r, first, done.i, -1), done.order)
        at = _put_block(at, done.v, first, done.i, -2)
        tau = _put_block(tau, done.tau, first, done.i, -1)
        return after, Factors(at, tau, take_entries(p, done.order))

    tau = jnp.zeros((*at.shape[:-2], steps), at.dtype)
    factors = Factors(at, tau, make_natural_order(at))
    return lax.while_loop(lambda state: state[0] < steps, block, (jnp.int32(0), factors))[1]


def _start(at: Array, first: Array) -> _Block:
    *batch, n, m = at.shape
    norm = compute_norms(where(places(at, -1) >= first, at))
    norm = where(places(at, -2) >= first, norm, lax.full_like(norm, -1))
    v, f = (jnp.zeros((*batch, *shape), at.dtype) for shape in ((WIDTH, m), (n, WIDTH)))
    fixed = (make_natural_order(at), norm, norm, jnp.int32(0), jnp.bool_(False))
    return _Block(v, f, f, v[..., 0], *fixed)


def _step(at: Array, first: Array, block: _Block) -> _Block:
    """Eliminate a column. Of what is left only the pivot's column and row are computed."""
    v, f, r, tau, order, norm, _, i, _ = block
    j = first + i
    best = jnp.argmax(take_entries(norm[..., 0], order), axis=-1, keepdims=True).astype(jnp.int32)
    chosen = take_entries(order, best)
    x = take_rows(at, chosen) - mm(take_rows(f, chosen), v)
    v_i, tau_i, beta = make_reflector(x, compute_norms(where(places(x, -1) >= j, x)), j)
    # The products of reflector i and of row j with V, and with the columns that are left.
    known = mm(f, jnp.concatenate([mm(v, H(v_i)), take_entry(v, j, -1)], axis=-1))
    column = places(at, -2)
    f_i = where(column >= first, tau_i.conj() * (mm(at, H(v_i)) - known[..., :1]))
    row = take_entry(at, j, -1) - known[..., 1:] - f_i
    remains = column != chosen[..., None]
    block = block._replace(
        v=put(v, v_i, i, -2),
        f=put(f, f_i, i, -1),
        r=put(r, where(remains, row, beta), i, -1),
        tau=put(tau, tau_i[..., 0], i, -1),
        order=exchange_entries(order, j, best),
        norm=where(remains, norm, lax.full_like(norm, -1)),
        i=i + 1,
    )
    return _downdate(block, row)


def _downdate(block: _Block, row: Array) -> _Block:
    """Take a row off the columns' norms.

    Downdating cancels: where less than the square root of the rounding unit is left of the last
    exact norm, it is in doubt (Drmac and Bujanovic, LAPACK working note 176).
    """
    norm, exact = block.norm, block.exact
    one = lax.full_like(norm, 1)
    left = 1 - jnp.square(jnp.abs(row) / where(norm == 0, one, norm))
    left = jnp.maximum(left, 0)
    ratio = norm / where(exact == 0, one, exact)
    lost = left * jnp.square(ratio) <= jnp.sqrt(jnp.finfo(norm.dtype).eps / 2)
    downdated = where(norm > 0, norm * jnp.sqrt(left), norm)
    return block._replace(norm=downdated, doubt=jnp.any(lost & (norm > 0)))


def _put_block(x: Array, part: Array, first: Array, count: Array, axis: int) -> Array:
    """Put the leading rows (axis -2, right of the diagonal), columns or entries of a block."""
    size = x.shape[axis]
    start = jnp.minimum(first, size - WIDTH)  # near the end a slice would be moved by itself
    old = lax.dynamic_slice_in_dim(x, start, WIDTH, axis=axis)
    place = start + places(old, axis)
    inside = (place >= first) & (place < first + count)
    inside = inside & (places(old, -1) > place) if axis == -2 else inside
    new = jnp.roll(part, first - start, axis=axis)
    return put(x, where(inside, new, old), start, axis)
