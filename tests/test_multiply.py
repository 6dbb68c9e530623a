"""qr_multiply and products of packed reflectors: values, derivatives, and no Q is formed."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import jaxqr
from laws import assert_differentiable, mostly_nightly, relative_error
from matrices import normal, separated

SHAPES = ((7, 4), (5, 5), (4, 7))
DTYPES = ("float64", "complex128")
MODES = ("left", "right")


pytestmark = pytest.mark.usefixtures("fast_compilation")


def operand(shape, mode, dtype, batch=(), seed=1):
    m, n = shape
    inner = (min(m, n), 3) if mode == "left" else (3, m)
    return normal((*batch, *inner), dtype, seed)


def formed(a, c, mode, *, pivoting=False, conjugate=False):
    """The same by a Q that is formed."""
    q, r, *p = jaxqr.qr(a, pivoting=pivoting)
    q = q.conj() if conjugate else q
    return (q @ c if mode == "left" else c @ q), r, *p


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pivoting", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_scipys(shape, pivoting, dtype):
    a = separated(shape, dtype)
    lengths = {"left": min(shape), "right": shape[0]}
    cases = [
        (c, mode, conjugate)
        for mode, conjugate in itertools.product(MODES, (False, True))
        for c in (operand(shape, mode, dtype), normal((lengths[mode],), dtype))
    ]

    @jax.jit
    def everything(a, operands):
        return [
            jaxqr.qr_multiply(a, c, mode, pivoting=pivoting, conjugate=conjugate)
            for c, (_, mode, conjugate) in zip(operands, cases, strict=True)
        ]

    for got, (c, mode, conjugate) in zip(everything(a, [c[0] for c in cases]), cases, strict=True):
        expected = scipy.linalg.qr_multiply(a, c, mode, pivoting=pivoting, conjugate=conjugate)
        assert len(got) == len(expected)
        for x, y in zip(got, expected, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-12 * np.abs(a).max())


CASES = [
    # every mode with and without pivoting, in every shape; conjugation with either
    (shape, mode, pivoting, pivoting == (mode == "left"), dtype)
    for shape, mode, pivoting in itertools.product(SHAPES, MODES, (False, True))
    for dtype in DTYPES
    if dtype == "complex128" or pivoting == (mode == "left")
]


@pytest.mark.parametrize(
    ("shape", "mode", "pivoting", "conjugate", "dtype"),
    mostly_nightly(CASES, lambda *case: (case[0] == (5, 5)) == (case[-1] == "float64")),
    ids=str,
)
def test_tangents_equal_differences_and_cotangents_pair(shape, mode, pivoting, conjugate, dtype):
    """(10.1) to (10.9), forward, reverse and second order."""

    def function(x):
        return jaxqr.qr_multiply(*x, mode, pivoting=pivoting, conjugate=conjugate)[:2]

    x = separated(shape, dtype), operand(shape, mode, dtype)
    dx = normal(shape, dtype, seed=2), operand(shape, mode, dtype, seed=3)
    assert_differentiable(function, x, dx)


@pytest.mark.parametrize(("mode", "dtype"), [("left", "complex128"), ("right", "float64")])
@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_of_dependent_columns_are_those_of_qr(mode, shape, dtype):
    """(10.11), pivoted, with a zero column, and at the ends of the exponent range (8.8)."""
    m, n = shape
    a = normal((m, 2), dtype, 1) @ normal((2, n), dtype, 2)
    a[:, 1] = 0
    c, da = operand(shape, mode, dtype), normal(shape, dtype, seed=3)

    def derivatives(f, a, da):
        def gradient(a):
            out, pull = jax.vjp(lambda a: f(a, c, mode, pivoting=True)[:2], a)
            return pull(tuple(jnp.ones_like(x) for x in out))[0]

        tangents = jax.jvp(lambda a: f(a, c, mode, pivoting=True)[:2], (a,), (da,))[1]
        return *tangents, *jax.jvp(gradient, (a,), (da,))

    got = jax.jit(lambda a, da: derivatives(jaxqr.qr_multiply, a, da))
    expected = jax.jit(lambda a, da: derivatives(formed, a, da))
    product, triangle, *_ = found = got(a, da)
    for x, y in zip(found, expected(a, da), strict=True):
        assert relative_error(x, y) < 1e-9
    scale = 2.0 ** (np.finfo(dtype).maxexp - 8)
    large_product, large_triangle, *_ = got(a * scale, da * scale)
    assert relative_error(large_product, product) < 1e-12
    assert relative_error(large_triangle / scale, triangle) < 1e-12


@pytest.mark.parametrize(
    ("batch_a", "batch_c"),
    [((3,), (2, 3)), ((2, 1), (3,)), ((2, 3), ()), ((), (2, 3))],
)
@pytest.mark.parametrize("mode", MODES)
def test_batches_broadcast(mode, batch_a, batch_c):
    a, c = normal((*batch_a, 5, 3)), operand((5, 3), mode, "float64", batch_c)
    got = jaxqr.qr_multiply(a, c, mode)
    product, triangle = formed(a, c, mode)
    np.testing.assert_allclose(got.CQ, product, atol=1e-13)
    np.testing.assert_allclose(got.R, triangle, atol=1e-13)
    vector = c.reshape(-1, *c.shape[-2:])[0][:, 0] if mode == "left" else c.reshape(-1, 5)[0]
    vectors = jaxqr.qr_multiply(a, vector, mode).CQ
    one = formed(a, vector[:, None] if mode == "left" else vector[None, :], mode)[0]
    np.testing.assert_allclose(vectors, one.reshape(vectors.shape), atol=1e-13)


def test_mapping_over_c_alone_factors_once_and_copies_nothing():
    a, c = normal((6, 4)), normal((50, 3, 6))
    mapped = jax.vmap(jaxqr.qr_multiply, in_axes=(None, 0))
    text = jax.jit(lambda a, c: mapped(a, c).CQ).lower(a, c).as_text()
    assert "50x6x4" not in text
    np.testing.assert_allclose(mapped(a, c).CQ, jaxqr.qr_multiply(a, c).CQ, atol=1e-13)
    assert mapped(a, c).R.shape == (50, 4, 4)

    def loss(f):
        return lambda a: sum(jnp.sum(jnp.sin(x)) for x in f(a))

    gradient = jax.grad(loss(lambda a: mapped(a, c)))(a)
    expected = jax.grad(loss(lambda a: jax.vmap(lambda c: formed(a, c, "right"))(c)))(a)
    np.testing.assert_allclose(gradient, expected, atol=1e-11)


@pytest.mark.parametrize(("mode", "pivoting"), [("left", True), ("right", False)])
def test_transformations_agree(mode, pivoting):
    a, c = separated((2, 5, 3)), operand((5, 3), mode, "float64", (2,))

    def loss(a, c):
        product, r, *_ = jaxqr.qr_multiply(a, c, mode, pivoting=pivoting)
        return jnp.sum(jnp.sin(product)) + jnp.sum(jnp.cos(r))

    forward = jax.jit(jax.vmap(jax.jacfwd(loss, (0, 1))))(a, c)
    reverse = jax.jit(jax.vmap(jax.jacrev(jax.checkpoint(loss), (0, 1))))(a, c)
    for x, y in zip(forward, reverse, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-11)
    hessian = jax.jit(jax.hessian(loss))(a[0], c[0])
    np.testing.assert_allclose(hessian, jnp.transpose(hessian, (2, 3, 0, 1)), atol=1e-10)
    other = jax.jit(jax.jacrev(jax.grad(loss)))(a[0], c[0])
    np.testing.assert_allclose(hessian, other, atol=1e-10)


def test_a_complex_c_leaves_a_real_factorization_real():
    a, c = normal((5, 3)), normal((2, 5), "complex128")
    with jax.numpy_dtype_promotion("standard"):
        product, r = jaxqr.qr_multiply(a, c)
    q, expected = jaxqr.qr(a)
    assert r.dtype == jnp.float64
    np.testing.assert_allclose(r, expected, atol=1e-14)
    np.testing.assert_allclose(product, c @ np.asarray(q), atol=1e-14)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_single(dtype):
    a, c = (jnp.asarray(normal(s, "float32")).astype(dtype) for s in ((8, 3), (2, 8)))
    got = jaxqr.qr_multiply(a, c)
    expected = jaxqr.qr_multiply(a.astype(jnp.float32), c.astype(jnp.float32))
    for x, y in zip(got, expected, strict=True):
        assert x.dtype == dtype
        np.testing.assert_array_equal(x, y.astype(dtype))


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 3), (1, 1), (1, 3), (3, 1)])
@pytest.mark.parametrize(("mode", "s"), [("left", 0), ("left", 1), ("right", 1)])
def test_sizes_zero_and_one(mode, shape, s):
    a, length = normal((2, *shape)), min(shape) if mode == "left" else shape[0]
    c = normal((2, length, s) if mode == "left" else (2, s, length))

    def loss(f):
        return lambda a, c: sum(jnp.sum(jnp.sin(x)) for x in f(a, c, mode, pivoting=True)[:2])

    for x, y in zip(
        jaxqr.qr_multiply(a, c, mode, pivoting=True), formed(a, c, mode, pivoting=True), strict=True
    ):
        np.testing.assert_allclose(x, y, atol=1e-14)
    got, expected = (jax.jit(jax.grad(loss(f), (0, 1)))(a, c) for f in (jaxqr.qr_multiply, formed))
    for x, y in zip(got, expected, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-13)


def forms_q(f, *args):
    """Whether the program of `f` forms Q: by LAPACK, or as an output of the package's kernel."""
    text = jax.jit(f).lower(*args).as_text()
    assert re.search("jaxqr_(qr|geqrf|ormqr)|lapack_dgeqrf", text)
    kernels = re.findall(r'outputs = "([^"]*)"', text)
    return bool(re.search("orgqr|ungqr", text)) or any("q" in o.split(",") for o in kernels)


