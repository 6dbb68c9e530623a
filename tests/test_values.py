"""Values: LAPACK's test ratios, agreement with NumPy and SciPy, hostile matrices."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import jaxqr
from laws import assert_factors, factors, mostly_nightly
from matrices import DTYPES, FACTORIZATIONS, LIMIT, SHAPES, double, hostile, normal, residual_ratio

EXISTS = list(itertools.product(DTYPES, [*SHAPES, (2, 3, 7, 4), (20, 4, 4)]))
# deep and wide in every dtype, and every shape
CHOSEN = {*EXISTS[::8], *EXISTS[2::8], *EXISTS[::3]}


@pytest.mark.parametrize(
    "dtype, shape",
    # deep and wide in every dtype, and every shape
    mostly_nightly(
        EXISTS, lambda dtype, shape: (dtype, shape) in (*EXISTS[::8], *EXISTS[2::8], *EXISTS[::3])
    ),
    ids=str,
)
@pytest.mark.parametrize("name", FACTORIZATIONS)
def test_the_factorization_exists(name, dtype, shape):
    a = normal(shape, dtype)
    for mode, pivoting in itertools.product(("reduced", "complete"), (False, True)):
        # of every mode, with and without pivoting, in two dtypes of the four
        positive = (mode == "complete") ^ pivoting ^ (dtype in ("float32", "complex128"))
        assert_factors(name, a, mode, pivoting=pivoting, positive_diagonal=positive)


@pytest.mark.parametrize(
    "shape", [(0, 3), (3, 0), (0, 0), (0, 4, 3), (2, 0, 3), (2, 3, 0)], ids=str
)
@pytest.mark.parametrize("name", FACTORIZATIONS)
def test_empty_matrices_have_identities_and_natural_pivots(name, shape):
    a = np.zeros(shape)
    rows = shape[-2] if name == "qr" else shape[-1]
    for mode, pivoting in itertools.product(("reduced", "complete"), (False, True)):
        q, r, _ = factors(name, a, mode, pivoting=pivoting)
        k, n = rows if mode == "complete" else min(shape[-2:]), shape[-1 if name == "qr" else -2]
        np.testing.assert_array_equal(q, np.broadcast_to(np.eye(rows, k), (*shape[:-2], rows, k)))
        np.testing.assert_array_equal(r, np.zeros((*shape[:-2], k, n)))
    p = getattr(jaxqr, name)(a, pivoting=True).P
    moved = shape[-1] if name == "qr" else shape[-2]
    assert np.array_equal(p, np.broadcast_to(np.arange(moved), p.shape))
    raw = getattr(jaxqr, name)(a, "raw")
    assert raw.tau.shape == (*shape[:-2], min(shape[-2:]))
    (gradient,) = jax.vjp(lambda a: getattr(jaxqr, name)(a)[0], a)[1](
        jnp.zeros_like(getattr(jaxqr, name)(a)[0])
    )
    assert gradient.shape == shape


@pytest.mark.parametrize("mode", ["reduced", "complete", "r", "raw"])
@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (2, 5, 5)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_qr_is_numpys(mode, shape, dtype):
    a = normal(shape, dtype)
    ours, theirs = (jax.tree.leaves(f(a, mode)) for f in (jaxqr.qr, np.linalg.qr))
    for x, y in zip(ours, theirs, strict=True):
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, atol=1e-13)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_pivoted_qr_and_rq_are_scipys(shape, dtype):
    a = normal(shape, dtype)
    for ours, theirs in (("reduced", "economic"), ("complete", "full")):
        for x, y in zip(
            jaxqr.qr(a, ours, pivoting=True),
            scipy.linalg.qr(a, mode=theirs, pivoting=True),
            strict=True,
        ):
            np.testing.assert_allclose(x, y, atol=1e-13)
        for x, y in zip(jaxqr.rq(a, ours), scipy.linalg.rq(a, mode=theirs), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-13)
    # the mirror: Q L of A is (R Q)^T of A^T
    left, right = jaxqr.ql(a), jaxqr.rq(a.T)
    np.testing.assert_allclose(left.L, right.R.mT, atol=1e-13)
    np.testing.assert_allclose(left.Q, right.Q.mT, atol=1e-13)
    np.testing.assert_allclose(jaxqr.ql(a, "l"), left.L, atol=1e-13)
    np.testing.assert_allclose(jaxqr.rq(a.T, "r"), right.R, atol=1e-13)
    assert residual_ratio(a, left.Q @ left.L) < LIMIT


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_raw_lq_is_in_the_storage_of_gelqf(shape, dtype):
    a = normal(shape, dtype)
    h, tau = (np.asarray(x) for x in jaxqr.lq(a, "raw"))
    assert h.shape == shape
    # Q = H(k)^H ... H(1)^H with H(i) = I - tau v v^H, conj(v) in row i right of the diagonal
    q = np.eye(shape[1], dtype=dtype)
    for i, t in enumerate(tau):
        v = np.concatenate([np.zeros(i), [1], h[i, i + 1 :].conj()])
        q = (np.eye(shape[1]) - t * np.outer(v, v.conj())).conj().T @ q
    np.testing.assert_allclose(np.tril(h) @ q, a, atol=1e-12)


HOSTILE = list(itertools.product(DTYPES, FACTORIZATIONS, (False, True)))


@pytest.mark.parametrize("dtype, name, pivoting", mostly_nightly(HOSTILE, 3))
def test_hostile_matrices_are_factored(dtype, name, pivoting):
    cases = hostile(12, dtype)
    batch = np.stack(list(cases.values()))
    for rows in (12, 7):  # square, and deep or wide
        assert_factors(name, batch[:, :rows], pivoting=pivoting)
        assert_factors(name, np.swapaxes(batch, 1, 2)[:, :, :rows], "complete", pivoting=pivoting)
    assert_factors(name, np.stack(list(hostile(150, dtype).values())), pivoting=pivoting)


@pytest.mark.parametrize("pivoting", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_raw_reflectors_of_huge_and_tiny_matrices_reproduce_them(dtype, pivoting):
    for key in ("huge", "tiny"):
        a = hostile(6, dtype)[key][:, :4]
        h, tau, *p = jaxqr.qr(a, "raw", pivoting=pivoting)
        q = jaxqr.householder_product(h.mT, tau)
        product = double(q) @ double(np.triu(h.mT[:4]))
        assert residual_ratio(a[:, np.asarray(p[0])] if pivoting else a, product) < LIMIT


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("pivoting", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_a_nan_or_infinity_stays_in_its_own_matrix(dtype, pivoting, bad):
    a = normal((3, 5, 4), dtype)
    spoiled = a.copy()
    spoiled[1, 2, 1] = bad
    for mode in ("reduced", "complete"):
        clean = jaxqr.qr(a, mode, pivoting=pivoting)
        out = jaxqr.qr(spoiled, mode, pivoting=pivoting)
        for x, y in zip(out[:2], clean[:2], strict=True):
            assert np.array_equal(x[::2], y[::2])
        assert np.isnan(out.Q[1]).all()
        assert np.isnan(out.R[1][np.triu_indices(4)]).all()
    r, vjp = jax.vjp(lambda a: jaxqr.qr(a, pivoting=pivoting).R, spoiled)
    (gradient,) = vjp(jnp.ones_like(r))
    assert np.isnan(gradient[1]).all()
    assert np.isfinite(gradient[::2]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_batches_are_factored(dtype):
    assert_factors("qr", normal((20000, 2, 2), dtype))
    assert_factors("lq", normal((20000, 2, 3), dtype), pivoting=True)


@pytest.mark.parametrize(
    "dtype", mostly_nightly([(dtype,) for dtype in DTYPES], lambda dtype: dtype == "float32")
)
def test_large_matrices_are_factored(dtype):
    assert_factors("qr", normal((2048, 2048), dtype))
    assert_factors("qr", normal((4096, 16), dtype), pivoting=True)
    assert_factors("lq", normal((16, 2048), dtype))


def test_positive_diagonal_of_reversed_factorizations():
    for shape in ((6, 4), (4, 6)):
        a = normal(shape, "complex128")
        r, q = jaxqr.rq(a, positive_diagonal=True)
        assert np.all(np.diagonal(r, shape[0] and min(0, shape[1] - shape[0])).real >= 0)
        assert residual_ratio(a, double(r) @ double(q)) < LIMIT
        assert np.allclose(jaxqr.rq(a, "r", positive_diagonal=True), r)
        q, lower = jaxqr.ql(a, positive_diagonal=True)
        assert np.all(np.diagonal(lower, max(0, shape[1] - shape[0])).real >= 0)
        assert residual_ratio(a, double(q) @ double(lower)) < LIMIT


def test_positive_diagonal_is_unique():
    a = normal((6, 4), "complex128")
    r = jaxqr.qr(a, "r", positive_diagonal=True)
    np.testing.assert_allclose(r, np.linalg.cholesky(a.conj().T @ a).conj().T, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ("int32", "float64"),
        ("bool", "float64"),
        ("uint8", "float64"),
        ("float16", "float16"),
        ("bfloat16", "bfloat16"),
    ],
)
def test_other_dtypes_are_promoted(given, result):
    a = jnp.asarray(normal((6, 4), seed=2) * 4).astype(given)
    q, r = jaxqr.qr(a)
    p = jaxqr.qr(a, pivoting=True).P
    assert q.dtype == r.dtype == jnp.dtype(result)
    assert p.dtype == jnp.int32
    eps = float(jnp.finfo(result).eps)
    product = q.astype("float64") @ r.astype("float64")
    np.testing.assert_allclose(product, a.astype("float64"), atol=40 * eps)
    assert jax.eval_shape(jaxqr.lq, a).L.dtype == jnp.dtype(result)


def test_without_x64_integers_are_single():
    with jax.enable_x64(False):
        assert jaxqr.qr(np.ones((3, 2), np.int32)).R.dtype == jnp.float32
