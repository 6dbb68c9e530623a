"""Random matrices for the kernels, and by what they are judged."""

import numpy as np

LIMIT = 30  # the threshold of LAPACK's test suite
LETTERS = "fdFD"


def problem(rng):
    """A dtype, a batch size and a shape: mostly small, now and then what blocked kernels see."""
    letter = LETTERS[rng.integers(4)]
    kind = rng.random()
    if kind < 0.75:
        batch, m, n = rng.integers(1, 70), *rng.integers(1, 12, 2)
    elif kind < 0.9:
        batch, m, n = rng.integers(1, 20), *rng.integers(1, 45, 2)
    elif kind < 0.97:
        batch, m, n = rng.integers(1, 3), *rng.integers(1, 200, 2)
    else:
        batch, m, n = 1, *((rng.integers(500, 6000), rng.integers(1, 20))[:: rng.choice((1, -1))])
    return np.dtype(letter), int(batch), int(m), int(n)


def normal(rng, shape, dtype):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype.kind == "c" else x).astype(dtype)


def matrices(rng, dtype, batch, m, n):
    """Mostly regular matrices; some that are deficient, sparse, graded, huge or tiny."""
    a = normal(rng, (batch, m, n), dtype)
    kind = rng.random()
    ends = 250 if dtype.char in "dD" else 30
    if kind < 0.1:  # rank loss
        left, right = normal(rng, (batch, m, 2), dtype), normal(rng, (batch, 2, n), dtype)
        a = left @ right
    elif kind < 0.2:  # zero columns, zero rows
        a = a * (rng.random((batch, 1, n)) < 0.7) * (rng.random((batch, m, 1)) < 0.7)
    elif kind < 0.25:
        a = np.round(a / 2)
    elif kind < 0.32:
        a = a * 10.0 ** rng.integers(-ends, ends)
    elif kind < 0.37:  # columns, or rows, far apart
        steps = 10.0 ** rng.integers(-ends, 1, (batch, 1, n))
        a = a * (steps if rng.random() < 0.5 else 10.0 ** rng.integers(-ends, 1, (batch, m, 1)))
    return np.ascontiguousarray(a.astype(dtype)), kind >= 0.37


def of_spectrum(rng, dtype, m, n):
    """A matrix whose singular values fall, in one of several ways, by what the dtype resolves."""
    k, kind = min(m, n), rng.random()
    decades = rng.uniform(0, -np.log10(float(np.finfo(dtype).eps)) - 1)
    if kind < 0.4:  # exponentially
        values = 10.0 ** -(decades * np.arange(k) / k)
    elif kind < 0.6:  # in stairs
        width = int(rng.integers(1, 50))
        values = 10.0 ** -(decades * (np.arange(k) // width * width) / k)
    elif kind < 0.8:  # once
        values = np.where(np.arange(k) < rng.integers(0, k), 1, 10.0**-decades)
    else:  # to zero
        values = 1.0 * (np.arange(k) < rng.integers(0, k))
    wide = np.result_type(dtype, np.float64)
    left, right = (np.linalg.qr(normal(rng, (size, k), wide))[0] for size in (m, n))
    return np.ascontiguousarray(((left * values) @ adjoint(right)).astype(dtype))


def norm(x):
    return np.abs(x).sum(axis=-2).max(axis=-1)


def adjoint(x):
    return np.conj(np.swapaxes(x, -1, -2))


def assert_orthonormal(q, eps):
    wide = q.astype(np.result_type(q.dtype, np.float64))
    error = norm(adjoint(wide) @ wide - np.eye(q.shape[-1]))
    assert np.max(error / (q.shape[-2] * eps)) < LIMIT, "orthogonality"


def assert_product(a, product, info):
    wide = np.result_type(a.dtype, np.float64)
    error, size = norm(a.astype(wide) - product), norm(a.astype(wide))
    unit = max(a.shape[-2:]) * (size * float(info.eps) + float(info.tiny))
    assert np.max(error / unit) < LIMIT, "residual"


def assert_close(x, y, size, eps, what):
    scale = np.maximum(np.max(np.abs(y), axis=tuple(range(1, y.ndim)), keepdims=True), 1e-300)
    assert np.max(np.abs(x - y) / scale) < 100 * size * eps, what
