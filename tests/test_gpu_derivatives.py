"""The CUDA kernels of the tangent and the cotangent map, emulated, give what the rules give."""

import functools
import itertools

import jax
import numpy as np
import pytest

from gpu_kernels import GpuLibrary
from gpu_operations import pull, push
from jaxqr._factor import rules
from jaxqr._lowering.cuda_derivative_plans import LARGEST_MEMORY, plan_cotangent, plan_tangent
from laws import mostly_nightly
from matrices import DTYPES, LIMIT, double, normal
from surroundings import needs_emulation

pytestmark = [
    needs_emulation,
    pytest.mark.usefixtures("fast_compilation"),
]
# a matrix on some lanes of a warp, on a warp and on a block, and of a block in several ranges of
# rows; square, deep and wide
SHAPES = ((1, 1), (3, 3), (4, 2), (2, 4), (5, 8), (8, 5), (16, 16), (32, 32), (32, 9), (9, 32))
TALL = ((33, 8), (100, 20), (256, 32), (1000, 7))
KINDS = ("full rank", "dependent", "zero columns", "zero")
CASES = [*itertools.product(SHAPES + TALL, KINDS, DTYPES, (False, True))]


@pytest.fixture(scope="module")
def library():
    return GpuLibrary(backwards=True)


def make_point(shape, kind, dtype, pivoted, batch=3):
    """Q, and R of that kind; if pivoted, the columns that do not count come last."""
    (m, n), wide = shape, np.result_type(dtype, np.float64)
    a = normal((batch, m, n), wide) + 2 * np.sqrt(max(m, n)) * np.eye(m, n)
    last = [1, n - 1] if kind == "dependent" and n > 1 else [0, n // 2]
    if kind == "dependent" and n > 1:
        a[..., n - 1] = a[..., 0] - a[..., n // 2 - 1]
        a[..., 1] = 2 * a[..., 0]
    if kind == "zero columns":
        a[..., last] = 0
    if kind == "zero":
        a *= 0
    if pivoted:
        a = a[..., [j for j in range(n) if j not in last] + sorted(set(last))]
    q, r = np.linalg.qr(a)
    diagonal = np.diagonal(r, axis1=1, axis2=2)
    phases = np.where(diagonal.real < 0, -1, 1)
    return (q * phases[:, None]).astype(dtype), np.triu(r * phases[..., None]).astype(dtype)


@functools.cache
def compiled(rule, **options):
    return jax.jit(functools.partial(rule, **options))


def assert_near(got, want, shape, dtype):
    """To some roundings of the largest entry of each matrix."""
    size = np.abs(want).max(axis=(1, 2), initial=1, keepdims=True)
    error = np.abs(double(got) - want) / size
    assert np.max(error) < LIMIT * max(shape) * np.finfo(dtype).eps


@pytest.mark.parametrize("shape, kind, dtype, pivoted", mostly_nightly(CASES, 13), ids=str)
def test_tangents_are_those_of_the_rules(library, shape, kind, dtype, pivoted):
    q, r = make_point(shape, kind, dtype, pivoted)
    da = normal((3, *shape), dtype, seed=1)
    rule = compiled(rules.thin_jvp, outputs=("q", "r"), pivoted=pivoted)
    want = dict(zip(("dq", "dr"), rule(*map(double, (q, r, da))), strict=True))
    for outputs in (("q", "r"), ("q",), ("r",)):
        got = push(library, q, r, da, outputs=outputs, pivoted=pivoted)
        for name, x in got.items():
            assert_near(x, want[name], shape, dtype)


@pytest.mark.parametrize("shape, kind, dtype, pivoted", mostly_nightly(CASES, 13), ids=str)
def test_cotangents_are_those_of_the_rules(library, shape, kind, dtype, pivoted):
    q, r = make_point(shape, kind, dtype, pivoted)
    qbar, rbar = normal(q.shape, dtype, seed=1), normal(r.shape, dtype, seed=2)
    rule = compiled(rules.thin_vjp, pivoted=pivoted)
    for given in ((qbar, rbar), (qbar, None), (None, rbar)):
        got = pull(library, q, r, *given, pivoted=pivoted)["abar"]
        # JAX pairs without conjugation, the rules with it; a cotangent that is not there is zero
        cts = [
            np.zeros_like(double(like)) if x is None else double(x).conj()
            for x, like in zip(given, (q, r), strict=True)
        ]
        want = np.conj(rule(double(q), double(r), *cts))
        assert_near(got, want, shape, dtype)


@pytest.mark.parametrize("shape, kind, dtype, pivoted", mostly_nightly(CASES, 13), ids=str)
def test_the_cotangent_map_is_the_transpose_of_the_tangent_map(
    library, shape, kind, dtype, pivoted
):
    q, r = make_point(shape, kind, dtype, pivoted)
    da, qbar = normal((3, *shape), dtype, seed=1), normal(q.shape, dtype, seed=2)
    rbar = normal(r.shape, dtype, seed=3)
    tangents = push(library, q, r, da, pivoted=pivoted)
    abar = pull(library, q, r, qbar, rbar, pivoted=pivoted)["abar"]
    pairs = ((qbar, tangents["dq"]), (rbar, tangents["dr"]), (-abar, da))
    products = [(double(x) * y).real for x, y in pairs]  # JAX pairs without conjugation
    total = sum(np.sum(x, axis=(1, 2)) for x in products)
    size = sum(np.sum(np.abs(x), axis=(1, 2)) for x in products)
    assert np.all(np.abs(total) <= LIMIT * max(shape) * np.finfo(dtype).eps * size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 2), (4, 3), (3, 4), (5, 5), (12, 8), (8, 20), (90, 6)])
def test_powers_of_two_on_the_columns_change_no_bit(library, shape, dtype):
    """(8.9): over the whole range of exponents."""
    rng, n, ends = np.random.default_rng(shape), shape[1], np.finfo(dtype).maxexp - 30
    q, r = make_point(shape, "full rank", dtype, False)
    da = normal((3, *shape), dtype, seed=1)
    qbar, rbar = normal(q.shape, dtype, seed=2), normal(r.shape, dtype, seed=3)
    tangents = push(library, q, r, da)
    abar = pull(library, q, r, qbar, rbar)["abar"]
    for _ in range(10):
        powers = (2.0 ** rng.integers(-ends, ends, n)).astype(r.real.dtype)
        got = push(library, q, r * powers, da * powers)
        np.testing.assert_array_equal(got["dq"], tangents["dq"])
        np.testing.assert_array_equal(got["dr"], tangents["dr"] * powers)
        got = pull(library, q, r * powers, qbar, rbar / powers)
        np.testing.assert_array_equal(got["abar"], abar / powers)


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_few_columns_all_but_large_wide_complex_matrices_have_a_kernel(dtype):
    rows = (*range(1, 70), 100, 128, 129, 255, 500, 777, 1023, 1024)
    for m, n, transposed in itertools.product(rows, range(1, 33), (False, True)):
        options = {"pivoted": False, "transposed": transposed}
        plans = [
            plan_tangent(m, n, dtype, ("q", "r"), **options),
            plan_cotangent(m, n, dtype, ("q", "r"), **options),
        ]
        if None in plans:
            assert dtype == "complex128" and 24 < m < n, (m, n)
            continue
        for plan in plans:
            team, in_memory, of_team = plan.sizes[4:]
            assert plan.threads == plan.per_block * team
            assert plan.shared == plan.per_block * of_team <= LARGEST_MEMORY
            assert in_memory % 4 == 0 and (in_memory >= m or m >= n)
