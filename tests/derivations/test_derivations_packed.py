"""Sections 4 and 5 of `notebooks/derivations.md`: the complete Q, reflectors and tau.

The package's rules are compared with differences of LAPACK's factors; what JAX makes of them by
transposition is paired with those, and compared with the reverse rules of the document.
"""

import numpy as np

from jaxqr._lowering.compact_wy import apply_reflectors, form_reflectors
from notation import (
    H,
    back,
    close,
    every,
    fd,
    full_qr,
    over,
    over_h,
    pairs,
    qr,
    raw,
    rule,
    skw,
    slo,
    tall,
    under,
    wy,
    y_of,
    z_of,
)
from own_rules import complete_jvp, complete_vjp, raw_jvp, raw_vjp, run, tangent, thin_jvp, thin_vjp


def with_a_trivial_reflector(draw, m, n):
    """A, and a tangent that keeps the first tau zero."""
    A, dA = draw.matrix(m, n), draw(m, n)
    A[1:, 0], dA[1:, 0], A[0, 0], dA[0, 0] = 0, 0, 1.3, 0.4
    assert raw(A)[1][0] == 0
    return A, dA


# ----------------------------------------------------------------- 4. complete Q
@rule("4.1", "4.2")
@tall
def test_reflectors_are_the_lu_factors_of_e1_minus_q1_and_t_needs_no_division_by_tau(draw, m, n):
    A, _ = with_a_trivial_reflector(draw, m, n)
    h, tau = raw(A)
    (Q1, Qp, _), (V, T, S) = full_qr(A), wy(h, tau)
    Q = np.hstack([Q1, Qp])
    close(np.eye(m) - V @ T @ H(V), Q, 1e-14)
    close(run(form_reflectors, h, tau), Q1, 1e-14)
    for left, adjoint in ((True, False), (False, True)):
        got = run(apply_reflectors, h, tau, np.eye(m) + 0 * Q, left=left, adjoint=adjoint)
        close(got, H(Q) if adjoint else Q, 1e-14)
    close(V @ S, np.eye(m, n) - Q1, 1e-14)
    close((slo(S), np.diag(S)), (0 * S, tau), 1e-14)


@rule("4.3")
@tall
def test_the_orthogonal_complement_is_a_triangular_solve_away_from_q1(draw, m, n):
    for trivial in (False, True):
        A = with_a_trivial_reflector(draw, m, n)[0] if trivial else draw.matrix(m, n)
        (Q1, Qp, _), Z = full_qr(A), z_of(raw(A)[0], n)
        close(np.eye(m)[:, n:] + (Q1 - np.eye(m, n)) @ H(Z), Qp, 1e-13)
        if not trivial:
            close(Q1[n:] @ np.linalg.inv(Q1[:n] - np.eye(n)), Z, 1e-12)


@rule("4.4")
@tall
def test_complete_jvp_is_the_derivative_of_lapacks_complete_q(draw, m, n):
    for A, dA in ((draw.matrix(m, n), draw(m, n)), with_a_trivial_reflector(draw, m, n)):
        (Q1, Qp, R), (h, tau) = full_qr(A), raw(A)
        got = complete_jvp(Q1, R, h, dA)
        close(got, fd(full_qr, A, dA))
        Z, (V, T, S) = z_of(h, n), wy(h, tau)
        F, Y = got[0][n:] - Z @ got[0][:n], y_of(Q1, Z)
        close((Y, got[0] @ H(Z) - Y @ H(F)), (Q1 + Qp @ Z, got[1]), 1e-12)
        if np.all(tau):
            close(-over_h(V @ T, S), Y, 1e-12)


@rule("4.4")
def test_complete_jvp_at_tau_zero_is_a_tangent_with_the_right_thin_part_and_projector(draw):
    def positive(A):
        Q, R = qr(A)
        s = np.sign(np.diag(R).real)
        return Q * s, s[:, None] * R, np.eye(len(Q)) - Q @ H(Q)

    A, dA = np.eye(7, 4) + 0 * draw(7, 4), draw(7, 4)
    A[:4, :4] += np.triu(draw(4, 4), 1)
    (Q1, Qp, R), (h, tau) = full_qr(A), raw(A)
    assert not np.any(tau)
    dQ1, dQp, dR = complete_jvp(Q1, R, h, dA)
    Om = H(np.hstack([Q1, Qp])) @ np.hstack([dQ1, dQp])
    close(Om, -H(Om), 1e-13)
    close((dQ1, dR, dQp @ H(Qp) + Qp @ H(dQp)), fd(positive, A, dA))
    close(dQp, -Q1 @ (H(dQ1) @ Qp), 1e-13)


