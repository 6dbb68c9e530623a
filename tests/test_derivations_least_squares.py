"""The rules of sections 9 and 10 of `notebooks/derivations.md`: least squares, products with Q.

Forward rules are compared with fourth-order central differences of solutions and products that
LAPACK's factors give; reverse rules are paired with those differences.
"""

import zlib

import numpy as np
import pytest
import scipy.linalg

from derivations import (
    WIDE,
    Draw,
    H,
    close,
    counts,
    cpl,
    deep,
    deep_vjp,
    error,
    fd,
    full_qr,
    identity_rows,
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
    rule,
    skw,
    skw_adj,
    slo,
    tall,
    under,
    upp,
    wide,
    y_of,
    z_of,
)

RANKS = pytest.mark.parametrize("m, n, r", [(7, 5, 3), (5, 5, 4), (4, 7, 2), (6, 4, 1)])
EVERY_RANK = pytest.mark.parametrize(
    "m, n, r", [(7, 5, 3), (5, 5, 2), (4, 7, 2), (6, 4, 1), (6, 4, 4), (5, 5, 5), (4, 6, 4)]
)
S = 2  # right-hand sides


@pytest.fixture(params=["real", "complex"])
def draw(request):
    return Draw(request.param, zlib.crc32(request.node.name.encode()))


def joint(*arrays):
    """Several inputs, or their tangents or gradients, as one vector."""
    return np.concatenate([x.ravel() for x in arrays])


def back(R, X):
    """R^{-1} X with R upper triangular."""
    return scipy.linalg.solve_triangular(R, X)


def back_h(R, X):
    """R^{-H} X with R upper triangular."""
    return scipy.linalg.solve_triangular(R, X, trans="C")


def on_the_rank_r_set(draw, m, n, r):
    """A well-conditioned A of rank r, a tangent of the rank-r set, and its curve."""
    B, C, dB, dC = draw.matrix(m, r), H(draw.matrix(n, r)), draw(m, r), draw(r, n)
    return B @ C, dB @ C + B @ dC, lambda t: (B + t * dB) @ (C + t * dC)


def pinv(A, r):
    """The pseudo-inverse of the rank-r matrix nearest to A."""
    U, s, Vh = np.linalg.svd(A, full_matrices=False)
    return H(Vh[:r]) / s[:r] @ H(U[:, :r])


# ----------------------------------------------------------------- the rules of section 9
def orthogonal_decomposition(A, r, p=None):
    """U, L, V of (9.5) by pivoted QR (by QR of the columns p if given) and LQ of its r rows."""
    Q, R, p = pivoted_qr(A) if p is None else (*qr(A[:, p]), p)
    L, X = lq(R[:r])
    return Q[:, :r], L, H(X[:, np.argsort(p)])


def solution(U, L, V, b):
    return V @ under(L, H(U) @ b)


def cod_jvp(U, L, V, x, rho, lam, dA, db):
    """(9.5)."""
    u = H(dA) @ lam
    inner = H(U) @ (db - dA @ x) + under(L, H(V) @ (H(dA) @ rho), trans="C")
    return V @ under(L, inner) + u - V @ (H(V) @ u)


def cod_vjp(U, L, V, x, rho, lam, xbar):
    """(9.6)."""
    g = H(V) @ xbar
    w = under(L, g, trans="C")
    z, y = U @ w, V @ under(L, w)
    return rho @ H(y) + lam @ H(xbar - V @ g) - z @ H(x), z


