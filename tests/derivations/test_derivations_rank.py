"""Section 8 of `notebooks/derivations.md`: rank-deficient matrices, and powers of two.

(8.1) and (8.2), the definition, stand here in NumPy and are compared with differences of LAPACK's
factors; the package has (8.5) to (8.7), which are compared with both.
"""

import itertools

import numpy as np
import pytest

from jaxqr._factor.independence import restrict, tolerance
from notation import (
    EPS,
    H,
    close,
    cpl,
    error,
    every,
    fd,
    full_qr,
    over,
    over_h,
    pairs,
    pivoted_qr,
    qr,
    rule,
    skw,
    skw_adj,
)
from own_rules import counts, factors, run, thin_jvp, thin_vjp

RANKS = pytest.mark.parametrize("m, n, r", [(7, 4, 3), (5, 5, 2), (4, 7, 2), (7, 4, 1)])


def rank_deficient(draw, m, n, r):
    """A, a tangent of the rank-r set, its curve, and Q, R, p, mask of the pivoted factors."""
    B, C, dB, dC = draw(m, r), draw(r, n), draw(m, r), draw(r, n)
    Q, R, p = pivoted_qr(B @ C)
    c = counts(R, pivoted=True)
    assert np.array_equal(c, np.arange(min(m, n)) < r)
    return B @ C, dB @ C + B @ dC, lambda t: (B + t * dB) @ (C + t * dC), Q, R, p, c


def square_of(R, c):
    """R_m of (8.1)."""
    k = min(R.shape)
    return np.where(np.outer(c, c), R[:k, :k], np.eye(k))


def split_jvp(Q, R, c, row, dA):
    """(8.1); `row` is the row mask (all true when there is no pivoting)."""
    k, kk = len(R), min(R.shape)
    B = np.hstack([over(dA[:, :kk] * c, square_of(R, c)), np.zeros((len(Q), k - kk))])
    Om = skw(H(Q) @ B)
    return B - Q @ (H(Q) @ B - Om), row[:, None] * np.triu(H(Q) @ dA - Om @ R)


def split_vjp(Q, R, c, row, Qbar, Rbar):
    """(8.2)."""
    kk = min(R.shape)
    Rbar = row[:, None] * np.triu(Rbar)
    G = Qbar - Q @ (H(Q) @ Qbar) + Q @ skw_adj(H(Q) @ Qbar - Rbar @ H(R))
    Abar = Q @ Rbar
    Abar[:, :kk] += over_h(G[:, :kk] * c, square_of(R, c)) * c
    return Abar


# ----------------------------------------------------------------- the definition
@rule("8.1")
@RANKS
def test_masked_jvp_is_the_derivative_of_all_that_is_well_defined(draw, m, n, r):
    def defined(A):
        Q, R = qr(A[:, p])
        return Q[:, :r], R[:r], Q[:, :r] @ H(Q[:, :r])

    A, dA, curve, Q, R, p, c = rank_deficient(draw, m, n, r)
    dQ, dR = thin_jvp(Q, R, dA[:, p], pivoted=True)
    half = dQ[:, :r] @ H(Q[:, :r])
    close((dQ[:, :r], dR[:r], half + H(half)), fd(lambda t: defined(curve(t)), 0.0, 1.0))
    close((dQ @ R + Q @ dR, H(Q) @ dQ), (dA[:, p], -H(H(Q) @ dQ)), 1e-12)
    X = draw(m, n)  # leaves the rank-r set
    dQ, dR = thin_jvp(Q, R, X[:, p], pivoted=True)
    close((dQ[:, :r], dR[:r]), fd(defined, A, X)[:2])
    close(split_jvp(Q, R, c, c, X[:, p]), (dQ, dR), 1e-12)
    assert not any(np.any(d) for d in thin_jvp(Q, 0 * R, X, pivoted=True))


