"""The CUDA kernels, emulated: a matrix's results depend on nothing but the matrix, bit for bit."""

import itertools

import numpy as np
import pytest

from containment import KINDS, NOT_FINITE, spoiled
from gpu_kernels import EXACT, NONE, GpuLibrary
from gpu_operations import OPERATIONS, make_point, outputs_of, pull, push
from laws import mostly_nightly
from matrices import DTYPES, normal
from surroundings import needs_emulation
from test_gpu_kernels import assert_same, every_dtype

pytestmark = needs_emulation
# for teams of every size, of lanes or of whole warps, and of each the most that share a block
SHARED = {(4, 3): 32, (8, 5): 16, (16, 10): 8, (30, 27): 4, (40, 8): 2, (120, 20): 1}
WIDE = {(3, 4): 32, (5, 8): 16, (20, 30): 4}
DEEP_ONLY = ("least squares", "pivoted least squares", "panel", "signs")
CASES = [
    (name, shape, dtype)
    for name, shape, dtype in itertools.product(OPERATIONS, SHARED | WIDE, DTYPES)
    if not (name in DEEP_ONLY and shape in WIDE)
]
every_case = pytest.mark.parametrize("name, shape, dtype", mostly_nightly(CASES, 5), ids=str)


@pytest.fixture(scope="module")
def library():
    return GpuLibrary()


@every_case
def test_the_order_of_threads_changes_nothing(library, name, shape, dtype):
    make, compute = OPERATIONS[name]
    operands = make(3, shape, dtype)
    assert_same(compute(GpuLibrary(backwards=True), *operands), compute(library, *operands))


@every_case
def test_matrices_before_and_behind_change_nothing(library, name, shape, dtype):
    """Whether or not they fill their warp, and the last block."""
    make, compute = OPERATIONS[name]
    together = (SHARED | WIDE)[shape]
    operands = make(2 * together + 1, shape, dtype)
    want = compute(library, *operands)
    for size in {1, together - 1, together, together + 1, 2 * together} - {0}:
        got = compute(library, *(x[-size:] for x in operands))
        assert_same(got, {name: x[-size:] for name, x in want.items()})


@every_case
def test_what_is_wrong_with_a_matrix_stays_in_it(library, name, shape, dtype):
    make, compute = OPERATIONS[name]
    operands = make(9, shape, dtype)
    want = compute(library, *operands)
    for kind, (which, x) in itertools.product(KINDS, enumerate(operands)):
        if x.ndim < 3:
            continue
        place, first_row = 4 * (len(kind) % 3), x.shape[1] * len(kind)  # of a triangle, it counts
        with np.errstate(over="ignore"):
            changed = spoiled(x, place, kind, first_row)
        got = compute(library, *operands[:which], changed, *operands[which + 1 :])
        others, clean = ({k: np.delete(x, place, 0) for k, x in y.items()} for y in (got, want))
        assert_same(others, clean)
        own = {k: x[place] for k, x in got.items()}
        if kind in NOT_FINITE and name in ("plain", "pivoted"):
            assert_nothing_but_nan(own)
        elif kind == "NaN":
            assert not all(np.isfinite(x).all() for x in own.values())


def assert_nothing_but_nan(out):
    """But for R's zeros; and p stays a permutation."""
    for name, x in out.items():
        if name == "p":
            assert np.array_equal(np.sort(x), np.arange(len(x)))
        else:
            entries = x[np.triu_indices(*x.shape)] if name == "r" else x
            assert np.isnan(entries).all(), name


@every_dtype
@pytest.mark.parametrize("pivoting", [NONE, EXACT])
def test_wherever_a_nan_is_nothing_of_its_matrix_is_a_number(library, dtype, pivoting):
    for shape in ((5, 3), (3, 5), (34, 3)):
        bad = normal((shape[0] * shape[1], *shape), dtype)
        for which, place in enumerate(np.ndindex(shape)):
            bad[which][place] = np.nan
        out = library.factor(bad, outputs_of(shape, pivoting), pivoting=pivoting)
        for which in range(len(bad)):
            assert_nothing_but_nan({name: x[which] for name, x in out.items()})


# ------------------------------------------------------------- what is asked for, and how it lies

FACTORED = [*itertools.product([(4, 3), (5, 8), (16, 10), (20, 25), (40, 8), (100, 20)], DTYPES)]
every_shape = pytest.mark.parametrize("shape, dtype", mostly_nightly(FACTORED, 3), ids=str)


@every_shape
@pytest.mark.parametrize("pivoting", [NONE, EXACT], ids=["plain", "pivoted"])
def test_factors_that_are_not_asked_for_change_nothing(library, shape, dtype, pivoting):
    a, names = normal((3, *shape), dtype), outputs_of(shape, pivoting)
    want = library.factor(a, names, pivoting=pivoting)
    for size in range(1, len(names)):
        for some in itertools.combinations(names, size):
            assert_same(library.factor(a, some, pivoting=pivoting), want, some)


@every_shape
@pytest.mark.parametrize("pivoting", [NONE, EXACT], ids=["plain", "pivoted"])
def test_the_order_of_a_matrix_in_memory_changes_nothing(library, shape, dtype, pivoting):
    a, names = normal((3, *shape), dtype), outputs_of(shape, pivoting)
    want = library.factor(a, names, pivoting=pivoting)
    got = library.factor(np.swapaxes(a, 1, 2), names, pivoting=pivoting, transposed=True)
    assert_same(got, want)


def flip(x):
    return np.ascontiguousarray(np.swapaxes(x, 1, 2))


@every_shape
@pytest.mark.parametrize("pivoted", [False, True])
def test_derivatives_do_not_depend_on_the_order_in_memory(library, shape, dtype, pivoted):
    q, r, da, qbar = *make_point(3, shape, dtype), normal((3, *shape), dtype), None
    qbar, rbar = normal(q.shape, dtype, seed=1), normal(r.shape, dtype, seed=2)
    for compute, rest in ((push, (da,)), (pull, (qbar, rbar))):
        want = compute(library, q, r, *rest, pivoted=pivoted)
        got = compute(library, *map(flip, (q, r, *rest)), pivoted=pivoted, transposed=True)
        assert_same({name: flip(x) for name, x in got.items()}, want)
