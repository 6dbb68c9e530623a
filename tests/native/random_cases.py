"""Random problems for the kernels, judged by LAPACK and by the plain rules: run as a script.

    python random_cases.py LIBRARY CASES SECONDS [CALLERS]

LIBRARY is the kernels with driver.cc; CALLERS threads call it at once. The seed is fixed, so a case
that fails can be had again. Exits with 1 at the first law that does not hold; a sanitizer ends the
process by itself. JAX is not imported: the sanitizers would have to live with its libraries.
"""

import ctypes
import importlib.util
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import scipy.linalg

LIMIT = 30  # the threshold of LAPACK's test suite
LETTERS = "fdFD"
NONE, EXACT, RANDOMIZED = range(3)  # of the kernels' enumeration
PIVOTING = (NONE, NONE, NONE, EXACT, RANDOMIZED)


def main() -> int:
    path, cases, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    callers = int(sys.argv[4]) if sys.argv[4:] else 1
    library = Library(path)
    check_pools_and_memory(library.library)
    start = time.monotonic()

    def call(first: int) -> int:
        """Every case from `first` on that is this caller's."""
        for done, seed in enumerate(range(first, cases, callers)):
            if time.monotonic() - start > seconds:
                return done
            run_case(library, seed)
        return len(range(first, cases, callers))

    with ThreadPoolExecutor(callers) as pool:
        done = sum(pool.map(call, range(callers)))
    if done < cases:
        print(f"time limit after {done} cases")
        return 1
    print(f"{done} cases in {time.monotonic() - start:.1f} s")
    return 0


def run_case(library, seed):
    rng = np.random.default_rng(seed)
    case = rng.choice(CASES, p=WEIGHTS)
    try:
        case(library, rng)
    except AssertionError:
        print(f"seed {seed}, {case.__name__}")
        raise


def check_pools_and_memory(library):
    """What no call's results tell of the kernels' loops and workspaces."""
    for name in ("test_refusing_pool", "test_throwing_body", "test_kept_bytes"):
        getattr(library, name).restype = ctypes.c_long
    assert library.test_refusing_pool(ctypes.c_long(100)) == 100
    assert library.test_throwing_body(ctypes.c_long(100)) == 99
    mib = 2**20
    kept = library.test_kept_bytes(ctypes.c_long(8), ctypes.c_long(32 * mib))
    assert 0 < kept <= 256 * mib, f"idle threads keep {kept / mib} MiB"


# ------------------------------------------------------------------------- the library


