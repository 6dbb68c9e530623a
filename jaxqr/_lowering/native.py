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

from jaxqr._lowering import routines
from jaxqr._lowering.call import Result, call

FOLDER = Path(__file__).parent.parent / "_native"
# The builds, in the order of what jaxqr_instruction_set returns.
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
TARGETS = (
    *("jaxqr_qr", "jaxqr_orgqr", "jaxqr_ormqr", "jaxqr_qr_jvp", "jaxqr_qr_vjp"),
    *("jaxqr_cod", "jaxqr_pseudoinverse", "jaxqr_lstsq"),
)


def available() -> bool:
    """Whether the kernels are in use."""
    return _load()[0] is not None


def status() -> str:
    """For users: which kernels are in use, or why none are."""
    name, reason = _load()
    return f"own kernels, {name}" if name else f"jaxlib's LAPACK ({reason})"


def compute(
    target: str,
    operands: Sequence[Array],
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[np.dtype],
    *,
    batch_ndim: int,
    **params: Any,
) -> list[Array]:
    """Call the kernel `target`: results of these shapes and dtypes, a primitive's parameters.

    Tuples of names are passed as one string; an `rcond` that is None is a negative one.
    """
    attributes: dict[str, Any] = {
        name: ",".join(value) if isinstance(value, tuple) else -1.0 if value is None else value
        for name, value in params.items()
    }
    results = [Result(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    return call(target, operands, results, batch_ndim=batch_ndim, row_major=True, **attributes)


@functools.cache
def _load() -> tuple[str | None, str]:
    """Give the kernels SciPy's routines: the name of the build, or why there is none in use."""
    name, reason = REGISTERED
    try:
        if name is not None:
            _library(name).jaxqr_set_routines(routines.addresses())
    except (ImportError, KeyError) as error:
        if os.environ.get("JAXQR_NATIVE", "") == "require":
            raise ImportError(f"jaxqr: JAXQR_NATIVE=require, but {error}") from error
        return None, str(error)
    return name, reason


def _register() -> tuple[str | None, str]:
    """Register the calls of the build for this processor: its name, or why there is none.

    On import, as a program that was compiled elsewhere may be loaded without a lowering here.
    """
    wanted = os.environ.get("JAXQR_NATIVE", "")
    if wanted == "0":
        return None, "JAXQR_NATIVE=0"
    try:
        name = _choose()
        library = _library(name)
        library.jaxqr_set_routines(routines.stand_ins(library.jaxqr_set_routines))
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
