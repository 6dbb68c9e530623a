"""CUDA kernels built for this CPU, and called on NumPy's arrays. JAX is not imported.

`build` makes two libraries: the kernels behind a stand-in for NVIDIA's driver, and the package's
launcher, for XLA's CPU. What was built before from the same files is taken from `CACHE`.
"""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
NATIVE = ROOT / "native"
EMULATION = ROOT / "tests" / "native" / "gpu"
KERNELS = NATIVE / "gpu" / "kernels.cu"
EXAMPLES = EMULATION / "examples.cu"
CACHE = ROOT / "build" / "emulated"

FLAGS = ("-std=c++17", "-Og", "-g1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
# Those of a device contract as well; unknown pragmas are for its compiler.
KERNEL_FLAGS = ("-fno-math-errno", "-ffp-contract=fast", "-Wno-unknown-pragmas")
MOST_BLOCKS = 50  # of one launch, so that batches of tests need several
FILES = 4  # to compile: in each of them all headers are read, and what its instances share is made


class Built(NamedTuple):
    """Where the libraries are, and a file for every kernel, in the place of its PTX."""

    driver: Path
    launcher: Path
    ptx: Path


def build(
    instances: Sequence[tuple[str, int, str]],
    kernels: Path = KERNELS,
    flags: Sequence[str] = (),
    folder: Path = CACHE,
) -> Built:
    """Build kernels for this CPU.

    Args:
        instances: name, largest block and template of each, as a device's compiler gets them.
        kernels: the file with the kernels.
        flags: more flags, as of sanitizers.
        folder: where a folder for this build is made, or found.
    """
    instances = [tuple(instance) for instance in instances]
    common = folder / _fingerprint(["launcher"])
    own = folder / _fingerprint([*instances, kernels, *flags])
    built = Built(own / "libdriver.so", common / "libjaxqr-cuda.so", own / "ptx")
    _make_once(common, lambda: _compile_launcher(built.launcher))
    _make_once(own, lambda: _compile_kernels(built, instances, kernels, flags))
    return built


def _make_once(folder: Path, make: Callable[[], None]) -> None:
    """Make what belongs into a folder, unless it is there. Other processes wait for it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            make()
            (folder / "done").touch()


def _compile_launcher(path: Path) -> None:
    macros = ["-DJAXQR_EMULATED", f"-DJAXQR_MOST_BLOCKS={MOST_BLOCKS}"]
    sources = map(str, sorted((NATIVE / "gpu").glob("*.cc")))
    headers = ["-isystem", _toolchain().find_headers()]
    _toolchain().link([*_command(), *macros], [*headers, *sources, "-ldl"], path)


def _compile_kernels(
    built: Built, instances: Sequence[tuple[str, int, str]], kernels: Path, flags: Sequence[str]
) -> None:
    tools, folder, together = _toolchain(), built.driver.parent, -(-len(instances) // FILES)
    command = [*_command(), *flags]

    def compile_some(first: int) -> str:
        """Compile some of the kernels, and give the object's path."""
        header, made = folder / f"instances{first}.h", folder / f"kernels{first}.o"
        lines = (f"JAXQR_INSTANCE({', '.join(map(str, i))})" for i in instances[first:][:together])
        header.write_text(f"#define JAXQR_INSTANCES {' '.join(lines)}\n")
        macros = [f'-DJAXQR_KERNELS="{kernels}"', "-include", str(header)]
        source = str(EMULATION / "kernels_on_cpu.cc")
        tools.run([*command, *macros, *KERNEL_FLAGS, "-c", source, "-o", str(made)])
        return str(made)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_some, range(0, len(instances), together)))
    driver = [str(EMULATION / "stand_in_driver.cc"), *objects]
    tools.link([*command, "-pthread"], driver, built.driver)
    built.ptx.mkdir(exist_ok=True)
    for name, *_ in instances:
        (built.ptx / f"{name}.ptx").write_text(f".visible .entry {name}()\n")
    for path in objects:
        os.unlink(path)


