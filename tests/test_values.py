"""Values: LAPACK's test ratios, agreement with NumPy and SciPy, hostile matrices."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import jaxqr
from matrices import (
    DTYPES,
    FACTORIZATIONS,
    LIMIT,
    SHAPES,
    normal,
    orthogonality_ratio,
    residual_ratio,
)


def factors(name, a, mode="reduced", **options):
    """Q with orthonormal columns, R, and the matrix that is their product, for qr and lq alike."""
    out = getattr(jaxqr, name)(a, mode, **options)
    a = np.asarray(a)
    if name == "lq":
        a = np.swapaxes(a, -1, -2)
        q, r = np.swapaxes(out.Q, -1, -2), np.swapaxes(out.L, -1, -2)
    else:
        q, r = np.asarray(out.Q), np.asarray(out.R)
    if options.get("pivoting"):
        p = np.asarray(out.P)
        assert p.dtype == np.int32
        assert np.array_equal(np.sort(p, axis=-1), np.broadcast_to(np.arange(a.shape[-1]), p.shape))
        a = np.take_along_axis(a, p[..., None, :], -1)
    return q, r, a


def assert_factors(name, a, mode="reduced", **options):
    """The laws of a factorization, by LAPACK's ratios."""
    q, r, a = factors(name, a, mode, **options)
    k = min(a.shape[-2:])
    columns = a.shape[-2] if mode == "complete" else k
    assert q.shape == (*a.shape[:-1], columns)
    assert r.shape == (*a.shape[:-2], columns, a.shape[-1])
    assert q.dtype == r.dtype == a.dtype
    wide = np.result_type(a.dtype, np.float64)
    assert residual_ratio(a, q.astype(wide) @ r.astype(wide)) < LIMIT
    assert orthogonality_ratio(q) < LIMIT
    assert np.all(np.tril(r, -1) == 0)
    diagonal = np.diagonal(r, axis1=-2, axis2=-1)
    assert np.all(diagonal.imag == 0)
    if options.get("pivoting"):
        sizes, info = np.abs(diagonal), np.finfo(a.dtype)
        # denormal numbers, which some platforms flush, are in no order
        assert np.all(sizes[..., 1:] <= sizes[..., :-1] * (1 + 10 * info.eps) + info.tiny)
    if options.get("positive_diagonal"):
        assert np.all(diagonal.real >= 0)


@pytest.mark.parametrize("shape", [*SHAPES, (2, 3, 7, 4), (20, 4, 4)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FACTORIZATIONS)
def test_the_factorization_exists(name, dtype, shape):
    a = normal(shape, dtype)
    for mode, pivoting, positive in itertools.product(
        ("reduced", "complete"), (False, True), (False, True)
    ):
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
        columns = rows if mode == "complete" else min(shape[-2:])
        assert np.array_equal(q, np.broadcast_to(np.eye(rows, columns), q.shape))
        assert r.size == 0 or mode == "complete" or shape[0] == 0
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


def hostile(n, dtype):
    """Matrices that break a careless factorization, by name."""
    info = np.finfo(dtype)
    rng = np.random.default_rng(0)
    base = normal((n, n), dtype)
    kahan_c = 0.285
    kahan_s = np.sqrt(1 - kahan_c**2)
    i = np.arange(n)
    graded = float(info.eps) ** (2 * i / n)
    return {
        "zero": np.zeros((n, n), dtype),
        "identity": np.eye(n, dtype=dtype),
        "ones": np.ones((n, n), dtype),
        "rank one": np.outer(base[0], base[1]).astype(dtype),
        "rank two": (base[:, :2] @ base[:2]).astype(dtype),
        "zero column": np.where(i == n // 2, 0, base).astype(dtype),
        "upper": np.triu(base),
        "graded columns": (base * graded).astype(dtype),
        "graded rows": (base * graded[:, None]).astype(dtype),
        "columns 1e-30 apart": (base * np.where(i % 2, 1, 1e-30)).astype(dtype),
        "kahan": (np.diag(kahan_s**i) @ (np.eye(n) - kahan_c * np.triu(np.ones((n, n)), 1))).astype(
            dtype
        ),
        "hilbert": (1 / (i[:, None] + i + 1)).astype(dtype),
        "shuffled orthogonal": np.linalg.qr(base.astype(np.complex128))[0].real.astype(dtype)[
            rng.permutation(n)
        ],
        "huge": (base / np.abs(base).max() * (float(info.max) / (4 * n))).astype(dtype),
        "nearly huge": (base * (float(info.max) ** 0.97 / n)).astype(dtype),
        "tiny": (base / np.abs(base).min() * float(info.tiny)).astype(dtype),
        "small": (base * float(info.tiny) ** 0.9).astype(dtype),
    }


@pytest.mark.parametrize("pivoting", [False, True])
@pytest.mark.parametrize("name", FACTORIZATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
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
        wide = np.result_type(dtype, np.float64)
        product = np.asarray(q).astype(wide) @ np.triu(h.mT[:4]).astype(wide)
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
def test_large_batches_and_large_matrices(dtype):
    assert_factors("qr", normal((20000, 2, 2), dtype))
    assert_factors("lq", normal((20000, 2, 3), dtype), pivoting=True)
    assert_factors("qr", normal((2048, 2048), dtype))
    assert_factors("qr", normal((4096, 16), dtype), pivoting=True)
    assert_factors("lq", normal((16, 2048), dtype))


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