class Library:
    """The kernels' plain functions, on NumPy's arrays."""

    def __init__(self, path):
        # by its path: importing the package would import JAX
        file = Path(__file__).parents[2] / "jaxqr" / "_lowering" / "routines.py"
        spec = importlib.util.spec_from_file_location("routines", file)
        routines = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(routines)
        self.library = ctypes.CDLL(path)
        self.library.jaxqr_set_routines(routines.addresses())

    def factor(self, a, outputs, *, transposed, pivoting):
        """`a` has the order of `transposed`: its matrices are the transposes of A."""
        *_, m, n = a.shape if not transposed else (*a.shape[:-2], *a.shape[:-3:-1])
        k = min(m, n)
        shapes = {"q": (m, k), "q_full": (m, m), "r": (k, n), "h": (m, n)}
        results = {}
        for name in outputs:
            if name in shapes:
                shape = shapes[name][::-1] if transposed else shapes[name]
                results[name] = np.full((len(a), *shape), 77, a.dtype)
            elif name == "tau":
                results[name] = np.full((len(a), k), 77, a.dtype)
            else:
                results[name] = np.full((len(a), n), 77, np.int32)
        names = ("q", "q_full", "r", "h", "tau", "p")
        self.library.test_factor(
            *self._head(a, m, n),
            ctypes.c_bool(transposed),
            ctypes.c_int(pivoting),
            *map(pointer, [a, *(results.get(name) for name in names)]),
        )
        if transposed:
            flip = shapes.keys() & results.keys()
            results.update((name, np.swapaxes(results[name], -1, -2)) for name in flip)
        return results

    def form(self, h, tau):
        q = np.full_like(h, 77)
        sizes = (*h.shape[1:], tau.shape[1])
        self.library.test_form(*self._head(h, *sizes), *map(pointer, (h, tau, q)))
        return q

    def apply(self, h, tau, c, *, left, adjoint):
        out = np.full_like(c, 77)
        sizes = (*h.shape[1:], *c.shape[1:])
        flags = map(ctypes.c_bool, (left, adjoint))
        self.library.test_apply(*self._head(h, *sizes), *flags, *map(pointer, (h, tau, c, out)))
        return out

    def derivative(self, q, r, da, dq, dr, *, transposed, pivoted, forward):
        m, n = q.shape[-1 if transposed else -2], r.shape[-2 if transposed else -1]
        flags = map(ctypes.c_bool, (transposed, pivoted, forward))
        self.library.test_derivative(
            *self._head(q, m, n), *flags, *map(pointer, (q, r, da, dq, dr))
        )

    def decompose(self, a, rcond, *, pivoting, twice):
        batch, m, n = a.shape
        inner, extra = (n if twice else 0), (n if pivoting else 0)
        shapes = ((m, n), (n,), (inner, inner), (inner,), (extra,), (), (extra, extra), (extra,))
        dtypes = [a.dtype] * 4 + [np.int32] * 2 + [a.dtype] * 2
        factors = [np.full((batch, *s), 77, t) for s, t in zip(shapes, dtypes, strict=True)]
        given = [None if x.shape[-1:] == (0,) else x for x in factors]
        self.library.test_decompose(
            *self._head(a, m, n), ctypes.c_double(rcond), *map(pointer, [a, *given])
        )
        return given

    def pseudoinverse(self, a, factors, operation, v):
        number = ("solve", "solve_adjoint", "gram", "null").index(operation)
        rows = a.shape[-2 if operation == "solve_adjoint" else -1]
        out = np.full((len(v), rows, v.shape[-1]), 77, v.dtype)
        self.library.test_pseudoinverse(
            *self._head(a, *a.shape[1:], v.shape[-1]),
            number,
            *map(pointer, [*factors, v, out]),
        )
        return out

    def least_squares(self, a, b, rcond, *, pivoting):
        batch, m, n = a.shape
        x = np.full((batch, n, b.shape[-1]), 77, a.dtype)
        residuals = np.full((batch, b.shape[-1]), 77, a.real.dtype)
        rank = np.full((batch,), 77, np.int32)
        self.library.test_least_squares(
            *self._head(a, m, n, b.shape[-1]),
            ctypes.c_bool(pivoting),
            ctypes.c_double(rcond),
            *map(pointer, (a, b, x, residuals, rank)),
        )
        return x, residuals, rank

    def _head(self, a, *sizes):
        return ctypes.c_char(a.dtype.char.encode()), *map(ctypes.c_long, (len(a), *sizes))


def pointer(x):
    """The address of a dense array; null for None."""
    assert x is None or x.flags.c_contiguous
    return ctypes.c_void_p(None if x is None else x.ctypes.data)


# ------------------------------------------------------------------------- random matrices


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


# ------------------------------------------------------------------------------- the laws


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


