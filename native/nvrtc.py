"""Compile CUDA C++ to PTX without a GPU, a driver or an installed CUDA toolkit.

The build loads this file, so it imports nothing but the standard library. The compiler is NVRTC
from the wheel ``nvidia-cuda-nvrtc-cu12``, or that of a toolkit, or a toolkit's ``nvcc``. What a
driver can load depends on the version of the PTX, which is that of the compiler: 12.2 writes 8.2,
which drivers load from 535 on.

As a script: ``python native/nvrtc.py SOURCE INCLUDE [NAME=VALUE ...]`` writes the PTX to the
standard output. Before 12.3 NVRTC compiles one program at a time in a process, however many threads
ask for one: whoever has many to compile starts this script many times.
"""

import ctypes
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

WHEEL = "nvidia.cuda_nvrtc"  # as nvidia-cuda-nvrtc-cu12 installs it
OLDEST = 70  # Volta: the first with independent threads in a warp, which the kernels' shuffles take


class PtxError(Exception):
    """A source could not be compiled; the message has the compiler's log."""


class NoCompilerError(PtxError):
    """There is neither NVRTC nor nvcc."""


class Compiler(ABC):
    """A compiler of CUDA C++.

    Attributes:
        name: which one it is, with its version: the PTX depends on it.
        architectures: the numbers N of the virtual architectures ``compute_N`` that it knows.
    """

    name: str
    architectures: list[int]

    def oldest_architecture(self) -> str:
        """The architecture whose PTX runs on the most devices among those that the kernels serve.

        Releases drop old ones: CUDA 13 starts with ``compute_75``.
        """
        known = [number for number in self.architectures if number >= OLDEST]
        if not known:
            raise PtxError(f"{self.name} knows no architecture from compute_{OLDEST} on")
        return f"compute_{min(known)}"

    @abstractmethod
    def compile(self, program: str, options: Sequence[str]) -> str:
        """Compile the text of a program.

        Args:
            program: CUDA C++.
            options: those that NVRTC and nvcc share.

        Returns:
            The PTX.

        Raises:
            PtxError: with the log, where compilation fails.
        """


def compile_ptx(
    source: Path,
    include: Path,
    defines: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    *,
    arch: str | None = None,
    options: Sequence[str] = (),
    compiler: Compiler | None = None,
) -> str:
    """Compile a file of CUDA C++ to PTX.

    Args:
        source: the file.
        include: the folder in which ``#include`` looks, next to that of the source.
        defines: macros and what they stand for. They are written before the source and not on a
            command line, where nvcc would cut them at commas.
        arch: the virtual architecture, ``"compute_70"``; by default the oldest that the compiler
            knows and the kernels can run on.
        options: more options, such as ``"--maxrregcount=128"``.
        compiler: by default the one that `find_compiler` finds.

    Returns:
        The PTX.

    Raises:
        NoCompilerError: if there is no compiler.
        PtxError: with the log, where compilation fails.
    """
    compiler = compiler or find_compiler()
    pairs = defines.items() if isinstance(defines, Mapping) else defines
    lines = [f"#define {name} {value}\n" for name, value in pairs]
    folders = dict.fromkeys(f"-I{folder.resolve()}" for folder in (include, source.parent))
    architecture = f"-arch={arch or compiler.oldest_architecture()}"
    program = "".join([*lines, f'#include "{source.name}"\n'])
    return compiler.compile(program, [architecture, "-std=c++17", *folders, *options])


def find_compiler() -> Compiler:
    """Find NVRTC or, where there is none, nvcc.

    Returns:
        The NVRTC of the wheel, else that of the toolkit whose nvcc is on the PATH, else that nvcc.

    Raises:
        NoCompilerError: if there is none of them.
    """
    nvcc = shutil.which("nvcc")
    folders = [*_wheel_folders(), *(_toolkit_folders(nvcc) if nvcc else [])]
    for folder in folders:
        for library in sorted(folder.glob("libnvrtc.so.*"), key=lambda path: len(path.name)):
            try:
                return Nvrtc(library)
            except OSError:  # of another processor, or half installed
                continue
    if nvcc:
        return Nvcc(nvcc)
    raise NoCompilerError(
        "no compiler of CUDA C++: neither the package nvidia-cuda-nvrtc-cu12 nor nvcc on the PATH"
    )


