"""The CUDA kernels for deep matrices and for panels, emulated on this CPU."""

import itertools

import numpy as np
import pytest

from gpu_kernels import GpuLibrary
from gpu_rows import SHAPES, check, factor, form_t, outputs_of, unpack
from grades import all_grades, assert_columns, ordinary, power_of_two, well_conditioned
from jaxqr._lowering.cuda_instances import ROW_SIZES
from jaxqr._lowering.cuda_plans import Form, limit_rows, plan_rows
from laws import assert_factored
from matrices import (
    DTYPES,
    LIMIT,
    double,
    hostile,
    householder,
    normal,
    of_rank,
    orthogonality_ratio,
    pivots,
)
from surroundings import needs_emulation

pytestmark = needs_emulation
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
either_way = pytest.mark.parametrize("pivoted", [False, True], ids=["plain", "pivoted"])
both_layouts = pytest.mark.parametrize("transposed", [False, True], ids=["by rows", "by columns"])


def assert_same(got, want, names=None):
    for name in names or got:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


# ------------------------------------------------------------------------------- LAPACK's


@every_dtype
@either_way
@both_layouts
def test_the_factorization_exists(dtype, pivoted, transposed):
    for shape in SHAPES:
        check(normal((2, *shape), dtype), pivoted, transposed=transposed)


@every_dtype
@either_way
def test_the_deepest_matrices_are_factored(dtype, pivoted):
    for n in ROW_SIZES:
        m = limit_rows(n, dtype)
        assert m in (256, 512, 1024)
        assert plan_rows(m + 1, n, dtype, Form(("r",))) is None
        check(normal((1, m, n), dtype), pivoted)