def factorization(library, rng):
    dtype, batch, m, n = problem(rng)
    info, transposed, pivoting = np.finfo(dtype), rng.random() < 0.5, int(rng.choice(PIVOTING))
    a, regular = matrices(rng, dtype, batch, m, n)
    names = ["q", "r", "h", "tau"] + ["p"] * (pivoting != NONE) + ["q_full"] * (n < m < 400)
    chosen = names if rng.random() < 0.5 else [x for x in names if rng.random() < 0.5]
    memory = np.ascontiguousarray(np.swapaxes(a, -1, -2)) if transposed else a
    before = memory.copy()
    out = library.factor(memory, chosen, transposed=transposed, pivoting=pivoting)
    assert np.array_equal(memory, before), "the input was written"
    wide = np.result_type(dtype, np.float64)
    if "p" in out:
        assert np.array_equal(np.sort(out["p"]), np.tile(np.arange(n), (batch, 1))), "permutation"
        a = np.take_along_axis(a, out["p"][:, None, :], -1)
    elif pivoting:
        regular = False  # nothing to compare with
    q = out.get("q", out.get("q_full", np.empty(0))[..., : min(m, n)])
    for name in out.keys() & {"q", "q_full"}:
        assert_orthonormal(out[name], info.eps)
    if "r" in out:
        r = out["r"]
        assert np.all(np.tril(r, -1) == 0), "R is not triangular"
        assert np.all(np.diagonal(r, axis1=-2, axis2=-1).imag == 0), "dg(R) is not real"
        if ("p" in out or not pivoting) and q.size:
            assert_product(a, q.astype(wide) @ r.astype(wide), info)
    if regular and ("p" in out or not pivoting):
        check_against_lapack(a[0], {name: x[0] for name, x in out.items()}, info)


def check_against_lapack(a, out, info):
    """Entry for entry: signs, reflectors and all. `a` has its columns permuted already."""
    geqrf = scipy.linalg.get_lapack_funcs("geqrf", (a,))
    h, tau, _, _ = geqrf(a)
    m, n = a.shape
    condition = np.linalg.cond(a[:, : min(m, n)].astype(np.result_type(a.dtype, np.float64)))
    tolerance = 100 * max(m, n) * float(info.eps) * condition
    want = {"h": h, "tau": tau, "r": np.triu(h[: min(m, n)])}
    for name in want.keys() & out.keys():
        size = np.max(np.abs(want[name]))
        error = np.max(np.abs(out[name] - want[name]))
        assert error <= tolerance * max(size, 1), f"{name} is not LAPACK's: {error}"


def pivots(library, rng):
    """The pivots are geqp3's, where no two columns come near each other."""
    dtype, batch, m, n = problem(rng)
    a = (normal(rng, (batch, m, n), dtype) * 1.5 ** (rng.permutation(n) % 40)).astype(dtype)
    transposed = rng.random() < 0.5
    memory = np.ascontiguousarray(np.swapaxes(a, -1, -2)) if transposed else a
    out = library.factor(memory, ["r", "p"], transposed=transposed, pivoting=EXACT)
    sizes = np.abs(np.diagonal(out["r"], axis1=-2, axis2=-1))
    assert np.all(sizes[:, 1:] <= sizes[:, :-1] * (1 + 100 * np.finfo(dtype).eps)), "order"
    geqp3 = scipy.linalg.get_lapack_funcs("geqp3", (a,))
    h, jpvt, _, _, _ = geqp3(a[0])
    k = min(m, n)
    gaps = np.abs(np.diagonal(h)[:k])
    if k > 1 and np.min(gaps[:-1] - gaps[1:]) > 1e-2 * gaps[0]:
        assert np.array_equal(out["p"][0][:k], jpvt[:k] - 1), "pivots"


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


