"""Build the native kernels: as a hook of hatchling, or by ``python hatch_build.py`` in place.

One shared library for each instruction set, as the width of the kernels' vectors follows it, and a
tiny one that tells which of them the processor can run: the package asks it when it loads them. On
Linux also one that launches kernels on a GPU through NVIDIA's driver; it is built without CUDA.
Where there is no C++ compiler the wheel is pure and the package computes with jaxlib's LAPACK.
The kernels for that GPU are compiled to PTX where a driver is, or where JAXQR_GPU says so.

Environment variables:
    JAXQR_INSTRUCTION_SETS: what to build for. "native", the default, is the best instruction set of
        this machine's processor; "all" are those that a wheel for other machines should have; or
        names of INSTRUCTION_SETS, separated by commas.
    JAXQR_NATIVE: "0" builds nothing, "require" fails where the kernels cannot be built.
    JAXQR_GPU: "0" builds no kernels for GPUs, "1" builds them also where there is no driver,
        "require" fails where they cannot be built.
    CXX, LDFLAGS: the compiler, and flags for it when it links.
"""

import ctypes
import functools
import os
import platform
import re
import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "native"))
import ptx
from nvrtc import NoCompilerError, PtxError
from toolchain import (
    FLAGS,
    BuildError,
    choose_runtime,
    close_symbols,
    find_compiler,
    find_headers,
    hash_files,
    link,
    platform_tag,
    run,
)

sys.path.pop(0)

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a script
    BuildHookInterface = object

ROOT = Path(__file__).parent
SOURCES = ROOT / "native"
TARGET = ROOT / "jaxqr" / "_native"
PROCESSOR = SOURCES / "processor" / "instruction_set.cc"
PROCESSOR_LIBRARY = "libjaxqr-processor.so"
LAUNCHER = SOURCES / "gpu"
LAUNCHER_LIBRARY = "libjaxqr-cuda.so"
PTX = TARGET / "ptx"
# They write PTX that drivers load from 535 on, or from 545 on where the former does not exist.
CUDA_COMPILERS = {"x86_64": "nvidia-cuda-nvrtc-cu12==12.2.140"}
CUDA_COMPILER = CUDA_COMPILERS.get(platform.machine(), "nvidia-cuda-nvrtc-cu12==12.3.107")

# The libraries, by the names that the package loads them under, in the order of what
# native/processor/instruction_set.cc returns. The levels are those of the x86-64 ABI: it looks for
# all that a level means.
X86_64 = {
    "baseline": ["-march=x86-64-v2", "-mtune=generic"],  # jaxlib itself needs more
    "avx2": ["-march=x86-64-v3", "-mtune=generic"],
    "avx512": ["-march=x86-64-v4", "-mtune=generic", "-mprefer-vector-width=512"],
}
OTHER: dict[str, list[str]] = {"baseline": []}
INSTRUCTION_SETS = X86_64 if platform.machine().lower() in ("x86_64", "amd64") else OTHER


