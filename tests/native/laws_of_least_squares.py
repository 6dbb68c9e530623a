"""What the kernels of least squares obey."""

from functools import partial
from typing import NamedTuple

import numpy as np

from problems import LETTERS, adjoint, assert_product, normal


class Problem(NamedTuple):
    """A matrix whose rank is beyond doubt, two right-hand sides, and what comes of them."""

    a: np.ndarray
    b: np.ndarray
    u: np.ndarray
    rank: int
    pivoting: bool
    rcond: float
    inverse: np.ndarray
    limit: float  # how far results may be from those that are expected

    def assert_same(self, x, y, what):
        assert x.shape == y.shape and np.all(np.abs(x - y) < self.limit), f"{what}, {self.rank}"


def draw(library, rng):
    dtype, batch, m, n = library.problem(rng)
    m, n, s = max(m, n), min(m, n), int(rng.choice((1, 1, 2, 5)))
    if m < 300:
        batch = min(batch, 40)
    info, wide = np.finfo(dtype), np.result_type(dtype, np.float64)
    rank = n if rng.random() < 0.5 else int(rng.integers(0, n + 1))
    # singular values of one size: the rank is beyond doubt, and the condition harmless
    left = np.linalg.qr(normal(rng, (batch, m, rank), np.dtype(wide)))[0]
    right = np.linalg.qr(normal(rng, (batch, n, rank), np.dtype(wide)))[0]
    a = (left * rng.uniform(1, 2, (batch, 1, rank))) @ adjoint(right)
    if rank == n and rng.random() < 0.3:  # columns of different sizes: the condition grows
        a *= 2.0 ** rng.integers(-2, 3, (batch, 1, n))
    a = a.astype(dtype)
    b, u = normal(rng, (batch, m, s), dtype), normal(rng, (batch, n, s), dtype)
    pivoting = rank < n or rng.random() < 0.7
    cut = 1e-13 if rank == n else 100 * m * float(info.eps)
    inverse = np.linalg.pinv(a.astype(wide), rcond=cut)
    size = max(1, np.abs(b).max(), np.abs(u).max()) * max(1, np.abs(inverse).max()) ** 2
    limit = 1000 * m * float(info.eps) * size
    return Problem(a, b, u, rank, pivoting, 20 * m * float(info.eps), inverse, limit)


def triangles(library, rng):
    """Triangular systems of every kind, whose other triangle is not read."""
    dtype = np.dtype(LETTERS[rng.integers(4)])
    batch, n, s = (int(rng.integers(1, most)) for most in (7, 24, 12))
    names = ("left", "lower", "transpose", "conjugate", "unit")
    flags = {name: bool(rng.random() < 0.5) for name in names}
    a = normal(rng, (batch, n, n), dtype) / (2 * n)
    b = normal(rng, (batch, n, s) if flags["left"] else (batch, s, n), dtype)
    diagonal = np.eye(n, dtype=bool)
    a = np.where(diagonal, a + 1, a).astype(dtype)
    t = np.tril(a) if flags["lower"] else np.triu(a)
    t = np.where(diagonal, 1, t) if flags["unit"] else t
    read = np.tril(np.ones((n, n), bool), -1)
    read = read if flags["lower"] else read.T
    a = np.where(read | (diagonal & (not flags["unit"])), a, np.nan).astype(dtype)
    x = library.solve(a, b, **flags).astype(np.result_type(dtype, np.float64))
    t = np.swapaxes(t, -1, -2) if flags["transpose"] else t
    t = t.conj() if flags["conjugate"] else t
    assert_product(b, t @ x if flags["left"] else x @ t, np.finfo(dtype))


def least_squares(library, rng):
    """The solution is that of the pseudo-inverse."""
    given = draw(library, rng)
    a, b, limit = given.a, given.b, given.limit
    want = given.inverse @ b
    x, residuals, ranks = library.least_squares(a, b, given.rcond, pivoting=given.pivoting)
    assert np.all(ranks == given.rank), f"rank {ranks}, not {given.rank}"
    given.assert_same(x, want, "x")
    squares = np.sum(np.abs(b - a.astype(want.dtype) @ want) ** 2, axis=-2)
    assert np.all(np.abs(residuals - squares) < limit * (1 + squares)), "residuals"


