"""Least squares by the CUDA kernels, emulated: rank and solution are those of the CPU's program."""

import itertools

import numpy as np
import pytest

import jaxqr
from gpu_kernels import GpuLibrary
from grades import real
from laws import mostly_nightly
from matrices import DTYPES, double, normal
from surroundings import needs_emulation

pytestmark = needs_emulation
# rows, columns and right-hand sides: of every size of team, and of blocks
SHAPES = [(1, 1, 1), (4, 3, 1), (8, 5, 3), (16, 9, 5), (32, 16, 16), (32, 31, 1), (90, 12, 2)]
KINDS = ("full", "dependent", "zero", "rank one", "graded", "graded dependent")
BATCH = 7
every_problem = pytest.mark.parametrize(
    "shape, dtype, kind", mostly_nightly(itertools.product(SHAPES, DTYPES, KINDS), 7), ids=str
)


@pytest.fixture(scope="module")
def library():
    return GpuLibrary()


def make(shape, dtype, kind):
    m, n, s = shape
    a, b = normal((BATCH, m, n), dtype), normal((BATCH, m, s), dtype, seed=1)
    if kind.endswith("dependent") and n > 2:
        a[:, :, n // 2] = a[:, :, 0] * 2 - a[:, :, n - 1]
    if kind == "rank one":
        a[:] = a[:, :, :1] * normal((BATCH, 1, n), dtype, seed=2)
    if kind == "zero":
        a[:, :, n // 2] = 0
        a[0] = 0
    if kind.startswith("graded"):
        ends = 15 if real(dtype).itemsize == 4 else 100
        a *= 10.0 ** np.random.default_rng(3).uniform(-ends, ends, n).astype(real(dtype))
    return a, b


def assert_solved(library, a, b, rcond, pivoting, limit):
    """The same rank, and x with each entry beside the size of its column of A."""
    x, residuals, rank = library.least_squares(a, b, rcond, pivoting=pivoting)
    want = jaxqr.lstsq(a, b, rcond=rcond, pivoting=pivoting)
    want_x, want_residuals, want_rank = map(np.asarray, want)
    np.testing.assert_array_equal(rank, want_rank)
    size = np.abs(double(a)).max(axis=1)[:, :, None]
    size = np.where(size == 0, 1, size)
    error = np.abs(x - want_x) * size
    assert np.all(error.max(axis=(1, 2)) <= limit * (np.abs(want_x) * size).max(axis=(1, 2)))
    squares = np.sum(np.abs(double(b)) ** 2, axis=1)
    assert np.all(np.abs(residuals - want_residuals) <= 300 * np.finfo(a.dtype).eps * squares)


@every_problem
@pytest.mark.parametrize("by_rcond", [False, True], ids=["own size", "rcond"])
def test_solutions_are_the_cpus(library, shape, dtype, kind, by_rcond):
    a, b = make(shape, dtype, kind)
    even = double(a) / np.maximum(np.abs(a).max(axis=1, keepdims=True), np.finfo(dtype).tiny)
    condition = np.linalg.cond(even).max() if kind in ("full", "graded") else 100
    limit, rcond = 300 * np.finfo(dtype).eps * condition, None
    if by_rcond:
        rcond = 1e-5 if real(dtype).itemsize == 4 else 1e-12
    assert_solved(library, a, b, rcond, True, limit)
    if kind == "full" and not by_rcond:
        assert_solved(library, a, b, None, False, limit)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_rcond_is_read_to_its_last_bit(library, dtype):
    """Between two numbers that follow on one another the rank changes."""
    a = np.eye(2, dtype=dtype)[None] * np.array([1, 0.3]).astype(real(dtype))
    b, least = np.ones((1, 2, 1), dtype), float(real(dtype).type(0.3))
    for rcond, want in (
        (np.nextafter(real(dtype).type(0.3), 0), 2),
        (least, 1),
        (0.0, 2),
        (1.0, 0),
    ):
        (rank,) = library.least_squares(a, b, float(rcond))[2]
        assert rank == want


def test_a_repeated_column_beside_a_tiny_one_counts_once(library):
    first, second = normal((9, 2), seed=3).T
    tiny = 2.0**-66
    a, c = np.stack([first, first, tiny * second], axis=1), normal((9,), seed=1)
    y = np.linalg.lstsq(np.stack([first, second], axis=1), c, rcond=None)[0]
    want = np.array([y[0] / 2, y[0] / 2, y[1] / tiny])
    for order in itertools.permutations(range(3)):
        x, _, rank = library.least_squares(a[None][:, :, order], c[None, :, None])
        assert rank == 2
        np.testing.assert_allclose(x[0, :, 0], want[list(order)], rtol=1e-12)


def test_minimum_norm_is_of_the_matrix_as_it_is(library):
    first, c, large = normal((9,), seed=3), normal((9,), seed=1), 2.0**30
    a = np.stack([first, large * first], axis=1)[None]
    x, _, rank = library.least_squares(a, c[None, :, None])
    y = first @ c / (first @ first) / (1 + large**2)
    assert rank == 1
    np.testing.assert_allclose(x[0, :, 0], [y, large * y], rtol=1e-7)
