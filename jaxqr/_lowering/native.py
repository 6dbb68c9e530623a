"""The package's own kernels for the CPU, where they were built.

They compute whole primitives, not LAPACK's routines one by one, on the row-major data that XLA
has. The environment variable JAXQR_NATIVE is read once: "0" leaves the kernels unused, "require"
makes their absence an error, anything else takes them where they are.
"""

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxqr._lowering.call import Result, call

FOLDER = Path(__file__).parent.parent / "_native"
# The builds, in the order of what jaxqr_instruction_set returns.
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
TARGETS = ("jaxqr_qr", "jaxqr_orgqr", "jaxqr_ormqr", "jaxqr_qr_jvp", "jaxqr_qr_vjp")

Body = Callable[..., list[Array]]


def available() -> bool:
    """Whether the kernels are in use."""
    return _load()[0] is not None


def status() -> str:
    """For users: which kernels are in use, or why none are."""
    name, reason = _load()
    return f"own kernels, {name}" if name else f"jaxlib's LAPACK ({reason})"


def computes(
    target: str, results: Callable[..., Any], ranks: tuple[int, ...], otherwise: Body
) -> Body:
    """Let the kernel `target` compute a primitive, and `otherwise` where there are no kernels.

    Args:
        target: the registered name.
        results: the primitive's shape rule.
        ranks: of the operands' matrices or vectors, as for the primitive.
        otherwise: the lowering without kernels.
    """

    def body(*operands: Array, **params: Any) -> list[Array]:
        if not available():
            return otherwise(*operands, **params)
        batch_ndim = operands[0].ndim - ranks[0]
        batch = operands[0].shape[:batch_ndim]
        cores = results(*(x.shape[batch_ndim:] for x in operands), **params)
        dtype = operands[0].dtype
        dtypes = {None: dtype, "real": jnp.finfo(dtype).dtype}
        return call(
            target,
            operands,
            [Result((*batch, *shape), dtypes.get(kind, kind)) for shape, kind in cores],
            batch_ndim=batch_ndim,
            row_major=True,
            **{k: ",".join(v) if isinstance(v, tuple) else v for k, v in params.items()},
        )

    return body


@functools.cache
def _load() -> tuple[str | None, str]:
    """Load the build for this processor and register its calls: its name, or why there is none."""
    wanted = os.environ.get("JAXQR_NATIVE", "")
    if wanted == "0":
        return None, "JAXQR_NATIVE=0"
    try:
        name = _choose()
        library = ctypes.CDLL(str(_path(name)))
        library.jaxqr_set_routines(_routines())
        for target in TARGETS:
            handler = jax.ffi.pycapsule(getattr(library, target))
            jax.ffi.register_ffi_target(target, handler, platform="cpu")
    except (OSError, AttributeError, KeyError, RuntimeError) as error:
        if wanted == "require":
            raise ImportError(f"jaxqr: JAXQR_NATIVE=require, but {error}") from error
        return None, str(error)
    return name, ""


def _path(name: str) -> Path:
    path = FOLDER / f"libjaxqr-{name}.so"
    if not path.exists():
        raise OSError(f"{path.name} was not built")
    return path


def _choose() -> str:
    """The name of the best build for this processor; the baseline build knows the processor."""
    best = ctypes.CDLL(str(_path(INSTRUCTION_SETS[0]))).jaxqr_instruction_set()
    wanted = os.environ.get("JAXQR_INSTRUCTION_SET", INSTRUCTION_SETS[best])
    if wanted not in INSTRUCTION_SETS[: best + 1]:
        raise OSError(f"JAXQR_INSTRUCTION_SET={wanted} is none of {INSTRUCTION_SETS[: best + 1]}")
    return wanted


def _routines() -> ctypes.Array:
    """Addresses of SciPy's BLAS and LAPACK, in the order that the library takes them."""
    from scipy.linalg import cython_blas, cython_lapack  # slow: hence here and not on import

    table = {**cython_blas.__pyx_capi__, **cython_lapack.__pyx_capi__}
    name_of, pointer_of = (
        ctypes.pythonapi.PyCapsule_GetName,
        ctypes.pythonapi.PyCapsule_GetPointer,
    )
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    names = [
        f"{letter}{routine}"
        for letter in "sdcz"
        for routine in ("gemm", "trsm", "geqrf", "orgqr" if letter in "sd" else "ungqr", "geqp3")
    ]
    addresses = [pointer_of(table[name], name_of(table[name])) for name in names]
    return (ctypes.c_void_p * len(addresses))(*addresses)


if os.environ.get("JAXQR_NATIVE", "") == "require":
    _load()  # fails here rather than in the middle of a program
