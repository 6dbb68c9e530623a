"""Range and null space: orthonormal bases, and derivatives along matrices of one rank."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import jaxqr
from laws import assert_differentiable, mostly_nightly, relative_error
from matrices import DTYPES, LIMIT, double, normal, of_rank, orthogonality_ratio, residual_ratio
from meshes import mesh_of, put

SHAPES = ((7, 5), (5, 7), (5, 5))


def assert_spaces(a, rank, basis, null):
    """Orthonormal columns, as many as there must be, which span what they must."""
    *batch, m, n = a.shape
    assert basis.shape == (*batch, m, rank)
    assert null.shape == (*batch, n, n - rank)
    assert basis.dtype == null.dtype == a.dtype
    for q in (basis, null):
        assert q.shape[-1] == 0 or orthogonality_ratio(q) < LIMIT
    q, z, exact = double(basis), double(null), double(a)
    assert residual_ratio(a, q @ (q.mT.conj() @ exact)) < LIMIT
    assert residual_ratio(a, exact - (exact @ z) @ z.mT.conj()) < LIMIT


@pytest.mark.parametrize("shape, dtype", mostly_nightly(itertools.product(SHAPES, DTYPES), 5))
def test_bases_span_range_and_null_space(shape, dtype):
    for rank in (0, 3, 5):
        a = of_rank(rank, (2, *shape), dtype)
        assert_spaces(a, rank, jaxqr.orth(a), jaxqr.null_space(a))
        given = jax.jit(
            jax.vmap(lambda a, r=rank: (jaxqr.orth(a, rank=r), jaxqr.null_space(a, rank=r)))
        )
        assert_spaces(a, rank, *given(a))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (1, 1), (3, 1), (1, 3), (0, 4, 3)])
def test_bases_of_small_and_empty_matrices(shape):
    a = normal(shape)
    rank = min(shape[-2:])
    basis, null = jaxqr.orth(a), jaxqr.null_space(a)
    assert basis.shape == (*shape[:-1], rank)
    assert null.shape == (*shape[:-2], shape[-1], shape[-1] - rank)
    assert np.allclose(a @ null, 0) and np.isfinite(basis).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32", "bool"])
def test_bases_of_other_dtypes_are_those_of_the_promoted_matrix(dtype):
    a = jnp.array([[1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 0]], dtype)
    half = dtype in ("float16", "bfloat16")
    promoted = a.astype("float32" if half else "float64")
    for f in (jaxqr.orth, jaxqr.null_space):
        found = f(a, rank=2)
        assert found.dtype == (a.dtype if half else "float64")
        assert np.array_equal(found, f(promoted, rank=2).astype(found.dtype))


@pytest.mark.parametrize("shape, dtype", [((7, 5), "float64"), ((5, 7), "complex128")])
def test_projectors_have_the_derivatives_of_scipys(shape, dtype):
    """Of first and second order, along matrices of rank 3."""
    (m, n), rank = shape, 3
    left, right = normal((2, m, rank), dtype), normal((2, rank, n), dtype, seed=1)

    def matrix(t):
        t = jnp.asarray(t, dtype)
        return (left[0] + t * left[1]) @ (right[0] + t * right[1])

    def projector(q):
        return q @ q.mT.conj()

    def fourth(values, step):
        return (8 * (values[2] - values[1]) - (values[3] - values[0])) / (12 * step)

    for name in ("orth", "null_space"):
        function, theirs = (getattr(library, name) for library in (jaxqr, scipy.linalg))
        ours = jax.jit(lambda t, f=function: projector(f(matrix(t), rank=rank)))
        steps = 1e-3 * np.array([-2, -1, 1, 2])
        expected = [projector(theirs(matrix(t), rcond=1e-9)) for t in steps]
        value, first = jax.jvp(ours, (0.0,), (1.0,))
        assert relative_error(value, projector(theirs(matrix(0.0), rcond=1e-9))) < 1e-12
        assert relative_error(first, fourth(expected, 1e-3)) < 1e-8
        slope = jax.jit(lambda t, f=ours: jax.jvp(f, (t,), (1.0,))[1])
        second = jax.jvp(slope, (0.0,), (1.0,))[1]
        assert relative_error(second, fourth([slope(t) for t in steps], 1e-3)) < 1e-8


@pytest.mark.parametrize("name", ["orth", "null_space"])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_bases_are_differentiable_forward_and_reverse_in_every_direction(name, shape):
    a, da = normal(shape), normal(shape, seed=3)
    a = a * 3.0 ** np.arange(shape[1])  # the pivots stay
    rank = 4 if (name == "orth") == (shape[0] >= shape[1]) else 3
    assert_differentiable(lambda a: (getattr(jaxqr, name)(a, rank=rank),), a, da)


def test_the_rank_can_be_found_while_a_gradient_is_taken():
    a = of_rank(2, (5, 4))
    found, given = (jax.grad(lambda a, r=r: jaxqr.orth(a, rank=r).sum())(a) for r in (None, 2))
    assert np.array_equal(found, given)


def test_rows_and_columns_are_judged_by_their_own_size():
    """What is tiny and independent counts; what rounding leaves of large ones does not."""
    for sizes in ((1, 1, 1e-200), (1e300, 1e300, 1e-200), (1e-300, 1e-300, 1e-200)):
        a = np.array(sizes)[:, None] * np.array([[1, 2, 3, 0], [1, 2, 3, 0], [0, 1, 0, 1]])
        for matrix in (a, a.T):
            basis, null = jaxqr.orth(matrix), jaxqr.null_space(matrix)
            assert basis.shape[1] == 2
            assert null.shape[1] == matrix.shape[1] - 2
            scaled = matrix / np.abs(matrix).max(axis=1, keepdims=True)
            assert np.allclose(scaled @ null, 0, atol=1e-14)


def test_bases_of_huge_entries_do_not_overflow():
    largest = np.finfo("float64").max
    a = largest * np.sign(of_rank(1, (4, 6)))
    for matrix in (a, a.T):
        assert np.isfinite(jaxqr.orth(matrix)).all()
        assert np.allclose(matrix / largest @ jaxqr.null_space(matrix), 0)


def test_nan_stays_in_its_own_matrix():
    a = of_rank(2, (3, 5, 4))
    a[1, 0, 0] = np.nan
    for name in ("orth", "null_space"):
        found = getattr(jaxqr, name)(a, rank=2)
        assert np.isnan(found).all(axis=(1, 2)).tolist() == [False, True, False]
        assert np.isnan(found).any(axis=(1, 2)).tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["orth", "null_space"])
def test_what_cannot_be_done_is_said(name):
    f, a = getattr(jaxqr, name), np.eye(4, 3)
    with pytest.raises(ValueError, match=f"{name}: a must have at least 2 dimensions"):
        f(np.ones(3))
    with pytest.raises(
        ValueError, match=rf"{name}: rank must be given where a is traced.*\(4, 3\)"
    ):
        jax.jit(f)(a)
    with pytest.raises(ValueError, match=f"{name}: all matrices of a batch .* from 0 to 3 for"):
        f(np.stack([a, 0 * a]))
    for rank in (-1, 4, True):
        with pytest.raises(ValueError, match=f"{name}: rank must be .*(0|= 3), got {rank}"):
            f(a, rank=rank)
    for rank in (1.5, "2", jnp.ones(2)):
        with pytest.raises(TypeError, match=f"{name}: rank must be an integer that is not"):
            f(a, rank=rank)
    with pytest.raises(TypeError, match=f"{name}: rank must be .*Tracer"):
        jax.jit(lambda r: f(a, rank=r))(2)
    with pytest.raises(ValueError, match=f"{name}: rcond must be None beside a rank, got 0.1"):
        f(a, rank=2, rcond=0.1)
    with pytest.raises(ValueError, match=f"{name}: rcond must be None or a finite number"):
        f(a, rcond=-1)
    with mesh_of("explicit", (2,)) as mesh:
        (rows,) = put(mesh, a)
        with pytest.raises(ValueError, match=f"{name}: the last 2 dimension"):
            f(rows, rank=2)


@pytest.mark.parametrize("rcond", [0, 1, np.float32(0.5), np.int64(0), np.array(0.5), jnp.array(0)])
@pytest.mark.parametrize("function", [jaxqr.orth, jaxqr.null_space])
def test_every_kind_of_number_is_an_rcond(function, rcond):
    a = np.diag(np.float32([4, 3, 1]))
    expected = function(a, rcond=float(rcond))
    np.testing.assert_array_equal(function(a, rcond=rcond), expected)
