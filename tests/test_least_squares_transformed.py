"""Least squares under JAX's transformations: batches, export, and no Q is formed."""

import re

import jax
import numpy as np
import pytest
from jax import export

import jaxqr
from foreign_platform import UNCHECKED, gradient, lowered_for
from laws import assert_close
from least_squares import loss
from matrices import normal, of_rank

pytestmark = pytest.mark.usefixtures("fast_compilation")


@pytest.mark.parametrize(
    "batch_a, batch_b",
    [((), None), ((3,), None), ((), (2, 3)), ((3,), ()), ((2, 1), (3,)), ((1,), (4,))],
    ids=str,
)
def test_batches_of_a_and_b_broadcast(batch_a, batch_b):
    a, b = normal((*batch_a, 5, 3)), normal((5,) if batch_b is None else (*batch_b, 5, 2), seed=1)
    x, residuals, rank = jaxqr.lstsq(a, b)
    want = np.linalg.pinv(a) @ (b[:, None] if batch_b is None else b)
    rest = (b[:, None] if batch_b is None else b) - a @ want
    if batch_b is None:
        want, rest = want[..., 0], rest[..., 0]
    squares = np.sum(rest**2, axis=-1 if batch_b is None else -2)
    assert_close((x, residuals), (want, squares), 1e-12)
    assert rank.shape == np.broadcast_shapes(batch_a, batch_b or ())


# ------------------------------------------------------------------------- transformations


def test_mapping_over_right_hand_sides_copies_no_matrix():
    a, b = normal((6, 4)), normal((7, 6), seed=1)
    for function in (lambda b: jaxqr.lstsq(a, b)[:2], lambda b: jax.grad(loss, 1)(a, b)):
        mapped = jax.vmap(function)
        text = str(jax.make_jaxpr(mapped)(b))
        assert re.search(r"\[6,4\]", text)
        assert not re.search(r"\[7,6,4\]", text)
        one = [function(row) for row in b]
        for got, *want in zip(*map(jax.tree.leaves, (mapped(b), *one)), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-12)


def test_transformations_of_the_value():
    a, b = np.stack([normal((6, 4)), of_rank(2, (6, 4))]), normal((2, 6, 3), seed=1)
    want = jaxqr.lstsq(a, b)
    assert_close(jax.jit(jax.vmap(jaxqr.lstsq))(a, b), want, 1e-13)
    assert_close(jax.vmap(jaxqr.lstsq, (2, 1))(np.moveaxis(a, 0, 2), b.swapaxes(0, 1)), want, 1e-13)
    one_b = jax.vmap(jaxqr.lstsq, (0, None))(a, b[0])
    assert_close(one_b, jaxqr.lstsq(a, b[0]), 1e-13)
    assert_close(jax.lax.scan(lambda c, ab: (c, jaxqr.lstsq(*ab)), 0, (a, b))[1], want, 1e-13)
    with jax.disable_jit():
        assert_close(jaxqr.lstsq(a[1], b[1]), [z[1] for z in want], 1e-13)
    shapes = jax.eval_shape(jaxqr.lstsq, a, b)
    assert [(z.shape, z.dtype) for z in shapes] == [(z.shape, z.dtype) for z in want]


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)], ids=str)
def test_export_round_trip(shape):
    a, b = np.stack([normal(shape), of_rank(2, shape)]), normal((2, shape[0], 3), seed=1)
    both = jax.jit(lambda a, b: (jaxqr.lstsq(a, b)[:2], jax.grad(loss)(a, b)))
    exported = export.export(both, disabled_checks=UNCHECKED)(a, b)
    loaded = export.deserialize(exported.serialize())
    assert_close(jax.tree.leaves(loaded.call(a, b)), jax.tree.leaves(both(a, b)), 1e-11)


@pytest.mark.parametrize("platform", ["this", "cpu", "cuda", "rocm", "tpu"])
@pytest.mark.parametrize("pivoting", [True, False])
def test_q_is_applied_and_never_formed(pivoting, platform):
    def solve(ab):
        return jaxqr.lstsq(*ab, pivoting=pivoting)

    operands = normal((6, 4), "complex128"), normal((6, 2), "complex128", seed=1)
    for function in (solve, gradient(solve)):
        if platform == "this":
            text = jax.jit(function).lower(operands).as_text()
            outputs = re.findall(r'outputs = "([^"]*)"', text)
            assert not any("q" in listed.split(",") for listed in outputs)
        else:
            text = lowered_for([platform], function, operands).mlir_module()
            assert re.search("geqrf|Qr", text)
        assert not re.search("orgqr|ungqr|ProductOfElementaryHouseholderReflectors", text)