@rule("4.5")
@tall
def test_complete_vjp_pairs_with_the_derivative(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    (Q1, _, R), (h, _) = full_qr(A), raw(A)
    Q1bar, Qpbar, Rbar = draw(m, n), draw(m, m - n), draw(n, n)
    gradient = complete_vjp(Q1, R, h, Q1bar, Qpbar, Rbar)
    pairs(fd(full_qr, A, dA), (Q1bar, Qpbar, Rbar), dA, gradient)
    Z = z_of(h, n)
    Fbar = -H(Qpbar) @ y_of(Q1, Z)
    folded = Q1bar + Qpbar @ Z + np.vstack([-H(Z) @ Fbar, Fbar])
    close(thin_vjp(Q1, R, folded, Rbar), gradient, 1e-12)


@rule("4.6")
@tall
def test_the_generator_of_the_complete_q_has_a_low_rank_corner(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    (Q1, Qp, R), (h, _) = full_qr(A), raw(A)
    dQ1, dQp, _ = complete_jvp(Q1, R, h, dA)
    Z, Q, signs = z_of(h, n), np.hstack([Q1, Qp]), np.sign(np.diag(R).real)
    for D in (np.eye(n), np.diag(signs)):  # LAPACK's signs, then a positive diagonal
        E, ZD = over(H(Q) @ dA, D @ R), Z @ D
        O11, E21 = skw(D @ E[:n]), E[n:]
        O22 = E21 @ H(ZD) - ZD @ H(E21) - ZD @ O11 @ H(ZD)
        K = E21 - ZD @ O11 / 2
        close(K @ H(ZD) - ZD @ H(K), O22, 1e-12)
        dQ = np.hstack([Q1 @ D, Qp]) @ np.block([[O11, -H(E21)], [E21, O22]])
        close((dQ[:, :n], dQ[:, n:]), (dQ1 @ D, dQp), 1e-12)


@rule("4.7")
@tall
def test_the_parallel_gauge_moves_the_projector_rightly_but_is_not_integrable(draw, m, n):
    def parallel(A, Qp, dA):
        Q1, R = qr(A)
        return -Q1 @ (H(thin_jvp(Q1, R, dA)[0]) @ Qp)

    A, X, Y = draw.matrix(m, n), draw(m, n), draw(m, n)
    Q1, Qp, R = full_qr(A)
    dX = parallel(A, Qp, X)
    close(dX @ H(Qp) + Qp @ H(dX), fd(lambda a: np.eye(m) - qr(a)[0] @ H(qr(a)[0]), A, X)[0])
    cot = draw(m, n), draw(m, m - n), draw(n, n)
    dQ1, dR = thin_jvp(Q1, R, X)
    gradient = thin_vjp(Q1, R, cot[0] - Qp @ (H(cot[1]) @ Q1), cot[2])
    pairs((dQ1, dX, dR), cot, X, gradient, 1e-12)

    def second(X, Y):  # derivative along Y of the rule along X
        step = parallel(A, Qp, Y)
        return fd(lambda t: parallel(A + t * Y, Qp + t * step, X), 0.0, 1.0)[0]

    EX, EY = (over(H(Qp) @ d, R) for d in (X, Y))
    close(second(X, Y) - second(Y, X), Qp @ (EX @ H(EY) - EY @ H(EX)))


# ----------------------------------------------------------------- 5. raw
def factors_and_reflectors(A):
    return *qr(A), *raw(A)


@rule("5.1", "5.2")
@every
def test_raw_jvp_is_the_derivative_of_reflectors_and_tau(draw, m, n):
    cases = [(draw.matrix(m, n), draw(m, n))]
    # an interior trivial reflector is exact along directions that keep it trivial
    cases += [with_a_trivial_reflector(draw, m, n)] if m > n else []
    for A, dA in cases:
        Q, R, h, tau = factors_and_reflectors(A)
        close(raw_jvp(Q, R, h, tau, dA), fd(raw, A, dA))
    if m > n:
        dh, dtau = raw_jvp(Q, R, h, tau, draw(m, n))
        assert not np.any(dh[1:, 0]) and dtau[0] == 0 and np.all(np.isfinite(dh))


@rule("5.2")
@every
def test_t_and_the_product_of_the_reflectors_follow_them(draw, m, n):
    A, dA, k = draw.matrix(m, n), draw(m, n), min(m, n)
    Q, R, h, tau = factors_and_reflectors(A)
    dh, dtau = raw_jvp(Q, R, h, tau, dA)
    (V, T, S), dQ = wy(h, tau), thin_jvp(Q, R, dA, outputs=("q",))[0]
    close(tangent(form_reflectors, (h[:, :k], tau), (dh[:, :k], dtau)), dQ, 1e-11)
    L = under(V[:k], slo(dh[:k, :k]))
    dS = np.triu(-under(V[:k], dQ[:k]) - L @ S)
    dT = H(under(V[:k], H(dS))) - T @ H(L)
    close((dT, np.diag(dS) * (tau != 0)), (fd(lambda a: wy(*raw(a))[1], A, dA)[0], dtau))


@rule("5.3")
@every
def test_raw_vjp_pairs_with_the_derivative(draw, m, n):
    A, dA, cot = draw.matrix(m, n), draw(m, n), (draw(m, n), draw(min(m, n)))
    at = factors_and_reflectors(A)
    pairs(fd(raw, A, dA), cot, dA, raw_vjp(*at, *cot))
    close(backwards(*at, *cot), raw_vjp(*at, *cot), 1e-11)
    A[1:, 0], A[0, 0] = 0, 1.3  # a trivial reflector, a general direction
    at = factors_and_reflectors(A)
    pairs(raw_jvp(*at, dA), cot, dA, raw_vjp(*at, *cot), 1e-12)
    close(backwards(*at, *cot), raw_vjp(*at, *cot), 1e-11)


def backwards(Q, R, h, tau, hbar, taubar):
    """(5.3) as the document has it."""
    k, on = len(tau), tau != 0
    V, _, S = wy(h, tau)
    S_, Vbar = S + np.diag(~on), slo(hbar[:, :k])
    G = over_h(Vbar[k:] * on, S_)
    Sbar = np.triu(np.diag(taubar * on) - H(V[k:]) @ G)
    Lbar = (H(V[:k]) @ Vbar[:k] - Sbar @ H(S)) * on
    Nbar = Sbar + over_h(slo(Lbar), S_)
    Qbar = -np.vstack([back(H(V[:k]), Nbar), G])
    return thin_vjp(Q, R, Qbar, np.triu(hbar[:k]))
