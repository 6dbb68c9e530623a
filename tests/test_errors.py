"""Bad input gets an error that names the function, the requirement and the value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr

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
@pytest.mark.parametrize("mode", ["full", "economic", None, 3, "R", A])
def test_unknown_mode(name, mode):
    with pytest.raises(ValueError, match=rf"{name}: mode must be one of 'reduced', .*, got "):
        getattr(jaxqr, name)(A, mode)


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