def random_pivots(library, rng):
    """They tell about as much as geqp3's, and depend on nothing but the matrix.

    Not on its order in memory, nor on its place in a batch.
    """
    dtype = np.dtype(LETTERS[rng.integers(4)])
    m, n = rng.integers(161, 330, 2) if rng.random() < 0.9 else rng.integers(513, 600, 2)
    k, info = min(m, n), np.finfo(dtype)
    a = of_spectrum(rng, dtype, m, n)
    names = ["q", "r", "p", "tau"]
    pair = np.stack([normal(rng, (m, n), dtype), a])
    flipped = np.ascontiguousarray(np.swapaxes(pair, -1, -2))
    out = library.factor(a[None], names, transposed=False, pivoting=RANDOMIZED)
    for other in (
        library.factor(pair, names, transposed=False, pivoting=RANDOMIZED),
        library.factor(flipped, names, transposed=True, pivoting=RANDOMIZED),
    ):
        for name in names:
            assert np.array_equal(other[name][1], out[name][0]), f"{name} depends on its place"
    assert_orthonormal(out["q"], info.eps)
    wide = np.result_type(dtype, np.float64)
    q, r = out["q"][0].astype(wide), out["r"][0].astype(wide)
    assert_product(a[None][..., out["p"][0]], (q @ r)[None], info)
    h, *_ = scipy.linalg.get_lapack_funcs("geqp3", (a,))(a)
    cut = int(rng.integers(1, k))
    noise = 100 * max(m, n) * float(info.eps) * np.abs(r[0, 0])
    rest, want = (np.linalg.norm(x[cut:, cut:], 2) for x in (r, np.triu(h[:k])))
    assert rest <= 10 * want + noise, f"the rest is {rest}, with exact pivots {want}"
    sizes = np.abs(np.diagonal(r))
    largest = np.maximum.accumulate(sizes[::-1])[::-1]
    assert np.all(largest <= 10 * sizes + noise), "the diagonal grows"


def reflectors(library, rng):
    """Forming and applying Q agree with the product of the reflectors, given one by one."""
    dtype, batch, m, n = problem(rng)
    m, n = max(m, n), min(m, n)
    if m > 300:
        m = 300
    k = int(rng.integers(0, n + 1))
    eps = np.finfo(dtype).eps
    h = normal(rng, (batch, m, n), dtype) / dtype.type(np.sqrt(m))
    tau = normal(rng, (batch, k), dtype)
    q = np.broadcast_to(np.eye(m, dtype=np.result_type(dtype, np.float64)), (batch, m, m)).copy()
    for i in range(k):
        v = np.zeros((batch, m, 1), q.dtype)
        v[:, i + 1 :, 0] = h[:, i + 1 :, i]
        v[:, i] = 1
        q -= tau[:, i, None, None] * (q @ v) @ adjoint(v)
    size = 10 * m * max(1, norm(q).max())
    assert_close(library.form(h, tau), q[:, :, :n], size, eps, "form")
    left, adjoint_ = rng.random() < 0.5, rng.random() < 0.5
    s = int(rng.integers(1, 30))
    c = normal(rng, (batch, m, s) if left else (batch, s, m), dtype)
    factor = adjoint(q) if adjoint_ else q
    want = factor @ c if left else c @ factor
    vectors = np.ascontiguousarray(h[:, :, :k])
    got = library.apply(vectors, tau, c, left=left, adjoint=adjoint_)
    assert_close(got, want, size, eps, "apply")


