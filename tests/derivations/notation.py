"""The notation of `notebooks/derivations.md` in NumPy, LAPACK's factors, and their differences.

There is no rule of the package here: the package's are in `own_rules`, and what the document
states beside them is in the test of the equation. Names follow the document.
"""

import numpy as np
import pytest
import scipy.linalg

# The same few shapes everywhere: each costs the compilation of every rule.
DEEP, WIDE, TALL = [(7, 4), (5, 5), (1, 1)], [(4, 7), (1, 3)], [(7, 4), (5, 1)]
EVERY = [(7, 4), (5, 5), (4, 7)]
EPS = np.finfo(float).eps
deep, wide, tall, every = (
    pytest.mark.parametrize("m, n", shapes) for shapes in (DEEP, WIDE, TALL, EVERY)
)


def rule(*numbers):
    """Says which equations the decorated test answers for.

    It does nothing: `test_derivations_document.py` reads the decorators in the source.
    """
    assert numbers
    return lambda test: test


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


def on_the_rank_r_set(draw, m, n, r):
    """A well-conditioned A of rank r, a tangent of the rank-r set, and its curve."""
    B, C, dB, dC = draw.matrix(m, r), H(draw.matrix(n, r)), draw(m, r), draw(r, n)
    return B @ C, dB @ C + B @ dC, lambda t: (B + t * dB) @ (C + t * dC)


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


# Of a triangle, elimination is substitution. (SciPy's solve starts threads, for 4 x 4 as well.)
def back(R, X):
    """R^{-1} X with R upper triangular."""
    return np.linalg.solve(np.triu(R), X)


def back_h(R, X):
    """R^{-H} X with R upper triangular."""
    return under(H(R), X)


def under(L, X):
    """L^{-1} X with L lower triangular."""
    return back(L[::-1, ::-1], X[::-1])[::-1]


def over(X, R):
    """X R^{-1} with R upper triangular."""
    return H(back_h(R, H(X)))


def over_h(X, R):
    """X R^{-H} with R upper triangular."""
    return H(back(R, H(X)))


# ----------------------------------------------------------------- LAPACK
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


def z_of(h, n):
    """Z of (4.3)."""
    V = slo(h[:, :n]) + np.eye(len(h), n)
    return H(back(H(V[:n]), H(V[n:])))


def y_of(Q1, Z):
    """Y of (4.4)."""
    m, n = Q1.shape
    return Q1 + np.eye(m)[:, n:] @ Z + (Q1 - np.eye(m, n)) @ (H(Z) @ Z)


# ----------------------------------------------------------------- differences and comparisons
def tup(x):
    return x if isinstance(x, tuple) else (x,)


def fd(f, A, dA, h=1e-4):
    """Fourth-order central difference of f at A along dA, for each output."""
    at = [tup(f(A + s * h * dA)) for s in (1, -1, 2, -2)]
    return tuple((8 * (a - b) - (c - d)) / (12 * h) for a, b, c, d in zip(*at, strict=True))


def mixed(f, A, X, Y):
    """Second difference of f at A along X and Y."""
    return fd(lambda a: fd(f, a, X, 1e-3), A, Y, 1e-3)


def joint(*arrays):
    """Several inputs, or their tangents or gradients, as one vector."""
    return np.concatenate([x.ravel() for x in arrays])


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


def pinv(A, r):
    """The pseudo-inverse of the rank-r matrix nearest to A."""
    U, s, Vh = np.linalg.svd(A, full_matrices=False)
    return H(Vh[:r]) / s[:r] @ H(U[:, :r])
