"""Every derivative of qr and lq against central differences, and the modes against each other."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from laws import (
    MODES,
    assert_differentiable,
    differences,
    differentiable,
    mostly_nightly,
    pairing,
    relative_error,
)
from matrices import FACTORIZATIONS, SHAPES, normal, separated

BATCHES = ((), (3,), (2, 2))
DTYPES = ("float64", "complex128")
ALL = list(itertools.product(FACTORIZATIONS, (False, True), MODES, SHAPES, DTYPES, BATCHES))
# every mode in two shapes of more than one row and column; shapes, dtypes and batches in turns
CHOSEN = {
    (*case, DTYPES[i % 2], BATCHES[(i + i // 3) % 3])
    for i, case in enumerate(itertools.product(FACTORIZATIONS, (False, True), MODES, SHAPES[:3]))
    if i % 3 != i // 3 % 3
}


pytestmark = pytest.mark.usefixtures("fast_compilation")


@pytest.mark.parametrize(
    ("name", "pivoting", "mode", "shape", "dtype", "batch"),
    mostly_nightly(ALL, lambda *case: case in CHOSEN),
    ids=str,
)
def test_tangents_equal_differences_and_cotangents_pair(name, pivoting, mode, shape, dtype, batch):
    a, da = separated(batch + shape, dtype), normal(batch + shape, dtype, seed=9)
    assert_differentiable(differentiable(name, mode, pivoting), a, da, first=1e-5, second=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 4), (5, 5), (4, 7)])
@pytest.mark.parametrize("pivoting", [False, True])
def test_tangents_have_the_structure_of_the_factors(shape, dtype, pivoting):
    a, da = separated((2, *shape), dtype), normal((2, *shape), dtype, seed=3)
    function = differentiable("qr", "complete", pivoting)
    (q, _), (dq, dr) = jax.jvp(function, (a,), (da,))
    skew = q.conj().mT @ dq
    np.testing.assert_allclose(skew, -skew.conj().mT, atol=1e-11)
    assert np.all(np.tril(dr, -1) == 0)
    assert np.all(np.diagonal(dr, axis1=-2, axis2=-1).imag == 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FACTORIZATIONS)
def test_cotangents_ignore_the_constant_triangle(name, dtype):
    function = differentiable(name, "triangle")
    a = normal((5, 4) if name == "qr" else (4, 5), dtype)
    (triangle,), vjp = jax.vjp(function, a)
    ct = normal(triangle.shape, dtype, seed=4)
    keep = np.triu(ct) if name == "qr" else np.tril(ct)
    keep = keep - 1j * np.diag(np.diag(keep).imag) if dtype == "complex128" else keep
    ct = np.where(keep == 0, np.nan if dtype == "float64" else ct, ct)
    np.testing.assert_allclose(vjp((ct,))[0], vjp((keep,))[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
@pytest.mark.parametrize("mode", ["reduced", "complete"])
@pytest.mark.parametrize("name", FACTORIZATIONS)
def test_positive_diagonal_is_differentiable(name, mode, shape, dtype):
    function = differentiable(name, mode, positive_diagonal=True)
    a, da = normal((2, *shape), dtype), normal((2, *shape), dtype, seed=1)
    _, tangents = jax.jvp(function, (a,), (da,))
    for tangent, difference in zip(tangents, differences(function, a, da), strict=True):
        assert relative_error(tangent, difference) < 1e-7


@pytest.mark.parametrize("name", ["rq", "ql"])
@pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
@pytest.mark.parametrize("mode", ["reduced", "complete", "triangle"])
def test_reversed_factorizations_are_differentiable(name, mode, shape):
    function = differentiable(name, mode)
    a, da = normal(shape, "complex128"), normal(shape, "complex128", seed=1)
    out, tangents = jax.jvp(function, (a,), (da,))
    for tangent, difference in zip(tangents, differences(function, a, da), strict=True):
        assert relative_error(tangent, difference) < 1e-7
    cotangents = tuple(normal(x.shape, x.dtype, seed=5) for x in out)
    (gradient,) = jax.vjp(function, a)[1](cotangents)
    assert abs(pairing(cotangents, tangents) - pairing([gradient], [da])) < 1e-9


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_differentiated_in_single(dtype):
    a32 = normal((16, 5), "float32")
    a = jnp.asarray(a32).astype(dtype)

    def loss(a):
        q, r = jaxqr.qr(a)
        return jnp.sum(jnp.sin(q.astype(jnp.float32))) + jnp.sum(r.astype(jnp.float32) ** 2)

    def single(a):
        q, r = jaxqr.qr(a)
        q, r = (x.astype(dtype).astype(jnp.float32) for x in (q, r))
        return jnp.sum(jnp.sin(q)) + jnp.sum(r**2)

    got, expected = jax.grad(loss)(a), jax.grad(single)(a.astype(jnp.float32))
    assert got.dtype == a.dtype
    # one rounding of the input dtype, of the cotangents and of the result
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        got.astype(jnp.float32), expected, atol=4 * eps * float(jnp.max(jnp.abs(expected)))
    )
