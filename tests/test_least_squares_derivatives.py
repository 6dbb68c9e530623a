"""Derivatives of least squares against central differences, and the modes against each other."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import jaxqr
from laws import STEP, fourth_order, mostly_nightly, pairing, relative_error
from least_squares import LOW_RANKS, SHAPES, expected, loss
from matrices import DEFICIENT, adjoint, deficient, normal, of_rank
from meshes import mesh_of

DTYPES = ("float64", "complex128")

pytestmark = pytest.mark.usefixtures("fast_compilation")


def straight(shape, dtype):
    """A line of matrices of full rank, t to a, and its direction at 0."""
    a, da = normal(shape, dtype), normal(shape, dtype, seed=3)
    return lambda t: a + t * da, da


def equal_rank(rank, shape, dtype):
    """A curve of matrices of one rank, whatever it is: t to exp(t L) a exp(t R)."""
    *_, m, n = shape
    a = of_rank(rank, shape, dtype)
    left, right = 0.1 * normal((m, m), dtype, seed=4), 0.1 * normal((n, n), dtype, seed=5)

    def curve(t):
        return scipy.linalg.expm(t * left) @ a @ scipy.linalg.expm(t * right)

    return curve, left @ a + a @ right


def differences(function):
    """Central differences at 0 of a function of a number to arrays of NumPy's."""
    values = zip(*(function(t * STEP) for t in (-2, -1, 1, 2)), strict=True)
    return list(map(fourth_order, values))


def check(curve, da, b, db, tolerance, pivoting=True):
    """Tangents of x and of the residuals against NumPy's differences; cotangents by pairing."""
    a = curve(0.0)

    def solve(a, b):
        return jaxqr.lstsq(a, b, pivoting=pivoting)[:2]

    @jax.jit
    def everything(a, b, da, db, cotangents):
        _, tangents = jax.jvp(solve, (a, b), (da, db))
        return tangents, jax.vjp(solve, a, b)[1](cotangents)

    x, residuals = expected(a, b)
    cotangents = normal(x.shape, x.dtype, seed=7), normal(residuals.shape, seed=8)
    tangents, gradients = everything(a, b, da, db, cotangents)
    for got, want in zip(
        tangents, differences(lambda t: expected(curve(t), b + t * db)), strict=True
    ):
        assert relative_error(got, want) < tolerance
    pair, scale = pairing(cotangents, tangents), pairing(np.abs(gradients[0]), np.abs(da))
    assert abs(pair - pairing(gradients, (da, db))) < 1e-9 * max(1, abs(scale))


FULL = [*itertools.product(SHAPES, DTYPES, [(1, True), (4, True), (4, False)])]


@pytest.mark.parametrize("shape, dtype, s_pivoting", mostly_nightly(FULL, 2), ids=str)
def test_full_rank(shape, dtype, s_pivoting):
    s, pivoting = s_pivoting
    curve, da = straight((2, *shape), dtype)
    b, db = (normal((2, shape[0], s), dtype, seed) for seed in (1, 2))
    check(curve, da, b, db, 1e-6, pivoting)


@pytest.mark.parametrize(
    "shape, rank, dtype",
    mostly_nightly(
        [(*case, dtype) for dtype in DTYPES for case in LOW_RANKS],
        lambda shape, rank, dtype: (rank == 1) == (dtype == "float64"),
    ),
    ids=str,
)
def test_low_rank_along_matrices_of_equal_rank(shape, rank, dtype):
    curve, da = equal_rank(rank, (2, *shape), dtype)
    b, db = (normal((2, shape[0], 2), dtype, seed) for seed in (11, 12))
    check(curve, da, b, db, 1e-5)


@pytest.mark.parametrize("operand", [0, 1], ids=["a", "b"])
def test_one_operand_alone_has_its_part_of_the_derivative(operand):
    a, b = of_rank(2, (6, 4)), normal((6, 2), seed=1)
    args, tangents = [a, b], [normal((6, 4), seed=2), normal((6, 2), seed=3)]
    zeros = [jnp.zeros_like(t) for t in tangents]
    zeros[operand] = tangents[operand]
    solve = lambda a, b: jaxqr.lstsq(a, b)[:2]  # noqa: E731
    want = jax.jvp(solve, args, zeros)[1]

    def alone(z):
        return solve(*(z if i == operand else arg for i, arg in enumerate(args)))

    got = jax.jvp(alone, (args[operand],), (tangents[operand],))[1]
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-12)


