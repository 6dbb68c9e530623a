"""Derivatives of long data are as good as those of short ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from long_data import by_lineax, correlated, far_from_zero, relative
from matrices import normal
from meshes import mesh_of

pytestmark = pytest.mark.usefixtures("fast_compilation")

ROWS = 200000


@functools.cache
def long_data():
    """Two columns of correlation 0.9999, with a vector and a direction."""
    a, v = correlated(ROWS, 0.9999), normal((ROWS,), "float32", seed=5)
    return a, v, normal(a.shape, "float32", seed=6)


def test_the_derivative_of_a_projection():
    a, v, w = long_data()

    @jax.jit
    def gradient(a):
        def projected(a):
            q = jaxqr.qr(a).Q
            return jnp.vdot(w[:, 0], q @ (q.T @ v))

        return jax.grad(projected)(a)

    # P = A A^+: d<w, P v> = <(I - P) w, dA A^+ v> + <A^+T ..., the same with v and w exchanged>
    x, inverse, *vectors = (z.astype("float64") for z in (a, np.linalg.pinv(a), v, w[:, 0]))
    inverse = np.linalg.pinv(x)
    v64, w64 = vectors
    want = np.outer(w64 - x @ (inverse @ w64), inverse @ v64)
    want += np.outer(v64 - x @ (inverse @ v64), inverse @ w64)
    assert relative(gradient(a), want) < 1e-2


@pytest.mark.parametrize("pivoting", [False, True])
@pytest.mark.parametrize("way", ["qr", "tsqr"])
def test_the_gradient_of_a_volume_is_the_pseudo_inverse(way, pivoting):
    a, *_ = long_data()
    if way == "tsqr" and pivoting:
        pytest.skip("row blocks have no pivots")
    with mesh_of("automatic") as mesh:

        def volume(a):
            if way == "tsqr":
                r = jaxqr.tsqr(a, axis_name="x", mesh=mesh).R
            else:
                r = jaxqr.qr(a, "r", pivoting=pivoting)
                r = r.R if pivoting else r
            return jnp.sum(jnp.log(jnp.abs(jnp.diagonal(r))))

        gradient = jax.jit(jax.grad(volume))(a)
    assert relative(gradient, np.linalg.pinv(a.astype("float64")).T) < 1e-2


def fit(way, a, b, mesh):
    if way == "qr_multiply":
        y, r = jaxqr.qr_multiply(a, b)
    elif way == "lstsq":
        return jaxqr.lstsq(a, b).x
    elif way == "lstsq on devices":
        return jaxqr.lstsq(a, b, axis_name="x", mesh=mesh).x
    elif way == "lineax":
        return by_lineax(a, b)[0]
    else:
        q, r = jaxqr.tsqr(a, axis_name="x", mesh=mesh) if way == "tsqr" else jaxqr.qr(a)
        y = b @ q
    return jax.scipy.linalg.solve_triangular(r, y)


FITS = ("qr", "qr_multiply", "lstsq", "tsqr", "lstsq on devices", "lineax")


def assert_fit_differentiated(way, a, b, da, db, tolerance):
    """dx = A^+ (db - dA x) + (A^H A)^-1 dA^H (b - A x), and its adjoint."""
    x64, b64, da64, db64 = (z.astype("float64") for z in (a, b, da, db))
    size = np.linalg.norm(x64, axis=0)
    inverse = np.linalg.pinv(x64 / size) / size[:, None]
    x = inverse @ b64
    rest = b64 - x64 @ x
    dx = inverse @ (db64 - da64 @ x) + inverse @ (inverse.T @ (da64.T @ rest))
    weight = 1 / np.abs(dx)
    z = inverse.T @ weight
    abar = np.outer(rest, inverse @ z) - np.outer(z, x)
    w32 = weight.astype("float32")
    with mesh_of("automatic") as mesh:

        @jax.jit
        def everything(a, b, da, db):
            f = functools.partial(fit, way, mesh=mesh)
            _, tangent = jax.jvp(f, (a, b), (da, db))
            return tangent, jax.vjp(f, a, b)[1](w32)

        tangent, (got_a, got_b) = everything(a, b, da, db)
    np.testing.assert_allclose(tangent, dx, rtol=tolerance)
    assert relative(got_a, abar) < tolerance
    assert relative(np.asarray(got_b)[:, None], z[:, None]) < tolerance


@pytest.mark.parametrize("way", FITS)
def test_the_derivatives_of_a_fit(way):
    a, v, da = long_data()
    b = a @ np.array([3, -2], "float32") + v
    assert_fit_differentiated(way, a, b, da, normal(b.shape, "float32", seed=8), 1e-2)


@pytest.mark.parametrize("way", FITS[:-1])  # lineax's own rule squares the condition
def test_the_third_coefficient_of_a_fit_has_its_derivative(way):
    a = far_from_zero()
    da, b = normal(a.shape, "float32", seed=4), normal((len(a),), "float32", seed=5)
    b = (b + a[:, 2] / 2).astype("float32")
    assert_fit_differentiated(way, a, b, da, normal(b.shape, "float32", seed=8), 2e-2)


def gram_schmidt_jvp(a, da):
    """dR by R^T R = A^T A with a positive diagonal, in double precision."""
    a, da = a.astype("float64"), da.astype("float64")
    q, r = np.linalg.qr(a)
    sign = np.sign(np.diag(r))
    q, r = q * sign, r * sign[:, None]
    inverse = np.linalg.inv(r)
    e = q.T @ da @ inverse
    psi = np.tril(e, -1) - np.tril(e, -1).T
    return (e - psi) @ r


@pytest.mark.parametrize("way", ["qr", "r", "pivoted", "tsqr", "batch"])
def test_the_tangent_of_r(way):
    a = far_from_zero()
    da = normal(a.shape, "float32", seed=4)
    want = gram_schmidt_jvp(a, da)
    with mesh_of("automatic") as mesh:

        def triangle(a):
            if way == "tsqr":
                return jaxqr.tsqr(a, axis_name="x", mesh=mesh).R
            if way == "batch":
                return jaxqr.qr(jnp.stack([a, a]), positive_diagonal=True).R[1]
            if way == "pivoted":
                r, p = jaxqr.qr(a, "r", pivoting=True, positive_diagonal=True)
                return r[:, jnp.argsort(p)]
            if way == "qr":
                return jaxqr.qr(a, positive_diagonal=True).R
            return jaxqr.qr(a, "r", positive_diagonal=True)

        _, dr = jax.jit(lambda a, da: jax.jvp(triangle, (a,), (da,)))(a, da)
    if way == "pivoted":
        p = np.asarray(jaxqr.qr(a, pivoting=True).P)
        want = gram_schmidt_jvp(a[:, p], da[:, p])[:, np.argsort(p)]
    # each column relative to what moves it
    size = np.abs(want).max(axis=0)
    np.testing.assert_allclose(np.asarray(dr) / size, want / size, atol=2e-2)


def test_the_tangent_of_q_with_more_than_a_million_rows():
    a = correlated(1500000, 0.99)
    da = normal(a.shape, "float32", seed=10)
    _, dq = jax.jit(lambda a, da: jax.jvp(lambda a: jaxqr.qr(a).Q, (a,), (da,)))(a, da)
    x, dx = a.astype("float64"), da.astype("float64")
    q, r = np.linalg.qr(x)
    e = q.T @ dx @ np.linalg.inv(r)
    psi = np.tril(e, -1) - np.tril(e, -1).T
    want = dx @ np.linalg.inv(r) - q @ (e - psi)
    assert relative(dq, want) < 1e-3


@pytest.mark.parametrize("way", ["qr", "tsqr"])
def test_a_repeated_column_of_long_data_has_no_derivative_of_its_own(way):
    """What is left of it is rounding: nothing as large as its reciprocal appears."""
    a = normal((100000, 3), "float32")
    a[:, 2] = a[:, 0]
    da = normal(a.shape, "float32", seed=1)
    with mesh_of("automatic") as mesh:

        def factors(a):
            return tuple(jaxqr.tsqr(a, axis_name="x", mesh=mesh) if way == "tsqr" else jaxqr.qr(a))

        @jax.jit
        def everything(a, da):
            _, (dq, dr) = jax.jvp(factors, (a,), (da,))
            out, pull = jax.vjp(factors, a)
            return dq, dr, pull(tuple(jnp.ones_like(x) for x in out))[0]

        dq, dr, gradient = everything(a, da)
    norm = np.sqrt(len(a))
    assert np.abs(dq).max() < 100 / norm
    assert np.abs(dr).max() < 100 * norm
    assert np.abs(gradient).max() < 100 * norm
