"""Link for an old glibc on a machine that has a newer one.

    LDFLAGS=$(python native/old_glibc.py FOLDER)

What a library needs of glibc is decided when it is linked: it asks for each symbol in the newest
version of the glibc that is there. This script writes stubs into FOLDER, libraries that have the
symbols of `VERSION` and no code, and prints the flag that makes a compiler link with them. What is
newer than `VERSION` is then an undefined symbol, and the build fails.

The stubs are those of Zig, from the package ziglang. Its compiler would do it alone, but it is
clang, and kernels for batches of small matrices are faster as g++ compiles them.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from toolchain import find_compiler, run

VERSION = "2.27"  # as old as jaxlib's wheels want it: on no older system is there a JAX
# Since 2.32 it tells libstdc++ whether a process has one thread and may do without atomic
# instructions. In our libraries it is there, and always says no.
NEWER = "char __libc_single_threaded = 0;"


def write_stubs(folder: Path) -> list[str]:
    """Write the stubs into `folder`; give the linker's flags.

    Raises:
        BuildError: without a compiler.
        subprocess.CalledProcessError: without the package ziglang.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _make_zig_write_them(folder)
    for path in folder.glob("*.so.*"):
        folder.joinpath(path.name.partition(".so.")[0] + ".so").symlink_to(path.name)
    newer = folder / "newer.cc"
    newer.write_text(f'extern "C" {NEWER}\n')
    options = ["-c", "-fPIC", "-fvisibility=hidden"]
    run([*find_compiler(), *options, str(newer), "-o", str(newer.with_suffix(".o"))])
    # what the linker finds for -lc may be a script
    libc = folder / "libc.so"
    libc.unlink()
    libc.write_text("GROUP(libc.so.6 newer.o AS_NEEDED(libld.so.2))\n")
    return [f"-L{folder.resolve()}"]


def _make_zig_write_them(folder: Path) -> None:
    """Zig writes stubs for what it links, and keeps them in its cache."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "empty.c")
        source.touch()
        target = f"{platform.machine()}-linux-gnu.{VERSION}"
        subprocess.run(
            [sys.executable, "-m", "ziglang", "cc", "-target", target, "-shared", str(source)],
            env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": scratch, "ZIG_LOCAL_CACHE_DIR": scratch},
            cwd=scratch,
            check=True,
        )
        (libc,) = Path(scratch).rglob("libc.so.6")
        for path in libc.parent.glob("*.so.*"):
            shutil.copy(path, folder)


if __name__ == "__main__":
    print(*write_stubs(Path(sys.argv[1])))
