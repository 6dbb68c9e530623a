"""What the tests of `notebooks/derivations.md` share (numpy and scipy only).

The notation of the document, LAPACK's factors and their differences, and the rules of sections 1
to 8. Names follow the document.
"""

import numpy as np
import pytest
import scipy.linalg

DEEP, WIDE = [(7, 4), (5, 5), (5, 1), (1, 1)], [(4, 7), (1, 3)]
TALL = [(7, 4), (6, 5), (8, 2), (5, 1)]
COVERED = set()
EPS = np.finfo(float).eps
deep, wide, tall, every = (
    pytest.mark.parametrize("m, n", shapes) for shapes in (DEEP, WIDE, TALL, DEEP + WIDE)
)


def rule(*numbers):
    """Enters the equations that the decorated test answers for."""

    def enter(test):
        assert test.__name__.startswith("test_")
        COVERED.update(numbers)
        return test

    return enter


class Draw:
    """Random matrices over the real or the complex numbers."""

    def __init__(self, field, seed):
        self.complex, self.rng = field == "complex", np.random.default_rng(seed)

    def __call__(self, *shape):
        x = self.rng.standard_normal(shape)
        return x + 1j * self.rng.standard_normal(shape) if self.complex else x

    def matrix(self, m, n):
        """Leading min(m, n) columns of condition number 2, and no sign of R about to flip."""
        while True:
            U, _, Vh = np.linalg.svd(self(m, min(m, n)), full_matrices=False)
            A = np.hstack([U * np.linspace(1, 2, min(m, n)) @ Vh, self(m, max(n - m, 0))])
            tau = raw(A)[1].real
            if np.all((tau == 0) | (tau > 1.03)):
                return A


# ----------------------------------------------------------------- notation of section 0
def H(X):
    return X.conj().T


def slo(X):
    return np.tril(X, -1)


def dg(X):
    return np.diag(np.diag(X))


def im_dg(X):
    return 1j * dg(X).imag if np.iscomplexobj(X) else np.zeros_like(X)


def skw(E):
    return slo(E) - H(slo(E)) + im_dg(E)


def upp(E):
    return np.triu(E, 1) + H(slo(E)) + dg(E).real


def cpl(M):
    return slo(M) + H(slo(M)) + dg(M).real


def skw_adj(X):
    return slo(X - H(X)) + im_dg(X)


def ip(X, Y):
    return np.sum(X.conj() * Y).real


def over(X, R):
    """X R^{-1} with R upper triangular."""
    return H(scipy.linalg.solve_triangular(R, H(X), trans="C", check_finite=False))


def over_h(X, R):
    """X R^{-H} with R upper triangular."""
    return H(scipy.linalg.solve_triangular(R, H(X), check_finite=False))


def under(L, X, trans="N", unit=False):
    """L^{-1} X (or L^{-H} X) with L lower triangular."""
    return scipy.linalg.solve_triangular(L, X, lower=True, trans=trans, unit_diagonal=unit)


# ----------------------------------------------------------------- LAPACK and comparisons
def qr(A):
    return scipy.linalg.qr(A, mode="economic")


def full_qr(A):
    Q, R = scipy.linalg.qr(A)
    n = A.shape[1]
    return Q[:, :n], Q[:, n:], R[:n]


def pivoted_qr(A):
    return scipy.linalg.qr(A, mode="economic", pivoting=True)


def raw(A, pivoting=False):
    return scipy.linalg.qr(A, mode="raw", pivoting=pivoting)[0]


def lq(A):
    Q, R = qr(A.T)
    return R.T, Q.T


def wy(h, tau):
    """V, T, S of (4.1) and (4.2)."""
    m, k = h.shape[0], len(tau)
    V, D = slo(h[:, :k]) + np.eye(m, k), np.diag(tau)
    T = np.linalg.solve(np.eye(k) + D @ np.triu(H(V) @ V, 1), D)
    return V, T, T @ H(V[:k])