@rule("8.1")
@RANKS
def test_the_complete_q_of_a_deficient_matrix_may_be_transported_in_parallel(draw, m, n, r):
    A, dA, _, _, R, p, c = rank_deficient(draw, m, n, r)
    full = np.hstack(full_qr(A[:, p])[:2]) if m > n else qr(A[:, p])[0]
    row = np.arange(m) < r
    R = np.where(row[:, None], np.vstack([R, np.zeros((m, n))])[:m], 0)
    dQ, dR = split_jvp(full, R, c, row, dA[:, p])
    close((dQ @ R + full @ dR, H(full) @ dQ), (dA[:, p], -H(H(full) @ dQ)), 1e-12)


@rule("8.2")
@RANKS
def test_masked_vjp_pairs_with_the_masked_jvp_and_with_the_derivative(draw, m, n, r):
    A, _, _, Q, R, p, c = rank_deficient(draw, m, n, r)
    X, Qbar, Rbar = draw(m, n), draw(*Q.shape), draw(*R.shape)
    gradient = thin_vjp(Q, R, Qbar, Rbar, pivoted=True)
    pairs(thin_jvp(Q, R, X, pivoted=True), (Qbar, np.triu(Rbar)), X, gradient, 1e-12)
    close(split_vjp(Q, R, c, c, Qbar, real_diagonal(Rbar)), gradient, 1e-12)
    gradient = thin_vjp(Q, R, Qbar * c, Rbar, pivoted=True)[:, np.argsort(p)]
    ref = fd(lambda a: (qr(a[:, p])[0] * c, c[:, None] * qr(a[:, p])[1]), A, X)
    pairs(ref, (Qbar, Rbar), X, gradient)


def real_diagonal(Rbar):
    k = len(Rbar)
    return np.hstack([Rbar[:, :k] - 1j * np.diag(np.diag(Rbar).imag), Rbar[:, k:]])


# ----------------------------------------------------------------- which columns count
def own_counts(R):
    """(8.3) without pivoting."""
    k = min(R.shape)
    size = np.abs(R[:, :k]).sum(axis=0)
    return np.abs(np.diag(R)) > 64 * np.finfo(R.dtype).eps * size


@rule("8.3")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_column_counts_if_it_exceeds_64_epsilons_of_its_one_norm(draw, dtype):
    dtype = np.result_type(dtype, 1j) if draw.complex else np.dtype(dtype)
    assert tolerance(dtype) == 64 * np.finfo(dtype).eps
    R = np.triu(draw(4, 7)).astype(dtype)
    for above in itertools.product([False, True], repeat=4):
        for j, it_counts in enumerate(above):
            rest = np.abs(R[:j, j]).sum() if j else 0
            R[j, j] = (1.01 if it_counts else 0.99) * tolerance(dtype) * rest if j else it_counts
        leading = np.cumprod(above).astype(bool)
        assert np.array_equal(own_counts(R), above)
        assert np.array_equal(counts(R), above)
        assert np.array_equal(counts(R, pivoted=True), leading)
    R[0, 2] = np.nan  # comes through
    assert counts(R)[2]


@rule("8.3")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_column_counts_against_its_own_norm_not_against_the_largest(draw, dtype):
    for m, n, r in [(7, 5, 3), (60, 40, 9), (40, 60, 9)]:
        A = draw(m, r) @ draw(r, n)
        R = pivoted_qr(A.astype(np.result_type(dtype, 1j) if draw.complex else dtype))[1]
        assert np.array_equal(counts(R, pivoted=True), np.arange(min(m, n)) < r)


@rule("8.3")
def test_a_threshold_relative_to_the_largest_column_would_drop_true_derivatives(draw):
    A, dA = draw.matrix(7, 4), draw(7, 4)
    ref, grade = thin_jvp(*qr(A), dA)[0], np.array([1, 1e-16, 1, 1e-32])
    Q, R = qr(A * grade)
    relative = np.abs(np.diag(R)) > 7 * EPS * np.abs(R[0, 0])
    assert np.all(counts(R)) and not np.all(relative)
    assert error(thin_jvp(Q, R, dA * grade)[0], ref) < 1e-12
    assert error(split_jvp(Q, R, relative, relative, dA * grade)[0], ref) > 0.05


