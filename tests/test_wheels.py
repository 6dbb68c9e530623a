"""What is published: libraries that other packages do not meet, in wheels that pip chooses."""

import importlib
import platform
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxqr._lowering import cuda, kernels
from surroundings import ROOT, needs_kernels

EXPORTED = {
    "libjaxqr-processor.so": {"jaxqr_instruction_set"},
    cuda.LIBRARY.name: {
        *(cuda.TARGET, "jaxqr_gpu_set_folder"),
        *("jaxqr_gpu_driver_version", "jaxqr_gpu_open_driver"),
    },
    **{
        f"libjaxqr-{name}.so": {"jaxqr_set_routines", *kernels.TARGETS}
        for name in kernels.INSTRUCTION_SETS
    },
}
needs_elf = pytest.mark.skipif(platform.system() != "Linux", reason="reads ELF")


@pytest.fixture(scope="module")
def build():
    """Import a module of the build."""
    folders = [str(ROOT), str(ROOT / "native")]
    sys.path[:0] = folders
    try:
        yield importlib.import_module
    finally:
        for folder in folders:
            sys.path.remove(folder)


# -------------------------------------------------------------------------------- libraries


@needs_kernels
@needs_elf
def test_nothing_but_the_calls_is_exported(build):
    built = sorted(kernels.FOLDER.glob("*.so"))
    assert len(built) >= 3  # kernels, the processor's, CUDA's
    for path in built:
        assert set(build("wheels").exported_symbols(path.read_bytes())) == EXPORTED[path.name]


def test_other_symbols_stay_inside_on_every_system(build, monkeypatch):
    toolchain = build("toolchain")
    for system, flag in (("Linux", "-Wl,--exclude-libs,ALL"), ("Darwin", "-Wl,-dead_strip")):
        monkeypatch.setattr(platform, "system", lambda name=system: name)
        assert flag in toolchain.close_symbols()
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    with pytest.raises(toolchain.BuildError, match="no kernels for Windows"):
        toolchain.find_compiler()


# ----------------------------------------------------------------------------------- wheels


def make_wheel(folder, files, platforms, tag="py3-none"):
    path = folder / f"jaxqr-0.1.0-{tag}-{platforms}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("jaxqr/_native")  # as auditwheel does
        for name in {"jaxqr/__init__.py": b"", **files}.items():
            archive.writestr(*name)
    return path


@pytest.mark.parametrize(
    "platforms", ["any", "manylinux_2_24_x86_64", "manylinux_2_17_aarch64", "macosx_11_0_arm64"]
)
def test_a_wheel_with_all_that_its_platform_has_is_good(build, tmp_path, platforms):
    wheels = build("wheels")
    files = wheels.expect_files(platforms)
    ours = dict.fromkeys(files, b"\xcf\xfa\xed\xfe")
    assert wheels.find_faults(make_wheel(tmp_path, ours, platforms)) == []
    for name in sorted(files)[:2]:
        (fault,) = wheels.find_faults(
            make_wheel(tmp_path, {k: v for k, v in ours.items() if k != name}, platforms)
        )
        assert fault == f"{name} is missing"


def test_what_users_should_not_get_is_no_good_wheel(build, tmp_path):
    wheels = build("wheels")

    def faults(files, *arguments):
        return wheels.find_faults(make_wheel(tmp_path, files, *arguments))

    ours = dict.fromkeys(wheels.expect_files("linux_x86_64"), b"")
    assert any("PyPI refuses linux_x86_64" in fault for fault in faults(ours, "linux_x86_64"))
    assert any("every Python" in fault for fault in faults({}, "any", "cp313-cp313"))
    library = "jaxqr/_native/libjaxqr-baseline.so"
    assert faults({library: b""}, "any") == [f"{library} is too much"]


@needs_elf
def test_a_wheel_whose_library_exports_more_is_no_good_wheel(build, tmp_path):
    wheels = build("wheels")
    foreign = Path(np.linalg._umath_linalg.__file__).read_bytes()
    ours = dict.fromkeys(wheels.expect_files("manylinux_2_28_x86_64"), b"")
    library = "jaxqr/_native/libjaxqr-avx2.so"
    wheel = make_wheel(tmp_path, {**ours, library: foreign}, "manylinux_2_28_x86_64")
    (fault,) = wheels.find_faults(wheel)
    assert fault.startswith(f"{library} exports ")
    assert wheels.main([str(wheel)]) == wheels.main([]) == 1


def test_the_name_of_a_build_is_that_of_its_platform_and_not_yet_one_for_all(build, monkeypatch):
    toolchain = build("toolchain")
    if platform.system() == "Linux":
        assert toolchain.platform_tag() == f"linux_{platform.machine()}"
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setenv("MACOSX_DEPLOYMENT_TARGET", "11.0")
    assert toolchain.platform_tag() == "macosx_11_0_arm64"


# ------------------------------------------------------------------------- what a build needs


def test_headers_are_those_of_the_oldest_supported_jaxlib():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (floor,) = (x for x in project["project"]["dependencies"] if x.startswith("jaxlib"))
    pinned = floor.replace(">=", "==") + "; python_version < '3.15'"
    assert pinned in project["build-system"]["requires"]


def test_kernels_for_other_machines_are_compiled_by_the_compiler_whose_ptx_old_drivers_load(
    build, monkeypatch
):
    hook = build("hatch_build")

    def needed(**environment):
        for name in ("JAXQR_NATIVE", "JAXQR_GPU"):
            monkeypatch.setenv(name, environment.get(name, ""))
        return hook.NativeHook.dependencies(None)

    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert needed(JAXQR_GPU="1") == needed(JAXQR_GPU="require") == [hook.CUDA_COMPILER]
    assert needed(JAXQR_GPU="0") == needed(JAXQR_GPU="1", JAXQR_NATIVE="0") == []
