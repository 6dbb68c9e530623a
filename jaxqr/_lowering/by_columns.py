"""Matrices held by columns, as LAPACK holds them, and Householder's method on them.

Transposed, a column is a row in memory. Batch dimensions are everywhere, so no branch is taken for
one matrix and computed for another.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
from jax import Array, export, lax
from jax.core import min_dim

from jaxqr._core.algebra import H, mm, where
from jaxqr._lowering.compact_wy import take_rows

State = TypeVar("State")  # of a loop: arrays

WIDTH = 32  # of a block
LARGE = 512  # from so many columns or rows on there is more than one stage


# ----------------------------------------------------------------------- stages of blocks


class Factors(NamedTuple):
    """A factorization that may be unfinished, held by columns."""

    at: Array  # (..., n, m): R and the reflectors where it is done, elsewhere what is left
    tau: Array  # (..., k)
    p: Array  # (..., n) int32: the columns so far exchanged; (..., 0) without pivoting


def factor_in_stages(
    at: Array,
    blocks: Callable[[Array, int], Factors],
    whole: Callable[[Array], Factors],
    width: int = WIDTH,
    small: int = WIDTH,
) -> Factors:
    """Factor the leading columns, a multiple of `width`, by `blocks` and the last by `whole`.

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
    rest = factor_in_stages(done.at[..., steps:, steps:], blocks, whole, width, small)
    above, order = done.at[..., steps:, :steps], done.p
    if order.shape[-1] > 0:
        above = take_rows(above, rest.p)
        later = take_entries(order[..., steps:], rest.p)
        order = jnp.concatenate([order[..., :steps], later], axis=-1)
    below = jnp.concatenate([above, rest.at], axis=-1)
    return Factors(
        jnp.concatenate([done.at[..., :steps, :], below], axis=-2),
        jnp.concatenate([done.tau, rest.tau], axis=-1),
        order,
    )


def make_natural_order(at: Array) -> Array:
    """Give the order in which the columns are."""
    return lax.broadcasted_iota(jnp.int32, at.shape[:-1], at.ndim - 2)


def take_entries(x: Array, index: Array) -> Array:
    """Take entries of the last dimension."""
    return jnp.take_along_axis(x, index, axis=-1, mode="promise_in_bounds")


def places(x: Array, axis: int) -> Array:
    """Give the indices along an axis, for a batch of one."""
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    return lax.broadcasted_iota(jnp.int32, shape, x.ndim + axis)


def take_entry(x: Array, i: Array, axis: int) -> Array:
    """Take what has index i along an axis: a number, or as many dimensions with one entry there."""
    if all(size == 1 for size in i.shape):
        return lax.dynamic_slice_in_dim(x, i.reshape(()), 1, axis=axis)
    return jnp.take_along_axis(x, i, axis=axis, mode="promise_in_bounds")


def put(x: Array, part: Array, i: Array, axis: int) -> Array:
    """Put `part` into `x`, from index i on along an axis."""
    return lax.dynamic_update_slice_in_dim(x, part, i, axis=axis)


def repeat(count: int, step: Callable[[Array, State], State], state: State) -> State:
    """Let `step` change a state, for every number from 0 to below `count`.

    It is lax.fori_loop with int32 numbers: those of 64 bits cost a GPU one more kernel each time.
    """
    if export.is_symbolic_dim(count):
        return lax.fori_loop(0, count, lambda i, state: step(i.astype(jnp.int32), state), state)

    def advance(counted: tuple[Array, State]) -> tuple[Array, State]:
        i, state = counted
        return i + 1, step(i, state)

    return lax.while_loop(lambda counted: counted[0] < count, advance, (jnp.int32(0), state))[1]


# ------------------------------------------------------------------------------ reflectors


