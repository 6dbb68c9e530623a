"""The complete orthogonal decomposition of a deep matrix, as arrays, and what they stand for.

A P = Q R with column pivoting. Where the rank r, the length of the leading run of
|R_jj| > rcond |R_11|, is less than n, the leading r rows are factored once more:
[R11 R12]^H = Z T, so that A^+ = P Z T^{-H} Q^H; what is left of R is dropped. Shapes do not
depend on the rank: rows that do not count are zero, and their reflectors the identity.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxqr._algebra import H, diagonal, identity_like, triu, where
from jaxqr._householder import ormqr_p
from jaxqr._qr_primitive import qr_p
from jaxqr._solve import solve


class Decomposition(NamedTuple):
    """The arrays, and the operations on vectors (columns of a matrix) that they stand for."""

    h: Array  # (..., m, n): R and the reflectors of Q
    tau: Array  # (..., n)
    p: Array  # (..., n) int32; p, hz and tauz are empty if the rank is full by assumption
    rank: Array  # (...) int32
    hz: Array  # (..., n, n): T and the reflectors of Z; zeros if all ranks of a batch are full
    tauz: Array  # (..., n)

    def solve(self, v: Array) -> Array:
        """A^+ v."""
        return self._divide(self._q_adjoint(v))

    def solve_adjoint(self, u: Array) -> Array:
        """A^{+H} u."""
        return self._q(self._divide_adjoint(u))

    def gram(self, v: Array) -> Array:
        """(A A^H)^+ v."""
        return self.solve_adjoint(self.solve(v))

    def gram_adjoint(self, u: Array) -> Array:
        """(A^H A)^+ u."""
        return self._divide(self._divide_adjoint(u))

    def rest(self, v: Array) -> Array:
        """(I - A A^+) v."""
        rest = v - self._q(self._counted(self._q_adjoint(v)))
        if v.shape[-2] > self.n:
            return rest
        return self.unless_full(jnp.zeros_like(v), lambda: rest)

    def rest_adjoint(self, u: Array) -> Array:
        """(I - A^+ A) u."""

        def deficient() -> Array:
            c = self._z(self._permuted(u), adjoint=True)
            return self._permuted_back(self._z(c - self._counted(c), adjoint=False))

        return self.unless_full(jnp.zeros_like(u), deficient)

    def unless_full(self, x: Array, deficient: Callable[[], Array]) -> Array:
        """`x` for a matrix whose rank is full and deficient() for others, if there are any."""
        if not self._revealing:
            return x
        full = (self.rank == self.n)[..., None, None]
        return lax.cond(jnp.all(full), lambda: x, lambda: where(full, x, deficient()))

    @property
    def n(self) -> int:
        """The number of columns."""
        return self.tau.shape[-1]

    @property
    def _revealing(self) -> bool:
        return self.p.shape[-1] == self.n

    def _q(self, c: Array) -> Array:
        """Q [c; 0]."""
        below = jnp.zeros((*c.shape[:-2], self.h.shape[-2] - self.n, c.shape[-1]), c.dtype)
        c = jnp.concatenate([c, below], axis=-2)
        return ormqr_p.bind(self.h, self.tau, c, left=True, adjoint=False)[0]

    def _q_adjoint(self, v: Array) -> Array:
        """The leading n rows of Q^H v."""
        return ormqr_p.bind(self.h, self.tau, v, left=True, adjoint=True)[0][..., : self.n, :]

    def _z(self, c: Array, *, adjoint: bool) -> Array:
        return ormqr_p.bind(self.hz, self.tauz, c, left=True, adjoint=adjoint)[0]

    def _divide(self, c: Array) -> Array:
        """P R^{-1} c, or P Z T^{-H} c from the rows that count."""
        x = solve(self.h[..., : self.n, :], c, left=True, lower=False)

        def deficient() -> Array:
            t_c = solve(self._t(), self._counted(c), left=True, lower=False, adjoint=True)
            return self._z(t_c, adjoint=False)

        return self._permuted_back(self.unless_full(x, deficient))

    def _divide_adjoint(self, u: Array) -> Array:
        """R^{-H} P^T u, or T^{-1} Z^H P^T u in the rows that count, and zeros."""
        u = self._permuted(u)
        c = solve(self.h[..., : self.n, :], u, left=True, lower=False, adjoint=True)

        def deficient() -> Array:
            z_u = self._counted(self._z(u, adjoint=True))
            return solve(self._t(), z_u, left=True, lower=False)

        return self.unless_full(c, deficient)

    def _t(self) -> Array:
        """T, with the identity's columns for those that do not count and are zero."""
        return where(_counts(self.rank, self.n).mT, self.hz, identity_like(self.hz))

    def _counted(self, c: Array) -> Array:
        """The rows of `c` that count, and zeros."""
        return where(_counts(self.rank, self.n), c) if self._revealing else c

    def _permuted(self, u: Array) -> Array:
        """P^T u."""
        return jnp.take_along_axis(u, self.p[..., None], axis=-2) if self._revealing else u

    def _permuted_back(self, c: Array) -> Array:
        """P c."""
        if not self._revealing:
            return c
        return jnp.take_along_axis(c, jnp.argsort(self.p, axis=-1)[..., None], axis=-2)


def decompose(a: Array, *, rcond: float, pivoting: bool) -> Decomposition:
    """Factor a deep matrix; without `pivoting` the rank is full by assumption."""
    *batch, _, n = a.shape
    outputs = ("h", "tau", "p") if pivoting else ("h", "tau")
    h, tau, *rest = qr_p.bind(a, outputs=outputs, pivoting=pivoting, transposed=False)
    if not rest:
        none = jnp.zeros((*batch, 0), jnp.int32)
        hz, tauz = jnp.zeros((*batch, 0, 0), a.dtype), jnp.zeros((*batch, 0), a.dtype)
        return Decomposition(h, tau, none, jnp.full(batch, n, jnp.int32), hz, tauz)
    size = jnp.abs(diagonal(h).real)
    counts = ~(size <= rcond * size[..., :1])  # NaN counts, so that it comes through
    run = lax.cumprod(counts.astype(jnp.int32), axis=counts.ndim - 1)
    rank = jnp.sum(run, axis=-1, dtype=jnp.int32)

    def again() -> list[Array]:
        rows = where(_counts(rank, n), triu(h[..., :n, :]))
        return qr_p.bind(H(rows), outputs=("h", "tau"), pivoting=False, transposed=False)

    def zeros() -> list[Array]:
        return [jnp.zeros((*batch, n, n), a.dtype), jnp.zeros_like(tau)]

    hz, tauz = lax.cond(jnp.any(rank < n), again, zeros)
    return Decomposition(h, tau, rest[0], rank, hz, tauz)


def _counts(rank: Array, n: int) -> Array:
    """For each matrix a column that says which of its n indices are less than the rank."""
    return lax.broadcasted_iota(jnp.int32, (*rank.shape, n, 1), rank.ndim) < rank[..., None, None]
