"""Packed reflectors: their products, alone and with a matrix, in every argument."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from jaxprs import bound
from laws import assert_close, assert_differentiable, loss_of, pairing
from matrices import normal

pytestmark = pytest.mark.usefixtures("fast_compilation")

DTYPES = ("float64", "complex128")
REFLECTORS = {"deep": (5, 3), "square": (3, 3), "wide": (3, 5)}


def packed(shape, dtype, batch=()):
    """Reflectors of a factorization, but tau a little off: Q need not be unitary."""
    h, tau = jaxqr.qr(normal((*batch, *shape), dtype), "raw")
    return h.mT, tau * 0.9


def dense(h, tau):
    """H_1 ... H_k, multiplied out, of one matrix."""
    q = np.eye(h.shape[0], dtype=h.dtype)
    for i, t in enumerate(np.asarray(tau)):
        v = np.where(np.arange(h.shape[0]) > i, h[:, i], np.arange(h.shape[0]) == i)
        q = q @ (np.eye(h.shape[0]) - t * np.outer(v, v.conj()))
    return q


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", REFLECTORS.values(), ids=REFLECTORS)
def test_reflectors_are_multiplied_out(shape, dtype):
    h, tau = packed(shape, dtype, (2,))
    q = np.stack([dense(*one) for one in zip(np.asarray(h), tau, strict=True)])
    c = normal((2, shape[0], 2), dtype, seed=1)
    for left, adjoint in itertools.product((True, False), repeat=2):
        factor = q.conj().mT if adjoint else q
        x = c if left else c.mT
        got = jaxqr.householder_multiply(h, tau, x, left=left, adjoint=adjoint)
        assert_close(got, jnp.asarray(factor @ x if left else x @ factor), 1e-13)
    if shape[0] >= shape[1]:
        product = jaxqr.householder_product(h, tau)
        assert_close(product, jnp.asarray(q[..., : shape[1]]), 1e-13)
        first = jaxqr.householder_product(h[0], tau[0, :2])
        assert_close(first, jnp.asarray(dense(h[0], tau[0, :2])[:, : shape[1]]), 1e-13)


PRODUCTS = {
    "product": (jaxqr.householder_product, (5, 3), None),
    **{
        f"multiply {'left' if left else 'right'}{' adjoint' if adjoint else ''}": (
            functools.partial(jaxqr.householder_multiply, left=left, adjoint=adjoint),
            (4, 5) if left else (5, 3),
            (4, 2) if left else (2, 5),
        )
        for left, adjoint in itertools.product((True, False), repeat=2)
    },
}


@pytest.mark.parametrize(
    "name, dtype", [*((name, "complex128") for name in PRODUCTS), ("product", "float64")]
)
def test_products_of_reflectors_are_differentiable_in_every_argument(name, dtype):
    f, shape, c_shape = PRODUCTS[name]
    args = packed(shape, dtype)
    args += () if c_shape is None else (normal(c_shape, dtype, seed=1),)
    directions = tuple(normal(x.shape, dtype, seed=5) for x in args)
    assert_differentiable(lambda args: (f(*args),), args, directions)

    def gradient(*args):
        return jax.grad(loss_of(f), argnums=tuple(range(len(args))))(*args)

    @jax.jit
    def second(args):
        forward = jax.jvp(gradient, args, directions)[1]
        return forward, jax.grad(lambda args: pairing(gradient(*args), directions))(args)

    assert_close(*second(args))


@pytest.mark.parametrize("adjoint", [True, False])
@pytest.mark.parametrize("left", [True, False])
def test_multiplication_is_linear_in_its_last_argument(left, adjoint):
    h, tau = packed((4, 3), "complex128", (2,))
    shape = (2, 4, 3) if left else (2, 3, 4)
    c, ct = normal(shape, "complex128", 1), normal(shape, "complex128", 2)
    f = functools.partial(jaxqr.householder_multiply, h, tau, left=left, adjoint=adjoint)
    (back,) = jax.linear_transpose(f, c)(ct)
    assert_close(pairing(back, c), pairing(ct, f(c)))
    (again,) = jax.linear_transpose(lambda ct: jax.linear_transpose(f, c)(ct)[0], ct)(c)
    assert_close(again, f(c))
    assert bound(lambda ct: jax.linear_transpose(f, c)(ct)[0], ct).keys() == {"ormqr"}


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
