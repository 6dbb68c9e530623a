"""Householder's method in plain HLO: runs wherever XLA does. Signs, tau and pivots are LAPACK's.

Matrices are held by columns, as LAPACK holds them: transposed, so that a column is a row in
memory. Batch dimensions are everywhere, so no branch is taken for one matrix and computed for
another. Few columns (or rows) are eliminated one by one; more of them in blocks, after which the
rest is brought up to date by products of matrices.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, export, lax
from jax.core import min_dim

from jaxqr._algebra import H, mm, where
from jaxqr._reflectors import apply_block, apply_reflectors, form_reflectors, take_rows

WIDTH = 32  # of a block
LARGE = 512  # from so many columns or rows on there is more than one stage


def geqrf(a: Array) -> list[Array]:
    """Factor: (h, tau)."""
    h, tau, _ = in_stages(a.mT, _blocks, lambda at: _one_by_one(at, pivoting=False))
    return [h.mT, tau]


def geqp3(a: Array) -> list[Array]:
    """Factor with column pivoting: (h, tau, p), p counted from 0."""
    h, tau, p = in_stages(a.mT, _pivoted_blocks, lambda at: _one_by_one(at, pivoting=True))
    return [h.mT, tau, p]


def orgqr(h: Array, tau: Array) -> list[Array]:
    """Form the leading columns of Q."""
    return [form_reflectors(h, tau)]


def ormqr(h: Array, tau: Array, c: Array, *, left: bool, adjoint: bool) -> list[Array]:
    """Apply Q or its adjoint to `c` from the left or the right."""
    return [apply_reflectors(h, tau, c, left=left, adjoint=adjoint)]


# ----------------------------------------------------------------------- stages of blocks


class Factors(NamedTuple):
    """A factorization on its way, by columns."""

    at: Array  # (..., n, m): R and the reflectors where it is done, elsewhere what is left
    tau: Array  # (..., k)
    p: Array  # (..., n) int32: the columns so far exchanged; the natural order without pivoting


def in_stages(
    at: Array,
    blocks: Callable[[Array, int], Factors],
    whole: Callable[[Array], Factors],
    width: int = WIDTH,
    small: int = WIDTH,
) -> Factors:
    """Factor, the leading columns by `blocks`, a multiple of `width`, and the last by `whole`.

    The last are less than `width`, or not more than `small`.

    A loop has arrays of one size. So it is left after a third of the columns, and what remains is
    a problem of its own: with one loop for all of them a square matrix would cost three times the
    operations needed, so it costs half as much again.
    """
    *_, n, m = at.shape
    k = min_dim(m, n)
    if export.is_symbolic_dim(k):
        return whole(at)
    steps = k // width * width if k < LARGE else k // 3 // width * width
    if steps == 0 or k <= small:
        return whole(at)
    done = blocks(at, steps)
    if steps == k:
        return done
    rest = in_stages(done.at[..., steps:, steps:], blocks, whole, width, small)
    order = jnp.concatenate([done.p[..., :steps], take(done.p[..., steps:], rest.p)], axis=-1)
    above = take_rows(done.at[..., steps:, :steps], rest.p)
    below = jnp.concatenate([above, rest.at], axis=-1)
    return Factors(
        jnp.concatenate([done.at[..., :steps, :], below], axis=-2),
        jnp.concatenate([done.tau, rest.tau], axis=-1),
        order,
    )


def natural_order(at: Array) -> Array:
    """The columns as they are."""
    return lax.broadcasted_iota(jnp.int32, at.shape[:-1], at.ndim - 2)


def take(x: Array, index: Array) -> Array:
    """Entries of the last dimension."""
    return jnp.take_along_axis(x, index, axis=-1, mode="promise_in_bounds")


def places(x: Array, axis: int) -> Array:
    """The indices along an axis, for a batch of one."""
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    return lax.broadcasted_iota(jnp.int32, shape, x.ndim + axis)


def _entry(x: Array, i: Array, axis: int) -> Array:
    return lax.dynamic_slice_in_dim(x, i, 1, axis=axis)


def put(x: Array, part: Array, i: Array, axis: int) -> Array:
    """`x` with `part` in the place of what begins at index i along an axis."""
    return lax.dynamic_update_slice_in_dim(x, part, i, axis=axis)


# ------------------------------------------------------------------------------ reflectors


def _norms(at: Array) -> Array:
    """Two-norms of the columns, (..., n, 1), without overflow or underflow of a square."""
    size = jnp.abs(at)
    largest = jnp.max(size, axis=-1, keepdims=True, initial=0)
    ordinary = (largest > 0) & ~jnp.isinf(largest)
    scale = where(ordinary, largest, lax.full_like(largest, 1))
    return scale * jnp.sqrt(jnp.sum(jnp.square(size / scale), axis=-1, keepdims=True))


class _Reflector(NamedTuple):
    v: Array  # (..., 1, m): zero before entry j, there 1
    tau: Array  # (..., 1, 1)
    beta: Array  # (..., 1, 1): what is left of the column


def _reflector(x: Array, norm: Array, j: Array) -> _Reflector:
    """Annihilate the column `x` (..., 1, m) after entry j, as LAPACK's larfg.

    `norm` (..., 1, 1) is that of the entries from j on.
    """
    place = places(x, -1)
    alpha, below = _entry(x, j, -1), where(place > j, x)
    trivial = jnp.all(below == 0, axis=-1, keepdims=True) & (jnp.imag(alpha) == 0)
    one = lax.full_like(alpha, 1)
    real = jnp.real(alpha)
    negative = where(real == 0, 1 / real, real) < 0  # -0.0 is, as for LAPACK
    beta = where(negative, norm, -norm).astype(x.dtype)
    tau = where(trivial, lax.full_like(alpha, 0), (beta - alpha) / where(trivial, one, beta))
    v = below / where(trivial, one, alpha - beta)
    return _Reflector(where(place == j, lax.full_like(v, 1), v), tau, where(trivial, alpha, beta))


# ------------------------------------------------------------------- column after column


def _one_by_one(at: Array, *, pivoting: bool, first: Array | int = 0) -> Factors:
    """Eliminate column after column, each where its diagonal entry is, from row `first` on.

    The norms of the columns are computed anew in every step: that costs as much as the step.
    """
    *batch, n, m = at.shape
    k = min_dim(m, n)
    column, row = places(at, -2), places(at, -1)

    def step(i: Array, state: Factors) -> Factors:
        at, tau, p = state
        j = first + i
        if pivoting:
            norms = _norms(where(row >= j, at))
            candidates = where(column >= i, norms, lax.full_like(norms, -1))
            best = jnp.argmax(candidates, axis=-2, keepdims=True).astype(jnp.int32)
            chosen = column == best
            x = take_rows(at, best[..., 0])  # a sum over what is chosen would lose the sign of -0.0
            norm = take_rows(norms, best[..., 0])
            at = where(~chosen, at, _entry(at, i, -2))
            p = _exchange(p, i, best[..., 0])
        else:
            x = _entry(at, i, -2)
            norm = _norms(where(row >= j, x))
        v, tau_i, beta = _reflector(x, norm, j)
        products = mm(at, H(v))
        at = at - where(column > i, tau_i.conj() * products) * v
        packed = where(row > j, v, where(row != j, x, beta))
        return Factors(where(column != i, at, packed), put(tau, tau_i[..., 0], i, -1), p)

    tau = jnp.zeros((*batch, k), at.dtype)
    return lax.fori_loop(0, k, step, Factors(at, tau, natural_order(at)))


def _exchange(p: Array, i: Array, j: Array) -> Array:
    """Exchange entries i, which is common to a batch, and j (..., 1)."""
    place = places(p, -1)
    p_j = jnp.sum(where(place == j, p), axis=-1, keepdims=True, dtype=p.dtype)
    return where(place != i, where(place != j, p, _entry(p, i, -1)), p_j)


# --------------------------------------------------------------------------------- blocks


def _blocks(at: Array, steps: int) -> Factors:
    """Eliminate the leading columns in blocks."""

    def block(b: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        at, taus = state
        first = b * WIDTH
        panel = lax.dynamic_slice_in_dim(at, first, WIDTH, axis=-2)
        panel, tau, _ = _one_by_one(panel, pivoting=False, first=first)
        offset = places(panel, -1) - places(panel, -2) - first
        v = where(offset > 0, panel, (offset == 0).astype(panel.dtype))
        at = put(apply_block(at, v, tau, first + WIDTH), panel, first, -2)
        return at, put(taus, tau, first, -1)

    tau = jnp.zeros((*at.shape[:-2], steps), at.dtype)
    at, tau = lax.fori_loop(0, steps // WIDTH, block, (at, tau))
    return Factors(at, tau, natural_order(at))


class _Block(NamedTuple):
    """Columns of a block eliminated, the rest of the matrix as it was: what is left is A - V F."""

    v: Array  # (..., w, m): the reflectors
    f: Array  # (..., n, w): F, by columns
    r: Array  # (..., n, w): the block's rows of R, by columns
    tau: Array  # (..., w)
    order: Array  # (..., n) int32: which column is where; they are moved when the block is done
    norm: Array  # (..., n, 1): the columns' norms in what is left, downdated; -1 if eliminated
    exact: Array  # (..., n, 1): the norms that were last computed, from which they were downdated
    i: Array  # how many columns are eliminated
    doubt: Array  # whether a norm of any matrix is in doubt


def _pivoted_blocks(at: Array, steps: int) -> Factors:
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
        return after, Factors(at, tau, take(p, done.order))

    tau = jnp.zeros((*at.shape[:-2], steps), at.dtype)
    factors = Factors(at, tau, natural_order(at))
    return lax.while_loop(lambda state: state[0] < steps, block, (jnp.int32(0), factors))[1]


def _start(at: Array, first: Array) -> _Block:
    *batch, n, m = at.shape
    norm = _norms(where(places(at, -1) >= first, at))
    norm = where(places(at, -2) >= first, norm, lax.full_like(norm, -1))
    v, f = (jnp.zeros((*batch, *shape), at.dtype) for shape in ((WIDTH, m), (n, WIDTH)))
    fixed = (natural_order(at), norm, norm, jnp.int32(0), jnp.bool_(False))
    return _Block(v, f, f, v[..., 0], *fixed)


def _step(at: Array, first: Array, block: _Block) -> _Block:
    """Eliminate a column: of what is left only the pivot's column and row are computed."""
    v, f, r, tau, order, norm, _, i, _ = block
    j = first + i
    best = jnp.argmax(take(norm[..., 0], order), axis=-1, keepdims=True).astype(jnp.int32)
    chosen = take(order, best)
    x = take_rows(at, chosen) - mm(take_rows(f, chosen), v)
    v_i, tau_i, beta = _reflector(x, _norms(where(places(x, -1) >= j, x)), j)
    # the products of reflector i and of row j with V, and with the columns that are left
    known = mm(f, jnp.concatenate([mm(v, H(v_i)), _entry(v, j, -1)], axis=-1))
    column = places(at, -2)
    f_i = where(column >= first, tau_i.conj() * (mm(at, H(v_i)) - known[..., :1]))
    row = _entry(at, j, -1) - known[..., 1:] - f_i
    remains = column != chosen[..., None]
    block = block._replace(
        v=put(v, v_i, i, -2),
        f=put(f, f_i, i, -1),
        r=put(r, where(remains, row, beta), i, -1),
        tau=put(tau, tau_i[..., 0], i, -1),
        order=_exchange(order, j, best),
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
