"""What each CUDA kernel takes of a multiprocessor: its PTX assembled for a device that is not here.

Needs ``ptxas``, of the wheel nvidia-cuda-nvcc or on the PATH, and no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import jaxqr
from benchmarks.report import titled, write_lines

PTX = Path(jaxqr.__file__).parent / "_native" / "ptx"
RESULT = Path(__file__).parent / "results" / "registers.json"

# Where the wheels of CUDA 13 and 12 have their programs.
_WHEELS = ("nvidia.cu13", "nvidia.cuda_nvcc")

# Of an H100's multiprocessor: registers, how many of them a warp gets at once, the most warps and
# the most blocks; and the threads of a warp.
_REGISTERS, _REGISTER_UNIT, _WARPS, _BLOCKS, _WARP = 65536, 256, 64, 32, 32

_FUNCTION = re.compile(
    r"""
    Compiling\ entry\ function\ '(?P<kernel>\w+)'
    .*? Function\ properties\ for\ (?P=kernel)\n
    \s* (?P<stack>\d+)\ bytes\ stack\ frame,\ (?P<spill_stores>\d+)\ bytes\ spill\ stores,
    \ (?P<spill_loads>\d+)\ bytes\ spill\ loads
    .*? Used\ (?P<registers>\d+)\ registers (?P<rest>[^\n]*)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Usage:
    """What one kernel takes.

    Attributes:
      kernel: its name.
      threads: the largest block that it may be launched with; None where it does not say.
      registers: of a thread.
      spill_stores: bytes of a thread's registers written to memory, for want of registers.
      spill_loads: bytes of them read again.
      stack: bytes of memory that a thread has for itself, as for arrays with variable indices.
      shared: bytes of shared memory of fixed size in a block.
      ptx_bytes: size of the text that has the kernel.
      seconds: that ptxas took for the text.
    """

    kernel: str
    threads: int | None
    registers: int
    spill_stores: int
    spill_loads: int
    stack: int
    shared: int
    ptx_bytes: int
    seconds: float

    @property
    def warps(self) -> int | None:
        """How many warps a multiprocessor holds, as far as registers decide."""
        if self.threads is None:
            return None
        of_block = -(-self.threads // _WARP)
        of_warp = -(-self.registers * _WARP // _REGISTER_UNIT) * _REGISTER_UNIT
        blocks = min(_REGISTERS // of_warp, _WARPS) // of_block
        return min(blocks, _BLOCKS) * of_block

    @property
    def spills(self) -> bool:
        """Whether a thread keeps anything in memory."""
        return bool(self.spill_stores or self.spill_loads or self.stack)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``python -m benchmarks registers``; returns its exit status."""
    options = _options(arguments)
    files = [p for p in sorted(options.ptx.glob("*.ptx")) if re.search(options.kernels, p.stem)]
    if not files:
        print(f"No PTX in {options.ptx}", file=sys.stderr)
        return 2
    ptxas = find_ptxas()
    if ptxas is None:
        print("No ptxas: pip install nvidia-cuda-nvcc", file=sys.stderr)
        return 2
    usages, failed = [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for file, result in zip(
            files, pool.map(lambda file: _attempt(ptxas, file, options.arch), files), strict=True
        ):
            if isinstance(result, str):
                failed.append(f"{file.name}: {result}")
            else:
                usages += result
    head = {"arch": options.arch, "ptxas": _version(ptxas), "failed": failed}
    write_lines(options.json, head, [asdict(usage) for usage in usages])
    print(table(usages, options.arch), *failed, sep="\n")
    return int(bool(failed))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks registers", description=__doc__)
    add = parser.add_argument
    add("--ptx", type=Path, default=PTX, metavar="FOLDER", help="(%(default)s)")
    add("--kernels", default="", metavar="REGEX", help="matched within the name of the file")
    add("--arch", default="sm_90", help="the device's architecture (%(default)s, an H100)")
    add("--json", type=Path, default=RESULT, metavar="PATH", help="(%(default)s)")
    return parser.parse_args(arguments)


def find_ptxas() -> str | None:
    """Finds the assembler: that of a wheel, else the one on the PATH."""
    for wheel in _WHEELS:
        try:
            found = importlib.util.find_spec(wheel)
        except ModuleNotFoundError:
            continue
        for root in (found and found.submodule_search_locations) or ():
            if (program := Path(root, "bin", "ptxas")).exists():
                return str(program)
    return shutil.which("ptxas")


def assemble(ptxas: str, file: Path, arch: str) -> list[Usage]:
    """Assembles a file of PTX.

    Args:
      ptxas: the assembler.
      file: the PTX.
      arch: of the device, as ``"sm_90"``.

    Returns:
      What each of its kernels takes.

    Raises:
      RuntimeError: with what ptxas says, where it fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        command = [ptxas, f"-arch={arch}", "-v", str(file), "-o", str(Path(scratch, "cubin"))]
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - begin
    said = done.stdout + done.stderr  # which of the two depends on the release
    if done.returncode:
        raise RuntimeError("; ".join(re.findall(r"^.*(?:error|fatal).*$", said, re.MULTILINE)))
    usages = list(_usages(said, file.read_text(), seconds))
    if not usages:
        raise RuntimeError(f"ptxas tells of no kernel:\n{said}")
    return usages


def table(usages: Sequence[Usage], arch: str) -> str:
    """Formats the usages; a kernel that keeps anything in memory is marked."""
    memory = ["spill stores", "loads", "stack", "shared"]
    lines = [["kernel", "threads", "registers", "warps", *memory, "PTX kB", "ptxas s", ""]]
    for usage in usages:
        lines.append(
            [
                usage.kernel,
                str(usage.threads or "-"),
                str(usage.registers),
                str(usage.warps or "-"),
                str(usage.spill_stores),
                str(usage.spill_loads),
                str(usage.stack),
                str(usage.shared),
                f"{usage.ptx_bytes / 1e3:.0f}",
                f"{usage.seconds:.2f}",
                "!" if usage.spills else "",
            ]
        )
    spilling = sum(usage.spills for usage in usages)
    below = f"{len(usages)} kernels, {spilling} keep something in memory (!)"
    return titled(f"Registers and bytes of the kernels for {arch}", lines, below)


def _attempt(ptxas: str, file: Path, arch: str) -> list[Usage] | str:
    try:
        return assemble(ptxas, file, arch)
    except RuntimeError as error:
        return str(error)


def _usages(said: str, ptx: str, seconds: float) -> Iterator[Usage]:
    for found in _FUNCTION.finditer(said):
        kernel = found["kernel"]
        shared = re.search(r"(\d+) bytes smem", found["rest"])
        bounds = re.search(rf"\.entry {kernel}\(.*?\n\)\n\.maxntid (\d+)", ptx, re.DOTALL)
        yield Usage(
            kernel,
            int(bounds[1]) if bounds else None,
            int(found["registers"]),
            int(found["spill_stores"]),
            int(found["spill_loads"]),
            int(found["stack"]),
            int(shared[1]) if shared else 0,
            len(ptx.encode()),
            round(seconds, 3),
        )


def _version(ptxas: str) -> str:
    said = subprocess.run([ptxas, "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release [\d.]+, V([\d.]+)", said)
    return release[1] if release else "unknown"
