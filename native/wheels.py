"""Check wheels that are to be published: ``python native/wheels.py WHEEL ...``.

PyPI would take a wheel that lacks half of the libraries, or whose libraries meet those of other
packages. This imports nothing but the standard library, so it needs nothing installed.
"""

import runpy
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
INSTANCES = ROOT / "jaxqr" / "_lowering" / "cuda_instances.py"
FOLDER = "jaxqr/_native"


def find_faults(wheel: Path) -> list[str]:
    """List what keeps a wheel from being published."""
    name, _, platforms = wheel.stem.rpartition("-")
    faults = [] if name.endswith("-py3-none") else ["the name says that it is not for every Python"]
    with zipfile.ZipFile(wheel) as archive:
        names = [path for path in archive.namelist() if not path.endswith("/")]
        files = {path for path in names if path.startswith(FOLDER)}
        expected = expect_files(platforms)
        faults += [f"{path} is missing" for path in sorted(expected - files)]
        faults += [f"{path} is too much" for path in sorted(files - expected)]
        for path in sorted(files & expected):
            if path.endswith(".so"):
                faults += _find_foreign_symbols(path, archive.read(path))
    if any(name.startswith("linux") for name in platforms.split(".")):
        faults.append(f"PyPI refuses {platforms}: what auditwheel has checked is named manylinux")
    return faults


def expect_files(platforms: str) -> set[str]:
    """Name the files that were compiled, in a wheel for these platforms."""
    if platforms == "any":
        return set()
    builds = ["baseline", "avx2", "avx512"] if "x86_64" in platforms else ["baseline"]
    names = [*builds, "processor", *(["cuda"] if "linux" in platforms else [])]
    libraries = {f"{FOLDER}/libjaxqr-{name}.so" for name in names}
    if "linux" not in platforms:
        return libraries
    instances = runpy.run_path(str(INSTANCES))["list_instances"]()
    return libraries | {f"{FOLDER}/ptx/{instance.name}.ptx" for instance in instances}


def _find_foreign_symbols(path: str, data: bytes) -> list[str]:
    if data[:4] != b"\x7fELF":
        return []  # Mach-O: the linker was given the list
    foreign = sorted(x for x in exported_symbols(data) if not x.startswith("jaxqr_"))
    return [f"{path} exports {len(foreign)} symbols such as {foreign[0]}"] if foreign else []


def exported_symbols(data: bytes) -> Iterator[str]:
    """Read the names that an ELF library defines for others: nm -D, but without binutils."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a library of 64 bits, little endian")
    start, size, count = (
        struct.unpack_from(f, data, i)[0] for f, i in (("<Q", 40), ("<H", 58), ("<H", 60))
    )
    # of each section: name, type, flags, address, offset, size, link
    sections = [struct.unpack_from("<IIQQQQI", data, start + i * size) for i in range(count)]
    (symbols,) = (s for s in sections if s[1] == 11)  # SHT_DYNSYM
    names = sections[symbols[6]][4]
    for at in range(symbols[4], symbols[4] + symbols[5], 24):
        name, info, _, section = struct.unpack_from("<IBBH", data, at)
        if section and info >> 4:  # defined here, and not local
            begin = names + name
            yield data[begin : data.index(b"\0", begin)].decode()


def main(paths: list[str]) -> int:
    """Print each wheel's faults; return the exit status."""
    status = 0
    for path in map(Path, paths):
        faults = find_faults(path)
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, {'; '.join(faults) or 'good'}")
        status |= bool(faults)
    return int(status or not paths)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
