"""Build the native kernels: as a hook of hatchling, or by ``python hatch_build.py`` in place.

One shared library for each instruction set, as the width of the kernels' vectors follows it. The
package chooses when it loads them. Where there is no C++ compiler the wheel is pure and the
package computes with jaxlib's LAPACK. The environment variable JAXQR_NATIVE decides otherwise:
"0" builds nothing, "require" fails where the kernels cannot be built. CXX names the compiler.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a script
    BuildHookInterface = object

ROOT = Path(__file__).parent
SOURCES = ROOT / "native"
TARGET = ROOT / "jaxqr" / "_native"

# No -ffast-math: it would flush denormal numbers in the whole process, and lose NaNs.
FLAGS = [
    *("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-DNDEBUG"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wall", "-Wextra"),
    *("-ffunction-sections", "-fdata-sections"),  # what nothing refers to is left out
]
# The libraries, by the names that the package loads them under; the first runs everywhere. The
# levels are those of the x86-64 ABI: native/instruction_set.cc asks the processor for all of them.
INSTRUCTION_SETS = {
    "x86_64": {
        "baseline": ["-march=x86-64-v2", "-mtune=generic"],  # jaxlib itself needs more
        "avx2": ["-march=x86-64-v3", "-mtune=generic"],
        "avx512": ["-march=x86-64-v4", "-mtune=generic", "-mprefer-vector-width=512"],
    },
    "other": {"baseline": []},
}


class BuildError(Exception):
    """Why there are no native kernels."""


class NativeHook(BuildHookInterface):
    """Adds the libraries to wheels and editable installations."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build; on failure leave the wheel pure, unless the kernels are required."""
        wanted = os.environ.get("JAXQR_NATIVE", "")
        if self.target_name != "wheel" or wanted == "0":
            return
        try:
            libraries = build()
        except BuildError as error:
            if wanted == "require":
                raise
            self.app.display_warning(f"jaxqr: no native kernels, the wheel is pure: {error}")
            return
        build_data["pure_python"] = False
        system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{system}"
        build_data["artifacts"] += [f"/{path.relative_to(ROOT).as_posix()}" for path in libraries]


def build(
    target: Path = TARGET,
    *,
    flags: tuple[str, ...] = (),
    sources: tuple[Path, ...] = (),
    only: str | None = None,
) -> list[Path]:
    """Compile all libraries into `target`.

    Args:
        target: the folder of the libraries.
        flags: more flags for compiler and linker, as of sanitizers.
        sources: more files to compile.
        only: the one instruction set to build for.

    Returns:
        The libraries' paths.

    Raises:
        BuildError: without a compiler, without jaxlib's headers, or where compilation fails.
    """
    compiler = _compiler()
    machine = platform.machine().lower()
    sets = INSTRUCTION_SETS["x86_64" if machine in ("x86_64", "amd64") else "other"]
    sets = {name: options for name, options in sets.items() if only in (None, name)}
    include = [f"-I{SOURCES}", "-isystem", _headers()]
    # the longest first: they are compiled side by side
    files = sorted([*SOURCES.glob("*.cc"), *sources], key=lambda path: -path.stat().st_size)
    link = _runtime(compiler)
    if platform.system() == "Linux" and not flags:
        # The C++ runtime inside is ours alone: no symbol of it may meet that of another library.
        exports = f"-Wl,--version-script={SOURCES / 'exports.map'}"
        link += ["-s", "-Wl,-z,defs", "-Wl,--gc-sections", "-Wl,--exclude-libs,ALL", exports]
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:

        def compile_one(name: str, source: Path) -> str:
            object_file = f"{scratch}/{name}-{source.stem}.o"
            options = [*FLAGS, *sets[name], *flags, *include]
            _run([*compiler, *options, "-c", str(source), "-o", object_file])
            return object_file

        jobs = {name: [pool.submit(compile_one, name, source) for source in files] for name in sets}
        libraries = []
        for name, futures in jobs.items():
            objects = [future.result() for future in futures]
            library = target / f"libjaxqr-{name}.so"
            # built aside and moved: a running process keeps the library that it has loaded
            made = f"{scratch}/{library.name}"
            _run([*compiler, "-shared", *link, *flags, *objects, "-o", made])
            beside = library.with_suffix(".new")
            shutil.copy(made, beside)
            beside.replace(library)
            libraries.append(library)
    return libraries


def _compiler() -> list[str]:
    named = os.environ.get("CXX")
    candidates = [shlex.split(named)] if named else [["g++"], ["clang++"], ["c++"]]
    for command in candidates:
        if shutil.which(command[0]):
            return command
    raise BuildError(f"no C++ compiler: tried {[' '.join(c) for c in candidates]}")


def _headers() -> str:
    try:
        import jaxlib
    except ImportError as error:
        raise BuildError("jaxlib, for the headers of XLA's FFI, is not installed") from error
    folder = Path(jaxlib.__file__).parent / "include"
    if not (folder / "xla/ffi/api/ffi.h").exists():
        raise BuildError(f"jaxlib has no headers of XLA's FFI in {folder}")
    return str(folder)


def _runtime(compiler: list[str]) -> list[str]:
    """Link the C++ runtime statically where that works: jaxlib brings one of its own."""
    static = ["-static-libstdc++", "-static-libgcc"]
    with tempfile.TemporaryDirectory() as scratch:
        probe = Path(scratch) / "probe.cc"
        probe.write_text("#include <string>\nstd::string f(int i) { return std::to_string(i); }\n")
        command = [*compiler, "-shared", "-fPIC", *static, str(probe), "-o", f"{scratch}/probe.so"]
        try:
            _run(command)
        except BuildError:
            return []
    return static


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{shlex.join(command)} failed:\n{done.stderr}")
    if done.stderr:
        print(done.stderr, file=sys.stderr)


if __name__ == "__main__":
    for path in build():
        print(path)
