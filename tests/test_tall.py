"""Tall matrices by tiles of rows: Q and R are LAPACK's, signs included, and so are reflectors."""

import itertools
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from foreign_platform import difference
from jaxqr._factor.packed import orgqr_p
from jaxqr._factor.qr_primitive import factor
from jaxqr._factor.shapes import factor_scaled
from jaxqr._factor.tall import factor_tall
from jaxqr._lowering.reconstruction import find_lapack_signs, reconstruct
from laws import mostly_nightly, quickly
from matrices import (
    DEFICIENT,
    DTYPES,
    LIMIT,
    adjoint,
    deficient,
    double,
    normal,
    orthogonality_ratio,
    residual_ratio,
)

ROWS = 64  # of a tile; so the small matrices here have two or three levels
OUTPUTS = ("q", "r", "h", "tau")


def tall(a, *outputs):
    """As on CUDA: more columns than a panel has are scaled beforehand."""
    compute = partial(factor_tall, outputs=outputs, factor=factor, rows=ROWS)
    values = compute(a) if a.shape[-1] <= 32 else factor_scaled(a, compute)
    return [values[name] for name in outputs]


def all_of(a):
    return quickly(lambda a: tall(a, *OUTPUTS), a)


# ------------------------------------------------------------------------------ LAPACK's results

SHAPES = [(2, 200, 5), (129, 32), (4096, 3), (500, 45), (2, 1, 130, 64), (96, 1)]


@pytest.mark.parametrize("shape, dtype", mostly_nightly(itertools.product(SHAPES, DTYPES), 5))
def test_factors_are_lapacks(shape, dtype):
    a = normal(shape, dtype)
    assert difference(all_of(a), factor(jnp.asarray(a), *OUTPUTS)) < 100


@pytest.mark.parametrize("shape", [(2, 200, 5), (200, 45)])
def test_the_triangle_is_the_same_without_q(shape):
    a = normal(shape, "complex128")
    assert difference(quickly(lambda a: tall(a, "r"), a), factor(jnp.asarray(a), "r")) < 100


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_an_upper_triangle_stays_as_lapack_leaves_it(dtype):
    """With tau = 0 where the diagonal is real: Q is the identity, and R keeps its signs."""
    a = np.triu(normal((300, 20), dtype))
    a[:, 7:9] = 0
    np.fill_diagonal(a, np.diagonal(a).real)
    q, r, h, tau = all_of(a)
    np.testing.assert_array_equal(q, np.eye(300, 20))
    np.testing.assert_array_equal(r, a[:20])
    np.testing.assert_array_equal(h, a)
    np.testing.assert_array_equal(tau, 0)


def test_a_first_entry_of_zero_counts_as_positive():
    a = normal((2, 300, 4))
    a[:, 0, 0] = 0
    got, want = all_of(a), factor(jnp.asarray(a), *OUTPUTS)
    assert np.all(got[1][:, 0, 0] < 0)
    assert difference(got, want) < 100


# ----------------------------------------------------------------------------- hostile matrices


def hostile(m, n, dtype):
    info, a = np.finfo(dtype), normal((m, n), dtype)
    grades = float(info.tiny) ** (0.8 * np.arange(n) / n)
    found = {kind: deficient(kind, (m, n), dtype) for kind in DEFICIENT}
    found["two tiles alone"] = np.where(np.arange(m)[:, None] // ROWS % 3 == 1, a, 0)
    found["graded columns"] = a * grades[np.random.default_rng(0).permutation(n)]
    found["graded rows"] = a * (float(info.tiny) ** (0.8 * np.arange(m) / m))[:, None]
    found["huge"] = a / np.abs(a).max() * (float(info.max) / (4 * m))
    found["tiny"] = a / np.abs(a).min() * float(info.tiny)
    return {name: x.astype(dtype) for name, x in found.items()}


@pytest.mark.parametrize("n, dtype", mostly_nightly(itertools.product((5, 40), DTYPES), 3))
def test_hostile_matrices_have_a_factorization(n, dtype):
    matrices = hostile(300, n, dtype)
    q, r, h, tau = map(np.asarray, all_of(np.stack([*matrices.values()])))
    (formed,) = quickly(orgqr_p.bind, h, tau)
    for i, (name, a) in enumerate(matrices.items()):
        graded = name == "graded columns"  # each is right for itself
        size = np.abs(a).max(axis=0) if graded else np.ones_like(a[0].real)
        for columns in (q[i], np.asarray(formed[i])):
            assert orthogonality_ratio(columns) < LIMIT, name
            product = double(columns) @ (double(r[i]) / size)
            assert residual_ratio(a / size, product) < LIMIT, name
        np.testing.assert_array_equal(np.tril(r[i], -1), 0, err_msg=name)


@pytest.mark.parametrize("n", [4, 40])
def test_nan_stays_in_its_matrix(n):
    a = normal((2, 300, n))
    want = all_of(a)
    for bad in (np.nan, np.inf):
        a[0, 200, 1] = bad
        q, r, h, tau = all_of(a)
        assert np.isnan(q[0]).all() and np.isnan(r[0][np.triu_indices(n)]).all()
        for got, clean in zip((q, r, h, tau), want, strict=True):
            np.testing.assert_array_equal(got[1], clean[1])


# --------------------------------------------------------------------------------------- signs


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_signs_and_reflectors_are_found_of_any_orthonormal_columns(dtype):
    a = normal((3, 40, 6), dtype)
    q, r, h, tau = map(np.asarray, factor(jnp.asarray(a), *OUTPUTS))
    turned = np.where(np.random.default_rng(0).random((3, 6)) < 0.5, -1.0, 1.0).astype(r.real.dtype)
    beta = turned * np.diagonal(r, axis1=-2, axis2=-1).real
    signs, lu = find_lapack_signs(jnp.asarray(q[:, :6] * turned[:, None, :]), jnp.asarray(beta))
    np.testing.assert_array_equal(signs, turned)
    v, t = map(np.asarray, reconstruct(jnp.asarray(q), lu))
    assert difference(np.tril(v, -1), np.tril(h, -1)) < 100
    assert difference(np.diagonal(t, axis1=-2, axis2=-1), tau) < 100
    identity = np.eye(40, 6, dtype=dtype)
    assert difference(identity - v @ t @ adjoint(v)[..., :6], q) < 100
