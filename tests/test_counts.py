"""What is counted of programs and kernels for GPUs without one, and how PTX is made."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import deviceless, launches, launches_table, registers
from benchmarks.__main__ import main
from benchmarks.hlo import cost

ROOT = Path(__file__).parent.parent


def script(path, text):
    """An executable."""
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


# ------------------------------------------------------------------------------ launches

CALL = "lapack_spotrf_ffi"
A = jax.ShapeDtypeStruct((3, 3), "float32")


def call(a):
    return jax.lax.linalg.cholesky(a, symmetrize_input=False)


def cost_of(f):
    return cost(jax.jit(f).lower(A).compile().as_text())


def test_a_loop_of_known_length_counts_with_all_its_rounds():
    found = cost_of(lambda a: jax.lax.fori_loop(0, 7, lambda i, a: call(call(a)), a))
    assert found.launches[CALL] == 14
    assert found.loops == [] and found.conditionals == 0
    assert found.least == found.most


def test_rounds_of_a_loop_on_data_are_counted_apart():
    def inner(a):
        return jax.lax.while_loop(lambda a: jnp.sum(a) < 1, call, a)

    found = cost_of(lambda a: jax.lax.fori_loop(0, 5, lambda i, a: call(inner(a)), a))
    assert found.launches[CALL] == 5
    (loop,) = found.loops
    assert loop.times == 5
    assert loop.each.launches[CALL] == 1
    assert loop.each.least > 1  # the condition is computed on the device, too


def test_a_conditional_counts_from_its_shortest_to_its_longest_branch():
    def f(a):
        return jax.lax.cond(a[0, 0] > 0, lambda a: call(a), lambda a: call(call(call(a))), a)

    found = cost_of(f)
    assert found.launches[CALL] == 1
    assert found.most - found.least >= 2
    assert found.conditionals == 1


def test_a_launch_of_ours_is_named_by_its_kernel():
    text = """
ENTRY %main.1 (a.1: f32[8,4]) -> (f32[8,4], /*index=1*/f32[8]) {
  %a.1 = f32[8,4]{1,0} parameter(0), metadata={op_name="a"}
  ROOT %x.3 = (f32[8,4]{1,0}, f32[8]{0}) custom-call(%a.1), custom_call_target="jaxqr_launch", \
backend_config={kernel = "lanes_f32_8", sizes = dense<[0, 1]> : tensor<2xi32>, threads = 4 : i32}
}
"""
    assert cost(text).as_dict()["kinds"] == {"jaxqr_launch lanes_f32_8": 1}


def test_the_page_of_launches_is_what_the_file_has():
    saved = json.loads(launches.RESULT.read_text())
    assert launches.TABLE.read_text() == launches_table.markdown(saved)
    assert {row["program"] for row in saved["rows"]} == set(launches.PROGRAMS)


def test_a_program_that_does_not_compile_is_reported(monkeypatch):
    monkeypatch.setattr(deviceless, "compile_for_target", lambda *_: jax.jit(call).lower(1))
    assert "error" in deviceless.measure("qr 1024x32x32", "jaxqr")


def test_programs_replace_only_their_own_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(launches, "_installed", lambda wheel: True)
    monkeypatch.setattr(launches, "_surroundings", lambda: {"revision": "x", "processor": "y"})
    path = tmp_path / "launches.json"
    other = {"jax": "0.1", "program": "qr 512x512", "library": "jnp", "error": "old"}
    newer = {**other, "jax": jax.__version__}
    path.write_text(json.dumps({"machines": {}, "rows": [newer, {**newer, "library": "jaxqr"}]}))
    path.write_text(json.dumps({"machines": {}, "rows": [other, newer]}))
    # the process that compiles dies, as where one of XLA's own assertions fails
    died = script(tmp_path / "python", "echo first >&2; echo last words >&2; exit 134")
    monkeypatch.setattr(sys, "executable", str(died))
    command = ["launches", "--programs", "^qr 512x512", "--libraries", "jnp", "--json", str(path)]
    assert main(command) == 1
    rows = json.loads(path.read_text())["rows"]
    assert [row["error"] for row in rows] == ["old", "exit status 134: last words"]
    assert "last words" in path.with_suffix(".md").read_text()


# ----------------------------------------------------------------------------- registers

SAID = """\
ptxas info    : 304 bytes gmem
ptxas info    : Compiling entry function 'rows_f64' for 'sm_90'
ptxas info    : Function properties for helper
    999 bytes stack frame, 999 bytes spill stores, 999 bytes spill loads
ptxas info    : Function properties for rows_f64
    8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 8 bytes cumulative stack size, 13696 bytes smem