def derivatives(library, rng):
    """The tangent solves its equations, and the cotangent is its transpose."""
    dtype, batch, m, n = problem(rng)
    if max(m, n) > 300:
        batch, m, n = 1, min(m, 2000), min(n, 300)
    k, transposed = min(m, n), rng.random() < 0.5
    eps = np.finfo(dtype).eps
    wide = np.result_type(dtype, np.float64)
    # a well-conditioned point: its derivative is known well
    q, r = np.linalg.qr(normal(rng, (batch, m, n), np.dtype(wide)))
    signs = np.sign(np.diagonal(r, axis1=-2, axis2=-1).real)[..., None]
    r = r / np.sqrt(m + n) + np.eye(k, n) * signs
    r = np.triu(r)
    exponent = int(rng.choice((0, 0, 10)))
    q, r = q.astype(dtype), (r * 2.0**exponent).astype(dtype)
    da, qbar = normal(rng, (batch, m, n), dtype), normal(rng, (batch, m, k), dtype)
    rbar = normal(rng, (batch, k, n), dtype)
    dq, dr, abar = np.full_like(q, 77), np.full_like(r, 77), np.full_like(da, 77)
    flip = (lambda x: np.ascontiguousarray(np.swapaxes(x, -1, -2))) if transposed else (lambda x: x)
    wants_q, wants_r = [(True, True), (True, False), (False, True)][rng.integers(3)]
    options = {"transposed": transposed, "pivoted": bool(rng.random() < 0.5)}
    fixed = (flip(q), flip(r))
    out = [flip(dq) if wants_q else None, flip(dr) if wants_r else None]
    library.derivative(*fixed, flip(da), *out, forward=True, **options)
    dq, dr = (None if x is None else flip(x) for x in out)
    to = flip(abar)
    cts = (flip(qbar) if wants_q else None, flip(rbar) if wants_r else None)
    library.derivative(*fixed, to, *cts, forward=False, **options)
    abar = flip(to)
    condition = max(np.linalg.cond(r[:, :, :k].astype(wide)).max(), 1)
    tolerance = 1000 * max(m, n) * eps * condition
    if wants_r:
        assert np.all(np.tril(dr, -1) == 0), "dR is not triangular"
    if wants_q and wants_r:
        error = np.abs(dq.astype(wide) @ r + q.astype(wide) @ dr - da).max()
        assert error < tolerance * max(1, np.abs(da).max()), f"dA is not dQ R + Q dR: {error}"
        skew = adjoint(q.astype(wide)) @ dq
        error = np.abs(skew + adjoint(skew)).max() / max(1, np.abs(dq).max())
        assert error < tolerance, f"Q^H dQ is not skew: {error}"
    # JAX pairs without conjugation
    left = sum(np.sum(x.astype(wide) * y) for x, y in ((qbar, dq), (rbar, dr)) if y is not None)
    right = np.sum(abar.astype(wide) * da)
    sizes = sum(
        np.sum(np.abs(x.astype(wide) * y)) for x, y in ((qbar, dq), (rbar, dr)) if y is not None
    )
    sizes = max(sizes + np.sum(np.abs(abar * da)), float(np.finfo(dtype).tiny))
    error = abs(left.real - right.real) / sizes
    assert error < tolerance, f"the cotangent is not the transpose of the tangent: {error}"


def least_squares(library, rng):
    """The solution and the operations of the decomposition are those of the pseudo-inverse."""
    dtype, batch, m, n = problem(rng)
    m, n, s = max(m, n), min(m, n), int(rng.choice((1, 1, 2, 5)))
    if m < 300:
        batch = min(batch, 40)
    info, wide = np.finfo(dtype), np.result_type(dtype, np.float64)
    rank = n if rng.random() < 0.5 else int(rng.integers(0, n + 1))
    # singular values of one size: the rank is beyond doubt, and the condition harmless
    left = np.linalg.qr(normal(rng, (batch, m, rank), np.dtype(wide)))[0]
    right = np.linalg.qr(normal(rng, (batch, n, rank), np.dtype(wide)))[0]
    a = (left * rng.uniform(1, 2, (batch, 1, rank))) @ adjoint(right)
    if rank == n and rng.random() < 0.3:  # columns of different sizes: the condition grows
        a *= 2.0 ** rng.integers(-2, 3, (batch, 1, n))
    a = a.astype(dtype)
    b, u = normal(rng, (batch, m, s), dtype), normal(rng, (batch, n, s), dtype)
    pivoting = rank < n or rng.random() < 0.7
    rcond = 20 * m * float(info.eps)
    cut = 1e-13 if rank == n else 100 * m * float(info.eps)
    inverse = np.linalg.pinv(a.astype(wide), rcond=cut)
    size = max(1, np.abs(b).max(), np.abs(u).max()) * max(1, np.abs(inverse).max()) ** 2
    limit = 1000 * m * float(info.eps) * size

    def same(x, y, what):
        assert x.shape == y.shape and np.all(np.abs(x - y) < limit), f"{what}, rank {rank}"

    want = inverse @ b
    x, residuals, ranks = library.least_squares(a, b, rcond, pivoting=pivoting)
    assert np.all(ranks == rank), f"rank {ranks}, not {rank}"
    same(x, want, "x")
    squares = np.sum(np.abs(b - a.astype(wide) @ want) ** 2, axis=-2)
    assert np.all(np.abs(residuals - squares) < limit * (1 + squares)), "residuals"
    twice = pivoting and rng.random() < 0.5
    factors = library.decompose(a, rcond, pivoting=pivoting, twice=twice)
    assert np.all(factors[5] == rank), "rank of the decomposition"
    same(library.pseudoinverse(a, factors, "solve", b), want, "solve")
    want = adjoint(inverse) @ u
    same(library.pseudoinverse(a, factors, "solve_adjoint", u), want, "solve_adjoint")
    same(library.pseudoinverse(a, factors, "gram", u), inverse @ want, "gram")
    want = u - inverse @ (a.astype(wide) @ u)
    same(library.pseudoinverse(a, factors, "null", u), want, "null")


