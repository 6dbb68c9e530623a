"""The package's own kernels for the CPU, where they were built.

They compute whole primitives, not LAPACK's routines one by one, on the row-major data that XLA
has. The environment variable JAXQR_NATIVE is read once: "0" leaves the kernels unused, "require"
makes their absence an error, anything else takes them where they are.
"""

import ctypes
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxqr._lowering import blas_addresses
from jaxqr._lowering.custom_call import Result, call_target

FOLDER = Path(__file__).parent.parent / "_native"
# The builds, in the order of what jaxqr_instruction_set returns.
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
TARGETS = (
    *("jaxqr_qr", "jaxqr_leading_qr", "jaxqr_orgqr", "jaxqr_ormqr", "jaxqr_qr_jvp", "jaxqr_qr_vjp"),
    *("jaxqr_cod", "jaxqr_pseudoinverse", "jaxqr_lstsq", "jaxqr_solve"),
)


def available() -> bool:
    """Say whether the kernels are in use."""
    return _load()[0] is not None


def status() -> str:
    """Tell users which kernels are in use, or why none are."""
    name, reason = _load()
    return f"own kernels, {name}" if name else f"jaxlib's LAPACK ({reason})"


def compute(
    name: str,
    operands: Sequence[Array],
    results: Sequence[tuple[tuple[int, ...], np.dtype]],
    *,
    batch_ndim: int,
    **params: Any,
) -> list[Array] | None:
    """Call the kernel of the primitive `name`; give None if no kernels are in use.

    Args:
        name: of the primitive.
        operands: as the primitive has them.
        results: the shape, batch included, and the dtype of each.
        batch_ndim: the number of batch dimensions.
        **params: the primitive's. Tuples of names are passed as one string; an `rcond` that is
            None as a negative one.
    """
    if not available():
        return None
    attributes: dict[str, Any] = {
        key: ",".join(value) if isinstance(value, tuple) else -1.0 if value is None else value
        for key, value in params.items()
    }
    return call_target(
        f"jaxqr_{name}",
        operands,
        [Result(*result) for result in results],
        batch_ndim=batch_ndim,
        row_major=True,
        attributes=attributes,
    )


@functools.cache
def _load() -> tuple[str | None, str]:
    """Give the kernels SciPy's routines; tell the build's name, or why there is none in use."""
    name, reason = REGISTERED
    try:
        if name is not None:
            _library(name).jaxqr_set_routines(blas_addresses.find_addresses())
    except (ImportError, KeyError) as error:
        if os.environ.get("JAXQR_NATIVE", "") == "require":
            raise ImportError(f"jaxqr: JAXQR_NATIVE=require, but {error}") from error
        return None, str(error)
    return name, reason


def _register() -> tuple[str | None, str]:
    """Register the calls of the build for this processor; tell its name, or why there is none.

    On import, as a program that was compiled elsewhere may be loaded without a lowering here.
    """
    wanted = os.environ.get("JAXQR_NATIVE", "")
    if wanted == "0":
        return None, "JAXQR_NATIVE=0"
    try:
        name = _choose()
        library = _library(name)
        library.jaxqr_set_routines(blas_addresses.make_stand_ins(library.jaxqr_set_routines))
        for target in TARGETS:
            handler = jax.ffi.pycapsule(getattr(library, target))
            jax.ffi.register_ffi_target(target, handler, platform="cpu")
            jax.ffi.register_ffi_target_as_batch_partitionable(target)
    except (OSError, AttributeError, RuntimeError) as error:
        if wanted == "require":
            raise ImportError(f"jaxqr: JAXQR_NATIVE=require, but {error}") from error
        return None, str(error).replace(f"{FOLDER}/", "")
    return name, ""


def _library(name: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(_path(name)))


def _path(name: str) -> Path:
    return FOLDER / f"libjaxqr-{name}.so"


def _choose() -> str:
    """The best build that is here and that this processor can run."""
    built = [name for name in INSTRUCTION_SETS if _path(name).exists()]
    if not built:
        raise OSError("no kernels were built")
    best = _library("processor").jaxqr_instruction_set()
    runnable = INSTRUCTION_SETS[: best + 1]
    wanted = os.environ.get("JAXQR_INSTRUCTION_SET")
    if wanted is None:
        usable = [name for name in built if name in runnable]
        if not usable:
            raise OSError(
                f"the kernels were built for {' and '.join(built)}, this processor runs "
                f"{' and '.join(runnable)}: install again on this machine, or with "
                "JAXQR_INSTRUCTION_SETS=all"
            )
        return usable[-1]
    if wanted not in runnable:
        raise OSError(f"JAXQR_INSTRUCTION_SET={wanted} is none of {runnable}")
    if wanted not in built:
        raise OSError(
            f"JAXQR_INSTRUCTION_SET={wanted} was not built: install again with "
            f"JAXQR_INSTRUCTION_SETS={wanted} or all"
        )
    return wanted


REGISTERED = _register()
if os.environ.get("JAXQR_NATIVE", "") == "require":
    _load()  # fails here rather than in the middle of a program
