"""Bad input gets an error that names the function, the requirement and the value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from meshes import P, mesh_of, put

A = np.eye(4, 3)
FUNCTIONS = ("qr", "lq", "rq", "ql")


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("value", [np.ones(3), 1.0])
def test_fewer_than_two_dimensions(name, value):
    with pytest.raises(ValueError, match=rf"{name}: a must have at least 2 dimensions, got shape"):
        getattr(jaxqr, name)(value)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("value", ["text", None, object(), [[1.0, 2.0], [3.0]]])
def test_not_an_array(name, value):
    with pytest.raises(
        TypeError, match=f"{name}: a must be array-like, got {type(value).__name__}"
    ):
        getattr(jaxqr, name)(value)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_unsupported_dtype(name):
    a = jnp.zeros((3, 3), jnp.float8_e4m3fn)
    with pytest.raises(TypeError, match=f"{name}: a must be .*, got dtype float8_e4m3fn"):
        getattr(jaxqr, name)(a)
    with pytest.raises(TypeError, match=f"{name}: a must be .*, got dtype key"):
        getattr(jaxqr, name)(jax.random.split(jax.random.key(0), (2, 2)))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("mode", ["Economic", None, 3, "R", A])
def test_unknown_mode(name, mode):
    with pytest.raises(ValueError, match=rf"{name}: mode must be one of 'reduced', .*, got "):
        getattr(jaxqr, name)(A, mode)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_names_of_modes_in_other_libraries(name):
    """SciPy's "economic" means one thing; "full" has meant two."""
    f = getattr(jaxqr, name)
    for x, y in zip(f(A, "economic"), f(A, "reduced"), strict=True):
        np.testing.assert_array_equal(x, y)
    with pytest.raises(ValueError, match=rf"{name}: mode .*, got 'full', which is 'complete' in"):
        f(A, "full")


@pytest.mark.parametrize("name", ["qr", "lq"])
def test_the_other_triangles_mode(name):
    wrong = {"qr": "l", "lq": "r"}[name]
    with pytest.raises(ValueError, match=f"{name}: mode must be one of .*, got '{wrong}'"):
        getattr(jaxqr, name)(A, wrong)


@pytest.mark.parametrize("name", ["qr", "lq"])
@pytest.mark.parametrize("option", ["pivoting", "positive_diagonal"])
@pytest.mark.parametrize("value", [None, "yes", 2])
def test_options_are_booleans_or_names(name, option, value):
    more = ", 'randomized'" if option == "pivoting" else ""
    with pytest.raises(ValueError, match=f"{name}: {option} must be one of True, False{more}, got"):
        getattr(jaxqr, name)(A, **{option: value})


@pytest.mark.parametrize("name", ["qr", "lq"])
def test_positive_diagonal_in_raw_mode(name):
    with pytest.raises(ValueError, match=f"{name}: positive_diagonal must be False in mode 'raw'"):
        getattr(jaxqr, name)(A, "raw", positive_diagonal=True)


def test_traced_options_are_refused():
    with pytest.raises(ValueError, match=r"qr: pivoting must be one of True, False, .*, got"):
        jax.jit(lambda flag: jaxqr.qr(A, pivoting=flag))(True)


@pytest.mark.parametrize("function", ["householder_product", "householder_multiply"])
def test_tau_that_does_not_fit(function):
    c = () if function == "householder_product" else (np.ones((4, 2)),)
    for tau in (np.ones(4), np.ones((2, 3))):
        with pytest.raises(ValueError, match=rf"{function}: tau must have .*, got tau \("):
            getattr(jaxqr, function)(A, tau, *c)
    with pytest.raises(TypeError, match=f"{function}: tau must be array-like, got str"):
        getattr(jaxqr, function)(A, "tau", *c)


def test_wide_householder_product():
    with pytest.raises(ValueError, match="householder_product: h must have at least as many rows"):
        jaxqr.householder_product(np.ones((3, 4)), np.ones(3))


@pytest.mark.parametrize(
    ("shape", "left", "side"), [((3, 2), True, r"4, s\)"), ((2, 3), False, r"s, 4\)")]
)
def test_a_product_that_does_not_fit(shape, left, side):
    with pytest.raises(ValueError, match=rf"householder_multiply: c must be .*{side}.*got c \("):
        jaxqr.householder_multiply(A, np.ones(3), np.ones(shape), left=left)
    with pytest.raises(ValueError, match="householder_multiply: batch dimensions of h and c must"):
        jaxqr.householder_multiply(
            np.ones((3, 4, 3)), np.ones((3, 3)), np.ones((2, 4, 4)), left=left
        )


