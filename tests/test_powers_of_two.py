"""Scales, and what is scaled by them, at the ends of the exponent range.

The kernels scale by themselves; so the program in plain HLO is asked, which other platforms run.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foreign_platform import lowered_for
from jaxqr._core.mirror import mirror_body
from jaxqr._core.scaling import column_scale, middle_scale
from jaxqr._factor.independence import find_independent, tolerance
from jaxqr._factor.qr_primitive import _factor
from laws import QUICK
from matrices import double, normal

REAL = ("float32", "float64")
every_precision = pytest.mark.parametrize("dtype", REAL)


def ends(dtype):
    """Numbers from the least normal to the largest, their exponents apart by a few."""
    info = np.finfo(dtype)
    exponents = np.linspace(info.minexp, info.maxexp - 1, 40).round()
    return np.concatenate([2.0**exponents, [1.5 * info.tiny, info.max]]).astype(dtype)


def assert_normal_powers_of_two(x):
    info = np.finfo(x.dtype)
    for number in (x, 1 / x):
        assert np.all(np.frexp(number)[0] == 0.5)
        assert np.all((number >= info.tiny) & (number <= info.max))


@every_precision
def test_the_largest_entry_of_every_column_is_brought_near_one(dtype):
    largest = ends(dtype)
    a = np.stack([largest, -largest / 2, 0 * largest])
    for entries in (a, a * dtype_of_complex(dtype)(1j)):
        scale = np.asarray(column_scale(jnp.asarray(entries)))
        assert_normal_powers_of_two(scale)
        assert np.all((double(scale) * largest >= 0.5) & (double(scale) * largest <= 4))
    np.testing.assert_array_equal(column_scale(jnp.zeros((2, 3), dtype)), np.ones((1, 3)))


def dtype_of_complex(dtype):
    return {"float32": np.complex64, "float64": np.complex128}[dtype]


@every_precision
def test_large_and_small_columns_are_brought_to_two_sides_of_one(dtype):
    pairs = np.array([(x, y) for x in ends(dtype) for y in ends(dtype) if x >= y])
    triangles = np.zeros((len(pairs), 3, 3), dtype)
    triangles[:, 0, 0], triangles[:, 2, 2] = pairs.T
    scale = np.asarray(middle_scale(jnp.asarray(triangles)))
    assert_normal_powers_of_two(scale)
    most, least = np.log2(double(pairs)).T
    assert np.all(np.abs(most + least + 2 * np.log2(double(scale))[:, 0, 0]) <= 4)
    np.testing.assert_array_equal(middle_scale(jnp.zeros((2, 3), dtype)), [[1]])


@every_precision
def test_columns_count_by_their_own_size_up_to_the_largest_numbers(dtype):
    """(8.3), where a column's sum of magnitudes is no number of this dtype any more."""
    info, small, rows = np.finfo(dtype), tolerance(dtype), 600
    shares = np.array([1e-3, 1.2, 0.99 * rows, 1.01 * rows, 2.0 * rows, 0.1 / small])
    r = np.broadcast_to(np.eye(rows + 1), (len(shares), rows + 1, rows + 1)).copy()
    r[:, :, -1] = 1
    r[:, -1, -1] = shares * small
    for size in (1.0, float(info.max), float(info.tiny) * 2.0**20 / small):
        found = find_independent(jnp.asarray((r * size).astype(dtype)), pivoted=False)
        assert np.all(found[:, 0, :-1])
        np.testing.assert_array_equal(found[:, 0, -1], shares > rows)


def program(way, dtype, pivoting):
    """The factorization in HLO, around LAPACK or around Householder's method in HLO as well."""
    outputs = ("q", "r", "p") if pivoting else ("q", "r")
    options = {"outputs": outputs, "pivoting": "exact" if pivoting else "none"}
    factor = functools.partial(mirror_body(_factor), **options, transposed=False)
    if way == "portable":
        factor = lowered_for(["oneapi"], factor, np.ones((30, 3), dtype)).call
    return jax.jit(factor, compiler_options=QUICK)


@pytest.mark.parametrize("pivoting", [False, True])
@pytest.mark.parametrize("dtype", [*REAL, "complex64"])
@pytest.mark.parametrize("way", ["lapack", "portable"])
def test_factors_are_those_of_the_matrix_scaled_wherever_they_can_be_represented(
    way, dtype, pivoting
):
    """Up to a column whose norm is nearly the largest number, down to the least normal ones."""
    info = np.finfo(dtype)
    a = normal((30, 3), dtype)
    a[:, 0] /= 16
    a[:, 1] /= 4
    a[:, 2] = np.sign(a[:, 2].real)  # all entries alike: a norm far above them
    factor = program(way, dtype, pivoting)
    want = factor(a)
    of_all = [info.maxexp - 3 - k for k in (0, 1, 4, 10, 12, 14, 20)]
    of_all += [info.minexp + k for k in (20, 24, 40)]
    exponents = [np.full(3, exponent) for exponent in of_all]
    exponents += [np.array([info.minexp // k + 2, 0, 0]) for k in (2, 3, 4)]
    for exponent in exponents:
        size = (2.0**exponent).astype(info.dtype)
        got = factor(a * size)
        order = np.asarray(got[2]) if pivoting else [0, 1, 2]
        scaled = [got[0], np.asarray(got[1]) / size[order], *got[2:]]
        for x, y in zip(scaled, want, strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=30 * info.eps, err_msg=str(exponent))
