"""JAX's transformations of every operation, and the work that is left undone."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxqr
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


def floating(tree):
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]


def loss_of(f):
    return lambda *args: sum(jnp.sum(jnp.sin(x)).real for x in floating(f(*args)))


def program(operation, order=1, dtype="float64", batch=()):
    """An operation, or the gradient of a loss of it, and where to evaluate it."""
    shape, f = OPERATIONS[operation]
    return (jax.grad(loss_of(f)) if order else f), separated((*batch, *shape), dtype)


def pair(x, y):
    """JAX pairs cotangents with tangents without conjugation; real parts agree."""
    return sum(
        jnp.sum(s * t).real for s, t in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    )


def assert_close(got, want, tol=1e-11):
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    assert len(got) == len(want)
    for x, y in zip(got, want, strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(x, y, rtol=tol, atol=tol * max(1, np.max(np.abs(y), initial=0)))


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
    "operation, dtype", [*((name, "complex128") for name in OPERATIONS), ("qr", "float64")]
)
def test_second_derivatives_agree_in_every_order_of_modes(operation, dtype):
    loss = loss_of(OPERATIONS[operation][1])
    gradient, a = program(operation, dtype=dtype)
    u, v = (normal(a.shape, dtype, seed) for seed in (2, 3))
    step = 1e-4

    def slope(a):
        return jax.jvp(loss, (a,), (u,))[1]

    @jax.jit
    def second(a):
        forward_forward = jax.jvp(slope, (a,), (v,))[1]
        forward_reverse = pair(jax.jvp(gradient, (a,), (v,))[1], u)
        reverse_forward = pair(jax.grad(slope)(a), v)
        reverse_reverse = pair(jax.grad(lambda a: pair(gradient(a), u))(a), v)
        points = jnp.stack([a + t * step * v for t in (1, -1, 2, -2)])
        d = jax.vmap(lambda a: pair(gradient(a), u))(points)
        difference = (8 * (d[0] - d[1]) - (d[2] - d[3])) / (12 * step)
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
    assert_close(pair(cts, linear(da)), pair(transposed, da))


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


def test_a_donated_matrix_is_overwritten():
    a = jnp.asarray(separated((5, 3)))
    want = jaxqr.qr(a, "raw").h
    got = jax.jit(lambda a: jaxqr.qr(a, "raw").h.mT, donate_argnums=0)(a)
    assert a.is_deleted()
    assert_close(got.mT, want)


# ------------------------------------------------------------------------- the rules that run


def equations(jaxpr):
    """All equations of a jaxpr, those of its inner jaxprs too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
                yield from equations(inner)


def bound(f, *args):
    """The primitives of jaxqr in the program of `f`, with their parameters, live ones only."""
    jaxpr = jax.make_jaxpr(f)(*args).jaxpr
    found = [e for e in equations(jaxpr) if e.primitive.name.startswith("jaxqr_")]
    return {e.primitive.name.removeprefix("jaxqr_"): e.params for e in found}


A, DA = separated((5, 3)), normal((5, 3), seed=2)


def tangent_of(f):
    return lambda a, da: jax.jvp(f, (a,), (da,))[1]


def test_forward_mode_runs_the_tangents_rule():
    rules = bound(tangent_of(jaxqr.qr), A, DA)
    assert set(rules) == {"qr", "qr_jvp"}
    assert rules["qr_jvp"]["outputs"] == ("q", "r")


def test_reverse_mode_runs_the_cotangents_rule():
    rules = bound(jax.grad(loss_of(jaxqr.qr)), A)
    assert set(rules) - {"qr"} == {"qr_vjp"}
    assert rules["qr_vjp"]["inputs"] == ("q", "r")


@pytest.mark.parametrize("name", ["Q", "R"])
def test_the_gradient_of_one_factor_has_one_cotangent(name):
    rules = bound(jax.grad(lambda a: jnp.sum(jnp.sin(getattr(jaxqr.qr(a), name)))), A)
    assert rules["qr_vjp"]["inputs"] == (name.lower(),)
    rules = bound(jax.grad(loss_of(lambda a: jaxqr.qr(a, "r"))), A)
    assert rules["qr_vjp"]["inputs"] == ("r",)


def test_the_transposed_gradient_runs_the_tangents_rule_for_what_is_wanted():
    def gradient(ct):
        return jax.vjp(lambda a: jaxqr.qr(a, "r"), A)[1](ct)[0]

    ct = normal((3, 3), seed=4)
    rules = bound(lambda x: jax.linear_transpose(gradient, ct)(x)[0], DA)
    assert rules["qr_jvp"]["outputs"] == ("r",)
    assert "qr_vjp" not in rules


