"""Section 10 of `notebooks/derivations.md`: products with Q.

The package has Q u and Q^H u of a reduced Q as an operator; products from the right are their
adjoints. Its rules are compared with differences, what JAX makes of them by transposition is
paired with those, and the formulas of the document are compared with both.
"""

import itertools

import numpy as np
import pytest
import scipy.linalg

from jaxqr._factor.multiply_primitive import QOperator, make_operator
from notation import (
    H,
    back,
    back_h,
    close,
    cpl,
    fd,
    full_qr,
    joint,
    mixed,
    on_the_rank_r_set,
    over,
    over_h,
    pairs,
    pivoted_qr,
    qr,
    raw,
    rule,
    skw,
    skw_adj,
    tall,
    y_of,
    z_of,
)
from own_rules import counts, gradient, run, second, tangent, thin_jvp, thin_vjp

S = 2  # columns or rows of the operand
PRODUCTS = {
    "Qu": lambda Q, u: Q @ u,
    "QHu": lambda Q, u: H(Q) @ u,
    "uQ": lambda Q, u: u @ Q,
    "uQH": lambda Q, u: u @ H(Q),
}
product = pytest.mark.parametrize("name", PRODUCTS)
deep = pytest.mark.parametrize("m, n", [(7, 4), (5, 5)])
unitary = pytest.mark.parametrize("m, n", [(4, 7), (1, 3), (5, 5)])


def operand(draw, name, m, k):
    return draw(*{"Qu": (k, S), "QHu": (m, S), "uQ": (S, m), "uQH": (S, k)}[name])


# ----------------------------------------------------------------- what the package has
def apply(h, tau, r, a, u, *, adjoint, pivoted=False):
    """Q u or Q^H u of the package's operator, as a function of A and u."""
    return QOperator(a, (h, tau, r), pivoted).apply(u, adjoint=adjoint)


def factored_product(a, u, *, pivoting="none"):
    """Q u, from the factorization on."""
    return make_operator(a, pivoting)[0].apply(u, adjoint=False)


class Product:
    """A product with the reduced Q of A by the package, from any side; R may be another."""

    def __init__(self, name, A, R=None, pivoted=False):
        h, tau = raw(A)
        k = len(tau)
        self.fixed = h[:, :k], tau, np.triu(h[:k]) if R is None else R
        self.A, self.turned = A, name in ("uQ", "uQH")
        self.options = {"adjoint": name in ("QHu", "uQ"), "pivoted": pivoted}

    def turn(self, u):
        return H(u) if self.turned else u

    def value(self, u):
        return self.turn(run(apply, *self.fixed, self.A, self.turn(u), **self.options))

    def jvp(self, u, dA, du):
        at, along = (self.A, self.turn(u)), (dA, self.turn(du))
        return self.turn(tangent(apply, at, along, fixed=self.fixed, **self.options))

    def vjp(self, u, ybar):
        at = self.A, self.turn(u)
        Abar, ubar = gradient(apply, at, self.turn(ybar), fixed=self.fixed, **self.options)
        return Abar, self.turn(ubar)


# ----------------------------------------------------------------- the rules of the document
def rows_of_identity(R, c):
    """R_m of (8.5)."""
    return np.where(c[:, None], R[:, : len(R)], np.eye(len(R)))


def product_jvp(name, Q, R, c, u, dA, du):
    """(10.1) to (10.4), masked as in (10.11); c counts the columns."""
    Rm = rows_of_identity(R, c)
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
    Rm, ubar = rows_of_identity(R, c), operand_cotangent(name, Q, ybar)
    if name == "Qu":
        outer, M = ybar @ H(back(Rm, c[:, None] * u)), u @ H(ubar)
    elif name == "QHu":
        outer, M = u @ H(back(Rm, c[:, None] * ybar)), ybar @ H(H(Q) @ u)
    elif name == "uQ":
        outer, M = H(u) @ over_h(ybar * c, Rm), H(ybar) @ (u @ Q)
    else:
        outer, M = H(ybar) @ over_h(u * c, Rm), H(u) @ ubar
    return outer - Q @ over_h(cpl(M) * c, Rm), ubar


def operand_cotangent(name, Q, ybar):
    return PRODUCTS[{"Qu": "QHu", "QHu": "Qu", "uQ": "uQH", "uQH": "uQ"}[name]](Q, ybar)


