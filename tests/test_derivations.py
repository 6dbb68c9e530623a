"""Every numbered rule of `notebooks/derivations.md`, against LAPACK (numpy and scipy only).

Forward rules are compared, output by output, with fourth-order central differences of LAPACK's
factors; reverse rules must satisfy <cotangent, tangent> = <gradient, dA> for those differences.
Names follow the document, and `@rule` says which of its equations a test answers for. Sections 9
and 10 are the business of `test_derivations_least_squares.py`.
"""

import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

import test_derivations_least_squares  # noqa: F401  enters the rules of sections 9 and 10
import test_derivations_row_blocks  # noqa: F401  and those of section 11
from derivations import (
    COVERED,
    DEEP,
    EPS,
    WIDE,
    Draw,
    H,
    close,
    complete_jvp,
    complete_vjp,
    counts,
    cpl,
    deep,
    deep_jvp,
    deep_vjp,
    dg,
    error,
    every,
    fd,
    full_qr,
    ip,
    lq,
    masked_jvp,
    masked_vjp,
    mixed,
    over,
    over_h,
    pairs,
    pivoted_qr,
    qr,
    raw,
    raw_jvp,
    raw_vjp,
    rule,
    skw,
    skw_adj,
    slo,
    split_jvp,
    split_vjp,
    tall,
    thin_jvp,
    thin_vjp,
    under,
    upp,
    wide,
    wide_jvp,
    wide_vjp,
    wy,
    y_of,
    z_of,
)

DOCUMENT = Path(__file__).resolve().parents[1] / "notebooks" / "derivations.md"


@pytest.fixture(params=["real", "complex"])
def draw(request):
    return Draw(request.param, zlib.crc32(request.node.name.encode()))


# ----------------------------------------------------------------- 0. conventions
@rule("0.1")
def test_a_square_matrix_splits_uniquely_into_skew_hermitian_and_upper_with_real_diagonal(draw):
    E, K, U = draw(5, 5), skw(draw(5, 5)), upp(draw(5, 5))
    close(skw(E) + upp(E), E, 1e-15)
    for S, T in ((skw(E), upp(E)), (K, U)):
        assert np.array_equal(S, -H(S))
        assert np.array_equal(T, np.triu(T)) and not np.any(np.diag(T).imag)
    close((skw(K + U), upp(K + U)), (K, U), 1e-15)


@rule("0.2")
def test_copyltu_is_hermitian_and_gives_the_adjoints_of_the_two_projections(draw):
    X, E = draw(5, 5), draw(5, 5)
    assert np.array_equal(cpl(X), H(cpl(X))) and np.array_equal(slo(cpl(X)), slo(X))
    assert np.isclose(ip(X, upp(E)), ip(cpl(H(X)), E), rtol=1e-13)
    assert np.isclose(ip(X, skw(E)), ip(skw_adj(X), E), rtol=1e-13)
    close((cpl(X) - H(X), X - cpl(H(X))), (skw_adj(X),) * 2, 1e-15)


@rule("0.3")
@every
def test_lapack_returns_a_real_diagonal_and_other_phases_can_be_made_real(draw, m, n):
    A = draw(m, n)
    Q, R = qr(A)
    assert not np.any(np.diag(R).imag) and not np.any(np.diag(pivoted_qr(A)[1]).imag)
    phase = draw(len(R))
    phase /= np.abs(phase)
    Q, R = Q * phase, phase.conj()[:, None] * R
    D = np.diag(R) / np.abs(np.diag(R))
    Q, R = Q * D, D.conj()[:, None] * R
    close(Q @ R, A, 1e-13)
    assert np.max(np.abs(np.diag(R).imag)) < 1e-13 and np.all(np.diag(R).real > 0)


@rule("0.4")
def test_tau_is_zero_or_lies_in_the_disc_of_radius_one_about_one_with_real_part_at_least_one(draw):
    taus = np.concatenate([raw(draw(9, 6))[1] for _ in range(50)])
    assert np.all(taus.real >= 1 - 4 * EPS) and np.all(np.abs(taus - 1) <= 1 + 4 * EPS)
    A = draw(6, 3)
    A[1:, 0], A[0, 0] = 0, -1.5
    assert raw(A)[1][0] == 0
    A[1, 0] = 1e-12
    assert raw(A)[1][0].real >= 1
    assert draw.complex or raw(draw(5, 5))[1][-1] == raw(draw(4, 7))[1][-1] == 0


