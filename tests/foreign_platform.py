"""Run on this CPU the programs that JAX lowers for other platforms.

XLA expands the TPU's `Qr` on every back end. cuSOLVER's custom calls take LAPACK's operands, so
jaxlib's LAPACK handlers can stand in for them; their names do not tell the dtype, hence one
process for each. As a script: ``python foreign_platform.py cuda float64 deep wide``.
"""

import functools
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import jaxqr
from matrices import orthogonality_ratio, residual_ratio, separated

QUICK = {"xla_backend_optimization_level": 0}  # compiling takes most of the time


def rotate(a):
    """Q^H A through the packed reflectors."""
    h, tau = jaxqr.qr(a, "raw")
    return jaxqr.householder_multiply(h.mT, tau, a, adjoint=True)


CASES = {
    "deep": ((2, 6, 3), jaxqr.qr),
    "square": ((4, 4), jaxqr.qr),
    "wide": ((2, 3, 5), jaxqr.qr),
    "complete": ((2, 5, 3), lambda a: jaxqr.qr(a, "complete")),
    "r": ((5, 3), lambda a: jaxqr.qr(a, "r")),
    "raw": ((5, 3), lambda a: jaxqr.qr(a, "raw")),
    "lq": ((2, 3, 5), jaxqr.lq),
    "pivoted": ((2, 6, 4), lambda a: jaxqr.qr(a, pivoting=True)),
    "rotate": ((2, 5, 3), rotate),
}
LIBRARIES = {"cuda": "cusolver", "rocm": "hipsolver"}
# names that export's list of stable custom calls lacks
UNLISTED = [
    *(f"lapack_{letter}geqp3_ffi" for letter in "sdcz"),
    *(f"lapack_{routine}_ffi" for routine in ("sormqr", "dormqr", "cunmqr", "zunmqr")),
    *(f"{library}_ormqr_ffi" for library in LIBRARIES.values()),
]
UNCHECKED = [
    export.DisabledSafetyCheck.platform(),
    *map(export.DisabledSafetyCheck.custom_call, UNLISTED),
]


def gradient(f):
    def loss(a):
        floating = (x for x in jax.tree.leaves(f(a)) if jnp.issubdtype(x.dtype, jnp.inexact))
        return sum(jnp.sum(jnp.sin(x)).real for x in floating)

    return jax.grad(loss)


def lowered_for(platforms, f, a, checks=UNCHECKED):
    return export.export(jax.jit(f), platforms=platforms, disabled_checks=checks)(a)


def targets(exported):
    """The custom calls of a module."""
    return set(re.findall(r"custom_call @([\w.]+)", exported.mlir_module()))


def difference(got, want):
    """The largest difference, in rounding units of the largest entry."""
    worst = 0.0
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        x, y = np.asarray(x), np.asarray(y)
        unit = np.finfo(x.dtype).eps * max(1, np.max(np.abs(y))) if x.dtype.kind in "fc" else 1
        worst = np.fmax(worst, np.max(np.abs(x - y)) / unit) if np.all(x == x) else np.inf
    return float(worst)


def value_and_gradient(case):
    f = CASES[case][1]
    return lambda a: (f(a), gradient(f)(a))


def run(f, *args):
    return jax.jit(f, compiler_options=QUICK)(*args)


@functools.cache
def on_cpu(case, dtype):
    """Value and gradient by the CPU's own program."""
    return run(value_and_gradient(case), separated(CASES[case][0], dtype))


def compare(platform, case, dtype):
    """Run a case's value and gradient as lowered for `platform`, next to the CPU's own."""
    a = separated(CASES[case][0], dtype)
    out, grad = run(lowered_for([platform], value_and_gradient(case), a).call, a)
    own_out, own_grad = on_cpu(case, dtype)
    report = {"value": difference(out, own_out), "gradient": difference(grad, own_grad)}
    if hasattr(out, "Q"):
        factors = (out.L, out.Q) if case == "lq" else (out.Q, out.R)
        factored = np.take_along_axis(a, out.P[..., None, :], -1) if case == "pivoted" else a
        report["residual"] = float(residual_ratio(factored, factors[0] @ factors[1]))
        columns = out.Q.mT.conj() if case == "lq" else out.Q
        report["orthogonality"] = float(orthogonality_ratio(columns))
    return report


def stand_in(platform, dtype):
    """Register LAPACK's handlers under the names of the platform's library."""
    from jaxlib.cpu import _lapack

    _lapack.initialize()
    handlers = _lapack.registrations()
    for routine in ("geqrf", "orgqr", "ormqr"):
        lapack = routine if dtype == "float64" else routine.replace("or", "un")
        handler = handlers[f"lapack_{'d' if dtype == 'float64' else 'z'}{lapack}_ffi"]
        jax.ffi.register_ffi_target(f"{LIBRARIES[platform]}_{routine}_ffi", handler, platform="cpu")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    platform, dtype, *cases = sys.argv[1:]
    stand_in(platform, dtype)
    print(json.dumps({case: compare(platform, case, dtype) for case in cases}))
