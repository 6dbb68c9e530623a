"""Sharded batches: no communication, and the batch's sharding kept, on eight simulated devices."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxqr
from foreign_platform import lowered_for, targets
from laws import assert_close, loss_of, mostly_nightly, quickly
from matrices import normal, separated
from meshes import X, assert_sharded, every_mesh, everything, mesh_of, put, run

BATCH = 16
# operations on one array, so that every one of them has the same derivatives to take
OPERATIONS = {
    "reduced": ((5, 3), jaxqr.qr),
    "wide": ((3, 5), jaxqr.qr),
    "complete": ((5, 3), lambda a: jaxqr.qr(a, "complete")),
    "r": ((5, 3), lambda a: jaxqr.qr(a, "r")),
    "raw": ((5, 3), lambda a: jaxqr.qr(a, "raw")),
    "lq": ((3, 5), jaxqr.lq),
    "pivoted": ((5, 3), lambda a: jaxqr.qr(a, pivoting=True)),
    "product": ((5, 3), lambda a: jaxqr.householder_product(a, a[..., 0, :])),
    "multiply": ((5, 3), lambda a: jaxqr.householder_multiply(a, a[..., 0, :], a)),
    "lstsq": ((5, 3), lambda a: jaxqr.lstsq(a, jnp.sin(a[..., :2]))),
    "wide lstsq": ((3, 5), lambda a: jaxqr.lstsq(a, jnp.sin(a[..., :2]))),
    "qr_multiply": ((5, 3), lambda a: jaxqr.qr_multiply(a, a.mT)),
}


def batch(operation):
    shape = (BATCH, *OPERATIONS[operation][0])
    return separated(shape), normal(shape, seed=1)


@functools.cache
def expected(operation):
    """What `everything` gives on one device."""
    return quickly(everything(OPERATIONS[operation][1]), *batch(operation))


@pytest.mark.parametrize(
    "operation, kind",
    mostly_nightly(
        itertools.product(OPERATIONS, ("automatic", "explicit")),
        lambda operation, kind: (kind == "explicit") == (list(OPERATIONS).index(operation) % 2),
    ),
)
def test_a_sharded_batch_stays_where_it_is(kind, operation):
    with mesh_of(kind) as mesh:
        f = everything(OPERATIONS[operation][1])
        out, collectives = run(f, *put(mesh, *batch(operation)))
    assert not collectives
    assert_sharded(out, mesh)
    assert_close(out, expected(operation))


@pytest.mark.parametrize("operation", mostly_nightly([("pivoted",), ("reduced",), ("lstsq",)], 3))
def test_the_tpus_program_of_a_batch_on_an_explicit_mesh_gathers_nothing(operation):
    # XLA's partitioner knows nothing of the TPU's Qr
    f = everything(OPERATIONS[operation][1])
    with mesh_of("explicit") as mesh:
        args = put(mesh, *batch(operation))
        exported = lowered_for(["tpu"], lambda args: f(*args), args)
        out, collectives = run(exported.call, args)
    assert targets(exported) & {"Qr", "ProductOfElementaryHouseholderReflectors"}
    assert not collectives
    assert_sharded(out, mesh)
    assert_close(out, expected(operation))


@pytest.mark.parametrize("operation", mostly_nightly(((name,) for name in OPERATIONS), 2))
def test_shard_map_checks_and_runs_every_derivative_inside(operation):
    with mesh_of("automatic") as mesh:
        f = everything(OPERATIONS[operation][1])
        inside = jax.shard_map(f, mesh=mesh, in_specs=X, out_specs=X, check_vma=True)
        out, collectives = run(inside, *put(mesh, *batch(operation)))
    assert not collectives
    assert_close(out, expected(operation))


def test_operations_on_an_explicit_mesh_need_no_jit():
    f = OPERATIONS["reduced"][1]
    with mesh_of("explicit") as mesh:
        a, da = put(mesh, *batch("reduced"))
        out = f(a), list(jax.jvp(f, (a,), (da,))[1]), jax.grad(loss_of(f))(a)
    assert_sharded(out, mesh)
    assert_close(out, expected("reduced")[:3])


@every_mesh
def test_the_only_communication_is_the_sum_of_a_loss(kind):
    a, _ = batch("reduced")
    f = jax.value_and_grad(loss_of(OPERATIONS["reduced"][1]))
    with mesh_of(kind) as mesh:
        (value, gradient), collectives = run(f, *put(mesh, a))
    assert collectives == {"all-reduce"}
    assert_sharded(gradient, mesh)
    assert_close((value, gradient), quickly(f, a))


@every_mesh
@pytest.mark.parametrize("derivative", [jax.jacfwd, jax.jacrev, jax.hessian])
def test_jacobians_of_every_matrix_of_a_sharded_batch_stay_with_it(kind, derivative):
    a = normal((BATCH, 3, 2))
    f = loss_of(jaxqr.qr) if derivative is jax.hessian else jaxqr.qr
    f = jax.vmap(derivative(f))
    with mesh_of(kind) as mesh:
        out, collectives = run(f, *put(mesh, a))
    assert not collectives
    assert_sharded(out, mesh)
    assert_close(out, quickly(f, a))


def tangent(a, da):
    return tuple(jax.jvp(jaxqr.qr, (a,), (da,))[1])


def cotangent(a, ct):
    q, r = jaxqr.qr(a)
    return jax.vjp(jaxqr.qr, a)[1](jaxqr.QRResult(ct * q**2, r**2))


def multiply(h, c):
    return jaxqr.householder_multiply(h, h[..., 0, :], c)


def gradients_of_products(a, c):
    def loss(a, c):
        return loss_of(jaxqr.lstsq)(a, c) + loss_of(jaxqr.qr_multiply)(a, c.mT)

    return jax.grad(loss, (0, 1))(a, c)


@every_mesh
@pytest.mark.parametrize("replicated", [0, 1])
@pytest.mark.parametrize("f", [tangent, cotangent, multiply])
def test_a_replicated_operand_meets_a_sharded_batch(kind, f, replicated):
    arrays = [normal((BATCH, 5, 3), seed=i) for i in range(2)]
    arrays[replicated] = arrays[replicated][0]
    specs = [X, X]
    specs[replicated] = P()
    f = jax.vmap(f, in_axes=[(None, 0), (0, None)][replicated])
    with mesh_of(kind) as mesh:
        args = [put(mesh, x, spec=s)[0] for x, s in zip(arrays, specs, strict=True)]
        out, collectives = run(f, *args)
    assert not collectives
    assert_sharded(out, mesh)
    assert_close(out, quickly(f, *arrays))


@every_mesh
def test_right_hand_sides_of_one_matrix_are_its_columns_where_no_mesh_is_seen(kind):
    a, b = normal((5, 3)), normal((BATCH, 5, 2), seed=1)
    f = jax.vmap(gradients_of_products, (None, 0))
    with mesh_of(kind) as mesh:
        out, collectives = run(f, *put(mesh, a, spec=P()), *put(mesh, b))
    assert collectives == ({"all-gather"} if kind == "automatic" else set())
    assert_close(out, quickly(f, a, b))


@pytest.mark.parametrize("shapes", [((5, 3), (BATCH, 5, 2)), ((BATCH, 5, 3), (5,))])
def test_batches_broadcast_on_an_explicit_mesh(shapes):
    a, b = (normal(shape, seed=i) for i, shape in enumerate(shapes))

    def f(a, b):
        return jaxqr.lstsq(a, b), jaxqr.qr_multiply(a, b.mT if b.ndim > 1 else b).CQ

    with mesh_of("explicit") as mesh:
        args = [put(mesh, x, spec=X if x.ndim == 3 else P())[0] for x in (a, b)]
        out, collectives = run(f, *args)
    assert not collectives
    assert_sharded(out, mesh)
    assert_close(out, quickly(f, a, b))


def test_an_array_from_outside_the_mesh_meets_a_sharded_batch():
    h, c = jnp.asarray(normal((5, 3))), normal((BATCH, 5, 3), seed=1)
    f = jax.vmap(functools.partial(multiply, h))
    want = f(c)
    with mesh_of("explicit") as mesh:
        out, collectives = run(f, *put(mesh, c))
    assert not collectives
    assert_sharded(out, mesh)
    assert_close(out, want)


def test_shard_map_sums_the_gradient_of_a_replicated_operand():
    a, c = normal((BATCH, 5, 3)), normal((5, 3), seed=1)

    def loss(a, c):
        c = jnp.broadcast_to(c, a.shape)
        return loss_of(multiply)(a, c)

    with mesh_of("automatic") as mesh:
        specs = (P("x"), P())
        f = jax.shard_map(jax.grad(loss, (0, 1)), mesh=mesh, in_specs=specs, out_specs=specs)
        out, collectives = run(f, *put(mesh, a), *put(mesh, c, spec=P()))
    assert collectives == {"all-reduce"}
    assert_close(out, quickly(jax.grad(loss, (0, 1)), a, c))


def test_shard_map_knows_that_factors_of_a_replicated_matrix_are_replicated():
    a = normal((5, 3))
    with mesh_of("automatic") as mesh:
        f = jax.shard_map(everything(jaxqr.qr), mesh=mesh, in_specs=P(), out_specs=P())
        out, collectives = run(f, *put(mesh, a, a, spec=P()))
    assert not collectives
    assert_close(out, quickly(everything(jaxqr.qr), a, a))


def test_shard_map_mixes_replicated_reflectors_with_a_sharded_batch():
    h, c = normal((5, 3)), normal((BATCH, 5, 3), seed=1)
    f = jax.vmap(multiply, (None, 0))
    with mesh_of("automatic") as mesh:
        inside = jax.shard_map(f, mesh=mesh, in_specs=(P(), X), out_specs=X)
        out, collectives = run(inside, *put(mesh, h, spec=P()), *put(mesh, c))
    assert not collectives
    assert_close(out, quickly(f, h, c))


@every_mesh
@pytest.mark.parametrize(
    "shape, spec", [((BATCH, 5, 3), P(("x", "y"))), ((4, 2, 5, 3), P("x", "y"))]
)
def test_a_batch_is_sharded_over_two_axes_of_the_mesh(kind, shape, spec):
    a, da = separated(shape), normal(shape, seed=1)
    f = everything(lambda a: jaxqr.qr(a, pivoting=True))
    with mesh_of(kind, (4, 2), ("x", "y")) as mesh:
        out, collectives = run(f, *put(mesh, a, da, spec=spec))
    assert not collectives
    assert_sharded(out, mesh, spec)
    assert_close(out, quickly(f, a, da))


@pytest.mark.parametrize(
    "f, spec",
    [
        (jaxqr.qr, P(None, None, "x")),
        (lambda a: jaxqr.qr(a, pivoting=True), P(None, None, "x")),
        (jaxqr.lq, P(None, "x")),
        (jaxqr.rq, P(None, None, "x")),
        (
            lambda c: jaxqr.householder_multiply(np.ones((2, 8, 3)), np.zeros((2, 3)), c),
            P(None, "x"),
        ),
    ],
    ids=["qr", "pivoted", "lq of rows", "rq", "multiply"],
)
def test_sharded_matrix_dimensions_on_an_explicit_mesh_say_what_to_do(f, spec):
    with mesh_of("explicit") as mesh:
        (a,) = put(mesh, normal((2, 8, 8)), spec=spec)
        with pytest.raises(ValueError, match=r"must not be sharded, got f64.*jax.sharding.reshard"):
            f(a)


def test_following_the_advice_of_the_error_works_and_keeps_the_gradients_sharding():
    a = normal((2, 8, 3))

    def loss(a):
        return loss_of(jaxqr.qr)(jax.sharding.reshard(a, P(None, None, None)))

    with mesh_of("explicit") as mesh:
        gradient = jax.jit(jax.grad(loss))(*put(mesh, a, spec=P(None, "x")))
    assert_sharded(gradient, mesh, P(None, "x"))
    assert_close(gradient, quickly(jax.grad(loss_of(jaxqr.qr)), a))


@pytest.mark.parametrize("spec", [P(None, "x"), P(None, None, "x")])
def test_sharded_matrix_dimensions_on_an_automatic_mesh_are_gathered(spec):
    a, da = normal((2, 8, 8)), normal((2, 8, 8), seed=1)
    f = everything(jaxqr.qr)
    with mesh_of("automatic") as mesh:
        out, collectives = run(f, *put(mesh, a, da, spec=spec))
    assert "all-gather" in collectives
    assert_close(out, quickly(f, a, da))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.complex64])
def test_an_explicit_mesh_takes_other_dtypes_and_the_positive_diagonal(dtype):
    a = jnp.asarray(normal((BATCH, 5, 3), "float32")).astype(dtype)
    f = functools.partial(jaxqr.qr, mode="complete", positive_diagonal=True)
    program = everything(f)
    with mesh_of("explicit") as mesh:
        out, collectives = run(program, *put(mesh, a, a))
    assert not collectives
    assert_sharded(out, mesh)
    assert_close(out, quickly(program, a, a), 2e-2 if dtype == jnp.bfloat16 else 1e-3)
