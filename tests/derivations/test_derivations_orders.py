"""Sections 12 and 13 of `notebooks/derivations.md`: second derivatives, and half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from notation import (
    EPS,
    Draw,
    H,
    back,
    close,
    error,
    every,
    fd,
    full_qr,
    mixed,
    on_the_rank_r_set,
    over,
    pairs,
    pivoted_qr,
    qr,
    raw,
    rule,
    tall,
    upp,
    wy,
    y_of,
    z_of,
)
from own_rules import (
    complete_jvp,
    counts,
    factors,
    run,
    second,
    tangent,
    thin_jvp,
    thin_vjp,
)

THIN = {"outputs": ("q", "r")}


# ----------------------------------------------------------------- 12. second order
@rule("12.1")
@every
def test_a_rule_differentiated_again_is_the_second_derivative(draw, m, n):
    A, X, Y = draw.matrix(m, n), draw(m, n), draw(m, n)
    close(second(factors, (A,), (X,), (Y,), **THIN), mixed(qr, A, X, Y), 1e-6)


@rule("12.1")
@pytest.mark.parametrize("m, n", [(7, 4), (5, 5)])
def test_the_second_derivative_by_hand_is_that_of_jax(draw, m, n):
    A, X, Y = draw.matrix(m, n), draw(m, n), draw(m, n)
    Q, R = qr(A)
    (dQ, dR), B = thin_jvp(Q, R, Y), over(X, R)
    Psi, ddB = upp(H(Q) @ B), -over(B @ dR, R)
    ddPsi = upp(H(dQ) @ B + H(Q) @ ddB)
    by_hand = ddB - dQ @ Psi - Q @ ddPsi, ddPsi @ R + Psi @ dR
    close(by_hand, second(factors, (A,), (X,), (Y,), **THIN), 1e-11)


@rule("12.2")
@tall
def test_factors_inside_a_rule_must_themselves_be_differentiated(draw, m, n):
    def rule_with_constant_reflectors(a):
        Q1, _, R = full_qr(a)
        return complete_jvp(Q1, R, h, X)[1]

    A, X, Y = draw.matrix(m, n), draw(m, n), draw(m, n)
    h, ref = raw(A)[0], mixed(lambda a: np.hstack(full_qr(a)[:2]), A, X, Y)
    close(second(factors, (A,), (X,), (Y,), outputs=("q_full",)), ref, 1e-6)
    assert error(fd(rule_with_constant_reflectors, A, Y)[0], ref[0][:, n:]) > 0.05


@rule("12.2")
@pytest.mark.parametrize("m, n", [(7, 4), (4, 7)])
def test_reflectors_and_tau_have_second_derivatives(draw, m, n):
    A, X, Y = draw.matrix(m, n), draw(m, n), draw(m, n)
    close(second(factors, (A,), (X,), (Y,), outputs=("h", "tau")), mixed(raw, A, X, Y), 1e-6)


@rule("12.3")
@tall
def test_the_complement_is_a_sum_of_two_products_each_linear_in_the_tangent(draw, m, n):
    (Q1, _, R), (h, _) = full_qr(draw.matrix(m, n)), raw(draw.matrix(m, n))
    Z, dA, other = z_of(h, n), draw(m, n), draw(m, n)
    dQ1, dQp, _ = complete_jvp(Q1, R, h, dA)
    F, Y = dQ1[n:] - Z @ dQ1[:n], y_of(Q1, Z)
    close(np.hstack([dQ1, -Y]) @ H(np.hstack([Z, F])), dQp, 1e-12)
    close(
        complete_jvp(Q1, R, h, 2 * dA + other)[1], 2 * dQp + complete_jvp(Q1, R, h, other)[1], 1e-12
    )


def gradient_of(cotangents, a):
    """The gradient at A by the package's reverse rule: a function to differentiate."""
    return jax.vjp(lambda a: factors(a, **THIN), a)[1](cotangents)[0].conj()


