"""Randomized pivots: a factorization as good as any, and pivots nearly as good as exact ones."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import jaxqr
from foreign_platform import lowered_for, targets
from jaxqr._lowering import kernels
from jaxqr._lowering.sketch_pivots import find_sketch_pivots
from laws import assert_factors, factors, mostly_nightly, quickly
from matrices import (
    DTYPES,
    FACTORIZATIONS,
    LIMIT,
    kahan,
    normal,
    orthogonality_ratio,
    residual_ratio,
)

RANDOMIZED = {"pivoting": "randomized"}
# larger than what is pivoted exactly
DEEP, SQUARE, WIDE = (170, 140), (150, 150), (140, 170)


def diagonal(r):
    return np.abs(np.diagonal(r, axis1=-2, axis2=-1))


@pytest.mark.parametrize("shape", [DEEP, (2, *SQUARE), WIDE, (600, 520)], ids=str)
@pytest.mark.parametrize("name", FACTORIZATIONS)
def test_the_factorization_exists(name, shape):
    assert_factors(name, normal(shape), **RANDOMIZED)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "float64"])
def test_the_factorization_exists_in_every_dtype(dtype):
    assert_factors("qr", normal(SQUARE, dtype), **RANDOMIZED)


@pytest.mark.parametrize("name", FACTORIZATIONS)
def test_modes_are_of_one_factorization(name):
    shape = DEEP if name == "qr" else WIDE
    a = normal(shape)
    assert_factors(name, a, "complete", **RANDOMIZED)
    q, r, _ = factors(name, a, **RANDOMIZED)
    alone, p = getattr(jaxqr, name)(a, "r" if name == "qr" else "l", **RANDOMIZED)
    np.testing.assert_allclose(alone if name == "qr" else alone.mT, r, atol=1e-12)
    h, tau, raw_p = getattr(jaxqr, name)(a, "raw", **RANDOMIZED)
    np.testing.assert_array_equal(raw_p, p)
    # NumPy's h is transposed, as is gelqf's
    np.testing.assert_allclose(jaxqr.householder_product(h.mT, tau), q, atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 0), (1, 1), (1, 5), (5, 1), (2, 9, 6)])
def test_small_matrices_have_exact_pivots(shape):
    a = normal(shape)
    for got, want in zip(jaxqr.qr(a, **RANDOMIZED), jaxqr.qr(a, pivoting=True), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_stays_in_its_matrix(bad):
    a = normal((2, *SQUARE))
    hurt = a.copy()
    hurt[0, 3, 5] = bad
    q, r, p = jaxqr.qr(hurt, **RANDOMIZED)
    assert np.all(np.isnan(q[0])) and np.all(np.isnan(np.diagonal(r[0])))
    assert np.array_equal(np.sort(p[0]), np.arange(p.shape[-1]))
    for got, want in zip((q, r, p), jaxqr.qr(a, **RANDOMIZED), strict=True):
        np.testing.assert_array_equal(got[1], want[1])


# ------------------------------------------------------------------------------ quality


def turned(size):
    """A matrix of these singular values."""
    n = size.size
    u, v = (np.linalg.qr(normal((n, n), seed=seed))[0] for seed in (1, 2))
    return u * size @ v.T


SPECTRA = {
    "kahan": lambda n: kahan(n, shrink=0.9999),
    "stairs": lambda n: turned(10.0 ** -np.floor(np.arange(n) * 15 / n)),  # Stewart's gaps
    "exponential": lambda n: turned(10.0 ** -(np.arange(n) * 15 / n)),
}


# For n = 300, norm(R22) / s[k + 1] and s[k] / the smallest singular value of R11, by classical
# pivots and by those of JAXQR_NATIVE=0: kahan 10 and 4e10, 7.8 and 1.2; stairs 6.7 and 11, 9.4
# and 12; exponential 2.8 and 6.7, 3.5 and 6.8. The kernels give such small matrices exact pivots.
@pytest.mark.parametrize(
    "name, n", mostly_nightly(itertools.product(SPECTRA, (300, 600)), lambda name, n: n == 300)
)
def test_leading_columns_are_nearly_as_good_as_classical_pivots(name, n):
    a, k = SPECTRA[name](n), n // 3
    classical = scipy.linalg.qr(a, mode="r", pivoting=True)[0]
    r = np.asarray(jaxqr.qr(a, "r", **RANDOMIZED).R)

    def quality(r):
        return np.linalg.norm(r[k:, k:], 2), np.linalg.svd(r[:k, :k], compute_uv=False)[-1]

    (rest, smallest), (own_rest, own_smallest) = quality(r), quality(classical)
    assert rest < 10 * own_rest
    assert smallest > own_smallest / 10


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_left_may_decay_to_rounding_errors(dtype):
    """A sketch that is only downdated chooses columns here that are too small by a factor of 30."""
    n, block = 300, np.arange(300) // 64
    weights = 10.0 ** -np.random.default_rng(5).uniform(0, 2, (5, n))
    decay = {"float32": 1e-3, "float64": 1e-6}[dtype] ** block
    a = (normal((n, n)) * decay[:, None] * weights[block]).astype(dtype)
    q, r, permuted = factors("qr", a, **RANDOMIZED)
    assert residual_ratio(permuted, q @ r) < LIMIT
    classical = diagonal(scipy.linalg.qr(a, mode="r", pivoting=True)[0])
    np.testing.assert_allclose(np.log10(diagonal(r)), np.log10(classical), atol=0.5)


def test_rank_deficient_matrices():
    rank = 30
    low = normal((160, rank)) @ normal((rank, 150), seed=1)
    equal = normal((160, 150))
    equal[:, 1::2] = equal[:, ::2]
    sparse = np.where(np.arange(150) % 5 == 0, normal((160, 150)), 0)
    a = np.stack([low, equal, sparse, np.zeros((160, 150))])
    q, r, permuted = factors("qr", a, **RANDOMIZED)
    assert residual_ratio(permuted, q @ r) < LIMIT
    assert orthogonality_ratio(q) < LIMIT
    for size, count in zip(diagonal(r), (rank, 75, 30, 0), strict=True):
        assert np.all(size[:count] > 0.1)
        assert np.all(size[count:] < 1e-11)


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_results_are_the_same_twice_and_in_a_batch(dtype):
    a = normal((3, *SQUARE), dtype)
    together, again = (jaxqr.qr(a, **RANDOMIZED) for _ in range(2))
    for x, y in zip(together, again, strict=True):
        np.testing.assert_array_equal(x, y)
    alone = jaxqr.qr(a[1], **RANDOMIZED)
    np.testing.assert_array_equal(alone.P, together.P[1])
    np.testing.assert_allclose(alone.R, together.R[1], atol=1e3 * np.finfo(dtype).eps)
    mapped = jax.vmap(lambda a: jaxqr.qr(a, **RANDOMIZED))(a)
    np.testing.assert_array_equal(mapped.P, together.P)


# --------------------------------------------------------------------------- derivatives


def loss(q, r):
    return jnp.sum(jnp.sin(r)) + jnp.sum(q[..., :3] ** 3)


@pytest.mark.parametrize("shape", [DEEP, WIDE], ids=str)
def test_gradient_is_that_of_the_permuted_matrix(shape):
    a = normal(shape)
    p = jaxqr.qr(a, **RANDOMIZED).P
    gradient = jax.grad(lambda a: loss(*jaxqr.qr(a, **RANDOMIZED)[:2]))(a)
    plain = jax.grad(lambda a: loss(*jaxqr.qr(a)))(a[:, p])
    np.testing.assert_allclose(gradient[:, p], plain, rtol=1e-7, atol=1e-7 * np.abs(plain).max())


def test_tangent_is_the_difference():
    a, da, step = normal(SQUARE), normal(SQUARE, seed=1), 1e-6

    def r(a):
        return jaxqr.qr(a, "r", positive_diagonal=True, **RANDOMIZED).R

    _, tangent = jax.jvp(r, (a,), (da,))
    difference = (r(a + step * da) - r(a - step * da)) / (2 * step)
    np.testing.assert_allclose(tangent, difference, atol=1e-5 * np.abs(difference).max())


# ----------------------------------------------------------------- products, platforms, errors


@pytest.mark.parametrize("mode", ["left", "right"])
def test_products_with_q(mode):
    a = normal(DEEP)
    q, r, p = jaxqr.qr(a, **RANDOMIZED)
    c = normal((140, 3) if mode == "left" else (3, 170))
    product, same_r, same_p = jaxqr.qr_multiply(a, c, mode, **RANDOMIZED)
    np.testing.assert_array_equal(same_p, p)
    np.testing.assert_allclose(same_r, r, atol=1e-12)
    np.testing.assert_allclose(product, q @ c if mode == "left" else c @ q, atol=1e-12)


def test_it_is_made_of_a_platforms_own_routines():
    a = normal((2, *DEEP))
    f = lambda a: jaxqr.qr(a, **RANDOMIZED)  # noqa: E731
    assert targets(lowered_for(["cuda"], f, a)) == {"cusolver_geqrf_ffi", "cusolver_orgqr_ffi"}
    exported = lowered_for(["oneapi"], f, a)
    assert targets(exported) == set()
    q, r, p = quickly(exported.call, a)
    assert residual_ratio(np.take_along_axis(a, np.asarray(p)[:, None, :], -1), q @ r) < LIMIT
    assert orthogonality_ratio(q) < LIMIT


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_pivots_of_a_sketch_are_those_of_reflectors(dtype):
    """Of columns of any size, the first of equal ones, and in a permutation whatever comes."""
    a, count = normal((5, 12, 40), dtype), 10
    a[1] *= 10.0 ** -np.random.default_rng(0).permutation(np.linspace(0, 30, 40))
    a[2, :, 7:] = 0
    a[3] = 0
    a[4, 3, 5] = np.nan
    exported = lowered_for(["oneapi"], lambda a: find_sketch_pivots(a, count), a)
    assert targets(exported) == set()
    p = np.asarray(quickly(exported.call, a))
    np.testing.assert_array_equal(np.sort(p), np.broadcast_to(np.arange(40), p.shape))
    for got, y in zip(p[:2], a[:2].astype(np.promote_types(dtype, "float64")), strict=True):
        want = scipy.linalg.qr(y, mode="r", pivoting=True)[1]
        np.testing.assert_array_equal(got[:count], want[:count])
    assert set(p[2, :7]) == set(range(7))
    np.testing.assert_array_equal(p[3], np.arange(40))


def test_a_sharded_batch_stays_where_it_is():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    a = normal((8, *SQUARE))
    compiled = jax.jit(lambda a: jaxqr.qr(a, **RANDOMIZED)).lower(jax.device_put(a, sharding))
    compiled = compiled.compile()
    text = compiled.as_text()
    assert "all-gather" not in text
    # without kernels one boolean: whether any matrix has columns that differ too much in size
    sums = [line for line in text.splitlines() if " all-reduce(" in line]
    assert len(sums) <= (0 if kernels.available() else 1)
    assert all("pred[]" in line.split(" all-reduce(")[0] for line in sums)
    q, _, p = compiled(jax.device_put(a, sharding))
    assert q.sharding.is_equivalent_to(sharding, q.ndim)
    np.testing.assert_array_equal(p, jaxqr.qr(a, **RANDOMIZED).P)


@pytest.mark.parametrize("value", ["random", "exact", "none", 1, None])
def test_other_values_are_refused(value):
    a = normal((3, 3))
    calls = {
        "qr": lambda: jaxqr.qr(a, pivoting=value),
        "lq": lambda: jaxqr.lq(a, pivoting=value),
        "qr_multiply": lambda: jaxqr.qr_multiply(a, a[0], pivoting=value),
    }
    for name, call in calls.items():
        message = f"{name}: pivoting must be one of True, False, 'randomized', got {value!r}"
        with pytest.raises(ValueError, match=message):
            call()


def test_least_squares_needs_exact_pivots():
    with pytest.raises(ValueError, match="lstsq: pivoting must be one of True, False"):
        jaxqr.lstsq(normal((3, 3)), normal((3,)), **RANDOMIZED)