class Operations:
    """(9.11): what a least-squares solver does with its constant factors.

    `d_` methods are the derivatives of the operations, made of the operations themselves.
    """

    def __init__(self, A, rcond=1e-8):
        m, n = A.shape
        self.wide = m < n
        self.Q, R, self.p = pivoted_qr(H(A) if self.wide else A)
        pivots = np.abs(np.diag(R))
        self.live = np.cumprod(pivots > rcond * pivots[0]).astype(bool)
        self.rows = H(self.live[:, None] * R)
        self.Z, self.T = qr(self.rows)
        self.To = self.T + np.diag(1.0 * ~self.live)

    def _solve(self, v):  # B^+ v
        x = np.empty_like(v, shape=(len(self.p), *v.shape[1:]))
        x[self.p] = self.Z @ back_h(self.To, self.live[:, None] * (H(self.Q) @ v))
        return x

    def _solve_h(self, u):  # B^{+H} u
        return self.Q @ (self.live[:, None] * back(self.To, H(self.Z) @ u[self.p]))

    def _range(self, v):  # (I - B B^+) v
        return v - self.Q @ (self.live[:, None] * (H(self.Q) @ v))

    def _rows(self, u):  # (I - B^+ B) u
        x = np.empty_like(u)
        x[self.p] = self.Z @ (self.live[:, None] * (H(self.Z) @ u[self.p]))
        return u - x

    def solve(self, v):
        return self._solve_h(v) if self.wide else self._solve(v)

    def solve_h(self, u):
        return self._solve(u) if self.wide else self._solve_h(u)

    def gram(self, u):
        return self.solve(self.solve_h(u))

    def outside_range(self, v):
        return self._rows(v) if self.wide else self._range(v)

    def outside_rows(self, u):
        return self._range(u) if self.wide else self._rows(u)

    def d_solve(self, v, dA, dv):
        """(9.8)."""
        y, rho = self.solve(v), self.outside_range(v)
        lam = self.solve_h(y)
        bend = self.gram(H(dA) @ rho) + self.outside_rows(H(dA) @ lam)
        return self.solve(dv - dA @ y) + bend

    def d_solve_h(self, u, dA, du):
        """(9.8) for A^H."""
        z, sigma = self.solve_h(u), self.outside_rows(u)
        bend = self.solve_h(self.solve(dA @ sigma)) + self.outside_range(dA @ self.solve(z))
        return self.solve_h(du - H(dA) @ z) + bend

    def d_gram(self, u, dA, du):
        return self.d_solve(self.solve_h(u), dA, self.d_solve_h(u, dA, du))

    def d_outside_range(self, v, dA, dv):
        """(9.9)."""
        bend = self.solve_h(H(dA) @ self.outside_range(v))
        return self.outside_range(dv - dA @ self.solve(v)) - bend

    def d_outside_rows(self, u, dA, du):
        """(9.9) for A^H."""
        bend = self.solve(dA @ self.outside_rows(u))
        return self.outside_rows(du - H(dA) @ self.solve_h(u)) - bend


# ----------------------------------------------------------------- 9. least squares
@rule("9.0")
@EVERY_RANK
def test_the_pseudo_inverse_has_the_derivative_of_golub_and_pereyra(draw, m, n, r):
    def golub_pereyra(dA):
        P, dAh = pinv(A, r), H(dA)
        return (
            P @ H(P) @ dAh @ (np.eye(m) - A @ P) + (np.eye(n) - P @ A) @ dAh @ H(P) @ P - P @ dA @ P
        )

    A, dA, curve = on_the_rank_r_set(draw, m, n, r)
    close(golub_pereyra(dA), fd(lambda t: np.linalg.pinv(curve(t), rcond=1e-8), 0.0, 1.0))
    X = draw(m, n)  # leaves the rank-r set, unless the rank is full
    close(golub_pereyra(X), fd(lambda a: pinv(a, r), A, X))


@rule("9.1", "9.2")
@deep
def test_the_solution_of_a_deep_system_of_full_rank(draw, m, n):
    A, dA, b, db, xbar = draw.matrix(m, n), draw(m, n), draw(m, S), draw(m, S), draw(n, S)
    (Q, R), x = qr(A), np.linalg.lstsq(A, b)[0]
    rho = b - A @ x
    ref = fd(lambda t: np.linalg.lstsq(A + t * dA, b + t * db)[0], 0.0, 1.0)
    close(back(R, H(Q) @ (db - dA @ x) + back_h(R, H(dA) @ rho)), ref)
    w = back_h(R, xbar)
    z, y = Q @ w, back(R, w)
    pairs(ref, (xbar,), joint(dA, db), joint(rho @ H(y) - z @ H(x), z))


