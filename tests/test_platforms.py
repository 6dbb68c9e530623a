"""The programs of every platform compute what the CPU's do."""

import functools
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxqr
from foreign_platform import (
    CASES,
    LIBRARIES,
    OTHER,
    UNCHECKED,
    compare,
    difference,
    gradient,
    lowered_for,
    on_cpu,
    targets,
    value_and_gradient,
)
from laws import mostly_nightly, quickly
from matrices import LIMIT, normal, orthogonality_ratio, residual_ratio, separated
from surroundings import python

every_case = pytest.mark.parametrize("case", CASES)

# ---------------------------------------------------------------------- what is computed


# for each library all in complex arithmetic; in real, every routine once
EVERY_ROUTINE = ("deep", "pivoted", "rotate", "lstsq")
ON_GPUS = {
    ("cuda", "complex128"): tuple(CASES),
    ("cuda", "float64"): EVERY_ROUTINE,
    ("rocm", "complex128"): tuple(CASES),
}


@functools.cache
def reports(platform, dtype):
    """Of the platform's programs, from a process of their own."""
    script = Path(__file__).with_name("foreign_platform.py")
    return json.loads(python(script, platform, dtype, *ON_GPUS[platform, dtype]).stdout)


def assert_same(report):
    assert report["value"] < 100
    assert report["gradient"] < 1e5
    assert report.get("residual", 0) < LIMIT
    assert report.get("orthogonality", 0) < LIMIT
    assert report.get("gradient of the module", 0) < 1e5


@pytest.mark.parametrize(
    "key, case",
    mostly_nightly(
        [(key, case) for key, cases in ON_GPUS.items() for case in cases],
        # those of ROCm are CUDA's under other names: see below
        lambda key, case: key == ("cuda", "complex128"),
    ),
)
def test_gpu_programs_equal_the_cpus(case, key):
    assert_same(reports(*key)[case])


@every_case
def test_rocm_programs_are_the_cuda_programs_under_other_names(case):
    a = separated(CASES[case][0], "complex64")
    cuda, rocm = (
        lowered_for([platform], value_and_gradient(case), a).mlir_module() for platform in LIBRARIES
    )
    assert "cusolver" in cuda
    assert rocm == cuda.replace("cusolver", "hipsolver").replace('"cuda"', '"rocm"')


@pytest.mark.parametrize("case", mostly_nightly(((case,) for case in CASES), 2))
def test_tpu_programs_equal_the_cpus(case):
    assert_same(compare("tpu", case, "complex128"))


@pytest.mark.parametrize(
    "case", ["deep", "wide", "complete", "pivoted", "rotate", "multiply", "lstsq low rank"]
)
def test_portable_programs_equal_the_cpus(case):
    assert_same(compare(OTHER, case, "complex128"))


@pytest.mark.parametrize("platform", ["tpu", OTHER])
def test_tpu_and_portable_programs_hold_in_single_precision(platform):
    assert_same(compare(platform, "deep", "float32"))


@pytest.mark.parametrize("m, n", [(6, 3), (3, 6)])
def test_the_tpus_complex_factors_hold_where_squares_of_a_column_underflow(m, n):
    a = normal((m, n), "complex64") * np.float32([1, 1e-20, 1e15, 1, 1e-35, 1][:n])
    exported = lowered_for(["tpu"], lambda a: list(jaxqr.qr(a)), a)
    q, r = quickly(exported.call, a)
    assert orthogonality_ratio(q) < LIMIT
    size = np.max(np.abs(a), axis=0)
    assert residual_ratio(a / size, np.asarray(q) @ (np.asarray(r) / size)) < LIMIT


@pytest.mark.parametrize("pivoting", [False, True])
@pytest.mark.parametrize("platform", ["tpu", OTHER])
def test_columns_of_any_size_are_right_each_for_itself(platform, pivoting):
    """(8.9), also where the routines square entries as they are."""
    a, da = normal((6, 4)), normal((6, 4), seed=1)
    sizes = 2.0 ** np.array([900, 0, -600, -900])[[2, 0, 3, 1]]
    order = np.argsort(-sizes) if pivoting else np.arange(4)

    def factors(a):
        q, r, *p = jaxqr.qr(a, pivoting=pivoting)
        return (q, r), p

    def tangents(a, da):
        (q, r), (dq, dr), p = jax.jvp(factors, (a,), (da,), has_aux=True)
        return q, r, dq, dr, *p

    exported = export.export(jax.jit(tangents), platforms=[platform], disabled_checks=UNCHECKED)
    program = exported(a * sizes, da * sizes).call
    q, r, dq, dr, *p = map(np.asarray, quickly(program, a * sizes, da * sizes))
    if pivoting:
        np.testing.assert_array_equal(p[0], order)
    plain = jax.jvp(lambda a: tuple(jaxqr.qr(a)), (a[:, order],), (da[:, order],))
    (want_q, want_r), (want_dq, want_dr) = plain
    scale = sizes[order]
    for x, want in ((q, want_q), (r / scale, want_r), (dq, want_dq), (dr / scale, want_dr)):
        np.testing.assert_allclose(x, want, rtol=0, atol=1e-12)


