"""Householder's method in plain HLO: runs wherever XLA does. Signs, tau and pivots are LAPACK's.

Few columns (or rows) are eliminated one by one; more of them in blocks, after which the rest is
brought up to date by products of matrices.
"""

from functools import partial

import jax.numpy as jnp
from jax import Array, export, lax
from jax.core import min_dim

from jaxqr._lowering.by_columns import (
    WIDTH,
    Factors,
    eliminate_one_by_one,
    factor_in_stages,
    put,
    repeat,
)
from jaxqr._lowering.compact_wy import (
    apply_block,
    apply_reflectors,
    form_reflectors,
    unpack_panel,
)
from jaxqr._lowering.panel import factor_panel
from jaxqr._lowering.portable_pivoted import eliminate_pivoted_blocks


def geqrf(a: Array) -> list[Array]:
    """Factor a matrix; give (h, tau)."""
    h, tau, _ = factor_in_stages(a.mT, _eliminate_blocks, _eliminate_few)
    return [h.mT, tau]


def geqp3(a: Array, *, ask: bool = True) -> list[Array]:
    """Factor with column pivoting; give (h, tau, p), p counted from 0.

    Where it is dear that a loop asks if it goes on, as on a GPU, `ask` is to be false.
    """
    blocks = partial(eliminate_pivoted_blocks, ask=ask)
    one_by_one = partial(eliminate_one_by_one, pivoting=True)
    h, tau, p = factor_in_stages(a.mT, blocks, one_by_one)
    return [h.mT, tau, p]


def orgqr(h: Array, tau: Array) -> list[Array]:
    """Form the leading columns of Q."""
    return [form_reflectors(h, tau)]


def ormqr(h: Array, tau: Array, c: Array, *, left: bool, adjoint: bool) -> list[Array]:
    """Apply Q or its adjoint to `c` from the left or the right."""
    return [apply_reflectors(h, tau, c, left=left, adjoint=adjoint)]


def _eliminate_few(at: Array) -> Factors:
    """Eliminate few columns or rows, by a panel and its product with the columns beside it."""
    *batch, n, m = at.shape
    k = min_dim(m, n)
    if export.is_symbolic_dim(k):
        return eliminate_one_by_one(at, pivoting=False)
    none = jnp.zeros((*batch, 0), jnp.int32)
    panel, tau, t = factor_panel(at[..., :k, :], jnp.zeros(batch, jnp.int32))
    if n == k:
        return Factors(panel, tau, none)
    rest = apply_block(at[..., k:, :], unpack_panel(panel), t, 0)
    return Factors(jnp.concatenate([panel, rest], axis=-2), tau, none)


def _eliminate_blocks(at: Array, steps: int) -> Factors:
    """Eliminate the leading columns in blocks."""

    def block(b: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        at, taus = state
        first = b * WIDTH
        panel = lax.dynamic_slice_in_dim(at, first, WIDTH, axis=-2)
        panel, tau, t = factor_panel(panel, jnp.broadcast_to(first, at.shape[:-2]))
        at = apply_block(at, unpack_panel(panel, first), t, first + WIDTH)
        return put(at, panel, first, -2), put(taus, tau, first, -1)

    tau = jnp.zeros((*at.shape[:-2], steps), at.dtype)
    at, tau = repeat(steps // WIDTH, block, (at, tau))
    return Factors(at, tau, jnp.zeros((*at.shape[:-2], 0), jnp.int32))