@rule("9.3", "9.4")
@wide
def test_the_shortest_solution_of_a_wide_system_of_full_rank(draw, m, n):
    A, dA, b, db, xbar = H(draw.matrix(n, m)), draw(m, n), draw(m, S), draw(m, S), draw(n, S)
    (L, Q), x = lq(A), np.linalg.lstsq(A, b)[0]
    lam = under(L, Q @ x, trans="C")
    close((H(Q) @ under(L, b), lam), (x, np.linalg.solve(A @ H(A), b)), 1e-12)
    ref = fd(lambda t: np.linalg.lstsq(A + t * dA, b + t * db)[0], 0.0, 1.0)
    u = H(dA) @ lam
    close(H(Q) @ (under(L, db - dA @ x) - Q @ u) + u, ref)
    g = Q @ xbar
    w = under(L, g, trans="C")
    pairs(ref, (xbar,), joint(dA, db), joint(lam @ H(xbar - H(Q) @ g) - w @ H(x), w))


@rule("9.5", "9.6")
@EVERY_RANK
def test_the_shortest_solution_for_any_rank(draw, m, n, r):
    A, dA, curve = on_the_rank_r_set(draw, m, n, r)
    b, db, xbar, X = draw(m, S), draw(m, S), draw(n, S), draw(m, n)
    U, L, V = orthogonal_decomposition(A, r)
    x = solution(U, L, V, b)
    close((U @ L @ H(V), x), (A, np.linalg.pinv(A, rcond=1e-8) @ b), 1e-12)
    rest = x, b - A @ x, U @ under(L, H(V) @ x, trans="C")
    Abar, bbar = cod_vjp(U, L, V, *rest, xbar)
    for step, at in ((dA, curve), (X, lambda t: A + t * X)):  # X leaves the rank-r set
        ref = fd(lambda t, at=at: pinv(at(t), r) @ (b + t * db), 0.0, 1.0)
        close(cod_jvp(U, L, V, *rest, step, db), ref)
        pairs(ref, (xbar,), joint(step, db), joint(Abar, bbar))


@rule("9.7")
@RANKS
def test_the_solution_by_truncated_pivoted_factors_in_every_direction(draw, m, n, r):
    A, dA, _ = on_the_rank_r_set(draw, m, n, r)
    X, b, db, xbar = draw(m, n), draw(m, S), draw(m, S), draw(n, S)
    _, R, p = pivoted_qr(A)
    U, L, V = orthogonal_decomposition(A, r)
    x, C, inverse = solution(U, L, V, b), back(R[:r, :r], R[:r, r:]), np.argsort(p)
    rest = x, b - A @ x, U @ under(L, H(V) @ x, trans="C")

    def off(Y):
        return Y - U @ (H(U) @ Y)

    def followed(step):
        step = step[:, p]
        tail = step[:, r:] - off(step[:, r:] - step[:, :r] @ C)
        return np.hstack([step[:, :r], tail])[:, inverse]

    close(followed(dA), dA, 1e-12)
    ref = fd(lambda t: solution(*orthogonal_decomposition(A + t * X, r, p), b + t * db), 0.0, 1.0)
    close(cod_jvp(U, L, V, *rest, followed(X), db), ref)
    assert error(cod_jvp(U, L, V, *rest, X, db), ref[0]) > 1e-3
    Abar, bbar = cod_vjp(U, L, V, *rest, xbar)
    G1, G2 = np.split(Abar[:, p], [r], axis=1)
    Abar = np.hstack([G1 + off(G2) @ H(C), U @ (H(U) @ G2)])[:, inverse]
    pairs(ref, (xbar,), joint(X, db), joint(Abar, bbar))