ptxas info    : Compiling entry function 'lanes_f32' for 'sm_90'
ptxas info    : Function properties for lanes_f32
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers
"""
PTX = """\
.visible .entry lanes_f32(
\t.param .align 8 .b8 lanes_f32_param_0[136]
)
.maxntid 96, 1, 1
{
}
"""


def test_registers_and_spills_are_those_that_ptxas_tells(tmp_path, monkeypatch):
    (tmp_path / "said").write_text(SAID)
    (tmp_path / "good.ptx").write_text(PTX)
    (tmp_path / "wrong.ptx").write_text("garbage")
    ptxas = script(
        tmp_path / "ptxas",
        f'grep -q entry "$3" && exec cat {tmp_path}/said >&2\necho "ptxas fatal: no" >&2; exit 255',
    )
    monkeypatch.setattr(registers, "find_ptxas", lambda: str(ptxas))
    path = tmp_path / "registers.json"
    assert main(["registers", "--ptx", str(tmp_path), "--json", str(path)]) == 1
    saved = json.loads(path.read_text())
    assert saved["failed"] == ["wrong.ptx: ptxas fatal: no"]
    rows, lanes = (registers.Usage(**row) for row in saved["rows"])
    assert (rows.kernel, rows.registers, rows.shared, rows.threads) == (
        "rows_f64",
        255,
        13696,
        None,
    )
    assert (rows.stack, rows.spill_stores, rows.spill_loads, rows.shared) == (8, 16, 24, 13696)
    assert (lanes.kernel, lanes.threads, lanes.registers) == ("lanes_f32", 96, 40)
    assert rows.spills and not lanes.spills
    # 51 warps of 40 registers fit, and blocks have three
    assert lanes.warps == 51
    marks = [line.endswith("!") for line in registers.table([rows, lanes], "sm_90").splitlines()]
    assert marks == [False, False, False, True, False, False]


# ----------------------------------------------------------------------------------- PTX


@pytest.fixture
def nvrtc():
    spec = importlib.util.spec_from_file_location("nvrtc", ROOT / "native" / "nvrtc.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def no_wheel(nvrtc, monkeypatch):
    monkeypatch.setattr(nvrtc, "WHEEL", "no_such_package.nvrtc")


@pytest.mark.usefixtures("no_wheel")
def test_without_a_compiler_the_error_says_what_was_looked_for(nvrtc, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(nvrtc.NoCompilerError, match="nvidia-cuda-nvrtc-cu12 nor nvcc"):
        nvrtc.find_compiler()


@pytest.mark.usefixtures("no_wheel")
def test_without_nvrtc_nvcc_compiles_for_its_oldest_architecture(nvrtc, monkeypatch, tmp_path):
    """Definitions stand in the program, not on the command line, where nvcc would cut them."""
    answer = r"""
case "$*" in
  --version) echo "Cuda compilation tools, release 13.0, V13.0.88" ;;
  --list-gpu-arch) printf 'compute_60\ncompute_90\ncompute_75\n' ;;
  *--dryrun*) echo "#\$ TOP=/nowhere" >&2 ;;
  *fatal*) echo "error: nothing" >&2; exit 2 ;;
  *) for last; do :; done; echo "$@" > "$last"; cat "$5" >> "$last" ;;
esac
"""
    script(tmp_path / "nvcc", answer)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    compiler = nvrtc.find_compiler()
    assert compiler.name == "nvcc 13.0"
    source = tmp_path / "kernels.cu"
    ptx = nvrtc.compile_ptx(source, tmp_path, {"ALL": "f(a, g<int, 2>)"}, compiler=compiler)
    assert ptx.startswith(f"-ptx -arch=compute_75 -std=c++17 -I{tmp_path} ")
    assert ptx.endswith('#define ALL f(a, g<int, 2>)\n#include "kernels.cu"\n')
    with pytest.raises(nvrtc.PtxError, match="error: nothing"):
        nvrtc.compile_ptx(source, tmp_path, options=["fatal"], compiler=compiler)


def test_a_compiler_that_is_there_writes_ptx_or_tells_why_not(nvrtc, tmp_path):
    try:
        compiler = nvrtc.find_compiler()
    except nvrtc.NoCompilerError as error:
        pytest.skip(str(error))
    (tmp_path / "size.h").write_text("constexpr int size = SIZE;\n")
    source = tmp_path / "k.cu"
    source.write_text(
        '#include "size.h"\nextern "C" __global__ void __launch_bounds__(size) NAME(int* x) '
        "{ if constexpr (size > 3) x[threadIdx.x] = __shfl_sync(~0u, x[0], 1); }\n"
    )
    ptx = nvrtc.compile_ptx(source, tmp_path, {"NAME": "f", "SIZE": "32"}, compiler=compiler)
    assert ".visible .entry f(" in ptx
    assert re.search(r"\.maxntid 32, 1, 1", ptx)
    assert f".target {compiler.oldest_architecture().replace('compute', 'sm')}" in ptx
    with pytest.raises(nvrtc.PtxError, match="undefined"):
        nvrtc.compile_ptx(source, tmp_path, {"NAME": "f", "SIZE": "nothing"}, compiler=compiler)
