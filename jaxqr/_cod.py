"""The complete orthogonal decomposition of a deep matrix, as arrays, and what they stand for.

A P = Q R with column pivoting. A large and much deeper matrix is factored without pivoting
first, A P0 = Q0 R0 with its columns sorted by size, and R0 P1 = Q1 R with it: the pivots are the
same, most of the work is quicker.
The rank r is the length of the leading run of columns that count: by default those that are not
small beside their own column of R, (8.3), looked for among columns of one size, and for an `rcond`
those with |R_jj| > rcond |R_11|.
Where it is less than n, the leading r rows are factored once more: [R11 R12]^H = Z T, so that
A^+ = P Z T^{-H} Q^H; what is left of R is dropped. Shapes do not depend on the rank: rows that do
not count are zero, and their reflectors the identity.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, export, lax

from jaxqr._algebra import (
    H,
    column_scale,
    diagonal,
    extended,
    identity_like,
    mm,
    scaled,
    triu,
    where,
)
from jaxqr._householder import ormqr_p
from jaxqr._qr_primitive import qr_p
from jaxqr._solve import solve
from jaxqr._tangents import independent, tolerance


class Decomposition(NamedTuple):
    """The arrays, and the operations on vectors (columns of a matrix) that they stand for."""

    h: Any  # (..., m, n): reflectors of Q, and R; or of Q0
    tau: Any  # (..., n)
    h1: Any  # (..., n, n): reflectors of Q1, and R; or empty
    tau1: Any  # (..., n)
    p: Any  # (..., n) int32; p, hz and tauz are empty if the rank is full by assumption
    rank: Any  # (...) int32
    hz: Any  # (..., n, n): T and the reflectors of Z; zeros if all ranks of a batch are full
    tauz: Any  # (..., n)

    def solve(self, v: Array) -> Array:
        """A^+ v."""
        c = _apply(self.h, self.tau, v, adjoint=True)[..., : self._n, :]
        if self._twice:
            c = _apply(self.h1, self.tau1, c, adjoint=True)
        return self._divide(c)

    def solve_adjoint(self, u: Array) -> Array:
        """A^{+H} u."""
        c = self._divide_adjoint(u)
        if self._twice:
            c = _apply(self.h1, self.tau1, c, adjoint=False)
        return _apply(self.h, self.tau, extended(c, self.h.shape[-2], -2), adjoint=False)

    def gram(self, u: Array) -> Array:
        """(A^H A)^+ u."""
        return self._divide(self._divide_adjoint(u))

    def null(self, u: Array) -> Array:
        """(I - A^+ A) u."""

        def deficient() -> Array:
            c = _apply(self.hz, self.tauz, self._permuted(u), adjoint=True)
            c = c - self._counted(c)
            return self._permuted_back(_apply(self.hz, self.tauz, c, adjoint=False))

        return self._unless_full(jnp.zeros_like(u), deficient)

    @property
    def _n(self) -> int:
        return self.tau.shape[-1]

    @property
    def _twice(self) -> bool:
        return self.tau1.shape[-1] == self._n

    @property
    def _revealing(self) -> bool:
        return self.p.shape[-1] == self._n

    @property
    def r(self) -> Array:
        """R in the upper triangle."""
        return self.h1 if self._twice else self.h[..., : self._n, :]

    def _unless_full(self, x: Array, deficient: Callable[[], Array]) -> Array:
        """`x` for a matrix whose rank is full and deficient() for others, if there are any."""
        if not self._revealing:
            return x
        full = (self.rank == self._n)[..., None, None]
        return lax.cond(jnp.all(full), lambda: x, lambda: where(full, x, deficient()))

    def _divide(self, c: Array) -> Array:
        """P R^{-1} c, or P Z T^{-H} c from the rows that count."""
        x = solve(self.r, c, left=True, lower=False)

        def deficient() -> Array:
            t_c = solve(self._t(), self._counted(c), left=True, lower=False, adjoint=True)
            return _apply(self.hz, self.tauz, t_c, adjoint=False)

        return self._permuted_back(self._unless_full(x, deficient))

    def _divide_adjoint(self, u: Array) -> Array:
        """R^{-H} P^T u, or T^{-1} Z^H P^T u in the rows that count, and zeros."""
        u = self._permuted(u)
        c = solve(self.r, u, left=True, lower=False, adjoint=True)

        def deficient() -> Array:
            z_u = self._counted(_apply(self.hz, self.tauz, u, adjoint=True))
            return solve(self._t(), z_u, left=True, lower=False)

        return self._unless_full(c, deficient)

    def _t(self) -> Array:
        """T, with the identity's columns for those that do not count and are zero."""
        return where(_counts(self.rank, self._n).mT, self.hz, identity_like(self.hz))

    def _counted(self, c: Array) -> Array:
        """The rows of `c` that count, and zeros."""
        return where(_counts(self.rank, self._n), c) if self._revealing else c

    def _permuted(self, u: Array) -> Array:
        """P^T u."""
        return jnp.take_along_axis(u, self.p[..., None], axis=-2) if self._revealing else u

    def _permuted_back(self, c: Array) -> Array:
        """P c."""
        if not self._revealing:
            return c
        return jnp.take_along_axis(c, jnp.argsort(self.p, axis=-1)[..., None], axis=-2)


