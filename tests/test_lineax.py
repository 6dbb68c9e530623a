"""jaxqr's solver for lineax, next to lineax's own."""

import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest

from jaxqr.lineax import PivotedQR
from laws import mostly_nightly
from least_squares import CUT
from matrices import normal, of_rank
from surroundings import python

CASES = [((8, 3), 3), ((5, 5), 5), ((3, 8), 3), ((1, 1), 1), ((8, 5), 2), ((5, 5), 3), ((5, 8), 2)]
DTYPES = ("float64", "complex128")
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


pytestmark = pytest.mark.usefixtures("fast_compilation")


def solve(a, b, solver=None):
    operator = lineax.MatrixLinearOperator(a)
    return lineax.linear_solve(operator, b, solver or PivotedQR()).value


def system(shape, rank, dtype="float64"):
    a = normal(shape, dtype) if rank == min(shape) else of_rank(rank, shape, dtype)
    return jnp.asarray(a), jnp.asarray(normal(shape[:1], dtype, seed=7))


@pytest.mark.parametrize(
    "shape, rank, dtype",
    mostly_nightly([(*case, dtype) for dtype in DTYPES for case in CASES], 2),
    ids=str,
)
def test_solutions_and_derivatives_equal_those_by_singular_values(shape, rank, dtype):
    a, b = system(shape, rank, dtype)
    da, db = normal(shape, dtype, seed=3), normal(shape[:1], dtype, seed=4)
    if rank < min(shape):  # along matrices of equal rank
        left, right = (normal((k, k), dtype, seed=5) for k in shape)
        da = left @ a + a @ right
    cotangent = normal(shape[1:], dtype, seed=6)

    @jax.jit
    def everything(a, b):
        answers = []
        for solver in (PivotedQR(), lineax.SVD()):
            x, back = jax.vjp(lambda a, b, solver=solver: solve(a, b, solver), a, b)
            tangent = jax.jvp(lambda a, b, solver=solver: solve(a, b, solver), (a, b), (da, db))[1]
            answers.append((x, tangent, *back(cotangent)))
        return answers

    ours, theirs = everything(a, b)
    np.testing.assert_allclose(ours[0], np.linalg.pinv(a, rcond=CUT) @ b, atol=1e-11)
    for got, want in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)


def test_where_lineaxs_qr_has_no_answer_this_one_has():
    a, b = system((6, 4), 4)
    a = a.at[:, 3].set(a[:, 0])
    operator = lineax.MatrixLinearOperator(a)
    plain = lineax.linear_solve(operator, b, lineax.QR(), throw=False)
    pivoted = lineax.linear_solve(operator, b, PivotedQR())
    want = np.linalg.pinv(a) @ b
    assert not np.allclose(plain.value, want, atol=1e-3)
    np.testing.assert_allclose(pivoted.value, want, atol=1e-12)
    assert pivoted.result == lineax.RESULTS.successful
    assert pivoted.stats["rank"] == 3


@every_dtype
@pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
def test_states_are_those_of_the_transposed_and_conjugated_operators(shape, dtype):
    a, _ = system(shape, min(shape), dtype)
    solver = PivotedQR()
    plain = solver.init(lineax.MatrixLinearOperator(a), {})
    transposed, conjugated = (turn(plain, {})[0] for turn in (solver.transpose, solver.conj))
    adjoint = solver.transpose(conjugated, {})[0]
    again = solver.conj(solver.transpose(adjoint, {})[0], {})[0]
    for state, matrix in (
        (transposed, a.T),
        (conjugated, a.conj()),
        (adjoint, a.T.conj()),
        (again, a),
    ):
        v = jnp.asarray(normal(matrix.shape[:1], dtype, seed=2))
        x, result, _ = solver.compute(state, v, {})
        np.testing.assert_allclose(x, np.linalg.pinv(matrix) @ v, atol=1e-12)
        assert result == lineax.RESULTS.successful
        given = lineax.linear_solve(lineax.MatrixLinearOperator(matrix), v, solver, state=state)
        np.testing.assert_array_equal(given.value, x)