def tup(x):
    return x if isinstance(x, tuple) else (x,)


def fd(f, A, dA, h=1e-4):
    """Fourth-order central difference of f at A along dA, for each output."""
    at = [tup(f(A + s * h * dA)) for s in (1, -1, 2, -2)]
    return tuple((8 * (a - b) - (c - d)) / (12 * h) for a, b, c, d in zip(*at, strict=True))


def mixed(f, A, X, Y):
    """Second difference of f at A along X and Y."""
    return fd(lambda a: fd(f, a, X, 1e-3), A, Y, 1e-3)


def error(got, ref):
    return np.max(np.abs(got - ref), initial=0) / max(1, np.max(np.abs(ref), initial=0))


def close(got, ref, tol=1e-8):
    for g, r in zip(tup(got), tup(ref), strict=True):
        assert g.shape == r.shape, (g.shape, r.shape)
        assert error(g, r) <= tol, f"error {error(g, r):.1e}"


def pairs(tangents, cotangents, dA, gradient, tol=1e-8):
    terms = [ip(c, t) for c, t in zip(cotangents, tangents, strict=True)]
    gap = abs(sum(terms) - ip(gradient, dA))
    assert gap <= tol * max(1, np.sum(np.abs(terms))), f"{sum(terms)} is off by {gap:.1e}"


# ----------------------------------------------------------------- the rules
def deep_jvp(Q, R, dA):
    B = over(dA, R)
    Psi = upp(H(Q) @ B)
    return B - Q @ Psi, Psi @ R


def deep_vjp(Q, R, Qbar, Rbar):
    return over_h(Qbar + Q @ cpl(R @ H(Rbar) - H(Qbar) @ Q), R)


def wide_jvp(Q, R, dA):
    m, C = len(Q), H(Q) @ dA
    Om = skw(over(C[:, :m], R[:, :m]))
    return Q @ Om, C - Om @ R


def wide_vjp(Q, R, Qbar, Rbar):
    m, Y = len(Q), skw_adj(H(Q) @ Qbar - Rbar @ H(R))
    return Q @ np.hstack([Rbar[:, :m] + over_h(Y, R[:, :m]), Rbar[:, m:]])


def thin_jvp(Q, R, dA):
    return (deep_jvp if R.shape[0] == R.shape[1] else wide_jvp)(Q, R, dA)


def thin_vjp(Q, R, Qbar, Rbar):
    return (deep_vjp if R.shape[0] == R.shape[1] else wide_vjp)(Q, R, Qbar, Rbar)


def z_of(V):
    n = V.shape[1]
    return H(under(V[:n], H(V[n:]), trans="C", unit=True))


def y_of(Q1, Z):
    m, n = Q1.shape
    return Q1 + np.eye(m)[:, n:] @ Z + (Q1 - np.eye(m, n)) @ (H(Z) @ Z)


def complete_jvp(Q1, R, Z, dA):
    n = len(R)
    dQ1, dR = deep_jvp(Q1, R, dA)
    F = dQ1[n:] - Z @ dQ1[:n]
    return dQ1, dQ1 @ H(Z) - y_of(Q1, Z) @ H(F), dR


def complete_vjp(Q1, R, Z, Q1bar, Qpbar, Rbar):
    Fbar = -H(Qpbar) @ y_of(Q1, Z)
    return deep_vjp(Q1, R, Q1bar + Qpbar @ Z + np.vstack([-H(Z) @ Fbar, Fbar]), Rbar)


def raw_jvp(h, tau, dA):
    k, on = len(tau), tau != 0
    (V, T, S), R = wy(h, tau), np.triu(h)[: len(tau)]
    S_ = S + np.diag(~on)
    dQ, dR = thin_jvp(np.eye(len(h), k) - V @ S, R, dA)
    N = -under(V[:k], dQ[:k], unit=True)
    L = slo(over(N, S_)) * on
    dS = np.triu(N - L @ S)
    dV = np.vstack([V[:k] @ L, over(-dQ[k:] - V[k:] @ dS, S_) * on])
    dh = np.zeros_like(dA)
    dh[:k] = np.triu(dR)
    dh[:, :k] += slo(dV)
    return dh, np.diag(dS) * on, H(under(V[:k], H(dS), unit=True)) - T @ H(L)


