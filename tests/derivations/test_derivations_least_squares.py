"""Section 9 of `notebooks/derivations.md`: least squares.

The package's rules are those of the pseudo-inverse of a deep matrix as an operator; a wide A is
the adjoint of its B. They are compared with differences of solutions, what JAX makes of them by
transposition is paired with those, and the formulas of the document are compared with both.
"""

import numpy as np
import pytest

from jaxqr._core.algebra import mm
from jaxqr._lstsq.inverse_rules import RULES
from jaxqr._lstsq.lstsq_primitive import lstsq_p
from jaxqr._lstsq.pseudoinverse import factor_pseudoinverse
from notation import (
    H,
    back,
    back_h,
    close,
    error,
    fd,
    ip,
    joint,
    lq,
    mixed,
    on_the_rank_r_set,
    pairs,
    pinv,
    pivoted_qr,
    qr,
    rule,
    under,
)
from own_rules import gradient, run, second, tangent

RANKS = pytest.mark.parametrize("m, n, r", [(7, 4, 3), (5, 5, 4), (4, 7, 2), (7, 4, 1)])
DEEP_RANKS = pytest.mark.parametrize("m, n, r", [(7, 4, 3), (5, 5, 2), (7, 4, 4), (5, 5, 5)])
EVERY_RANK = pytest.mark.parametrize(
    "m, n, r", [(7, 4, 3), (5, 5, 2), (4, 7, 2), (7, 4, 4), (5, 5, 5), (4, 7, 4)]
)
deep = pytest.mark.parametrize("m, n", [(7, 4), (5, 5)])
S, RCOND = 2, 1e-8


# ----------------------------------------------------------------- what the package has
def inverse_of(a, pivoting):
    return factor_pseudoinverse(a, rcond=RCOND if pivoting else None, pivoting=pivoting)


def operation(a, v, *, name, pivoting=True):
    """One of the operations of a deep matrix A, as a function of A and v."""
    return getattr(inverse_of(a, pivoting), name)(v)


def rule_of(a, v, da, dv, *, name, pivoting=True):
    """Its value, and its tangent by its rule."""
    inverse = inverse_of(a, pivoting)
    value = getattr(inverse, name)(v)
    return value, RULES[name](inverse, value, v, da, dv)


def solution(a, b):
    """The shortest solution for A of any shape."""
    if a.shape[0] < a.shape[1]:
        return operation(a.mT.conj(), b, name="solve_adjoint")
    return operation(a, b, name="solve")


def solution_jvp(A, b, dA, db):
    """Its tangent, by the rules."""
    if A.shape[0] < A.shape[1]:
        return run(rule_of, H(A), b, H(dA), db, name="solve_adjoint")[1]
    return run(rule_of, A, b, dA, db, name="solve")[1]


# ----------------------------------------------------------------- the rules of the document
def orthogonal_decomposition(A, r, p=None):
    """U, L, V of (9.5) by pivoted QR (by QR of the columns p if given) and LQ of its r rows."""
    Q, R, p = pivoted_qr(A) if p is None else (*qr(A[:, p]), p)
    L, X = lq(R[:r])
    return Q[:, :r], L, H(X[:, np.argsort(p)])


def solution_of(U, L, V, b):
    return V @ under(L, H(U) @ b)


def cod_jvp(U, L, V, x, rho, lam, dA, db):
    """(9.5)."""
    u = H(dA) @ lam
    inner = H(U) @ (db - dA @ x) + back(H(L), H(V) @ (H(dA) @ rho))
    return V @ under(L, inner) + u - V @ (H(V) @ u)


def cod_vjp(U, L, V, x, rho, lam, xbar):
    """(9.6)."""
    g = H(V) @ xbar
    w = back(H(L), g)
    z, y = U @ w, V @ under(L, w)
    return rho @ H(y) + lam @ H(xbar - V @ g) - z @ H(x), z


@rule("9.0")
@EVERY_RANK
def test_the_pseudo_inverse_has_the_derivative_of_golub_and_pereyra(draw, m, n, r):
    def golub_pereyra(dA):
        P, dAh = pinv(A, r), H(dA)
        return (
            P @ H(P) @ dAh @ (np.eye(m) - A @ P) + (np.eye(n) - P @ A) @ dAh @ H(P) @ P - P @ dA @ P
        )

    A, dA, curve = on_the_rank_r_set(draw, m, n, r)
    identity = np.eye(m) + 0 * A[:, :1]
    X = draw(m, n)  # leaves the rank-r set, unless the rank is full
    close(golub_pereyra(X), fd(lambda a: pinv(a, r), A, X))
    for step in (dA, X):
        close(solution_jvp(A, identity, step, 0 * identity), golub_pereyra(step), 1e-11)
    close(golub_pereyra(dA), fd(lambda t: np.linalg.pinv(curve(t), rcond=1e-8), 0.0, 1.0))


