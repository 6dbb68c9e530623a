"""The handlers of the kernels, whoever calls: of what is wrong comes an error and nothing else."""

import jax
import numpy as np
import pytest

from jaxqr._lstsq.decomposition import array_results
from matrices import normal
from surroundings import needs_kernels

F4, I4 = np.float32, np.int32
PLAIN = {"pivoting": "none", "transposed": False}
DERIVATIVE = {"pivoted": False, "transposed": False}


def zeros(*shape, dtype=F4):
    return np.zeros(shape, dtype)


REVEALED = "h,tau,p,rank,hz,tauz"


def factors(batch, m, n, names=REVEALED):
    """The shapes and dtypes of the arrays of a decomposition, of matrices with full rank."""
    results = array_results(m, n, names.split(","))
    return [((*batch, *shape), dtype or F4) for shape, dtype in results]


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
    leading = {**PLAIN, "outputs": "r", "pivoting": "exact", "steps": np.int64(2)}
    for name, option in {
        "leading pivots' shape": {"steps": np.int64(3)},
        "negative steps": {"steps": np.int64(-1)},
        "leading pivots without pivoting": {"pivoting": "none"},
        "reflectors of leading pivots": {"outputs": "h"},
    }.items():
        yield name, ("jaxqr_leading_qr", (a,), [((2, 2, 3), F4)], {**leading, **option})
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
    plain = dict.fromkeys(("lower", "transpose", "conjugate", "unit"), False)
    for name, operands, left in (
        ("a triangle that is not square", (a, a), True),
        ("a right-hand side that does not match", (r, a), True),
        ("one from the right that does not match", (r, r[..., :2]), False),
        ("a vector for a right-hand side", (r, r[0, 0]), True),
    ):
        shape = operands[1].shape
        yield name, ("jaxqr_solve", operands, [(shape, F4)], {**plain, "left": left})
    many = zeros(0, 2**31 + 5)  # more than an int counts, and what is cut off looks right
    yield "columns", ("jaxqr_ormqr", (zeros(0, 0), zeros(0), many), [(many.shape, F4)], sides)
    yield from bad_decompositions()


def bad_decompositions():
    a = normal((5, 3), "float32")
    for names in (
        *("h,tau,h1,tau1", "h", "h,tau,p", "h,tau,h1,p,rank,hz,tauz", "h,tau,v", "h,tau,tau1"),
        *("h,h", "h,tau,p,rank,hz,tauz,tauz"),
    ):
        known = names.replace("v", "tau")
        options = {"rcond": 0.1, "factors": names}
        yield f"factors {names}", ("jaxqr_cod", (a,), factors((), 5, 3, known), options)

    def gram(*, n=3, columns=2, names=REVEALED, operation="gram", **values):
        values = {"p": np.arange(n, dtype=I4), "rank": I4(n), **values}
        shapes = zip(REVEALED.split(","), factors((), n + 2, n), strict=True)
        given = [values.get(name, np.zeros(*shape)) for name, shape in shapes]
        operands, options = (zeros(n + 2, n), *given), {"operation": operation, "factors": names}
        v = zeros(n, columns)
        return "jaxqr_pseudoinverse", (*operands, v), [(v.shape, F4)], options

    yield "unknown operation", gram(operation="inverse")
    yield "fewer names than factors", gram(names="h,tau")
    yield "v among the factors", gram(names=f"{REVEALED},v")

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
            two = [((0, 2, n), F4), ((0, n), I4)]
            yield "jaxqr_leading_qr", [a], two, {**options, "steps": np.int64(2)}
        h, tau, c = a, ((0, n), F4), ((0, m, 2), F4)
        yield "jaxqr_orgqr", [h, tau], [q], {}
        yield "jaxqr_ormqr", [h, tau, c], [c], {"left": True, "adjoint": False}
        yield "jaxqr_qr_jvp", [q, r, a], [q, r], {**DERIVATIVE, "outputs": "q,r"}
        yield "jaxqr_qr_vjp", [q, r, q, r], [a], {**DERIVATIVE, "inputs": "q,r"}
        flags = dict.fromkeys(("left", "lower", "transpose", "conjugate", "unit"), False)
        yield "jaxqr_solve", [r, q], [q], flags
        cod, options = factors((0,), m, n), {"factors": REVEALED}
        yield "jaxqr_cod", [a], cod, {**options, "rcond": 0.1}
        options["operation"] = "solve"
        yield "jaxqr_pseudoinverse", [a, *cod, c], [((0, n, 2), F4)], options
        results = [((0, n, 2), F4), ((0, 2), F4), ((0,), I4)]
        yield "jaxqr_lstsq", [a, c], results, {"rcond": 0.1, "pivoting": True}


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
