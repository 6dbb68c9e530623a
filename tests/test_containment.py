"""What is wrong with one matrix of a batch stays in it: values, tangents and cotangents.

A batch is factored several times, each time with one matrix replaced: by one with a NaN or an
infinity, by a huge, a tiny, a graded or a zero one. All that belongs to the others stays as it was,
bit for bit; what belongs to a matrix with a NaN or an infinity is NaN, but for R's zeros.
"""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxqr
from matrices import DTYPES, FACTORIZATIONS, normal
from meshes import mesh_of, put

# matrices of one size are factored side by side, 2 to 16 at once, in groups; five groups or more
BATCH = 70
PLACES = (0, 1, 3, 7, 8, 15, 16, 37, 69)  # first, in the middle and last of a group and of all
SMALL = ((4, 4), (6, 3), (3, 6))
TALL = ((5, 300, 3), (3, 2500, 5))  # in blocks of rows
LARGE = ((4, 90, 90), (3, 130, 40), (2, 40, 170))  # in blocks of columns
NOT_FINITE = {"NaN": np.nan, "infinity": np.inf, "-infinity": -np.inf}
FINITE = ("huge", "one huge", "tiny", "graded", "zero")
KINDS = (*NOT_FINITE, *FINITE)
MODES = ("reduced", "complete", "triangle", "raw")


pytestmark = pytest.mark.usefixtures("fast_compilation")


def spoiled(a, place, kind, entry):
    """The batch `a` with its matrix at `place` spoiled; a NaN or an infinity goes to `entry`."""
    a = a.copy()
    info, one = np.finfo(a.dtype), a[place]
    m, n = one.shape
    if kind in NOT_FINITE:
        one[entry % m, entry // m % n] = NOT_FINITE[kind]
    elif kind == "one huge":
        one[entry % m, entry // m % n] = info.max / 4
    elif kind == "zero":
        one[:] = 0
    else:
        bits = {"huge": info.maxexp - 16, "tiny": info.minexp + 4}
        if kind == "graded":  # towards either end of the range
            exponents = np.linspace(info.minexp // 3, info.maxexp // 3, n).astype(int)
            exponents = np.random.default_rng(entry).permutation(exponents)
        else:
            exponents = bits[kind]
        one *= np.asarray(2.0**exponents, info.dtype)
    return a


def program(function):
    """Values, integers, tangents and cotangents of `function(x) -> (values, integers)`."""

    @jax.jit
    def everything(x, dx):
        values, tangents, integers = jax.jvp(function, (x,), (dx,), has_aux=True)
        cotangents = tuple(normal(v.shape, v.dtype, seed=5) for v in values)
        (gradient,) = jax.vjp(function, x, has_aux=True)[1](cotangents)
        return values, integers, tangents, gradient

    return everything


def assert_others_unchanged(got, clean, place, exact=True):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(clean), strict=True):
        assert np.all(np.isfinite(y))
        others, expected = (np.delete(np.asarray(z), place, axis=0) for z in (x, y))
        if exact:
            np.testing.assert_array_equal(others, expected)
        else:
            tolerance = 1e4 * np.finfo(y.dtype).eps
            np.testing.assert_allclose(
                others, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max(initial=1)
            )


def assert_nan(got, clean, place):
    """All NaN, but for the zeros that every factor of this shape has."""
    values, _, tangents, gradient = got
    for i, (value, tangent, usual) in enumerate(zip(values, tangents, clean[0], strict=True)):
        usual = np.asarray(usual[place])
        for what, x in (("value", value), ("tangent", tangent)):
            x = np.asarray(x[place])
            assert np.isnan(x[usual != 0]).all(), f"{what} {i}"
            if usual.ndim > 1:  # tau = 0 is rounding's, and may become NaN
                assert np.all(x[usual == 0] == 0), f"{what} {i}"
    for i, x in enumerate(jax.tree.leaves(gradient)):
        assert np.isnan(x[place]).all(), f"gradient {i}"


def assert_contained(function, x, dx, *, places=PLACES, kinds=KINDS, exact=True, own=assert_nan):
    """`x`: the batch of matrices alone, or with more operands, which stay as they are."""
    everything = program(function)
    clean = everything(x, dx)
    for count, place in enumerate(places):
        # NaN at every place, all else in turns if there are many places
        few = len(places) < 4
        for kind in kinds if few else [kinds[i % len(kinds)] for i in (0, count, count + 4)]:
            if isinstance(x, tuple):
                bad = spoiled(x[0], place, kind, 7 * count), *x[1:]
            else:
                bad = spoiled(x, place, kind, 7 * count)
            got = everything(bad, dx)
            try:
                assert_others_unchanged(got, clean, place, exact)
                if kind in NOT_FINITE:
                    own(got, clean, place)
            except AssertionError as error:
                error.add_note(f"{kind} in matrix {place} of {jax.tree.leaves(x)[0].shape}")
                raise


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


def assert_permuted(got, clean, place):
    """NaN in every result, and P is a permutation even so."""
    assert_nan(got, clean, place)
    for p in got[1]:
        assert np.array_equal(np.sort(p[place]), np.arange(p.shape[-1]))


# --------------------------------------------------------------------------------- qr and lq


EVERY_MODE = ("float32", "complex128")


@pytest.mark.parametrize(
    ("dtype", "mode"),
    [
        (dtype, mode)
        for dtype in DTYPES
        for mode in MODES
        if mode == "reduced" or dtype in EVERY_MODE
    ],
)
@pytest.mark.parametrize("pivoting", [False, True])
@pytest.mark.parametrize("name", FACTORIZATIONS)
def test_of_many_small_matrices(name, dtype, pivoting, mode):
    function = factors(name, mode, pivoting)
    for m, n in SMALL:
        a, da = (normal(oriented(name, (BATCH, m, n)), dtype, seed) for seed in (0, 1))
        assert_contained(function, a, da, own=assert_permuted)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pivoting", [False, True])
@pytest.mark.parametrize("shape", [*TALL, *LARGE], ids=str)
@pytest.mark.parametrize("name", FACTORIZATIONS)
def test_of_a_few_larger_matrices(name, shape, pivoting, mode):
    batch, m, _ = shape
    if m > 1000 and mode == "complete":
        pytest.skip("a Q of 2500 x 2500")
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


@pytest.mark.parametrize("shape", [(3, 150, 150), (2, 170, 140), (2, 140, 170)], ids=str)
@pytest.mark.parametrize("name", FACTORIZATIONS)
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


# ----------------------------------------------------------------------------- least squares


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


@pytest.mark.parametrize("pivoting", [True, False])
@pytest.mark.parametrize("case", LSTSQ)
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


@pytest.mark.parametrize("shape", SMALL, ids=str)
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


@pytest.mark.parametrize("pivoting", [False, True])
@pytest.mark.parametrize("mode", ["left", "right"])
def test_of_products_with_q(mode, pivoting):
    def function(x):
        found = jaxqr.qr_multiply(*x, mode, pivoting=pivoting)
        return found[:2], found[2:]

    for shape in (*((BATCH, *s) for s in SMALL), TALL[0], (3, 90, 40)):
        few = shape[0] < BATCH
        batch, m, n = shape
        for dtype in ("float64",) if few else ("float32",):
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
