"""Derivatives on JAX's default device, against differences in double precision on the CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from device import every_dtype, judged, run
from foreign_platform import CASES
from laws import differences, pairing, relative_error
from matrices import LIMIT, double, normal, separated

SINGLE = {"f": "float32", "c": "complex64"}
TOLERANCE = {"float32": 3e-5, "float64": 1e-8}
# the others are parts of these
CHOSEN = [name for name in CASES if name not in ("r", "multiply pivoted", "lstsq unpivoted")]


def floating(case):
    """The case's function, to the tuple of its results that move."""
    f = CASES[case][1]
    return lambda a: tuple(x for x in jax.tree.leaves(f(a)) if jnp.issubdtype(x.dtype, jnp.inexact))


def matrices(case, dtype):
    """The point and the direction: the same in single and double precision."""
    single = SINGLE[np.dtype(dtype).kind]
    shape = CASES[case][0]
    return separated(shape, single).astype(dtype), normal(shape, single, seed=9).astype(dtype)


@functools.cache
def expected(case, kind):
    """Differences along the direction."""
    f = floating(case)
    return judged(lambda a, da: differences(f, a, da), *matrices(case, SINGLE[kind]))


@every_dtype
@pytest.mark.parametrize("case", CHOSEN)
def test_tangents_equal_differences_and_cotangents_pair(case, dtype):
    f, (a, da) = floating(case), matrices(case, dtype)
    cotangents = tuple(normal(x.shape, x.dtype, seed=5) for x in jax.eval_shape(f, a))

    def everything(a, da, cotangents):
        return jax.jvp(f, (a,), (da,))[1], jax.vjp(f, a)[1](cotangents)

    tangents, cotangent = jax.tree.map(double, run(everything, a, da, cotangents))
    tolerance = TOLERANCE[np.finfo(dtype).dtype.name]
    for tangent, difference in zip(tangents, expected(case, a.dtype.kind), strict=True):
        assert relative_error(tangent, difference) < tolerance
    forward, reverse = pairing(cotangents, tangents), pairing(cotangent, [da])
    pairs = zip(cotangents, tangents, strict=True)
    size = sum(np.linalg.norm(x) * np.linalg.norm(y) for x, y in pairs)
    assert abs(forward - reverse) < LIMIT * np.finfo(dtype).eps * size