@rule("12.4")
@every
def test_differentiating_the_vjp_gives_the_same_hessian_as_differentiating_twice(draw, m, n):
    A, X, Y = draw.matrix(m, n), draw(m, n), draw(m, n)
    cot = draw(m, min(m, n)), upp_of(draw(min(m, n), n))
    conjugated = tuple(c.conj() for c in cot)  # JAX's pairing
    change = tangent(gradient_of, (A,), (Y,), fixed=(conjugated,))  # forward over reverse
    pairs(second(factors, (A,), (X,), (Y,), **THIN), cot, X, change, 1e-11)
    close(change, fd(lambda a: thin_vjp(*qr(a), *cot), A, Y)[0])


def upp_of(Rbar):
    k = len(Rbar)
    return np.hstack([upp(Rbar[:, :k]), Rbar[:, k:]])


@rule("12.5")
@tall
def test_the_derivative_of_z_divides_by_s_which_is_singular_only_at_tau_zero(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    (Q1, R), (V, _, S), Z = qr(A), wy(*raw(A)), z_of(raw(A)[0], n)
    dQ1, _ = thin_jvp(Q1, R, dA)
    F = dQ1[n:] - Z @ dQ1[:n]
    dZ = -H(back(H(V[:n]), H(over(F, S))))
    close(dZ, fd(lambda a: z_of(raw(a)[0], n), A, dA)[0])
    assert np.min(np.abs(np.diag(S))) >= 1 - 4 * EPS
    A[1:, 0], A[0, 0] = 0, 1
    assert wy(*raw(A))[2][0, 0] == 0
    again = second(factors, (A,), (dA,), (dA,), outputs=("q_full",))
    assert np.all(np.isfinite(again[0]))


@rule("12.6")
@pytest.mark.parametrize("m, n, r", [(7, 4, 3), (5, 5, 2), (4, 7, 2)])
def test_permutation_and_mask_are_locally_constant(draw, m, n, r):
    A, dA = draw.matrix(m, n), draw(m, n)
    p, moved = (run(factors, a, outputs=("p",), pivoting="exact")[0] for a in (A, A + 1e-6 * dA))
    assert np.array_equal(p, moved) and np.array_equal(p, pivoted_qr(A)[2])
    A[:, p[1]] *= 100
    assert pivoted_qr(A)[2][0] == p[1]  # piecewise constant only
    A, _, curve = on_the_rank_r_set(draw, m, n, r)
    p = pivoted_qr(A)[2]
    for t in (0, 1e-6):
        R = qr(curve(t)[:, p])[1]
        assert np.array_equal(counts(R, pivoted=True), np.arange(min(m, n)) < r)


# ----------------------------------------------------------------- 13. half precision
def rounded(x):
    """To bfloat16 and back, by parts."""
    if np.iscomplexobj(x):
        return rounded(x.real) + 1j * rounded(x.imag)
    return np.asarray(x, jnp.bfloat16).astype(np.float32)


@rule("13.1")
def test_single_precision_residuals_keep_the_digits_that_rounded_outputs_lose(draw):
    A, dA = rounded(draw.matrix(64, 16)), rounded(draw(64, 16))
    Q, R = qr(A)
    assert np.finfo(Q.dtype).eps > 1e-8
    ref = thin_jvp(*qr(A.astype(complex)), dA.astype(complex))
    for kept, lost, exact in zip(
        thin_jvp(Q, R, dA), thin_jvp(rounded(Q), rounded(R), dA), ref, strict=True
    ):
        assert error(kept, exact) < 4e-6 < 4e-4 < error(lost, exact)


@rule("13.1")
def test_the_tangent_of_a_half_precision_matrix_is_that_in_single_precision_rounded_last():
    draw = Draw("real", seed=0)
    A, dA = rounded(draw.matrix(64, 16)), rounded(draw(64, 16))
    got = tangent(reduced, (A.astype(jnp.bfloat16),), (dA.astype(jnp.bfloat16),))
    ref = thin_jvp(*qr(A.astype(float)), dA.astype(float))
    lost = thin_jvp(*map(rounded, qr(A)), dA)
    for kept, worse, exact in zip(got, lost, ref, strict=True):
        assert kept.dtype == jnp.bfloat16
        within = 2.0**-8 * np.abs(exact) + 1e-5  # each entry to its last digit
        assert np.all(np.abs(kept.astype(float) - exact) <= within)
        assert not np.all(np.abs(worse - exact) <= within)


def reduced(a):
    return tuple(jaxqr.qr(a))