@rule("0.5")
@every
def test_conjugating_in_and_out_gives_the_gradient_for_the_pairing_without_conjugation(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    (Q, R), dQR = qr(A), fd(qr, A, dA)
    cot = draw(*Q.shape), draw(*R.shape)
    grad = thin_vjp(Q, R, cot[0].conj(), cot[1].conj()).conj()
    lhs = sum(np.sum(c * t).real for c, t in zip(cot, dQR, strict=True))
    assert np.isclose(lhs, np.sum(grad * dA).real, rtol=1e-8, atol=1e-8)


@rule("0.6")
@every
def test_the_strictly_lower_part_of_rbar_has_no_influence(draw, m, n):
    Q, R = qr(draw.matrix(m, n))
    Qbar, Rbar = draw(*Q.shape), draw(*R.shape)
    close(thin_vjp(Q, R, Qbar, Rbar), thin_vjp(Q, R, Qbar, np.triu(Rbar)), 1e-13)


# ----------------------------------------------------------------- 1. deep and square
@rule("1.1")
@deep
def test_deep_jvp_is_the_derivative_of_both_factors(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    (Q, R), ref = qr(A), fd(qr, A, dA)
    close(deep_jvp(Q, R, dA), ref)
    B = over(dA, R)
    close(Q @ skw(H(Q) @ B) + B - Q @ (H(Q) @ B), ref[0])
    close(upp(over(H(Q) @ dA, R)) @ R, ref[1])


@rule("1.2")
@deep
def test_deep_jvp_by_the_weighted_hermitian_part_is_the_same(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    Q, R = qr(A)
    C, W = over(H(Q) @ dA, R), np.triu(np.full((n, n), 2.0), 1) + np.eye(n)
    dR = ((C + H(C)) / 2 * W) @ R
    close((over(dA - Q @ dR, R), dR), fd(qr, A, dA))


@rule("1.3")
@deep
def test_deep_vjp_pairs_with_the_derivative_also_for_one_factor_alone(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    (Q, R), ref = qr(A), fd(qr, A, dA)
    Qbar, Rbar = draw(m, n), draw(n, n)
    pairs(ref, (Qbar, Rbar), dA, deep_vjp(Q, R, Qbar, Rbar))
    pairs(ref[1:], (Rbar,), dA, Q @ over_h(cpl(R @ H(Rbar)), R))
    pairs(ref[:1], (Qbar,), dA, over_h(Qbar - Q @ cpl(H(Qbar) @ Q), R))


@rule("1.4")
@deep
def test_the_form_with_the_halved_diagonal_is_the_same_gradient(draw, m, n):
    Q, R = qr(draw.matrix(m, n))
    Qbar, Rbar = draw(m, n), draw(n, n)
    N = R @ H(Rbar) - Rbar @ H(R) + H(Q) @ Qbar - H(Qbar) @ Q
    X = slo(N) + dg(N) / 2
    Abar = Q @ (Rbar + over_h(X, R)) + over_h(Qbar - Q @ (H(Q) @ Qbar), R)
    close(Abar, deep_vjp(Q, R, Qbar, Rbar), 1e-13)


# ----------------------------------------------------------------- 2. wide
@rule("2.1")
@wide
def test_wide_jvp_is_the_derivative_of_both_factors(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    close(wide_jvp(*qr(A), dA), fd(qr, A, dA))


@rule("2.2")
@wide
def test_wide_vjp_pairs_with_the_derivative(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    cot = draw(m, m), draw(m, n)
    pairs(fd(qr, A, dA), cot, dA, wide_vjp(*qr(A), *cot))


@rule("2.3", "2.4")
@wide
def test_the_copyltu_form_and_the_form_with_columns_of_a_are_the_same_gradient(draw, m, n):
    A = draw.matrix(m, n)
    (Q, R), Qbar, Rbar = qr(A), draw(m, m), draw(m, n)
    (U, V), (Ubar, Vbar) = np.split(R, [m], axis=1), np.split(Rbar, [m], axis=1)
    W = H(Qbar) @ Q + Vbar @ H(V)
    copyltu = Q @ np.hstack([over_h(H(W) + cpl(U @ H(Ubar) - W), U), Vbar])
    columns = np.hstack([deep_vjp(Q, U, Qbar + A[:, m:] @ H(Vbar), Ubar), Q @ Vbar])
    close((copyltu, columns), (wide_vjp(Q, R, Qbar, Rbar),) * 2, 1e-12)


# ----------------------------------------------------------------- 3. R alone
def ormqr_h(h, tau, C):
    """Q^H C from the reflectors."""
    (f,) = scipy.linalg.get_lapack_funcs(("ormqr",), (h,))
    trans = "C" if np.iscomplexobj(h) else "T"
    return f("L", trans, np.asfortranarray(h[:, : len(tau)]), tau, C, 64 * C.shape[1])[0]


@rule("3.1")
@every
def test_the_derivative_of_r_needs_only_the_reflectors(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    k, (_, R) = min(m, n), qr(A)
    C = ormqr_h(*raw(A), dA)[:k]
    E = over(C[:, :k], R[:, :k])
    dR = upp(E) @ R if m >= n else C - skw(E) @ R
    close(dR, fd(qr, A, dA)[1])


@rule("3.2")
@deep
def test_the_gradient_from_r_alone_needs_q_only_as_a_factor_from_the_left(draw, m, n):
    A, dA, Rbar = draw.matrix(m, n), draw(m, n), draw(n, n)
    (Q, R), ref = qr(A), fd(qr, A, dA)
    X = over_h(cpl(R @ H(Rbar)), R)
    pairs(ref[1:], (Rbar,), dA, Q @ X)
    pairs(ref[1:], (Rbar,), dA, A @ scipy.linalg.solve_triangular(R, X))


@rule("3.3")
@deep
def test_the_gram_form_is_right_but_loses_digits_that_a_householder_q_keeps(draw, m, n):
    def gram(A, R, dA):
        return upp(over(scipy.linalg.solve_triangular(R, H(A) @ dA, trans="C"), R)) @ R

    A, dA = draw.matrix(m, n), draw(m, n)
    close(gram(A, qr(A)[1], dA), fd(qr, A, dA)[1])
    U, W = qr(draw(30, 8))[0], qr(draw(8, 8))[0]
    A, X = U * np.logspace(0, -6, 8) @ H(W), upp(draw(8, 8))
    Q, R = qr(A)  # dA = A X has the exact answer dR = R X
    assert error(deep_jvp(Q, R, A @ X)[1], R @ X) < 1e-13 < 1e-12 < error(gram(A, R, A @ X), R @ X)


# ----------------------------------------------------------------- 4. complete Q
def complete_factors(A):
    Q1, Qp, R = full_qr(A)
    V, T, S = wy(*raw(A))
    return Q1, Qp, R, V, T, S


@rule("4.1", "4.2")
@tall
def test_reflectors_are_the_lu_factors_of_e1_minus_q1_and_t_needs_no_division_by_tau(draw, m, n):
    A = draw.matrix(m, n)
    A[1:, 0] = 0  # the first tau is 0 for real matrices, and for complex ones below
    A[0, 0] = 1
    Q1, Qp, _, V, T, S = complete_factors(A)
    assert raw(A)[1][0] == 0
    close(np.eye(m) - V @ T @ H(V), np.hstack([Q1, Qp]), 1e-14)
    close(V @ S, np.eye(m, n) - Q1, 1e-14)
    close((slo(S), np.diag(S)), (0 * S, raw(A)[1]), 1e-14)


@rule("4.3")
@tall
def test_the_orthogonal_complement_is_a_triangular_solve_away_from_q1(draw, m, n):
    for trivial in (False, True):
        A = draw.matrix(m, n)
        if trivial:
            A[1:, 0], A[0, 0] = 0, 1
        Q1, Qp, _, V, _, _ = complete_factors(A)
        Z = z_of(V)
        close(np.eye(m)[:, n:] + (Q1 - np.eye(m, n)) @ H(Z), Qp, 1e-13)
        if not trivial:
            close(Q1[n:] @ np.linalg.inv(Q1[:n] - np.eye(n)), Z, 1e-12)


@rule("4.4")
@tall
def test_complete_jvp_is_the_derivative_of_lapacks_complete_q(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    Q1, Qp, R, V, T, S = complete_factors(A)
    Z = z_of(V)
    close(complete_jvp(Q1, R, Z, dA), fd(full_qr, A, dA))
    close((y_of(Q1, Z), -over_h(V @ T, S)), (Q1 + Qp @ Z,) * 2, 1e-12)
    A[1:, 0], dA[1:, 0], A[0, 0], dA[0, 0] = 0, 0, 1.3, 0.4  # tau_1 = 0 and stays 0
    Q1, Qp, R, V, T, S = complete_factors(A)
    close(complete_jvp(Q1, R, z_of(V), dA), fd(full_qr, A, dA))


@rule("4.4")
def test_complete_jvp_at_tau_zero_is_a_tangent_with_the_right_thin_part_and_projector(draw):
    def positive(A):
        Q, R = qr(A)
        s = np.sign(np.diag(R).real)
        return Q * s, s[:, None] * R, np.eye(len(Q)) - Q @ H(Q)

    A, dA = np.eye(6, 3) + 0 * draw(6, 3), draw(6, 3)
    A[:3, :3] += np.triu(draw(3, 3), 1)
    Q1, Qp, R, V, _, _ = complete_factors(A)
    assert not np.any(raw(A)[1])
    dQ1, dQp, dR = complete_jvp(Q1, R, z_of(V), dA)
    Om = H(np.hstack([Q1, Qp])) @ np.hstack([dQ1, dQp])
    close(Om, -H(Om), 1e-13)
    close((dQ1, dR, dQp @ H(Qp) + Qp @ H(dQp)), fd(positive, A, dA))
    close(dQp, -Q1 @ (H(dQ1) @ Qp), 1e-13)


@rule("4.5")
@tall
def test_complete_vjp_pairs_with_the_derivative(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    Q1, _, R, V, _, _ = complete_factors(A)
    cot = draw(m, n), draw(m, m - n), draw(n, n)
    pairs(fd(full_qr, A, dA), cot, dA, complete_vjp(Q1, R, z_of(V), *cot))


@rule("4.6")
@tall
def test_the_generator_of_the_complete_q_has_a_low_rank_corner(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    Q1, Qp, R, V, _, _ = complete_factors(A)
    Z, Q, signs = z_of(V), np.hstack([Q1, Qp]), np.sign(np.diag(R).real)
    for D in (np.eye(n), np.diag(signs)):  # LAPACK's signs, then a positive diagonal
        E, ZD = over(H(Q) @ dA, D @ R), Z @ D
        O11, E21 = skw(D @ E[:n]), E[n:]
        O22 = E21 @ H(ZD) - ZD @ H(E21) - ZD @ O11 @ H(ZD)
        K = E21 - ZD @ O11 / 2
        close(K @ H(ZD) - ZD @ H(K), O22, 1e-12)
        dQ = np.hstack([Q1 @ D, Qp]) @ np.block([[O11, -H(E21)], [E21, O22]])
        ref = fd(full_qr, A, dA)
        close((dQ[:, :n], dQ[:, n:]), (ref[0] @ D, ref[1]))


@rule("4.7")
@tall
def test_the_parallel_gauge_moves_the_projector_rightly_but_is_not_integrable(draw, m, n):
    def parallel(A, Qp, dA):
        Q1, R = qr(A)
        return -Q1 @ (H(deep_jvp(Q1, R, dA)[0]) @ Qp)

    A, X, Y = draw.matrix(m, n), draw(m, n), draw(m, n)
    Q1, Qp, R = full_qr(A)
    dX = parallel(A, Qp, X)
    close(dX @ H(Qp) + Qp @ H(dX), fd(lambda a: np.eye(m) - qr(a)[0] @ H(qr(a)[0]), A, X)[0])
    cot = draw(m, n), draw(m, m - n), draw(n, n)
    dQ1, dR = deep_jvp(Q1, R, X)
    gradient = deep_vjp(Q1, R, cot[0] - Qp @ (H(cot[1]) @ Q1), cot[2])
    pairs((dQ1, dX, dR), cot, X, gradient, 1e-12)

    def second(X, Y):  # derivative along Y of the rule along X
        step = parallel(A, Qp, Y)
        return fd(lambda t: parallel(A + t * Y, Qp + t * step, X), 0.0, 1.0)[0]

    EX, EY = (over(H(Qp) @ d, R) for d in (X, Y))
    close(second(X, Y) - second(Y, X), Qp @ (EX @ H(EY) - EY @ H(EX)))


# ----------------------------------------------------------------- 5. raw
def raw_and_t(A):
    h, tau = raw(A)
    return h, tau, wy(h, tau)[1]


@rule("5.1", "5.2")
@every
def test_raw_jvp_is_the_derivative_of_reflectors_tau_and_t(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    close(raw_jvp(*raw(A), dA), fd(raw_and_t, A, dA))
    if m > n:  # an interior trivial reflector is exact along directions that keep it trivial
        A[1:, 0], dA[1:, 0], A[0, 0], dA[0, 0] = 0, 0, 1.3, 0.4
        close(raw_jvp(*raw(A), dA), fd(raw_and_t, A, dA))
        dh, dtau, _ = raw_jvp(*raw(A), draw(m, n))
        assert not np.any(dh[1:, 0]) and dtau[0] == 0 and np.all(np.isfinite(dh))


@rule("5.3")
@every
def test_raw_vjp_pairs_with_the_derivative(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    cot = draw(m, n), draw(min(m, n))
    pairs(fd(raw, A, dA), cot, dA, raw_vjp(*raw(A), *cot))
    A[1:, 0], A[0, 0] = 0, 1.3  # a trivial reflector, a general direction
    pairs(raw_jvp(*raw(A), dA)[:2], cot, dA, raw_vjp(*raw(A), *cot), 1e-12)


# ----------------------------------------------------------------- 6. LQ
@rule("6.1", "6.2")
@every
def test_lq_is_the_plain_transpose_of_qr_and_so_are_its_rules(draw, m, n):
    A, dA = draw.matrix(n, m).T, draw(m, n)
    (L, Q), ref = lq(A), fd(lq, A, dA)
    close((L @ Q, Q @ H(Q), L), (A, np.eye(len(Q)), np.tril(L)), 1e-13)
    assert not np.any(np.diag(L).imag)
    dQ, dR = thin_jvp(Q.T, L.T, dA.T)
    close((dR.T, dQ.T), ref)
    Lbar, Qbar = draw(*L.shape), draw(*Q.shape)
    pairs(ref, (Lbar, Qbar), dA, thin_vjp(Q.T, L.T, Qbar.T, Lbar.T).T)
    Q2, R2 = qr(H(A))
    close((H(R2), H(Q2)), (L, Q), 1e-13)


@rule("6.3", "6.4")
@deep
def test_direct_lq_rules_for_no_more_rows_than_columns(draw, m, n):
    A, dA = draw.matrix(m, n).T, draw(n, m)
    (L, Q), ref = lq(A), fd(lq, A, dA)
    B = under(L, dA)
    Psi = H(upp(H(B @ H(Q))))
    close((L @ Psi, B - Psi @ Q), ref)
    Lbar, Qbar = draw(*L.shape), draw(*Q.shape)
    M = H(L) @ Lbar - Qbar @ H(Q)
    pairs(ref, (Lbar, Qbar), dA, under(L, Qbar + cpl(M) @ Q, trans="C"))


@rule("6.5", "6.6")
@wide
def test_direct_lq_rules_for_more_rows_than_columns(draw, m, n):
    A, dA = draw.matrix(m, n).T, draw(n, m)
    (L, Q), ref = lq(A), fd(lq, A, dA)
    C = dA @ H(Q)
    Om = H(skw(H(under(L[:m], C[:m]))))
    close((C - L @ Om, Om @ Q), ref)
    Lbar, Qbar = draw(*L.shape), draw(*Q.shape)
    U, V, Ubar, Vbar = L[:m], L[m:], Lbar[:m], Lbar[m:]
    W = Qbar @ H(Q) + H(Vbar) @ V
    top = under(U, W + cpl(H(U) @ Ubar - W), trans="C")
    pairs(ref, (Lbar, Qbar), dA, np.vstack([top, Vbar]) @ Q)


# ----------------------------------------------------------------- 7. pivoted
@rule("7.1", "7.2")
@every
def test_pivoted_rules_permute_tangents_in_and_gradients_out(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    (Q, R, p), ref = pivoted_qr(A), fd(pivoted_qr, A, dA)
    close((*thin_jvp(Q, R, dA[:, p]), 0.0 * p), ref)
    cot = draw(*Q.shape), draw(*R.shape)
    pairs(ref[:2], cot, dA, thin_vjp(Q, R, *cot)[:, np.argsort(p)])
    if m > n:
        h, _ = raw(A, pivoting=True)
        dQ = np.hstack(complete_jvp(Q, R, z_of(slo(h) + np.eye(m, n)), dA[:, p])[:2])
        close(dQ, fd(lambda a: scipy.linalg.qr(a, pivoting=True)[0], A, dA)[0])


@rule("7.1", "7.2")
def test_batched_permutations_are_gathers_along_the_last_axis():
    rng = np.random.default_rng(0)
    A, p = (
        rng.standard_normal((2, 3, 4, 6)),
        rng.permuted(np.tile(np.arange(6), (2, 3, 1)), axis=-1),
    )
    Ap = np.take_along_axis(A, p[..., None, :], -1)
    assert all(np.array_equal(Ap[i], A[i][:, p[i]]) for i in np.ndindex(2, 3))
    back = np.take_along_axis(Ap, np.argsort(p, -1)[..., None, :], -1)
    assert np.array_equal(back, A)


# ----------------------------------------------------------------- 8. rank-deficient
RANKS = pytest.mark.parametrize("m, n, r", [(7, 5, 3), (5, 5, 2), (4, 7, 2), (6, 4, 1)])


def rank_deficient(draw, m, n, r):
    """A, a tangent of the rank-r set, its curve, and Q, R, p, mask of the pivoted factors."""
    B, C, dB, dC = draw(m, r), draw(r, n), draw(m, r), draw(r, n)
    Q, R, p = pivoted_qr(B @ C)
    c = np.cumprod(counts(R)).astype(bool)
    assert np.array_equal(c, np.arange(min(m, n)) < r)
    return B @ C, dB @ C + B @ dC, lambda t: (B + t * dB) @ (C + t * dC), Q, R, p, c


@rule("8.1")
@RANKS
def test_masked_jvp_is_the_derivative_of_all_that_is_well_defined(draw, m, n, r):
    def defined(A):
        Q, R = qr(A[:, p])
        return Q[:, :r], R[:r], Q[:, :r] @ H(Q[:, :r])

    A, dA, curve, Q, R, p, c = rank_deficient(draw, m, n, r)
    dQ, dR = split_jvp(Q, R, c, c, dA[:, p])
    half = dQ[:, :r] @ H(Q[:, :r])
    close((dQ[:, :r], dR[:r], half + H(half)), fd(lambda t: defined(curve(t)), 0.0, 1.0))
    close((dQ @ R + Q @ dR, H(Q) @ dQ), (dA[:, p], -H(H(Q) @ dQ)), 1e-12)
    X = draw(m, n)  # leaves the rank-r set
    dQ, dR = split_jvp(Q, R, c, c, X[:, p])
    close((dQ[:, :r], dR[:r]), fd(defined, A, X)[:2])
    full = scipy.linalg.qr(A[:, p])[0]  # the complete Q, trailing columns by parallel transport
    row = np.arange(m) < r
    Rfull = np.where(row[:, None], np.vstack([R, np.zeros((m, n))])[:m], 0)
    dQ, dR = split_jvp(full, Rfull, c, row, dA[:, p])
    close((dQ @ Rfull + full @ dR, H(full) @ dQ), (dA[:, p], -H(H(full) @ dQ)), 1e-12)
    none = np.zeros_like(c)
    assert not any(np.any(d) for d in split_jvp(Q, 0 * R, none, none, X))


@rule("8.2")
@RANKS
def test_masked_vjp_pairs_with_the_masked_jvp_and_with_the_derivative(draw, m, n, r):
    A, _, _, Q, R, p, c = rank_deficient(draw, m, n, r)
    X, Qbar, Rbar = draw(m, n), draw(*Q.shape), draw(*R.shape)
    pairs(split_jvp(Q, R, c, c, X), (Qbar, Rbar), X, split_vjp(Q, R, c, c, Qbar, Rbar), 1e-12)
    gradient = split_vjp(Q, R, c, c, Qbar * c, Rbar)[:, np.argsort(p)]
    ref = fd(lambda a: (qr(a[:, p])[0] * c, c[:, None] * qr(a[:, p])[1]), A, X)
    pairs(ref, (Qbar, Rbar), X, gradient)


@rule("8.3")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_column_counts_against_its_own_norm_not_against_the_largest(draw, dtype):
    for m, n, r in [(7, 5, 3), (60, 40, 9), (40, 60, 9)]:
        A = draw(m, r) @ draw(r, n)
        R = pivoted_qr(A.astype(np.result_type(dtype, 1j) if draw.complex else dtype))[1]
        assert np.array_equal(np.cumprod(counts(R)), np.arange(min(m, n)) < r)
    A, dA = draw.matrix(7, 4), draw(7, 4)
    ref, grade = deep_jvp(*qr(A), dA)[0], np.array([1, 1e-16, 1, 1e-32])
    Q, R = qr(A * grade)
    c, relative = counts(R), np.abs(np.diag(R)) > 7 * EPS * np.abs(R[0, 0])
    assert np.all(c) and not np.all(relative)
    assert error(split_jvp(Q, R, c, c, dA * grade)[0], ref) < 1e-12
    assert error(split_jvp(Q, R, relative, relative, dA * grade)[0], ref) > 0.05


@rule("8.4")
def test_without_pivoting_zero_columns_and_all_before_a_dependent_one_are_exact(draw):
    A, dA, every_row = draw.matrix(7, 3), draw(7, 3), np.ones(3, bool)
    A[:, 0] = dA[:, 0] = 0
    Q, R = qr(A)
    c = counts(R)
    assert c.tolist() == [False, True, True]
    close(split_jvp(Q, R, c, every_row, dA), fd(qr, A, dA))
    A, dA, every_row = draw.matrix(7, 4), draw(7, 4), np.ones(4, bool)
    A[:, 2] = A[:, 0] + 2 * A[:, 1]
    Q, R = qr(A)
    c = counts(R)
    assert c.tolist() == [True, True, False, True]
    dQ, dR = split_jvp(Q, R, c, every_row, dA)
    close((dQ[:, :2], dR[:2]), fd(lambda a: (qr(a)[0][:, :2], qr(a)[1][:2]), A, dA))
    assert np.all(np.isfinite(dQ)) and np.all(np.isfinite(dR))


@rule("8.4")
@RANKS
def test_with_pivoting_the_gram_matrix_of_r_is_exact_in_every_direction(draw, m, n, r):
    A, _, _, Q, R, p, c = rank_deficient(draw, m, n, r)
    X, back = draw(m, n), np.argsort(p)
    dR = split_jvp(Q, R, c, c, X[:, p])[1]
    half = H(R[:, back]) @ dR[:, back]
    close(half + H(half), H(A) @ X + H(X) @ A, 1e-12)


@rule("8.5", "8.6", "8.7")
@pytest.mark.parametrize("pivoted", [False, True])
@pytest.mark.parametrize("m, n", [*DEEP, *WIDE, (4, 5)])
def test_the_rules_with_one_triangle_agree_with_the_split_ones_for_every_mask(draw, m, n, pivoted):
    A = draw.matrix(m, n)
    Q, R = qr(A)
    k = len(R)
    for bits in range(2**k):
        c = np.array([bits >> j & 1 for j in range(k)], bool)
        row = c if pivoted else np.ones(k, bool)
        Rc = np.where(c[:, None] | (not pivoted), R, 0)
        dA, cot = draw(m, n), (draw(m, k), draw(k, n))
        got, gradient = masked_jvp(Q, Rc, c, row, dA), masked_vjp(Q, Rc, c, row, *cot)
        close(got, split_jvp(Q, Rc, c, row, dA), 1e-11)
        close(gradient, split_vjp(Q, Rc, c, row, *cot), 1e-11)
        pairs(got, cot, dA, gradient, 1e-11)
    thin = thin_jvp(Q, R, dA)
    close(got, (thin[0], np.triu(thin[1])), 1e-12)
    close(gradient, thin_vjp(Q, R, *cot), 1e-12)


@rule("8.5", "8.6", "8.7")
@RANKS
def test_the_rules_with_one_triangle_are_exact_for_rank_deficient_matrices(draw, m, n, r):
    A, _, _, Q, R, p, c = rank_deficient(draw, m, n, r)
    X, cot = draw(m, n), (draw(*Q.shape) * c, draw(*R.shape))
    ref = fd(lambda a: (qr(a[:, p])[0] * c, c[:, None] * qr(a[:, p])[1]), A, X)
    dQ, dR = masked_jvp(Q, R, c, c, X[:, p])
    close((dQ * c, dR), ref)
    pairs(ref, cot, X, masked_vjp(Q, R, c, c, *cot)[:, np.argsort(p)])


@rule("8.8")
@pytest.mark.parametrize("m, n", [(7, 4), (5, 5), (4, 7)])
@pytest.mark.parametrize("r", [2, 4])
def test_a_power_of_two_can_be_moved_between_a_and_the_cotangents(draw, m, n, r):
    Q, R = qr(draw.matrix(m, n))
    c, dA, Qbar, Rbar = np.arange(len(R)) < r, draw(m, n), draw(*Q.shape), draw(*R.shape)
    dQ, dR = masked_jvp(Q, R, c, c, dA)
    gradient = masked_vjp(Q, R, c, c, Qbar, Rbar)
    for s in (2.0**-30, 2.0**40):
        close(masked_jvp(Q, s * R, c, c, s * dA), (dQ, s * dR), 1e-14)
        close(masked_vjp(Q, s * R, c, c, s * Qbar, Rbar), gradient, 1e-14)
        assert np.array_equal(counts(s * R), counts(R))
    s = 2.0**600
    with np.errstate(all="ignore"):
        assert not np.all(np.isfinite(masked_vjp(Q, s * R, c, c, 0 * Qbar, s * Rbar)))
    moved = masked_vjp(Q, R, c, c, 0 * Qbar, s * Rbar)
    close(moved / s, masked_vjp(Q, R, c, c, 0 * Qbar, Rbar), 1e-14)


@rule("8.9")
@pytest.mark.parametrize("m, n", [(7, 4), (5, 5), (4, 7)])
def test_powers_of_two_of_the_columns_move_to_those_of_r(draw, m, n):
    A = draw.matrix(m, n)
    Q, R = qr(A)
    c, dA, Qbar, Rbar = np.ones(len(R), bool), draw(m, n), draw(*Q.shape), draw(*R.shape)
    D = 2.0 ** np.array([30, -40, 0, 70, -80, 10, -20])[:n]
    for have, want in zip(qr(A * D), (Q, R * D), strict=True):
        assert np.array_equal(have, want)
    dQ, dR = masked_jvp(Q, R, c, c, dA)
    got_q, got_r = masked_jvp(Q, R * D, c, c, dA * D)
    close((got_q, got_r / D), (dQ, dR), 1e-14)
    gradient = masked_vjp(Q, R * D, c, c, Qbar, Rbar)
    close(gradient * D, masked_vjp(Q, R, c, c, Qbar, Rbar * D), 1e-13)
    assert np.array_equal(counts(R * D), counts(R))


# ----------------------------------------------------------------- 12. second order
@rule("12.1")
@deep
def test_the_deep_rule_differentiated_again_is_the_second_derivative(draw, m, n):
    A, X, Y = draw.matrix(m, n), draw(m, n), draw(m, n)
    Q, R = qr(A)
    (dQ, dR), B = deep_jvp(Q, R, Y), over(X, R)
    Psi, ddB = upp(H(Q) @ B), -over(B @ dR, R)
    ddPsi = upp(H(dQ) @ B + H(Q) @ ddB)
    second = ddB - dQ @ Psi - Q @ ddPsi, ddPsi @ R + Psi @ dR
    close(second, mixed(qr, A, X, Y), 1e-6)


@rule("12.2")
@tall
def test_factors_inside_a_rule_must_themselves_be_differentiated(draw, m, n):
    def rule_with(Z):
        def dQp(a):
            Q1, _, R, V, _, _ = complete_factors(a)
            return complete_jvp(Q1, R, z_of(V) if Z is None else Z, X)[1]

        return fd(dQp, A, Y)[0]

    A, X, Y = draw.matrix(m, n), draw(m, n), draw(m, n)
    ref = mixed(full_qr, A, X, Y)[1]
    close(rule_with(None), ref, 1e-6)
    assert error(rule_with(z_of(complete_factors(A)[3])), ref) > 0.05


@rule("12.3")
@tall
def test_the_complement_is_a_sum_of_two_products_each_linear_in_the_tangent(draw, m, n):
    Q1, _, R, V, _, _ = complete_factors(draw.matrix(m, n))
    Z, dA = z_of(V), draw(m, n)
    dQ1, dQp, _ = complete_jvp(Q1, R, Z, dA)
    F, Y = dQ1[n:] - Z @ dQ1[:n], y_of(Q1, Z)
    close(np.hstack([dQ1, -Y]) @ H(np.hstack([Z, F])), dQp, 1e-12)
    other = draw(m, n)
    close(
        complete_jvp(Q1, R, Z, 2 * dA + other)[1], 2 * dQp + complete_jvp(Q1, R, Z, other)[1], 1e-12
    )


@rule("12.4")
@every
def test_differentiating_the_vjp_gives_the_same_hessian_as_differentiating_twice(draw, m, n):
    A, X, Y = draw.matrix(m, n), draw(m, n), draw(m, n)
    cot = draw(m, min(m, n)), draw(min(m, n), n)
    ref = mixed(qr, A, X, Y)
    change = fd(lambda a: thin_vjp(*qr(a), *cot), A, Y)[0]  # forward over reverse
    pairs(ref, cot, X, change, 1e-6)


@rule("12.5")
@tall
def test_the_derivative_of_z_divides_by_s_which_is_singular_only_at_tau_zero(draw, m, n):
    A, dA = draw.matrix(m, n), draw(m, n)
    Q1, _, R, V, _, S = complete_factors(A)
    dQ1, _ = deep_jvp(Q1, R, dA)
    F = dQ1[n:] - z_of(V) @ dQ1[:n]
    dZ = -H(under(V[:n], H(over(F, S)), trans="C", unit=True))
    close(dZ, fd(lambda a: z_of(complete_factors(a)[3]), A, dA)[0])
    assert np.min(np.abs(np.diag(S))) >= 1 - 4 * EPS
    A[1:, 0], A[0, 0] = 0, 1
    assert complete_factors(A)[5][0, 0] == 0


@rule("12.6")
@RANKS
def test_permutation_and_mask_are_locally_constant(draw, m, n, r):
    A, dA = draw.matrix(m, n), draw(m, n)
    p, moved = pivoted_qr(A)[2], pivoted_qr(A + 1e-6 * dA)[2]
    assert np.array_equal(p, moved)
    A[:, p[1]] *= 100
    assert pivoted_qr(A)[2][0] == p[1]  # piecewise constant only
    _, _, curve, _, _, p, c = rank_deficient(draw, m, n, r)
    near = qr(curve(1e-6)[:, p])[1]
    assert np.array_equal(np.cumprod(counts(near)).astype(bool), c)


# ----------------------------------------------------------------- 13. half precision
@rule("13.1")
def test_single_precision_residuals_keep_the_digits_that_rounded_outputs_lose(draw):
    def rounded(x):  # to bfloat16, by parts
        if np.iscomplexobj(x):
            return rounded(x.real.copy()) + 1j * rounded(x.imag.copy())
        bits = x.astype(np.float32).view(np.uint32)
        return ((bits + 0x8000) & 0xFFFF0000).view(np.float32)

    A, dA = rounded(draw.matrix(64, 16)), rounded(draw(64, 16))
    Q, R = qr(A)
    assert np.finfo(Q.dtype).eps > 1e-8
    ref = deep_jvp(*qr(A.astype(complex)), dA.astype(complex))
    for kept, lost, exact in zip(
        deep_jvp(Q, R, dA), deep_jvp(rounded(Q), rounded(R), dA), ref, strict=True
    ):
        assert error(kept, exact) < 4e-6 < 4e-4 < error(lost, exact)


# ----------------------------------------------------------------- the document itself
def test_every_numbered_rule_has_a_test_and_every_reference_a_rule():
    text = DOCUMENT.read_text(encoding="utf-8")
    tags = re.findall(r"\\tag\{(\d+\.\d+)\}|\*\*\((\d+\.\d+)\)\*\*", text)
    numbers = [a or b for a, b in tags]
    assert len(numbers) == len(set(numbers)), "a number is given twice"
    assert set(numbers) == COVERED
    assert set(re.findall(r"\((\d+\.\d+)\)", text)) <= COVERED, "a reference to no rule"
