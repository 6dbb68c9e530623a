"""Least squares: the solution of minimum norm, its residuals and the rank, whatever the input."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from test_rank import DEFICIENT, deficient

import jaxqr
from foreign_platform import UNCHECKED, gradient, lowered_for
from jaxqr._lstsq.decomposition import is_factored_twice
from matrices import DTYPES, adjoint, norm, normal

SHAPES = ((8, 3), (5, 5), (3, 8), (1, 1))
LOW_RANKS = tuple((shape, rank) for shape in ((8, 5), (5, 5), (5, 8)) for rank in (1, 3))
CUT = 1e-10  # between the singular values of these matrices and rounding


pytestmark = pytest.mark.usefixtures("fast_compilation")


def of_rank(rank, shape, dtype="float64", seed=0):
    *batch, m, n = shape
    left, right = normal((*batch, m, rank), dtype, seed + 1), normal((*batch, rank, n), dtype, seed)
    return left @ right


def expected(a, b):
    """NumPy's x, matrix by matrix, and |b - a x|^2 for every shape and rank."""
    flat = zip(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]), strict=True)
    x = np.stack([np.linalg.lstsq(*pair, rcond=CUT)[0] for pair in flat])
    x = x.reshape(*a.shape[:-2], *x.shape[-2:])
    return x, np.sum(np.abs(b - a @ x) ** 2, axis=-2)


def assert_equal_to(want, got, tolerance):
    for x, y in zip(got, want, strict=True):
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(1, np.max(np.abs(y))))


# ------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("pivoting", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_full_rank(shape, dtype, pivoting):
    a, b = normal((2, *shape), dtype), normal((2, shape[0], 4), dtype, seed=1)
    x, residuals, rank = jaxqr.lstsq(a, b, pivoting=pivoting)
    assert_equal_to(expected(a, b), (x, residuals), 1e-9)
    np.testing.assert_array_equal(rank, [min(shape)] * 2)
    one = jaxqr.lstsq(a[0], b[0, :, 0], pivoting=pivoting)
    assert one.residuals.shape == one.rank.shape == ()
    assert_equal_to((x[0, :, 0], residuals[0, :1]), (one.x, one.residuals[None]), 1e-12)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("shape, rank", LOW_RANKS, ids=str)
def test_low_rank(shape, rank, dtype):
    a, b = of_rank(rank, (2, *shape), dtype), normal((2, shape[0], 4), dtype, seed=9)
    x, residuals, got = jaxqr.lstsq(a, b)
    np.testing.assert_array_equal(got, [rank] * 2)
    assert_equal_to(expected(a, b), (x, residuals), 1e-9)
    # b - a x is orthogonal to the columns, and x to all that a maps to zero
    scale = norm(a).max()
    np.testing.assert_allclose(adjoint(a) @ (b - a @ np.asarray(x)), 0, atol=1e-12 * scale)
    np.testing.assert_allclose(np.linalg.pinv(a, rcond=CUT) @ a @ np.asarray(x), x, atol=1e-10)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (9, 4)], ids=str)
def test_a_batch_of_all_ranks_equals_each_matrix_alone(shape):
    a = np.stack([*(deficient(kind, shape) for kind in DEFICIENT), normal(shape)])
    b = normal((len(a), shape[0], 2), seed=1)
    together = jaxqr.lstsq(a, b)
    assert {0, 1, 2, 4} <= set(map(int, together.rank))
    for i, (a_i, b_i) in enumerate(zip(a, b, strict=True)):
        alone = jaxqr.lstsq(a_i, b_i)
        assert alone.rank == together.rank[i]
        assert_equal_to((together.x[i], together.residuals[i]), alone[:2], 1e-13)
    assert_equal_to(expected(a, b), together[:2], 1e-9)


