"""Operands of a primitive must agree; what a caller of none of the public functions is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxqr
from jaxqr._core.partition import broadcast_batch
from jaxqr._factor.packed import orgqr_p, ormqr_p
from laws import assert_close
from matrices import normal
from meshes import X, assert_sharded, mesh_of, put

H, TAU, C = np.ones((8, 5, 3)), np.ones((8, 3)), np.ones((8, 5, 2))


def multiply(h, tau, c):
    return ormqr_p.bind(h, tau, c, left=True, adjoint=False)[0]


@pytest.mark.parametrize(
    "operands, error, message",
    [
        (
            (H[0], TAU[0], C[0, 0]),
            ValueError,
            r"operand 2 must have at least 2 dimensions, got shape \(2,\)",
        ),
        (
            (H, TAU[:4], C),
            ValueError,
            r"operands must have the same batch dimensions, got \[\(8, 5, 3\), \(4, 3\), ",
        ),
        (
            (H, TAU, C.astype("float32")),
            TypeError,
            r"operands must have the dtype float32, float64, complex64 or complex128, all in the "
            r"same precision, got \['float64', 'float64', 'float32'\]",
        ),
        (
            tuple(x.astype("float16") for x in (H, TAU, C)),
            TypeError,
            r"operands must have the dtype .*, got \['float16', 'float16', 'float16'\]",
        ),
    ],
    ids=["dimensions", "batch", "precision", "half precision"],
)
def test_operands_that_do_not_agree_are_refused(operands, error, message):
    with pytest.raises(error, match=f"^ormqr: {message}"):
        multiply(*operands)


def test_operands_must_vary_over_the_same_axes():
    def product(h, tau):
        return orgqr_p.bind(h, tau)[0]

    with mesh_of("automatic") as mesh:
        f = jax.shard_map(product, mesh=mesh, in_specs=(X, P()), out_specs=X, check_vma=True)
        message = (
            r"^orgqr: operands must vary over the same manual axes, got .*; "
            r"use jax\.lax\.pcast\(x, axes, to='varying'\)"
        )
        with pytest.raises(ValueError, match=message):
            f(H, TAU[:1])


def test_matrix_dimensions_must_not_be_sharded():
    with mesh_of("explicit") as mesh:
        (c,) = put(mesh, np.ones((8, 8, 2)), spec=P(None, "x"))
        message = (
            r"^ormqr: the matrix dimensions of operand 2 must not be sharded, got "
            r"f64\[8,8@x,2\].* with P.*; reshard it with "
            r"jax\.sharding\.reshard\(x, PartitionSpec\(\*batch_axes, None, None\)\)"
        )
        with pytest.raises(ValueError, match=message):
            multiply(np.ones((8, 8, 3)), TAU, c)


def test_batches_must_be_sharded_alike():
    with mesh_of("explicit", (2, 4), ("x", "y")) as mesh:
        (h,), (tau, c) = put(mesh, H, spec=P("x")), put(mesh, TAU, C, spec=P("y"))
        message = r"^ormqr: operands must have the same batch sharding, got \[\('x',\), \('y"
        with pytest.raises(ValueError, match=message):
            multiply(h, tau, c)


def test_a_common_batch_is_sharded_as_the_first_operand_that_is():
    a, b = normal((4, 8, 5, 3)), normal((8, 5, 2), seed=1)
    with mesh_of("explicit", (2, 4), ("x", "y")) as mesh:
        (first,), (second,) = put(mesh, a, spec=P(None, "y")), put(mesh, b, spec=P("x"))
        _, found = broadcast_batch((first, second), (2, 2))
        assert_sharded(found, mesh, P(None, "y"))
        _, found = broadcast_batch((second, jnp.asarray(a[0, 0])), (2, 2))
        assert_sharded(found, mesh, P("x"))


@pytest.mark.parametrize("function", [jaxqr.lstsq, lambda a, b: jaxqr.qr_multiply(a, b.mT)])
def test_operands_that_are_sharded_along_different_batch_dimensions_meet(function):
    a, b = normal((4, 8, 5, 3)), normal((8, 5, 2), seed=1)
    want = function(a, b)
    with mesh_of("explicit", (2, 4), ("x", "y")) as mesh:
        (whole,), (part,) = put(mesh, a, spec=P("x")), put(mesh, b, spec=P("y"))
        got = function(whole, part)
    assert_close(got, want)
    assert jax.typeof(got[0]).sharding.spec[:2] == ("x", "y")
