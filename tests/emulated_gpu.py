"""Programs for CUDA on this CPU: the kernels emulated, launched by the package's own launcher.

The launcher is registered under its own name for XLA's CPU, and finds the stand-in for the driver.
cuSOLVER's calls, if a program has them, are those of ``foreign_platform.stand_in``.
"""

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from jax import export

from emulated_kernels import Built, Kernels
from jaxqr._core import primitive
from jaxqr._lowering import cuda
from jaxqr._patch import tables


class EmulatedGpu:
    """The launcher, with the kernels of a build. Of several the last made is the one in use."""

    def __init__(self, built: Built):
        self.kernels = Kernels(built)
        self.launcher = _register(built.launcher)
        self.use(built.driver, built.ptx)

    def use(self, driver: Path | str, ptx: Path) -> None:
        """Let the launcher use this driver, which has loaded nothing yet, and these files."""
        self.launcher.jaxqr_gpu_open_driver(str(driver).encode())
        self.launcher.jaxqr_gpu_set_folder(str(ptx).encode())

    @contextlib.contextmanager
    def instead(self, driver: Path | str | None = None, ptx: Path | None = None) -> Iterator[None]:
        """Let the launcher use another driver or other files, for a while."""
        built = self.kernels.built
        self.use(driver or built.driver, ptx or built.ptx)
        try:
            yield
        finally:
            self.use(built.driver, built.ptx)


def _register(path: Path) -> ctypes.CDLL:
    """Register the launcher. XLA takes one for a process, and all builds have the same."""
    if not _registered:
        library = ctypes.CDLL(str(path))
        handler = jax.ffi.pycapsule(library.jaxqr_launch)
        jax.ffi.register_ffi_target(cuda.TARGET, handler, platform="cpu")
        jax.ffi.register_ffi_target_as_batch_partitionable(cuda.TARGET)
        _registered.append(library)
    return _registered[0]


_registered: list[ctypes.CDLL] = []


@contextlib.contextmanager
def lowered_as_on_a_gpu() -> Iterator[None]:
    """Lower for CUDA with the kernels in use, also what is exported."""
    jax.clear_caches()
    with (
        mock.patch.object(cuda, "available", lambda: True),
        mock.patch.object(primitive, "is_for_export", lambda ctx: False),
        mock.patch.object(tables, "is_for_export", lambda ctx: False),
    ):
        yield
    jax.clear_caches()


def program_for_cuda(
    f: Callable[..., Any], *args: Any, checks: Sequence[export.DisabledSafetyCheck] = ()
) -> export.Exported:
    """Make the program of `f` for CUDA, as on a machine with a GPU; its `call` runs on this CPU."""
    disabled = [
        *checks,
        export.DisabledSafetyCheck.platform(),
        export.DisabledSafetyCheck.custom_call(cuda.TARGET),
    ]
    make = functools.partial(export.export, platforms=["cuda"], disabled_checks=disabled)
    with lowered_as_on_a_gpu():
        return make(jax.jit(f))(*args)
