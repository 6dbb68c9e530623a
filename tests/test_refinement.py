"""Iterative refinement: all digits that the numbers determine, by residuals of twice as many."""

from fractions import Fraction

import jax
import numpy as np
import pytest

import jaxqr
from jaxqr._lstsq.doubled import Doubled, add, add_doubled, multiply, multiply_matrix
from laws import assert_differentiable
from matrices import DTYPES, normal, of_rank
from meshes import mesh_of, put
from test_strd import RCOND, SETS, design, digits


def exact(x):
    return np.vectorize(lambda v: Fraction(float(v)), otypes=[object])(np.asarray(x))


def eliminate(system, right):
    """Solve a square system of fractions."""
    system, n = np.concatenate([system, right], axis=1), len(system)
    for j in range(n):
        system[j] = system[j] / system[j, j]
        for i in set(range(n)) - {j}:
            system[i] = system[i] - system[i, j] * system[j]
    return system[:, n:]


def solve_exactly(a, b):
    """The (shortest) least-squares solution in rational arithmetic, by the normal equations."""
    if np.iscomplexobj(a):
        a, b = np.block([[a.real, -a.imag], [a.imag, a.real]]), np.concatenate([b.real, b.imag])
        real, imaginary = np.split(solve_exactly(a, b), 2)
        return real + 1j * imaginary
    a, b = exact(a), exact(b)
    if a.shape[0] < a.shape[1]:
        return (a.T @ eliminate(a @ a.T, b)).astype(float)
    return eliminate(a.T @ a, a.T @ b).astype(float)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_and_products_of_pairs_have_twice_the_digits(dtype):
    x, y = (normal((200,), dtype, seed) * 2.0 ** normal((200,), seed=seed) for seed in (0, 1))
    x, y = x.astype(dtype), y.astype(dtype)
    for pair, right in (
        (jax.jit(add)(x, y), exact(x) + exact(y)),
        (jax.jit(multiply)(x, y), exact(x) * exact(y)),
    ):
        assert np.array_equal(exact(pair.high) + exact(pair.low), right)
    first, second = Doubled(*add(x, x / 3)), Doubled(*add(y, y / 7))
    total = jax.jit(add_doubled)(first, second)
    right = sum(map(exact, (*first, *second)))
    error = (exact(total.high) + exact(total.low) - right).astype(float)
    sizes = np.abs(x) + np.abs(y)
    assert np.max(np.abs(error) / sizes) < 8 * np.finfo(dtype).eps ** 2

    a, b = normal((9, 30), dtype), normal((30, 2), dtype)
    product = jax.jit(multiply_matrix)(a, b)
    error = (exact(product.high) + exact(product.low) - exact(a) @ exact(b)).astype(float)
    assert np.max(np.abs(error)) < 100 * np.finfo(dtype).eps ** 2 * 30


@pytest.mark.parametrize("name", SETS)
def test_one_step_finds_the_digits_that_the_numbers_determine(name):
    a, y = design(name)
    best = solve_exactly(a, y[:, None])[:, 0]
    x = np.asarray(jaxqr.lstsq(a, y, rcond=RCOND, refine=2 if name == "filip" else 1).x)
    error = np.max(np.abs(x - best) / np.where(best == 0, 1, np.abs(best)))
    assert error < 1e-13
    # Powers of x are rounded in the matrix, which costs Filip's coefficients some digits.
    assert digits(x, name) > min(13, digits(best, name) - 0.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (5, 5)])
def test_refined_solutions_have_all_digits_where_the_condition_takes_most_of_them(shape, dtype):
    k, eps = min(shape), np.finfo(dtype).eps
    decay = np.sqrt(eps) ** (np.arange(k) / (k - 1))
    left, right = (np.linalg.qr(normal((size, k), "complex128"))[0] for size in shape)
    a = (left * decay) @ right.T
    a = (a if dtype.startswith("complex") else (left.real * decay) @ right.real.T).astype(dtype)
    b = normal((shape[0], 2), dtype, seed=3)
    best = solve_exactly(a, b)
    error = []
    for steps in (0, 2):
        x = np.asarray(jaxqr.lstsq(a, b, refine=steps).x)
        assert x.dtype == a.dtype
        error.append(np.linalg.norm(x - best) / np.linalg.norm(best))
    assert error[1] < 2 * eps < 10 * eps < error[0]


