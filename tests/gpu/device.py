"""The device under test, which is JAX's default, and the CPU next to it, which judges."""

import jax
import pytest

from laws import QUICK, mostly_nightly
from matrices import double

PLATFORM = jax.default_backend()
DEVICE, JUDGE = jax.devices()[0], jax.devices("cpu")[0]
# TPUs have no double precision
DTYPES = ("float32", "complex64") + (() if PLATFORM == "tpu" else ("float64", "complex128"))
# On the CPU these tests only show that they would run elsewhere: two dtypes are enough by day
every_dtype = pytest.mark.parametrize(
    "dtype", mostly_nightly(zip(DTYPES, strict=True), 3 if PLATFORM == "cpu" else 1)
)
# the custom calls that a program may make before it is compiled, by the beginning of their names
OWN_CALLS = {
    "cpu": ("jaxqr_", "lapack_"),
    "gpu": ("cusolver_", "hipsolver_", "jaxqr_launch"),
    "tpu": ("Qr", "ProductOfElementaryHouseholderReflectors"),
}[PLATFORM]


def compiled(f, *args):
    """`f` compiled for the device, and the arguments there."""
    args = jax.device_put(args, DEVICE)
    options = QUICK if PLATFORM == "cpu" else {}  # of a device's own compiler all stays on
    return jax.jit(f).lower(*args).compile(options), args


def run(f, *args):
    """On the device."""
    program, args = compiled(f, *args)
    return program(*args)


def judged(f, *args):
    """On the CPU, in double precision."""
    args = jax.device_put(tuple(map(double, args)), JUDGE)
    return jax.jit(f, compiler_options=QUICK)(*args)
