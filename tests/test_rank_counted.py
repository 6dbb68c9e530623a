"""Which columns count: by default those that are not small for themselves, or by an rcond."""

import numpy as np
import pytest

import jaxqr
from matrices import normal, of_rank

pytestmark = pytest.mark.usefixtures("fast_compilation")


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_by_default_columns_are_judged_by_their_own_size(dtype):
    small = 1e-12 if dtype == "float32" else 1e-20
    a = normal((40, 4), dtype)
    sizes = np.array([1, small, 1 / small, small**0.5]).astype(np.finfo(dtype).dtype)
    b = normal((40,), dtype, seed=1)
    x, _, rank = jaxqr.lstsq(a * sizes, b)
    assert rank == 4
    want = np.linalg.lstsq(a.astype(np.result_type(dtype, "float64")), b, rcond=None)[0]
    np.testing.assert_allclose(np.asarray(x) * sizes, want, rtol=1e4 * np.finfo(dtype).eps)


def test_a_repeated_column_beside_a_tiny_one():
    """[a, a, 1e-20 b]: rank 2, and the solution of minimum norm of the matrix as it is."""
    first, second = normal((9, 2), seed=3).T
    c = normal((9,), seed=1)
    tiny = 2.0**-66
    a = np.stack([first, first, tiny * second], axis=1)
    # a x = first (x0 + x1) + second tiny x2: x0 = x1 is what has minimum norm
    y = np.linalg.lstsq(np.stack([first, second], axis=1), c, rcond=None)[0]
    want = np.array([y[0] / 2, y[0] / 2, y[1] / tiny])
    for order in ([0, 1, 2], [2, 0, 1], [0, 2, 1]):
        x, residual, rank = jaxqr.lstsq(a[:, order], c)
        assert rank == 2
        np.testing.assert_allclose(x, want[order], rtol=1e-12)
        rest = c - np.stack([first, second], axis=1) @ y
        np.testing.assert_allclose(residual, rest @ rest, rtol=1e-12)
        x, _, rank = jaxqr.lstsq(np.stack([a[:, order]] * 9), c)
        assert np.all(rank == 2)
        np.testing.assert_allclose(x[4], want[order], rtol=1e-12)


def test_minimum_norm_is_of_the_matrix_as_it_is_not_of_a_scaled_one():
    """[a, 2^30 a]: x is proportional to (1, 2^30), not to (1, 2^-30)."""
    (first,) = normal((1, 9), seed=3)
    c = normal((9,), seed=1)
    large = 2.0**30
    x, _, rank = jaxqr.lstsq(np.stack([first, large * first], axis=1), c)
    assert rank == 1
    y = first @ c / (first @ first) / (1 + large**2)
    np.testing.assert_allclose(x, [y, large * y], rtol=1e-7)


def test_an_rcond_that_is_given_is_relative_to_the_largest():
    """As ever: diagonal entries of R of at most rcond times the largest do not count."""
    a = normal((40, 3))
    a = np.linalg.qr(a)[0] * np.array([1.0, 2.0**-20, 2.0**-40])
    b = normal((40,), seed=1)
    for rcond, want in ((2.0**-41, 3), (2.0**-30, 2), (2.0**-10, 1), (1.0, 0), (0.0, 3)):
        x, _, rank = jaxqr.lstsq(a, b, rcond=rcond)
        assert rank == want
        kept = np.linalg.pinv(a[:, :want]) @ b
        np.testing.assert_allclose(x[:want], kept, rtol=1e-9)
        np.testing.assert_allclose(x[want:] * 2.0 ** np.array([0, -20, -40])[want:], 0, atol=1e-12)
    assert jaxqr.lstsq(a, b).rank == 3


def test_the_rank_counts_pivots_above_rcond_times_the_largest():
    diagonal, b = 2.0 ** np.array([-10.0, 0.0, -20.0]), np.ones(3)
    for size in (1.0, 2.0**100, 2.0**-100):  # relative to the largest
        for rcond, rank in ((2.0**-10, 1), (0.99 * 2.0**-10, 2), (2.0**-20, 2), (0.0, 3), (1, 0)):
            x, _, got = jaxqr.lstsq(np.diag(diagonal * size), b, rcond=rcond)
            assert got == rank
            kept = diagonal > (rcond if rank < 3 else 0)
            np.testing.assert_array_equal(x, np.where(kept, 1 / (diagonal * size), 0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(6, 2), (2, 6), (3, 2)], ids=str)
def test_by_default_64_epsilons_of_its_own_column_do_not_count(shape, dtype):
    limit = 64 * np.finfo(dtype).eps
    a = np.zeros((4, *shape), dtype)
    a[:, 0, 0] = 1
    # the second column, or row: a multiple of the first, and some more
    a[(slice(None), *((0, 1) if shape[0] >= shape[1] else (1, 0)))] = [1, 1, 0, 0]
    a[:, 1, 1] = [limit, 1.1 * limit, 2.0**-100, 0]
    np.testing.assert_array_equal(jaxqr.lstsq(a, np.ones(shape[:1], dtype)).rank, [1, 2, 2, 1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_of_columns_that_differ_by_a_factor_alone_the_larger_one_counts(dtype):
    """[a, s a, b] in any order: the fit is that of [a, b], and nearly all of it is s a's."""
    rng = np.random.default_rng(0)
    a, b = (np.rint(rng.standard_normal((20, 6, 1)) * 64) / 64 for _ in range(2))
    y = rng.standard_normal((20, 6, 1)).astype(dtype)
    eps = np.finfo(dtype).eps
    for size in (2.0**20, 2.0**66):
        for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
            columns = np.concatenate([a, size * a, b], axis=-1)[..., order].astype(dtype)
            x, residuals, rank = jaxqr.lstsq(columns, y)
            assert np.all(np.asarray(rank) == 2)
            wide = columns.astype("longdouble")
            fit = wide @ np.asarray(x).astype("longdouble")
            pair = np.concatenate([a, b], axis=-1)
            want = pair @ (np.linalg.pinv(pair) @ y)
            np.testing.assert_allclose(fit.astype("float64"), want, rtol=0, atol=1e4 * eps)
            squares = np.sum((y - want) ** 2, axis=-2)
            np.testing.assert_allclose(residuals, squares, rtol=1e4 * eps)


def test_without_pivoting_the_rank_is_not_looked_for():
    a = of_rank(2, (6, 4))
    assert jaxqr.lstsq(a, np.ones(6), pivoting=False).rank == 4
