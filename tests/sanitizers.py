"""Build the kernels with driver.cc under sanitizers and run random cases: run as a script.

    python sanitizers.py {address|thread} {16|32|64} CASES SECONDS

The number is that of a vector's bytes. Where the processor has no such vectors, the baseline build
is told to have them, and the compiler splits them: every kernel can be seen on every machine.
"address" is the address and the undefined-behaviour sanitizer. "thread" runs several cases at once,
as calling threads do, each on a pool of its own.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
WIDTHS = {
    16: "baseline",
    32: "avx2",
    64: "avx512",
}  # bytes of a vector, and the build that has them

FLAGS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread",),
}
RUNTIMES = {"address": "libasan.so", "thread": "libtsan.so"}
CALLERS = {"address": 1, "thread": 3}


def sanitize(
    folder: Path, sanitizer: str, width: int, cases: int, seconds: float
) -> subprocess.CompletedProcess:
    """Build in `folder` and run; standard error is in standard output."""
    library = _build(folder, sanitizer, width)
    script = ROOT / "tests" / "native" / "random_cases.py"
    return run_under(
        sanitizer, script, library, cases, seconds, CALLERS[sanitizer], timeout=2 * seconds
    )


def run_under(
    sanitizer: str, script: Path, *arguments: object, timeout: float
) -> subprocess.CompletedProcess:
    """Run a Python script that loads what was built with a sanitizer."""
    environment = {
        **os.environ,
        # the C++ library, too: in C programs the sanitizers do not find how to throw
        "LD_PRELOAD": f"{_find(RUNTIMES[sanitizer])}:{_find('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "TSAN_OPTIONS": "halt_on_error=1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, script, *arguments]
    if sanitizer == "thread" and shutil.which("setarch"):  # it needs fixed addresses
        command = ["setarch", platform.machine(), "-R", *command]
    return subprocess.run(
        list(map(str, command)),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


def _find(library: str) -> str:
    command = [COMPILER, f"-print-file-name={library}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _hatch_build() -> ModuleType:
    sys.path.insert(0, str(ROOT))
    try:
        import hatch_build
    finally:
        sys.path.remove(str(ROOT))
    return hatch_build


def own_width() -> int:
    """Bytes of the vectors that this processor has."""
    best = _hatch_build().best_instruction_set()
    return next(width for width, name in WIDTHS.items() if name == best)


def _build(folder: Path, sanitizer: str, width: int) -> Path:
    flags = ["-O1", "-g1", *FLAGS[sanitizer]]
    # what is meant for large matrices, on small ones
    flags += ["-DJAXQR_LEAST_RANDOMIZED=1", "-DJAXQR_CHUNK_BYTES=512"]
    name = WIDTHS[width]
    if width > own_width():
        # psABI: how such vectors are passed has changed once, which matters between libraries
        flags += [f"-DJAXQR_VECTOR_BYTES={width}", "-Wno-psabi"]
        name = "baseline"
    driver = ROOT / "tests" / "native" / "driver.cc"
    (library,) = _hatch_build().build(folder, flags=tuple(flags), sources=(driver,), only=name)
    return library


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        done = sanitize(Path(scratch), sys.argv[1], *map(int, sys.argv[2:5]))
    print(done.stdout[-10000:])
    sys.exit(done.returncode)