# ----------------------------------------------------------------- without pivoting
@rule("8.4")
def test_without_pivoting_zero_columns_and_all_before_a_dependent_one_are_exact(draw):
    A, dA = draw.matrix(7, 4), draw(7, 4)
    A[:, 0] = dA[:, 0] = 0
    Q, R = qr(A)
    assert counts(R).tolist() == [False, True, True, True]
    close(thin_jvp(Q, R, dA), fd(qr, A, dA))
    A, dA = draw.matrix(7, 4), draw(7, 4)
    A[:, 2] = A[:, 0] + 2 * A[:, 1]
    Q, R = qr(A)
    assert counts(R).tolist() == [True, True, False, True]
    dQ, dR = thin_jvp(Q, R, dA)
    close((dQ[:, :2], dR[:2]), fd(lambda a: (qr(a)[0][:, :2], qr(a)[1][:2]), A, dA))
    assert np.all(np.isfinite(dQ)) and np.all(np.isfinite(dR))


@rule("8.4")
@RANKS
def test_with_pivoting_the_gram_matrix_of_r_is_exact_in_every_direction(draw, m, n, r):
    A, _, _, Q, R, p, _ = rank_deficient(draw, m, n, r)
    X, back = draw(m, n), np.argsort(p)
    dR = thin_jvp(Q, R, X[:, p], pivoted=True)[1]
    half = H(R[:, back]) @ dR[:, back]
    close(half + H(half), H(A) @ X + H(X) @ A, 1e-12)


# ----------------------------------------------------------------- one triangle
@rule("8.5", "8.6", "8.7")
@pytest.mark.parametrize("pivoted", [False, True])
@every
def test_the_rules_with_one_triangle_agree_with_the_split_ones_for_every_mask(draw, m, n, pivoted):
    Q, R = qr(draw.matrix(m, n))
    for mask in itertools.product([False, True], repeat=len(R)):
        c = np.array(mask)
        if pivoted and np.any(c[1:] > c[:-1]):
            continue  # not a leading run
        row = c if pivoted else np.ones(len(R), bool)
        Rc = R - np.eye(*R.shape) * np.append(np.diag(R) * ~c, np.zeros(n - len(R)))
        Rc = row[:, None] * Rc  # a column with a zero on the diagonal does not count
        assert np.array_equal(counts(Rc, pivoted=pivoted), c)
        Rm = np.where(c[:, None], Rc[:, : len(R)], np.eye(len(R)))
        assert np.array_equal(run(restrict, Rc, c[None, :]), Rm)
        dA, cot = draw(m, n), (draw(*Q.shape), real_diagonal(draw(*R.shape)))
        cot = cot if np.iscomplexobj(dA) else (cot[0], cot[1].real)
        got = thin_jvp(Q, Rc, dA, pivoted=pivoted)
        gradient = thin_vjp(Q, Rc, *cot, pivoted=pivoted)
        dQ, dR = split_jvp(Q, Rc, c, row, dA)
        close(got, (dQ, real_diagonal(dR)), 1e-11)
        close(gradient, split_vjp(Q, Rc, c, row, *cot), 1e-11)
        close(one_triangle(Q, Rc, Rm, c, row, dA, *cot), (*got, gradient), 1e-11)
        pairs(got, cot, dA, gradient, 1e-11)


