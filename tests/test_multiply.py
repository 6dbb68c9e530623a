"""qr_multiply and products of packed reflectors: values, derivatives, and no Q is formed."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from test_derivatives import differences, pairing, relative_error

import jaxqr
from jaxqr._lowering import kernels as lowering
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


def check_derivatives(function, x, dx):
    """Forward and second order against differences along dx, reverse by pairing."""
    cotangents = tuple(normal(s.shape, s.dtype, seed=5) for s in jax.eval_shape(function, x))

    def gradient(x):
        return jax.vjp(function, x)[1](cotangents)[0]

    def along(f, t):
        return f(tuple(z + t.astype(z.dtype) * dz for z, dz in zip(x, dx, strict=True)))

    @jax.jit
    def everything(x, dx):
        one, zero = jnp.ones(()), jnp.zeros(())
        return (
            jax.jvp(function, (x,), (dx,))[1],
            differences(lambda t: along(function, t), zero, one),
            *jax.jvp(gradient, (x,), (dx,)),
            differences(lambda t: along(gradient, t), zero, one),
        )

    tangents, expected, cotangent, second, second_expected = everything(x, dx)
    for tangent, difference in zip(tangents, expected, strict=True):
        assert relative_error(tangent, difference) < 1e-6
    forward = pairing(cotangents, tangents)
    assert abs(forward - pairing(cotangent, dx)) < 1e-9 * max(1, abs(forward))
    for tangent, difference in zip(second, second_expected, strict=True):
        assert relative_error(tangent, difference) < 1e-6


CASES = [
    # every mode with and without pivoting, in every shape; conjugation with either
    (shape, mode, pivoting, pivoting == (mode == "left"), dtype)
    for shape, mode, pivoting in itertools.product(SHAPES, MODES, (False, True))
    for dtype in DTYPES
    if dtype == "complex128" or pivoting == (mode == "left")
]


@pytest.mark.parametrize(("shape", "mode", "pivoting", "conjugate", "dtype"), CASES)
def test_tangents_equal_differences_and_cotangents_pair(shape, mode, pivoting, conjugate, dtype):
    """(10.1) to (10.9), forward, reverse and second order."""

    def function(x):
        return jaxqr.qr_multiply(*x, mode, pivoting=pivoting, conjugate=conjugate)[:2]

    x = separated(shape, dtype), operand(shape, mode, dtype)
    dx = normal(shape, dtype, seed=2), operand(shape, mode, dtype, seed=3)
    check_derivatives(function, x, dx)


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


@pytest.mark.parametrize("native", ["kernels where there are any", "LAPACK"])
def test_no_q_is_formed(native, monkeypatch):
    if native == "LAPACK":
        monkeypatch.setattr(lowering, "available", lambda: False)
    jax.clear_caches()
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
    jax.clear_caches()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("multiply", [True, False])
def test_packed_reflectors_are_differentiable_in_every_argument(multiply, dtype):
    """Reflectors and factors that no factorization made, so that their product is not unitary."""
    x = normal((2, 5, 3), dtype), normal((2, 3), dtype, 1), normal((2, 4, 5), dtype, 2)
    dx = normal((2, 5, 3), dtype, 3), normal((2, 3), dtype, 4), normal((2, 4, 5), dtype, 5)

    def function(x):
        if not multiply:
            return (jaxqr.householder_product(*x[:2]),)
        right = jaxqr.householder_multiply(*x, left=False)
        return right, jaxqr.householder_multiply(*x[:2], x[2].mT, adjoint=True)

    check_derivatives(function, x, dx)


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


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("adjoint", [True, False])
@pytest.mark.parametrize("batch", [((), ()), ((), (2,)), ((2,), ()), ((2, 1), (3,))], ids=str)
def test_householder_multiply_takes_vectors_and_batches_that_broadcast(batch, left, adjoint):
    h, tau = jaxqr.qr(normal((*batch[0], 5, 3), "complex128"), "raw")
    h = h.mT
    q = householder_full(h, tau)
    q = np.conj(np.swapaxes(q, -1, -2)) if adjoint else q
    c = normal((*batch[1], *((5, 2) if left else (2, 5))), "complex128", seed=1)
    v = normal((5,), "complex128", seed=2)
    f = functools.partial(jaxqr.householder_multiply, left=left, adjoint=adjoint)
    got, want = f(h, tau, c), q @ c if left else c @ q
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=1e-13)
    np.testing.assert_allclose(f(h, tau, v), q @ v if left else v @ q, atol=1e-13)
    moved = jax.grad(lambda v: jnp.sum(f(h, tau, v).real))(jnp.asarray(v))
    by_ones = np.ones(5) @ q if left else q @ np.ones(5)
    np.testing.assert_allclose(moved, by_ones.reshape(-1, 5).sum(axis=0), atol=1e-13)


def householder_full(h, tau):
    """The whole Q of packed reflectors."""
    below = jnp.zeros((*h.shape[:-1], h.shape[-2] - h.shape[-1]), h.dtype)
    square = jnp.concatenate([h, below], axis=-1)
    return np.asarray(jaxqr.householder_product(square, tau))


def test_q_of_a_complex_lq_from_its_reflectors():
    a = normal((3, 5), "complex128")
    (_, q), (h, tau) = jaxqr.lq(a), jaxqr.lq(a, "raw")
    c = normal((2, 5), "complex128", seed=1)
    np.testing.assert_allclose(jaxqr.householder_product(h.mT, tau.conj()).mT, q, atol=1e-14)
    whole = jaxqr.lq(a, "complete").Q
    product = jaxqr.householder_multiply(h.mT, tau.conj(), c.mT).mT
    np.testing.assert_allclose(product, c @ whole, atol=1e-13)
