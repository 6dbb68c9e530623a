"""JAX's transformations of every operation, and the work that is left undone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxqr
from laws import assert_close, differences, floating, loss_of, mostly_nightly, pairing
from matrices import normal, separated

pytestmark = pytest.mark.usefixtures("fast_compilation")


def rotate(a):
    """Q^H A through the packed reflectors."""
    h, tau = jaxqr.qr(a, "raw")
    return jaxqr.householder_multiply(h.mT, tau, a, adjoint=True)


OPERATIONS = {
    "qr": ((4, 3), jaxqr.qr),
    "wide": ((2, 4), jaxqr.qr),
    "complete": ((4, 2), lambda a: jaxqr.qr(a, "complete")),
    "raw": ((4, 2), lambda a: jaxqr.qr(a, "raw")),
    "lq": ((3, 4), jaxqr.lq),
    "pivoted": ((4, 3), lambda a: jaxqr.qr(a, pivoting=True)),
    "rotate": ((3, 2), rotate),
}
every_operation = pytest.mark.parametrize("operation", OPERATIONS)
few_operations = pytest.mark.parametrize("operation", ["pivoted", "rotate"])


def program(operation, order=1, dtype="float64", batch=()):
    """An operation, or the gradient of a loss of it, and where to evaluate it."""
    shape, f = OPERATIONS[operation]
    return (jax.grad(loss_of(f)) if order else f), separated((*batch, *shape), dtype)


@functools.cache
def expected(operation, order=1, batch=()):
    f, a = program(operation, order, batch=batch)
    return jax.jit(f)(a)


# ----------------------------------------------------------------------------------- vmap


@pytest.mark.parametrize("order", [0, 1], ids=["value", "gradient"])
@every_operation
def test_vmap_equals_the_batch_over_any_dimension(operation, order):
    f, a = program(operation, order, batch=(3,))
    want = expected(operation, order, (3,))
    for axis in (-1,) if order else (0, 1, -1):
        mapped = jax.jit(jax.vmap(f, in_axes=axis))
        assert_close(mapped(jnp.moveaxis(a, 0, axis)), want)


@few_operations
def test_vmap_nests_and_joins_the_batch(operation):
    f, a = program(operation, batch=(2, 3, 2))
    nested = jax.vmap(jax.vmap(f, in_axes=1, out_axes=1), in_axes=-3, out_axes=0)
    assert_close(jax.jit(nested)(jnp.swapaxes(a, 0, 1)), jnp.swapaxes(jax.jit(f)(a), 0, 2))


@few_operations
def test_vmap_maps_tangents_and_cotangents_at_one_point(operation):
    shape, f = OPERATIONS[operation]
    a, das = separated(shape), normal((3, *shape), seed=2)

    def tangent(a, da):
        out, dout = jax.jvp(lambda a: floating(f(a)), (a,), (da,))
        return dout, jax.vjp(lambda a: floating(f(a)), a)[1]([x * jnp.sum(da) for x in out])

    together = jax.jit(jax.vmap(tangent, in_axes=(None, 0)))(a, das)
    copies = jnp.broadcast_to(a, das.shape)
    assert_close(together, jax.jit(jax.vmap(tangent))(copies, das))


@every_operation
def test_jacobians_agree_and_the_hessian_is_symmetric(operation):
    shape, f = OPERATIONS[operation]
    a = separated(shape)

    @jax.jit
    def derivatives(a):
        forward, reverse = (jac(lambda a: floating(f(a)))(a) for jac in (jax.jacfwd, jax.jacrev))
        return forward, reverse, jax.hessian(loss_of(f))(a)

    forward, reverse, hessian = derivatives(a)
    assert_close(forward, reverse)
    hessian = hessian.reshape(a.size, a.size)
    assert np.max(np.abs(hessian)) > 1e-3
    assert_close(hessian, hessian.T, 1e-10)


# ----------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize(
    "operation, dtype",
    mostly_nightly([*((name, "complex128") for name in OPERATIONS), ("qr", "float64")], 2),
)
def test_second_derivatives_agree_in_every_order_of_modes(operation, dtype):
    loss = loss_of(OPERATIONS[operation][1])
    gradient, a = program(operation, dtype=dtype)
    u, v = (normal(a.shape, dtype, seed) for seed in (2, 3))

    def slope(a):
        return jax.jvp(loss, (a,), (u,))[1]

    @jax.jit
    def second(a):
        forward_forward = jax.jvp(slope, (a,), (v,))[1]
        forward_reverse = pairing(jax.jvp(gradient, (a,), (v,))[1], u)
        reverse_forward = pairing(jax.grad(slope)(a), v)
        reverse_reverse = pairing(jax.grad(lambda a: pairing(gradient(a), u))(a), v)
        (difference,) = differences(lambda a: [pairing(gradient(a), u)], a, v)
        return [forward_forward, forward_reverse, reverse_forward, reverse_reverse, difference]

    *modes, difference = second(a)
    for mode in modes:
        assert_close(mode, modes[0])
    assert_close(modes[0], difference, 1e-6)
    assert abs(difference) > 1e-3


@few_operations
def test_linearize_and_linear_transpose_equal_jvp_and_vjp(operation):
    shape, f = OPERATIONS[operation]
    a, da = separated(shape, "complex128"), normal(shape, "complex128", seed=2)
    g = jax.jit(lambda a: floating(f(a)))
    out, linear = jax.linearize(g, a)
    assert_close(linear(da), jax.jvp(g, (a,), (da,))[1])
    cts = [x.conj() + 1 for x in out]
    (transposed,) = jax.linear_transpose(linear, a)(cts)
    assert_close(transposed, jax.vjp(g, a)[1](cts)[0])
    assert_close(pairing(cts, linear(da)), pairing(transposed, da))


def test_integer_input_has_no_tangent():
    a = np.array([[3, 1], [4, 1], [5, 9]])
    zero = np.zeros(a.shape, jax.dtypes.float0)
    (q, r), (dq, dr) = jax.jvp(jaxqr.qr, (a,), (zero,))
    assert_close((q, r), jaxqr.qr(a.astype("float64")))
    assert not np.any(dq)
    assert not np.any(dr)
    p, dp = jax.jvp(lambda a: jaxqr.qr(a, pivoting=True).P, (a * 1.0,), (a * 1.0,))
    assert p.dtype == np.int32
    assert dp.dtype == jax.dtypes.float0


# ---------------------------------------------------------------------------- control flow


def scanned(f, a):
    return lax.scan(lambda carry, x: (carry + jnp.sum(x), f(x)), 0.0, jnp.stack([a, 2 * a]))[1][0]


def looped(f, a):
    # forward mode only: differentiate outside
    return lax.fori_loop(0, 1, lambda i, x: f(x), a)


def branched(f, a):
    return lax.cond(jnp.sum(a) > jnp.inf, lambda a: -f(a), f, a)


def recomputed(f, a):
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return jax.checkpoint(f, policy=policy)(a)


def wrapped(f, a):
    g = jax.custom_vjp(lambda a: f(a))
    g.defvjp(lambda a: (f(a), a), lambda a, ct: (jax.vjp(f, a)[1](ct)[0],))
    return g(a)


@pytest.mark.parametrize("control", [scanned, looped, branched])
@few_operations
def test_gradients_are_taken_inside_control_flow(operation, control):
    f, a = program(operation)
    assert_close(jax.jit(functools.partial(control, f))(a), expected(operation))


@pytest.mark.parametrize("control", [scanned, branched, recomputed, wrapped])
@few_operations
def test_gradients_are_taken_through_control_flow(operation, control):
    loss = loss_of(OPERATIONS[operation][1])
    _, a = program(operation)
    through = jax.jit(jax.grad(functools.partial(control, loss)))
    assert_close(through(a), expected(operation))


def test_forward_derivatives_pass_a_loop():
    a, da = separated((3, 3)), normal((3, 3), seed=2)

    def iterate(a, loop):
        def step(i, a):
            return jaxqr.qr(a).R @ jaxqr.qr(a).Q  # the QR algorithm

        return lax.fori_loop(0, 3, step, a) if loop else step(0, step(0, step(0, a)))

    loop, plain = (
        jax.jit(lambda a, da, k=k: jax.jvp(lambda a: iterate(a, k), (a,), (da,)))(a, da)
        for k in (True, False)
    )
    assert_close(loop, plain, 1e-9)


# -------------------------------------------------------------------------- JAX's own checks


@pytest.mark.parametrize(
    "world",
    [
        jax.disable_jit,
        jax.checking_leaks,
        functools.partial(jax.debug_nans, True),
        functools.partial(jax.enable_checks, True),
    ],
    ids=["disable_jit", "checking_leaks", "debug_nans", "enable_checks"],
)
@few_operations
def test_gradients_pass_jaxs_checks(operation, world):
    f, a = program(operation)
    want = expected(operation)
    with world():
        got = f(a) if world is jax.disable_jit else jax.jit(lambda a: f(a))(a)
    assert_close(got, want)


@every_operation
def test_shapes_are_known_without_computing(operation):
    f, a = program(operation, 0, "complex64", batch=(2,))
    shapes, out = jax.eval_shape(f, a), jax.jit(f)(a)
    assert jax.tree.structure(shapes) == jax.tree.structure(out)
    assert [(s.shape, s.dtype) for s in jax.tree.leaves(shapes)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(out)
    ]
