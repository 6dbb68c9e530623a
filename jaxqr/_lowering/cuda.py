"""The package's own kernels for CUDA, where they were built and a driver is there.

One custom call launches all of them: it opens the driver, loads the PTX of the kernel that it is
told and launches it on the buffers that XLA gives it. The environment variable JAXQR_GPU is read
once: "0" leaves the kernels unused, "1" uses them although no driver is found here (for programs
that are compiled on one machine and run on another), "require" makes their absence an error,
anything else takes them where kernels and driver are.
"""

import ctypes
import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array, export

from jaxqr._lowering import cuda_choice, cuda_plans
from jaxqr._lowering.cuda_instances import MOST_COLUMNS
from jaxqr._lowering.cuda_plans import Launch
from jaxqr._lowering.custom_call import Result, call_target
from jaxqr._lowering.kernels import FOLDER

LIBRARY = FOLDER / "libjaxqr-cuda.so"
PTX = FOLDER / "ptx"
TARGET = "jaxqr_launch"


def available() -> bool:
    """Say whether the kernels are in use."""
    return not _why_unused()


def status() -> str:
    """Tell users whether the kernels are in use, or why they are not."""
    reason = _why_unused()
    return f"cuSOLVER ({reason})" if reason else "own kernels, and cuSOLVER for the largest shapes"


def compute(
    name: str,
    operands: Sequence[Array],
    results: Sequence[tuple[tuple[int, ...], np.dtype]],
    *,
    batch_ndim: int,
    **params: Any,
) -> list[Array] | None:
    """Call the kernel of the primitive `name`; give None where none serves the shape.

    Args:
        name: of the primitive.
        operands: as the primitive has them.
        results: the shape, batch included, and the dtype of each.
        batch_ndim: the number of batch dimensions.
        **params: the primitive's.
    """
    shapes = [x.shape[batch_ndim:] for x in operands]
    if not available() or not all(map(_is_known, shapes)):
        return None
    plan = cuda_choice.plan(name, shapes, str(operands[0].dtype), **params)
    return None if plan is None else launch(plan, operands, results, batch_ndim=batch_ndim)


def launch(
    plan: Launch,
    operands: Sequence[Array],
    results: Sequence[tuple[tuple[int, ...], np.dtype]],
    *,
    batch_ndim: int,
    aliases: dict[int, int] | None = None,
) -> list[Array]:
    """Launch a kernel; results may overwrite operands, as {operand: result}."""
    return call_target(
        TARGET,
        operands,
        [Result(*result) for result in results],
        batch_ndim=batch_ndim,
        aliases=aliases,
        row_major=True,
        attributes={**plan._asdict(), "batch_dimensions": batch_ndim},
    )


def limit_rows(n: int, dtype: np.dtype) -> int:
    """Find the most rows of a matrix with n columns that a kernel factors as a whole."""
    return cuda_plans.limit_rows(n, str(dtype))


def serves_panel(m: int, dtype: np.dtype) -> bool:
    """Say whether a kernel factors a panel of `m` rows."""
    return available() and m <= limit_rows(MOST_COLUMNS, dtype)


def _is_known(shape: tuple[int, ...]) -> bool:
    """Say whether all sizes are numbers, and none of them zero."""
    return not any(export.is_symbolic_dim(size) or size == 0 for size in shape)


# ---------------------------------------------------------------------------- what is there


@functools.cache
def _why_unused() -> str:
    """Tell why the kernels are not in use; nothing where they are."""
    wanted = os.environ.get("JAXQR_GPU", "")
    reason = "JAXQR_GPU=0" if wanted == "0" else REGISTERED or _why_missing(wanted)
    if reason and wanted == "require":
        raise ImportError(f"jaxqr: JAXQR_GPU=require, but {reason}")
    return reason


def _why_missing(wanted: str) -> str:
    files = list(PTX.glob("*.ptx"))
    if not files:
        return "no kernels were built"
    if wanted == "1":
        return ""
    version, needed = _library().jaxqr_gpu_driver_version(), _find_needed_driver(files[0])
    if not version:
        return "no CUDA driver"
    if version < needed:
        return f"the CUDA driver is of version {version}, the kernels need {needed}"
    return ""


def _find_needed_driver(file: Path) -> int:
    """Find the oldest driver that loads a file, by the version of CUDA that drivers tell.

    PTX 8.2 is that of CUDA 12.2, and so on.
    """
    found = re.search(r"^\.version (\d+)\.(\d+)", file.read_text(), re.MULTILINE)
    assert found is not None, f"{file} has no version"
    return 1000 * (int(found[1]) + 4) + 10 * int(found[2])


def _register() -> str:
    """Register the call; tell why it cannot be, or nothing.

    On import, as a program that was compiled elsewhere may be loaded without a lowering here.
    """
    try:
        library = _library()
        library.jaxqr_gpu_set_folder(str(PTX).encode())
        handler = jax.ffi.pycapsule(library.jaxqr_launch)
        jax.ffi.register_ffi_target(TARGET, handler, platform="CUDA")
        jax.ffi.register_ffi_target_as_batch_partitionable(TARGET)
    except (OSError, AttributeError, RuntimeError) as error:
        return str(error).replace(f"{FOLDER}/", "")
    return ""


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(LIBRARY))


REGISTERED = _register()
if os.environ.get("JAXQR_GPU", "") == "require":
    _why_unused()  # fails here rather than in the middle of a program
