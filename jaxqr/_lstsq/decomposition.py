"""The complete orthogonal decomposition of a deep matrix, and what its arrays stand for.

A P = Q R with column pivoting. A large and much deeper matrix is factored without pivoting
first, A P0 = Q0 R0 with its columns sorted by size, and R0 P1 = Q1 R with it: the pivots are the
same, most of the work is quicker. The rank r is the length of the leading run of columns that
count (``rank``). Where it is less than n, the leading r rows of R are factored once more:
[R11 R12]^H = Z T, so that A^+ = P Z T^{-H} Q^H; what is left of R is dropped. Shapes do not depend
on the rank: rows that do not count are zero, and their reflectors the identity.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, export, lax

from jaxqr._core.abstract import CoreResult
from jaxqr._core.algebra import H, extend, identity_like, triu, where
from jaxqr._factor.packed import ormqr_p
from jaxqr._factor.qr_primitive import factor
from jaxqr._lowering.triangular import solve_triangular
from jaxqr._lstsq.rank import counted_rows, find_rank, keep_leading_rows, order_by_own_size


class Reflectors(NamedTuple):
    """Packed reflectors, and the triangle above them."""

    h: Array  # (..., m, n)
    tau: Array  # (..., n)

    def apply(self, c: Array, *, adjoint: bool = False) -> Array:
        """Multiply the columns of c by the Q that they stand for, or by its adjoint."""
        return ormqr_p.bind(self.h, self.tau, c, left=True, adjoint=adjoint)[0]


class Factors(NamedTuple):
    """A P = Q R of a deep matrix A; A = Q R where its rank is known to be full."""

    outer: Reflectors  # (..., m, n): of Q; of Q0, where the matrix was factored twice
    inner: Reflectors | None  # (..., n, n): of Q1 there, else None
    p: Array | None  # (..., n) int32; None for A = Q R

    @property
    def r(self) -> Array:
        """The matrix (..., n, n) that has R in its upper triangle."""
        n = self.outer.tau.shape[-1]
        return self.outer.h[..., :n, :] if self.inner is None else self.inner.h

    def apply(self, c: Array) -> Array:
        """Compute Q c for c (..., n, s)."""
        c = c if self.inner is None else self.inner.apply(c)
        return self.outer.apply(extend(c, self.outer.h.shape[-2], -2))

    def apply_adjoint(self, v: Array) -> Array:
        """Compute Q^H v for v (..., m, s)."""
        c = self.outer.apply(v, adjoint=True)[..., : self.outer.tau.shape[-1], :]
        return c if self.inner is None else self.inner.apply(c, adjoint=True)

    def permute(self, u: Array) -> Array:
        """Compute P^T u."""
        return u if self.p is None else jnp.take_along_axis(u, self.p[..., None], axis=-2)

    def permute_back(self, c: Array) -> Array:
        """Compute P c."""
        if self.p is None:
            return c
        return jnp.take_along_axis(c, jnp.argsort(self.p, axis=-1)[..., None], axis=-2)


class Decomposition(NamedTuple):
    """The factors of a deep matrix A, and what its pseudo-inverse A^+ does to columns."""

    factors: Factors
    rank: Array | None  # (...) int32; None where it is full by assumption
    z: Reflectors | None  # (..., n, n): T and Z, zeros if all ranks of a batch are full; or None

    def solve(self, v: Array) -> Array:
        """Compute A^+ v."""
        return self._divide(self.factors.apply_adjoint(v))

    def solve_adjoint(self, u: Array) -> Array:
        """Compute A^{+H} u."""
        return self.factors.apply(self._divide_adjoint(u))

    def gram(self, u: Array) -> Array:
        """Compute (A^H A)^+ u."""
        return self._divide(self._divide_adjoint(u))

    def null(self, u: Array) -> Array:
        """Compute (I - A^+ A) u, the part of u that A maps to zero."""

        def project(rank: Array, z: Reflectors) -> Array:
            c = z.apply(self.factors.permute(u), adjoint=True)
            return self.factors.permute_back(z.apply(c - _keep_counted(c, rank)))

        return self._unless_full(jnp.zeros_like(u), project)

    def _divide(self, c: Array) -> Array:
        """Compute P R^{-1} c, or P Z T^{-H} c from the rows of c that count."""
        x = solve_triangular(self.factors.r, c, left=True, lower=False)

        def divide(rank: Array, z: Reflectors) -> Array:
            t, counted = _restrict_t(z, rank), _keep_counted(c, rank)
            return z.apply(solve_triangular(t, counted, left=True, lower=False, adjoint=True))

        return self.factors.permute_back(self._unless_full(x, divide))

    def _divide_adjoint(self, u: Array) -> Array:
        """Compute R^{-H} P^T u, or T^{-1} Z^H P^T u in the rows that count and zeros below."""
        u = self.factors.permute(u)
        c = solve_triangular(self.factors.r, u, left=True, lower=False, adjoint=True)

        def divide(rank: Array, z: Reflectors) -> Array:
            z_u = _keep_counted(z.apply(u, adjoint=True), rank)
            return solve_triangular(_restrict_t(z, rank), z_u, left=True, lower=False)

        return self._unless_full(c, divide)

    def _unless_full(self, x: Array, otherwise: Callable[[Array, Reflectors], Array]) -> Array:
        """Take `x` for matrices of full rank; compute `otherwise(rank, z)` if there are others."""
        if self.rank is None or self.z is None:
            return x
        rank, z = self.rank, self.z
        full = (rank == z.tau.shape[-1])[..., None, None]
        return lax.cond(jnp.all(full), lambda: x, lambda: where(full, x, otherwise(rank, z)))


def _restrict_t(z: Reflectors, rank: Array) -> Array:
    """Make T invertible: columns that do not count, which are zero, become the identity's."""
    return where(counted_rows(rank, z.tau.shape[-1]).mT, z.h, identity_like(z.h))


