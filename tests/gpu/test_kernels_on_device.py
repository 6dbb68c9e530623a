"""Shapes for each of which CUDA has another kernel, or another way to put kernels together.

They are laws on every device; on a GPU they are the first that new kernels should meet.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from device import PLATFORM, every_dtype, judged, run
from laws import assert_factors, mostly_nightly
from matrices import LIMIT, double, householder, normal, orthogonality_ratio, pivots, separated

pytestmark = [pytest.mark.usefixtures("fast_compilation")]
if PLATFORM == "cpu":  # where they only show that they would run elsewhere
    pytestmark.append(pytest.mark.nightly)

# lanes of a warp by size; rows on a block by columns and rows of a thread; panels; tiles of tall
# matrices; the leading square of wide ones
SMALL = ((7, 3, 2), (7, 8, 8), (5, 13, 16), (3, 32, 31), (5, 40, 8), (3, 100, 16), (2, 250, 32))
LARGER = ((2, 90, 70), (300, 300), (1500, 20), (2, 1100, 40), (2, 20, 50))
every_shape = pytest.mark.parametrize(
    "shape",
    mostly_nightly([(shape,) for shape in (*SMALL, *LARGER)], 4 if PLATFORM == "cpu" else 1),
)


@every_shape
@every_dtype
def test_factors_exist(dtype, shape):
    a = normal(shape, dtype)
    assert_factors("qr", a)
    assert_factors("qr", a, pivoting=True)
    assert_factors("lq", np.swapaxes(a, -1, -2))


@every_shape
@every_dtype
def test_signs_and_reflectors_are_lapacks(dtype, shape):
    a = normal(shape, dtype)
    h, tau = run(lambda a: tuple(jaxqr.qr(a, "raw")), a)
    h, tau = np.swapaxes(double(h), -1, -2), double(tau)
    one = (0,) * (a.ndim - 2)
    want_h, want_tau = householder(a[one])
    size, unit = np.max(np.abs(a)), 300 * max(a.shape) * np.finfo(dtype).eps
    np.testing.assert_allclose(np.triu(h[one]), np.triu(want_h), rtol=0, atol=unit * size)
    np.testing.assert_allclose(tau[one], want_tau, rtol=0, atol=unit)


@pytest.mark.parametrize("shape", [(9, 4, 4), (3, 20, 12), (3, 32, 32), (2, 80, 20), (60, 45)])
@every_dtype
def test_pivots_are_lapacks(dtype, shape):
    a = separated(shape, "float32").astype(dtype)
    p = np.asarray(run(lambda a: jaxqr.qr(a, pivoting=True).P, a)).reshape(-1, shape[-1])
    for found, matrix in zip(p, a.reshape(-1, *shape[-2:]), strict=True):
        count = min(8, *shape[-2:])  # later ones are near each other
        np.testing.assert_array_equal(found[:count], pivots(matrix)[:count])


@pytest.mark.parametrize("shape", [(9, 4, 4), (9, 2, 3), (5, 8, 5), (3, 32, 32), (2, 200, 24)])
@every_dtype
def test_derivatives_are_those_of_the_cpu(dtype, shape):
    a, da = normal(shape, dtype), normal(shape, dtype, seed=1)
    m, n = shape[-2:]
    k = min(m, n)
    qbar, rbar = normal((*shape[:-2], m, k), dtype, 2), normal((*shape[:-2], k, n), dtype, 3)

    def both(a, da, qbar, rbar):
        def factors(a):
            return tuple(jaxqr.qr(a))

        return jax.jvp(factors, (a,), (da,))[1], jax.vjp(factors, a)[1]((qbar, rbar))

    got, want = run(both, a, da, qbar, rbar), judged(both, a, da, qbar, rbar)
    condition = np.max(np.linalg.cond(double(a)))
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        tolerance = 1e3 * np.finfo(dtype).eps * condition**2 * np.max(np.abs(y))
        np.testing.assert_allclose(double(x), y, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [(9, 5, 3), (3, 32, 8), (2, 300, 20), (2000, 10)])
@pytest.mark.parametrize("pivoting", [True, False])
@every_dtype
def test_least_squares_solutions_are_those_of_the_cpu(dtype, pivoting, shape):
    a, b = normal(shape, dtype), normal((*shape[:-1], 2), dtype, 1)
    got = run(lambda a, b: tuple(jaxqr.lstsq(a, b, pivoting=pivoting)), a, b)
    want = judged(lambda a, b: tuple(jaxqr.lstsq(a, b, pivoting=pivoting)), a, b)
    np.testing.assert_array_equal(got[2], want[2])
    condition = np.max(np.linalg.cond(double(a)))
    for x, y in zip(got[:2], want[:2], strict=True):
        tolerance = 1e3 * np.finfo(dtype).eps * condition * np.max(np.abs(y))
        np.testing.assert_allclose(double(x), y, rtol=0, atol=tolerance)


def test_randomized_pivots_reveal_the_rank():
    a = normal((400, 300), "float32")
    a[:, 150:] = a[:, :150] @ normal((150, 150), "float32", 1) / 12
    q, r, _ = run(lambda a: tuple(jaxqr.qr(a, pivoting="randomized")), jnp.asarray(a))
    assert orthogonality_ratio(q) < LIMIT
    size = np.abs(np.diagonal(np.asarray(r)))
    assert np.max(size[150:]) < 1e-3 * size[0]
