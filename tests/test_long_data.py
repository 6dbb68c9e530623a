"""Rank and derivatives of long data: rounding does not grow with the rows, nor may the tolerance.

What is right is said by NumPy in double precision, for the very numbers that single precision has.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from matrices import normal
from meshes import mesh_of

EPS = float(np.finfo("float32").eps)


pytestmark = pytest.mark.usefixtures("fast_compilation")


def blocks(a, b, mesh):
    return jaxqr.lstsq(a, b, axis_name="x", mesh=mesh)


def by_lineax(a, b):
    lineax = pytest.importorskip("lineax")
    from jaxqr.lineax import PivotedQR

    found = lineax.linear_solve(lineax.MatrixLinearOperator(jnp.asarray(a)), b, PivotedQR())
    rest = b - a @ found.value
    return found.value, jnp.sum(rest**2), found.stats["rank"]


WAYS = ("whole", "batch", "rows on devices", "lineax")


def solve(way, a, b):
    """x and the rank of the problem, one way or another."""
    a, b = jnp.asarray(a), jnp.asarray(b)
    if way == "lineax":
        x, _, rank = by_lineax(a, b)
    elif way == "rows on devices":
        with mesh_of("automatic") as mesh:
            x, _, rank = blocks(a, b, mesh)
    elif way == "batch":
        x, _, rank = jaxqr.lstsq(jnp.stack([a, a]), jnp.stack([b, b])[..., None])
        x, rank = x[1, :, 0], rank[1]
    else:
        x, _, rank = jaxqr.lstsq(a, b)
    return np.asarray(x, np.float64), int(rank)


def truth(a, b):
    """In double precision, with columns of one size."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    size = np.linalg.norm(a, axis=0)
    x, _, rank, singular = np.linalg.lstsq(a / size, b, rcond=None)
    assert rank == a.shape[1]
    return x / size, singular[0] / singular[-1]


def assert_solved(way, a, b, bound=None):
    """All columns count, and x is as good as the condition of the equilibrated matrix lets it be.

    The error is measured by what it does to the fit: of each coefficient times its column's size.
    """
    want, condition = truth(a, b)
    x, rank = solve(way, a, b)
    assert rank == a.shape[1]
    size = np.linalg.norm(np.asarray(a, np.float64), axis=0)
    scale = np.linalg.norm(np.asarray(b, np.float64))
    bound = bound or 200 * EPS * condition * max(1, condition * 1e-2)
    assert np.max(np.abs(x - want) * size) < bound * scale
    return x, want


# ---------------------------------------------------------------------------- least squares


@pytest.mark.parametrize("way", WAYS)
def test_a_line_through_ten_thousand_points(way):
    t = np.arange(10000, dtype="float32")
    a, b = np.stack([np.ones_like(t), t], axis=1), 2020 + 2020 * t
    x, want = assert_solved(way, a, b)
    np.testing.assert_allclose(want, [2020, 2020], rtol=1e-3)
    np.testing.assert_allclose(x, [2020, 2020], rtol=1e-2)


@pytest.mark.parametrize("way", WAYS)
def test_one_large_row_among_ordinary_ones(way):
    a = normal((10000, 2), "float32")
    a[37] = 0, 3e6
    b = a @ np.array([1, 2], "float32") + normal((10000,), "float32", seed=1) / 8
    x, want = assert_solved(way, a, b)
    # rounding is relative to the large row, here six million
    np.testing.assert_allclose(x, want, rtol=5e-2)


def correlated(m, correlation, seed=0):
    z = normal((m, 2), "float32", seed)
    second = correlation * z[:, 0] + np.sqrt(1 - correlation**2) * z[:, 1]
    return np.stack([z[:, 0], second], axis=1).astype("float32")


@pytest.mark.parametrize("way", WAYS)
def test_correlated_columns_of_half_a_million_rows(way):
    a = correlated(500000, 0.9988)
    assert 35 < np.linalg.cond(a.astype("float64")) < 45
    b = a @ np.array([3, -2], "float32") + normal((len(a),), "float32", seed=1)
    x, want = assert_solved(way, a, b)
    np.testing.assert_allclose(x, want, rtol=1e-3)


