"""Matrices whose columns differ much in size, and comparisons column by column.

Scaling columns by powers of two, A D, changes neither Householder's Q, nor its reflectors and tau,
and R becomes R D; a tangent dA D leaves dQ as it is and makes dR D of dR; the cotangent of A D from
Qbar and Rbar D^-1 is that of A from Qbar and Rbar, times D^-1. So what is expected for A D is what
is found for an ordinary A, and each column is compared relative to its own size.
"""

import functools
import itertools

import jax
import numpy as np

import jaxqr
from jaxqr._lowering import kernels
from laws import derivatives
from matrices import double, normal

# Sizes of columns in single and double precision, each also in the order given by reversal
SIZES = {
    4: {
        2: ((1e7, 1e-32), (1e17, 1e-19), (1e20, 1e-26), (1e30, 1e-36)),
        3: ((1, 1e-10, 1e-36), (1e-36, 1e30, 1), (1e30, 1e30, 1e-30)),
        4: tuple(itertools.permutations((1e30, 1, 1e-20, 1e-35))),
        5: ((1, 1e-36, 1, 1e30, 1e-10), (1e-35, 1e-18, 1, 1e17, 1e30)),
        6: ((1, 1, 1, 1e-20, 1e-30, 1e-36), (1e-36, 1e30, 1, 1e30, 1e-20, 1)),
    },
    8: {
        2: ((1e7, 1e-32), (1e61, 1e-250), (1e150, 1e-170), (1e300, 1e-300)),
        3: ((1, 1e-130, 1e-200), (1e-300, 1e300, 1), (1e200, 1e200, 1e-200)),
        4: tuple(itertools.permutations((1e300, 1, 1e-200, 1e-300))),
        5: ((1, 1e-140, 1, 1e200, 1e-10), (1e-300, 1e-160, 1, 1e140, 1e300)),
        6: ((1, 1, 1, 1e-150, 1e-200, 1e-300), (1e-300, 1e200, 1, 1e300, 1e-140, 1)),
    },
}


def real(dtype):
    return np.finfo(dtype).dtype


def power_of_two(sizes, dtype):
    return (2.0 ** np.round(np.log2(np.asarray(sizes, np.float64)))).astype(real(dtype))


def grades(n, dtype):
    """The powers of two for n columns, several times."""
    info = np.finfo(dtype)
    if np.dtype(dtype) == np.complex64 and not kernels.available():
        # entries of R are flushed to zero that are small beside the others of a tiny column
        return [d for d in all_grades(n, dtype) if np.min(d) > 2.0**16 * info.tiny]
    return all_grades(n, dtype)


def all_grades(n, dtype):
    info = np.finfo(dtype)
    known = SIZES[real(dtype).itemsize].get(n)
    if known is not None:
        found = [power_of_two(sizes, dtype) for sizes in known]
        return found if n == 4 else [*found, *(x[::-1].copy() for x in found)]
    exponents = np.linspace(info.minexp + 20, info.maxexp - 28, n).astype(int)
    last = np.zeros(n, int)
    last[n // 2] = info.minexp // 2 - 20  # one column whose squares are lost
    orders = (exponents[::-1], np.random.default_rng(n).permutation(exponents), last)
    return [(2.0**x).astype(real(dtype)) for x in orders]


def ordinary(shape, dtype, seed=0):
    """No entry is so small that a tiny multiple of it is denormal, which XLA flushes to zero."""

    def away(x):
        return x + np.copysign(0.25, x)

    x = normal(shape, dtype, seed)
    if np.iscomplexobj(x):
        x = away(x.real) + 1j * away(x.imag)
        return x.astype(dtype)
    return away(x).astype(dtype)


def well_conditioned(shape, dtype, seed=0):
    """An ordinary matrix whose leading columns, in any order, are far from dependent."""
    m, n = shape[-2:]
    a = ordinary(shape, dtype, seed)
    if m >= 20 * n:
        return a
    return (a + np.eye(m, n) * np.sqrt(max(m, n)) * 3).astype(dtype)


def assert_columns(got, expected, scale=1.0, factor=1e3):
    """got = expected * scale, each column relative to its own size and to the smallest number."""
    info = np.finfo(np.asarray(got).dtype)
    got, expected, scale = double(got) / double(scale), double(expected), double(scale)
    assert got.shape == expected.shape
    if got.ndim == 0 or got.size == 0:
        return
    axis = -2 if got.ndim > 1 else None
    size = np.max(np.abs(expected), axis=axis, keepdims=True)
    flushed = 4 * float(info.tiny) / scale
    error = np.abs(got - expected)
    assert np.all(error <= factor * float(info.eps) * size + flushed), np.max(
        error / (size + 1e-300)
    )


def program(function):
    """Values, tangents and gradients by every argument, compiled."""
    return jax.jit(functools.partial(derivatives, function))


def of_columns(name, mode="reduced", pivoting=False):
    """Q, R as those of QR, of `a` or, for lq, of its transpose."""

    def function(a):
        if name == "qr":
            found = jaxqr.qr(a, mode, pivoting=pivoting)
            return found[0], found[1]
        found = jaxqr.lq(a.mT, mode, pivoting=pivoting)
        return found.Q.mT, found.L.mT

    return function


def assert_graded(everything, arguments, tangents, cotangents, scales, d, usual, factor=1e3):
    """What comes of arguments that are scaled is what is usual, scaled.

    Args:
        everything: a `program`.
        arguments: scaled already, as are tangents and cotangents.
        scales: of the values and of their tangents, then of the gradients.
        d: for the message.
        usual: what `everything` gave of the arguments that are not scaled.
        factor: how many epsilons are allowed.
    """
    got = jax.tree.leaves(everything(arguments, tangents, cotangents))
    of_values, of_gradients = scales
    of_all = (*of_values, *of_values, *of_gradients)
    for i, (x, y, scale) in enumerate(zip(got, jax.tree.leaves(usual), of_all, strict=True)):
        try:
            assert_columns(x, y, scale, factor)
        except AssertionError as error:
            error.add_note(f"array {i} of values, tangents, gradients; columns times {d}")
            raise


def check_factors(function, shape, dtype, factor=1e3, scales=None):
    everything = program(function)
    m, n = shape[-2:]
    a, da = well_conditioned(shape, dtype), ordinary(shape, dtype, seed=1)
    rows = jax.eval_shape(function, a)[1].shape[-2]
    qbar, rbar = (
        ordinary((*shape[:-2], *s), dtype, seed) / 4 for seed, s in ((2, (m, rows)), (3, (rows, n)))
    )
    usual = everything((a,), (da,), (qbar, rbar))
    for d in grades(n, dtype) if scales is None else scales:
        of = (1.0, d), (1 / d,)
        assert_graded(everything, (a * d,), (da * d,), (qbar, rbar / d), of, d, usual, factor)
