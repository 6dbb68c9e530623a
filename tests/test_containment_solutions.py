"""What is wrong with one matrix of a batch stays in it: least squares, products, blocks of rows."""

import functools
import itertools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxqr
from containment import (
    BATCH,
    KINDS,
    NOT_FINITE,
    PLACES,
    SMALL,
    assert_contained,
    assert_nan,
    assert_others_unchanged,
    assert_permuted,
    program,
    spoiled,
)
from laws import mostly_nightly
from matrices import normal
from meshes import mesh_of, put

pytestmark = pytest.mark.usefixtures("fast_compilation")


def solution(**options):
    def function(x):
        found = jaxqr.lstsq(*x, **options)
        return found[:2], found[2:]

    return function


def assert_solution_nan(got, clean, place):
    """x and the residuals are NaN, so are derivatives; the rank is one that is possible."""
    values, (rank,), tangents, gradient = got
    for x in jax.tree.leaves((values, tangents, gradient)):
        assert np.isnan(x[place]).all()
    assert 0 <= rank[place] <= clean[1][0].max()


LSTSQ = {
    "tall": (BATCH, 6, 3),
    "square": (BATCH, 4, 4),
    "wide": (BATCH, 3, 6),
    "taller": (5, 300, 3),
    "blocked": (3, 90, 90),
    "factored twice": (2, 1100, 257),
}


@pytest.mark.parametrize(
    "case, pivoting",
    mostly_nightly(
        itertools.product(LSTSQ, (True, False)),
        lambda case, pivoting: (
            case in ("tall", "wide", "blocked") or (case, pivoting) == ("square", False)
        ),
    ),
)
def test_of_least_squares(case, pivoting):
    shape = LSTSQ[case]
    few, slow = shape[0] < BATCH, shape[-1] > 200
    places, kinds = (0, shape[0] - 1), ("NaN", "infinity", "huge")
    if slow:
        places, kinds = places[:1], kinds[:1]
    for dtype in ("float64",) if few else ("float32", "complex128"):
        a, da = (normal(shape, dtype, seed) for seed in (0, 1))
        b, db = (normal((*shape[:2], 2), dtype, seed) for seed in (2, 3))
        assert_contained(
            solution(pivoting=pivoting),
            (a, b),
            (da, db),
            places=places if few else PLACES,
            kinds=kinds if few else KINDS if pivoting else KINDS[:-1],
            own=assert_solution_nan,
        )


@pytest.mark.parametrize(
    "shape", mostly_nightly(zip(SMALL, strict=True), lambda shape: shape == SMALL[1]), ids=str
)
def test_of_least_squares_where_others_are_deficient(shape):
    a, da = (normal((BATCH, *shape), seed=seed) for seed in (0, 1))
    b, db = (normal((BATCH, shape[0], 2), seed=seed) for seed in (2, 3))
    a[::3, :, 1] = a[::3, :, 0]
    a[::3, 2] = a[::3, 0]
    places = tuple(place for place in PLACES if place % 3)
    assert_contained(
        solution(), (a, b), (da, db), places=places, kinds=KINDS, own=assert_solution_nan
    )


def test_of_right_hand_sides():
    shape = (BATCH, 4, 3)
    a = normal(shape)
    b, db = (normal((*shape[:2], 2), seed=seed) for seed in (2, 3))
    everything = program(lambda b: (jaxqr.lstsq(a, b)[:2], ()))
    clean = everything(b, db)
    for place in PLACES:
        for value in NOT_FINITE.values():
            bad = b.copy()
            bad[place, 2, 0] = value
            got = everything(bad, db)
            assert_others_unchanged(got, clean, place)
            (x, residuals), *_ = got
            assert not np.isfinite(x[place, :, 0]).any()
            assert not np.isfinite(residuals[place, 0])
            np.testing.assert_array_equal(x[place, :, 1], clean[0][0][place, :, 1])
            np.testing.assert_array_equal(residuals[place, 1], clean[0][1][place, 1])


# ----------------------------------------------------------------------- products with Q