@pytest.mark.parametrize("way", ["whole", "rows on devices"])
@pytest.mark.parametrize(("correlation", "condition"), [(0.87, 3.8), (0.995, 20)])
def test_a_million_rows_of_low_condition(correlation, condition, way):
    a = correlated(1000000, correlation)
    assert np.linalg.cond(a.astype("float64")) == pytest.approx(condition, rel=0.02)
    b = a @ np.array([3, -2], "float32") + normal((len(a),), "float32", seed=1)
    x, want = assert_solved(way, a, b)
    np.testing.assert_allclose(x, want, rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("degree", [3, 4, 5])
def test_polynomials_have_the_rank_that_polyfit_finds(degree, way):
    t = np.linspace(-10, 10, 10000, dtype="float32")
    a = np.vander(t, degree + 1).astype("float32")
    b = np.sin(3 * t) + normal((len(t),), "float32", seed=1) / 64
    rank = np.polyfit(t, b, degree, full=True)[2]
    assert rank == degree + 1
    x, want = assert_solved(way, a, b, bound=1e-2)
    fit, right = (np.vander(t.astype("float64"), degree + 1) @ z for z in (x, want))
    np.testing.assert_allclose(fit, right, atol=1e-3)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("rows", "columns"), [(100000, 3), (1000, 3), (96, 5)])
def test_exact_rank_loss_is_found_however_many_rows(rows, columns, way):
    for dtype in ("float32",) if rows > 1000 else ("float32", "float64"):
        a = normal((rows, columns), dtype)
        a[:, -1] = a[:, 0]
        b = a.sum(axis=1)
        x, rank = solve(way, a, b)
        assert rank == columns - 1
        want = np.ones(columns)  # of minimum norm: equal columns have equal coefficients
        np.testing.assert_allclose(x, want, atol=3e3 * np.finfo(dtype).eps)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rows", [10000, 1000000])