class Nvrtc(Compiler):
    """The library that compiles at run time."""

    def __init__(self, library: Path) -> None:
        """Load the library or raise OSError."""
        # It looks for its built-in headers by the mere name of their library. That is nowhere on
        # the loader's path, but a library that is loaded already is found by its name.
        for builtins in library.parent.glob("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        self._nvrtc = ctypes.CDLL(str(library))
        self._nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        version, count = (ctypes.c_int * 2)(), ctypes.c_int()
        self._check(self._nvrtc.nvrtcVersion(version, ctypes.byref(version, 4)))
        self._check(self._nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        numbers = (ctypes.c_int * count.value)()
        self._check(self._nvrtc.nvrtcGetSupportedArchs(numbers))
        self.architectures = list(numbers)
        self.name = f"NVRTC {version[0]}.{version[1]}"

    def compile(self, program: str, options: Sequence[str]) -> str:
        """Compile the text of a program."""
        nvrtc, handle = self._nvrtc, ctypes.c_void_p()
        # nvcc takes lambdas in functions for a device as such; NVRTC has to be told
        flags = [option.encode() for option in (*options, "-default-device")]
        text = program.encode()
        self._check(
            nvrtc.nvrtcCreateProgram(ctypes.byref(handle), text, b"program.cu", 0, None, None)
        )
        try:
            array = (ctypes.c_char_p * len(flags))(*flags)
            if code := nvrtc.nvrtcCompileProgram(handle, len(flags), array):
                log = self._text(handle, "ProgramLog")
                raise PtxError(f"{self.name}: {self._message(code)}\n{log}")
            return self._text(handle, "PTX")
        finally:
            nvrtc.nvrtcDestroyProgram(ctypes.byref(handle))

    def _text(self, program: ctypes.c_void_p, what: str) -> str:
        size = ctypes.c_size_t()
        self._check(getattr(self._nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        text = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._nvrtc, f"nvrtcGet{what}")(program, text))
        return text.value.decode()

    def _check(self, code: int) -> None:
        if code:
            raise PtxError(f"NVRTC: {self._message(code)}")

    def _message(self, code: int) -> str:
        text: bytes = self._nvrtc.nvrtcGetErrorString(code)
        return text.decode()


class Nvcc(Compiler):
    """A toolkit's compiler. It preprocesses with the host's C++ compiler, which has to be there."""

    def __init__(self, command: str) -> None:
        """Ask for version and architectures, or raise PtxError."""
        self._command = command
        release = re.search(r"release ([\d.]+)", self._run("--version"))
        self.name = f"nvcc {release[1] if release else 'of unknown release'}"
        self.architectures = [
            int(number) for number in re.findall(r"compute_(\d+)", self._run("--list-gpu-arch"))
        ]

    def compile(self, program: str, options: Sequence[str]) -> str:
        """Compile the text of a program."""
        with tempfile.TemporaryDirectory() as scratch:
            source, ptx = Path(scratch, "program.cu"), Path(scratch, "program.ptx")
            source.write_text(program)
            self._run("-ptx", *options, str(source), "-o", str(ptx))
            return ptx.read_text()

    def _run(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self._command, *arguments], capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise PtxError(f"{self._command}: {error}") from error
        if done.returncode:
            raise PtxError(f"{self._command} {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
        return done.stdout


def _wheel_folders() -> list[Path]:
    try:
        found = importlib.util.find_spec(WHEEL)
    except ModuleNotFoundError:  # not even its parent is there
        return []
    return [Path(root) / "lib" for root in (found and found.submodule_search_locations) or ()]


def _toolkit_folders(nvcc: str) -> list[Path]:
    """Where the toolkit has libraries; what is on the PATH may only be a script that calls it."""
    try:
        plan = subprocess.run(
            [nvcc, "--dryrun", "-x", "cu", "-ptx", "nothing"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return []
    top = re.search(r"^#\$ TOP=(.+)$", plan.stderr, re.M)
    root = Path(top[1].strip()) if top else Path(nvcc).resolve().parent.parent
    return [root / name for name in ("lib64", "lib")]


def main() -> None:
    """Compile the file that the command line names; write the log and exit with 1 if that fails."""
    source, include, *defines = sys.argv[1:]
    pairs = [(name, value) for name, _, value in (text.partition("=") for text in defines)]
    try:
        sys.stdout.write(compile_ptx(Path(source), Path(include), pairs))
    except PtxError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