@pytest.mark.parametrize("option", ["left", "adjoint"])
def test_multiply_options_are_booleans(option):
    with pytest.raises(ValueError, match=f"householder_multiply: {option} must be one of"):
        jaxqr.householder_multiply(A, np.ones(3), np.ones((4, 4)), **{option: "yes"})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.ones((3, 2), np.longdouble), r"got dtype .*128; convert it: a.astype\('float64'\)"),
        (np.ones((3, 2), np.clongdouble), r"got dtype .*256; convert it: a.astype\('complex128'\)"),
        (np.ones((3, 2), ">f8"), r"got dtype >f8; convert it: a.astype\('float64'\)"),
        (np.ones((3, 2), object), r"got dtype object; convert it: a.astype\('float64'\) if"),
        (np.array([["1", "2"]]), r"got dtype <U1; convert it: a.astype\('float64'\) if"),
        (np.ones((3, 2), "M8[s]"), r"got dtype datetime64\[s\]; convert it: durations by"),
        (np.ma.masked_array(np.ones((3, 2))), r"without a mask, got a masked array; .*filled"),
    ],
)
def test_numpy_arrays_that_jax_has_no_dtype_for(value, words):
    for function in (*FUNCTIONS, "lstsq", "qr_multiply"):
        more = () if function in FUNCTIONS else (np.ones(len(value)),)
        with pytest.raises(TypeError, match=rf"^{function}: a must be an array .*{words}"):
            getattr(jaxqr, function)(value, *more)


def test_numpys_booleans_are_options():
    yes, no = np.True_, np.False_
    plain, pivoted = jaxqr.qr(A, pivoting=no), jaxqr.qr(A, pivoting=yes, positive_diagonal=yes)
    assert (type(plain), type(pivoted)) == (jaxqr.QRResult, jaxqr.PivotedQRResult)
    assert isinstance(jaxqr.lq(A, pivoting=yes), jaxqr.PivotedLQResult)
    assert jaxqr.lstsq(A, A[:, 0], pivoting=no).rank == 3
    product = jaxqr.qr_multiply(A, A[:, 0], pivoting=yes, conjugate=no)
    assert isinstance(product, jaxqr.PivotedQRMultiplyResult)
    got = jaxqr.householder_multiply(A, np.ones(3), A, left=yes, adjoint=no)
    np.testing.assert_array_equal(got, jaxqr.householder_multiply(A, np.ones(3), A))


@pytest.mark.parametrize("rcond", [np.array(0.5), np.float32(0.5), jnp.asarray(0.5), np.array(0)])
def test_rcond_may_be_an_array_of_one_number(rcond):
    a = np.diag([4.0, 1.0, 1e-30])
    assert jaxqr.lstsq(a, np.ones(3), rcond=rcond).rank == (1 if rcond else 3)


@pytest.mark.parametrize("rcond", [np.array([0.5]), np.array(True), np.array(1j), "0.5"])
def test_rcond_may_be_no_other_array(rcond):
    with pytest.raises(TypeError, match="lstsq: rcond must be None or a number that is not traced"):
        jaxqr.lstsq(A, A[:, 0], rcond=rcond)
    with pytest.raises(ValueError, match="lstsq: rcond must be None or a finite number"):
        jaxqr.lstsq(A, A[:, 0], rcond=10**400)


EXPLICIT = {
    "qr": lambda a, c: jaxqr.qr(a, pivoting=True),
    "lq": lambda a, c: jaxqr.lq(a),
    "rq": lambda a, c: jaxqr.rq(a),
    "ql": lambda a, c: jaxqr.ql(a),
    "tsqr": lambda a, c: jaxqr.tsqr(a.mT, axis_name="x"),
    "lstsq": lambda a, c: jaxqr.lstsq(a.mT, c),
    "qr_multiply": lambda a, c: jaxqr.qr_multiply(a, c),
    "householder_product": lambda a, c: jaxqr.householder_product(a, c[:3]),
    "householder_multiply": lambda a, c: jaxqr.householder_multiply(np.eye(8), np.ones(3), a),
}


@pytest.mark.parametrize("function", EXPLICIT)
def test_sharded_matrices_are_refused_by_the_name_that_was_called(function):
    with mesh_of("explicit") as mesh:
        (a,) = put(mesh, np.ones((8, 3)))
        with pytest.raises(ValueError, match=rf"^{function}: .*\b[ahc]\b"):
            EXPLICIT[function](a, np.ones(8))


def test_batches_that_are_sharded_differently_are_refused():
    with mesh_of("explicit", (2, 4), ("x", "y")) as mesh:
        (a,), (b,) = (put(mesh, np.ones((8, 3, 3)), spec=P(axis)) for axis in ("x", "y"))
        for function in ("lstsq", "qr_multiply"):
            with pytest.raises(ValueError, match=rf"^{function}: batch dimensions of a and . must"):
                getattr(jaxqr, function)(a, b)
