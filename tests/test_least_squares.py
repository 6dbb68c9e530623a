"""Least squares: the solution of minimum norm, its residuals and the rank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from jaxqr._lstsq.decomposition import is_factored_twice
from laws import assert_close
from least_squares import CUT, LOW_RANKS, SHAPES, expected
from matrices import DEFICIENT, DTYPES, adjoint, deficient, norm, normal, of_rank

pytestmark = pytest.mark.usefixtures("fast_compilation")


@pytest.mark.parametrize("pivoting", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_full_rank(shape, dtype, pivoting):
    a, b = normal((2, *shape), dtype), normal((2, shape[0], 4), dtype, seed=1)
    x, residuals, rank = jaxqr.lstsq(a, b, pivoting=pivoting)
    assert_close((x, residuals), expected(a, b), 1e-9)
    np.testing.assert_array_equal(rank, [min(shape)] * 2)
    one = jaxqr.lstsq(a[0], b[0, :, 0], pivoting=pivoting)
    assert one.residuals.shape == one.rank.shape == ()
    assert_close((one.x, one.residuals[None]), (x[0, :, 0], residuals[0, :1]), 1e-12)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("shape, rank", LOW_RANKS, ids=str)
def test_low_rank(shape, rank, dtype):
    a, b = of_rank(rank, (2, *shape), dtype), normal((2, shape[0], 4), dtype, seed=9)
    x, residuals, got = jaxqr.lstsq(a, b)
    np.testing.assert_array_equal(got, [rank] * 2)
    assert_close((x, residuals), expected(a, b), 1e-9)
    # b - a x is orthogonal to the columns, and x to all that a maps to zero
    scale = norm(a).max()
    np.testing.assert_allclose(adjoint(a) @ (b - a @ np.asarray(x)), 0, atol=1e-12 * scale)
    np.testing.assert_allclose(np.linalg.pinv(a, rcond=CUT) @ a @ np.asarray(x), x, atol=1e-10)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (9, 4)], ids=str)
def test_a_batch_of_all_ranks_equals_each_matrix_alone(shape):
    a = np.stack([*(deficient(kind, shape) for kind in DEFICIENT), normal(shape)])
    b = normal((len(a), shape[0], 2), seed=1)
    together = jaxqr.lstsq(a, b)
    assert {0, 1, 2, 4} <= set(map(int, together.rank))
    for i, (a_i, b_i) in enumerate(zip(a, b, strict=True)):
        alone = jaxqr.lstsq(a_i, b_i)
        assert alone.rank == together.rank[i]
        assert_close(alone[:2], (together.x[i], together.residuals[i]), 1e-13)
    assert_close(together[:2], expected(a, b), 1e-9)


@pytest.mark.parametrize("dtype", [*DTYPES, "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(8, 3), (3, 8)], ids=str)
def test_every_dtype(shape, dtype):
    exact = dtype if dtype in DTYPES else "float64"
    a, b = (jnp.asarray(normal(s, exact)).astype(dtype) for s in (shape, (shape[0], 2)))
    x, residuals, _ = jaxqr.lstsq(a, b)
    assert x.dtype == a.dtype
    assert not jnp.iscomplexobj(residuals)
    double = "complex128" if dtype.startswith("complex") else "float64"
    want = expected(*(np.asarray(z.astype(double)) for z in (a, b)))
    tolerance = 50 * float(jnp.finfo(dtype).eps)
    assert_close((x.astype(double), residuals), want, tolerance, dtypes=False)


@pytest.mark.parametrize("rank", [256, 200])
def test_a_large_and_much_deeper_matrix_is_factored_twice(rank):
    assert is_factored_twice(1024, 256)
    a = of_rank(rank, (1024, 256)) * 2.0 ** (np.arange(256) % 7)
    b = normal((1024, 1), seed=9)
    x, residuals, got = jaxqr.lstsq(a, b)
    assert got == rank
    inverse = np.linalg.pinv(a, rcond=1e-12)
    assert_close((x, residuals), (inverse @ b, np.sum((b - a @ inverse @ b) ** 2, -2)), 1e-10)
    abar, bbar = jax.grad(lambda a, b: jnp.sum(jaxqr.lstsq(a, b).x), (0, 1))(a, b)
    z = inverse.T @ np.ones((256, 1))
    left, right = b - a @ x, inverse.T @ x
    rest = np.ones((256, 1)) - inverse @ a @ np.ones((256, 1))
    want = left @ (inverse @ z).T - z @ x.T + right @ rest.T  # (9.6)
    assert_close((abar, bbar), (want, z), 1e-9)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("shape", [(30, 6), (1024, 256)], ids=str)
@pytest.mark.parametrize("place", [0, -1])
def test_heavy_rows_take_no_digits_from_the_others(shape, place):
    """Of columns that they leave out, too, wherever those stand: large columns come first."""
    m, n = shape
    rng = np.random.default_rng(0)
    a = rng.integers(-8, 9, shape) * 2.0 ** (40 * (np.arange(m) < 3))[:, None]
    a[:3, place] = 0
    x = rng.integers(-4, 5, n) * 1.0
    b = a @ x  # all of it integers, and exact
    np.testing.assert_allclose(jaxqr.lstsq(a, b).x, x, rtol=0, atol=1e-11)


def test_dtypes_meet_as_jax_promotes_them():
    a, b = normal((5, 3)), normal((5, 2), "complex128", seed=1)
    with jax.numpy_dtype_promotion("standard"):
        x, residuals, _ = jaxqr.lstsq(a, b)
        assert_close((x, residuals), expected(a + 0j, b), 1e-12)
        assert residuals.dtype == jnp.float64
        assert jaxqr.lstsq([[1, 2], [0, 1]], [True, False]).x.dtype == jnp.float64


@pytest.mark.parametrize("shape", [(8, 3), (5, 5), (3, 8)], ids=str)
def test_exponents_do_not_matter(shape):
    a, b = normal(shape), normal((shape[0], 2), seed=1)
    x = jaxqr.lstsq(a, b).x
    for size in (2.0**700, 2.0**-700):
        np.testing.assert_allclose(jaxqr.lstsq(a * size, b * size).x, x, rtol=1e-12)
        np.testing.assert_allclose(jaxqr.lstsq(a * size, b).x * size, x, rtol=1e-12)


def test_graded_columns_keep_their_digits():
    a, b = normal((9, 5)), normal((9, 1), seed=1)
    grades = 2.0 ** -np.array([0, 30, 7, 40, 15])
    x, _, rank = jaxqr.lstsq(a * grades, b)
    assert rank == 5
    np.testing.assert_allclose(x[:, 0] * grades, expected(a, b)[0][:, 0], rtol=1e-11)


@pytest.mark.parametrize("pivoting", [True, False])
@pytest.mark.parametrize("shape", [(20, 6), (6, 20)], ids=str)
def test_consistent_systems_are_solved_backward_stably(shape, pivoting):
    """The condition number, here 1e10, is in the error of x and not in that of a x."""
    u, _, v = np.linalg.svd(normal(shape), full_matrices=False)
    a = (u * np.geomspace(1, 1e-10, 6)) @ v
    b = a @ normal((shape[1], 2), seed=1)
    x = jaxqr.lstsq(a, b, pivoting=pivoting).x
    assert np.abs(b - a @ np.asarray(x)).max() < 1e-14 * np.abs(x).max()
