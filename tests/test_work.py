"""Work that is left undone: rules that do not run, outputs that nobody asked for, copies."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jaxqr
from jaxprs import bound, equations
from laws import assert_close, loss_of
from matrices import normal, separated
from surroundings import needs_kernels

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


def test_a_donated_matrix_is_overwritten():
    a = jnp.asarray(separated((5, 3)))
    want = jaxqr.qr(a, "raw").h
    got = jax.jit(lambda a: jaxqr.qr(a, "raw").h.mT, donate_argnums=0)(a)
    assert a.is_deleted()
    assert_close(got.mT, want)


@needs_kernels
@pytest.mark.parametrize("shape, count, mapped", [((5, 3), 4, True), ((40, 20), 4, False)])
def test_tangents_at_one_point_are_one_call_of_a_kernel_or_more_columns(shape, count, mapped):
    """A kernel on copies of Q and R is quicker where they are small or the tangents are many."""
    a, das = separated(shape), normal((count, *shape), seed=3)

    def tangents(a, das):
        return jax.vmap(lambda da: tangent_of(jaxqr.qr)(a, da))(das)

    assert ("qr_jvp" in bound(tangents, a, das)) == mapped
    many = jnp.concatenate([das] * 5)
    assert "qr_jvp" in bound(tangents, a, many)
    got = tangents(a, das)
    assert_close(got, jax.tree.map(lambda x: x[:count], tangents(a, many)))
    assert_close(
        got, jax.tree.map(lambda *x: jnp.stack(x), *(tangent_of(jaxqr.qr)(a, d) for d in das))
    )
