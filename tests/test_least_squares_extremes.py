"""Least squares of problems with NaN, without rows, columns or right-hand sides, and errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from laws import assert_close
from matrices import normal, of_rank

pytestmark = pytest.mark.usefixtures("fast_compilation")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("pivoting", [True, False])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6)], ids=str)
def test_nan_and_infinity_stay_with_their_matrix(shape, pivoting, value):
    a, b = normal((4, *shape)), normal((4, shape[0], 2), seed=1)
    if pivoting:
        a[3] = of_rank(2, shape)
    clean = jaxqr.lstsq(a, b, pivoting=pivoting)
    a[1, 2, 3] = b[2, 1, 0] = value
    x, residuals, _ = map(np.asarray, jaxqr.lstsq(a, b, pivoting=pivoting))
    assert np.isnan(x[1]).all()
    assert np.isnan(residuals[1]).all()
    assert not np.isfinite(x[2, :, 0]).any()  # of a right-hand side: its own column
    np.testing.assert_array_equal(x[2, :, 1], clean.x[2, :, 1])
    for i in (0, 3):
        np.testing.assert_array_equal(x[i], clean.x[i])
        np.testing.assert_array_equal(residuals[i], clean.residuals[i])


@pytest.mark.parametrize("pivoting", [True, False])
@pytest.mark.parametrize("m, n, s", [(0, 3, 2), (3, 0, 2), (0, 0, 1), (4, 2, 0)])
def test_empty(m, n, s, pivoting):
    a, b = normal((2, m, n)), normal((2, m, s), seed=1)

    def solve(a, b):
        return jaxqr.lstsq(a, b, pivoting=pivoting)

    x, residuals, rank = solve(a, b)
    np.testing.assert_array_equal(x, np.zeros((2, n, s)))
    np.testing.assert_allclose(residuals, (b**2).sum(axis=1))
    np.testing.assert_array_equal(rank, [min(m, n)] * 2)
    gradient_a, gradient_b = jax.grad(lambda a, b: solve(a, b).residuals.sum(), (0, 1))(a, b)
    np.testing.assert_array_equal(gradient_a, np.zeros_like(a))
    np.testing.assert_allclose(gradient_b, 2 * b)
    assert solve(np.zeros((0, 3, 2)), np.ones(3)).x.shape == (0, 2)


@pytest.mark.parametrize("pivoting", [True, False])
@pytest.mark.parametrize("shape", [(3, 2), (2, 2), (2, 3), (40, 2)], ids=str)
def test_a_batch_of_no_right_hand_sides_has_no_solutions(shape, pivoting):
    a, b = jnp.ones(shape) + jnp.eye(*shape), jnp.zeros((0, shape[0]))
    solve = functools.partial(jaxqr.lstsq, pivoting=pivoting)

    @jax.jit
    def solutions(a, b):
        of_batch = jax.vmap(solve, (None, 0), jaxqr.LstsqResult(0, 0, None))
        some = jnp.stack([a, a, a])
        return (
            of_batch(a, b),  # the rank is computed, and nothing else is
            jax.vmap(solve)(jnp.zeros((0, *shape)), b),
            jax.vmap(jax.vmap(solve, (0, None)), (None, 0))(some, b),
            jax.vmap(jax.vmap(solve, (None, 0)), (0, None))(some, b),
            solve(a, b[..., None]),
            solve(a, jnp.zeros((2, 0, shape[0], 4))),
        )

    n = shape[1]
    batches = ((0,), (0,), (0, 3), (3, 0))
    expected_shapes = [(*batch, n) for batch in batches] + [(0, n, 1), (2, 0, n, 4)]
    results = solutions(a, b)
    assert [result.x.shape for result in results] == expected_shapes
    assert results[0].rank == min(shape)
    assert results[0].residuals.shape == (0,)


@pytest.mark.parametrize("pivoting", [True, False])
@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (8, 2), (2, 3)], ids=str)
def test_everything_real_of_a_matrix_with_a_nan_is_nan(shape, pivoting):
    a = np.arange(1.0, 1 + np.prod(shape)).reshape(shape) ** 2
    a[0, 0] = np.nan
    x, residual, rank = jaxqr.lstsq(a, np.ones(shape[0]), pivoting=pivoting)
    assert np.isnan(x).all()
    assert np.isnan(residual)
    assert rank == 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(40, 3), (3, 3), (3, 4)], ids=str)
def test_a_right_hand_side_that_is_not_finite_spoils_no_other(shape, value):
    a, b = normal(shape), normal((5, shape[0]), seed=1)
    solve = jax.jit(jax.vmap(jaxqr.lstsq, (None, 0)))
    clean = solve(a, b)
    b[1, 2] = b[3, 0] = value
    x, residuals, rank = map(np.asarray, solve(a, b))
    assert not np.isfinite(x[[1, 3]]).any()
    assert np.isnan(residuals[[1, 3]]).all()
    np.testing.assert_array_equal(rank, [3] * 5)
    kept = [0, 2, 4]
    assert_close(
        (x[kept], residuals[kept]),
        (np.asarray(clean.x)[kept], np.asarray(clean.residuals)[kept]),
        1e-12,
    )


# ------------------------------------------------------------------------------------ errors

A = np.eye(4, 3)


@pytest.mark.parametrize(
    "a, b, options, message",
    [
        (A, np.ones(3), {}, r"b must be \(m,\) or .* m = 4 .*, got b \(3,\) for a \(4, 3\)"),
        (A, np.ones((3, 4)), {}, r"b must be \(m,\) or .* m = 4 .*, got b \(3, 4\) for a \(4, 3\)"),
        (np.ones((5, 4, 3)), np.ones((2, 4, 1)), {}, r"broadcast, got b \(2, 4, 1\) for a \(5, 4,"),
        (np.ones(3), np.ones(3), {}, r"a must have at least 2 dimensions, got shape \(3,\)"),
        (A, 1.0, {}, r"b must have at least 1 dimension.*, got shape \(\)"),
        (
            A,
            np.ones(4),
            {"rcond": -1.0},
            r"rcond must be .* not below 0, got -1.0",
        ),
        (A, np.ones(4), {"rcond": np.nan}, "rcond must be .* finite number .*, got nan"),
        (A, np.ones(4), {"rcond": 0.1, "pivoting": False}, "None without pivoting, got 0.1"),
        (A, np.ones(4), {"pivoting": 1.5}, "pivoting must be one of True, False, got 1.5"),
    ],
)
def test_values_that_are_refused(a, b, options, message):
    with pytest.raises(ValueError, match=f"lstsq: .*{message}"):
        jaxqr.lstsq(a, b, **options)


@pytest.mark.parametrize("argument", ["a", "b"])
def test_types_that_are_refused(argument):
    for value, got in (("text", "str"), (None, "NoneType"), ([[1.0], [2.0, 3.0]], "list")):
        arguments = {"a": A, "b": np.ones(4), argument: value}
        with pytest.raises(TypeError, match=f"lstsq: {argument} must be array-like, got {got}"):
            jaxqr.lstsq(**arguments)
    arguments = {"a": A, "b": np.ones(4), argument: jnp.zeros((4, 4), jnp.float8_e4m3fn)}
    with pytest.raises(TypeError, match=f"lstsq: {argument} must be .*, got dtype float8_e4m3fn"):
        jaxqr.lstsq(**arguments)
