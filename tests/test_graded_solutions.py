"""Columns of very different size in one matrix: products with Q and least squares."""

import itertools

import jax
import numpy as np
import pytest

import jaxqr
from grades import assert_columns, assert_graded, grades, ordinary, program, real, well_conditioned
from laws import mostly_nightly
from matrices import double

pytestmark = pytest.mark.usefixtures("fast_compilation")


PRODUCTS = [
    *itertools.product([(6, 4), (3, 6), (700, 16)], ("float32", "complex128"), ("left", "right"))
]


@pytest.mark.parametrize("shape, dtype, mode", mostly_nightly(PRODUCTS, 3), ids=str)
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
    usual = everything((a, c), (da, dc), bars)
    for d in grades(n, dtype)[:8]:
        of = (1.0, d), (1 / d, 1.0)
        given = (a * d, c), (da * d, dc), (bars[0], bars[1] / d)
        assert_graded(everything, *given, of, d, usual, 1e4)


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


WAYS = ({}, {"rcond": 0.0}, {"pivoting": False})
SOLVED = [*itertools.product([(6, 2), (4, 4), (6, 4), (700, 16)], ("float32", "complex128"), WAYS)]


@pytest.mark.parametrize("shape, dtype, options", mostly_nightly(SOLVED, 5), ids=str)
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
    want = np.linalg.lstsq(double(a[one]), double(b[one]), rcond=None)[0]
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


@pytest.mark.parametrize(
    "dtype, options",
    mostly_nightly(
        itertools.product(("float32", "float64"), WAYS),
        lambda dtype, options: options == {} or dtype == "float32",
    ),
    ids=str,
)
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