@pytest.mark.parametrize(
    "f, operation, outputs",
    [
        (lambda a: jaxqr.qr(a).R, "qr", ("r",)),
        (lambda a: jaxqr.qr(a).Q, "qr", ("q",)),
        (lambda a: jaxqr.qr(a, "complete").R, "qr", ("r",)),
        (lambda a: jaxqr.qr(a, pivoting=True).P, "qr", ("p",)),
        (lambda a: tangent_of(jaxqr.qr)(a, DA).R, "qr_jvp", ("r",)),
        (lambda a: tangent_of(jaxqr.qr)(a, DA).Q, "qr_jvp", ("q",)),
    ],
    ids=["R", "Q", "R of complete", "P", "dR", "dQ"],
)
def test_unused_outputs_are_not_asked_for(f, operation, outputs):
    def used(a):
        # scan is where JAX eliminates dead code before XLA sees it
        return lax.scan(lambda carry, a: (carry, f(a)), 0.0, a[None])[1]

    jaxpr = jax.make_jaxpr(used)(A)
    live, _ = jax.interpreters.partial_eval.dce_jaxpr(jaxpr.jaxpr, [True])
    params = {e.primitive.name: e.params for e in equations(live)}
    assert params[f"jaxqr_{operation}"]["outputs"] == outputs


@pytest.mark.parametrize("pivoting", [False, True])
def test_the_triangle_alone_forms_no_q(pivoting):
    def forms_q(mode):
        text = jax.jit(lambda a: jaxqr.qr(a, mode, pivoting=pivoting)).lower(A).as_text()
        # LAPACK's routine, or an output asked of the kernels
        return re.search(r'orgqr|outputs = "[^"]*\bq', text) is not None

    assert forms_q("reduced")
    assert not forms_q("r")
    assert not forms_q("raw")


# ------------------------------------------------------------------------ packed reflectors

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
    directions = [normal(x.shape, dtype, seed=5) for x in args]
    step = 1e-5

    def gradient(*args):
        return jax.grad(loss_of(f), argnums=tuple(range(len(args))))(*args)

    def differences(g, args, da):
        plus, minus = (
            g(*(x + t * step * d for x, d in zip(args, da, strict=True))) for t in (1, -1)
        )
        return jax.tree.map(lambda p, m: (p - m) / (2 * step), plus, minus)

    @jax.jit
    def everything(args, directions):
        out, pull = jax.vjp(f, *args)
        ct = jnp.sin(out)
        along_one = []  # each argument for itself: tangent, difference, and both pairings
        for i, (d, back) in enumerate(zip(directions, pull(ct), strict=True)):
            da = [d if j == i else jnp.zeros_like(x) for j, x in enumerate(args)]
            tangent = jax.jvp(f, args, tuple(da))[1]
            along_one.append((tangent, differences(f, args, da), pair(ct, tangent), pair(back, d)))
        second = jax.jvp(gradient, args, tuple(directions))[1]
        reverse = jax.grad(lambda args: pair(gradient(*args), directions))(args)
        return along_one, second, reverse, differences(gradient, args, directions)

    along_one, second, reverse, difference = everything(args, directions)
    for tangent, expected_tangent, forward, backward in along_one:
        assert np.max(np.abs(tangent)) > 1e-2
        assert_close(tangent, expected_tangent, 1e-8)
        assert_close(forward, backward)
    assert_close(second, difference, 1e-8)
    assert_close(second, reverse)


@pytest.mark.parametrize("adjoint", [True, False])
@pytest.mark.parametrize("left", [True, False])
def test_multiplication_is_linear_in_its_last_argument(left, adjoint):
    h, tau = packed((4, 3), "complex128", (2,))
    shape = (2, 4, 3) if left else (2, 3, 4)
    c, ct = normal(shape, "complex128", 1), normal(shape, "complex128", 2)
    f = functools.partial(jaxqr.householder_multiply, h, tau, left=left, adjoint=adjoint)
    (back,) = jax.linear_transpose(f, c)(ct)
    assert_close(pair(back, c), pair(ct, f(c)))
    (again,) = jax.linear_transpose(lambda ct: jax.linear_transpose(f, c)(ct)[0], ct)(c)
    assert_close(again, f(c))
    assert bound(lambda ct: jax.linear_transpose(f, c)(ct)[0], ct).keys() == {"ormqr"}