def core_shapes(m: int, n: int, *, pivoting: bool) -> Decomposition:
    """The shapes of the arrays, for one matrix."""
    twice = n if pivoting and factored_twice(m, n) else 0
    extra = n if pivoting else 0
    once = {"h": (m, n), "tau": (n,), "h1": (twice, twice), "tau1": (twice,)}
    return Decomposition(**once, p=(extra,), rank=(), hz=(extra, extra), tauz=(extra,))


def factored_twice(m: int, n: int) -> bool:
    """Whether the matrix is so large and deep that a plain QR comes first."""
    if export.is_symbolic_dim(m) or export.is_symbolic_dim(n):
        return False
    return n >= 256 and m >= 4 * n


def decompose(a: Array, *, rcond: float | None, pivoting: bool) -> Decomposition:
    """Factor a deep matrix; without `pivoting` the rank is full by assumption."""
    *batch, m, n = a.shape
    shapes = core_shapes(m, n, pivoting=pivoting)

    def zeros(name: str, dtype: Any = a.dtype) -> Array:
        return jnp.zeros((*batch, *getattr(shapes, name)), dtype)

    if not pivoting:
        h, tau = _factor(a, "h", "tau")
        p, rank = zeros("p", jnp.int32), jnp.full(batch, n, jnp.int32)
        rest = (zeros("h1"), zeros("tau1"), p, rank, zeros("hz"), zeros("tauz"))
        return Decomposition(h, tau, *rest)
    factors = _pivot(a)
    if rcond is None:
        factors, rank = _judge_by_own_size(a, factors)
    else:
        rank = _find_rank(factors.r, rcond)
    hz, tauz = lax.cond(
        jnp.any(rank < n),
        lambda: _factor(H(_leading_rows(factors.r, rank, rcond)), "h", "tau"),
        lambda: [zeros("hz"), zeros("tauz")],
    )
    return Decomposition(*factors, rank, hz, tauz)


class _Pivoted(NamedTuple):
    """The factors up to the permutation, as of `Decomposition`."""

    h: Array
    tau: Array
    h1: Array
    tau1: Array
    p: Array

    @property
    def twice(self) -> bool:
        return self.tau1.shape[-1] > 0

    @property
    def r(self) -> Array:
        """R in the upper triangle."""
        return self.h1 if self.twice else self.h[..., : self.tau.shape[-1], :]


def _leading_rows(r: Array, rank: Array, rcond: float | None) -> Array:
    """The rows of R that count, and zeros.

    Where columns are judged by their own size, what is small in a column that does not count is
    taken for rounding in all rows: a small column that counts may be smaller still.
    """
    n = r.shape[-1]
    r = triu(r)
    rows = where(_counts(rank, n), r)
    if rcond is not None:
        return rows
    size = jnp.abs(r)
    least = tolerance(r.dtype) * jnp.sum(size, axis=-2, keepdims=True)
    return where(_counts(rank, n).mT | (size > least), rows)


def _factor(a: Array, *outputs: str) -> list[Array]:
    pivoting = "exact" if "p" in outputs else "none"
    return qr_p.bind(a, outputs=outputs, pivoting=pivoting, transposed=False)


def _pivot(a: Array) -> _Pivoted:
    """Factor a deep matrix with column pivoting."""
    *batch, m, n = a.shape
    if not factored_twice(m, n):
        h, tau, p = _factor(a, "h", "tau", "p")
        return _Pivoted(h, tau, jnp.zeros((*batch, 0, 0), a.dtype), tau[..., :0], p)
    # large columns first: rounding errors of the small ones would grow with them
    sizes = jnp.sum(jnp.abs(a), axis=-2)
    order = jnp.argsort(-sizes, axis=-1).astype(jnp.int32)
    h, tau = _factor(jnp.take_along_axis(a, order[..., None, :], axis=-1), "h", "tau")
    h1, tau1, p = _factor(triu(h[..., :n, :]), "h", "tau", "p")
    return _Pivoted(h, tau, h1, tau1, jnp.take_along_axis(order, p, axis=-1))