def outer_factors(name, u, ybar):
    """a and b of (10.10)."""
    return {
        "Qu": (ybar, u),
        "QHu": (u, ybar),
        "uQ": (H(u), H(ybar)),
        "uQH": (H(ybar), H(u)),
    }[name]


def unitary_jvp(name, Q, omega, u, du):
    """(10.9)."""
    if name == "Qu":
        return Q @ (du + omega(u))
    if name == "QHu":
        return H(Q) @ du - omega(H(Q) @ u)
    if name == "uQ":
        return du @ Q - H(omega(H(u @ Q)))
    return (du + H(omega(H(u)))) @ H(Q)


# ----------------------------------------------------------------- the reduced Q
@rule("10.1", "10.2", "10.3", "10.4", "10.5", "10.6", "10.7", "10.8")
@deep
@product
def test_products_with_the_reduced_q_form_no_derivative_of_q(draw, m, n, name):
    A, dA, c = draw.matrix(m, n), draw(m, n), np.ones(n, bool)
    (Q, R), own = qr(A), Product(name, A)
    u, du = operand(draw, name, m, n), operand(draw, name, m, n)
    close(own.value(u), PRODUCTS[name](Q, u), 1e-13)
    ref = fd(lambda t: PRODUCTS[name](qr(A + t * dA)[0], u + t * du), 0.0, 1.0)
    close(own.jvp(u, dA, du), ref)
    close(product_jvp(name, Q, R, c, u, dA, du), own.jvp(u, dA, du), 1e-11)
    ybar = draw(*ref[0].shape)
    pairs(ref, (ybar,), joint(dA, du), joint(*own.vjp(u, ybar)))
    close(product_vjp(name, Q, R, c, u, ybar), own.vjp(u, ybar), 1e-11)


@rule("10.1", "10.2", "10.9")
@pytest.mark.parametrize("m, n", [(7, 4), (5, 5), (4, 7)])
def test_products_are_closed_under_differentiation_with_the_derivative_of_r(draw, m, n):
    A, X, Y, u = draw.matrix(m, n), draw(m, n), draw(m, n), draw(min(m, n), S)
    got = second(factored_product, (A, u), (X, 0 * u), (Y, 0 * u))
    close(got, mixed(lambda a: qr(a)[0] @ u, A, X, Y), 1e-6)


# ----------------------------------------------------------------- a unitary Q
def generator(draw, m, n):
    """A, tangent, thin and complete factors, Z, and Omega as an operator that is not formed."""
    A, dA = draw.matrix(m, n), draw(m, n)
    Q1, Qp, R = full_qr(A)
    Q, Z = np.hstack([Q1, Qp]), z_of(raw(A)[0], n)
    E = over(H(Q) @ dA, R)
    O11, E21 = skw(E[:n]), E[n:]
    K = E21 - Z @ O11 / 2

    def omega(u):
        u1, u2 = u[:n], u[n:]
        low = E21 @ u1 + K @ (H(Z) @ u2) - Z @ (H(K) @ u2)
        return np.vstack([O11 @ u1 - H(E21) @ u2, low])

    return A, dA, Q1, Q, R, Z, omega


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
    found = joint(thin_vjp(Q1, R, Q1bar, None), operand_cotangent(name, Q, ybar))
    pairs(ref, (ybar,), joint(dA, du), found)


@rule("10.9")
@tall
def test_the_generator_with_a_padded_operand_gives_products_with_the_reduced_q(draw, m, n):
    A, dA, _, Q, _, _, omega = generator(draw, m, n)
    u, v = draw(n, S), draw(m, S)
    padded = np.vstack([u, np.zeros((m - n, S))])
    close(Q @ omega(padded), Product("Qu", A).jvp(u, dA, 0 * u), 1e-11)
    close(-omega(H(Q) @ v)[:n], Product("QHu", A).jvp(v, dA, 0 * v), 1e-11)