def compute_norms(at: Array) -> Array:
    """Compute two-norms (..., n, 1) of the columns without overflow or underflow of a square."""
    size = jnp.abs(at)
    largest = jnp.max(size, axis=-1, keepdims=True, initial=0)
    ordinary = (largest > 0) & ~jnp.isinf(largest)
    scale = where(ordinary, largest, lax.full_like(largest, 1))
    return scale * jnp.sqrt(jnp.sum(jnp.square(size / scale), axis=-1, keepdims=True))


class Reflector(NamedTuple):
    v: Array  # (..., 1, m): zero before entry j, there 1
    tau: Array  # (..., 1, 1)
    beta: Array  # (..., 1, 1): what is left of the column


def make_reflector(x: Array, norm: Array, j: Array) -> Reflector:
    """Annihilate the column `x` (..., 1, m) after entry j, as LAPACK's larfg.

    `norm` (..., 1, 1) is that of the entries from j on.
    """
    place = places(x, -1)
    alpha, below = take_entry(x, j, -1), where(place > j, x)
    nothing_below = jnp.all(below == 0, axis=-1, keepdims=True)
    tau, beta, divisor = reflect_entry(alpha, norm, nothing_below)
    v = below / divisor
    return Reflector(where(place == j, lax.full_like(v, 1), v), tau, beta)


def reflect_entry(alpha: Array, norm: Array, nothing_below: Array) -> tuple[Array, Array, Array]:
    """Find tau, beta and what divides the entries below, for a column that begins with `alpha`."""
    trivial = nothing_below & (jnp.imag(alpha) == 0)
    one = lax.full_like(alpha, 1)
    real = jnp.real(alpha)
    negative = where(real == 0, 1 / real, real) < 0  # -0.0 is, as for LAPACK
    beta = where(negative, norm, -norm).astype(alpha.dtype)
    tau = where(trivial, lax.full_like(alpha, 0), (beta - alpha) / where(trivial, one, beta))
    return tau, where(trivial, alpha, beta), where(trivial, one, alpha - beta)


# ------------------------------------------------------------------- column after column


def eliminate_one_by_one(at: Array, *, pivoting: bool, first: Array | int = 0) -> Factors:
    """Eliminate column after column, each where its diagonal entry is, from row `first` on.

    That is one number, or one for each matrix (..., 1, 1). The norms of the columns are computed
    anew in every step: that costs as much as the step.
    """
    *batch, n, m = at.shape
    k = min_dim(m, n)
    column, row = places(at, -2), places(at, -1)

    def step(i: Array, state: Factors) -> Factors:
        at, tau, p = state
        j = first + i
        if pivoting:
            norms = compute_norms(where(row >= j, at))
            candidates = where(column >= i, norms, lax.full_like(norms, -1))
            best = lax.argmax(candidates, at.ndim - 2, jnp.int32)[..., None]
            chosen = column == best
            x = take_rows(at, best[..., 0])  # a sum over what is chosen would lose the sign of -0.0
            norm = take_rows(norms, best[..., 0])
            at = where(~chosen, at, take_entry(at, i, -2))
            best = best[..., 0]
            found = take_entry(p, i, -1), take_entries(p, best)
            p = exchange_entries(p, i, best, found)
        else:
            x = take_entry(at, i, -2)
            norm = compute_norms(where(row >= j, x))
        v, tau_i, beta = make_reflector(x, norm, j)
        products = mm(at, H(v))
        at = at - where(column > i, tau_i.conj() * products) * v
        packed = where(row > j, v, where(row != j, x, beta))
        return Factors(where(column != i, at, packed), put(tau, tau_i[..., 0], i, -1), p)

    tau = jnp.zeros((*batch, k), at.dtype)
    order = make_natural_order(at)[..., : n if pivoting else 0]
    return repeat(k, step, Factors(at, tau, order))


def exchange_entries(p: Array, i: Array, j: Array, found: tuple[Array, Array]) -> Array:
    """Exchange entries i and j (..., 1), which are the `found` two; i may be a number for all."""
    place, (p_i, p_j) = places(p, -1), found
    return where(place != i, where(place != j, p, p_i), p_j)
