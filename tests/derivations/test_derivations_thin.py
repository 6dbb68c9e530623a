"""Sections 1 to 3 of `notebooks/derivations.md`: the reduced factors, and R alone.

The package's rules are compared with differences of LAPACK's factors, and the other forms that
the document has with the package's rules.
"""

import numpy as np

from jaxqr._factor.multiply_primitive import QOperator
from notation import (
    H,
    back,
    back_h,
    close,
    cpl,
    deep,
    dg,
    error,
    every,
    fd,
    over,
    over_h,
    pairs,
    qr,
    raw,
    rule,
    skw,
    slo,
    upp,
    wide,
)
from own_rules import tangent, thin_jvp, thin_vjp


# ----------------------------------------------------------------- 1. deep and square
@rule("1.1")
@deep
def test_deep_jvp_is_the_derivative_of_both_factors(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    (Q, R), ref = qr(A), fd(qr, A, dA)
    close(thin_jvp(Q, R, dA), ref)
    B = over(dA, R)
    close((B - Q @ upp(H(Q) @ B), upp(H(Q) @ B) @ R), thin_jvp(Q, R, dA), 1e-12)
    close(Q @ skw(H(Q) @ B) + B - Q @ (H(Q) @ B), ref[0])


@rule("1.2")
@deep
def test_deep_jvp_by_the_weighted_hermitian_part_is_the_same(draw, m, n):
    (Q, R), dA = qr(draw.matrix(m, n)), draw(m, n)
    C, W = over(H(Q) @ dA, R), np.triu(np.full((n, n), 2.0), 1) + np.eye(n)
    dR = ((C + H(C)) / 2 * W) @ R
    close((over(dA - Q @ dR, R), dR), thin_jvp(Q, R, dA), 1e-12)


@rule("1.3")
@deep
def test_deep_vjp_pairs_with_the_derivative_also_for_one_factor_alone(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    (Q, R), ref = qr(A), fd(qr, A, dA)
    Qbar, Rbar = draw(m, n), draw(n, n)
    gradient = thin_vjp(Q, R, Qbar, Rbar)
    pairs(ref, (Qbar, Rbar), dA, gradient)
    pairs(ref[1:], (Rbar,), dA, thin_vjp(Q, R, None, Rbar))
    pairs(ref[:1], (Qbar,), dA, thin_vjp(Q, R, Qbar, None))
    M = R @ H(np.triu(Rbar)) - H(Qbar) @ Q
    close(over_h(Qbar + Q @ cpl(M), R), gradient, 1e-12)


@rule("1.4")
@deep
def test_the_form_with_the_halved_diagonal_is_the_same_gradient(draw, m, n):
    Q, R = qr(draw.matrix(m, n))
    Qbar, Rbar = draw(m, n), upp(draw(n, n))
    N = R @ H(Rbar) - Rbar @ H(R) + H(Q) @ Qbar - H(Qbar) @ Q
    X = slo(N) + dg(N) / 2
    Abar = Q @ (Rbar + over_h(X, R)) + over_h(Qbar - Q @ (H(Q) @ Qbar), R)
    close(Abar, thin_vjp(Q, R, Qbar, Rbar), 1e-12)


# ----------------------------------------------------------------- 2. wide
@rule("2.1")
@wide
def test_wide_jvp_is_the_derivative_of_both_factors(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    (Q, R), ref = qr(A), fd(qr, A, dA)
    close(thin_jvp(Q, R, dA), ref)
    C = H(Q) @ dA
    Om = skw(over(C[:, :m], R[:, :m]))
    close((Q @ Om, C - Om @ R), ref)


@rule("2.2")
@wide
def test_wide_vjp_pairs_with_the_derivative_also_for_one_factor_alone(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    (Q, R), ref = qr(A), fd(qr, A, dA)
    Qbar, Rbar = draw(m, m), draw(m, n)
    pairs(ref, (Qbar, Rbar), dA, thin_vjp(Q, R, Qbar, Rbar))
    pairs(ref[1:], (Rbar,), dA, thin_vjp(Q, R, None, Rbar))
    pairs(ref[:1], (Qbar,), dA, thin_vjp(Q, R, Qbar, None))


@rule("2.3", "2.4")
@wide
def test_the_copyltu_form_and_the_form_with_columns_of_a_are_the_same_gradient(draw, m, n):
    A = draw.matrix(m, n)
    (Q, R), Qbar, Rbar = qr(A), draw(m, m), draw(m, n)
    Rbar[:, :m] = upp(Rbar[:, :m])
    (U, V), (Ubar, Vbar) = np.split(R, [m], axis=1), np.split(Rbar, [m], axis=1)
    W = H(Qbar) @ Q + Vbar @ H(V)
    copyltu = Q @ np.hstack([over_h(H(W) + cpl(U @ H(Ubar) - W), U), Vbar])
    columns = np.hstack([thin_vjp(Q, U, Qbar + A[:, m:] @ H(Vbar), Ubar), Q @ Vbar])
    close((copyltu, columns), (thin_vjp(Q, R, Qbar, Rbar),) * 2, 1e-12)


# ----------------------------------------------------------------- 3. R alone
def triangle(a, h, tau, r, u):
    """R of what knows the reflectors, not Q."""
    return QOperator(a, (h, tau, r), False).bind(u, outputs=("r",), adjoint=True)


@rule("3.1")
@every
def test_the_derivative_of_r_needs_only_the_reflectors(draw, m, n):
    A, dA, k = draw.matrix(m, n), draw(m, n), min(m, n)
    (Q, R), (h, tau), (_, ref) = qr(A), raw(A), fd(qr, A, dA)
    close(thin_jvp(Q, R, dA, outputs=("r",)), (ref,))
    fixed = h[:, :k], tau, R, draw(m, 1)
    rest = [0 * x for x in fixed]
    close(tuple(tangent(triangle, (A, *fixed), (dA, *rest))), (ref,))


@rule("3.2")
@deep
def test_the_gradient_from_r_alone_needs_q_only_as_a_factor_from_the_left(draw, m, n):
    A, dA, Rbar = draw.matrix(m, n), draw(m, n), upp(draw(n, n))
    (Q, R), ref = qr(A), fd(qr, A, dA)
    X = over_h(cpl(R @ H(Rbar)), R)
    close((Q @ X, A @ back(R, X)), (thin_vjp(Q, R, None, Rbar),) * 2, 1e-12)
    pairs(ref[1:], (Rbar,), dA, thin_vjp(Q, R, None, Rbar))


@rule("3.3")
@deep
def test_the_gram_form_is_right(draw, m, n):
    (A, dA) = draw.matrix(m, n), draw(m, n)
    Q, R = qr(A)
    close(gram(A, R, dA), thin_jvp(Q, R, dA)[1], 1e-12)


@rule("3.3")
def test_the_gram_form_loses_digits_that_a_householder_q_keeps(draw):
    U, W = qr(draw(7, 4))[0], qr(draw(4, 4))[0]
    A, X = U * np.logspace(0, -6, 4) @ H(W), upp(draw(4, 4))
    Q, R = qr(A)  # dA = A X has the exact answer dR = R X
    for outputs in (("r",), ("q", "r")):
        dR = thin_jvp(Q, R, A @ X, outputs=outputs)[-1]
        assert error(dR, R @ X) < 1e-13 < 1e-12 < error(gram(A, R, A @ X), R @ X)


def gram(A, R, dA):
    return upp(over(back_h(R, H(A) @ dA), R)) @ R
