"""Nearly triangular matrices, and pivots, where columns are of very different size."""

import itertools
from functools import partial

import jax
import numpy as np
import pytest

import jaxqr
from grades import (
    assert_columns,
    grades,
    of_columns,
    ordinary,
    power_of_two,
    program,
    real,
    well_conditioned,
)
from laws import mostly_nightly
from matrices import DTYPES, FACTORIZATIONS, adjoint, double, householder, normal, pivots

pytestmark = pytest.mark.usefixtures("fast_compilation")


TRIANGULAR = [*itertools.product(DTYPES, [(6, 6), (9, 4), (200, 5), (100, 100)])]


@pytest.mark.parametrize("dtype, shape", mostly_nightly(TRIANGULAR, 3), ids=str)
def test_nearly_triangular_matrices(dtype, shape):
    """As in square-root filters. Signs are LAPACK's: small numbers below are no zeros."""
    a, n = ordinary(shape, dtype), shape[1]
    a[:n] += 6 * np.eye(n).astype(dtype)
    factor = jax.jit(lambda a: (*jaxqr.qr(a), *jaxqr.qr(a, "raw")))
    for size in (1e-15, 1e-30, 1e-24 if real(dtype).itemsize == 4 else 1e-170):
        near = np.where(np.tri(*shape, -1, dtype=bool), (a * size).astype(dtype), a)
        q, r, h, tau = factor(np.stack([near, near]))
        want_h, want_tau = householder(near)
        assert_columns(np.swapaxes(h, -1, -2)[0], want_h)
        below = np.tril(double(np.swapaxes(h, -1, -2)[1]), -1)
        assert_columns((below / size).astype(dtype), np.tril(want_h, -1) / size, factor=1e4)
        np.testing.assert_allclose(double(tau[0]), double(want_tau), rtol=1e3 * np.finfo(dtype).eps)
        assert_columns(r[0], np.triu(want_h)[:n])
        assert_columns(
            double(q[1]) @ double(r[1]),
            double(near),
            factor=1e3 * np.finfo(dtype).eps / np.finfo("float64").eps,
        )


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_exact_remainders_are_kept(dtype):
    """What is left of a column may be far below its rounding, and is exact all the same."""
    for small in (1e-10, 1e-18, 1e-30) if real(dtype).itemsize == 4 else (1e-30, 1e-170, 1e-290):
        small = power_of_two(small, dtype)
        a = np.array([[1, 1], [0, small], [0, small]], dtype)
        for batch in ((), (20,)):
            q, r = jaxqr.qr(np.broadcast_to(a, (*batch, 3, 2)))
            for x in np.asarray(double(r)).reshape(-1, 2, 2):
                np.testing.assert_allclose(np.abs(x[0]), 1, rtol=1e-6)
                np.testing.assert_allclose(np.abs(x[1]), [0, np.sqrt(2) * small], rtol=1e-6)
            for x in np.asarray(double(q)).reshape(-1, 3, 2):
                np.testing.assert_allclose(np.abs(x[:, 1]), [0, 0.5**0.5, 0.5**0.5], rtol=1e-6)


# ---------------------------------------------------------------------------------- pivoted


PIVOTED = [
    *itertools.product(DTYPES, [(6, 2), (3, 3), (6, 4), (3, 6)]),
    *itertools.product(DTYPES[:2], [(150, 150), (700, 16)]),
]


@pytest.mark.parametrize("dtype, shape", mostly_nightly(PIVOTED, 3), ids=str)
def test_pivots_are_those_of_true_norms(dtype, shape):
    large = max(shape) > 20
    a = well_conditioned(shape, dtype)
    factor = jax.jit(partial(jaxqr.qr, pivoting=True))
    plain = jax.jit(jaxqr.qr)
    batch = () if large else (20,)
    for d in grades(shape[-1], dtype):
        q, r, p = (np.asarray(x) for x in factor(np.broadcast_to(a * d, (*batch, *shape))))
        if batch:
            assert all(np.array_equal(x, np.broadcast_to(x[0], x.shape)) for x in (q, r, p))
            q, r, p = q[1], r[1], p[1]
        size = np.abs(np.diagonal(r))
        assert np.all(size[1:] <= size[:-1] * (1 + 10 * np.finfo(dtype).eps))
        if not large:  # where norms are far apart, the order is theirs
            want = pivots(double(a * d))
            k = min(shape)
            np.testing.assert_array_equal(p[:k], want[:k])
        want_q, want_r = plain(a[:, p])
        assert_columns(q, want_q, factor=1e4)
        assert_columns(r, want_r, d[p], factor=1e4)


MOVED = [
    *itertools.product([(6, 4), (3, 6), (90, 60)], ("float32", "complex128"), FACTORIZATIONS),
]


@pytest.mark.parametrize("shape, dtype, name", mostly_nightly(MOVED, 3), ids=str)
def test_pivoted_derivatives(shape, dtype, name):
    """Those of the permuted matrix, whatever the pivots are."""
    m, n = shape
    k = min(m, n)
    batch = () if m > 20 else (20,)
    everything, plain = program(of_columns(name, pivoting=True)), program(of_columns("qr"))
    a, da = well_conditioned(shape, dtype), ordinary(shape, dtype, seed=1)
    qbar, rbar = (ordinary(s, dtype, seed) / 4 for seed, s in ((2, (m, k)), (3, (k, n))))
    for d in grades(n, dtype)[:6]:
        p = np.asarray(jaxqr.qr(a * d, pivoting=True).P)
        (q, r), (dq, dr), (gradient,) = plain((a[:, p],), (da[:, p],), (qbar, rbar))
        x, dx, *bars = (
            np.broadcast_to(z, (*batch, *z.shape)) for z in (a * d, da * d, qbar, rbar / d[p])
        )
        got = everything((x,), (dx,), tuple(bars))
        (got_q, got_r), (got_dq, got_dr), (got_gradient,) = jax.tree.map(
            lambda z: np.asarray(z)[3] if batch else np.asarray(z), got
        )
        assert_columns(got_q, q, factor=1e4)
        assert_columns(got_r, r, d[p], factor=1e4)
        assert_columns(got_dq, dq, factor=1e4)
        assert_columns(got_dr, dr, d[p], factor=1e4)
        assert_columns(got_gradient[:, p], gradient, 1 / d[p], factor=1e4)


def test_the_references_are_right():
    """Householder's method in extended precision, against NumPy."""
    for dtype in ("float64", "complex128"):
        a = normal((6, 4), dtype)
        h, tau = householder(a)
        want_h, want_tau = np.linalg.qr(a, "raw")
        np.testing.assert_allclose(double(h), want_h.T, atol=1e-14)
        np.testing.assert_allclose(double(tau), want_tau, atol=1e-14)
        r = np.linalg.qr(a[:, pivots(a)], "r")
        gram = adjoint(a) @ a
        np.testing.assert_allclose(adjoint(r) @ r, gram[pivots(a)][:, pivots(a)], atol=1e-13)
        assert np.all(np.diff(np.abs(np.diag(r))) < 0)