def not_finite(library, rng):
    """A NaN or an infinity stays in its own matrix."""
    dtype, batch, m, n = problem(rng)
    a = normal(rng, (batch, m, n), dtype)
    bad = rng.integers(batch)
    a[bad, rng.integers(m), rng.integers(n)] = rng.choice((np.nan, np.inf, -np.inf))
    names = ["q", "r", "h", "tau"]
    pivoting = int(rng.choice(PIVOTING))
    out = library.factor(a, names, transposed=False, pivoting=pivoting)
    upper = np.triu(np.ones((min(m, n), n), bool))
    for name in names:
        values = out[name][bad] if name != "r" else out[name][bad][upper]
        assert np.all(np.isnan(values)), f"{name} of a matrix with a NaN is not NaN"
        rest = np.delete(out[name], bad, axis=0)
        assert np.all(np.isfinite(rest)), f"a NaN spoils {name} of other matrices"


def not_finite_sides(library, rng):
    """What is not finite in a column of b stays in its column of x."""
    dtype, batch, m, n = problem(rng)
    m, n, s = max(m, n), min(m, n), int(rng.integers(2, 6))
    batch = min(batch, 40)
    a, b = normal(rng, (batch, m, n), dtype), normal(rng, (batch, m, s), dtype)
    pivoting = bool(rng.random() < 0.7)
    clean = library.least_squares(a, b, 1e-5, pivoting=pivoting)
    bad, column = rng.integers(batch), rng.integers(s)
    b[bad, rng.integers(m), column] = rng.choice((np.nan, np.inf, -np.inf))
    x, residuals, rank = library.least_squares(a, b, 1e-5, pivoting=pivoting)
    assert np.all(rank == clean[2]), "a NaN in b changes a rank"
    # of few rows in the column not all entries of x need that of b
    assert not np.all(np.isfinite(x[bad, :, column])), "x of a column with a NaN is finite"
    assert np.isnan(residuals[bad, column]), "the residual of a column with a NaN is not NaN"
    x[bad, :, column], residuals[bad, column] = clean[0][bad, :, column], clean[1][bad, column]
    limit = 1e5 * m * np.finfo(dtype).eps * np.linalg.cond(a).max() ** 2
    assert np.all(np.abs(x - clean[0]) <= limit * np.abs(clean[0]).max()), "other columns of x"
    assert np.all(np.abs(residuals - clean[1]) <= limit * np.abs(clean[1]).max()), "residuals"


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