@rule("9.8")
@EVERY_RANK
def test_the_operations_are_differentiated_by_the_operations(draw, m, n, r):
    A, dA, curve = on_the_rank_r_set(draw, m, n, r)
    v, dv, u, du, ybar = draw(m, S), draw(m, S), draw(n, S), draw(n, S), draw(n, S)
    f = Operations(A)

    def operations(t):
        P = pinv(curve(t), r)
        return P @ (v + t * dv), H(P) @ (u + t * du), P @ H(P) @ (u + t * du)

    ref = fd(operations, 0.0, 1.0)
    close((f.d_solve(v, dA, dv), f.d_solve_h(u, dA, du), f.d_gram(u, dA, du)), ref)
    y, z = f.solve(v), f.solve_h(ybar)
    bend = f.outside_range(v) @ H(f.gram(ybar)) + f.solve_h(y) @ H(f.outside_rows(ybar))
    pairs(ref[:1], (ybar,), joint(dA, dv), joint(bend - z @ H(y), z))


@rule("9.8", "9.9")
@EVERY_RANK
def test_a_second_derivative_of_the_solution_re_uses_the_factors(draw, m, n, r):
    A, Y, _ = on_the_rank_r_set(draw, m, n, r)
    X, v, zero = draw(m, n), draw(m, S), np.zeros((m, S))
    f = Operations(A)
    y, rho = f.solve(v), f.outside_range(v)
    lam, dy, drho = f.solve_h(y), f.d_solve(v, Y, zero), f.d_outside_range(v, Y, zero)
    dlam = f.d_solve_h(y, Y, dy)
    second = (
        f.d_solve(-X @ y, Y, -X @ dy)
        + f.d_gram(H(X) @ rho, Y, H(X) @ drho)
        + f.d_outside_rows(H(X) @ lam, Y, H(X) @ dlam)
    )
    ref = mixed(lambda a: pinv(a, r) @ v, A, X, Y)  # the direction X leaves the rank-r set
    close(second, ref, 1e-6)


@rule("9.9")
@EVERY_RANK
def test_the_complementary_projectors(draw, m, n, r):
    A, dA, curve = on_the_rank_r_set(draw, m, n, r)
    v, dv, u, du = draw(m, S), draw(m, S), draw(n, S), draw(n, S)
    f, vbar = Operations(A), draw(m, S)

    def projections(t):
        P = pinv(curve(t), r)
        v_t, u_t = v + t * dv, u + t * du
        return v_t - curve(t) @ (P @ v_t), u_t - P @ (curve(t) @ u_t)

    ref = fd(projections, 0.0, 1.0)
    close((f.d_outside_range(v, dA, dv), f.d_outside_rows(u, dA, du)), ref)
    rho, y, g = f.outside_range(v), f.solve(v), f.outside_range(vbar)
    gradient = -g @ H(y) - rho @ H(f.solve(vbar))
    pairs(ref[:1], (vbar,), joint(dA, dv), joint(gradient, g))


@rule("9.10")
@EVERY_RANK
def test_the_squared_residual_needs_only_the_solution_and_the_residual(draw, m, n, r):
    A, dA, curve = on_the_rank_r_set(draw, m, n, r)
    b, db = draw(m, S), draw(m, S)
    x = pinv(A, r) @ b
    rho = b - A @ x

    def squared(t):
        res = b + t * db - curve(t) @ (pinv(curve(t), r) @ (b + t * db))
        return np.array(ip(res, res))

    ref = fd(squared, 0.0, 1.0)
    close(2 * np.array(ip(rho, db - dA @ x)), ref)
    pairs(ref, (np.array(1.0),), joint(dA, db), joint(-2 * rho @ H(x), 2 * rho))


@rule("9.11")
@EVERY_RANK
def test_masks_in_place_of_dynamic_shapes_give_the_operations(draw, m, n, r):
    A, _, _ = on_the_rank_r_set(draw, m, n, r)
    f, P, v, u = Operations(A), pinv(A, r), draw(m, S), draw(n, S)
    assert np.sum(f.live) == r
    assert not np.any(raw(f.rows)[1][r:]) and not np.any(f.T[:, r:])
    got = f.solve(v), f.solve_h(u), f.gram(u), f.outside_range(v), f.outside_rows(u)
    close(got, (P @ v, H(P) @ u, P @ H(P) @ u, v - A @ (P @ v), u - P @ (A @ u)), 1e-12)


