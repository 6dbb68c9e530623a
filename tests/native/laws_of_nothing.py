"""Problems that are empty in one dimension or several."""

import numpy as np

from kernel_library import NONE, PIVOTING
from problems import LETTERS, normal


def empty(library, rng):
    """No matrices, no rows, no columns, no right-hand sides: nothing is written that is not there.

    What is left of the results is what it is by definition.
    """
    dtype = np.dtype(LETTERS[rng.integers(4)])
    sizes = rng.integers(1, 20, 4) * np.array((1, rng.choice((1, 30)), 1, 1))
    sizes[rng.random(4) < 0.4] = 0
    batch, m, n, s = map(int, sizes)
    if batch * m * n == 0:
        empty_factors(library, rng, dtype, batch, m, n)
    m, n = max(m, n), min(m, n)
    if batch * m * n * s == 0:
        empty_reflectors(library, rng, dtype, batch, m, n, s)
        empty_least_squares(library, rng, dtype, batch, m, n, s)


def empty_factors(library, rng, dtype, batch, m, n):
    k, transposed, pivoting = min(m, n), rng.random() < 0.5, int(rng.choice(PIVOTING))
    shape = (batch, n, m) if transposed else (batch, m, n)
    names = ["q", "q_full", "r", "h", "tau"] + ["p"] * (pivoting != NONE)
    out = library.factor(np.zeros(shape, dtype), names, transposed=transposed, pivoting=pivoting)
    assert np.all(out["q_full"] == np.eye(m)), "Q is not the identity"
    assert "p" not in out or np.all(out["p"] == np.arange(n)), "p is not the identity"
    q, r, da = (np.zeros((batch, *s), dtype) for s in ((m, k), (k, n), (m, n)))
    if transposed:
        q, r, da = (np.ascontiguousarray(np.swapaxes(x, -1, -2)) for x in (q, r, da))
    for forward in (True, False):
        options = {"transposed": transposed, "pivoted": pivoting != NONE, "forward": forward}
        library.derivative(q, r, da, q.copy(), r.copy(), **options)


def empty_reflectors(library, rng, dtype, batch, m, n, s):
    h = normal(rng, (batch, m, n), dtype)
    assert np.all(library.form(h, np.zeros((batch, n), dtype)) == np.eye(m, n)), "form"
    for k, left in ((n, True), (n, False), (0, True), (0, False)):
        c = normal(rng, (batch, m, s) if left else (batch, s, m), dtype)
        v = np.ascontiguousarray(h[:, :, :k])
        out = library.apply(v, np.zeros((batch, k), dtype), c, left=left, adjoint=False)
        assert np.array_equal(out, c), "apply"


def empty_least_squares(library, rng, dtype, batch, m, n, s):
    a, b = normal(rng, (batch, m, n), dtype), normal(rng, (batch, m, s), dtype)
    for pivoting in (True, False):
        _, residuals, rank = library.least_squares(a, b, 1e-6, pivoting=pivoting)
        assert np.all(rank == n), f"rank {rank}, not {n}"
        if n == 0:
            assert np.allclose(residuals, np.sum(np.abs(b) ** 2, axis=-2), rtol=1e-5)
        twice = pivoting and n > 0 and bool(rng.random() < 0.5)
        factors = library.decompose(a, 1e-6, pivoting=pivoting, twice=twice)
        assert batch == 0 or np.all(factors[5] == n), "rank of the decomposition"
        for operation in ("solve", "solve_adjoint", "gram", "null"):
            if operation == "null" and not pivoting:
                continue
            v = np.zeros((batch, m if operation == "solve" else n, s), dtype)
            assert np.all(library.pseudoinverse(a, factors, operation, v) == 0), operation
