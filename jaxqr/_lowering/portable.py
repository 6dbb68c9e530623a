"""Householder's method in plain HLO: runs wherever XLA does. Signs, tau and pivots are LAPACK's.

Few columns (or rows) are eliminated one by one; more of them in blocks, after which the rest is
brought up to date by products of matrices.
"""

from functools import partial

import jax.numpy as jnp
from jax import Array, lax

from jaxqr._core.algebra import where
from jaxqr._lowering.by_columns import (
    WIDTH,
    Factors,
    eliminate_one_by_one,
    factor_in_stages,
    make_natural_order,
    places,
    put,
)
from jaxqr._lowering.compact_wy import apply_block, apply_reflectors, form_reflectors
from jaxqr._lowering.portable_pivoted import eliminate_pivoted_blocks


def geqrf(a: Array) -> list[Array]:
    """Factor a matrix; give (h, tau)."""
    one_by_one = partial(eliminate_one_by_one, pivoting=False)
    h, tau, _ = factor_in_stages(a.mT, _eliminate_blocks, one_by_one)
    return [h.mT, tau]


def geqp3(a: Array) -> list[Array]:
    """Factor with column pivoting; give (h, tau, p), p counted from 0."""
    one_by_one = partial(eliminate_one_by_one, pivoting=True)
    h, tau, p = factor_in_stages(a.mT, eliminate_pivoted_blocks, one_by_one)
    return [h.mT, tau, p]


def orgqr(h: Array, tau: Array) -> list[Array]:
    """Form the leading columns of Q."""
    return [form_reflectors(h, tau)]


def ormqr(h: Array, tau: Array, c: Array, *, left: bool, adjoint: bool) -> list[Array]:
    """Apply Q or its adjoint to `c` from the left or the right."""
    return [apply_reflectors(h, tau, c, left=left, adjoint=adjoint)]


def _eliminate_blocks(at: Array, steps: int) -> Factors:
    """Eliminate the leading columns in blocks."""

    def block(b: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        at, taus = state
        first = b * WIDTH
        panel = lax.dynamic_slice_in_dim(at, first, WIDTH, axis=-2)
        panel, tau, _ = eliminate_one_by_one(panel, pivoting=False, first=first)
        offset = places(panel, -1) - places(panel, -2) - first
        v = where(offset > 0, panel, (offset == 0).astype(panel.dtype))
        at = put(apply_block(at, v, tau, first + WIDTH), panel, first, -2)
        return at, put(taus, tau, first, -1)

    tau = jnp.zeros((*at.shape[:-2], steps), at.dtype)
    at, tau = lax.fori_loop(0, steps // WIDTH, block, (at, tau))
    return Factors(at, tau, make_natural_order(at))
