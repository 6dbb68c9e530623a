"""Packed Householder reflectors as primitives: factor, form Q, apply Q.

A factorization in LAPACK's packed form is a matrix `h` that holds R in its upper triangle and
the vectors v_i below it, and their factors `tau`: Q = H_1 ... H_k with H_i = I - tau_i v_i v_i^H.
The names are LAPACK's. These are the primitives that depend on the platform.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.core import min_dim

from jaxqr._core.abstract import CoreResult
from jaxqr._core.partition import Shape
from jaxqr._core.primitive import make_primitive
from jaxqr._lowering import kernels, portable
from jaxqr._lowering.blocked import BLOCKED
from jaxqr._lowering.lapack import CUSOLVER, HIPSOLVER, LAPACK
from jaxqr._lowering.xla_qr import XLA

# What computes each routine on a platform. Where a platform is not named, `portable` does.
PROVIDERS: dict[str, dict[str, Any]] = {
    "geqrf": {"cpu": LAPACK, "cuda": BLOCKED, "rocm": HIPSOLVER, "tpu": XLA},
    "geqp3": {"cpu": LAPACK, "cuda": BLOCKED},
    "orgqr": {"cpu": LAPACK, "cuda": BLOCKED, "rocm": HIPSOLVER, "tpu": XLA},
    "ormqr": {"cpu": LAPACK, "cuda": BLOCKED, "rocm": HIPSOLVER},
}


def _platforms(routine: str) -> dict[str, Any]:
    """Collect the providers' functions of this name."""
    return {name: getattr(provider, routine) for name, provider in PROVIDERS[routine].items()}


# ------------------------------------------------------------------------------ shape rules


def _geqrf_results(a: Shape) -> list[CoreResult]:
    return [(a, None), ((min_dim(*a),), None)]


def _geqp3_results(a: Shape) -> list[CoreResult]:
    return [(a, None), ((min_dim(*a),), None), ((a[1],), jnp.int32)]


def _orgqr_results(h: Shape, tau: Shape) -> list[CoreResult]:
    return [(h, None)]


def _ormqr_results(
    h: Shape, tau: Shape, c: Shape, *, left: bool, adjoint: bool
) -> list[CoreResult]:
    return [(c, None)]


# -------------------------------------------------------------------------------- transpose


def _ormqr_transpose(
    cotangents: Sequence[Array],
    fixed: Sequence[Array],
    wanted: Sequence[bool],
    *,
    left: bool,
    adjoint: bool,
) -> list[Array]:
    del wanted  # the cotangent of C, which is the only one
    # JAX pairs cotangents without conjugation (0.5), so the plain transpose is the conjugated
    # adjoint.
    (out,) = ormqr_p.bind(*fixed, cotangents[0].conj(), left=left, adjoint=not adjoint)
    return [out.conj()]


# ----------------------------------------------------------------------------- registration

# On the CPU qr_primitive has kernels for whole factorizations, so these two are for other
# platforms, and for a CPU without kernels.
geqrf_p = make_primitive(
    "geqrf",
    core_ranks=(2,),
    results=_geqrf_results,
    body=portable.geqrf,
    platforms=_platforms("geqrf"),
    exported={"cuda": CUSOLVER.geqrf},  # it may run where the package's own kernels are not
)
# A loop on a GPU that asks whether it goes on makes its host wait.
_geqp3_of_gpus = partial(portable.geqp3, ask=False)
geqp3_p = make_primitive(
    "geqp3",
    core_ranks=(2,),
    results=_geqp3_results,
    body=portable.geqp3,
    platforms={"rocm": _geqp3_of_gpus, **_platforms("geqp3")},
    # Whoever exports a program must name its calls, so this is one call of the matrix's dtype.
    exported={"cpu": LAPACK.geqp3_of_even_columns, "cuda": _geqp3_of_gpus},
)
# It is linear in no operand, so its whole derivative is that of the body.
orgqr_p = make_primitive(
    "orgqr",
    core_ranks=(2, 1),
    results=_orgqr_results,
    body=portable.orgqr,
    linear_from=2,
    kernels={"cpu": kernels.compute},
    platforms=_platforms("orgqr"),
    exported={"cuda": CUSOLVER.orgqr},
)
ormqr_p = make_primitive(
    "ormqr",
    core_ranks=(2, 1, 2),
    results=_ormqr_results,
    body=portable.ormqr,
    linear_from=2,
    transpose=_ormqr_transpose,
    kernels={"cpu": kernels.compute},
    platforms=_platforms("ormqr"),
    exported={"cuda": CUSOLVER.ormqr},
)
