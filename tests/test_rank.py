"""Derivatives where columns depend on each other: finite, and true where there is a truth."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from laws import MODES, differences, differentiable, mostly_nightly, pairing, relative_error
from matrices import DEFICIENT, DTYPES, FACTORIZATIONS, adjoint, deficient, normal

EVERY_MODE = [*itertools.product(DTYPES, FACTORIZATIONS, MODES, (False, True))]


@pytest.mark.parametrize("dtype, name, mode, pivoting", mostly_nightly(EVERY_MODE, 5))
def test_derivatives_are_finite_at_every_rank(dtype, name, mode, pivoting):
    # one batch for all: eager derivatives of second order are what costs time here
    function = differentiable(name, mode, pivoting)
    for shape in ((6, 4), (4, 6)):
        a = np.stack([deficient(kind, shape, dtype) for kind in DEFICIENT])
        da = normal(a.shape, dtype, seed=7)
        limit = 1e7 if a.dtype.char in "dD" else 1e5

        @jax.jit
        def everything(a, da, function=function):
            out, tangents = jax.jvp(function, (a,), (da,))
            cotangents = tuple(jnp.ones_like(x) for x in out)

            def gradient(a):
                return jax.vjp(function, a)[1](cotangents)[0]

            return cotangents, tangents, *jax.jvp(gradient, (a,), (da,))

        cotangents, tangents, cotangent, second = everything(a, da)
        for x in (*tangents, cotangent):
            assert np.isfinite(x).all()
            assert np.abs(x).max() < limit  # not the reciprocal of rounding noise
        assert np.isfinite(second).all()
        pair, scale = pairing(cotangents, tangents), pairing([np.abs(cotangent)], [np.abs(da)])
        assert abs(pair - pairing([cotangent], [da])) < 1e4 * np.finfo(dtype).eps * scale


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("shape", [(7, 4), (5, 5), (4, 7)])
@pytest.mark.parametrize("rank", [1, 2])
def test_pivoted_derivatives_are_true_on_the_set_of_equal_rank(rank, shape, dtype):
    """Along a curve of matrices of one rank, all that depends on the range or on R^H R."""
    m, n = shape
    left, right = normal((m, rank), dtype, 1), normal((rank, n), dtype, 2) * 3.0 ** np.arange(n)
    dleft, dright = normal((m, rank), dtype, 3), normal((rank, n), dtype, 4)
    p = np.asarray(jaxqr.qr(left @ right, pivoting=True).P)

    def curve(t):
        return (left + t * dleft) @ (right + t * dright)

    def invariants(a):
        q, r, got = jaxqr.qr(a, pivoting=True)
        gram = (r.conj().T @ r)[:, jnp.argsort(got)][jnp.argsort(got)]
        q, r = q[:, :rank], r[:rank]
        return q @ q.conj().T, gram, r, q

    a, da = curve(0.0), dleft @ right + left @ dright
    _, tangents = jax.jvp(invariants, (a,), (da,))
    h = 1e-5
    # the order of columns beyond the rank is rounding's: compare what does not hang on it
    for i in (0, 1):
        low, high = (invariants(curve(t))[i] for t in (-h, h))
        assert relative_error(tangents[i], (high - low) / (2 * h)) < 1e-6
    leading = [jaxqr.qr(curve(t)[:, p[:rank]]) for t in (-h, h)]
    assert relative_error(tangents[3], (leading[1].Q - leading[0].Q) / (2 * h)) < 1e-6


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_a_function_of_the_gram_matrix_is_true_in_every_direction(dtype):
    """(8.4): square-root filters need the derivative off the set of equal rank."""
    a = deficient("rank two", (6, 4), dtype)
    da = normal((6, 4), dtype, seed=5)

    def gram(a):
        r, p = jaxqr.qr(a, "r", pivoting=True)
        r = r[:, jnp.argsort(p)]
        return r.conj().T @ r

    _, tangent = jax.jvp(gram, (a,), (da,))
    np.testing.assert_allclose(tangent, adjoint(da) @ a + adjoint(a) @ da, atol=1e-12)
    weight = normal((4, 4), dtype, seed=6)
    (gradient,) = jax.vjp(gram, a)[1](weight)
    assert abs(pairing([weight], [tangent]) - pairing([gradient], [da])) < 1e-11


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pivoting", [False, True])
def test_badly_scaled_independent_columns_keep_their_derivatives(dtype, pivoting):
    """(8.3): metres beside gigahertz. Scaling columns by powers of two must be exact."""
    power = 20 if np.dtype(dtype).itemsize // (2 if dtype[0] == "c" else 1) == 4 else 100
    a, da = normal((6, 4), dtype) * 2.0 ** np.arange(0, -12, -3), normal((6, 4), dtype, seed=1)
    scale = (2.0 ** -(power * np.arange(4))).astype(np.finfo(dtype).dtype)
    function = differentiable("qr", "reduced", pivoting)
    _, (dq, dr) = jax.jvp(function, (a.astype(dtype),), (da,))
    _, (dq_scaled, dr_scaled) = jax.jvp(
        function, ((a * scale).astype(dtype),), ((da * scale).astype(dtype),)
    )
    tolerance = 1e3 * np.finfo(dtype).eps
    np.testing.assert_allclose(dq_scaled, dq, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(np.asarray(dr_scaled) / scale, dr, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_derivatives_do_not_depend_on_the_exponent(dtype, shape):
    """(8.8): at the ends of the exponent range they are those of the scaled matrix."""
    info = np.finfo(dtype)
    a, da = normal(shape, dtype), normal(shape, dtype, seed=1)
    function = differentiable("qr", "reduced")
    expected_q, expected_r = jax.jvp(function, (a,), (da,))[1]
    ones = tuple(np.ones(x.shape, dtype) for x in function(a))
    zeros = tuple(np.zeros(x.shape, dtype) for x in function(a))
    (expected,) = jax.vjp(function, a)[1]((zeros[0], ones[1]))
    for exponent in (info.maxexp - 6, info.minexp + 12):
        scale = 2.0**exponent
        dq, dr = jax.jvp(function, ((a * scale).astype(dtype),), ((da * scale).astype(dtype),))[1]
        tolerance = 1e3 * info.eps
        np.testing.assert_allclose(dq, expected_q, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(
            np.asarray(dr) / scale, expected_r, rtol=tolerance, atol=tolerance * 10
        )
        (gradient,) = jax.vjp(function, (a * scale).astype(dtype))[1]((zeros[0], ones[1]))
        np.testing.assert_allclose(gradient, expected, rtol=tolerance, atol=tolerance)


def test_a_zero_column_that_stays_zero_is_differentiated():
    a, da = normal((6, 4)), normal((6, 4), seed=1)
    a[:, 0] = da[:, 0] = 0
    function = differentiable("qr", "reduced")
    _, tangents = jax.jvp(function, (a,), (da,))
    for tangent, difference in zip(tangents, differences(function, a, da), strict=True):
        assert relative_error(tangent, difference) < 1e-8


def test_what_stands_before_a_dependent_column_is_true():
    a, da = normal((6, 4)), normal((6, 4), seed=1)
    a[:, 2] = a[:, 0] + a[:, 1]
    function = differentiable("qr", "reduced")
    _, (dq, dr) = jax.jvp(function, (a,), (da,))
    fd_q, fd_r = differences(function, a, da, 1e-6)
    assert relative_error(dq[:, :2], fd_q[:, :2]) < 1e-8
    # and what a dependent column has in common with the columns before it
    assert relative_error(dr[:2, :3], fd_r[:2, :3]) < 1e-8


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_complete_mode_at_tau_zero(dtype):
    """Section 4 at eye(4)[:, :2], where LAPACK's completion jumps and JAX's derivative is NaN."""
    a, da = np.eye(4, 2, dtype=dtype), normal((4, 2), dtype)

    def complete(a):
        return tuple(jaxqr.qr(a, "complete"))

    (q, _), (dq, dr) = jax.jvp(complete, (a,), (da,))
    skew = adjoint(np.asarray(q)) @ dq
    np.testing.assert_allclose(skew, -adjoint(skew), atol=1e-14)  # (ii)

    def projector(a):  # (iii): true for the projector onto the complement
        q = jaxqr.qr(a, "complete").Q[:, 2:]
        return q @ q.conj().T

    _, tangent = jax.jvp(projector, (a,), (da,))
    expected = differences(lambda a: (projector(a),), a, da)[0]
    assert relative_error(tangent, expected) < 1e-9
    # (i): the thin factors are those of the sign-continued QR
    thin = differentiable("qr", "reduced", positive_diagonal=True)
    expected_q, expected_r = differences(thin, a, da)
    assert relative_error(dq[:, :2], expected_q) < 1e-9
    assert relative_error(dr[:2], expected_r) < 1e-9
    assert np.isfinite(jax.jacrev(lambda a: jaxqr.qr(a, "complete").Q.real)(a)).all()


@pytest.mark.parametrize("pivoting", [False, True])
def test_joint_and_single_outputs_agree(pivoting):
    """The shorter rules for R alone and Q alone are the same derivative, dependent columns too."""
    a, da = np.stack([deficient(kind, (6, 4)) for kind in DEFICIENT]), normal((6, 6, 4), seed=3)
    both = differentiable("qr", "reduced", pivoting)
    _, (dq, dr) = jax.jvp(both, (a,), (da,))
    _, (only_r,) = jax.jvp(differentiable("qr", "triangle", pivoting), (a,), (da,))
    np.testing.assert_allclose(only_r, dr, atol=1e-12)
    (gradient,) = jax.vjp(both, a)[1]((jnp.ones_like(dq), jnp.ones_like(dr)))
    (of_q,) = jax.vjp(lambda a: both(a)[0], a)[1](jnp.ones_like(dq))
    (of_r,) = jax.vjp(lambda a: both(a)[1], a)[1](jnp.ones_like(dr))
    np.testing.assert_allclose(of_q + of_r, gradient, atol=1e-12)