@rule("9.1", "9.2")
@deep
def test_the_solution_of_a_deep_system_of_full_rank(draw, m, n):
    A, dA, b, db, xbar = draw.matrix(m, n), draw(m, n), draw(m, S), draw(m, S), draw(n, S)
    (Q, R), x = qr(A), np.linalg.lstsq(A, b)[0]
    rho, full = b - A @ x, {"name": "solve", "pivoting": False}
    ref = fd(lambda t: np.linalg.lstsq(A + t * dA, b + t * db)[0], 0.0, 1.0)
    _, dx = run(rule_of, A, b, dA, db, **full)
    close(dx, ref)
    close(back(R, H(Q) @ (db - dA @ x) + back_h(R, H(dA) @ rho)), dx, 1e-12)
    found = gradient(operation, (A, b), xbar, **full)
    pairs(ref, (xbar,), joint(dA, db), joint(*found))
    w = back_h(R, xbar)
    z, y = Q @ w, back(R, w)
    close((rho @ H(y) - z @ H(x), z), found, 1e-12)


@rule("9.3", "9.4")
def test_the_shortest_solution_of_a_wide_system_of_full_rank(draw):
    m, n = 4, 7
    A, dA, b, db, xbar = H(draw.matrix(n, m)), draw(m, n), draw(m, S), draw(m, S), draw(n, S)
    (L, Q), x = lq(A), np.linalg.lstsq(A, b)[0]
    lam, full = back(H(L), Q @ x), {"name": "solve_adjoint", "pivoting": False}
    close((H(Q) @ under(L, b), lam), (x, np.linalg.solve(A @ H(A), b)), 1e-12)
    ref = fd(lambda t: np.linalg.lstsq(A + t * dA, b + t * db)[0], 0.0, 1.0)
    _, dx = run(rule_of, H(A), b, H(dA), db, **full)
    close(dx, ref)
    u = H(dA) @ lam
    close(H(Q) @ (under(L, db - dA @ x) - Q @ u) + u, dx, 1e-12)
    Bbar, bbar = gradient(operation, (H(A), b), xbar, **full)
    pairs(ref, (xbar,), joint(dA, db), joint(H(Bbar), bbar))
    g = Q @ xbar
    w = back(H(L), g)
    close((lam @ H(xbar - H(Q) @ g) - w @ H(x), w), (H(Bbar), bbar), 1e-12)


@rule("9.5", "9.6")
@EVERY_RANK
def test_the_shortest_solution_for_any_rank(draw, m, n, r):
    A, dA, curve = on_the_rank_r_set(draw, m, n, r)
    b, db, xbar, X = draw(m, S), draw(m, S), draw(n, S), draw(m, n)
    U, L, V = orthogonal_decomposition(A, r)
    x = solution_of(U, L, V, b)
    close((U @ L @ H(V), x), (A, np.linalg.pinv(A, rcond=1e-8) @ b), 1e-12)
    close(run(solution, A, b), x, 1e-12)
    rest = x, b - A @ x, U @ back(H(L), H(V) @ x)
    found = gradient(solution, (A, b), xbar)
    close(cod_vjp(U, L, V, *rest, xbar), found, 1e-11)
    for step, at in ((dA, curve), (X, lambda t: A + t * X)):  # X leaves the rank-r set
        ref = fd(lambda t, at=at: pinv(at(t), r) @ (b + t * db), 0.0, 1.0)
        dx = solution_jvp(A, b, step, db)
        close(dx, ref)
        close(cod_jvp(U, L, V, *rest, step, db), dx, 1e-11)
        pairs(ref, (xbar,), joint(step, db), joint(*found))


@rule("9.7")
@RANKS
def test_the_solution_by_truncated_pivoted_factors_in_every_direction(draw, m, n, r):
    A, dA, _ = on_the_rank_r_set(draw, m, n, r)
    X, b, db, xbar = draw(m, n), draw(m, S), draw(m, S), draw(n, S)
    _, R, p = pivoted_qr(A)
    U, *_ = orthogonal_decomposition(A, r)
    C, inverse = back(R[:r, :r], R[:r, r:]), np.argsort(p)

    def off(Y):
        return Y - U @ (H(U) @ Y)

    def followed(step):
        step = step[:, p]
        tail = step[:, r:] - off(step[:, r:] - step[:, :r] @ C)
        return np.hstack([step[:, :r], tail])[:, inverse]

    def truncated(t):
        return solution_of(*orthogonal_decomposition(A + t * X, r, p), b + t * db)

    close(followed(dA), dA, 1e-12)
    ref = fd(truncated, 0.0, 1.0)
    close(solution_jvp(A, b, followed(X), db), ref)
    assert error(solution_jvp(A, b, X, db), ref[0]) > 1e-3  # the default is (9.5)
    Abar, bbar = gradient(solution, (A, b), xbar)
    G1, G2 = np.split(Abar[:, p], [r], axis=1)
    Abar = np.hstack([G1 + off(G2) @ H(C), U @ (H(U) @ G2)])[:, inverse]
    pairs(ref, (xbar,), joint(X, db), joint(Abar, bbar))


