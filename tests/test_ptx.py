"""The CUDA kernels compile for a device, by the compiler that builds them."""

import importlib.util
import re
import sys

import pytest

from jaxqr._lowering.cuda_instances import list_instances
from surroundings import ROOT

NATIVE = ROOT / "native"
# of every template a small instance, in a dtype that has all of its code
CHOSEN = (
    *("lanes_pivoted_c64_8", "rows_f32_8_1", "rows_pivoted_f64_8_2", "qr_jvp_f32_4"),
    *("qr_vjp_c64_4", "least_squares_f64_4", "signs_c128", "pivot_column_f32", "pivot_row_c64"),
)


@pytest.fixture(scope="module")
def ptx():
    sys.path.insert(0, str(NATIVE))
    try:
        import ptx
    finally:
        sys.path.remove(str(NATIVE))
    return ptx


def test_the_examples_are_of_every_template():
    def templates(instances):
        return {instance.template.split("<")[0] for instance in instances}

    everything = list_instances()
    assert templates(i for i in everything if i.name in CHOSEN) == templates(everything)
    assert len({i.name for i in everything}) == len(everything)


@pytest.mark.skipif(
    sys.platform != "linux" or importlib.util.find_spec("nvidia") is None,
    reason="NVRTC, of the extra test, exists for Linux on x86-64",
)
def test_kernels_compile_for_devices(ptx, tmp_path, monkeypatch):
    instances = [i for i in list_instances() if i.name in CHOSEN]
    monkeypatch.setattr(ptx, "list_instances", lambda: instances)
    (tmp_path / "old.ptx").touch()
    files = ptx.compile_if_changed(tmp_path)
    assert sorted(tmp_path.glob("*.ptx")) == sorted(files)
    for file in files:
        text = file.read_text()
        assert f".entry {file.stem}(" in text
        assert re.search(r"^\.version 8\.2$", text, re.MULTILINE)  # of driver 535
        assert re.search(r"^\.target sm_70$", text, re.MULTILINE)
    times = [file.stat().st_mtime_ns for file in files]
    assert ptx.compile_if_changed(tmp_path) == files
    assert [file.stat().st_mtime_ns for file in files] == times  # nothing has changed
