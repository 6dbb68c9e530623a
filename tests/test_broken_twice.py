"""Arguments and sizes at which functions were once found wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxqr


@pytest.mark.parametrize("pivoting", [True, False])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_compiled_derivatives_of_one_equation_in_one_unknown(batch, pivoting):
    a, b, da, db = np.random.default_rng(0).normal(size=(4, *batch, 1, 1)).astype(np.float32)

    @jax.jit
    def tangent(a, b, da, db):
        return jax.jvp(lambda a, b: jaxqr.lstsq(a, b, pivoting=pivoting).x, (a, b), (da, db))[1]

    np.testing.assert_allclose(tangent(a, b, da, db), db / a - b / a**2 * da, rtol=1e-4)


def test_derivatives_of_an_interpolative_decomposition_of_rank_one():
    a, da = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    (column,) = jaxqr.interpolative(a, rank=1).columns

    def expected(a):
        return (a[:, column] @ a / (a[:, column] @ a[:, column]))[None]

    ours = jax.jvp(lambda a: jaxqr.interpolative(a, rank=1).coefficients, (a,), (da,))[1]
    np.testing.assert_allclose(ours, jax.jvp(expected, (a,), (da,))[1], atol=1e-5)


def test_interpolative_of_a_batch_sharded_over_an_explicit_mesh():
    mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Explicit,))
    a = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4)), jnp.float32)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(a, NamedSharding(mesh, P("x")))
        found = jaxqr.interpolative(sharded, rank=2).coefficients
    np.testing.assert_allclose(found, jaxqr.interpolative(a, rank=2).coefficients, atol=1e-5)


@pytest.mark.parametrize("rcond", [0, 1, np.float32(0.5), np.int64(0), np.array(0.5), jnp.array(0)])
@pytest.mark.parametrize("function", [jaxqr.orth, jaxqr.null_space])
def test_every_kind_of_number_is_an_rcond(function, rcond):
    a = np.diag(np.float32([4, 3, 1]))
    expected = function(a, rcond=float(rcond))
    np.testing.assert_array_equal(function(a, rcond=rcond), expected)


def test_an_integer_tol_too_large_for_a_float_is_refused():
    with pytest.raises(ValueError, match="interpolative: tol must be finite"):
        jaxqr.interpolative(np.eye(2), tol=10**400)


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
