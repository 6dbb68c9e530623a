"""Householder's method in plain HLO: runs wherever XLA does.

Unblocked, one reflector a step; a batch is mapped. Signs, tau and pivots are LAPACK's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxqr._reflectors import apply_reflectors, form_reflectors


def geqrf(a: Array) -> list[Array]:
    """Factor: (h, tau)."""
    h, tau, _ = _factor(a, pivoting=False)
    return [h, tau]


def geqp3(a: Array) -> list[Array]:
    """Factor with column pivoting: (h, tau, p), p counted from 0."""
    return list(_factor(a, pivoting=True))


def orgqr(h: Array, tau: Array) -> list[Array]:
    """Form the leading columns of Q."""
    return [form_reflectors(h, tau)]


def ormqr(h: Array, tau: Array, c: Array, *, left: bool, adjoint: bool) -> list[Array]:
    """Apply Q or its adjoint to `c` from the left or the right."""
    return [apply_reflectors(h, tau, c, left=left, adjoint=adjoint)]


def _factor(a: Array, *, pivoting: bool) -> tuple[Array, Array, Array]:
    def one(a: Array) -> tuple[Array, Array, Array]:
        return _factor_matrix(a, pivoting=pivoting)

    for _ in range(a.ndim - 2):
        one = jax.vmap(one)
    return one(a)


class _State(NamedTuple):
    h: Array  # (m, n): the part of R that is done, reflectors below it, what is left to factor
    tau: Array  # (k,)
    p: Array  # (n,)
    norm: Array  # (n,): norms of the columns of what is left, downdated
    exact: Array  # (n,): the norms that were last computed, from which `norm` was downdated


def _factor_matrix(a: Array, *, pivoting: bool) -> tuple[Array, Array, Array]:
    m, n = a.shape
    norm = _column_norms(a)
    state = _State(a, jnp.zeros(min(m, n), a.dtype), jnp.arange(n, dtype=jnp.int32), norm, norm)

    def step(j: Array, state: _State) -> _State:
        if pivoting:
            candidates = jnp.where(jnp.arange(n) >= j, state.norm, -1)
            state = _swap(state, j, jnp.argmax(candidates))
        h, tau = _eliminate(state.h, j)
        state = state._replace(h=h, tau=state.tau.at[j].set(tau))
        return _downdate(state, j) if pivoting else state

    state = lax.fori_loop(0, min(m, n), step, state)
    return state.h, state.tau, state.p


def _eliminate(h: Array, j: Array) -> tuple[Array, Array]:
    """Annihilate column j below the diagonal, as LAPACK's larfg and larf."""
    rows, columns = jnp.arange(h.shape[0]), jnp.arange(h.shape[1])
    x = h[:, j]
    alpha = x[j]
    below = jnp.where(rows > j, x, 0)
    norm = _column_norms(jnp.where(rows >= j, x, 0)[:, None])[0]
    trivial = jnp.all(below == 0) & (jnp.imag(alpha) == 0)
    beta = jnp.where(jnp.real(alpha) >= 0, -norm, norm).astype(h.dtype)
    tau = jnp.where(trivial, 0, (beta - alpha) / jnp.where(trivial, 1, beta))
    v = below / jnp.where(trivial, 1, alpha - beta)
    unit_v = jnp.where(rows == j, 1, v)
    row = jnp.matmul(unit_v.conj(), h, precision=lax.Precision.HIGHEST)
    h = h - unit_v[:, None] * jnp.where(columns > j, tau.conj() * row, 0)[None, :]
    column = jnp.where(rows == j, jnp.where(trivial, alpha, beta), jnp.where(rows > j, v, x))
    return h.at[:, j].set(column), tau


def _swap(state: _State, i: Array, j: Array) -> _State:
    """Exchange columns i and j; the norms of column i are not needed any more."""
    h, p = state.h, state.p
    h = h.at[:, i].set(h[:, j]).at[:, j].set(h[:, i])
    p = p.at[i].set(p[j]).at[j].set(p[i])
    norm = state.norm.at[j].set(state.norm[i])
    exact = state.exact.at[j].set(state.exact[i])
    return state._replace(h=h, p=p, norm=norm, exact=exact)


def _downdate(state: _State, j: Array) -> _State:
    """Take row j off the columns' norms, as LAPACK's laqp2.

    Downdating cancels: where less than the square root of the rounding unit is left of the last
    exact norm, the norm is computed anew (Drmac and Bujanovic, LAPACK working note 176).
    """
    h, norm, exact = state.h, state.norm, state.exact
    left = 1 - jnp.square(jnp.abs(h[j]) / jnp.where(norm == 0, 1, norm))
    left = jnp.maximum(left, 0)
    ratio = norm / jnp.where(exact == 0, 1, exact)
    lost = left * jnp.square(ratio) <= jnp.sqrt(jnp.finfo(norm.dtype).eps / 2)
    lost &= (norm != 0) & (jnp.arange(norm.size) > j)
    below = jnp.where(jnp.arange(h.shape[0])[:, None] > j, h, 0)
    again = lax.cond(jnp.any(lost), lambda: _column_norms(below), lambda: norm)
    downdated = norm * jnp.sqrt(left)
    return state._replace(
        norm=jnp.where(lost, again, downdated), exact=jnp.where(lost, again, exact)
    )


def _column_norms(a: Array) -> Array:
    """Two-norms of the columns, without overflow or underflow of a square."""
    largest = jnp.max(jnp.abs(a), axis=0, initial=0)
    scale = jnp.where((largest == 0) | jnp.isinf(largest), 1, largest)
    return scale * jnp.sqrt(jnp.sum(jnp.square(jnp.abs(a) / scale[None, :]), axis=0))
