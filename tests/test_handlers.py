"""The handlers of the kernels, whoever calls: of what is wrong comes an error and nothing else."""

import jax
import numpy as np
import pytest

from jaxqr._lowering import native
from matrices import normal

needs_kernels = pytest.mark.skipif(not native.available(), reason=native.status())


F4, I4 = np.float32, np.int32
PLAIN = {"pivoting": "none", "transposed": False}
DERIVATIVE = {"pivoted": False, "transposed": False}


def zeros(*shape, dtype=F4):
    return np.zeros(shape, dtype)


def factors(batch, m, n, pivoting=True, twice=False):
    """The shapes and dtypes of a decomposition, of matrices with full rank."""
    inner, extra = n * twice, n * pivoting
    shapes = ((m, n), (n,), (inner, inner), (inner,), (extra,), (), (extra, extra), (extra,))
    dtypes = (F4, F4, F4, F4, I4, I4, F4, F4)
    return [((*batch, *s), d) for s, d in zip(shapes, dtypes, strict=True)]


def bad_calls():
    a, q, r = (zeros(*s) for s in ((2, 5, 3), (2, 5, 3), (2, 3, 3)))

    def qr(outputs, *results, a=a, pivoting="none"):
        return "jaxqr_qr", (a,), results, {**PLAIN, "outputs": outputs, "pivoting": pivoting}

    def vjp(*operands, inputs="q,r"):
        return "jaxqr_qr_vjp", operands, [((2, 5, 3), F4)], {**DERIVATIVE, "inputs": inputs}

    yield "shape", qr("r", ((2, 4, 3), F4))
    yield "batch", qr("r", ((3, 3, 3), F4))
    yield "dtype", qr("r", ((2, 3, 3), np.float64))
    yield "integers", qr("r", ((2, 3, 3), I4), a=a.astype(I4))
    yield "vector", qr("r", ((3,), F4), a=a[0, 0])
    yield "empty vector", qr("r", ((0,), F4), a=a[0, 0, :0])
    yield "unknown output", qr("s", ((2, 3, 3), F4))
    yield "pivots without pivoting", qr("p", ((2, 3), I4))
    yield "few results", qr("q,r", ((2, 5, 3), F4))
    yield "many results", qr("r", ((2, 3, 3), F4), ((2, 3, 3), F4))
    yield "an output twice", qr("r,r", ((2, 3, 3), F4), ((2, 3, 3), F4))
    yield "pivots' dtype", qr("p", ((2, 3), F4), pivoting="exact")
    yield "unknown pivoting", qr("r", ((2, 3, 3), F4), pivoting="some")
    yield "cotangent", vjp(q, r, q, q)
    yield "triangle", vjp(q, q, q, r)
    yield "few cotangents", vjp(q, r, q)
    yield "many cotangents", vjp(q, r, q, r, r)
    yield "a cotangent twice", vjp(q, r, q, q, inputs="q,q")
    yield "reflectors", ("jaxqr_orgqr", (r.swapaxes(1, 2)[:, :2], r[:, 0]), [((2, 2, 3), F4)], {})
    yield "tau", ("jaxqr_orgqr", (a, a[:, 0, :2][:1]), [((2, 5, 3), F4)], {})
    sides = {"left": True, "adjoint": False}
    yield "product", ("jaxqr_ormqr", (a, r[:, 0], r), [((2, 3, 3), F4)], sides)
    yield "product's result", ("jaxqr_ormqr", (a, r[:, 0], a), [((2, 3, 3), F4)], sides)
    many = zeros(0, 2**31 + 5)  # more than an int counts, and what is cut off looks right
    yield "columns", ("jaxqr_ormqr", (zeros(0, 0), zeros(0), many), [(many.shape, F4)], sides)
    yield from bad_decompositions()