# ----------------------------------------------------------------- 10. products with Q
PRODUCTS = {
    "Qu": lambda Q, u: Q @ u,
    "QHu": lambda Q, u: H(Q) @ u,
    "uQ": lambda Q, u: u @ Q,
    "uQH": lambda Q, u: u @ H(Q),
}
product = pytest.mark.parametrize("name", PRODUCTS)


def operand(draw, name, m, k):
    return draw(*{"Qu": (k, S), "QHu": (m, S), "uQ": (S, m), "uQH": (S, k)}[name])


def product_jvp(name, Q, R, c, u, dA, du):
    """(10.1) to (10.4), masked as in (10.11); c counts the columns."""
    Rm = identity_rows(R, c)
    E = over(H(Q) @ dA, Rm) * c
    Psi = E - skw(E)
    if name == "Qu":
        return Q @ (du - Psi @ u) + dA @ back(Rm, c[:, None] * u)
    if name == "QHu":
        return H(Q) @ du + c[:, None] * back_h(Rm, H(dA) @ u) - H(Psi) @ (H(Q) @ u)
    if name == "uQ":
        return du @ Q + over(u @ dA, Rm) * c - (u @ Q) @ Psi
    return (du - u @ H(Psi)) @ H(Q) + over_h(u * c, Rm) @ H(dA)


def product_vjp(name, Q, R, c, u, ybar):
    """(10.5) to (10.8), masked as in (10.11)."""
    Rm = identity_rows(R, c)
    if name == "Qu":
        ubar = H(Q) @ ybar
        outer, M = ybar @ H(back(Rm, c[:, None] * u)), u @ H(ubar)
    elif name == "QHu":
        ubar = Q @ ybar
        outer, M = u @ H(back(Rm, c[:, None] * ybar)), ybar @ H(H(Q) @ u)
    elif name == "uQ":
        ubar = ybar @ H(Q)
        outer, M = H(u) @ over_h(ybar * c, Rm), H(ybar) @ (u @ Q)
    else:
        ubar = ybar @ Q
        outer, M = H(ybar) @ over_h(u * c, Rm), H(u) @ ubar
    return outer - Q @ over_h(cpl(M) * c, Rm), ubar


@rule("10.1", "10.2", "10.3", "10.4", "10.5", "10.6", "10.7", "10.8")
@deep
@product
def test_products_with_the_reduced_q_form_no_derivative_of_q(draw, m, n, name):
    A, dA = draw.matrix(m, n), draw(m, n)
    (Q, R), c = qr(A), np.ones(n, bool)
    u, du = operand(draw, name, m, n), operand(draw, name, m, n)
    ref = fd(lambda t: PRODUCTS[name](qr(A + t * dA)[0], u + t * du), 0.0, 1.0)
    close(product_jvp(name, Q, R, c, u, dA, du), ref)
    ybar = draw(*ref[0].shape)
    pairs(ref, (ybar,), joint(dA, du), joint(*product_vjp(name, Q, R, c, u, ybar)))


def second_product(Q, R, c, u, X, Y):
    """The derivative of Q u along X, by (10.11), differentiated along Y; u is constant."""

    def along_y(name, w, dw):
        return product_jvp(name, Q, R, c, w, Y, dw)

    Rm, masked = identity_rows(R, c), c[:, None] * u
    dRm = c[:, None] * (upp(over(H(Q) @ Y, Rm) * c) @ R)
    E, w = over(H(Q) @ X, Rm), back(Rm, masked)
    dE = over(along_y("QHu", X, 0 * X) - E @ dRm, Rm)
    return along_y("Qu", -upp(E * c) @ u, -upp(dE * c) @ u) - X @ back(Rm, dRm @ w)


@rule("10.1", "10.2")
@deep
def test_products_are_closed_under_differentiation_with_the_derivative_of_r(draw, m, n):
    A, X, Y, u = draw.matrix(m, n), draw(m, n), draw(m, n), draw(n, S)
    ref = mixed(lambda a: qr(a)[0] @ u, A, X, Y)
    close(second_product(*qr(A), np.ones(n, bool), u, X, Y), ref, 1e-6)


