"""Column pivoting in blocks, as LAPACK's laqps, in plain HLO.

Of what is left of the matrix after some columns only the pivot's column and row are computed, in
``pivot_step``. The rest is brought up to date when the block is done.
"""

from functools import partial

import jax.numpy as jnp
from jax import Array, lax

from jaxqr._core.algebra import mm, row_minus_column, where
from jaxqr._lowering.by_columns import (
    WIDTH,
    Factors,
    compute_norms,
    make_natural_order,
    places,
    repeat,
    take_entries,
)
from jaxqr._lowering.compact_wy import take_rows
from jaxqr._lowering.pivot_step import Block, eliminate_pivot, is_open


def eliminate_pivoted_blocks(at: Array, steps: int, *, ask: bool) -> Factors:
    """Eliminate the leading columns in blocks, as LAPACK's laqps, with its pivots.

    A block ends early where a norm is in doubt: small columns of what is left are known best when
    the large ones that they came from have been subtracted. Each matrix of a batch has blocks of
    its own, so it is factored as if it were alone.

    Args:
        at: the matrix, by columns.
        steps: how many columns are eliminated.
        ask: whether every step asks if a block goes on. Otherwise a block has all of its steps,
            and those after its end do nothing: on a GPU the question is dearer than a step.
    """
    *batch, _, _ = at.shape

    def block(state: tuple[Array, Factors]) -> tuple[Array, Factors]:
        first, (at, tau, p) = state
        start = _start(at, first)
        step = partial(eliminate_pivot, at, first, steps=steps)
        if ask:
            done = lax.while_loop(lambda x: jnp.any(is_open(first, x, steps)), step, start)
        else:
            done = repeat(WIDTH, lambda _, block: step(block), start)
        return _finish(first, at, tau, p, done)

    factors = Factors(at, jnp.zeros((*batch, steps), at.dtype), make_natural_order(at))
    begin = jnp.zeros(batch, jnp.int32), factors
    return lax.while_loop(lambda state: jnp.any(state[0] < steps), block, begin)[1]


def _start(at: Array, first: Array) -> Block:
    """Begin a block at row `first` (...) of each matrix."""
    *batch, n, m = at.shape
    column = places(at, -2)[..., 0]
    left = where(places(at, -1) >= first[..., None, None], at)
    exact = compute_norms(left)[..., 0]
    norm = where(column >= first[..., None], exact, lax.full_like(exact, -1))
    v, f = (jnp.zeros((*batch, *shape), at.dtype) for shape in ((WIDTH, m), (n, WIDTH)))
    return Block(v, f, f, v[..., 0], make_natural_order(at), norm, exact, jnp.zeros_like(first))


def _finish(first: Array, at: Array, tau: Array, p: Array, block: Block) -> tuple[Array, Factors]:
    """Put the columns of a block into their places, and subtract its product from the others."""
    count = block.done
    start, after = first[..., None, None], (first + count)[..., None, None]

    row = places(at, -1)
    left = at - where(row >= after, mm(block.f, block.v))
    # The rows of R are put where they belong by a product with rows of the identity.
    unit = (row == places(block.v, -2) + start).astype(at.dtype)
    left = where((row < start) | (row >= after), left, mm(block.r, unit))
    at = take_rows(left, block.order)

    index = make_natural_order(at) - first[..., None]
    inside = (index >= 0) & (index < count[..., None])
    index = jnp.clip(index, 0, WIDTH - 1)
    below = inside[..., None] & (row_minus_column(at) < 0)
    at = where(~below, at, take_rows(block.v, index))

    steps = tau.shape[-1]
    new = take_entries(block.tau, index[..., :steps])
    tau = where(~inside[..., :steps], tau, new)
    return first + count, Factors(at, tau, take_entries(p, block.order))
