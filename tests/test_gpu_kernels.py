"""The CUDA kernels of QR, emulated on this CPU, obey LAPACK's laws and give LAPACK's results."""

import itertools

import numpy as np
import pytest
import scipy.linalg

from gpu_kernels import EXACT, NONE, GpuLibrary
from gpu_operations import outputs_of
from grades import all_grades, assert_columns, ordinary, well_conditioned
from jaxqr._lowering.cuda_instances import MOST_COLUMNS
from jaxqr._lowering.cuda_plans import limit_rows
from laws import assert_factored
from matrices import (
    DTYPES,
    LIMIT,
    SHAPES,
    adjoint,
    double,
    hostile,
    householder,
    normal,
    orthogonality_ratio,
    pivots,
    residual_ratio,
)
from surroundings import needs_emulation

pytestmark = needs_emulation
# for lanes of a warp of every size, square, deep and wide; for blocks of one warp and of many, with
# one row on a thread and with several
LANES = ((4, 4), (2, 3), (8, 8), (7, 3), (16, 9), (13, 16), (32, 32), (32, 5), (9, 32))
ROWS = ((33, 7), (64, 32), (90, 2), (120, 13), (250, 30), (256, 8), (300, 16), (512, 5), (1000, 8))
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
either_way = pytest.mark.parametrize("pivoting", [NONE, EXACT], ids=["plain", "pivoted"])


@pytest.fixture(scope="module")
def library():
    return GpuLibrary()


def shapes_for(dtype):
    return [*SHAPES, *LANES, *((m, n) for m, n in ROWS if m <= limit_rows(n, dtype))]


def assert_same(got, want, names=None):
    for name in names or want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def check(library, a, pivoting, *, transposed=False):
    """All that is found for matrices is right, and goes together."""
    memory, names = np.swapaxes(a, 1, 2) if transposed else a, outputs_of(a.shape, pivoting)
    out = library.factor(memory, names, transposed=transposed, pivoting=pivoting)
    q, r, h, tau, k = *(out[name] for name in ("q", "r", "h", "tau")), min(a.shape[1:])
    if pivoting:
        p = out["p"]
        assert np.array_equal(np.sort(p, axis=-1), np.broadcast_to(np.arange(a.shape[2]), p.shape))
        a = np.take_along_axis(a, p[:, None], axis=-1)
    assert_factored(q, r, a, pivoting=pivoting == EXACT)
    assert_same(out, {"r": np.triu(h[:, :k])})
    full = out.get("q_full", q)
    assert orthogonality_ratio(full) < LIMIT
    assert_same({"q": full[..., :k]}, out, ["q"])
    formed = multiply_reflectors(double(h), double(tau), full.shape[-1])
    assert residual_ratio(full, formed) < LIMIT, "the reflectors stand for another Q"


def multiply_reflectors(h, tau, columns):
    """The leading columns of Q."""
    m, q = h.shape[1], np.zeros((len(h), h.shape[1], columns), h.dtype)
    q[:] = np.eye(m, columns)
    for i in reversed(range(tau.shape[1])):
        v = np.concatenate([np.zeros((len(h), i, 1)), h[:, i:, i : i + 1]], axis=1)
        v[:, i] = 1
        q -= tau[:, i, None, None] * v @ (adjoint(v) @ q)
    return q


# ------------------------------------------------------------------------------- LAPACK's


@every_dtype
@either_way
@pytest.mark.parametrize("transposed", [False, True], ids=["by rows", "by columns"])
def test_the_factorization_exists(library, dtype, pivoting, transposed):
    for shape in shapes_for(dtype):
        check(library, normal((3, *shape), dtype), pivoting, transposed=transposed)