def test_one_module_serves_several_platforms():
    shape, f = CASES["deep"]
    a = separated(shape)
    exported = lowered_for(["cpu", "cuda", "rocm", "tpu"], f, a)
    assert {"lapack_dgeqrf_ffi", "cusolver_geqrf_ffi", "hipsolver_geqrf_ffi", "Qr"} <= targets(
        exported
    )


# ------------------------------------------------------------------------------- export

FRESH_PROCESS = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)
import numpy as np
quick = {"xla_backend_optimization_level": 0}
for name in sys.argv[1:]:
    data = np.load(name + ".npz")
    with open(name + ".module", "rb") as file:
        exported = jax.export.deserialize(bytearray(file.read()))
    triangle = jax.jit(exported.call, compiler_options=quick)(data["a"])
    np.testing.assert_allclose(triangle, data["triangle"], rtol=1e-12, atol=1e-12)
    loss = lambda a: (exported.call(a) ** 2).sum()
    back = jax.jit(jax.grad(loss), compiler_options=quick)(data["a"])
    np.testing.assert_allclose(back, data["back"], rtol=1e-11, atol=1e-11)
assert not any(name.startswith("jaxqr") for name in sys.modules)
print(len(sys.argv) - 1, "modules")
"""


def test_a_serialized_module_and_its_gradient_run_without_jaxqr(tmp_path):
    triangles = {
        "deep": lambda a: jaxqr.qr(a).R,
        "pivoted": lambda a: jaxqr.qr(a, pivoting=True).R,
        "rotate": CASES["rotate"][1],
    }
    for name, f in triangles.items():
        a = separated((2, 5, 3))
        triangle, back = quickly(
            lambda a, f=f: (f(a), jax.grad(lambda a: jnp.sum(f(a) ** 2))(a)), a
        )
        np.savez(tmp_path / name, a=a, triangle=triangle, back=back)
        module = lowered_for(["cpu"], f, a).serialize(vjp_order=1)
        (tmp_path / f"{name}.module").write_bytes(module)
    assert python("-c", FRESH_PROCESS, *triangles, cwd=tmp_path).stdout == "3 modules\n"


def test_a_module_that_returns_our_tuples_returns_them_after_serialization():
    a = separated((5, 3))
    for f in (jaxqr.qr, jaxqr.lq, lambda a: jaxqr.lstsq(a, a)):
        module = lowered_for(["tpu"], f, a).serialize(vjp_order=1)
        assert type(quickly(export.deserialize(module).call, a)) is type(f(a))


@pytest.mark.parametrize(
    "case, platform",
    mostly_nightly(itertools.product(["deep", "complete", "lq", "pivoted"], ["cpu", "tpu"]), 3),
)
def test_the_batch_may_be_symbolic(case, platform):
    shape, dtype = CASES[case][0], "complex128"
    symbolic = jax.ShapeDtypeStruct((*export.symbolic_shape("b"), *shape[1:]), dtype)
    exported = lowered_for([platform], value_and_gradient(case), symbolic)
    got, want = quickly(exported.call, separated(shape, dtype)), on_cpu(case, dtype)
    assert_same({"value": difference(got[0], want[0]), "gradient": difference(got[1], want[1])})


@pytest.mark.parametrize("platform", LIBRARIES)
def test_a_symbolic_batch_lowers_for_gpus(platform):
    a = jax.ShapeDtypeStruct((*export.symbolic_shape("b"), 5, 3), np.float64)
    called = targets(lowered_for([platform], gradient(jaxqr.qr), a))
    assert called - {"shape_assertion"} == {
        f"{LIBRARIES[platform]}_{r}_ffi" for r in ("geqrf", "orgqr")
    }


# ------------------------------------------------------------------------- on the platform


def test_tests_for_a_platform_that_is_not_there_do_not_start(monkeypatch, pytestconfig):
    # by its path: a folder of tests has a conftest of its own
    conftest = pytestconfig.pluginmanager.get_plugin(str(Path(__file__).parent / "conftest.py"))
    monkeypatch.setattr(conftest, "PLATFORM", OTHER)
    with pytest.raises(pytest.UsageError, match=f"JAXQR_TEST_PLATFORM={OTHER}, but .* is 'cpu'"):
        conftest.pytest_configure()