@rule("10.11")
@pytest.mark.parametrize("m, n, r", [(7, 5, 3), (5, 5, 4), (6, 4, 1)])
def test_masked_products_are_exact_to_second_order_where_the_columns_count(draw, m, n, r):
    A, _, _ = on_the_rank_r_set(draw, m, n, r)
    X, Y, u = draw(m, n), draw(m, n), draw(n, S)
    Q, R, p = pivoted_qr(A)
    c = np.cumprod(counts(R)).astype(bool)
    assert np.array_equal(c, np.arange(n) < r)
    u[r:] = 0

    def products(a):
        thin = qr(a[:, p])[0][:, :r]
        return thin @ u[:r], H(thin) @ X

    Yp = Y[:, p]
    adjoint = product_jvp("QHu", Q, R, c, X, Yp, 0 * X)[:r]
    close((product_jvp("Qu", Q, R, c, u, Yp, 0 * u), adjoint), fd(products, A, Y))
    ref = mixed(lambda a: qr(a[:, p])[0] @ u, A, X, Y)
    close(second_product(Q, R, c, u, X[:, p], Yp), ref, 1e-6)


def generator(draw, m, n):
    """A, tangent, thin and complete factors, Z, and Omega as an operator that is not formed."""
    A, dA = draw.matrix(m, n), draw(m, n)
    Q1, Qp, R = full_qr(A)
    Q, Z = np.hstack([Q1, Qp]), z_of(slo(raw(A)[0]) + np.eye(m, n))
    E = over(H(Q) @ dA, R)
    O11, E21 = skw(E[:n]), E[n:]
    K = E21 - Z @ O11 / 2

    def omega(u):
        u1, u2 = u[:n], u[n:]
        low = E21 @ u1 + K @ (H(Z) @ u2) - Z @ (H(K) @ u2)
        return np.vstack([O11 @ u1 - H(E21) @ u2, low])

    return A, dA, Q1, Q, R, Z, omega


def unitary_jvp(name, Q, omega, u, du):
    """(10.9)."""
    if name == "Qu":
        return Q @ (du + omega(u))
    if name == "QHu":
        return H(Q) @ du - omega(H(Q) @ u)
    if name == "uQ":
        return du @ Q - H(omega(H(u @ Q)))
    return (du + H(omega(H(u)))) @ H(Q)


def outer_factors(name, u, ybar):
    """a and b of (10.10)."""
    return {
        "Qu": (ybar, u),
        "QHu": (u, ybar),
        "uQ": (H(u), H(ybar)),
        "uQH": (H(ybar), H(u)),
    }[name]


def operand_cotangent(name, Q, ybar):
    return PRODUCTS[{"Qu": "QHu", "QHu": "Qu", "uQ": "uQH", "uQH": "uQ"}[name]](Q, ybar)


@rule("10.9", "10.10")
@tall
@product
def test_products_with_the_complete_q(draw, m, n, name):
    A, dA, Q1, Q, R, Z, omega = generator(draw, m, n)
    u, du = operand(draw, name, m, m), operand(draw, name, m, m)
    ref = fd(lambda t: PRODUCTS[name](scipy.linalg.qr(A + t * dA)[0], u + t * du), 0.0, 1.0)
    close(unitary_jvp(name, Q, omega, u, du), ref)
    ybar = draw(*ref[0].shape)
    a, b = outer_factors(name, u, ybar)
    Fbar = -b[n:] @ (H(a) @ y_of(Q1, Z))
    Q1bar = a @ H(b[:n]) + a @ H(H(Z) @ b[n:]) + np.vstack([-H(Z) @ Fbar, Fbar])
    gradient = joint(deep_vjp(Q1, R, Q1bar, 0 * R), operand_cotangent(name, Q, ybar))
    pairs(ref, (ybar,), joint(dA, du), gradient)


@rule("10.9")
@tall
def test_the_generator_with_a_padded_operand_gives_products_with_the_reduced_q(draw, m, n):
    A, dA, _, Q, _, _, omega = generator(draw, m, n)
    u, v = draw(n, S), draw(m, S)
    padded = np.vstack([u, np.zeros((m - n, S))])
    ref = fd(lambda a: (qr(a)[0] @ u, H(qr(a)[0]) @ v), A, dA)
    close((Q @ omega(padded), -omega(H(Q) @ v)[:n]), ref)


