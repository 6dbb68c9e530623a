"""The package's own rules, called with NumPy arrays and compiled once for every shape.

A function `f` of arrays below is one of the package's, or a test module's that calls them; it is
given by its name, not as a lambda, so that what is compiled is found again. Cotangents and
gradients are those of the document's pairing, which are the conjugates of JAX's (0.5).
"""

import functools

import jax
import numpy as np

from jaxqr._factor import packed_rules, rules
from jaxqr._factor.independence import find_independent
from jaxqr._factor.qr_primitive import factor


@functools.cache
def _compiled(f, /, **options):
    return jax.jit(functools.partial(f, **options))


def _to_numpy(tree):
    return jax.tree.map(np.asarray, tree)


def run(f, /, *arrays, **options):
    """f(*arrays, **options)."""
    return _to_numpy(_compiled(f, **options)(*arrays))


def tangent(f, points, tangents, fixed=(), **options):
    """The tangents of f(*fixed, *points)."""
    return run(_tangent, fixed, points, tangents, f=f, **options)


def gradient(f, points, cotangents, fixed=(), **options):
    """The gradients at `points` for cotangents of f(*fixed, *points)."""
    return run(_gradient, fixed, points, cotangents, f=f, **options)


def second(f, points, X, Y, fixed=(), **options):
    """The tangents along X of f(*fixed, *points), differentiated along Y; X stays constant."""
    return run(_second, fixed, points, X, Y, f=f, **options)


def _tangent(fixed, points, tangents, *, f, **options):
    return jax.jvp(lambda *x: f(*fixed, *x, **options), points, tangents)[1]


def _gradient(fixed, points, cotangents, *, f, **options):
    _, pull = jax.vjp(lambda *x: f(*fixed, *x, **options), *points)
    conjugate = functools.partial(jax.tree.map, lambda x: x.conj())
    return conjugate(pull(conjugate(cotangents)))


def _second(fixed, points, X, Y, *, f, **options):
    def along_x(*x):
        return jax.jvp(lambda *x: f(*fixed, *x, **options), x, X)[1]

    return jax.jvp(along_x, points, Y)[1]


# ----------------------------------------------------------------- rules of arrays
def thin_jvp(Q, R, dA, outputs=("q", "r"), pivoted=False):
    """(1.1), (2.1), (8.5) and (8.7)."""
    return tuple(run(rules.thin_jvp, Q, R, dA, outputs=outputs, pivoted=pivoted))


def thin_vjp(Q, R, Qbar, Rbar, pivoted=False):
    """(1.3), (2.2), (8.6) and (8.7); None is no cotangent."""
    return run(rules.thin_vjp, Q, R, Qbar, Rbar, pivoted=pivoted)


def complete_jvp(Q1, R, h, dA):
    """(4.4): tangents of Q1, of the columns that complete it, and of R."""
    dQ1, dR = thin_jvp(Q1, R, dA)
    return dQ1, run(packed_rules.completion_jvp, Q1, h, dQ1), dR


def complete_vjp(Q1, R, h, Q1bar, Qpbar, Rbar):
    """The transposition of (4.4), which is (4.5)."""
    (more,) = gradient(packed_rules.completion_jvp, (0 * Q1bar,), Qpbar, fixed=(Q1, h))
    return thin_vjp(Q1, R, Q1bar + more, Rbar)


def raw_jvp(Q, R, h, tau, dA):
    """(5.1) and (5.2): tangents of h and tau."""
    return run(packed_rules.raw_jvp, Q, h, tau, *thin_jvp(Q, R, dA))


def raw_vjp(Q, R, h, tau, hbar, taubar):
    """The transposition of (5.1) and (5.2), which is (5.3)."""
    cotangents = gradient(packed_rules.raw_jvp, (0 * Q, 0 * R), (hbar, taubar), fixed=(Q, h, tau))
    return thin_vjp(Q, R, *cotangents)


def counts(R, pivoted=False):
    """(8.3): which columns count."""
    return run(find_independent, R, pivoted=pivoted)[0]


def factors(A, *, outputs, pivoting="none", transposed=False):
    """The outputs of these names, by the primitive of QR: a function to differentiate."""
    return tuple(factor(A, *outputs, pivoting=pivoting, transposed=transposed))