def _judge_by_own_size(a: Array, factors: _Pivoted) -> tuple[_Pivoted, Array]:
    """The rank where columns are judged by their own size, and the factors that go with it.

    Where a large column depends on others, what rounding leaves of it may be larger than all of a
    small column that is independent, and what is left of a small one that depends on large ones is
    rounding of theirs: so the rank is found among columns of one size. If it is not full, the
    matrix is factored anew, the columns that count first, of those that could the largest.
    """
    n = factors.p.shape[-1]
    size = jnp.abs(diagonal(factors.r).real)
    # no entry is larger than the first, and none on the diagonal smaller than the last; NaN counts
    certain = ~(size[..., -1] <= 4 * n * tolerance(a.dtype) * size[..., 0])
    full = jnp.full(certain.shape, n, jnp.int32)

    def look() -> tuple[_Pivoted, Array]:
        r = triu(factors.r)
        scale = column_scale(r)
        even = scaled(r, scale)
        most, least = (f(scale[..., 0, :], axis=-1) for f in (jnp.max, jnp.min))
        alike = ~(most / 16 > least)
        among_even = _find_rank(_factor(even, "r", "p")[0], None)
        rank = where(certain, full, where(alike, _find_rank(r, None), among_even))
        order = _choose_largest(even, scale[..., 0, :])
        p = jnp.take_along_axis(factors.p, order, axis=-1)
        h, tau = _factor(jnp.take_along_axis(a, p[..., None, :], axis=-1), "h", "tau")
        inner = triu(h[..., :n, :]) if factors.twice else factors.h1
        found = _Pivoted(h, tau, inner, jnp.zeros_like(factors.tau1), p)
        keep = alike | (rank == n)
        return _Pivoted(*(_choose(keep, x, y) for x, y in zip(factors, found, strict=True))), rank

    return lax.cond(jnp.all(certain), lambda: (factors, full), look)


def _choose_largest(even: Array, scale: Array) -> Array:
    """The order (..., n) of columns, of which more than rounding is left, by what is left of them.

    The columns were multiplied by `scale` to be of one size. They are taken apart by Gram and
    Schmidt's method: only the order is wanted.
    """
    own = jnp.sum(jnp.square(jnp.abs(even)), axis=-2)
    least = tolerance(even.dtype) ** 2
    place = lax.broadcasted_iota(jnp.int32, own.shape, own.ndim - 1)
    unmarked = 2**30

    def step(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        x, order = state
        square = jnp.sum(jnp.square(jnp.abs(x)), axis=-2)
        free = order == unmarked
        size = where(square > least * own, jnp.sqrt(square) / scale)
        best = jnp.argmax(where(free, size, lax.full_like(size, -1)), axis=-1, keepdims=True)
        chosen = place == best.astype(jnp.int32)
        column = jnp.sum(where(chosen[..., None, :] & (x == x), x), axis=-1, keepdims=True)
        norm = jnp.sqrt(jnp.sum(where(chosen, square), axis=-1))[..., None, None]
        v = column / where(norm > 0, norm, lax.full_like(norm, 1)).astype(x.dtype)
        return x - mm(v, mm(H(v), x)), where(chosen, lax.full_like(order, 0) + i, order)

    start = lax.full_like(place, unmarked)  # what is chosen is marked by its step
    _, order = lax.fori_loop(0, own.shape[-1], step, (even, start))
    return jnp.argsort(order, axis=-1).astype(jnp.int32)


def _choose(keep: Array, x: Array, y: Array) -> Array:
    """Of each matrix, or vector, `x` or `y`."""
    return where(keep.reshape(keep.shape + (1,) * (x.ndim - keep.ndim)), x, y)


def _find_rank(r: Array, rcond: float | None) -> Array:
    """The length of the leading run of columns that count; NaN counts, so that it comes through."""
    if rcond is None:
        counts = independent(triu(r), pivoted=True)[..., 0, :]
    else:
        size = jnp.abs(diagonal(r).real)
        counts = ~(size <= rcond * size[..., :1])
    run = lax.cumprod(counts.astype(jnp.int32), axis=counts.ndim - 1)
    return jnp.sum(run, axis=-1, dtype=jnp.int32)


def _apply(h: Array, tau: Array, c: Array, *, adjoint: bool) -> Array:
    return ormqr_p.bind(h, tau, c, left=True, adjoint=adjoint)[0]


def _counts(rank: Array, n: int) -> Array:
    """For each matrix a column that says which of its n indices are less than the rank."""
    return lax.broadcasted_iota(jnp.int32, (*rank.shape, n, 1), rank.ndim) < rank[..., None, None]
