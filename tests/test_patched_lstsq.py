"""`jax.numpy.linalg.lstsq` replaced on request: JAX's results, and derivatives at every rank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from jaxqr._patch import least_squares
from matrices import normal, of_rank


@pytest.fixture(autouse=True)
def _stock():
    """Each test begins and ends with JAX as it is."""
    yield
    jaxqr.unpatch()


def change_nothing(*args):
    pass


@pytest.mark.parametrize(
    "a, b, options",
    [
        ((6, 3), (6,), {}),
        ((6, 3), (6, 2), {"rcond": 1e-3}),
        ((3, 6), (3, 2), {"rcond": -1}),
        ((6, 3), (6, 2), {"numpy_resid": True}),
        ((3, 6), (3, 2), {"numpy_resid": True}),
        ((0, 3), (0, 2), {}),
        ((3, 0), (3,), {}),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_least_squares_on_request_have_the_results_of_jax(a, b, options, dtype):
    a, b = normal(a, dtype), normal(b, dtype, seed=1)
    with jax.numpy_dtype_promotion("standard"):
        want = jnp.linalg.lstsq(a, b, **options)
        with jaxqr.patched(lstsq=True):
            got = jnp.linalg.lstsq(a, b, **options)
    for x, y in zip(got, want, strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(x, y, atol=100 * jnp.finfo(dtype).eps, rtol=1e-4)


def test_least_squares_have_a_finite_gradient_where_jax_has_none():
    a = of_rank(2, (6, 4))
    a[:, 2:] = a[:, :2]

    def loss(a):
        return jnp.sum(jnp.linalg.lstsq(a, jnp.ones(6))[0] ** 2)

    orthonormal = jnp.eye(6)[:, :4]
    assert jnp.isnan(jax.grad(loss)(orthonormal)).any()
    with jaxqr.patched(lstsq=True):
        for point in (a, orthonormal):
            assert jnp.isfinite(jax.grad(loss)(point)).all()
        assert jaxqr.status().served["lstsq"]["values"] == 2


@pytest.mark.parametrize(
    "a, b", [((3,), (3,)), ((3, 2), (4,)), ((2, 3, 2), (2, 3)), ((3, 2), (3, 1, 1))]
)
def test_least_squares_raise_the_errors_of_jax(a, b):
    a, b = normal(a), normal(b)
    errors = []
    for lstsq in (False, True):
        with jaxqr.patched(lstsq=lstsq), pytest.raises((TypeError, ValueError)) as caught:
            jnp.linalg.lstsq(a, b)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


def test_a_bound_that_is_traced_is_left_to_jax():
    a, b = normal((5, 3)), normal((5,))
    f = jax.jit(lambda rcond: jnp.linalg.lstsq(a, b, rcond)[0])
    with jaxqr.patched(lstsq=True):
        x = f(1e-9)
        assert "lstsq" not in jaxqr.status().served
    np.testing.assert_allclose(x, jnp.linalg.lstsq(a, b)[0], atol=1e-12)


def test_another_function_for_least_squares_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(jnp.linalg, "lstsq", change_nothing)
    with pytest.raises(jaxqr.PatchConflictError, match=r"patch: .*lstsq.*change_nothing"):
        jaxqr.patch(lstsq=True)
    monkeypatch.undo()
    jaxqr.patch(lstsq=True)
    ours = jnp.linalg.lstsq
    jnp.linalg.lstsq = change_nothing
    with pytest.raises(jaxqr.PatchConflictError, match=r"unpatch: .*lstsq.*change_nothing"):
        jaxqr.unpatch()
    jnp.linalg.lstsq = ours
    assert least_squares.is_replaced()


def test_numbers_of_64_bits_stay_where_they_are_off():
    a, b = jnp.asarray(normal((5, 3))), jnp.asarray(normal((5,)))
    with jaxqr.patched(lstsq=True), jax.enable_x64(False):
        assert [x.dtype.name for x in jnp.linalg.lstsq(a, b)[::3]] == ["float64", "float64"]


@pytest.mark.parametrize("rcond", ["x", np.inf, np.float32(1e-3), np.array(1e-3)])
def test_odd_bounds_mean_what_they_mean_to_jax(rcond):
    a, b = normal((5, 3)), normal((5,))
    with jax.numpy_dtype_promotion("standard"):
        try:
            want = jnp.linalg.lstsq(a, b, rcond)[0]
        except TypeError:
            with jaxqr.patched(lstsq=True), pytest.raises(TypeError):
                jnp.linalg.lstsq(a, b, rcond)
            return
        with jaxqr.patched(lstsq=True):
            np.testing.assert_allclose(jnp.linalg.lstsq(a, b, rcond)[0], want, atol=1e-12)