@pytest.mark.parametrize("dtype", [*DTYPES, "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(8, 3), (3, 8)], ids=str)
def test_every_dtype(shape, dtype):
    exact = dtype if dtype in DTYPES else "float64"
    a, b = (jnp.asarray(normal(s, exact)).astype(dtype) for s in (shape, (shape[0], 2)))
    x, residuals, _ = jaxqr.lstsq(a, b)
    assert x.dtype == a.dtype
    assert not jnp.iscomplexobj(residuals)
    double = "complex128" if dtype.startswith("complex") else "float64"
    want = expected(*(np.asarray(z.astype(double)) for z in (a, b)))
    tolerance = 50 * float(jnp.finfo(dtype).eps)
    assert_equal_to(want, (np.asarray(x.astype(double)), residuals), tolerance)


@pytest.mark.parametrize("rank", [256, 200])
def test_a_large_and_much_deeper_matrix_is_factored_twice(rank):
    assert is_factored_twice(1024, 256)
    a = of_rank(rank, (1024, 256)) * 2.0 ** (np.arange(256) % 7)
    b = normal((1024, 1), seed=9)
    x, residuals, got = jaxqr.lstsq(a, b)
    assert got == rank
    inverse = np.linalg.pinv(a, rcond=1e-12)
    assert_equal_to((inverse @ b, np.sum((b - a @ inverse @ b) ** 2, -2)), (x, residuals), 1e-10)
    abar, bbar = jax.grad(lambda a, b: jnp.sum(jaxqr.lstsq(a, b).x), (0, 1))(a, b)
    z = inverse.T @ np.ones((256, 1))
    left, right = b - a @ x, inverse.T @ x
    rest = np.ones((256, 1)) - inverse @ a @ np.ones((256, 1))
    want = left @ (inverse @ z).T - z @ x.T + right @ rest.T  # (9.6)
    assert_equal_to((want, z), (abar, bbar), 1e-9)


def test_dtypes_meet_as_jax_promotes_them():
    a, b = normal((5, 3)), normal((5, 2), "complex128", seed=1)
    with jax.numpy_dtype_promotion("standard"):
        x, residuals, _ = jaxqr.lstsq(a, b)
        assert_equal_to(expected(a + 0j, b), (x, residuals), 1e-12)
        assert residuals.dtype == jnp.float64
        assert jaxqr.lstsq([[1, 2], [0, 1]], [True, False]).x.dtype == jnp.float64


@pytest.mark.parametrize("shape", [(8, 3), (5, 5), (3, 8)], ids=str)
def test_exponents_do_not_matter(shape):
    a, b = normal(shape), normal((shape[0], 2), seed=1)
    x = jaxqr.lstsq(a, b).x
    for size in (2.0**700, 2.0**-700):
        np.testing.assert_allclose(jaxqr.lstsq(a * size, b * size).x, x, rtol=1e-12)
        np.testing.assert_allclose(jaxqr.lstsq(a * size, b).x * size, x, rtol=1e-12)


def test_graded_columns_keep_their_digits():
    a, b = normal((9, 5)), normal((9, 1), seed=1)
    grades = 2.0 ** -np.array([0, 30, 7, 40, 15])
    x, _, rank = jaxqr.lstsq(a * grades, b)
    assert rank == 5
    np.testing.assert_allclose(x[:, 0] * grades, expected(a, b)[0][:, 0], rtol=1e-11)


@pytest.mark.parametrize("pivoting", [True, False])
@pytest.mark.parametrize("shape", [(20, 6), (6, 20)], ids=str)
def test_consistent_systems_are_solved_backward_stably(shape, pivoting):
    """The condition number, here 1e10, is in the error of x and not in that of a x."""
    u, _, v = np.linalg.svd(normal(shape), full_matrices=False)
    a = (u * np.geomspace(1, 1e-10, 6)) @ v
    b = a @ normal((shape[1], 2), seed=1)
    x = jaxqr.lstsq(a, b, pivoting=pivoting).x
    assert np.abs(b - a @ np.asarray(x)).max() < 1e-14 * np.abs(x).max()


# --------------------------------------------------------------------------------- the rank


def test_the_rank_counts_pivots_above_rcond_times_the_largest():
    diagonal, b = 2.0 ** np.array([-10.0, 0.0, -20.0]), np.ones(3)
    for size in (1.0, 2.0**100, 2.0**-100):  # relative to the largest
        for rcond, rank in ((2.0**-10, 1), (0.99 * 2.0**-10, 2), (2.0**-20, 2), (0.0, 3), (1, 0)):
            x, _, got = jaxqr.lstsq(np.diag(diagonal * size), b, rcond=rcond)
            assert got == rank
            kept = diagonal > (rcond if rank < 3 else 0)
            np.testing.assert_array_equal(x, np.where(kept, 1 / (diagonal * size), 0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(6, 2), (2, 6), (3, 2)], ids=str)
def test_by_default_64_epsilons_of_its_own_column_do_not_count(shape, dtype):
    limit = 64 * np.finfo(dtype).eps
    a = np.zeros((4, *shape), dtype)
    a[:, 0, 0] = 1
    # the second column, or row: a multiple of the first, and some more
    a[(slice(None), *((0, 1) if shape[0] >= shape[1] else (1, 0)))] = [1, 1, 0, 0]
    a[:, 1, 1] = [limit, 1.1 * limit, 2.0**-100, 0]
    np.testing.assert_array_equal(jaxqr.lstsq(a, np.ones(shape[:1], dtype)).rank, [1, 2, 2, 1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_of_columns_that_differ_by_a_factor_alone_the_larger_one_counts(dtype):
    """[a, s a, b] in any order: the fit is that of [a, b], and nearly all of it is s a's."""
    rng = np.random.default_rng(0)
    a, b = (np.rint(rng.standard_normal((20, 6, 1)) * 64) / 64 for _ in range(2))
    y = rng.standard_normal((20, 6, 1)).astype(dtype)
    eps = np.finfo(dtype).eps
    for size in (2.0**20, 2.0**66):
        for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
            columns = np.concatenate([a, size * a, b], axis=-1)[..., order].astype(dtype)
            x, residuals, rank = jaxqr.lstsq(columns, y)
            assert np.all(np.asarray(rank) == 2)
            wide = columns.astype("longdouble")
            fit = wide @ np.asarray(x).astype("longdouble")
            pair = np.concatenate([a, b], axis=-1)
            want = pair @ (np.linalg.pinv(pair) @ y)
            np.testing.assert_allclose(fit.astype("float64"), want, rtol=0, atol=1e4 * eps)
            squares = np.sum((y - want) ** 2, axis=-2)
            np.testing.assert_allclose(residuals, squares, rtol=1e4 * eps)


def test_without_pivoting_the_rank_is_not_looked_for():
    a = of_rank(2, (6, 4))
    assert jaxqr.lstsq(a, np.ones(6), pivoting=False).rank == 4


# ------------------------------------------------------------------------------- NaN, empty


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("pivoting", [True, False])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6)], ids=str)
def test_nan_and_infinity_stay_with_their_matrix(shape, pivoting, value):
    a, b = normal((4, *shape)), normal((4, shape[0], 2), seed=1)
    if pivoting:
        a[3] = of_rank(2, shape)
    clean = jaxqr.lstsq(a, b, pivoting=pivoting)
    a[1, 2, 3] = b[2, 1, 0] = value
    x, residuals, _ = map(np.asarray, jaxqr.lstsq(a, b, pivoting=pivoting))
    assert np.isnan(x[1]).all()
    assert np.isnan(residuals[1]).all()
    assert not np.isfinite(x[2, :, 0]).any()  # of a right-hand side: its own column
    np.testing.assert_array_equal(x[2, :, 1], clean.x[2, :, 1])
    for i in (0, 3):
        np.testing.assert_array_equal(x[i], clean.x[i])
        np.testing.assert_array_equal(residuals[i], clean.residuals[i])


@pytest.mark.parametrize("pivoting", [True, False])
@pytest.mark.parametrize("m, n, s", [(0, 3, 2), (3, 0, 2), (0, 0, 1), (4, 2, 0)])
def test_empty(m, n, s, pivoting):
    a, b = normal((2, m, n)), normal((2, m, s), seed=1)

    def solve(a, b):
        return jaxqr.lstsq(a, b, pivoting=pivoting)

    x, residuals, rank = solve(a, b)
    np.testing.assert_array_equal(x, np.zeros((2, n, s)))
    np.testing.assert_allclose(residuals, (b**2).sum(axis=1))
    np.testing.assert_array_equal(rank, [min(m, n)] * 2)
    gradient_a, gradient_b = jax.grad(lambda a, b: solve(a, b).residuals.sum(), (0, 1))(a, b)
    np.testing.assert_array_equal(gradient_a, np.zeros_like(a))
    np.testing.assert_allclose(gradient_b, 2 * b)
    assert solve(np.zeros((0, 3, 2)), np.ones(3)).x.shape == (0, 2)


@pytest.mark.parametrize("pivoting", [True, False])
@pytest.mark.parametrize("shape", [(3, 2), (2, 2), (2, 3), (40, 2)], ids=str)
def test_a_batch_of_no_right_hand_sides_has_no_solutions(shape, pivoting):
    a, b = jnp.ones(shape) + jnp.eye(*shape), jnp.zeros((0, shape[0]))
    solve = functools.partial(jaxqr.lstsq, pivoting=pivoting)

    @jax.jit
    def solutions(a, b):
        of_batch = jax.vmap(solve, (None, 0), jaxqr.LstsqResult(0, 0, None))
        some = jnp.stack([a, a, a])
        return (
            of_batch(a, b),  # the rank is computed, and nothing else is
            jax.vmap(solve)(jnp.zeros((0, *shape)), b),
            jax.vmap(jax.vmap(solve, (0, None)), (None, 0))(some, b),
            jax.vmap(jax.vmap(solve, (None, 0)), (0, None))(some, b),
            solve(a, b[..., None]),
            solve(a, jnp.zeros((2, 0, shape[0], 4))),
        )

    n = shape[1]
    batches = ((0,), (0,), (0, 3), (3, 0))
    expected_shapes = [(*batch, n) for batch in batches] + [(0, n, 1), (2, 0, n, 4)]
    results = solutions(a, b)
    assert [result.x.shape for result in results] == expected_shapes
    assert results[0].rank == min(shape)
    assert results[0].residuals.shape == (0,)


@pytest.mark.parametrize("pivoting", [True, False])
@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (8, 2), (2, 3)], ids=str)
def test_everything_real_of_a_matrix_with_a_nan_is_nan(shape, pivoting):
    a = np.arange(1.0, 1 + np.prod(shape)).reshape(shape) ** 2
    a[0, 0] = np.nan
    x, residual, rank = jaxqr.lstsq(a, np.ones(shape[0]), pivoting=pivoting)
    assert np.isnan(x).all()
    assert np.isnan(residual)
    assert rank == 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(40, 3), (3, 3), (3, 4)], ids=str)