# -------------------------------------------------------------------------- degenerate matrices


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("shape", [(6, 4), (5, 5), (4, 6)], ids=str)
def test_gradients_of_degenerate_matrices_are_those_of_golub_and_pereyra(shape, dtype):
    """(9.6) with the pseudo-inverse by singular values; for the zero matrix it is zero."""
    u, _, v = np.linalg.svd(normal(shape, dtype), full_matrices=False)
    a = np.stack([*(deficient(kind, shape, dtype) for kind in DEFICIENT), 2 * u @ v])
    b = normal((len(a), shape[0], 2), dtype, seed=1)
    xbar = normal((len(a), shape[1], 2), dtype, seed=2)
    rbar = normal((len(a), 2), seed=3)
    inverse = np.linalg.pinv(a, rcond=1e-10)
    x = inverse @ b
    rest, z = b - a @ x, adjoint(inverse) @ xbar
    beyond = xbar - inverse @ (a @ xbar)
    abar = rest @ adjoint(inverse @ z) + (adjoint(inverse) @ x) @ adjoint(beyond) - z @ adjoint(x)
    abar -= 2 * (rest * rbar[:, None]) @ adjoint(x)  # (9.10)
    bbar = z + 2 * rest * rbar[:, None]

    def gradients(a, b):
        return jax.vjp(lambda a, b: jaxqr.lstsq(a, b)[:2], a, b)[1]((xbar.conj(), rbar))

    # JAX pairs without conjugation
    got, second = jax.jit(lambda a, b: jax.jvp(gradients, (a, b), (a, b)))(a, b)
    np.testing.assert_allclose(got[0], abar.conj(), atol=1e-11)
    np.testing.assert_allclose(got[1], bbar.conj(), atol=1e-11)
    np.testing.assert_array_equal(got[0][0], 0)
    assert all(np.isfinite(z).all() for z in second)


# ------------------------------------------------------------------------------- second order


CURVED = [((6, 3), 3), ((4, 4), 4), ((3, 6), 3), ((6, 4), 2), ((4, 4), 2), ((4, 6), 2)]


@pytest.mark.parametrize(
    "shape_rank, dtype", mostly_nightly(itertools.product(CURVED, DTYPES), 3), ids=str
)
def test_hessian_vector_products_equal_differences_of_gradients(shape_rank, dtype):
    shape, rank = shape_rank
    full = rank == min(shape)
    curve, da = straight(shape, dtype) if full else equal_rank(rank, shape, dtype)
    b, db = normal((shape[0], 2), dtype, seed=1), normal((shape[0], 2), dtype, seed=2)
    gradient = jax.jit(jax.grad(loss, (0, 1)))
    a = curve(0.0)
    _, products = jax.jit(lambda *args: jax.jvp(gradient, args[:2], args[2:]))(a, b, da, db)
    want = differences(lambda t: map(np.asarray, gradient(curve(t), b + t * db)))
    for got, difference in zip(products, want, strict=True):
        assert relative_error(got, difference) < 1e-6


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)], ids=str)
def test_jacobians_agree_and_the_hessian_is_symmetric(shape):
    a, b = normal(shape), normal(shape[:1], seed=1)

    @jax.jit
    def derivatives(a, b):
        solve = lambda a, b: jaxqr.lstsq(a, b)[:2]  # noqa: E731
        modes = [jac(solve, (0, 1))(a, b) for jac in (jax.jacfwd, jax.jacrev)]
        return *modes, jax.hessian(loss)(a, b)

    forward, reverse, hessian = derivatives(a, b)
    for x, y in zip(jax.tree.leaves(forward), jax.tree.leaves(reverse), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-12)
    hessian = np.asarray(hessian).reshape(a.size, a.size)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-11)


# ---------------------------------------------------------------------------- transformations


