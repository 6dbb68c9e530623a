"""What is wrong with one matrix of a batch stays in it: factors and their derivatives."""

import itertools

import jax
import numpy as np
import pytest

import jaxqr
from containment import (
    BATCH,
    PLACES,
    SMALL,
    assert_contained,
    assert_nan,
    assert_others_unchanged,
    assert_permuted,
    program,
    spoiled,
)
from laws import MODES, mostly_nightly
from matrices import DTYPES, FACTORIZATIONS, normal

TALL = ((5, 300, 3), (3, 2500, 5))  # in blocks of rows
LARGE = ((4, 90, 90), (3, 130, 40), (2, 40, 170))  # in blocks of columns


pytestmark = pytest.mark.usefixtures("fast_compilation")


def factors(name, mode, pivoting):
    """The factorization as a function of `a`, to its inexact results and P, which is checked."""
    mode = {"qr": "r", "lq": "l"}[name] if mode == "triangle" else mode

    def function(a):
        found = getattr(jaxqr, name)(a, mode, pivoting=pivoting)
        found = found if isinstance(found, tuple) else (found,)
        return (found[:-1], found[-1:]) if pivoting else (tuple(found), ())

    return function


def oriented(name, shape):
    *batch, m, n = shape
    return (*batch, m, n) if name == "qr" else (*batch, n, m)


# --------------------------------------------------------------------------------- qr and lq


SIDE_BY_SIDE = [
    (name, pivoting, dtype, mode)
    for name, pivoting, dtype, mode in itertools.product(
        FACTORIZATIONS, (False, True), DTYPES, MODES
    )
    if mode == "reduced" or dtype in ("float32", "complex128")
]


@pytest.mark.parametrize(
    "name, pivoting, dtype, mode",
    mostly_nightly(SIDE_BY_SIDE, 3),
)
def test_of_many_small_matrices(name, pivoting, dtype, mode):
    function = factors(name, mode, pivoting)
    for m, n in SMALL:
        a, da = (normal(oriented(name, (BATCH, m, n)), dtype, seed) for seed in (0, 1))
        assert_contained(function, a, da, own=assert_permuted)


LARGER = [
    (name, shape, pivoting, mode)
    for name, shape, pivoting, mode in itertools.product(
        FACTORIZATIONS, (*TALL, *LARGE), (False, True), MODES
    )
    if shape[1] < 1000 or mode != "complete"  # a Q of 2500 x 2500
]


@pytest.mark.parametrize(
    "name, shape, pivoting, mode",
    mostly_nightly(LARGER, 7),
    ids=str,
)
def test_of_a_few_larger_matrices(name, shape, pivoting, mode):
    batch = shape[0]
    dtype = "float32" if pivoting == (name == "qr") else "complex128"
    a, da = (normal(oriented(name, shape), dtype, seed) for seed in (0, 1))
    kinds, places = ("NaN", "infinity", "huge", "graded"), (0, batch - 1)
    assert_contained(
        factors(name, mode, pivoting),
        a,
        da,
        places=sorted({*places} if mode == "reduced" else {batch - 1}),
        kinds=kinds if mode == "reduced" else kinds[:1],
        own=assert_permuted,
    )


@pytest.mark.parametrize(
    "name, shape",
    mostly_nightly(
        itertools.product(FACTORIZATIONS, [(3, 150, 150), (2, 170, 140), (2, 140, 170)]),
        lambda name, shape: (name == "qr") == (shape[0] == 2),
    ),
    ids=str,
)
def test_of_randomized_pivots(name, shape):
    a, da = (normal(oriented(name, shape), seed=seed) for seed in (0, 1))
    assert_contained(
        factors(name, "reduced", "randomized"),
        a,
        da,
        places=(0, shape[0] - 1),
        kinds=("NaN", "infinity", "huge", "graded"),
        own=assert_permuted,
    )


def test_every_entry_spoils_its_matrix_and_no_other():
    for name, (m, n) in zip(("qr", "lq", "qr", "lq"), (SMALL[0], *SMALL), strict=True):
        a, da = (normal(oriented(name, (BATCH, m, n)), "float32", seed) for seed in (0, 1))
        everything = program(factors(name, "reduced", False))
        clean = everything(a, da)
        for entry in range(m * n):
            for place in (2, 40):
                got = everything(spoiled(a, place, "NaN", entry), da)
                assert_others_unchanged(got, clean, place)
                assert_nan(got, clean, place)


@pytest.mark.parametrize("name", FACTORIZATIONS)
def test_a_tangent_or_cotangent_that_is_nan_stays_in_its_matrix(name):
    function = factors(name, "reduced", False)
    for m, n in SMALL:
        a, da = (normal(oriented(name, (BATCH, m, n)), seed=seed) for seed in (0, 1))

        @jax.jit
        def everything(a, da, cotangents, function=function):
            tangents = jax.jvp(function, (a,), (da,), has_aux=True)[1]
            return tangents, jax.vjp(function, a, has_aux=True)[1](cotangents)

        values, _ = function(a)
        cotangents = tuple(normal(x.shape, seed=5) for x in values)
        clean = everything(a, da, cotangents)
        for count, place in enumerate(PLACES):
            bad = tuple(spoiled(x, place, "NaN", 0) for x in cotangents)
            got = everything(a, spoiled(da, place, "NaN", 7 * count), bad)
            assert_others_unchanged(got, clean, place)
            for derivatives in got:
                assert any(np.isnan(x[place]).any() for x in derivatives)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(4, 4), (6, 3)], ids=str)
def test_what_is_special_in_a_lane_changes_no_bit_in_others(shape, dtype):
    """Where there is nothing to annihilate in one matrix, the same numbers come out of the rest."""
    usual = normal((1024, *shape), dtype)
    special = usual.copy()
    special[::16] = 0
    special[5::32] = np.triu(special[5::32])
    changed = np.zeros(1024, bool)
    changed[::16] = changed[5::32] = True
    for x, y in zip(jaxqr.qr(usual), jaxqr.qr(special), strict=True):
        np.testing.assert_array_equal(np.asarray(x)[~changed], np.asarray(y)[~changed])
