"""Programs for CUDA, run on this CPU: kernels emulated, cuSOLVER's calls answered by LAPACK.

The package's launcher is registered under its own name for XLA's CPU, and finds the stand-in for
the driver. A process can do this once; kernels may be exchanged at any time.
"""

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from unittest import mock

import jax
from jax import export

from emulated_kernels import Built, Kernels
from jaxqr._core import primitive
from jaxqr._lowering import cuda

TARGET = cuda.TARGET


@functools.cache
def _launcher(path: str) -> ctypes.CDLL:
    library = ctypes.CDLL(path)
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(library.jaxqr_launch), platform="cpu")
    jax.ffi.register_ffi_target_as_batch_partitionable(TARGET)
    return library


class EmulatedGpu:
    """The launcher with the kernels of a build."""

    def __init__(self, built: Built):
        # the launcher of the first build stays: all are the same
        if not _registered:
            _registered.append(_launcher(str(built.launcher)))
        (self.launcher,) = _registered
        self.kernels = Kernels(built)
        self.use(built.driver, built.ptx)

    def use(self, driver: object, ptx: object) -> None:
        """Let the launcher use another driver, and other files; the driver has loaded none."""
        self.launcher.jaxqr_gpu_open_driver(str(driver).encode())
        self.launcher.jaxqr_gpu_set_folder(str(ptx).encode())

    def driver_version(self) -> int:
        return self.launcher.jaxqr_gpu_driver_version()


_registered: list[ctypes.CDLL] = []


@contextlib.contextmanager
def programs_for_cuda() -> Iterator[None]:
    """Lower for CUDA as on a machine with a GPU, also what is exported."""
    jax.clear_caches()
    with (
        mock.patch.object(cuda, "available", lambda: True),
        mock.patch.object(primitive, "is_for_export", lambda ctx: False),
    ):
        yield
    jax.clear_caches()


def for_cuda(f, *args, checks=()):
    """The program of `f` for CUDA, as a function that runs on this CPU, and its module."""
    with programs_for_cuda():
        exported = export.export(
            jax.jit(f),
            platforms=["cuda"],
            disabled_checks=[
                *checks,
                export.DisabledSafetyCheck.platform(),
                export.DisabledSafetyCheck.custom_call(TARGET),
            ],
        )(*args)
    return exported
