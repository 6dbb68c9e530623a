"""The CUDA kernels of QR, emulated on this CPU: LAPACK's laws, and that each matrix is on its own."""

import itertools

import numpy as np
import pytest
import scipy.linalg

import sanitizers
from gpu_kernels import EXACT, NONE, GpuLibrary
from grades import all_grades, assert_columns, ordinary, well_conditioned
from laws import assert_factored
from matrices import (
    DTYPES,
    LIMIT,
    SHAPES,
    double,
    hostile,
    householder,
    normal,
    orthogonality_ratio,
    pivots,
    residual_ratio,
    separated,
)

pytestmark = pytest.mark.skipif(sanitizers.COMPILER is None, reason="no compiler")
# of every size that kernels are made for, square, deep and wide
KERNEL_SHAPES = ((4, 4), (2, 3), (8, 8), (7, 3), (16, 9), (13, 16), (32, 32), (32, 5), (9, 32))
OUTPUTS = ("q", "q_full", "r", "h", "tau")
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
either_way = pytest.mark.parametrize("pivoting", [NONE, EXACT], ids=["plain", "pivoted"])


@pytest.fixture(scope="module")
def library():
    return GpuLibrary()


def outputs_of(pivoting):
    return (*OUTPUTS, "p") if pivoting else OUTPUTS


def assert_same(got, want, names=None):
    for name in names or want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def check(library, a, pivoting, *, transposed=False):
    """All that is found for matrices is right, and goes together."""
    memory = np.swapaxes(a, 1, 2) if transposed else a
    out = library.factor(memory, outputs_of(pivoting), transposed=transposed, pivoting=pivoting)
    p, k = out.get("p"), min(a.shape[1:])
    if pivoting:
        assert np.array_equal(np.sort(p, axis=-1), np.broadcast_to(np.arange(a.shape[2]), p.shape))
        a = np.take_along_axis(a, p[:, None], axis=-1)
    assert_factored(out["q"], out["r"], a, pivoting=pivoting == EXACT)
    assert orthogonality_ratio(out["q_full"]) < LIMIT
    assert_same(out, {"q": out["q_full"][:, :, :k], "r": np.triu(out["h"][:, :k])})
    for h, tau, q in zip(out["h"], out["tau"], out["q_full"], strict=True):
        formed = multiply_reflectors(double(h), double(tau))
        assert residual_ratio(q, formed) < LIMIT, "the reflectors stand for another Q"
    return out


def multiply_reflectors(h, tau):
    """Q in full."""
    m, q = len(h), np.eye(len(h), dtype=h.dtype)
    for i, t in enumerate(tau):
        v = np.concatenate([np.zeros(i), [1], h[i + 1 :, i]])
        q -= t * np.outer(q @ v, v.conj())
    assert q.shape == (m, m)
    return q


# ------------------------------------------------------------------------------- LAPACK's


@every_dtype
@either_way
@pytest.mark.parametrize("transposed", [False, True], ids=["by rows", "by columns"])
def test_the_factorization_exists(library, dtype, pivoting, transposed):
    for shape in (*SHAPES, (20, 4), *KERNEL_SHAPES):
        check(library, normal((3, *shape), dtype), pivoting, transposed=transposed)


@every_dtype
@either_way
def test_hostile_matrices_are_factored(library, dtype, pivoting):
    for size in (4, 12, 32):
        a = np.stack(list(hostile(size, dtype).values()))
        check(library, a, pivoting)
        check(library, a[:, :, : size // 2], pivoting)
        check(library, a[:, : size // 2 + 1], pivoting, transposed=True)


@every_dtype
def test_signs_reflectors_and_tau_are_lapacks(library, dtype):
    for shape in (*SHAPES, *KERNEL_SHAPES):
        a = well_conditioned((2, *shape), dtype)
        out = library.factor(a, ("r", "h", "tau"))
        for x, h, tau in zip(a, out["h"], out["tau"], strict=True):
            want_h, want_tau = householder(x)
            assert_columns(h, want_h)
            assert_columns(tau, want_tau)


@every_dtype
def test_nearly_triangular_matrices_have_lapacks_signs(library, dtype):
    """What is below the diagonal is small, but no zero: only a zero keeps the sign."""
    for shape, size in itertools.product([(6, 6), (9, 4), (32, 20)], [1e-15, 1e-36, 0]):
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
    for shape in (*SHAPES, *KERNEL_SHAPES):
        a, k = separated((3, *shape), dtype), min(shape)
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
    for shape, free in itertools.product([(9, 7), (30, 12), (5, 9)], (1, 3, 6)):
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
    for shape in ((3, 3), (6, 4), (3, 6), (20, 12), (32, 32)):
        a = ordinary((2, *shape), dtype)
        want = library.factor(a, OUTPUTS)
        for d in all_grades(shape[1], dtype):
            got = library.factor(a * d, OUTPUTS)
            assert_same(got, want, ("q", "q_full", "tau"))
            np.testing.assert_array_equal(np.tril(got["h"], -1), np.tril(want["h"], -1))
            assert_columns(got["r"], want["r"], d, factor=0)


@every_dtype
def test_pivots_are_chosen_by_true_norms(library, dtype):
    for shape in ((6, 2), (3, 3), (6, 4), (3, 6), (32, 16)):
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