def one_triangle(Q, R, Rm, c, row, dA, Qbar, Rbar):
    """(8.5) and (8.6), or (8.7), as the document has them: dQ, dR and the gradient."""
    Rb, m = row[:, None] * np.triu(Rbar), len(Q)
    if R.shape[0] < R.shape[1]:
        C = H(Q) @ dA
        Om = skw(over(C[:, :m], Rm) * c)
        dR = row[:, None] * real_diagonal(np.triu(C - Om @ R))
        Y = skw_adj(H(Q) @ Qbar - Rb @ H(R)) * c
        return Q @ Om, dR, Q @ np.hstack([Rb[:, :m] + over_h(Y, Rm), Rb[:, m:]])
    B = over(dA, Rm)
    E = H(Q) @ B
    Psi = E * c - skw(E * c)
    dR = row[:, None] * real_diagonal(np.triu(Psi @ R + E * ~c))
    Ebar = cpl(R @ H(Rb) - H(Qbar) @ Q) * c + Rb * ~c
    return B * c - Q @ Psi, dR, over_h(Qbar * c + Q @ Ebar, Rm)


@rule("8.5", "8.6", "8.7")
@pytest.mark.parametrize("m, n, r", [(7, 4, 3), (4, 7, 2)])
def test_one_factor_alone_has_the_same_derivatives_at_every_rank(draw, m, n, r):
    _, _, _, Q, R, p, _ = rank_deficient(draw, m, n, r)
    X, Qbar, Rbar = draw(m, n)[:, p], draw(*Q.shape), draw(*R.shape)
    both = thin_jvp(Q, R, X, pivoted=True)
    alone = (thin_jvp(Q, R, X, outputs=(name,), pivoted=True) for name in ("q", "r"))
    close(tuple(dX for (dX,) in alone), both, 1e-12)
    alone = thin_vjp(Q, R, Qbar, None, pivoted=True), thin_vjp(Q, R, None, Rbar, pivoted=True)
    close(sum(alone), thin_vjp(Q, R, Qbar, Rbar, pivoted=True), 1e-12)


# ----------------------------------------------------------------- powers of two
@rule("8.8")
@every
def test_a_power_of_two_can_be_moved_between_a_and_the_cotangents(draw, m, n):
    Q, R = qr(draw.matrix(m, n))
    R[2:] = 0  # two columns count
    dA, Qbar, Rbar = draw(m, n), draw(*Q.shape), draw(*R.shape)
    dQ, dR = thin_jvp(Q, R, dA)
    gradient = thin_vjp(Q, R, Qbar, Rbar)
    for s in (2.0**-30, 2.0**41, 2.0**900, 2.0**-900):
        close(thin_jvp(Q, s * R, s * dA)[0], dQ, 0)
        close(thin_jvp(Q, s * R, s * dA)[1] / s, dR, 0)
        close(thin_vjp(Q, s * R, s * Qbar, Rbar), gradient, 0)
        close(thin_vjp(Q, s * R, 0 * Qbar, s * Rbar) / s, thin_vjp(Q, R, 0 * Qbar, Rbar), 0)
        assert np.array_equal(counts(s * R), counts(R))
    with np.errstate(all="ignore"):  # without a scale products overflow
        assert not np.all(np.isfinite((2.0**900 * R) @ H(2.0**900 * Rbar)))


@rule("8.9")
@every
def test_powers_of_two_of_the_columns_move_to_those_of_r(draw, m, n):
    A = draw.matrix(m, n)
    Q, R = qr(A)
    dA, Qbar, Rbar = draw(m, n), draw(*Q.shape), draw(*R.shape)
    D = 2.0 ** np.array([30, -40, 0, 70, -80, 10, -20])[:n]
    for have, want in zip(qr(A * D), (Q, R * D), strict=True):
        assert np.array_equal(have, want)
    own = run(factors, A, outputs=("q", "tau", "r"))
    for scales in (D, D**6, D**-6):
        *same, columns = run(factors, A * scales, outputs=("q", "tau", "r"))
        close((*same, columns / scales), own, 1e-14)
    dQ, dR = thin_jvp(Q, R, dA)
    got_q, got_r = thin_jvp(Q, R * D, dA * D)
    close((got_q, got_r / D), (dQ, dR), 1e-14)
    gradient = thin_vjp(Q, R * D, Qbar, Rbar)
    close(gradient * D, thin_vjp(Q, R, Qbar, Rbar * D), 1e-13)
    assert np.array_equal(counts(R * D), counts(R))
