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


DEFICIENT = ("zero", "rank one", "rank two", "zero column", "repeated column", "identity")


def of_rank(rank, shape, dtype="float64", seed=0):
    *batch, m, n = shape
    left, right = normal((*batch, m, rank), dtype, seed + 1), normal((*batch, rank, n), dtype, seed)
    return left @ right


def deficient(kind, shape, dtype="float64"):
    """One of DEFICIENT."""
    if kind == "zero":
        return np.zeros(shape, dtype)
    if kind == "identity":
        return np.eye(*shape, dtype=dtype)
    if kind in ("rank one", "rank two"):
        return of_rank(1 if kind == "rank one" else 2, shape, dtype, seed=1)
    a = normal(shape, dtype)
    a[:, 1] = 0 if kind == "zero column" else a[:, 0]
    return a


def kahan(n, c=0.285, shrink=1.0):
    """All columns stay nearly of one norm while R decays; `shrink` makes the pivots strict."""
    s = np.sqrt(1 - c**2)
    k = s ** np.arange(n)[:, None] * (np.eye(n) - c * np.triu(np.ones((n, n)), 1))
    return k * shrink ** np.arange(n)


def hostile(n, dtype):
    """Matrices that break a careless factorization, by name."""
    info = np.finfo(dtype)
    rng = np.random.default_rng(0)
    base = normal((n, n), dtype)
    i = np.arange(n)
    graded = float(info.eps) ** (2 * i / n)
    rotation = np.linalg.qr(base.astype(np.complex128))[0].real
    matrices = {
        "zero": np.zeros((n, n)),
        "identity": np.eye(n),
        "ones": np.ones((n, n)),
        "rank one": np.outer(base[0], base[1]),
        "rank two": base[:, :2] @ base[:2],
        "zero column": np.where(i == n // 2, 0, base),
        "upper": np.triu(base),
        "graded columns": base * graded,
        "graded rows": base * graded[:, None],
        "columns 1e-30 apart": base * np.where(i % 2, 1, 1e-30),
        "kahan": kahan(n),
        "hilbert": 1 / (i[:, None] + i + 1),
        "shuffled orthogonal": rotation[rng.permutation(n)],
        "huge": base / np.abs(base).max() * (float(info.max) / (4 * n)),
        "nearly huge": base * (float(info.max) ** 0.97 / n),
        "tiny": base / np.abs(base).min() * float(info.tiny),
        "small": base * float(info.tiny) ** 0.9,
    }
    return {name: a.astype(dtype) for name, a in matrices.items()}


# ------------------------------------------------------------------------------------ ratios


def double(x):
    """The same numbers in double precision."""
    x = np.asarray(x)
    return x.astype(np.result_type(x.dtype, np.float64))


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
    error, scale = norm(double(a) - double(product)), norm(double(a))
    return np.max(error / (size * (scale * float(info.eps) + float(info.tiny))), initial=0)


def orthogonality_ratio(q):
    """norm(I - Q^H Q) / (m eps), the worst of a batch."""
    q, wide = np.asarray(q), double(q)
    error = norm(adjoint(wide) @ wide - np.eye(q.shape[-1]))
    return np.max(error / (max(1, q.shape[-2]) * np.finfo(q.dtype).eps), initial=0)


# -------------------------------------------------------------------------------- references


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