def test_refinement_keeps_the_shortest_solution_and_the_rank():
    a, b = of_rank(3, (2, 8, 5)), normal((2, 8, 1))
    found, plain = jaxqr.lstsq(a, b, refine=2), jaxqr.lstsq(a, b)
    assert found.rank.tolist() == [3, 3]
    assert np.allclose(found.x, plain.x, atol=1e-12)
    assert np.allclose(found.residuals, plain.residuals, rtol=1e-12)


def test_columns_of_very_different_sizes_are_refined_each_to_its_own_digits():
    sizes = np.array([1e-200, 1.0, 1e200])
    a, b = normal((12, 3)), normal((12,))
    expected = jaxqr.lstsq(a, b, refine=1).x / sizes
    assert np.allclose(jaxqr.lstsq(a * sizes, b, refine=1).x / expected, 1, rtol=1e-13)
    assert np.allclose(jaxqr.lstsq(a * sizes, b * 1e100, refine=1).x / expected, 1e100, rtol=1e-13)


def test_derivatives_are_those_without_refinement():
    a, b, da = normal((7, 4)), normal((7, 2)), normal((7, 4), seed=5)
    assert_differentiable(lambda a: jaxqr.lstsq(a, b, refine=1)[:2], a, da)


def test_refinement_of_nothing_and_of_nan():
    assert jaxqr.lstsq(np.ones((3, 0)), np.ones(3), refine=1).residuals == 3
    assert jaxqr.lstsq(np.ones((0, 3)), np.ones((0, 2)), refine=1).x.shape == (3, 2)
    a = normal((3, 6, 3))
    a[1, 0, 0] = np.nan
    x = jaxqr.lstsq(a, normal((3, 6, 1)), refine=1).x
    assert np.isnan(x).all(axis=(1, 2)).tolist() == [False, True, False]
    zero = jaxqr.lstsq(np.zeros((4, 2)), np.ones(4), refine=1)
    assert zero.x.tolist() == [0, 0] and zero.residuals == 4


def test_a_number_of_steps_that_is_none_is_an_error():
    a, b = np.eye(4, 3), np.ones(4)
    for steps in (-1, True):
        with pytest.raises(ValueError, match=f"lstsq: refine must be an integer .*got {steps}"):
            jaxqr.lstsq(a, b, refine=steps)
    for steps in (1.0, "1", None):
        with pytest.raises(TypeError, match="lstsq: refine must be an integer that is not traced"):
            jaxqr.lstsq(a, b, refine=steps)
    with mesh_of("automatic", (2,)) as mesh, pytest.raises(ValueError, match="lstsq: refine must"):
        jaxqr.lstsq(*put(mesh, a, b), refine=1, axis_name="x", mesh=mesh)


@pytest.mark.parametrize("shape", [(2, 5), (5, 2), (3, 3)])
@pytest.mark.parametrize("sizes", [(1e-25, 1), (1e25, 1e-9), (1, 1e30), (1e-15, 1e-35)])
def test_refinement_at_extreme_sizes(shape, sizes):
    rng = np.random.default_rng(0)
    a = rng.normal(size=shape).astype(np.float32) * np.float32(sizes[0])
    b = rng.normal(size=shape[0]).astype(np.float32) * np.float32(sizes[1])
    exact = np.linalg.pinv(a.astype(float)) @ b.astype(float)
    plain, refined = (jaxqr.lstsq(a, b, refine=steps) for steps in (0, 1))
    np.testing.assert_allclose(refined.x, exact, rtol=3e-7)
    assert np.isfinite(refined.residuals) == np.isfinite(plain.residuals)
    assert not np.isnan(refined.residuals)
