"""Sections 6 and 7 of `notebooks/derivations.md`: LQ, and pivoted QR of full rank.

What the package differentiates is compared with differences of LAPACK's factors, and the direct
rules for LQ with what the package gives.
"""

import jax
import numpy as np
import scipy.linalg

from jaxqr._factor.permutation import permute_columns
from notation import (
    H,
    back,
    close,
    cpl,
    deep,
    every,
    fd,
    lq,
    pairs,
    pivoted_qr,
    qr,
    raw,
    rule,
    skw,
    under,
    upp,
    wide,
)
from own_rules import (
    complete_jvp,
    complete_vjp,
    factors,
    gradient,
    run,
    tangent,
    thin_jvp,
    thin_vjp,
)

LQ = {"outputs": ("r", "q"), "transposed": True}  # L and Q, by the package


# ----------------------------------------------------------------- 6. LQ
@rule("6.1", "6.2")
@every
def test_lq_is_the_plain_transpose_of_qr_and_so_are_its_rules(draw, m, n):
    A, dA = draw.matrix(n, m).T, draw(m, n)
    (L, Q), ref = lq(A), fd(lq, A, dA)
    close((L @ Q, Q @ H(Q), L), (A, np.eye(len(Q)), np.tril(L)), 1e-13)
    assert not np.any(np.diag(L).imag)
    Q2, R2 = qr(H(A))
    close((H(R2), H(Q2)), (L, Q), 1e-13)
    close(run(factors, A, **LQ), (L, Q), 1e-13)
    dL, dQ = tangent(factors, (A,), (dA,), **LQ)
    close((dL, dQ), ref)
    dQ2, dR2 = thin_jvp(Q.T, L.T, dA.T)
    close((dR2.T, dQ2.T), (dL, dQ), 1e-12)
    cot = draw(*L.shape), draw(*Q.shape)
    (Abar,) = gradient(factors, (A,), cot, **LQ)
    pairs(ref, cot, dA, Abar)
    close(thin_vjp(Q.T, L.T, cot[1].T, cot[0].T).T, Abar, 1e-12)


@rule("6.3", "6.4")
@deep
def test_direct_lq_rules_for_no_more_rows_than_columns(draw, m, n):
    A, dA = draw.matrix(m, n).T, draw(n, m)
    L, Q = lq(A)
    B = under(L, dA)
    Psi = H(upp(H(B @ H(Q))))
    close((L @ Psi, B - Psi @ Q), tangent(factors, (A,), (dA,), **LQ), 1e-12)
    Lbar, Qbar = H(upp(draw(n, n))), draw(*Q.shape)
    M = H(L) @ Lbar - Qbar @ H(Q)
    Abar = back(H(L), Qbar + cpl(M) @ Q)
    close((Abar,), gradient(factors, (A,), (Lbar, Qbar), **LQ), 1e-12)


@rule("6.5", "6.6")
@wide
def test_direct_lq_rules_for_more_rows_than_columns(draw, m, n):
    A, dA = draw.matrix(m, n).T, draw(n, m)
    L, Q = lq(A)
    C = dA @ H(Q)
    Om = H(skw(H(under(L[:m], C[:m]))))
    close((C - L @ Om, Om @ Q), tangent(factors, (A,), (dA,), **LQ), 1e-12)
    Lbar, Qbar = draw(*L.shape), draw(*Q.shape)
    U, V, Ubar, Vbar = L[:m], L[m:], H(upp(Lbar[:m])), Lbar[m:]
    W = Qbar @ H(Q) + H(Vbar) @ V
    top = back(H(U), W + cpl(H(U) @ Ubar - W))
    Abar = np.vstack([top, Vbar]) @ Q
    Lbar = np.vstack([Ubar, Vbar])
    close((Abar,), gradient(factors, (A,), (Lbar, Qbar), **LQ), 1e-12)


# ----------------------------------------------------------------- 7. pivoted
@rule("7.1", "7.2")
@every
def test_pivoted_rules_permute_tangents_in_and_gradients_out(draw, m, n):
    options = {"outputs": ("q", "r"), "pivoting": "exact"}
    A, dA = draw.matrix(m, n), draw(m, n)
    (Q, R, p), ref = pivoted_qr(A), fd(lambda a: pivoted_qr(a)[:2], A, dA)
    assert np.array_equal(pivoted_qr(A + 1e-6 * dA)[2], p)
    found = tangent(factors, (A,), (dA,), **options)
    close(found, ref)
    close(thin_jvp(Q, R, dA[:, p]), found, 1e-12)
    cot = draw(*Q.shape), draw(*R.shape)
    (Abar,) = gradient(factors, (A,), cot, **options)
    pairs(ref, cot, dA, Abar)
    close(thin_vjp(Q, R, *cot)[:, np.argsort(p)], Abar, 1e-12)


@rule("7.1", "7.2")
def test_the_complete_q_of_a_pivoted_matrix_follows_the_permuted_tangent(draw):
    def complete(A):
        return scipy.linalg.qr(A, pivoting=True)[0]

    A, dA, cot = draw.matrix(7, 4), draw(7, 4), draw(7, 7)
    (Q, R, p), (h, _) = pivoted_qr(A), raw(A, pivoting=True)
    options = {"outputs": ("q_full",), "pivoting": "exact"}
    ref = fd(complete, A, dA)
    close(tangent(factors, (A,), (dA,), **options), ref)
    close(np.hstack(complete_jvp(Q, R, h, dA[:, p])[:2]), ref[0])
    (Abar,) = gradient(factors, (A,), (cot,), **options)
    pairs(ref, (cot,), dA, Abar)
    close(complete_vjp(Q, R, h, cot[:, :4], cot[:, 4:], 0 * R)[:, np.argsort(p)], Abar, 1e-12)


def permutation(a):
    return factors(a, outputs=("p",), pivoting="exact")[0]


@rule("7.1")
def test_the_permutation_has_no_tangent(draw):
    A = draw.matrix(7, 4)
    p, dp = jax.jvp(permutation, (A,), (draw(7, 4),))
    assert np.array_equal(p, pivoted_qr(A)[2]) and dp.dtype == jax.dtypes.float0


@rule("7.1", "7.2")
def test_batched_permutations_are_gathers_along_the_last_axis(draw):
    p = draw.rng.permuted(np.tile(np.arange(6), (2, 3, 1)), axis=-1)
    A, cot = draw(2, 3, 4, 6), draw(2, 3, 4, 6)
    Ap = run(permute_columns, A, p)
    assert all(np.array_equal(Ap[i], A[i][:, p[i]]) for i in np.ndindex(2, 3))
    (back,) = gradient(permuted, (A,), cot, fixed=(p,))
    assert all(np.array_equal(back[i], cot[i][:, np.argsort(p[i])]) for i in np.ndindex(2, 3))
    assert np.array_equal(run(permute_columns, back, p), cot)


def permuted(p, a):
    return permute_columns(a, p)