def test_a_right_hand_side_that_is_not_finite_spoils_no_other(shape, value):
    a, b = normal(shape), normal((5, shape[0]), seed=1)
    solve = jax.jit(jax.vmap(jaxqr.lstsq, (None, 0)))
    clean = solve(a, b)
    b[1, 2] = b[3, 0] = value
    x, residuals, rank = map(np.asarray, solve(a, b))
    assert not np.isfinite(x[[1, 3]]).any()
    assert np.isnan(residuals[[1, 3]]).all()
    np.testing.assert_array_equal(rank, [3] * 5)
    kept = [0, 2, 4]
    assert_equal_to(
        (np.asarray(clean.x)[kept], np.asarray(clean.residuals)[kept]),
        (x[kept], residuals[kept]),
        1e-12,
    )


# --------------------------------------------------------------------------- shapes of b


@pytest.mark.parametrize(
    "batch_a, batch_b",
    [((), None), ((3,), None), ((), (2, 3)), ((3,), ()), ((2, 1), (3,)), ((1,), (4,))],
    ids=str,
)
def test_batches_of_a_and_b_broadcast(batch_a, batch_b):
    a, b = normal((*batch_a, 5, 3)), normal((5,) if batch_b is None else (*batch_b, 5, 2), seed=1)
    x, residuals, rank = jaxqr.lstsq(a, b)
    want = np.linalg.pinv(a) @ (b[:, None] if batch_b is None else b)
    rest = (b[:, None] if batch_b is None else b) - a @ want
    if batch_b is None:
        want, rest = want[..., 0], rest[..., 0]
    squares = np.sum(rest**2, axis=-1 if batch_b is None else -2)
    assert_equal_to((want, squares), (x, residuals), 1e-12)
    assert rank.shape == np.broadcast_shapes(batch_a, batch_b or ())


