"""The C++ compiler: which it is, how it is called, how shared libraries are linked."""

import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

# No -ffast-math: it would flush denormal numbers in the whole process, and lose NaNs.
FLAGS = [
    *("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-DNDEBUG"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wall", "-Wextra"),
    *("-ffunction-sections", "-fdata-sections"),  # what nothing refers to is left out
]
EXPORTS = Path(__file__).with_name("exports.map")

if platform.system() == "Darwin":  # the oldest that jaxlib runs on; compilers read it
    os.environ.setdefault("MACOSX_DEPLOYMENT_TARGET", "11.0")


class BuildError(Exception):
    """Why there are no native kernels."""


def close_symbols() -> list[str]:
    """Give the linker's flags that keep all symbols inside but those that Python looks up."""
    if platform.system() == "Darwin":
        return ["-Wl,-exported_symbol,_jaxqr_*", "-Wl,-dead_strip", "-Wl,-x"]
    # The C++ runtime inside is ours alone: no symbol of it may meet that of another library.
    exports = f"-Wl,--version-script={EXPORTS}"
    return ["-s", "-Wl,-z,defs", "-Wl,--gc-sections", "-Wl,--exclude-libs,ALL", exports]


def platform_tag() -> str:
    """Name the platform of this build's libraries as the file names of wheels have it.

    On Linux it is one that PyPI refuses: which others a library runs on depends on the C library
    that it was linked with, so only ``auditwheel repair`` can tell, and gives the wheel its name.
    """
    if platform.system() == "Darwin":  # Python itself may be built for two processors
        major = os.environ["MACOSX_DEPLOYMENT_TARGET"].split(".")[0]
        return f"macosx_{major}_0_{platform.machine()}"  # names know no minor release from 11 on
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def link(compiler: list[str], arguments: list[str], library: Path) -> None:
    """Link aside and move into place: a running process keeps the library that it has loaded."""
    beside = library.with_suffix(f".{os.getpid()}.new")
    flags = shlex.split(os.environ.get("LDFLAGS", ""))
    try:
        run([*compiler, "-shared", *flags, *arguments, "-o", str(beside)])
        beside.replace(library)
    finally:
        beside.unlink(missing_ok=True)


def find_compiler() -> list[str]:
    """Give the command of the C++ compiler: what CXX says, or the first that there is."""
    if platform.system() == "Windows":
        raise BuildError("there are no kernels for Windows")
    named = os.environ.get("CXX")
    candidates = [shlex.split(named)] if named else [["g++"], ["clang++"], ["c++"]]
    for command in candidates:
        if shutil.which(command[0]):
            return command
    raise BuildError(f"no C++ compiler: tried {[' '.join(c) for c in candidates]}")


def find_headers() -> str:
    """Find the folder of jaxlib's headers, those of XLA's FFI among them."""
    found = importlib.util.find_spec("jaxlib")
    if found is None or not found.origin:
        raise BuildError("jaxlib, for the headers of XLA's FFI, is not installed")
    folder = Path(found.origin).parent / "include"
    if not (folder / "xla/ffi/api/ffi.h").exists():
        raise BuildError(f"jaxlib has no headers of XLA's FFI in {folder}")
    return str(folder)


@functools.cache
def choose_runtime(compiler: tuple[str, ...]) -> list[str]:
    """Link the C++ runtime statically where that works: jaxlib may load another one.

    Not so libgcc_s, which jaxlib needs as well and which unwinds the stack for all libraries. The C
    library had its threads in a file of their own before glibc 2.34.
    """
    if platform.system() == "Darwin":  # all of it is part of the system
        return []
    static = ["-static-libstdc++"]
    with tempfile.TemporaryDirectory() as scratch:
        probe = Path(scratch) / "probe.cc"
        probe.write_text("#include <string>\nstd::string f(int i) { return std::to_string(i); }\n")
        command = [*compiler, "-shared", "-fPIC", *static, str(probe), "-o", f"{scratch}/probe.so"]
        try:
            run(command)
        except BuildError:
            static = []
    return [*static, "-pthread"]


def run(command: list[str]) -> None:
    """Run a command; its warnings are printed, its failure is a BuildError."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{shlex.join(command)} failed:\n{done.stderr}")
    if done.stderr:
        print(done.stderr, file=sys.stderr)


def hash_files(text: str, files: list[Path]) -> str:
    """Make a hash of a text and of files, with their names: is what was made of them still new?"""
    found = hashlib.sha256(text.encode())
    for path in files:
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
