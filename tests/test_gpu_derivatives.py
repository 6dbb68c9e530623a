"""The CUDA kernels of tangents and cotangents, emulated, agree with the CPU's programs."""

import itertools

import numpy as np
import pytest

from gpu_kernels import GpuLibrary
from gpu_operations import make_point, pull, push
from grades import all_grades, assert_columns, ordinary, well_conditioned
from jaxqr._factor.tangent_maps import qr_jvp_p, qr_vjp_p
from laws import mostly_nightly
from matrices import DTYPES, double, normal
from surroundings import needs_emulation

pytestmark = needs_emulation
# of teams of every size, with all rows in shared memory and in ranges, and wide ones
SHAPES = [(1, 1), (4, 3), (2, 4), (6, 6), (5, 8), (16, 9), (7, 30), (32, 32), (70, 20), (1000, 31)]


@pytest.fixture(scope="module")
def library():
    return GpuLibrary()


def by_cpu(q, r, da, qbar, rbar, pivoted):
    """Tangents and cotangent by the CPU's program."""
    tangents = qr_jvp_p.bind(q, r, da, outputs=("q", "r"), pivoted=pivoted, transposed=False)
    (abar,) = qr_vjp_p.bind(q, r, qbar, rbar, inputs=("q", "r"), pivoted=pivoted, transposed=False)
    return dict(zip(("dq", "dr", "abar"), (*tangents, abar), strict=True))


def directions(q, r, dtype):
    da = normal((len(q), q.shape[1], r.shape[2]), dtype, seed=3)
    return da, normal(q.shape, dtype, seed=4), normal(r.shape, dtype, seed=5)


def deficient_points(shape, dtype):
    """R with a zero column, a repeated one, and zero rows from some row on."""
    q, r = make_point(4, shape, dtype)
    k, n = r.shape[1:]
    r[0, :, n // 2] = 0
    if n > 1:
        r[1, :, n - 1] = r[1, :, 0]
    r[2, k // 2 :] = 0
    r[3] = 0
    return q, r


def assert_like_cpu(library, q, r, dtype, pivoted):
    da, qbar, rbar = directions(q, r, dtype)
    got = push(library, q, r, da, pivoted=pivoted) | pull(
        library, q, r, qbar, rbar, pivoted=pivoted
    )
    want = by_cpu(*map(double, (q, r, da, qbar, rbar)), pivoted)
    for name, x in want.items():
        x = np.asarray(x)
        # each matrix by its own size: how near it is to others of lower rank differs
        size = np.abs(x).max(axis=(1, 2), keepdims=True) + 1
        error = np.abs(got[name] - x) / size
        assert np.max(error) < 1e4 * np.finfo(dtype).eps, name


@pytest.mark.parametrize(
    "shape, dtype", mostly_nightly(itertools.product(SHAPES, DTYPES), 3), ids=str
)
@pytest.mark.parametrize("pivoted", [False, True])
def test_derivatives_are_the_cpus(library, shape, dtype, pivoted):
    q, r = make_point(4, shape, dtype)
    k, n = r.shape[1:]
    r = r / np.sqrt(n) + np.eye(k, n)  # far from dependent
    assert_like_cpu(library, q, r.astype(dtype), dtype, pivoted)
    assert_like_cpu(library, *deficient_points(shape, dtype), dtype, pivoted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 2), (3, 3), (6, 4), (3, 6), (90, 5)], ids=str)
def test_columns_of_any_size_are_right_each_for_itself(library, shape, dtype):
    """Q of A D is that of A, and R is R D; so are their tangents, and the cotangent is Abar / D."""
    a, da = (f((1, *shape), dtype) for f in (well_conditioned, ordinary))
    q, r = np.linalg.qr(a)
    qbar, rbar = ordinary(q.shape, dtype, 1) / 4, ordinary(r.shape, dtype, 2) / 4
    usual = push(library, q, r, da) | pull(library, q, r, qbar, rbar)
    for d in all_grades(shape[1], dtype):
        got = push(library, q, r * d, da * d) | pull(library, q, r * d, qbar, rbar / d)
        for name, scale in (("dq", 1.0), ("dr", d), ("abar", 1 / d)):
            assert_columns(got[name], usual[name], scale)


@pytest.mark.parametrize("pivoted", [False, True])
@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (20, 12), (60, 9)], ids=str)
def test_what_is_not_asked_for_changes_no_more_than_rounding(library, shape, pivoted):
    q, r = make_point(3, shape, "float64")
    da, qbar, rbar = directions(q, r, "float64")
    both = push(library, q, r, da, pivoted=pivoted)
    for name in ("q", "r"):
        alone = push(library, q, r, da, outputs=(name,), pivoted=pivoted)[f"d{name}"]
        assert_columns(alone, both[f"d{name}"])
    whole = pull(library, q, r, qbar, rbar, pivoted=pivoted)["abar"]
    parts = [
        pull(library, q, r, *cts, pivoted=pivoted)["abar"] for cts in ((qbar, None), (None, rbar))
    ]
    assert_columns(sum(parts), whole)
