"""Batches with one spoiled matrix, of which the others must notice nothing.

A batch is factored several times, each time with one matrix replaced: by one with a NaN or an
infinity, by a huge, a tiny, a graded or a zero one. All that belongs to the others stays as it was,
bit for bit; what belongs to a matrix with a NaN or an infinity is NaN, but for R's zeros.
"""

import jax
import numpy as np

from matrices import normal

# matrices of one size are factored side by side, 2 to 16 at once, in groups; five groups or more
BATCH = 70
PLACES = (0, 1, 3, 7, 8, 15, 16, 37, 69)  # first, in the middle and last of a group and of all
SMALL = ((4, 4), (6, 3), (3, 6))
NOT_FINITE = {"NaN": np.nan, "infinity": np.inf, "-infinity": -np.inf}
FINITE = ("huge", "one huge", "tiny", "graded", "zero")
KINDS = (*NOT_FINITE, *FINITE)


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


def assert_permuted(got, clean, place):
    """NaN in every result, and P is a permutation even so."""
    assert_nan(got, clean, place)
    for p in got[1]:
        assert np.array_equal(np.sort(p[place]), np.arange(p.shape[-1]))


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