def test_equal_columns_whose_entries_are_all_positive_are_dependent(rows, way):
    """Sums of one sign are where rounding grows with the rows, if numbers are added one by one."""
    one = np.ones(rows, "float32")
    positive = np.abs(normal((rows,), "float32"))
    for column in (one, positive, np.arange(1, rows + 1, dtype="float32")):
        x, rank = solve(way, np.stack([column, 3 * column], axis=1), column)
        assert rank == 1
        np.testing.assert_allclose(x, [0.1, 0.3], rtol=1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_sums_multiples_and_constants_are_dependent(way):
    """Dependent up to the rounding of the data themselves, in columns of unlike sizes."""
    z = normal((50000, 2), "float32")
    one = np.ones(50000, "float32")
    cases = {
        "a sum": (np.stack([z[:, 0], z[:, 1], z[:, 0] + z[:, 1]], 1), 2),
        "a power of two": (np.stack([z[:, 0], z[:, 1], z[:, 0] * np.float32(2.0**-40)], 1), 2),
        "a constant": (np.stack([one, z[:, 0], one * np.float32(1e6)], 1), 2),
        "zero": (np.stack([z[:, 0], 0 * one, z[:, 1]], 1), 2),
        "all equal": (np.stack([one, one, one], 1), 1),
    }
    for name, (a, want) in cases.items():
        _, rank = solve(way, a.astype("float32"), z[:, 0])
        assert rank == want, name


# -------------------------------------------------------------------------- rcond's meaning


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_by_default_columns_are_judged_by_their_own_size(dtype):
    small = 1e-12 if dtype == "float32" else 1e-20
    a = normal((40, 4), dtype)
    sizes = np.array([1, small, 1 / small, small**0.5]).astype(np.finfo(dtype).dtype)
    b = normal((40,), dtype, seed=1)
    x, _, rank = jaxqr.lstsq(a * sizes, b)
    assert rank == 4
    want = np.linalg.lstsq(a.astype(np.result_type(dtype, "float64")), b, rcond=None)[0]
    np.testing.assert_allclose(np.asarray(x) * sizes, want, rtol=1e4 * np.finfo(dtype).eps)


def test_a_repeated_column_beside_a_tiny_one():
    """[a, a, 1e-20 b]: rank 2, and the solution of minimum norm of the matrix as it is."""
    first, second = normal((9, 2), seed=3).T
    c = normal((9,), seed=1)
    tiny = 2.0**-66
    a = np.stack([first, first, tiny * second], axis=1)
    # a x = first (x0 + x1) + second tiny x2: x0 = x1 is what has minimum norm
    y = np.linalg.lstsq(np.stack([first, second], axis=1), c, rcond=None)[0]
    want = np.array([y[0] / 2, y[0] / 2, y[1] / tiny])
    for order in ([0, 1, 2], [2, 0, 1], [0, 2, 1]):
        x, residual, rank = jaxqr.lstsq(a[:, order], c)
        assert rank == 2
        np.testing.assert_allclose(x, want[order], rtol=1e-12)
        rest = c - np.stack([first, second], axis=1) @ y
        np.testing.assert_allclose(residual, rest @ rest, rtol=1e-12)
        x, _, rank = jaxqr.lstsq(np.stack([a[:, order]] * 9), c)
        assert np.all(rank == 2)
        np.testing.assert_allclose(x[4], want[order], rtol=1e-12)


def test_minimum_norm_is_of_the_matrix_as_it_is_not_of_a_scaled_one():
    """[a, 2^30 a]: x is proportional to (1, 2^30), not to (1, 2^-30)."""
    (first,) = normal((1, 9), seed=3)
    c = normal((9,), seed=1)
    large = 2.0**30
    x, _, rank = jaxqr.lstsq(np.stack([first, large * first], axis=1), c)
    assert rank == 1
    y = first @ c / (first @ first) / (1 + large**2)
    np.testing.assert_allclose(x, [y, large * y], rtol=1e-7)


def test_an_rcond_that_is_given_is_relative_to_the_largest():
    """As ever: diagonal entries of R of at most rcond times the largest do not count."""
    a = normal((40, 3))
    a = np.linalg.qr(a)[0] * np.array([1.0, 2.0**-20, 2.0**-40])
    b = normal((40,), seed=1)
    for rcond, want in ((2.0**-41, 3), (2.0**-30, 2), (2.0**-10, 1), (1.0, 0), (0.0, 3)):
        x, _, rank = jaxqr.lstsq(a, b, rcond=rcond)
        assert rank == want
        kept = np.linalg.pinv(a[:, :want]) @ b
        np.testing.assert_allclose(x[:want], kept, rtol=1e-9)
        np.testing.assert_allclose(x[want:] * 2.0 ** np.array([0, -20, -40])[want:], 0, atol=1e-12)
    assert jaxqr.lstsq(a, b).rank == 3


# ------------------------------------------------------------------------------ derivatives

ROWS = 200000


def relative(got, want):
    """The largest error, column by column, relative to the column's largest entry."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return np.max(np.max(np.abs(got - want), axis=0) / np.max(np.abs(want), axis=0))


@functools.cache
def long_data():
    """Two columns of correlation 0.9999, with a vector and a direction."""
    a, v = correlated(ROWS, 0.9999), normal((ROWS,), "float32", seed=5)
    return a, v, normal(a.shape, "float32", seed=6)


def test_the_derivative_of_a_projection():
    a, v, w = long_data()

    @jax.jit
    def gradient(a):
        def projected(a):
            q = jaxqr.qr(a).Q
            return jnp.vdot(w[:, 0], q @ (q.T @ v))

        return jax.grad(projected)(a)

    # P = A A^+: d<w, P v> = <(I - P) w, dA A^+ v> + <A^+T ..., the same with v and w exchanged>
    x, inverse, *vectors = (z.astype("float64") for z in (a, np.linalg.pinv(a), v, w[:, 0]))
    inverse = np.linalg.pinv(x)
    v64, w64 = vectors
    want = np.outer(w64 - x @ (inverse @ w64), inverse @ v64)
    want += np.outer(v64 - x @ (inverse @ v64), inverse @ w64)
    assert relative(gradient(a), want) < 1e-2


@pytest.mark.parametrize("pivoting", [False, True])
@pytest.mark.parametrize("way", ["qr", "tsqr"])
def test_the_gradient_of_a_volume_is_the_pseudo_inverse(way, pivoting):
    a, *_ = long_data()
    if way == "tsqr" and pivoting:
        pytest.skip("row blocks have no pivots")
    with mesh_of("automatic") as mesh:

        def volume(a):
            if way == "tsqr":
                r = jaxqr.tsqr(a, axis_name="x", mesh=mesh).R
            else:
                r = jaxqr.qr(a, "r", pivoting=pivoting)
                r = r.R if pivoting else r
            return jnp.sum(jnp.log(jnp.abs(jnp.diagonal(r))))

        gradient = jax.jit(jax.grad(volume))(a)
    assert relative(gradient, np.linalg.pinv(a.astype("float64")).T) < 1e-2


def fit(way, a, b, mesh):
    if way == "qr_multiply":
        y, r = jaxqr.qr_multiply(a, b)
    elif way == "lstsq":
        return jaxqr.lstsq(a, b).x
    elif way == "lstsq on devices":
        return jaxqr.lstsq(a, b, axis_name="x", mesh=mesh).x
    elif way == "lineax":
        return by_lineax(a, b)[0]
    else:
        q, r = jaxqr.tsqr(a, axis_name="x", mesh=mesh) if way == "tsqr" else jaxqr.qr(a)
        y = b @ q
    return jax.scipy.linalg.solve_triangular(r, y)


FITS = ("qr", "qr_multiply", "lstsq", "tsqr", "lstsq on devices", "lineax")


def assert_fit_differentiated(way, a, b, da, db, tolerance):
    """dx = A^+ (db - dA x) + (A^H A)^-1 dA^H (b - A x), and its adjoint."""
    x64, b64, da64, db64 = (z.astype("float64") for z in (a, b, da, db))
    size = np.linalg.norm(x64, axis=0)
    inverse = np.linalg.pinv(x64 / size) / size[:, None]
    x = inverse @ b64
    rest = b64 - x64 @ x
    dx = inverse @ (db64 - da64 @ x) + inverse @ (inverse.T @ (da64.T @ rest))
    weight = 1 / np.abs(dx)
    z = inverse.T @ weight
    abar = np.outer(rest, inverse @ z) - np.outer(z, x)
    w32 = weight.astype("float32")
    with mesh_of("automatic") as mesh:

        @jax.jit
        def everything(a, b, da, db):
            f = functools.partial(fit, way, mesh=mesh)
            _, tangent = jax.jvp(f, (a, b), (da, db))
            return tangent, jax.vjp(f, a, b)[1](w32)

        tangent, (got_a, got_b) = everything(a, b, da, db)
    np.testing.assert_allclose(tangent, dx, rtol=tolerance)
    assert relative(got_a, abar) < tolerance
    assert relative(np.asarray(got_b)[:, None], z[:, None]) < tolerance


@pytest.mark.parametrize("way", FITS)
def test_the_derivatives_of_a_fit(way):
    a, v, da = long_data()
    b = a @ np.array([3, -2], "float32") + v
    assert_fit_differentiated(way, a, b, da, normal(b.shape, "float32", seed=8), 1e-2)


def far_from_zero(rows=90000):
    """[1, 2000 + 20 z, noise]: the second column is nearly a constant."""
    z = normal((rows, 2), "float32", seed=3)
    return np.stack([np.ones(rows, "float32"), 2000 + 20 * z[:, 0], z[:, 1]], axis=1)


@pytest.mark.parametrize("way", FITS[:-1])  # lineax's own rule squares the condition
def test_the_third_coefficient_of_a_fit_has_its_derivative(way):
    a = far_from_zero()
    da, b = normal(a.shape, "float32", seed=4), normal((len(a),), "float32", seed=5)
    b = (b + a[:, 2] / 2).astype("float32")
    assert_fit_differentiated(way, a, b, da, normal(b.shape, "float32", seed=8), 2e-2)


def gram_schmidt_jvp(a, da):
    """dR by R^T R = A^T A with a positive diagonal, in double precision."""
    a, da = a.astype("float64"), da.astype("float64")
    q, r = np.linalg.qr(a)
    sign = np.sign(np.diag(r))
    q, r = q * sign, r * sign[:, None]
    inverse = np.linalg.inv(r)
    e = q.T @ da @ inverse
    psi = np.tril(e, -1) - np.tril(e, -1).T
    return (e - psi) @ r


@pytest.mark.parametrize("way", ["qr", "r", "pivoted", "tsqr", "batch"])
def test_the_tangent_of_r(way):
    a = far_from_zero()
    da = normal(a.shape, "float32", seed=4)
    want = gram_schmidt_jvp(a, da)
    with mesh_of("automatic") as mesh:

        def triangle(a):
            if way == "tsqr":
                return jaxqr.tsqr(a, axis_name="x", mesh=mesh).R
            if way == "batch":
                return jaxqr.qr(jnp.stack([a, a]), positive_diagonal=True).R[1]
            if way == "pivoted":
                r, p = jaxqr.qr(a, "r", pivoting=True, positive_diagonal=True)
                return r[:, jnp.argsort(p)]
            if way == "qr":
                return jaxqr.qr(a, positive_diagonal=True).R
            return jaxqr.qr(a, "r", positive_diagonal=True)

        _, dr = jax.jit(lambda a, da: jax.jvp(triangle, (a,), (da,)))(a, da)
    if way == "pivoted":
        p = np.asarray(jaxqr.qr(a, pivoting=True).P)
        want = gram_schmidt_jvp(a[:, p], da[:, p])[:, np.argsort(p)]
    # each column relative to what moves it
    size = np.abs(want).max(axis=0)
    np.testing.assert_allclose(np.asarray(dr) / size, want / size, atol=2e-2)


def test_the_tangent_of_q_with_more_than_a_million_rows():
    a = correlated(1500000, 0.99)
    da = normal(a.shape, "float32", seed=10)
    _, dq = jax.jit(lambda a, da: jax.jvp(lambda a: jaxqr.qr(a).Q, (a,), (da,)))(a, da)
    x, dx = a.astype("float64"), da.astype("float64")
    q, r = np.linalg.qr(x)
    e = q.T @ dx @ np.linalg.inv(r)
    psi = np.tril(e, -1) - np.tril(e, -1).T
    want = dx @ np.linalg.inv(r) - q @ (e - psi)
    assert relative(dq, want) < 1e-3


@pytest.mark.parametrize("way", ["qr", "tsqr"])
def test_a_repeated_column_of_long_data_has_no_derivative_of_its_own(way):
    """What is left of it is rounding: nothing as large as its reciprocal appears."""
    a = normal((100000, 3), "float32")
    a[:, 2] = a[:, 0]
    da = normal(a.shape, "float32", seed=1)
    with mesh_of("automatic") as mesh:

        def factors(a):
            return tuple(jaxqr.tsqr(a, axis_name="x", mesh=mesh) if way == "tsqr" else jaxqr.qr(a))

        @jax.jit
        def everything(a, da):
            _, (dq, dr) = jax.jvp(factors, (a,), (da,))
            out, pull = jax.vjp(factors, a)
            return dq, dr, pull(tuple(jnp.ones_like(x) for x in out))[0]

        dq, dr, gradient = everything(a, da)
    norm = np.sqrt(len(a))
    assert np.abs(dq).max() < 100 / norm
    assert np.abs(dr).max() < 100 * norm
    assert np.abs(gradient).max() < 100 * norm


def test_dependent_columns_are_found_that_are_small_differences_of_large_ones():
    """Age is the year less the year of birth: rounding of the years is large beside it."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        year, birth = rng.integers(1990, 2020, 10000), rng.integers(1940, 1980, 10000)
        a = np.stack([np.ones(10000), year, birth, year - birth], axis=1).astype("float32")
        y = (0.5 * year - 0.2 * birth + rng.normal(size=10000)).astype("float32")
        x, _, rank = jaxqr.lstsq(a, y)
        assert rank == 3
        want = np.linalg.lstsq(a.astype("float64"), y.astype("float64"), rcond=1e-10)[0]
        np.testing.assert_allclose(x[1:], want[1:], rtol=1e-2)