@pytest.mark.usefixtures("way")
def test_no_q_is_formed():
    a, c = normal((7, 4)), normal((2, 7))

    def loss(f):
        return lambda a, c: sum(jnp.sum(x**3) for x in f(a, c))

    def packed(a, c):
        h, tau = jaxqr.qr(jax.lax.stop_gradient(a), "raw")
        return jaxqr.householder_multiply(h.mT + a, tau, c, left=False), tau

    assert forms_q(lambda a, c: formed(a, c, "right"), a, c)
    for f in (jaxqr.qr_multiply, packed):
        gradient = jax.grad(loss(f), (0, 1))
        assert not forms_q(f, a, c)
        assert not forms_q(gradient, a, c)
        assert not forms_q(lambda a, c, g=gradient: jax.jvp(g, (a, c), (a, c)), a, c)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((3, 4), {}, r"c must be \(5,\) or \(..., s, 5\) in mode 'right', got c \(3, 4\)"),
        ((5, 2), {"mode": "left"}, r"c must be \(3,\) or \(..., 3, s\) in mode 'left'"),
        ((4,), {}, r"c must be \(5,\)"),
        ((4, 1, 5), {}, r"batch dimensions of a and c must broadcast, got c \(4, 1, 5\)"),
        ((5,), {"mode": "middle"}, "mode must be one of 'left', 'right', got 'middle'"),
        ((5,), {"conjugate": 1}, "conjugate must be one of"),
        ((), {}, "c must have at least 1 dimension,"),
    ],
)
def test_errors(shape, options, message):
    with pytest.raises(ValueError, match=f"qr_multiply: {message}"):
        jaxqr.qr_multiply(np.ones((2, 5, 3)), np.ones(shape), **options)
