"""Columns of very different size in one matrix: everything is right column by column.

Scaling columns by powers of two, A D, changes neither Householder's Q, nor its reflectors and tau,
and R becomes R D; a tangent dA D leaves dQ as it is and makes dR D of dR; the cotangent of A D from
Qbar and Rbar D^-1 is that of A from Qbar and Rbar, times D^-1. So what is expected for A D is what
is found for an ordinary A, and each column is compared relative to its own size.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from jaxqr._lowering import kernels
from matrices import DTYPES, FACTORIZATIONS, adjoint, householder, normal, pivots
from meshes import mesh_of

# Sizes of columns in single and double precision, each also in the order given by reversal
SIZES = {
    4: {
        2: ((1e7, 1e-32), (1e17, 1e-19), (1e20, 1e-26), (1e30, 1e-36)),
        3: ((1, 1e-10, 1e-36), (1e-36, 1e30, 1), (1e30, 1e30, 1e-30)),
        4: tuple(itertools.permutations((1e30, 1, 1e-20, 1e-35))),
        5: ((1, 1e-36, 1, 1e30, 1e-10), (1e-35, 1e-18, 1, 1e17, 1e30)),
        6: ((1, 1, 1, 1e-20, 1e-30, 1e-36), (1e-36, 1e30, 1, 1e30, 1e-20, 1)),
    },
    8: {
        2: ((1e7, 1e-32), (1e61, 1e-250), (1e150, 1e-170), (1e300, 1e-300)),
        3: ((1, 1e-130, 1e-200), (1e-300, 1e300, 1), (1e200, 1e200, 1e-200)),
        4: tuple(itertools.permutations((1e300, 1, 1e-200, 1e-300))),
        5: ((1, 1e-140, 1, 1e200, 1e-10), (1e-300, 1e-160, 1, 1e140, 1e300)),
        6: ((1, 1, 1, 1e-150, 1e-200, 1e-300), (1e-300, 1e200, 1, 1e300, 1e-140, 1)),
    },
}
CASES = ((6, 2), (3, 3), (4, 4), (6, 4), (3, 6))
LARGE = ((3000, 5), (700, 16), (150, 150), (40, 90))


pytestmark = pytest.mark.usefixtures("fast_compilation")


def real(dtype):
    return np.finfo(dtype).dtype


def power_of_two(sizes, dtype):
    return (2.0 ** np.round(np.log2(np.asarray(sizes, np.float64)))).astype(real(dtype))


def grades(n, dtype):
    """The powers of two for n columns, several times."""
    info = np.finfo(dtype)
    if np.dtype(dtype) == np.complex64 and not kernels.available():
        # entries of R are flushed to zero that are small beside the others of a tiny column
        return [d for d in all_grades(n, dtype) if np.min(d) > 2.0**16 * info.tiny]
    return all_grades(n, dtype)


def all_grades(n, dtype):
    info = np.finfo(dtype)
    known = SIZES[real(dtype).itemsize].get(n)
    if known is not None:
        found = [power_of_two(sizes, dtype) for sizes in known]
        return found if n == 4 else [*found, *(x[::-1].copy() for x in found)]
    exponents = np.linspace(info.minexp + 20, info.maxexp - 28, n).astype(int)
    last = np.zeros(n, int)
    last[n // 2] = info.minexp // 2 - 20  # one column whose squares are lost
    orders = (exponents[::-1], np.random.default_rng(n).permutation(exponents), last)
    return [(2.0**x).astype(real(dtype)) for x in orders]


def ordinary(shape, dtype, seed=0):
    """No entry is so small that a tiny multiple of it is denormal, which XLA flushes to zero."""

    def away(x):
        return x + np.copysign(0.25, x)

    x = normal(shape, dtype, seed)
    if np.iscomplexobj(x):
        x = away(x.real) + 1j * away(x.imag)
        return x.astype(dtype)
    return away(x).astype(dtype)


def well_conditioned(shape, dtype, seed=0):
    """An ordinary matrix whose leading columns, in any order, are far from dependent."""
    m, n = shape[-2:]
    a = ordinary(shape, dtype, seed)
    if m >= 20 * n:
        return a
    return (a + np.eye(m, n) * np.sqrt(max(m, n)) * 3).astype(dtype)


def exact(x):
    x = np.asarray(x)
    return x.astype(np.result_type(x.dtype, np.float64))


def assert_columns(got, expected, scale=1.0, factor=1e3):
    """got = expected * scale, each column relative to its own size and to the smallest number."""
    info = np.finfo(np.asarray(got).dtype)
    got, expected, scale = exact(got) / exact(scale), exact(expected), exact(scale)
    assert got.shape == expected.shape
    if got.ndim == 0 or got.size == 0:
        return
    axis = -2 if got.ndim > 1 else None
    size = np.max(np.abs(expected), axis=axis, keepdims=True)
    flushed = 4 * float(info.tiny) / scale
    error = np.abs(got - expected)
    assert np.all(error <= factor * float(info.eps) * size + flushed), np.max(
        error / (size + 1e-300)
    )


def program(function):
    @jax.jit
    def everything(x, dx, cotangents):
        values, tangents = jax.jvp(function, x, dx)
        return values, tangents, jax.vjp(function, *x)[1](cotangents)

    return everything


def of_columns(name, mode="reduced", pivoting=False):
    """Q, R as those of QR, of `a` or, for lq, of its transpose."""

    def function(a):
        if name == "qr":
            found = jaxqr.qr(a, mode, pivoting=pivoting)
            return found[0], found[1]
        found = jaxqr.lq(a.mT, mode, pivoting=pivoting)
        return found.Q.mT, found.L.mT

    return function


def check_factors(function, shape, dtype, factor=1e3, scales=None):
    everything = program(function)
    m, n = shape[-2:]
    k = min(m, n)
    a, da = well_conditioned(shape, dtype), ordinary(shape, dtype, seed=1)
    qbar, rbar = (
        ordinary((*shape[:-2], *s), dtype, seed) / 4 for seed, s in ((2, (m, k)), (3, (k, n)))
    )
    (q, r), (dq, dr), (gradient,) = everything((a,), (da,), (qbar, rbar))
    for d in grades(n, dtype) if scales is None else scales:
        got = everything((a * d,), (da * d,), (qbar, rbar / d))
        try:
            assert_columns(got[0][0], q, factor=factor)
            assert_columns(got[0][1], r, d, factor)
            assert_columns(got[1][0], dq, factor=factor)
            assert_columns(got[1][1], dr, d, factor)
            assert_columns(got[2][0], gradient, 1 / d, factor)
        except AssertionError as error:
            error.add_note(f"columns of {shape} times {d}")
            raise


# ---------------------------------------------------------------------------------- factors


@pytest.mark.parametrize("shape", CASES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FACTORIZATIONS)
def test_factors_and_derivatives(name, dtype, shape):
    check_factors(of_columns(name), (20, *shape), dtype)
    if dtype in ("float32", "complex128"):
        check_factors(of_columns(name), shape, dtype)


@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FACTORIZATIONS)
def test_factors_and_derivatives_of_larger_matrices(name, dtype, shape):
    check_factors(of_columns(name), shape, dtype, factor=1e4)


def test_each_matrix_of_a_batch_has_grades_of_its_own():
    dtype = "float32"
    a, da = well_conditioned((24, 4, 4), dtype), ordinary((24, 4, 4), dtype, seed=1)
    d = np.stack(grades(4, dtype))[:, None, :]
    everything = program(of_columns("qr"))
    qbar, rbar = (ordinary(a.shape, dtype, seed) / 4 for seed in (2, 3))
    (q, r), (dq, dr), (gradient,) = everything((a,), (da,), (qbar, rbar))
    got = everything((a * d,), (da * d,), (qbar, rbar / d))
    for x, expected, scale in (
        (got[0][0], q, np.ones_like(d)),
        (got[0][1], r, d),
        (got[1][0], dq, np.ones_like(d)),
        (got[1][1], dr, d),
        (got[2][0], gradient, 1 / d),
    ):
        assert_columns(x, expected, scale)


@pytest.mark.parametrize("name", FACTORIZATIONS)
@pytest.mark.parametrize(
    ("dtype", "sizes"), [("float32", (1e7, 1e-32)), ("float64", (1e61, 1e-250))]
)
def test_the_gradient_of_a_function_of_q(name, dtype, sizes):
    """What jnp.linalg.qr has: no infinity and no NaN."""
    a, d = ordinary((6, 2), dtype), power_of_two(sizes, dtype)
    gradient = jax.jit(jax.grad(lambda a: jnp.sum(jnp.sin(of_columns(name)(a)[0]))))
    assert_columns(gradient(a * d), gradient(a), 1 / d)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gradient_of_a_volume_is_the_pseudo_inverse(dtype):
    a = well_conditioned((6, 4), dtype)

    @jax.jit
    @jax.grad
    def gradient(a):
        return jnp.sum(jnp.log(jnp.abs(jnp.diagonal(jaxqr.qr(a, "r")))))

    for d in grades(4, dtype):
        assert_columns(gradient(a * d), np.linalg.pinv(exact(a)).T, 1 / d)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_diagonal_matrix(dtype):
    for sizes in SIZES[real(dtype).itemsize][2]:
        for d in (power_of_two(sizes, dtype), power_of_two(sizes[::-1], dtype)):
            for pivoting in (False, True):
                found = jaxqr.qr(np.diag(d), pivoting=pivoting)
                p = found.P if pivoting else np.arange(2)
                np.testing.assert_array_equal(np.abs(found.R), np.diag(d[p]))
                np.testing.assert_array_equal(np.abs(found.Q), np.eye(2)[:, p])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_small_column_of_a_tall_matrix(dtype):
    a = ordinary((3000, 16), dtype)
    d = np.ones(16, real(dtype))
    d[5] = power_of_two(1e-24 if dtype == "float32" else 1e-140, dtype)
    check_factors(of_columns("qr"), a.shape, dtype, 1e4, [d, d[::-1].copy()])


# -------------------------------------------------------------- nearly triangular matrices


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (200, 5), (100, 100)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
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
        below = np.tril(exact(np.swapaxes(h, -1, -2)[1]), -1)
        assert_columns((below / size).astype(dtype), np.tril(want_h, -1) / size, factor=1e4)
        np.testing.assert_allclose(exact(tau[0]), exact(want_tau), rtol=1e3 * np.finfo(dtype).eps)
        assert_columns(r[0], np.triu(want_h)[:n])
        assert_columns(
            exact(q[1]) @ exact(r[1]),
            exact(near),
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
            for x in np.asarray(exact(r)).reshape(-1, 2, 2):
                np.testing.assert_allclose(np.abs(x[0]), 1, rtol=1e-6)
                np.testing.assert_allclose(np.abs(x[1]), [0, np.sqrt(2) * small], rtol=1e-6)
            for x in np.asarray(exact(q)).reshape(-1, 3, 2):
                np.testing.assert_allclose(np.abs(x[:, 1]), [0, 0.5**0.5, 0.5**0.5], rtol=1e-6)


# ---------------------------------------------------------------------------------- pivoted


@pytest.mark.parametrize("shape", [(6, 2), (3, 3), (6, 4), (3, 6), (150, 150), (700, 16)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_pivots_are_those_of_true_norms(dtype, shape):
    large = max(shape) > 20
    if large and dtype.startswith("complex"):
        pytest.skip("in real arithmetic")
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
            want = pivots(exact(a * d))
            k = min(shape)
            np.testing.assert_array_equal(p[:k], want[:k])
        want_q, want_r = plain(a[:, p])
        assert_columns(q, want_q, factor=1e4)
        assert_columns(r, want_r, d[p], factor=1e4)


@pytest.mark.parametrize("name", FACTORIZATIONS)
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("shape", [(6, 4), (3, 6), (90, 60)], ids=str)
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


# ----------------------------------------------------------------------------- raw, complete


@pytest.mark.parametrize("shape", [(6, 2), (4, 4), (3, 6), (700, 16)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_raw_reflectors_and_their_derivatives(dtype, shape):
    everything = program(of_raw)
    batch = () if shape[0] > 20 else (20,)
    m, n = shape
    upper = ~np.tri(m, n, -1, dtype=bool)
    shape = (*batch, *shape)
    a, da = well_conditioned(shape, dtype), ordinary(shape, dtype, seed=1)
    hbar, taubar = ordinary(shape, dtype, 2) / 4, ordinary((*batch, min(m, n)), dtype, 3) / 4
    (h, tau), (dh, dtau), (gradient,) = everything((a,), (da,), (hbar, taubar))
    first = (0,) * len(batch)
    want_h, want_tau = householder(a[first])
    assert_columns(np.asarray(h)[first], want_h)
    np.testing.assert_allclose(np.asarray(tau)[first], want_tau, rtol=1e4 * np.finfo(dtype).eps)
    for d in grades(n, dtype)[:8]:
        e = np.where(upper, d, np.ones_like(d))  # of the entries of h
        got = everything((a * d,), (da * d,), (hbar / e, taubar))
        for keep, scale in ((upper, d), (~upper, np.ones_like(d))):
            for x, want in ((got[0][0], h), (got[1][0], dh)):
                assert_columns(np.where(keep, x, 0), np.where(keep, want, 0), scale, 1e4)
        for x, want in ((got[0][1], tau), (got[1][1], dtau)):
            size = np.abs(want).max() + 1
            np.testing.assert_allclose(x, want, rtol=0, atol=size * 1e4 * np.finfo(dtype).eps)
        assert_columns(got[2][0], gradient, 1 / d, 1e4)


def of_raw(a):
    h, tau = jaxqr.qr(a, "raw")
    return h.mT, tau


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FACTORIZATIONS)
def test_complete(name, dtype):
    shape = (20, 6, 2)
    everything = program(of_columns(name, "complete"))
    a, da = well_conditioned(shape, dtype), ordinary(shape, dtype, seed=1)
    qbar, rbar = ordinary((20, 6, 6), dtype, 2) / 4, ordinary(shape, dtype, 3) / 4
    (q, r), (dq, dr), (gradient,) = everything((a,), (da,), (qbar, rbar))
    for d in grades(2, dtype):
        got = everything((a * d,), (da * d,), (qbar, rbar / d))
        assert_columns(got[0][0], q)
        assert_columns(got[0][1], r, d)
        assert_columns(got[1][0], dq)
        assert_columns(got[1][1], dr, d)
        assert_columns(got[2][0], gradient, 1 / d)


# ------------------------------------------------------------------------- products with Q


@pytest.mark.parametrize("mode", ["left", "right"])
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("shape", [(6, 4), (3, 6), (700, 16)], ids=str)
def test_products_with_q(shape, dtype, mode):
    m, n = shape
    k = min(m, n)
    batch = () if m > 20 else (20,)

    def function(a, c):
        return tuple(jaxqr.qr_multiply(a, c, mode))

    everything = program(function)
    c_shape, product = ((k, 3), (m, 3)) if mode == "left" else ((3, m), (3, k))
    a, da = well_conditioned((*batch, m, n), dtype), ordinary((*batch, m, n), dtype, seed=1)
    c, dc = (ordinary((*batch, *c_shape), dtype, seed) for seed in (2, 3))
    bars = tuple(ordinary((*batch, *s), dtype, seed) / 4 for seed, s in ((4, product), (5, (k, n))))
    (y, r), (dy, dr), (abar, cbar) = everything((a, c), (da, dc), bars)
    for d in grades(n, dtype)[:8]:
        got = everything((a * d, c), (da * d, dc), (bars[0], bars[1] / d))
        for x, want, scale in (
            (got[0][0], y, np.ones(1)),
            (got[0][1], r, d),
            (got[1][0], dy, np.ones(1)),
            (got[1][1], dr, d),
            (got[2][0], abar, 1 / d),
            (got[2][1], cbar, np.ones(1)),
        ):
            assert_columns(x, want, scale, 1e4)


def test_products_of_reflectors_do_not_depend_on_the_grades():
    for dtype in ("float32", "float64"):
        a = well_conditioned((20, 6, 4), dtype)
        c = ordinary((20, 6, 2), dtype, 1)

        @jax.jit
        def products(a, c):
            h, tau = jaxqr.qr(a, "raw")
            q = jaxqr.householder_product(h.mT, tau)
            return q, jaxqr.householder_multiply(h.mT, tau, c, adjoint=True)

        want = products(a, c)
        for d in grades(4, dtype):
            for x, y in zip(products(a * d, c), want, strict=True):
                assert_columns(x, y)


# ----------------------------------------------------------------------------- least squares


@pytest.mark.parametrize("options", [{}, {"rcond": 0.0}, {"pivoting": False}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("shape", [(6, 2), (4, 4), (6, 4), (700, 16)], ids=str)
def test_solutions_are_right_entry_by_entry(shape, dtype, options):
    """x_j = y_j / d_j, where y solves the ordinary problem; all columns count."""
    m, n = shape
    batch = () if m > 20 else (20,)

    def function(a, b):
        return tuple(jaxqr.lstsq(a, b, **options))[:2]

    everything = program(function)
    rank = jax.jit(lambda a, b: jaxqr.lstsq(a, b, **options).rank)
    a, da = well_conditioned((*batch, m, n), dtype), ordinary((*batch, m, n), dtype, seed=1)
    b, db = (ordinary((*batch, m, 2), dtype, seed) for seed in (2, 3))
    xbar = ordinary((*batch, n, 2), dtype, 4) / 4
    rbar = np.ones((*batch, 2), real(dtype)) / 4
    (x, rest), (dx, drest), (abar, bbar) = everything((a, b), (da, db), (xbar, rbar))
    one = (0,) * len(batch)
    want = np.linalg.lstsq(exact(a[one]), exact(b[one]), rcond=None)[0]
    assert_columns(np.asarray(x)[one], want, factor=1e4)
    for d in grades(n, dtype)[:8]:
        assert np.all(np.asarray(rank(a * d, b)) == n)
        if np.min(d) < 2.0**16 * np.finfo(dtype).tiny:
            continue  # XLA flushes products of the tangent with numbers of size one
        rows = d[:, None]
        got = everything((a * d, b), (da * d, db), (xbar * rows, rbar))
        for got_x, y in ((got[0][0], x), (got[1][0], dx)):
            # rows of x are compared as columns
            assert_columns(np.swapaxes(got_x, -1, -2), np.swapaxes(y, -1, -2), 1 / d, 1e4)
        if m > n:
            for got_rest, want_rest in ((got[0][1], rest), (got[1][1], drest)):
                np.testing.assert_allclose(
                    got_rest,
                    want_rest,
                    rtol=1e4 * np.finfo(dtype).eps,
                    atol=1e4 * np.finfo(dtype).eps * np.abs(want_rest).max(),
                )
        assert_columns(got[2][0], abar, 1 / d, 1e4)
        assert_columns(got[2][1], bbar, factor=1e4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_second_derivatives_of_solutions_are_those_of_the_ordinary_problem(dtype):
    a, v = (ordinary((5, 3), dtype, seed) for seed in (0, 1))
    b = ordinary((5,), dtype, seed=2)

    @jax.jit
    def product(a, v, d):
        def loss(a):
            return jax.numpy.sum(jax.numpy.sin(jaxqr.lstsq(a, b).x * d))

        return jax.jvp(jax.grad(loss), (a,), (v,))[1]

    want = product(a, v, np.ones(3, dtype))
    power = 2.0 ** (70 if dtype == "float32" else 600)
    for d in ([1, 1, 1 / power], [1, 1, power], [1 / power] * 3, [power] * 3):
        d = np.array(d, dtype)
        assert_columns(product(a * d, v * d, d), want, 1 / d, 1e4)


@pytest.mark.parametrize("options", [{}, {"rcond": 0.0}, {"pivoting": False}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_a_wide_system_may_be_of_any_size(dtype, options):
    """D A x = D b has the same solution of minimum norm."""
    a, da = (well_conditioned((20, 4, 6), dtype), ordinary((20, 4, 6), dtype, 1))
    b, db = (ordinary((20, 4, 2), dtype, seed) for seed in (2, 3))

    def function(a, b):
        return (jaxqr.lstsq(a, b, **options).x,)

    everything = program(function)
    xbar = ordinary((20, 6, 2), dtype, 4) / 4
    (x,), (dx,), (abar, bbar) = everything((a, b), (da, db), (xbar,))
    for d in grades(4, dtype)[:8]:
        s = d[:, None]
        got = everything((a * s, b * s), (da * s, db * s), (xbar,))
        assert_columns(got[0][0], x, factor=1e4)
        assert_columns(got[1][0], dx, factor=1e4)
        for got_bar, bar in ((got[2][0], abar), (got[2][1], bbar)):
            assert_columns(np.swapaxes(got_bar, -1, -2), np.swapaxes(bar, -1, -2), 1 / d, 1e4)


# ---------------------------------------------------------------------------- blocks of rows


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_on_eight_devices(dtype):
    with mesh_of("automatic") as mesh:
        check_factors(
            lambda a: tuple(jaxqr.tsqr(a, axis_name="x", mesh=mesh)),
            (32, 4),
            dtype,
            scales=grades(4, dtype)[::5],
        )


def test_the_references_are_right():
    """Householder's method in extended precision, against NumPy."""
    for dtype in ("float64", "complex128"):
        a = normal((6, 4), dtype)
        h, tau = householder(a)
        want_h, want_tau = np.linalg.qr(a, "raw")
        np.testing.assert_allclose(exact(h), want_h.T, atol=1e-14)
        np.testing.assert_allclose(exact(tau), want_tau, atol=1e-14)
        r = np.linalg.qr(a[:, pivots(a)], "r")
        gram = adjoint(a) @ a
        np.testing.assert_allclose(adjoint(r) @ r, gram[pivots(a)][:, pivots(a)], atol=1e-13)
        assert np.all(np.diff(np.abs(np.diag(r))) < 0)