def graded(library, rng):
    """Columns of any size are right each for itself, and pivots are chosen by their true norms."""
    dtype, batch, m, n = problem(rng)
    info, wide = np.finfo(dtype), np.result_type(dtype, np.float64)
    ends = info.maxexp - 24
    steps = rng.integers(-ends, ends, (batch, 1, n)) if rng.random() < 0.7 else -ends
    steps = np.where(rng.random((batch, 1, n)) < 0.5, steps, 0)
    a = normal(rng, (batch, m, n), dtype)
    if rng.random() < 0.3:  # nearly triangular: what is left of columns is small, too
        a = a * 2.0 ** np.where(np.tri(m, n, -1), -int(rng.integers(10, ends)), 0)
    a = (a * 2.0**steps).astype(dtype)
    pivoting = int(rng.choice((NONE, EXACT)))
    names = ["q", "r"] + ["p"] * (pivoting == EXACT)
    out = library.factor(a, names, transposed=False, pivoting=pivoting)
    assert_orthonormal(out["q"], info.eps)
    if pivoting == EXACT:
        a = np.take_along_axis(a, out["p"][:, None, :], -1)
        sizes = np.abs(np.diagonal(out["r"], axis1=-2, axis2=-1)).astype(np.longdouble)
        smallest = float(info.tiny) * m * n
        more = 1 + 100 * max(m, n) * info.eps
        assert np.all(sizes[:, 1:] <= sizes[:, :-1] * more + smallest), "order"
    size = np.max(np.abs(a), axis=-2, keepdims=True)
    power = 2.0 ** -np.frexp(np.where(size == 0, 1, size).astype(wide).real)[1]
    product = out["q"].astype(wide) @ (out["r"].astype(wide) * power)
    error = np.sum(np.abs(a.astype(wide) * power - product), axis=-2, keepdims=True)
    noise = m * n * float(np.finfo(dtype).smallest_subnormal) * power
    assert np.all(error <= LIMIT * m * max(m, n) * info.eps + noise), "a column's residual"


def dependent(library, rng):
    """A column that repeats another one does not count; what is independent does."""
    dtype, batch, m, n = problem(rng)
    m, n = max(m, n, 2), max(2, min(m, n))
    a = normal(rng, (batch, m, n), dtype)
    i, j = rng.choice(n, 2, replace=False)
    a[:, :, j] = a[:, :, i]
    b = normal(rng, (batch, m, 1), dtype)
    x, _, rank = library.least_squares(a, b, -1.0, pivoting=True)
    assert np.all(rank == n - 1), f"rank {rank}, not {n - 1}"
    near = 1e5 * n * np.finfo(dtype).eps * np.abs(x).max()
    assert np.all(np.abs(x[:, i] - x[:, j]) <= near), "not of minimum norm"


def not_finite_derivatives(library, rng):
    """What is not finite in a triangle or a (co)tangent stays in its matrix's derivatives."""
    dtype, batch, m, n = problem(rng)
    k, pivoted = min(m, n), bool(rng.random() < 0.5)
    q, r = np.linalg.qr(normal(rng, (batch, m, n), dtype))
    q, r, da = q.astype(dtype), np.triu(r).astype(dtype), normal(rng, (batch, m, n), dtype)
    qbar, rbar = normal(rng, (batch, m, k), dtype), normal(rng, (batch, k, n), dtype)
    bad, value = rng.integers(batch), rng.choice((np.nan, np.inf, -np.inf))
    if point := rng.random() < 0.5:
        upper = np.broadcast_to(np.triu(np.ones((k, n), bool)), r.shape)
        r[bad] = np.where(upper[bad], np.nan, 0)
        q[bad] = np.nan
    else:
        for x in (da, qbar, rbar):
            x[bad, rng.integers(x.shape[1]), rng.integers(x.shape[2])] = value
    dq, dr, abar = np.full_like(q, 77), np.full_like(r, 77), np.full_like(da, 77)
    options = {"transposed": False, "pivoted": pivoted}
    library.derivative(q, r, da, dq, dr, forward=True, **options)
    library.derivative(q, r, abar, qbar, rbar, forward=False, **options)
    for name, x in (("dQ", dq), ("dR", dr), ("Abar", abar)):
        assert not point or not np.all(np.isfinite(x[bad])), f"{name} of a NaN is finite"
        rest = np.delete(x, bad, axis=0)
        assert np.all(np.isfinite(rest)), f"a NaN spoils {name} of other matrices"


CASES = (
    graded,
    dependent,
    not_finite_derivatives,
    factorization,
    pivots,
    random_pivots,
    reflectors,
    derivatives,
    least_squares,
    not_finite,
    not_finite_sides,
    empty,
)
WEIGHTS = (0.08, 0.04, 0.04, 0.315, 0.08, 0.005, 0.13, 0.13, 0.1, 0.04, 0.02, 0.02)

if __name__ == "__main__":
    sys.exit(main())