@rule("10.9", "10.10")
@product
@pytest.mark.parametrize("m, n", [*WIDE, (5, 5)])
def test_products_with_the_q_of_a_wide_or_square_matrix(draw, m, n, name):
    A, dA = draw.matrix(m, n), draw(m, n)
    (Q, R), u, du = qr(A), operand(draw, name, m, m), operand(draw, name, m, m)
    Omega = skw(over(H(Q) @ dA[:, :m], R[:, :m]))
    ref = fd(lambda t: PRODUCTS[name](qr(A + t * dA)[0], u + t * du), 0.0, 1.0)
    close(unitary_jvp(name, Q, lambda w: Omega @ w, u, du), ref)
    ybar = draw(*ref[0].shape)
    a, b = outer_factors(name, u, ybar)
    Abar = np.zeros_like(A)
    Abar[:, :m] = Q @ over_h(skw_adj((H(Q) @ a) @ H(b)), R[:, :m])
    pairs(ref, (ybar,), joint(dA, du), joint(Abar, operand_cotangent(name, Q, ybar)))


@rule("10.9")
@pytest.mark.parametrize("m, n", [*WIDE, (5, 5)])
def test_products_with_a_unitary_q_are_closed_under_differentiation_too(draw, m, n):
    A, X, Y, u = draw.matrix(m, n), draw(m, n), draw(m, n), draw(m, S)
    Q, R = qr(A)
    U = R[:, :m]
    Omega_x, Omega_y = (skw(over(H(Q) @ step[:, :m], U)) for step in (X, Y))
    dC = -Omega_y @ (H(Q) @ X)[:, :m]
    dU = H(Q) @ Y[:, :m] - Omega_y @ U
    dOmega = skw(over(dC - over(H(Q) @ X[:, :m], U) @ dU, U))
    second = Q @ (Omega_y @ (Omega_x @ u) + dOmega @ u)
    close(second, mixed(lambda a: qr(a)[0] @ u, A, X, Y), 1e-6)


@rule("10.11")
@product
@pytest.mark.parametrize("m, n", [(7, 4), (5, 5), (5, 1), (4, 7)])
def test_masked_products_are_the_masked_rule_applied_to_the_operand(draw, m, n, name):
    (Q, R), dA, k = qr(draw.matrix(m, n)), draw(m, n), min(m, n)
    u, du = operand(draw, name, m, k), operand(draw, name, m, k)
    for bits in range(2**k):
        c = np.array([bits >> j & 1 for j in range(k)], bool)
        dQ = masked_jvp(Q, R, c, c, dA)[0]
        ref = PRODUCTS[name](dQ, u) + PRODUCTS[name](Q, du)
        ybar = draw(*ref.shape)
        a, b = outer_factors(name, u, ybar)
        Rm, ubar = identity_rows(R, c), operand_cotangent(name, Q, ybar)
        if m < n:
            Omega = skw(over((H(Q) @ dA)[:, :m], Rm) * c)
            got = unitary_jvp(name, Q, lambda w, Omega=Omega: Omega @ w, u, du)
            Abar = np.zeros_like(dA)
            Abar[:, :m] = Q @ over_h(skw_adj((H(Q) @ a) @ H(b)) * c, Rm)
        else:
            got = product_jvp(name, Q, R, c, u, dA, du)
            Abar, ubar = product_vjp(name, Q, R, c, u, ybar)
            of_all = a @ over_h(H(b) * c, Rm) - Q @ over_h(cpl(b @ (H(a) @ Q)) * c, Rm)
            close(of_all, Abar, 1e-11)
        close(got, ref, 1e-11)
        close(Abar, masked_vjp(Q, R, c, c, a @ H(b), 0 * R), 1e-11)
        pairs((got,), (ybar,), joint(dA, du), joint(Abar, ubar), 1e-11)
