"""Matrices that an automatic mesh shards: called eagerly, they are gathered with one warning."""

import functools
import warnings

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxqr
from laws import assert_close
from matrices import normal
from meshes import X, assert_sharded, mesh_of, put

WHOLE, TAU = normal((8, 8), seed=1), np.full(8, 1.5)
CALLS = {
    "qr": jaxqr.qr,
    "qr raw": functools.partial(jaxqr.qr, mode="raw"),
    "qr pivoted": functools.partial(jaxqr.qr, pivoting=True),
    "lq": jaxqr.lq,
    "rq": jaxqr.rq,
    "ql": jaxqr.ql,
    "lstsq": lambda a: jaxqr.lstsq(a, WHOLE),
    "lstsq of b": lambda a: jaxqr.lstsq(WHOLE, a),
    "lstsq of both": lambda a: jaxqr.lstsq(a, a),
    "qr_multiply": lambda a: jaxqr.qr_multiply(a, WHOLE),
    "qr_multiply of c": lambda a: jaxqr.qr_multiply(WHOLE, a),
    "householder_product": lambda a: jaxqr.householder_product(a, TAU),
    "householder_product of tau": lambda a: jaxqr.householder_product(WHOLE, a[0]),
    "householder_multiply": lambda a: jaxqr.householder_multiply(a, TAU, WHOLE),
    "householder_multiply of c": lambda a: jaxqr.householder_multiply(WHOLE, TAU, a),
}


def caught(f, *args, how="always"):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter(how)
        out = f(*args)
    return out, found


@pytest.mark.parametrize("name", CALLS)
def test_a_call_gathers_as_jit_does_and_warns_once_where_it_is_made(name):
    f, a = CALLS[name], normal((8, 8))
    with mesh_of("automatic") as mesh:
        (sharded,) = put(mesh, a, spec=P(None, "x") if name.endswith("of tau") else X)
        (whole,) = put(mesh, a, spec=P())
        out, found = caught(f, sharded)
        compiled, silent = caught(jax.jit(f), sharded)
        taken, advised = caught(f, whole)
    for x, y in zip(jax.tree.leaves(out), jax.tree.leaves(compiled), strict=True):
        assert x.sharding == y.sharding
    for got in (out, compiled, taken):
        assert_close(got, f(a))
    (warning,) = found
    function = name.partition(" ")[0]
    assert warning.category is UserWarning
    text = str(warning.message)
    assert text.startswith(f"{function}: each device gathers the whole matrix, got ")
    assert "jaxqr.tsqr" in text and "jaxqr.lstsq with axis_name and mesh" in text
    assert warning.filename == __file__
    assert silent == advised == []


def test_the_warning_tells_each_array_and_comes_once_for_each_place():
    def twice(a):
        for _ in range(2):
            jaxqr.lstsq(a, a)

    with mesh_of("automatic", (2, 4), ("b", "x")) as mesh:
        (a,) = put(mesh, normal((4, 8, 8)), spec=P("b", None, "x"))
        _, found = caught(twice, a, how="default")
        _, again = caught(lambda a: (jaxqr.qr(a), jaxqr.qr(a).Q)[0], a)
    (warning,) = found
    told = f"of shape (4, 8, 8) sharded by {a.sharding.spec}"
    assert f"got a {told} and b {told}" in str(warning.message)
    assert warning.lineno == twice.__code__.co_firstlineno + 2
    assert len(again) == 2


@pytest.mark.parametrize("f", [jaxqr.qr, lambda a: jaxqr.lstsq(a, a)])
def test_a_batch_stays_sharded_where_its_matrices_are_gathered(f):
    a = normal((4, 8, 3))
    with mesh_of("automatic", (2, 4), ("b", "x")) as mesh:
        out, found = caught(f, *put(mesh, a, spec=P("b", "x")))
        _, none = caught(f, *put(mesh, a, spec=P("b")))
    assert_sharded(out, mesh, P("b"))
    assert_close(out, f(a))
    assert len(found) == 1 and none == []


def test_wrong_arguments_are_an_error_before_anything_is_gathered():
    with mesh_of("automatic") as mesh:
        (a,) = put(mesh, normal((8, 3)))
        with pytest.raises(ValueError, match="qr: mode must be one of"):
            jaxqr.qr(a, "full")  # warnings are errors here, too


def test_the_advice_to_place_the_matrix_first_is_silent():
    with mesh_of("automatic") as mesh:
        (a,) = put(mesh, normal((8, 3)))
        q, _ = jaxqr.qr(jax.device_put(a, NamedSharding(mesh, P())))
    assert_sharded(q, mesh, P())