def test_gradients_pass_checkpoint_scan_and_vmap():
    a, b = np.stack([normal((6, 4)), of_rank(2, (6, 4))]), normal((2, 6, 3), seed=1)
    want = jax.grad(loss, (0, 1))(a, b)

    def scanned(a, b):
        return jnp.sum(jax.lax.scan(lambda c, ab: (c, loss(*ab)), 0, (a, b))[1])

    of_each = jax.vmap(jax.grad(loss, (0, 1)))
    for got in (
        jax.grad(jax.checkpoint(loss), (0, 1))(a, b),
        jax.grad(scanned, (0, 1))(a, b),
        of_each(a, b),
    ):
        for x, y in zip(got, want, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_gradients_have_the_dtype_of_the_input(dtype):
    exact = dtype if dtype == "complex64" else "float64"
    a, b = (jnp.asarray(normal(s, exact)).astype(dtype) for s in ((8, 3), (8, 2)))
    got = jax.grad(lambda a: jnp.sum(jaxqr.lstsq(a, b).x).real)(a)
    assert got.dtype == a.dtype
    double = "complex128" if dtype == "complex64" else "float64"
    a, b = a.astype(double), b.astype(double)
    want = np.asarray(jax.grad(lambda a: jnp.sum(jaxqr.lstsq(a, b).x).real)(a))
    error = np.abs(np.asarray(got.astype(double)) - want).max()
    assert error < 30 * float(jnp.finfo(dtype).eps) * np.abs(want).max()


def test_nan_stays_with_its_matrix():
    a, b = np.stack([normal((6, 4)), normal((6, 4), seed=1)]), normal((2, 6, 3), seed=2)
    gradient = jax.jit(jax.grad(loss, (0, 1)))
    clean = gradient(a, b)
    a[0, 1, 1] = np.nan
    for got, want in zip(gradient(a, b), clean, strict=True):
        assert np.isnan(got[0]).all()
        np.testing.assert_array_equal(got[1], want[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(8, 3), (3, 8)], ids=str)
def test_gradients_do_not_depend_on_the_exponent(shape, dtype):
    """(A^H A)^+, which they hold, would overflow from the square root of the range on."""
    a, b = normal(shape, dtype), normal((shape[0], 2), dtype, seed=1)

    @jax.jit
    def gradients(a, b):
        x, back = jax.vjp(lambda a, b: jaxqr.lstsq(a, b).x, a, b)
        return back(jnp.ones_like(x))

    want, tolerance = gradients(a, b), 1e4 * np.finfo(dtype).eps
    exponent = np.finfo(dtype).maxexp * 2 // 3
    for size in (2.0**exponent, 2.0**-exponent):
        got = gradients((a * size).astype(dtype), (b * size).astype(dtype))
        for x, y in zip(got, want, strict=True):
            np.testing.assert_allclose(x * size, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "m, n, b", [(16, 0, (16,)), (16, 0, (16, 0)), (8, 3, (8, 0)), (8, 8, (8, 0))]
)
def test_gradients_of_empty_problems_on_rows_that_are_sharded(m, n, b):
    a, b = np.ones((m, n)), np.full(b, 2.0)
    with mesh_of("automatic") as mesh:

        def total(a, b):
            x, residuals, _ = jaxqr.lstsq(a, b, axis_name="x", mesh=mesh)
            return jnp.sum(x) + jnp.sum(residuals)

        da, db = jax.grad(total, (0, 1))(a, b)
    np.testing.assert_array_equal(da, np.zeros((m, n)))
    np.testing.assert_array_equal(db, 2 * b)  # of the squared norm of b


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (3, 3), (4, 0), (0, 4)])
def test_gradients_of_no_right_hand_sides_are_zero(shape):
    a, m = normal(shape), shape[0]

    def of_batch(a):
        return jnp.sum(jax.vmap(lambda b: jaxqr.lstsq(a, b).x)(jnp.zeros((0, m))))

    for f in (of_batch, lambda a: jnp.sum(jaxqr.lstsq(a, jnp.zeros((0, m, 2))).x)):
        np.testing.assert_array_equal(jax.grad(f)(a), np.zeros(shape))
        np.testing.assert_array_equal(jax.jacfwd(f)(a), np.zeros(shape))


@pytest.mark.parametrize("pivoting", [True, False])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_compiled_derivatives_of_one_equation_in_one_unknown(batch, pivoting):
    a, b, da, db = np.random.default_rng(0).normal(size=(4, *batch, 1, 1)).astype(np.float32)

    @jax.jit
    def tangent(a, b, da, db):
        return jax.jvp(lambda a, b: jaxqr.lstsq(a, b, pivoting=pivoting).x, (a, b), (da, db))[1]

    np.testing.assert_allclose(tangent(a, b, da, db), db / a - b / a**2 * da, rtol=1e-4)
