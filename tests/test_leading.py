"""Leading pivots only: the factors of so many columns, and what they say of the others."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg.interpolative
from jax import export

import jaxqr
from laws import assert_differentiable, mostly_nightly, relative_error
from matrices import (
    DTYPES,
    LIMIT,
    double,
    normal,
    of_rank,
    orthogonality_ratio,
    residual_ratio,
    separated,
)
from meshes import mesh_of, put

PIVOTINGS = (True, "randomized")
CASES = itertools.product(((7, 4), (4, 7), (5, 5), (9, 40, 30), (700, 650)), PIVOTINGS, DTYPES)


def factor(name, a, rank, pivoting=True, **options):
    """Q, R and P of the matrix, or of its transpose for lq."""
    found = getattr(jaxqr, name)(a, pivoting=pivoting, rank=rank, **options)
    if name == "lq":
        return found.Q.mT, found.L.mT, found.P
    return found


@pytest.mark.parametrize("shape, pivoting, dtype", mostly_nightly(CASES, 4))
def test_leading_pivots_are_those_of_the_whole_factorization(shape, pivoting, dtype):
    a = normal(shape, dtype)
    rank = min(shape[-2:]) // 2
    for name in ("qr", "lq"):
        q, r, p = factor(name, a, rank, pivoting)
        x = a if name == "qr" else a.mT
        m, n = x.shape[-2:]
        assert (q.shape, r.shape) == ((*x.shape[:-2], m, rank), (*x.shape[:-2], rank, n))
        assert p.dtype == np.int32 and q.dtype == r.dtype == a.dtype
        assert np.array_equal(np.sort(p), np.broadcast_to(np.arange(n), p.shape))
        permuted = np.take_along_axis(x, np.asarray(p)[..., None, :], -1)
        leading, others = permuted[..., :rank], permuted[..., rank:]
        assert residual_ratio(leading, double(q) @ double(r[..., :rank])) < LIMIT
        assert orthogonality_ratio(q) < LIMIT
        assert (
            residual_ratio(
                others,
                others + double(q) @ (double(r[..., rank:]) - double(q).mT.conj() @ double(others)),
            )
            < LIMIT
        )
        assert np.all(np.tril(r, -1) == 0) and np.all(np.diagonal(r, 0, -2, -1).imag == 0)
        if pivoting is True and x.shape[-1] < 100:  # of large ones rounding may decide
            whole = factor(name, a, min(m, n))
            assert np.array_equal(p[..., :rank], whole[2][..., :rank])


@pytest.mark.parametrize("name", ["qr", "lq"])
def test_leading_pivots_have_the_derivatives_of_the_chosen_columns(name):
    for shape in ((7, 5), (5, 7)):
        a, da = separated(shape), normal(shape, seed=3)
        assert_differentiable(lambda a: factor(name, a, 3)[:2], a, da)


def test_leading_pivots_compose_with_vmap_jit_and_a_positive_diagonal():
    a = normal((3, 6, 5), "complex64")
    mapped = jax.jit(jax.vmap(lambda a: jaxqr.qr(a, pivoting=True, rank=2, positive_diagonal=True)))
    q, r, p = mapped(a)
    assert np.all(np.diagonal(r, 0, -2, -1).real > 0)
    expected = jaxqr.qr(a, pivoting=True, rank=2, positive_diagonal=True)
    assert all(np.allclose(x, y, atol=1e-5) for x, y in zip((q, r, p), expected, strict=True))
    triangle = jaxqr.qr(a, "r", pivoting=True, rank=2, positive_diagonal=True)
    assert np.allclose(triangle.R, r, atol=1e-5) and np.array_equal(triangle.P, p)


def test_rank_zero_and_full_rank():
    for shape in ((5, 3), (3, 5), (2, 0, 3)):
        a = normal(shape)
        for name in ("qr", "lq"):
            q, r, p = factor(name, a, 0)
            assert q.size == r.size == 0
            assert np.array_equal(p, np.broadcast_to(np.arange(p.shape[-1]), p.shape))
            found, whole = factor(name, a, min(shape[-2:])), factor(name, a, None)
            assert all(map(np.array_equal, found, whole))


def test_rank_zero_keeps_a_batch_where_it_is():
    with mesh_of("explicit", (2,)) as mesh:
        (a,) = put(mesh, normal((4, 5, 3)))
        for x in factor("qr", a, 0):
            assert x.sharding.is_equivalent_to(a.sharding, x.ndim)


def test_a_rank_of_symbolic_sizes_needs_a_constraint():
    (m,) = export.symbolic_shape("m")
    f = jax.jit(lambda a: jaxqr.qr(a, pivoting=True, rank=2).Q)
    with pytest.raises(ValueError, match="qr: rank must be known to be at most min"):
        export.export(f)(jax.ShapeDtypeStruct((m, 4), "float64"))
    (m,) = export.symbolic_shape("m", constraints=["m >= 3"])
    unchecked = [export.DisabledSafetyCheck.custom_call("lapack_dgeqp3_ffi")]
    exported = export.export(f, disabled_checks=unchecked)(jax.ShapeDtypeStruct((m, 4), "float64"))
    a = normal((6, 4))
    np.testing.assert_allclose(exported.call(a), f(a), atol=1e-12)


def test_more_pivots_than_the_rank_are_finite_and_so_are_their_derivatives():
    a = jnp.asarray(of_rank(2, (6, 5)))
    q, r, _ = jaxqr.qr(a, pivoting=True, rank=4)
    assert orthogonality_ratio(q) < LIMIT
    assert np.abs(r[2:]).max() < 1e-13
    assert np.isfinite(jax.grad(lambda a: jaxqr.qr(a, pivoting=True, rank=4).Q.sum())(a)).all()
    coefficients = jaxqr.interpolative(a, rank=4).coefficients
    assert np.abs(coefficients).max() < 1e3


def test_nan_makes_its_own_matrix_nan():
    a = normal((3, 40, 30))
    a[1, 2, 3] = np.nan
    q, r, _ = jaxqr.qr(a, pivoting=True, rank=4)
    c = jaxqr.interpolative(a, rank=4).coefficients
    for x in (q, np.triu(np.where(np.tril(np.ones((4, 30)), -1), 1, r)), c):
        assert np.isnan(x).any(axis=(1, 2)).tolist() == [False, True, False]


# -------------------------------------------------------------------- interpolative decomposition


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_a_decomposition_is_as_good_as_scipys(dtype):
    a = separated((20, 15), dtype)
    columns, c = jaxqr.interpolative(a, rank=6)
    order, projection = scipy.linalg.interpolative.interp_decomp(a, 6, rand=False)
    theirs = np.concatenate([np.eye(6), projection], axis=1)[:, np.argsort(order)]
    ours = np.linalg.norm(a - a[:, columns] @ c)
    assert ours < 1.01 * np.linalg.norm(a - a[:, order[:6]] @ theirs)
    assert np.array_equal(c[:, columns], np.eye(6))


@pytest.mark.parametrize("pivoting", PIVOTINGS)
def test_a_tolerance_takes_as_many_columns_as_any_matrix_of_the_batch_needs(pivoting):
    a = np.stack([of_rank(2, (20, 15)), of_rank(4, (20, 15))])
    columns, c = jaxqr.interpolative(a, tol=1e-10, pivoting=pivoting)
    assert columns.shape == (2, 4)
    chosen = np.take_along_axis(a, np.asarray(columns)[:, None], -1)
    assert relative_error(chosen @ c, a) < 1e-12
    assert jaxqr.interpolative(a[:0], tol=1e-10).columns.shape == (0, 0)
    assert jaxqr.interpolative(0 * a, tol=0.1).coefficients.shape == (2, 0, 15)


@pytest.mark.parametrize("shape", [(7, 5), (4, 6)])
def test_coefficients_are_differentiable_with_the_columns_held(shape):
    a, da = separated(shape), normal(shape, seed=3)
    assert_differentiable(lambda a: (jaxqr.interpolative(a, rank=3).coefficients,), a, da)


def test_a_tolerance_works_while_a_gradient_is_taken():
    a = separated((6, 5))
    by_tolerance, by_rank = (
        jax.grad(lambda a, o=options: jaxqr.interpolative(a, **o).coefficients.sum())(a)
        for options in ({"tol": 0.2}, {"rank": jaxqr.interpolative(a, tol=0.2).columns.size})
    )
    assert np.array_equal(by_tolerance, by_rank)


# ----------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("name", ["qr", "lq"])
def test_a_rank_that_cannot_be_had_is_an_error(name):
    f, a = getattr(jaxqr, name), np.eye(4, 3)
    with pytest.raises(ValueError, match=f"{name}: a rank needs pivoting and .* got rank 2 with"):
        f(a, rank=2)
    for mode in ("complete", "raw"):
        with pytest.raises(ValueError, match=f"{name}: a rank needs .* and mode '{mode}'"):
            f(a, mode, pivoting=True, rank=2)
    for rank in (-1, 4, True):
        with pytest.raises(ValueError, match=f"{name}: rank must be .*(0|= 3), got {rank}"):
            f(a, pivoting=True, rank=rank)
    with pytest.raises(TypeError, match=f"{name}: rank must be an integer .*got float"):
        f(a, pivoting=True, rank=2.0)


def test_a_decomposition_that_cannot_be_had_is_an_error():
    a = np.eye(4, 3)
    for options in ({}, {"rank": 1, "tol": 0.1}):
        with pytest.raises(ValueError, match="interpolative: give either rank or tol, got rank"):
            jaxqr.interpolative(a, **options)
    for tol in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="interpolative: tol must be finite and not below 0"):
            jaxqr.interpolative(a, tol=tol)
    for tol in ("x", True, jnp.ones(2)):
        with pytest.raises(TypeError, match="interpolative: tol must be a number"):
            jaxqr.interpolative(a, tol=tol)
    with pytest.raises(ValueError, match="interpolative: rank must be given where a is traced"):
        jax.jit(lambda a: jaxqr.interpolative(a, tol=0.1))(a)
    with pytest.raises(ValueError, match="interpolative: pivoting must be one of"):
        jaxqr.interpolative(a, rank=1, pivoting=False)
    with mesh_of("explicit", (2,)) as mesh:
        (rows,) = put(mesh, a)
        with pytest.raises(ValueError, match="interpolative: the last 2 dimension"):
            jaxqr.interpolative(rows, rank=1)


def test_derivatives_of_an_interpolative_decomposition_of_rank_one():
    a, da = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    (column,) = jaxqr.interpolative(a, rank=1).columns

    def expected(a):
        return (a[:, column] @ a / (a[:, column] @ a[:, column]))[None]

    ours = jax.jvp(lambda a: jaxqr.interpolative(a, rank=1).coefficients, (a,), (da,))[1]
    np.testing.assert_allclose(ours, jax.jvp(expected, (a,), (da,))[1], atol=1e-5)


def test_interpolative_of_a_batch_sharded_over_an_explicit_mesh():
    a = normal((2, 5, 4), "float32")
    with mesh_of("explicit", (2,)) as mesh:
        (sharded,) = put(mesh, a)
        found = jaxqr.interpolative(sharded, rank=2).coefficients
    np.testing.assert_allclose(found, jaxqr.interpolative(a, rank=2).coefficients, atol=1e-5)


def test_an_integer_tol_too_large_for_a_float_is_refused():
    with pytest.raises(ValueError, match="interpolative: tol must be finite"):
        jaxqr.interpolative(np.eye(2), tol=10**400)