# ------------------------------------------------------------------------- transformations


def test_mapping_over_right_hand_sides_copies_no_matrix():
    a, b = normal((6, 4)), normal((7, 6), seed=1)
    for function in (lambda b: jaxqr.lstsq(a, b)[:2], lambda b: jax.grad(loss, 1)(a, b)):
        mapped = jax.vmap(function)
        text = str(jax.make_jaxpr(mapped)(b))
        assert re.search(r"\[6,4\]", text)
        assert not re.search(r"\[7,6,4\]", text)
        one = [function(row) for row in b]
        for got, *want in zip(*map(jax.tree.leaves, (mapped(b), *one)), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-12)


def loss(a, b):
    x, residuals, _ = jaxqr.lstsq(a, b)
    return jnp.sum(jnp.sin(x)).real + jnp.sum(jnp.cos(residuals))


def test_transformations_of_the_value():
    a, b = np.stack([normal((6, 4)), of_rank(2, (6, 4))]), normal((2, 6, 3), seed=1)
    want = jaxqr.lstsq(a, b)
    assert_equal_to(want, jax.jit(jax.vmap(jaxqr.lstsq))(a, b), 1e-13)
    assert_equal_to(
        want, jax.vmap(jaxqr.lstsq, (2, 1))(np.moveaxis(a, 0, 2), b.swapaxes(0, 1)), 1e-13
    )
    one_b = jax.vmap(jaxqr.lstsq, (0, None))(a, b[0])
    assert_equal_to(jaxqr.lstsq(a, b[0]), one_b, 1e-13)
    assert_equal_to(want, jax.lax.scan(lambda c, ab: (c, jaxqr.lstsq(*ab)), 0, (a, b))[1], 1e-13)
    with jax.disable_jit():
        assert_equal_to([z[1] for z in want], jaxqr.lstsq(a[1], b[1]), 1e-13)
    shapes = jax.eval_shape(jaxqr.lstsq, a, b)
    assert [(z.shape, z.dtype) for z in shapes] == [(z.shape, z.dtype) for z in want]


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)], ids=str)
def test_export_round_trip(shape):
    a, b = np.stack([normal(shape), of_rank(2, shape)]), normal((2, shape[0], 3), seed=1)
    both = jax.jit(lambda a, b: (jaxqr.lstsq(a, b)[:2], jax.grad(loss)(a, b)))
    exported = export.export(both, disabled_checks=UNCHECKED)(a, b)
    loaded = export.deserialize(exported.serialize())
    assert_equal_to(jax.tree.leaves(both(a, b)), jax.tree.leaves(loaded.call(a, b)), 1e-11)