def _keep_counted(c: Array, rank: Array) -> Array:
    """Keep the rows of `c` that count and set the others to zero."""
    return where(counted_rows(rank, c.shape[-2]), c)


# --------------------------------------------------------------------------- arrays by name


def name_arrays(m: int, n: int, *, pivoting: bool) -> tuple[str, ...]:
    """Name the arrays that the decomposition of an m x n matrix has, in their order.

    The kernels know them by these names.
    """
    inner = ("h1", "tau1") if pivoting and is_factored_twice(m, n) else ()
    revealing = ("p", "rank", "hz", "tauz") if pivoting else ()
    return "h", "tau", *inner, *revealing


def array_results(m: int, n: int, names: Sequence[str]) -> list[CoreResult]:
    """Give the shapes and dtypes of the named arrays of one matrix."""
    table: dict[str, CoreResult] = {
        "h": ((m, n), None),
        "tau": ((n,), None),
        "h1": ((n, n), None),
        "tau1": ((n,), None),
        "p": ((n,), jnp.int32),
        "rank": ((), jnp.int32),
        "hz": ((n, n), None),
        "tauz": ((n,), None),
    }
    return [table[name] for name in names]


def find_core_ranks(names: Sequence[str]) -> list[int]:
    """Find how many trailing dimensions of the named arrays are not batch dimensions."""
    return [len(shape) for shape, _ in array_results(1, 1, names)]


def to_arrays(found: Decomposition) -> list[Array]:
    """List the arrays of a decomposition, in the order of their names."""
    (outer, inner, p), rank, z = found
    arrays = [*outer, *(inner or ()), p, rank, *(z or ())]
    return [x for x in arrays if x is not None]


def from_arrays(names: Sequence[str], arrays: Sequence[Array]) -> Decomposition:
    """Make the decomposition that has these arrays."""
    named = dict(zip(names, arrays, strict=True))

    def pair(h: str, tau: str) -> Reflectors | None:
        return Reflectors(named[h], named[tau]) if h in named else None

    outer = Reflectors(named["h"], named["tau"])
    factors = Factors(outer, pair("h1", "tau1"), named.get("p"))
    return Decomposition(factors, named.get("rank"), pair("hz", "tauz"))


# ------------------------------------------------------------------------------ factorization


def is_factored_twice(m: int, n: int) -> bool:
    """Say whether the matrix is so large and deep that a plain QR comes first."""
    if export.is_symbolic_dim(m) or export.is_symbolic_dim(n):
        return False
    return n >= 256 and m >= 4 * n


def decompose(a: Array, *, rcond: float | None, pivoting: bool) -> Decomposition:
    """Factor a deep matrix; without `pivoting` the rank is full by assumption."""
    n = a.shape[-1]
    if not pivoting:
        return Decomposition(Factors(Reflectors(*factor(a, "h", "tau")), None, None), None, None)
    factors = _factor_pivoted(a)
    if rcond is None:
        factors, rank = _judge_by_own_size(a, factors)
    else:
        rank = find_rank(factors.r, rcond)
    zeros = jnp.zeros_like(factors.r)
    z = lax.cond(
        jnp.any(rank < n),
        lambda: Reflectors(*factor(H(keep_leading_rows(factors.r, rank, rcond)), "h", "tau")),
        lambda: Reflectors(zeros, zeros[..., 0]),
    )
    return Decomposition(factors, rank, z)


def _factor_pivoted(a: Array) -> Factors:
    """Factor a deep matrix with column pivoting."""
    m, n = a.shape[-2:]
    if not is_factored_twice(m, n):
        h, tau, p = factor(a, "h", "tau", "p", pivoting="exact")
        return Factors(Reflectors(h, tau), None, p)
    # Large columns come first, as their rounding errors would be large ones of small columns.
    sizes = jnp.sum(jnp.abs(a), axis=-2)
    order = jnp.argsort(-sizes, axis=-1).astype(jnp.int32)
    outer = Reflectors(*factor(_take_columns(a, order), "h", "tau"))
    h, tau, p = factor(triu(outer.h[..., :n, :]), "h", "tau", "p", pivoting="exact")
    return Factors(outer, Reflectors(h, tau), jnp.take_along_axis(order, p, axis=-1))


def _judge_by_own_size(a: Array, factors: Factors) -> tuple[Factors, Array]:
    """Find the rank with each column judged by its own size, and factors that go with it.

    If it is not full, the matrix may be factored anew, in an order in which the columns that count
    come first.
    """
    n = a.shape[-1]
    assert factors.p is not None
    p = factors.p

    def factor_anew(order: Array) -> Factors:
        new_p = jnp.take_along_axis(p, order, axis=-1)
        outer = Reflectors(*factor(_take_columns(a, new_p), "h", "tau"))
        if factors.inner is None:
            return Factors(outer, None, new_p)
        # What is left for the second stage is a triangle already, so its reflectors are identities.
        inner = Reflectors(triu(outer.h[..., :n, :]), jnp.zeros_like(factors.inner.tau))
        return Factors(outer, inner, new_p)

    return order_by_own_size(factors, factors.r, factor_anew)


def _take_columns(a: Array, p: Array) -> Array:
    return jnp.take_along_axis(a, p[..., None, :], axis=-1)
