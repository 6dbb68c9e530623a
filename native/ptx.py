"""Compile the CUDA kernels: one PTX file for each of the package's list of instances.

The build loads this file, so it imports nothing but the standard library and its neighbours.
"""

import ctypes
import functools
import os
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nvrtc
from toolchain import hash_files

SOURCES = Path(__file__).parent
KERNELS = SOURCES / "gpu" / "kernels.cu"
INSTANCES = SOURCES.parent / "jaxqr" / "_lowering" / "cuda_instances.py"


def is_wanted() -> bool:
    """Say whether to compile: the environment says so, or there is a driver that would load it."""
    wanted = os.environ.get("JAXQR_GPU", "")
    if wanted:
        return wanted != "0"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def list_instances() -> list[Any]:
    """List what is to be compiled, as the package has it."""
    return _package()["list_instances"]()


@functools.cache
def _package() -> dict[str, Any]:
    """The package's module that has the list: it can be loaded without JAX."""
    return runpy.run_path(str(INSTANCES))


def describe_compiler() -> str:
    """Name the compiler, whose version the files depend on."""
    return nvrtc.find_compiler().name


def compile_if_changed(folder: Path) -> list[Path]:
    """Compile all instances into `folder`, unless they are there from these sources.

    Raises:
        nvrtc.PtxError: without a compiler, or where compilation fails.
    """
    files = [folder / f"{instance.name}.ptx" for instance in list_instances()]
    stamp = folder / "fingerprint"
    sources = [*sorted(KERNELS.parent.glob("*.cu*")), KERNELS.with_name("arguments.h"), INSTANCES]
    fingerprint = hash_files(describe_compiler(), sources)
    if not (stamp.exists() and stamp.read_text() == fingerprint and all(map(Path.exists, files))):
        stamp.unlink(missing_ok=True)
        compile_kernels(folder)
        stamp.write_text(fingerprint)
    return files


def compile_kernels(folder: Path) -> list[Path]:
    """Compile all instances into `folder`, and remove other files of this kind there.

    Raises:
        nvrtc.PtxError: without a compiler, or where compilation fails.
    """
    nvrtc.find_compiler()
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        files = list(pool.map(lambda instance: _compile(instance, folder), list_instances()))
    for path in folder.glob("*.ptx"):
        if path not in files:
            path.unlink()
    return files


def define_instances(instances: list[Any]) -> str:
    """Write what the macro JAXQR_INSTANCES of ``kernels.cu`` stands for."""
    alone = _package()["ONE_BLOCK"]

    def write(i: Any) -> str:
        threads = f"JAXQR_ONE_BLOCK({i.threads})" if i.name in alone else i.threads
        return f"JAXQR_INSTANCE({i.name}, {threads}, {i.template})"

    return " ".join(map(write, instances))


def _compile(instance: Any, folder: Path) -> Path:
    """Compile an instance in a process of its own: NVRTC compiles one at a time in a process."""
    macro = f"JAXQR_INSTANCES={define_instances([instance])}"
    command = [sys.executable, nvrtc.__file__, str(KERNELS), str(SOURCES), macro]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise nvrtc.PtxError(f"{instance.name}: {done.stderr}")
    path = folder / f"{instance.name}.ptx"
    path.write_text(done.stdout)
    return path


if __name__ == "__main__":
    for path in compile_kernels(Path(sys.argv[1])):
        print(path)