class NativeHook(BuildHookInterface):
    """Adds the libraries to wheels and editable installations."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What the build needs on this machine beside what is needed everywhere."""
        if os.environ.get("JAXQR_NATIVE") == "0" or not ptx.is_wanted():
            return []
        if os.environ.get("JAXQR_GPU") and platform.system() == "Linux":
            return [CUDA_COMPILER]  # the wheel may be for other machines, with older drivers
        try:
            ptx.describe_compiler()
        except NoCompilerError:
            return [CUDA_COMPILER]
        return []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build; on failure leave the wheel pure, unless the kernels are required."""
        wanted = os.environ.get("JAXQR_NATIVE", "")
        if self.target_name != "wheel":
            return
        if version == "standard":  # docstrings refer to it; an editable installation has the tree
            build_data["force_include"][str(ROOT / "notebooks" / "derivations.md")] = (
                "jaxqr/derivations.md"
            )
        if wanted == "0":
            return
        try:
            libraries = [*build_if_changed(), *self._build_ptx()]
        except BuildError as error:
            if wanted == "require":
                raise
            self.app.display_warning(f"jaxqr: no native kernels, the wheel is pure: {error}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag()}"
        build_data["artifacts"] += [f"/{path.relative_to(ROOT).as_posix()}" for path in libraries]

    def _build_ptx(self) -> list[Path]:
        try:
            return ptx.compile_if_changed(PTX) if ptx.is_wanted() else []
        except PtxError as error:
            if os.environ.get("JAXQR_GPU") == "require":
                raise
            self.app.display_warning(f"jaxqr: no kernels for GPUs: {error}")
            return []


def build_if_changed() -> list[Path]:
    """Build the libraries into the package, unless they are there from the same sources.

    Raises:
        BuildError: as of `build`.
    """
    sets = _wanted_sets()
    names = [f"libjaxqr-{name}.so" for name in sets]
    libraries = [TARGET / name for name in [PROCESSOR_LIBRARY, *_launcher_names(), *names]]
    stamp, fingerprint = TARGET / "fingerprint", _fingerprint(sets)
    if not (
        stamp.exists() and stamp.read_text() == fingerprint and all(map(Path.exists, libraries))
    ):
        stamp.unlink(missing_ok=True)
        build_processor()
        if _launcher_names():
            build_launcher()
        build()
        stamp.write_text(fingerprint)
    return libraries


def _fingerprint(sets: list[str]) -> str:
    """A hash of all that decides what the libraries are: sources, flags, compiler and headers."""
    compiler = find_compiler()
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=False).stdout
    headers = Path(find_headers(), "xla", "ffi", "api").glob("*.h")
    sources = (path for path in SOURCES.rglob("*.*") if path.suffix in (".cc", ".h", ".map", ".py"))
    files = [Path(__file__), *sorted(sources), *sorted(headers)]
    flags = os.environ.get("LDFLAGS", "")
    return hash_files(repr((sets, compiler, version, flags)), files)


def build(
    target: Path = TARGET,
    *,
    flags: tuple[str, ...] = (),
    sources: tuple[Path, ...] = (),
    only: str | None = None,
) -> list[Path]:
    """Compile the kernels into `target`; libraries of other instruction sets there are removed.

    Args:
        target: the folder of the libraries.
        flags: more flags for compiler and linker, as of sanitizers.
        sources: more files to compile.
        only: the one instruction set to build for, whatever the environment says; others stay.

    Returns:
        The libraries' paths.

    Raises:
        BuildError: without a compiler, without jaxlib's headers, or where compilation fails.
    """
    compiler = find_compiler()
    include = [f"-I{SOURCES}", "-isystem", find_headers()]
    sets = [only] if only else _wanted_sets()
    others = (PROCESSOR.parent, LAUNCHER)
    files = [path for path in SOURCES.rglob("*.cc") if path.parent not in others]
    # The longest first: they are compiled side by side, and none should be left at the end.
    files = sorted([*files, *sources], key=_weight, reverse=True)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:

        def compile_one(source: Path, options: list[str], folder: str) -> str:
            object_file = Path(scratch, folder, f"{source.parent.name}-{source.stem}.o")
            object_file.parent.mkdir(exist_ok=True)
            command = [*compiler, *options, *flags, *include, "-c", str(source)]
            run([*command, "-o", str(object_file)])
            return str(object_file)

        def compile_all(sources: list[Path], options: list[str], folder: str) -> list[Future[str]]:
            return [pool.submit(compile_one, source, options, folder) for source in sources]

        # Handlers compute nothing: all libraries have the same ones, which run everywhere. To
        # optimize their templates would take longer than it is worth.
        handlers = [file for file in files if _is_handler(file)]
        kernels = [file for file in files if not _is_handler(file)]
        everywhere = [*FLAGS, *INSTRUCTION_SETS["baseline"], "-Os"]
        shared = compile_all(handlers, everywhere, "shared")
        jobs = {n: compile_all(kernels, [*FLAGS, *INSTRUCTION_SETS[n]], n) for n in sets}
        common = [*choose_runtime(tuple(compiler)), *(() if flags else close_symbols())]
        libraries = []
        for name, futures in jobs.items():
            objects = [future.result() for future in [*futures, *shared]]
            library = target / f"libjaxqr-{name}.so"
            link(compiler, [*common, *flags, *objects], library)
            libraries.append(library)
    for path in () if only else target.glob("libjaxqr-*.so"):
        if path not in libraries and path.name not in (PROCESSOR_LIBRARY, LAUNCHER_LIBRARY):
            path.unlink()
    return libraries


def build_processor(target: Path = TARGET) -> Path:
    """Compile the library that tells the best instruction set of the processor, or BuildError."""
    target.mkdir(parents=True, exist_ok=True)
    library = target / PROCESSOR_LIBRARY
    compiler = find_compiler()
    options = ["-O2", "-fPIC", *choose_runtime(tuple(compiler)), *close_symbols()]
    link(compiler, [*options, str(PROCESSOR)], library)
    return library


def build_launcher(target: Path = TARGET, *, flags: tuple[str, ...] = ()) -> Path:
    """Compile the library that launches kernels on a GPU, with more flags as in `build`.

    Raises:
        BuildError: as of `build`.
    """
    target.mkdir(parents=True, exist_ok=True)
    library = target / LAUNCHER_LIBRARY
    compiler = find_compiler()
    libraries = [*choose_runtime(tuple(compiler)), *(() if flags else close_symbols()), "-ldl"]
    include = [f"-I{SOURCES}", "-isystem", find_headers()]
    sources = map(str, sorted(LAUNCHER.glob("*.cc")))
    link(compiler, [*FLAGS, "-Os", *flags, *include, *sources, *libraries], library)
    return library


def _launcher_names() -> list[str]:
    return [LAUNCHER_LIBRARY] if platform.system() == "Linux" else []


@functools.cache
def best_instruction_set() -> str:
    """The best instruction set of this machine's processor."""
    with tempfile.TemporaryDirectory() as scratch:
        level = ctypes.CDLL(str(build_processor(Path(scratch)))).jaxqr_instruction_set()
    return list(INSTRUCTION_SETS)[level]


def _wanted_sets() -> list[str]:
    """The instruction sets to build for, as the environment says."""
    wanted = os.environ.get("JAXQR_INSTRUCTION_SETS") or "native"
    if wanted == "all":
        return list(INSTRUCTION_SETS)
    if wanted == "native":
        return [best_instruction_set()]
    names = wanted.split(",")
    if unknown := set(names) - set(INSTRUCTION_SETS):
        raise BuildError(
            f"JAXQR_INSTRUCTION_SETS={wanted}: {', '.join(sorted(unknown))} is not one of "
            f"{', '.join(INSTRUCTION_SETS)}"
        )
    return names


def _is_handler(source: Path) -> bool:
    return source.parent == SOURCES / "ffi"


def _weight(source: Path) -> int:
    """About how long a file takes to compile: its size and that of our headers in it."""
    found, left = set(), [source]
    while left:
        path = left.pop()
        if path in found or not path.exists():
            continue
        found.add(path)
        left += [SOURCES / name for name in re.findall(r'^#include "(.+)"', path.read_text(), re.M)]
    return sum(path.stat().st_size for path in found)


if __name__ == "__main__":
    kernels = ptx.compile_if_changed(PTX) if ptx.is_wanted() else []
    for path in [*build_if_changed(), *kernels]:
        print(path)