def _command() -> list[str]:
    return [*_toolchain().find_compiler(), *FLAGS, f"-I{NATIVE}", f"-I{EMULATION}"]


def _fingerprint(options: Sequence[object]) -> str:
    """A hash of all that decides what is built."""
    found = hashlib.sha256(repr(options).encode())
    files = [p for p in [*(NATIVE / "gpu").iterdir(), *EMULATION.iterdir()] if p.is_file()]
    headers = [NATIVE / "common" / "floating_point_mode.h", NATIVE / "ffi" / "buffers.h"]
    for path in [Path(__file__), *headers, *sorted(files)]:
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


@functools.cache
def _toolchain() -> ModuleType:
    sys.path.insert(0, str(NATIVE))
    try:
        import toolchain
    finally:
        sys.path.remove(str(NATIVE))
    return toolchain


# --------------------------------------------------------------------------------- kernels


class Arguments(ctypes.Structure):
    """What a kernel is given (``native/gpu/arguments.h``)."""

    _fields_ = (
        ("data", ctypes.c_void_p * 12),
        ("batch", ctypes.c_longlong),
        ("sizes", ctypes.c_int * 8),
    )


class Misuse(Exception):
    """A kernel did what is undefined on a device, or would not end there."""


class Kernels:
    """The kernels of a build, on NumPy's arrays, and the driver's stand-in."""

    def __init__(self, built: Built):
        self.built = built
        self.library = ctypes.CDLL(str(built.driver))
        self.library.stand_in_run.restype = ctypes.c_char_p
        self.library.stand_in_calls.restype = ctypes.c_long

    def run(
        self,
        kernel: str,
        arrays: dict[int, np.ndarray],
        sizes: Sequence[int],
        *,
        batch: int,
        threads: int,
        per_block: int = 1,
        blocks: int = 1,
        shared: int = 0,
        backwards: bool = False,
    ) -> None:
        """Run a kernel: operands and results lie in `arrays` by their slots.

        For `per_block` matrices there are so many `blocks`.

        Raises:
            Misuse: where the kernel or the launch is wrong.
        """
        arguments = Arguments(batch=batch)
        for slot, array in arrays.items():
            assert array.flags.c_contiguous
            arguments.data[slot] = array.ctypes.data
        arguments.sizes[: len(sizes)] = sizes
        blocks *= -(-batch // per_block)
        wrong = self.library.stand_in_run(
            kernel.encode(), blocks, threads, shared, ctypes.byref(arguments), int(backwards)
        )
        if wrong:
            raise Misuse(wrong.decode())

    @contextlib.contextmanager
    def counted(self, *functions: str) -> Iterator[list[int]]:
        """Count the calls of the driver's functions within; the list is filled at the end."""

        def count() -> np.ndarray:
            return np.array([self.library.stand_in_calls(f.encode()) for f in functions], int)

        before, calls = count(), []
        yield calls
        calls.extend(map(int, count() - before))

    @contextlib.contextmanager
    def failing(self, function: str, status: int) -> Iterator[None]:
        """Let a function of the driver fail."""
        self.library.stand_in_fail(function.encode(), status)
        try:
            yield
        finally:
            self.library.stand_in_fail(function.encode(), 0)

    @contextlib.contextmanager
    def backwards(self) -> Iterator[None]:
        """Let the threads of a block take turns backwards."""
        self.library.stand_in_set_order(1)
        try:
            yield
        finally:
            self.library.stand_in_set_order(0)

    @contextlib.contextmanager
    def context(self, number: int) -> Iterator[None]:
        """Let the stream be of another context than that of number 1."""
        self.library.stand_in_set_context(ctypes.c_long(number))
        try:
            yield
        finally:
            self.library.stand_in_set_context(ctypes.c_long(1))