def test_vmap_over_matrices_and_over_vectors():
    a, b = normal((4, 6, 3)), normal((5, 6), seed=1)
    inverse = np.linalg.pinv(a)
    of_all = jax.jit(jax.vmap(jax.vmap(solve, (None, 0)), (0, None)))(a, b)
    np.testing.assert_allclose(of_all, np.einsum("ijk,lk->ilj", inverse, b), atol=1e-12)
    text = str(jax.make_jaxpr(jax.vmap(solve, (None, 0)))(a[0], b))
    assert "[5,6,3]" not in text  # one matrix is factored, once
    assert text.count("jaxqr_cod") == 1


def test_second_derivatives_equal_those_by_singular_values():
    a, b = system((5, 3), 3)

    @jax.jit
    def hessians(a):
        return [
            jax.hessian(lambda a, s=s: jnp.sum(jnp.sin(solve(a, b, s))))(a)
            for s in (PivotedQR(), lineax.SVD())
        ]

    np.testing.assert_allclose(*hessians(a), atol=1e-10)


def test_trees_and_functions_as_operators():
    a, b = system((6, 3), 3)
    shapes = {"x": jax.ShapeDtypeStruct((3,), a.dtype), "y": jax.ShapeDtypeStruct((2, 2), a.dtype)}
    operator = lineax.FunctionLinearOperator(lambda t: (a @ t["x"], 2 * t["y"].T), shapes)
    y = normal((2, 2), seed=1)
    got = lineax.linear_solve(operator, (b, jnp.asarray(y)), PivotedQR()).value
    np.testing.assert_allclose(got["x"], np.linalg.pinv(a) @ b, atol=1e-12)
    np.testing.assert_allclose(got["y"], y.T / 2, atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_empty_operators(shape):
    x = solve(jnp.zeros(shape), jnp.ones(shape[0]))
    np.testing.assert_array_equal(x, np.zeros(shape[1]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
def test_every_dtype(dtype):
    a, b = system((6, 3), 3)
    x = solve(a.astype(dtype), b.astype(dtype))
    assert x.dtype == dtype
    error = np.asarray(x.astype("complex128")) - np.linalg.pinv(np.asarray(a)) @ np.asarray(b)
    assert np.abs(error).max() < 20 * float(jnp.finfo(dtype).eps)


def test_rcond_decides_on_the_rank():
    operator, b = lineax.DiagonalLinearOperator(jnp.array([1.0, 1e-3, 1e-6])), jnp.ones(3)
    for rcond, rank in ((None, 3), (1e-4, 2), (np.float32(0.01), 1)):
        solution = lineax.linear_solve(operator, b, PivotedQR(rcond))
        assert solution.stats["rank"] == rank
        want = np.where(np.arange(3) < rank, [1, 1e3, 1e6], 0)
        np.testing.assert_allclose(solution.value, want, rtol=1e-12)


@pytest.mark.parametrize(
    "rcond, error, got",
    [
        (-1.0, ValueError, "-1.0"),
        (np.inf, ValueError, "inf"),
        ("small", TypeError, "str"),
        (True, TypeError, "bool"),
        (jnp.ones(2), TypeError, "ArrayImpl"),
    ],
)
def test_an_rcond_without_meaning(rcond, error, got):
    with pytest.raises(error, match=f"PivotedQR: rcond must be None or .*, got {got}"):
        PivotedQR(rcond)


@pytest.mark.parametrize("where", ["operator", "vector"])
def test_nan_is_an_error_of_lineaxs_kind(where):
    a, b = system((4, 3), 3)
    a, b = (a * jnp.nan, b) if where == "operator" else (a, b * jnp.nan)
    operator = lineax.MatrixLinearOperator(a)
    solution = lineax.linear_solve(operator, b, PivotedQR(), throw=False)
    results = {"operator": lineax.RESULTS.singular, "vector": lineax.RESULTS.nonfinite_input}
    assert solution.result == results[where]


def test_jaxqr_does_not_need_lineax():
    program = (
        "import sys; sys.modules['lineax'] = None; import jaxqr; "
        "assert 'equinox' not in sys.modules\n"
        "try:\n    import jaxqr.lineax\n"
        "except ImportError as error:\n    assert \"pip install 'jaxqr[lineax]'\" in str(error)\n"
        "else:\n    raise SystemExit('imported without lineax')"
    )
    python("-c", program)
