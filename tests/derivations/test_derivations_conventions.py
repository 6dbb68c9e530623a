"""Section 0 of `notebooks/derivations.md`: the splitting, its adjoints, signs and conjugations."""

import numpy as np

from jaxqr._factor import rules
from jaxqr._factor.signs import make_diagonal_positive
from notation import (
    EPS,
    H,
    close,
    cpl,
    every,
    fd,
    ip,
    pivoted_qr,
    qr,
    raw,
    rule,
    skw,
    skw_adj,
    slo,
    upp,
)
from own_rules import factors, gradient, run, thin_jvp, thin_vjp


@rule("0.1")
def test_a_square_matrix_splits_uniquely_into_skew_hermitian_and_upper_with_real_diagonal(draw):
    E, K, U = draw(5, 5), skw(draw(5, 5)), upp(draw(5, 5))
    own = run(rules.skw, E)
    for S, T in ((skw(E), upp(E)), (own, E - own), (K, U)):
        assert np.array_equal(S, -H(S))
        assert np.array_equal(T, np.triu(T)) and not np.any(np.diag(T).imag)
    close((own, E - own), (skw(E), upp(E)), 1e-15)
    close(run(rules.skw, K + U), K, 1e-15)


@rule("0.2")
def test_copyltu_is_hermitian_and_gives_the_adjoints_of_the_two_projections(draw):
    X, E = draw(5, 5), draw(5, 5)
    own, adjoint = run(rules.cpl, X), run(rules.skw_adjoint, X)
    assert np.array_equal(own, H(own)) and np.array_equal(slo(own), slo(X))
    close((own, adjoint), (cpl(X), skw_adj(X)), 1e-15)
    assert np.isclose(ip(X, upp(E)), ip(run(rules.cpl, H(X)), E), rtol=1e-13)
    assert np.isclose(ip(X, skw(E)), ip(adjoint, E), rtol=1e-13)
    close((own - H(X), X - run(rules.cpl, H(X))), (adjoint,) * 2, 1e-15)


@rule("0.3")
@every
def test_diagonals_are_real_and_other_phases_can_be_made_real(draw, m, n):
    A = draw(m, n)
    for Q, R in (qr(A), run(factors, A, outputs=("q", "r"))):
        assert not np.any(np.diag(R).imag)
        close((Q @ R, np.tril(R, -1)), (A, 0 * R), 1e-13)
    assert not np.any(np.diag(pivoted_qr(A)[1]).imag)
    phase = draw(len(R))
    phase /= np.abs(phase)
    Q, R = Q * phase, phase.conj()[:, None] * R
    D = np.diag(R) / np.abs(np.diag(R))
    Q, R = Q * D, D.conj()[:, None] * R
    close(Q @ R, A, 1e-13)
    assert np.max(np.abs(np.diag(R).imag)) < 1e-13 and np.all(np.diag(R).real > 0)


@rule("0.3")
@every
def test_factors_of_other_signs_obey_the_same_rules(draw, m, n):
    A, dA = draw(m, n), draw(m, n)
    Q, R = qr(A)
    D = np.where(np.diag(R).real < 0, -1, 1)
    changed = run(make_diagonal_positive, Q, R)
    close(changed, (Q * D, D[:, None] * R), 0)
    dQ, dR = thin_jvp(Q, R, dA)
    close(thin_jvp(*changed, dA), (dQ * D, D[:, None] * dR), 1e-12)


@rule("0.4")
def test_tau_is_zero_or_lies_in_the_disc_of_radius_one_about_one_with_real_part_at_least_one(draw):
    def own(A):
        return run(factors, A, outputs=("tau",))[0]

    for tau in (lambda A: raw(A)[1], own):
        taus = np.concatenate([tau(draw(7, 4)) for _ in range(50)])
        assert np.all(taus.real >= 1 - 4 * EPS) and np.all(np.abs(taus - 1) <= 1 + 4 * EPS)
        A = draw(7, 4)
        A[1:, 0], A[0, 0] = 0, -1.5
        assert tau(A)[0] == 0
        A[1, 0] = 1e-12
        assert tau(A)[0].real >= 1
        assert draw.complex or tau(draw(5, 5))[-1] == tau(draw(4, 7))[-1] == 0


@rule("0.5")
@every
def test_conjugating_in_and_out_gives_the_gradient_for_the_pairing_without_conjugation(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    (Q, R), dQR = qr(A), fd(qr, A, dA)
    cot = draw(*Q.shape), draw(*R.shape)
    grad = thin_vjp(Q, R, cot[0].conj(), cot[1].conj()).conj()
    lhs = sum(np.sum(c * t).real for c, t in zip(cot, dQR, strict=True))
    assert np.isclose(lhs, np.sum(grad * dA).real, rtol=1e-8, atol=1e-8)
    if (m, n) in ((7, 4), (4, 7)):  # JAX pairs so; `gradient` conjugates what it gets and gives
        of_jax = gradient(factors, (A,), (cot[0].conj(), cot[1].conj()), outputs=("q", "r"))
        close(of_jax[0].conj(), grad, 1e-12)


@rule("0.6")
@every
def test_the_strictly_lower_part_of_rbar_has_no_influence(draw, m, n):
    Q, R = qr(draw.matrix(m, n))
    Qbar, Rbar = draw(*Q.shape), draw(*R.shape)
    close(thin_vjp(Q, R, Qbar, Rbar), thin_vjp(Q, R, Qbar, np.triu(Rbar)), 0)
    infinite = Rbar + np.tril(np.full(R.shape, np.inf), -1)
    close(thin_vjp(Q, R, Qbar, infinite), thin_vjp(Q, R, Qbar, Rbar), 0)
