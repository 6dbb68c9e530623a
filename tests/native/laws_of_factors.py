"""What the kernels' factorizations and products with Q obey."""

import numpy as np
import scipy.linalg

from kernel_library import EXACT, NONE, PIVOTING, RANDOMIZED
from problems import (
    LETTERS,
    LIMIT,
    adjoint,
    assert_close,
    assert_orthonormal,
    assert_product,
    matrices,
    norm,
    normal,
    of_spectrum,
)


def factorization(library, rng):
    dtype, batch, m, n = library.problem(rng)
    info, transposed, pivoting = np.finfo(dtype), rng.random() < 0.5, int(rng.choice(PIVOTING))
    a, regular = matrices(rng, dtype, batch, m, n)
    names = ["q", "r", "h", "tau"] + ["p"] * (pivoting != NONE)
    names += ["q_full"] * library.forms_whole_q(m, n)
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
    dtype, batch, m, n = library.problem(rng)
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


def leading_pivots(library, rng):
    """Q and R of so many columns, of which R tells what they say of the others."""
    dtype, batch, m, n = library.problem(rng)
    info, transposed, pivoting = (
        np.finfo(dtype),
        rng.random() < 0.5,
        int(rng.choice((EXACT, RANDOMIZED))),
    )
    most = int(rng.integers(1, min(m, n) + 1))
    a, _ = matrices(rng, dtype, batch, m, n)
    memory = np.ascontiguousarray(np.swapaxes(a, -1, -2)) if transposed else a
    options = {"transposed": transposed, "pivoting": pivoting, "most": most}
    out = library.factor(memory, ["q", "r", "p"], **options)
    wide = np.result_type(dtype, np.float64)
    q, r, p = out["q"].astype(wide), out["r"].astype(wide), out["p"]
    assert np.array_equal(np.sort(p), np.tile(np.arange(n), (batch, 1))), "permutation"
    assert_orthonormal(out["q"], info.eps)
    assert np.all(np.tril(out["r"], -1) == 0), "R is not triangular"
    a = np.take_along_axis(a, p[:, None, :], -1)
    rest = a[..., most:].astype(wide)
    rest = rest - q @ (adjoint(q) @ rest)
    assert_product(a, q @ r + np.concatenate([0 * a[..., :most], rest], axis=-1), info)


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
    dtype, batch, m, n = library.problem(rng)
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


def graded(library, rng):
    """Columns of any size are right each for itself, and pivots are chosen by their true norms."""
    dtype, batch, m, n = library.problem(rng)
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


def not_finite(library, rng):
    """A NaN or an infinity stays in its own matrix."""
    dtype, batch, m, n = library.problem(rng)
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