@rule("9.8", "9.9")
@DEEP_RANKS
@pytest.mark.parametrize("name", RULES)
def test_the_operations_are_differentiated_by_the_operations(draw, m, n, r, name):
    def of(t):
        P, w = pinv(curve(t), r), v + t * dv
        return {
            "solve": lambda: P @ w,
            "solve_adjoint": lambda: H(P) @ w,
            "gram": lambda: P @ (H(P) @ w),
            "null": lambda: w - P @ (curve(t) @ w),
        }[name]()

    A, dA, curve = on_the_rank_r_set(draw, m, n, r)
    rows = m if name == "solve" else n
    v, dv = draw(rows, S), draw(rows, S)
    (value, dy), ref = run(rule_of, A, v, dA, dv, name=name), fd(of, 0.0, 1.0)
    close(value, of(0), 1e-12)
    close(dy, ref)
    ybar = draw(*ref[0].shape)
    pairs(ref, (ybar,), joint(dA, dv), joint(*gradient(operation, (A, v), ybar, name=name)))


@rule("9.8")
@DEEP_RANKS
def test_the_gradient_of_the_solution_is_made_of_the_operations(draw, m, n, r):
    A, _, _ = on_the_rank_r_set(draw, m, n, r)
    v, ybar, P = draw(m, S), draw(n, S), pinv(A, r)
    y, z = P @ v, H(P) @ ybar
    bend = (v - A @ y) @ H(P @ z) + (H(P) @ y) @ H(ybar - P @ (A @ ybar))
    close((bend - z @ H(y), z), gradient(operation, (A, v), ybar, name="solve"), 1e-11)


@rule("9.8", "9.9")
@EVERY_RANK
def test_a_second_derivative_of_the_solution_re_uses_the_factors(draw, m, n, r):
    A, Y, _ = on_the_rank_r_set(draw, m, n, r)
    X, v = draw(m, n), draw(m, S)
    ref = mixed(lambda a: pinv(a, r) @ v, A, X, Y)  # the direction X leaves the rank-r set
    got = second(solution, (A, v), (X, 0 * v), (Y, 0 * v))
    close(got, ref, 1e-6)


def rest(a, v):
    """N v of a deep matrix, as the package has it: v less the product of A and A^+ v."""
    return v - mm(a, operation(a, v, name="solve"))


@rule("9.9")
@DEEP_RANKS
def test_the_projector_to_what_a_cannot_reach(draw, m, n, r):
    A, dA, curve = on_the_rank_r_set(draw, m, n, r)
    v, dv, vbar, P = draw(m, S), draw(m, S), draw(m, S), pinv(A, r)
    ref = fd(lambda t: v + t * dv - curve(t) @ (pinv(curve(t), r) @ (v + t * dv)), 0.0, 1.0)
    close(tangent(rest, (A, v), (dA, dv)), ref)
    N, y = np.eye(m) - A @ P, P @ v
    close(N @ (dv - dA @ y) - H(P) @ (H(dA) @ (N @ v)), ref)
    found = gradient(rest, (A, v), vbar)
    pairs(ref, (vbar,), joint(dA, dv), joint(*found))
    close((-(N @ vbar) @ H(y) - (N @ v) @ H(P @ vbar), N @ vbar), found, 1e-11)


def squared_residuals(a, b):
    return lstsq_p.bind(a, b, rcond=RCOND, pivoting=True)[1]


@rule("9.10")
@DEEP_RANKS
def test_the_squared_residual_needs_only_the_solution_and_the_residual(draw, m, n, r):
    A, dA, curve = on_the_rank_r_set(draw, m, n, r)
    b, db, weight = draw(m, S), draw(m, S), np.array([1.0, -2.0])
    x = pinv(A, r) @ b
    rho = b - A @ x

    def squared(t):
        res = b + t * db - curve(t) @ (pinv(curve(t), r) @ (b + t * db))
        return np.sum(np.abs(res) ** 2, axis=0)

    ref = fd(squared, 0.0, 1.0)
    each = [2 * ip(rho[:, [j]], (db - dA @ x)[:, [j]]) for j in range(S)]
    close((np.array(each), tangent(squared_residuals, (A, b), (dA, db))), ref * 2)
    found = gradient(squared_residuals, (A, b), weight)
    close((-2 * (rho * weight) @ H(x), 2 * rho * weight), found, 1e-11)