def decomposition(library, rng):
    """The operations of the decomposition are those of the pseudo-inverse."""
    given = draw(library, rng)
    a, b, u, inverse = given.a, given.b, given.u, given.inverse
    twice = given.pivoting and rng.random() < 0.5
    factors = library.decompose(a, given.rcond, pivoting=given.pivoting, twice=twice)
    assert np.all(factors[5] == given.rank), "rank of the decomposition"
    operate = partial(library.pseudoinverse, a, factors)
    given.assert_same(operate("solve", b), inverse @ b, "solve")
    want = adjoint(inverse) @ u
    given.assert_same(operate("solve_adjoint", u), want, "solve_adjoint")
    given.assert_same(operate("gram", u), inverse @ want, "gram")
    want = u - inverse @ (a.astype(inverse.dtype) @ u)
    given.assert_same(operate("null", u), want, "null")


def dependent(library, rng):
    """A multiple of a column does not count beside it, but the larger of the two; the rest does."""
    dtype, batch, m, n = library.problem(rng)
    m, n = max(m, n, 2), max(2, min(m, n))
    batch = min(batch, 40)
    a = normal(rng, (batch, m, n), dtype)
    i, j = rng.choice(n, 2, replace=False)
    exponent = int(rng.choice((0, 5, 20, 40)))
    a[:, :, j] = a[:, :, i] * dtype.type(2.0**exponent)
    b = normal(rng, (batch, m, 1), dtype)
    x, _, rank = library.least_squares(a, b, -1.0, pivoting=True)
    assert np.all(rank == n - 1), f"rank {rank}, not {n - 1}"
    wide = np.result_type(dtype, np.longdouble)
    fit = (a.astype(wide) @ x.astype(wide)).astype(np.result_type(dtype, np.float64))
    rest = np.delete(a, j, axis=-1).astype(fit.dtype)
    error = np.abs(fit - rest @ (np.linalg.pinv(rest) @ b)).max()
    condition = np.linalg.cond(rest).max()
    assert error < 1000 * m * np.finfo(dtype).eps * condition * np.abs(b).max(), "fit"
    near = np.abs(x[:, i] * 2.0**exponent - x[:, j]) / np.maximum(np.abs(x[:, j]), 1e-30)
    assert exponent > 5 or np.all(near < 1e5 * n * np.finfo(dtype).eps * condition), "minimum norm"


def not_finite_sides(library, rng):
    """What is not finite in a column of b stays in its column of x."""
    dtype, batch, m, n = library.problem(rng)
    m, n, s = max(m, n), min(m, n), int(rng.integers(2, 6))
    batch = min(batch, 40)
    a, b = normal(rng, (batch, m, n), dtype), normal(rng, (batch, m, s), dtype)
    pivoting = bool(rng.random() < 0.7)
    clean = library.least_squares(a, b, 1e-5, pivoting=pivoting)
    bad, column = rng.integers(batch), rng.integers(s)
    b[bad, rng.integers(m), column] = rng.choice((np.nan, np.inf, -np.inf))
    x, residuals, rank = library.least_squares(a, b, 1e-5, pivoting=pivoting)
    assert np.all(rank == clean[2]), "a NaN in b changes a rank"
    # of few rows in the column not all entries of x need that of b
    assert not np.all(np.isfinite(x[bad, :, column])), "x of a column with a NaN is finite"
    assert np.isnan(residuals[bad, column]), "the residual of a column with a NaN is not NaN"
    x[bad, :, column], residuals[bad, column] = clean[0][bad, :, column], clean[1][bad, column]
    limit = 1e5 * m * np.finfo(dtype).eps * np.linalg.cond(a).max() ** 2
    assert np.all(np.abs(x - clean[0]) <= limit * np.abs(clean[0]).max()), "other columns of x"
    assert np.all(np.abs(residuals - clean[1]) <= limit * np.abs(clean[1]).max()), "residuals"
