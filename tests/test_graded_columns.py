"""Columns of very different size in one matrix: factors and their derivatives, column by column."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from grades import (
    SIZES,
    assert_columns,
    check_factors,
    grades,
    of_columns,
    ordinary,
    power_of_two,
    program,
    real,
    well_conditioned,
)
from laws import mostly_nightly
from matrices import DTYPES, FACTORIZATIONS, double, householder
from meshes import mesh_of

SMALL = [*itertools.product(FACTORIZATIONS, DTYPES, [(6, 2), (3, 3), (4, 4), (6, 4), (3, 6)])]
LARGE = [
    *itertools.product(
        FACTORIZATIONS, ("float32", "float64"), [(3000, 5), (700, 16), (150, 150), (40, 90)]
    )
]


pytestmark = pytest.mark.usefixtures("fast_compilation")


@pytest.mark.parametrize("name, dtype, shape", mostly_nightly(SMALL, 3), ids=str)
def test_factors_and_derivatives(name, dtype, shape):
    check_factors(of_columns(name), (20, *shape), dtype)
    if dtype in ("float32", "complex128"):
        check_factors(of_columns(name), shape, dtype)


@pytest.mark.parametrize("name, dtype, shape", mostly_nightly(LARGE, 3), ids=str)
def test_factors_and_derivatives_of_larger_matrices(name, dtype, shape):
    check_factors(of_columns(name), shape, dtype, factor=1e4)


def test_each_matrix_of_a_batch_has_grades_of_its_own():
    own = np.stack(grades(4, "float32"))[:, None, :]
    check_factors(of_columns("qr"), (24, 4, 4), "float32", scales=[own])


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
        assert_columns(gradient(a * d), np.linalg.pinv(double(a)).T, 1 / d)


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


# ----------------------------------------------------------------------------- raw, complete


RAW = [*itertools.product(DTYPES, [(6, 2), (4, 4), (3, 6), (700, 16)])]


@pytest.mark.parametrize("dtype, shape", mostly_nightly(RAW, 5), ids=str)
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
def test_factors_and_derivatives_in_complete_mode(name, dtype):
    check_factors(of_columns(name, "complete"), (20, 6, 2), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_on_eight_devices(dtype):
    with mesh_of("automatic") as mesh:
        check_factors(
            lambda a: tuple(jaxqr.tsqr(a, axis_name="x", mesh=mesh)),
            (32, 4),
            dtype,
            scales=grades(4, dtype)[::5],
        )