@pytest.mark.parametrize(
    "mode, pivoting",
    mostly_nightly(
        itertools.product(("left", "right"), (False, True)),
        lambda mode, pivoting: pivoting == (mode == "left"),
    ),
)
def test_of_products_with_q(mode, pivoting):
    def function(x):
        found = jaxqr.qr_multiply(*x, mode, pivoting=pivoting)
        return found[:2], found[2:]

    for shape in (*((BATCH, *s) for s in SMALL), (5, 300, 3), (3, 90, 40)):
        few = shape[0] < BATCH
        batch, m, n = shape
        dtype = "float64" if few else "float32"
        c_shape = (batch, min(m, n), 2) if mode == "left" else (batch, 2, m)
        a, da = (normal(shape, dtype, seed) for seed in (0, 1))
        c, dc = (normal(c_shape, dtype, seed) for seed in (2, 3))
        assert_contained(
            function,
            (a, c),
            (da, dc),
            places=(0, batch - 1) if few else PLACES,
            kinds=("NaN", "infinity", "huge") if few else KINDS,
            own=assert_permuted,
        )


@pytest.mark.parametrize("mode", ["left", "right"])
def test_of_what_q_is_multiplied_with(mode):
    shape = (BATCH, 6, 3)
    a, da = (normal(shape, seed=seed) for seed in (0, 1))
    c_shape = (BATCH, 3, 2) if mode == "left" else (BATCH, 2, 6)
    c, dc = (normal(c_shape, seed=seed) for seed in (2, 3))

    def function(x):
        return tuple(jaxqr.qr_multiply(*x[::-1], mode)), ()

    def own(got, clean, place):
        """R and its tangent do not depend on c."""
        (product, r), _, (d_product, dr), _ = got
        assert np.isnan(product[place]).any() and np.isnan(d_product[place]).any()
        np.testing.assert_array_equal(r, clean[0][1])
        np.testing.assert_array_equal(dr, clean[2][1])

    assert_contained(function, (c, a), (dc, da), kinds=tuple(NOT_FINITE), own=own)


@pytest.mark.parametrize("operation", ["product", "multiply", "multiply right"])
def test_of_packed_reflectors(operation):
    def function(x):
        h, tau, c = x
        if operation == "product":
            return (jaxqr.householder_product(h, tau),), ()
        if operation == "multiply":
            return (jaxqr.householder_multiply(h, tau, c, adjoint=True),), ()
        return (jaxqr.householder_multiply(h, tau, c.mT, left=False),), ()

    def own(got, clean, place):
        (value,), _, (tangent,), (h, tau, _) = got
        assert not np.isfinite(value[place]).all()
        for x in (tangent, h, tau):
            assert not np.isfinite(x[place]).all()

    for shape in ((BATCH, 5, 3), (BATCH, 4, 4), (3, 90, 40)):
        dtype = "complex128" if shape[1] == 5 else "float64"
        few = shape[0] < BATCH
        raw = jaxqr.qr(normal(shape, dtype), "raw")
        h, tau, c = np.array(raw.h.mT), np.array(raw.tau), normal((*shape[:2], 2), dtype, 1)
        dx = tuple(normal(x.shape, dtype, seed=3) for x in (h, tau, c))
        everything = program(function)
        clean = everything((h, tau, c), dx)
        for place in (0, shape[0] - 1) if few else PLACES:
            for value in (*NOT_FINITE.values(), float(np.finfo(dtype).max) / 8):
                bad = h.copy()
                bad[place, 2, 1] = value  # below the diagonal
                got = everything((bad, tau, c), dx)
                assert_others_unchanged(got, clean, place)
                if not np.isfinite(value):
                    own(got, clean, place)
                bad = tau.copy()
                bad[place, 1] = value
                assert_others_unchanged(everything((h, bad, c), dx), clean, place)


# -------------------------------------------------------------------------- blocks of rows


@pytest.mark.parametrize("solve", [False, True])
def test_of_rows_on_eight_devices(solve):
    a, da = (normal((20, 32, 3), seed=seed) for seed in (0, 1))
    b = normal((20, 32, 2), seed=2)
    with mesh_of("automatic") as mesh:
        on = {"axis_name": "x", "mesh": mesh}

        def function(a):
            if solve:
                found = jaxqr.lstsq(a, b, **on)
                return found[:2], found[2:]
            return tuple(jaxqr.tsqr(a, **on)), ()

        everything = program(function)
        place_rows = functools.partial(put, mesh, spec=P(None, "x"))
        clean = everything(*place_rows(a, da))
        for count, place in enumerate((0, 1, 8, 19)):
            for kind in KINDS[:-1]:
                got = everything(*place_rows(spoiled(a, place, kind, 13 * count), da))
                assert_others_unchanged(got, clean, place)
                if kind in NOT_FINITE:
                    (assert_solution_nan if solve else assert_nan)(got, clean, place)
