"""Matrices to factor, and the ratios by which LAPACK's own tests judge a factorization."""

import numpy as np

FACTORIZATIONS = ("qr", "lq")
SHAPES = ((7, 4), (5, 5), (4, 7), (3, 1), (1, 3), (1, 1))
DTYPES = ("float32", "float64", "complex64", "complex128")
LIMIT = 30  # the threshold of LAPACK's test suite


def normal(shape, dtype="float64", seed=0):
    """Standard normal entries, in both parts if complex."""
    rng = np.random.default_rng([seed, *shape])
    x = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype)


def separated(shape, dtype="float64", seed=0):
    """A matrix whose pivots stay the same in a neighbourhood: its columns' norms are far apart.

    The rows' norms too, so that the pivots of LQ stay as well.
    """
    *_, m, n = shape
    rng = np.random.default_rng([seed, *shape, 1])
    rows, columns = (rng.permutation(3.0 ** np.arange(size)) for size in (m, n))
    return (normal(shape, dtype, seed) * rows[:, None] ** 0.5 * columns**0.5).astype(dtype)


def adjoint(x):
    return np.conj(np.swapaxes(x, -1, -2))


def norm(x):
    """One-norms of matrices, in double precision without overflow."""
    return np.abs(x).sum(axis=-2, initial=0).max(axis=-1, initial=0)


def residual_ratio(a, product):
    """norm(A - QR) / (max(m, n) norm(A) eps), the worst of a batch; a zero matrix must be exact.

    XLA flushes denormal numbers: an error of a few smallest normal numbers is none.
    """
    a = np.asarray(a)
    info, size = np.finfo(a.dtype), max(1, *a.shape[-2:])
    wide = np.result_type(a.dtype, np.float64)
    error, scale = norm(a.astype(wide) - np.asarray(product).astype(wide)), norm(a.astype(wide))
    return np.max(error / (size * (scale * float(info.eps) + float(info.tiny))), initial=0)


def orthogonality_ratio(q):
    """norm(I - Q^H Q) / (m eps), the worst of a batch."""
    q = np.asarray(q)
    wide = q.astype(np.result_type(q.dtype, np.float64))
    error = norm(adjoint(wide) @ wide - np.eye(q.shape[-1]))
    return np.max(error / (max(1, q.shape[-2]) * np.finfo(q.dtype).eps), initial=0)


def householder(a):
    """LAPACK's packed reflectors and factors tau, in extended precision and exponent range."""
    h = np.array(a, np.result_type(a, np.longdouble))
    m, n = h.shape
    tau = np.zeros(min(m, n), h.dtype)
    for j in range(min(m, n)):
        alpha, rest = h[j, j], h[j + 1 :, j]
        size = np.sqrt(np.sum(np.abs(rest) ** 2))
        if size == 0 and alpha.imag == 0:
            continue
        beta = -np.copysign(np.hypot(np.abs(alpha), size), alpha.real)
        tau[j] = (beta - alpha) / beta
        v = np.concatenate([[h.dtype.type(1)], rest / (alpha - beta)])
        h[j:, j + 1 :] -= tau[j].conj() * np.outer(v, v.conj() @ h[j:, j + 1 :])
        h[j, j], h[j + 1 :, j] = beta, v[1:]
    return h, tau


def pivots(a):
    """The order in which columns of largest remainder are taken, in extended precision."""
    rest = np.array(a, np.result_type(a, np.longdouble))
    order = np.arange(rest.shape[1])
    for j in range(min(rest.shape)):
        best = j + np.argmax(np.sum(np.abs(rest[:, j:]) ** 2, axis=0))
        for x in (rest, order):
            x[..., [j, best]] = x[..., [best, j]]
        q = rest[:, j] / np.sqrt(np.sum(np.abs(rest[:, j]) ** 2))
        for _ in range(2):  # twice is enough
            rest[:, j + 1 :] -= np.outer(q, q.conj() @ rest[:, j + 1 :])
    return order