def bad_decompositions():
    a = normal((5, 3), "float32")
    options = {"rcond": 0.1, "pivoting": False}
    yield (
        "two factors without pivoting",
        ("jaxqr_cod", (a,), factors((), 5, 3, False, True), options),
    )

    def gram(*, n=3, columns=2, **values):
        given = [np.zeros(s, d) for s, d in factors((), n + 2, n)]
        given[4], given[5] = values.get("p", np.arange(n, dtype=I4)), values.get("rank", I4(n))
        operands, options = (zeros(n + 2, n), *given), {"operation": "gram", "pivoting": True}
        v = zeros(n, columns)
        return "jaxqr_pseudoinverse", (*operands, v), [(v.shape, F4)], options

    yield "rank beyond n", gram(rank=I4(10**6))
    yield "negative rank", gram(rank=I4(-1))
    for values in ((0, 1, 3), (-1, 1, 0), (2**31 - 1, 0, 1), (0, 1, 1)):
        yield f"p {values}", gram(p=np.array(values, I4))
    yield "columns of v", gram(n=0, columns=2**31)


def run(target, operands, results, attributes):
    types = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
    # XLA leaves out what has only empty results, unless it is told of a side effect
    call = jax.ffi.ffi_call(target, types, has_side_effect=True)
    return jax.block_until_ready(jax.jit(lambda *x: call(*x, **attributes))(*operands))


@needs_kernels
@pytest.mark.parametrize("case", [pytest.param(c, id=name) for name, c in bad_calls()])
def test_a_call_with_wrong_buffers_is_an_error(case):
    with pytest.raises(Exception, match="jaxqr: "):
        run(*case)


def empty_calls():
    """Calls of no matrices, by every handler and by kernels of all kinds."""
    for m, n in ((5, 3), (500, 3), (700, 300)):
        a, q, r = ((0, m, n), F4), ((0, m, n), F4), ((0, n, n), F4)
        yield "jaxqr_qr", [a], [q, r], {**PLAIN, "outputs": "q,r"}
        for pivoting in ("exact", "randomized"):
            options = {**PLAIN, "outputs": "r,p", "pivoting": pivoting}
            yield "jaxqr_qr", [a], [r, ((0, n), I4)], options
        h, tau, c = a, ((0, n), F4), ((0, m, 2), F4)
        yield "jaxqr_orgqr", [h, tau], [q], {}
        yield "jaxqr_ormqr", [h, tau, c], [c], {"left": True, "adjoint": False}
        yield "jaxqr_qr_jvp", [q, r, a], [q, r], {**DERIVATIVE, "outputs": "q,r"}
        yield "jaxqr_qr_vjp", [q, r, q, r], [a], {**DERIVATIVE, "inputs": "q,r"}
        cod, options = factors((0,), m, n), {"rcond": 0.1, "pivoting": True}
        yield "jaxqr_cod", [a], cod, options
        options_v = {"operation": "solve", "pivoting": True}
        yield "jaxqr_pseudoinverse", [a, *cod, c], [((0, n, 2), F4)], options_v
        results = [((0, n, 2), F4), ((0, 2), F4), ((0,), I4)]
        yield "jaxqr_lstsq", [a, c], results, options


@needs_kernels
def test_a_call_of_no_matrices_has_nothing_to_do():
    for target, operands, results, attributes in empty_calls():
        out = run(target, [np.zeros(*operand) for operand in operands], results, attributes)
        assert [x.shape for x in out] == [shape for shape, _ in results]


@needs_kernels
def test_a_cotangent_of_nothing_is_zero():
    q, r = np.linalg.qr(normal((5, 3), "float32"))
    options = {**DERIVATIVE, "inputs": ""}
    (a,) = run("jaxqr_qr_vjp", [q, r], [((5, 3), F4)], options)
    np.testing.assert_array_equal(a, np.zeros((5, 3)))


@needs_kernels
def test_without_pivoting_no_rank_is_looked_at():
    a, v = normal((5, 3), "float32"), normal((5, 2), "float32", seed=1)
    cod = run("jaxqr_cod", [a], factors((), 5, 3, False), {"rcond": 0.1, "pivoting": False})
    cod[5] = I4(10**6)
    options = {"operation": "solve", "pivoting": False}
    (x,) = run("jaxqr_pseudoinverse", [a, *cod, v], [((3, 2), F4)], options)
    np.testing.assert_allclose(x, np.linalg.pinv(a) @ v, rtol=0, atol=1e-5)