@every_dtype
@either_way
def test_hostile_matrices_are_factored(dtype, pivoted):
    for size in (4, 19, 32):
        a = np.stack(list(hostile(size, dtype).values()))
        check(a, pivoted)
        deep = np.concatenate([a, a[:, ::-1], 0 * a], axis=1)
        check(deep[:, :, : size // 2], pivoted, transposed=True)


@every_dtype
def test_signs_reflectors_and_tau_are_lapacks(dtype):
    for shape in SHAPES:
        a = well_conditioned((2, *shape), dtype)
        out = factor(a, ("h", "tau"))
        for x, h, tau in zip(a, out["h"], out["tau"], strict=True):
            want_h, want_tau = householder(x)
            assert_columns(h, want_h)
            assert_columns(tau, want_tau)


@every_dtype
def test_nearly_triangular_matrices_have_lapacks_signs(dtype):
    """What is below the diagonal is small, but no zero: only a zero keeps the sign."""
    for shape, size in itertools.product([(70, 6), (140, 20)], [1e-15, 1e-36, 0]):
        a, below = ordinary(shape, dtype), np.tri(*shape, -1, dtype=bool)
        a += 6 * np.eye(*shape).astype(dtype)
        near = np.where(below, (a * size).astype(dtype), a)
        out = factor(near[None], ("h", "tau"))
        want_h, want_tau = householder(near)
        assert_columns(out["h"][0], want_h)
        assert_columns(out["tau"][0], want_tau)


@every_dtype
def test_what_is_left_of_a_column_is_reflected_however_small_it_is(dtype):
    """Its squares are lost, and only a zero would make no reflector."""
    tiny = power_of_two(1e-30, dtype)
    a = np.triu(ordinary((150, 9), dtype))
    a[5:, 5:] = ordinary((145, 4), dtype) * tiny
    out = factor(a[None], ("h", "tau"))
    want_h, want_tau = householder(a)
    assert np.count_nonzero(out["tau"][0]) == 4 + np.iscomplexobj(a) * 5
    assert_columns(out["tau"][0], want_tau)
    assert_columns(out["h"][0, 5:, 5:], want_h[5:, 5:])


# --------------------------------------------------------------------------------- pivots


@every_dtype
def test_pivots_are_those_of_the_largest_remainders(dtype):
    for shape in SHAPES:
        sizes = 3.0 ** np.random.default_rng(0).permutation(shape[1])
        a = (normal((2, *shape), dtype) * sizes).astype(dtype)
        for x, p in zip(a, factor(a, ("p",), pivoted=True)["p"], strict=True):
            np.testing.assert_array_equal(p, pivots(x))


@every_dtype
def test_norms_in_doubt_are_computed_anew(dtype):
    """The columns that are left lose nearly all of their norms at once: they nearly depend."""
    small = np.sqrt(np.finfo(dtype).eps)
    a = of_rank(1, (120, 10), dtype)
    a[:, 1:] += (normal((120, 9), dtype) * small * 0.5 ** np.arange(9)).astype(dtype)
    out = check(a[None], True)
    diagonal = np.abs(np.diagonal(out["r"][0]))
    left = np.sqrt(np.cumsum(np.abs(double(out["r"][0][::-1])) ** 2, axis=0))[::-1]
    for j, size in enumerate(diagonal):
        assert np.all(left[j, j:] <= size * (1 + small))


@every_dtype
def test_only_the_leading_columns_move_where_others_are_to_stay(dtype):
    for shape, free in itertools.product([(70, 7), (40, 12)], (1, 6)):
        a = normal((2, *shape), dtype)
        out = factor(a, ("q", "r", "p"), pivoted=True, free=free)
        alone = factor(a[:, :, :free].copy(), ("p",), pivoted=True)
        np.testing.assert_array_equal(out["p"][:, :free], alone["p"])
        rest = np.broadcast_to(np.arange(free, shape[1]), (2, shape[1] - free))
        np.testing.assert_array_equal(out["p"][:, free:], rest)
        assert_factored(out["q"], out["r"], np.take_along_axis(a, out["p"][:, None], axis=-1))


# --------------------------------------------------------------------- columns of any size


@every_dtype
@either_way
def test_powers_of_two_change_r_and_nothing_else(dtype, pivoted):
    """Not a bit: columns are brought to one size as they are taken."""
    for shape in ((70, 4), (150, 12)):
        a = ordinary((1, *shape), dtype)
        for d in all_grades(shape[1], dtype):
            got = factor(a * d, outputs_of(pivoted), pivoted=pivoted)
            p = got["p"][0] if pivoted else np.arange(shape[1])
            want = factor(a[:, :, p].copy())
            assert_same(got, want, ("q", "tau", "t"))
            np.testing.assert_array_equal(np.tril(got["h"], -1), np.tril(want["h"], -1))
            assert_columns(got["r"], want["r"], d[p], factor=0)


@every_dtype
def test_pivots_are_chosen_by_true_norms(dtype):
    for shape in ((60, 2), (70, 4), (140, 6)):
        a = well_conditioned(shape, dtype)
        for d in all_grades(shape[1], dtype):
            out = factor((a * d)[None], ("r",), pivoted=True)
            # the sizes of what is left of the columns in every step
            r = np.abs(out["r"][0].astype(np.clongdouble))
            left = np.sqrt(np.cumsum(r[::-1] ** 2, axis=0))[::-1]
            more = 1 + LIMIT * np.finfo(dtype).eps
            for j, size in enumerate(np.diagonal(r)):
                assert np.all(left[j, j:] <= size * more + 4 * np.finfo(dtype).tiny)


# --------------------------------------------------------------------------------- panels


def first_rows(m, n):
    """From the first row on, from the middle, and such that the panel is square or wide."""
    return np.array([0, 1, m // 2, m - n, m - 1, max(m - n // 2, 0)], np.int32)


@every_dtype
def test_a_panel_is_lapacks_below_its_first_row(dtype):
    for m, n in ((50, 5), (90, 32), (256, 9)):
        first = first_rows(m, n)
        a = well_conditioned((len(first), m, n), dtype)
        packed, tau, t = GpuLibrary().panel(np.swapaxes(a, 1, 2), first)
        for i, begin in enumerate(first):
            h = packed[i].T
            np.testing.assert_array_equal(h[:begin], a[i, :begin])
            want_h, want_tau = householder(a[i, begin:])
            k = len(want_tau)
            assert_columns(h[begin:], want_h)
            assert_columns(tau[i, :k], want_tau)
            assert not tau[i, k:].any()
            assert not t[i, k:].any() and not t[i, :, k:].any()
            formed = form_t(unpack(h[begin:])[:, :k], tau[i, :k])
            atol = LIMIT * n * np.finfo(dtype).eps
            np.testing.assert_allclose(t[i, :k, :k], formed, rtol=0, atol=atol)


@every_dtype
def test_a_panel_from_the_first_row_on_is_a_matrix(dtype):
    a = normal((2, 130, 8), dtype)
    packed, tau, t = GpuLibrary().panel(np.swapaxes(a, 1, 2), np.zeros(2))
    got = {"h": np.swapaxes(packed, 1, 2), "tau": tau, "t": t}
    for name, want in factor(a, ("h", "tau", "t"), transposed=True).items():
        np.testing.assert_allclose(got[name], want, rtol=0, atol=1e3 * np.finfo(dtype).eps)


# ---------------------------------------------------------------- each matrix on its own


@every_dtype
@either_way
@both_layouts
def test_results_are_the_same_whatever_else_is_asked_for(dtype, pivoted, transposed):
    """And in whatever order the threads of a block come."""
    a, names = normal((2, 75, 11), dtype), outputs_of(pivoted)
    want = factor(a, names, pivoted=pivoted, transposed=transposed)
    every = (c for k in range(1, len(names)) for c in itertools.combinations(names, k))
    for i, some in enumerate(every):
        options = {"pivoted": pivoted, "transposed": transposed, "backwards": i % 2 == 0}
        assert_same(factor(a, some, **options), want)


@every_dtype
@either_way
def test_the_order_of_threads_is_of_no_importance(dtype, pivoted):
    cases = [normal((2, *shape), dtype) for shape in SHAPES]
    for a in [*cases, np.stack(list(hostile(32, dtype).values()))]:
        want = factor(a, outputs_of(pivoted), pivoted=pivoted)
        assert_same(factor(a, outputs_of(pivoted), pivoted=pivoted, backwards=True), want)


@every_dtype
@either_way
def test_what_is_not_finite_stays_in_its_matrix(dtype, pivoted):
    names = outputs_of(pivoted)
    for (m, n), bad in itertools.product([(40, 3), (130, 17), (32, 32)], [np.nan, np.inf]):
        a = normal((3, m, n), dtype)
        want = factor(a, names, pivoted=pivoted)
        a[1, m - 1, n // 2] = bad
        got = factor(a, names, pivoted=pivoted)
        for name in names:
            np.testing.assert_array_equal(got[name][[0, 2]], want[name][[0, 2]])
        upper = np.triu_indices(n)
        for part in (got["q"][1], got["h"][1], got["tau"][1], got["r"][1][upper]):
            assert np.all(np.isnan(part))
        assert np.all(np.isnan(got["t"][1][upper]))
        if pivoted:
            assert sorted(got["p"][1]) == list(range(n))


@every_dtype
def test_dependent_columns_leave_q_orthogonal(dtype):
    for rank in (0, 1, 5):
        a = of_rank(rank, (2, 90, 14), dtype) if rank else np.zeros((2, 90, 14), dtype)
        assert orthogonality_ratio(check(a, False)["q"]) < LIMIT