@every_dtype
@either_way
def test_hostile_matrices_are_factored(library, dtype, pivoting):
    for size in (4, 12, 32, 100):
        a = np.stack(list(hostile(size, dtype).values()))
        check(library, a[:, :, : size // 4], pivoting)
        if size <= MOST_COLUMNS:
            check(library, a, pivoting)
            check(library, a[:, : size // 2 + 1], pivoting, transposed=True)


@every_dtype
def test_signs_reflectors_and_tau_are_lapacks(library, dtype):
    for shape in shapes_for(dtype):
        a = well_conditioned((2, *shape), dtype)
        out = library.factor(a, ("r", "h", "tau"))
        for x, h, tau in zip(a, out["h"], out["tau"], strict=True):
            want_h, want_tau = householder(x)
            assert_columns(h, want_h)
            assert_columns(tau, want_tau)


@every_dtype
def test_nearly_triangular_matrices_have_lapacks_signs(library, dtype):
    """What is below the diagonal is small, but no zero: only a zero keeps the sign."""
    for shape, size in itertools.product([(6, 6), (9, 4), (32, 20), (200, 6)], [1e-15, 1e-36, 0]):
        a, below = ordinary(shape, dtype), np.tri(*shape, -1, dtype=bool)
        a += 6 * np.eye(*shape).astype(dtype)
        near = np.where(below, (a * size).astype(dtype), a)
        out = library.factor(near[None], ("h", "tau"))
        want_h, want_tau = householder(near)
        assert_columns(out["h"][0], want_h)
        assert_columns(out["tau"][0], want_tau)


@every_dtype
def test_a_sign_is_that_of_the_entry_though_it_be_zero(library, dtype):
    a = np.array([[[0.0], [2.0]], [[-0.0], [2.0]]], dtype)
    r = library.factor(a, ("r",))["r"]
    assert r.ravel().tolist() == [-2, 2]


@every_dtype
def test_pivots_are_those_of_the_largest_remainders(library, dtype):
    for shape in shapes_for(dtype):
        sizes = 2.0 ** (np.random.default_rng(7).permutation(shape[1]) / 2)
        a, k = (normal((3, *shape), dtype) * sizes).astype(dtype), min(shape)
        found = library.factor(a, ("p",), pivoting=EXACT)["p"]
        for x, p in zip(a, found, strict=True):
            np.testing.assert_array_equal(p[:k], pivots(x)[:k])


@every_dtype
def test_of_equal_columns_the_first_is_taken(library, dtype):
    """As the columns stand after the exchanges before, which is how LAPACK has it."""
    a = np.eye(5, dtype=dtype)[:, [0, 1, 2, 3, 4]] * np.array([1, 2, 2, 1, 2], dtype)
    p = library.factor(a[None], ("p",), pivoting=EXACT)["p"][0]
    (want,) = scipy.linalg.lapack.get_lapack_funcs(["geqp3"], [a])
    np.testing.assert_array_equal(p, want(a)[1] - 1)


@every_dtype
def test_only_the_leading_columns_move_where_others_are_to_stay(library, dtype):
    for shape, free in itertools.product([(9, 7), (30, 12), (5, 9), (60, 8)], (1, 3, 6)):
        a = normal((3, *shape), dtype)
        out = library.factor(a, ("q", "r", "p"), pivoting=EXACT, free=free)
        alone = library.factor(a[:, :, :free].copy(), ("q", "r", "p"), pivoting=EXACT)
        np.testing.assert_array_equal(out["p"][:, :free], alone["p"])
        np.testing.assert_array_equal(
            out["p"][:, free:], np.broadcast_to(np.arange(free, shape[1]), (3, shape[1] - free))
        )
        assert_factored(out["q"], out["r"], np.take_along_axis(a, out["p"][:, None], axis=-1))


# --------------------------------------------------------------------- columns of any size


@every_dtype
def test_powers_of_two_change_r_and_nothing_else(library, dtype):
    """Not a bit: columns are brought to one size as they are taken."""
    for shape in ((3, 3), (6, 4), (3, 6), (20, 12), (32, 32), (150, 9)):
        a, names = ordinary((2, *shape), dtype), outputs_of(shape)
        want = library.factor(a, names)
        for d in all_grades(shape[1], dtype):
            got = library.factor(a * d, names)
            assert_same(got, want, {*names} - {"r", "h"})
            np.testing.assert_array_equal(np.tril(got["h"], -1), np.tril(want["h"], -1))
            assert_columns(got["r"], want["r"], d, factor=0)


@every_dtype
def test_pivots_are_chosen_by_true_norms(library, dtype):
    for shape in ((6, 2), (3, 3), (6, 4), (3, 6), (32, 16), (150, 9)):
        a = well_conditioned(shape, dtype)
        for d in all_grades(shape[1], dtype):
            out = library.factor((a * d)[None], ("q", "r", "p"), pivoting=EXACT)
            q, r, p = (out[name][0] for name in ("q", "r", "p"))
            # the sizes of what is left of the columns in every step
            left = np.sqrt(np.cumsum(np.abs(r[::-1].astype(np.clongdouble)) ** 2, axis=0))[::-1]
            chosen = np.abs(np.diagonal(r)).astype(np.longdouble)
            more = 1 + LIMIT * np.finfo(dtype).eps
            for j, size in enumerate(chosen):
                assert np.all(left[j, j:] <= size * more + 4 * np.finfo(dtype).tiny)
            plain = library.factor((a * d)[None][:, :, p], ("q", "r"))
            assert_columns(q, plain["q"][0])
            assert_columns(r, plain["r"][0])