def raw_vjp(h, tau, hbar, taubar):
    k, on = len(tau), tau != 0
    (V, _, S), R = wy(h, tau), np.triu(h)[: len(tau)]
    S_, Vbar = S + np.diag(~on), slo(hbar[:, :k])
    V2s = over_h(Vbar[k:] * on, S_)
    Sbar = np.triu(np.diag(taubar * on) - H(V[k:]) @ V2s)
    Lbar = (H(V[:k]) @ Vbar[:k] - Sbar @ H(S)) * on
    Nbar = Sbar + over_h(slo(Lbar), S_)
    Qbar = -np.vstack([under(V[:k], Nbar, trans="C", unit=True), V2s])
    return thin_vjp(np.eye(len(h), k) - V @ S, R, Qbar, np.triu(hbar[:k]))


def counts(R):
    """(8.3), column by column."""
    k = min(R.shape)
    norms = np.abs(R[:, :k]).sum(axis=0)
    return np.abs(np.diag(R)) > 64 * np.finfo(R.dtype).eps * norms


def split_jvp(Q, R, c, row, dA):
    """(8.1); `row` is the row mask (all true when there is no pivoting)."""
    k, kk = len(R), min(R.shape)
    Rm = np.where(np.outer(c, c), R[:kk, :kk], np.eye(kk))
    B = np.hstack([over(dA[:, :kk] * c, Rm), np.zeros((len(Q), k - kk))])
    Om = skw(H(Q) @ B)
    return B - Q @ (H(Q) @ B - Om), row[:, None] * np.triu(H(Q) @ dA - Om @ R)


def split_vjp(Q, R, c, row, Qbar, Rbar):
    """(8.2)."""
    kk = min(R.shape)
    Rm = np.where(np.outer(c, c), R[:kk, :kk], np.eye(kk))
    Rbar = row[:, None] * np.triu(Rbar)
    G = Qbar - Q @ (H(Q) @ Qbar) + Q @ skw_adj(H(Q) @ Qbar - Rbar @ H(R))
    Abar = Q @ Rbar
    Abar[:, :kk] += over_h(G[:, :kk] * c, Rm) * c
    return Abar


def identity_rows(R, c):
    """R_m of (8.5): rows of columns that do not count become rows of the identity."""
    return np.where(c[:, None], R[:, : len(R)], np.eye(len(R)))


def masked_jvp(Q, R, c, row, dA):
    """(8.5) and the forward half of (8.7)."""
    m, n = dA.shape
    Rm = identity_rows(R, c)
    if m < n:
        C = H(Q) @ dA
        Om = skw(over(C[:, :m], Rm) * c)
        return Q @ Om, row[:, None] * np.triu(C - Om @ R)
    B = over(dA, Rm)
    E = H(Q) @ B
    Psi = E * c - skw(E * c)
    return B * c - Q @ Psi, row[:, None] * np.triu(Psi @ R + E * ~c)


def masked_vjp(Q, R, c, row, Qbar, Rbar):
    """(8.6) and the reverse half of (8.7)."""
    Rm, Rb = identity_rows(R, c), row[:, None] * np.triu(Rbar)
    if R.shape[0] < R.shape[1]:
        Y = skw_adj(H(Q) @ Qbar - Rb @ H(R)) * c
        return Q @ np.hstack([Rb[:, : len(Q)] + over_h(Y, Rm), Rb[:, len(Q) :]])
    Ebar = cpl(R @ H(Rb) - H(Qbar) @ Q) * c + Rb * ~c
    return over_h(Qbar * c + Q @ Ebar, Rm)
