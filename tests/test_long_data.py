"""Rank of long data: rounding does not grow with the rows, nor may the tolerance."""

import numpy as np
import pytest

import jaxqr
from long_data import WAYS, assert_solved, correlated, solve
from matrices import normal

pytestmark = pytest.mark.usefixtures("fast_compilation")


@pytest.mark.parametrize("way", WAYS)
def test_a_line_through_ten_thousand_points(way):
    t = np.arange(10000, dtype="float32")
    a, b = np.stack([np.ones_like(t), t], axis=1), 2020 + 2020 * t
    x, want = assert_solved(way, a, b)
    np.testing.assert_allclose(want, [2020, 2020], rtol=1e-3)
    np.testing.assert_allclose(x, [2020, 2020], rtol=1e-2)


@pytest.mark.parametrize("way", WAYS)
def test_one_large_row_among_ordinary_ones(way):
    a = normal((10000, 2), "float32")
    a[37] = 0, 3e6
    b = a @ np.array([1, 2], "float32") + normal((10000,), "float32", seed=1) / 8
    x, want = assert_solved(way, a, b)
    # rounding is relative to the large row, here six million
    np.testing.assert_allclose(x, want, rtol=5e-2)


@pytest.mark.parametrize("way", WAYS)
def test_correlated_columns_of_half_a_million_rows(way):
    a = correlated(500000, 0.9988)
    assert 35 < np.linalg.cond(a.astype("float64")) < 45
    b = a @ np.array([3, -2], "float32") + normal((len(a),), "float32", seed=1)
    x, want = assert_solved(way, a, b)
    np.testing.assert_allclose(x, want, rtol=1e-3)


@pytest.mark.parametrize("way", ["whole", "rows on devices"])
@pytest.mark.parametrize(("correlation", "condition"), [(0.87, 3.8), (0.995, 20)])
def test_a_million_rows_of_low_condition(correlation, condition, way):
    a = correlated(1000000, correlation)
    assert np.linalg.cond(a.astype("float64")) == pytest.approx(condition, rel=0.02)
    b = a @ np.array([3, -2], "float32") + normal((len(a),), "float32", seed=1)
    x, want = assert_solved(way, a, b)
    np.testing.assert_allclose(x, want, rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("degree", [3, 4, 5])
def test_polynomials_have_the_rank_that_polyfit_finds(degree, way):
    t = np.linspace(-10, 10, 10000, dtype="float32")
    a = np.vander(t, degree + 1).astype("float32")
    b = np.sin(3 * t) + normal((len(t),), "float32", seed=1) / 64
    rank = np.polyfit(t, b, degree, full=True)[2]
    assert rank == degree + 1
    x, want = assert_solved(way, a, b, bound=1e-2)
    fit, right = (np.vander(t.astype("float64"), degree + 1) @ z for z in (x, want))
    np.testing.assert_allclose(fit, right, atol=1e-3)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("rows", "columns"), [(100000, 3), (1000, 3), (96, 5)])
def test_exact_rank_loss_is_found_however_many_rows(rows, columns, way):
    for dtype in ("float32",) if rows > 1000 else ("float32", "float64"):
        a = normal((rows, columns), dtype)
        a[:, -1] = a[:, 0]
        b = a.sum(axis=1)
        x, rank = solve(way, a, b)
        assert rank == columns - 1
        want = np.ones(columns)  # of minimum norm: equal columns have equal coefficients
        np.testing.assert_allclose(x, want, atol=3e3 * np.finfo(dtype).eps)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rows", [10000, 1000000])
def test_equal_columns_whose_entries_are_all_positive_are_dependent(rows, way):
    """Sums of one sign are where rounding grows with the rows, if numbers are added one by one."""
    one = np.ones(rows, "float32")
    positive = np.abs(normal((rows,), "float32"))
    for column in (one, positive, np.arange(1, rows + 1, dtype="float32")):
        x, rank = solve(way, np.stack([column, 3 * column], axis=1), column)
        assert rank == 1
        np.testing.assert_allclose(x, [0.1, 0.3], rtol=1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_sums_multiples_and_constants_are_dependent(way):
    """Dependent up to the rounding of the data themselves, in columns of unlike sizes."""
    z = normal((50000, 2), "float32")
    one = np.ones(50000, "float32")
    cases = {
        "a sum": (np.stack([z[:, 0], z[:, 1], z[:, 0] + z[:, 1]], 1), 2),
        "a power of two": (np.stack([z[:, 0], z[:, 1], z[:, 0] * np.float32(2.0**-40)], 1), 2),
        "a constant": (np.stack([one, z[:, 0], one * np.float32(1e6)], 1), 2),
        "zero": (np.stack([z[:, 0], 0 * one, z[:, 1]], 1), 2),
        "all equal": (np.stack([one, one, one], 1), 1),
    }
    for name, (a, want) in cases.items():
        _, rank = solve(way, a.astype("float32"), z[:, 0])
        assert rank == want, name


def test_dependent_columns_are_found_that_are_small_differences_of_large_ones():
    """Age is the year less the year of birth: rounding of the years is large beside it."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        year, birth = rng.integers(1990, 2020, 10000), rng.integers(1940, 1980, 10000)
        a = np.stack([np.ones(10000), year, birth, year - birth], axis=1).astype("float32")
        y = (0.5 * year - 0.2 * birth + rng.normal(size=10000)).astype("float32")
        x, _, rank = jaxqr.lstsq(a, y)
        assert rank == 3
        want = np.linalg.lstsq(a.astype("float64"), y.astype("float64"), rcond=1e-10)[0]
        np.testing.assert_allclose(x[1:], want[1:], rtol=1e-2)