@pytest.mark.parametrize("platform", ["this", "cpu", "cuda", "rocm", "tpu"])
@pytest.mark.parametrize("pivoting", [True, False])
def test_q_is_applied_and_never_formed(pivoting, platform):
    def solve(ab):
        return jaxqr.lstsq(*ab, pivoting=pivoting)

    operands = normal((6, 4), "complex128"), normal((6, 2), "complex128", seed=1)
    for function in (solve, gradient(solve)):
        if platform == "this":
            text = jax.jit(function).lower(operands).as_text()
            outputs = re.findall(r'outputs = "([^"]*)"', text)
            assert not any("q" in listed.split(",") for listed in outputs)
        else:
            text = lowered_for([platform], function, operands).mlir_module()
            assert re.search("geqrf|Qr", text)
        assert not re.search("orgqr|ungqr|ProductOfElementaryHouseholderReflectors", text)


# ------------------------------------------------------------------------------------ errors

A = np.eye(4, 3)


@pytest.mark.parametrize(
    "a, b, options, message",
    [
        (A, np.ones(3), {}, r"b must be \(m,\) or .* m = 4 .*, got b \(3,\) for a \(4, 3\)"),
        (A, np.ones((3, 4)), {}, r"b must be \(m,\) or .* m = 4 .*, got b \(3, 4\) for a \(4, 3\)"),
        (np.ones((5, 4, 3)), np.ones((2, 4, 1)), {}, r"broadcast, got b \(2, 4, 1\) for a \(5, 4,"),
        (np.ones(3), np.ones(3), {}, r"a must have at least 2 dimensions, got shape \(3,\)"),
        (A, 1.0, {}, r"b must have at least 1 dimension.*, got shape \(\)"),
        (
            A,
            np.ones(4),
            {"rcond": -1.0},
            r"rcond must be .* not below 0, got -1.0",
        ),
        (A, np.ones(4), {"rcond": np.nan}, "rcond must be .* finite number .*, got nan"),
        (A, np.ones(4), {"rcond": 0.1, "pivoting": False}, "None without pivoting, got 0.1"),
        (A, np.ones(4), {"pivoting": 1.5}, "pivoting must be one of True, False, got 1.5"),
    ],
)
def test_values_that_are_refused(a, b, options, message):
    with pytest.raises(ValueError, match=f"lstsq: .*{message}"):
        jaxqr.lstsq(a, b, **options)


@pytest.mark.parametrize("argument", ["a", "b"])
def test_types_that_are_refused(argument):
    for value, got in (("text", "str"), (None, "NoneType"), ([[1.0], [2.0, 3.0]], "list")):
        arguments = {"a": A, "b": np.ones(4), argument: value}
        with pytest.raises(TypeError, match=f"lstsq: {argument} must be array-like, got {got}"):
            jaxqr.lstsq(**arguments)
    arguments = {"a": A, "b": np.ones(4), argument: jnp.zeros((4, 4), jnp.float8_e4m3fn)}
    with pytest.raises(TypeError, match=f"lstsq: {argument} must be .*, got dtype float8_e4m3fn"):
        jaxqr.lstsq(**arguments)