@rule("10.9", "10.10")
@product
@unitary
def test_products_with_the_q_of_a_wide_or_square_matrix(draw, m, n, name):
    A, dA = draw.matrix(m, n), draw(m, n)
    (Q, R), own = qr(A), Product(name, A)
    u, du = operand(draw, name, m, m), operand(draw, name, m, m)
    Omega = skw(over(H(Q) @ dA[:, :m], R[:, :m]))
    ref = fd(lambda t: PRODUCTS[name](qr(A + t * dA)[0], u + t * du), 0.0, 1.0)
    close(own.jvp(u, dA, du), ref)
    close(unitary_jvp(name, Q, lambda w: Omega @ w, u, du), own.jvp(u, dA, du), 1e-11)
    ybar = draw(*ref[0].shape)
    a, b = outer_factors(name, u, ybar)
    Abar = np.zeros_like(A)
    Abar[:, :m] = Q @ over_h(skw_adj((H(Q) @ a) @ H(b)), R[:, :m])
    pairs(ref, (ybar,), joint(dA, du), joint(*own.vjp(u, ybar)))
    close((Abar, operand_cotangent(name, Q, ybar)), own.vjp(u, ybar), 1e-11)


# ----------------------------------------------------------------- columns that do not count
@rule("10.11")
@pytest.mark.parametrize("m, n, r", [(7, 4, 3), (5, 5, 4), (7, 4, 1)])
def test_masked_products_are_exact_to_second_order_where_the_columns_count(draw, m, n, r):
    A, _, _ = on_the_rank_r_set(draw, m, n, r)
    X, Y, u, v = draw(m, n), draw(m, n), draw(n, S), draw(m, S)
    p = pivoted_qr(A)[2]
    u[r:] = 0

    def products(a):
        thin = qr(a[:, p])[0][:, :r]
        return thin @ u[:r], H(thin) @ v

    own = Product("Qu", A[:, p], pivoted=True), Product("QHu", A[:, p], pivoted=True)
    adjoint = own[1].jvp(v, Y[:, p], 0 * v)[:r]
    close((own[0].jvp(u, Y[:, p], 0 * u), adjoint), fd(products, A, Y))
    ref = mixed(lambda a: qr(a[:, p])[0] @ u, A, X, Y)
    at, X, Y = (A, u), (X, 0 * u), (Y, 0 * u)
    close(second(factored_product, at, X, Y, pivoting="exact"), ref, 1e-6)


@rule("10.11")
@product
@pytest.mark.parametrize("m, n", [(7, 4), (5, 5), (4, 7)])
def test_masked_products_are_the_masked_rule_applied_to_the_operand(draw, m, n, name):
    A, dA, k = draw.matrix(m, n), draw(m, n), min(m, n)
    (Q, R), u, du = qr(A), operand(draw, name, m, k), operand(draw, name, m, k)
    for mask in itertools.product([False, True], repeat=k):
        c = np.array(mask)
        Rc = R - np.eye(k, n) * np.append(np.diag(R) * ~c, np.zeros(n - k))
        assert np.array_equal(counts(Rc), c)  # a zero on the diagonal does not count
        own, ybar = Product(name, A, Rc), draw(*PRODUCTS[name](Q, u).shape)
        got, (Abar, ubar) = own.jvp(u, dA, du), own.vjp(u, ybar)
        dQ = thin_jvp(Q, Rc, dA)[0]
        close(got, PRODUCTS[name](dQ, u) + PRODUCTS[name](Q, du), 1e-11)
        a, b = outer_factors(name, u, ybar)
        close(Abar, thin_vjp(Q, Rc, a @ H(b), None), 1e-11)
        pairs((got,), (ybar,), joint(dA, du), joint(Abar, ubar), 1e-11)
        Rm = rows_of_identity(Rc, c)
        if m < n:
            Omega = skw(over((H(Q) @ dA)[:, :m], Rm) * c)
            formula = unitary_jvp(name, Q, lambda w, Omega=Omega: Omega @ w, u, du)
            reverse = np.zeros_like(dA)
            reverse[:, :m] = Q @ over_h(skw_adj((H(Q) @ a) @ H(b)) * c, Rm)
        else:
            formula = product_jvp(name, Q, Rc, c, u, dA, du)
            reverse = a @ over_h(H(b) * c, Rm) - Q @ over_h(cpl(b @ (H(a) @ Q)) * c, Rm)
            close(product_vjp(name, Q, Rc, c, u, ybar), (Abar, ubar), 1e-11)
        close((formula, reverse), (got, Abar), 1e-11)
