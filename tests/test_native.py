"""The package's own kernels: how they are built, chosen and called, and what they refuse."""

import functools
import os
import platform
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from jaxqr._lowering import native
from jaxqr._qr_primitive import _compute
from matrices import DTYPES, LIMIT, normal, orthogonality_ratio, residual_ratio

ROOT = Path(__file__).parents[1]
COMPILER = shutil.which(os.environ.get("CXX", "g++"))

needs_kernels = pytest.mark.skipif(not native.available(), reason=native.status())
needs_compiler = pytest.mark.skipif(
    COMPILER is None or platform.system() != "Linux", reason="no compiler with sanitizers"
)


def python(code, **environment):
    """Run code in a process of its own."""
    command = [sys.executable, "-W", "error", "-c", code]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


# ------------------------------------------------------------------------- built and chosen


def test_a_compiler_means_kernels():
    built = native.FOLDER / "libjaxqr-baseline.so"
    assert built.exists() or COMPILER is None, "a compiler is there, but no kernels were built"


def test_they_can_be_left_unused():
    code = "from jaxqr._lowering import native; print(native.available(), native.status())"
    done = python(code, JAXQR_NATIVE="0")
    assert done.stdout.strip() == "False jaxlib's LAPACK (JAXQR_NATIVE=0)", done.stderr


def test_required_kernels_that_are_missing_are_an_error(tmp_path):
    shutil.copytree(
        ROOT / "jaxqr", tmp_path / "jaxqr", ignore=shutil.ignore_patterns("_native", "__pycache__")
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import jaxqr"
    done = python(code, JAXQR_NATIVE="require")
    assert "JAXQR_NATIVE=require, but libjaxqr-baseline.so was not built" in done.stderr
    assert python(code, JAXQR_NATIVE="").returncode == 0


@needs_kernels
@pytest.mark.parametrize("name", native.INSTRUCTION_SETS)
def test_every_instruction_set_passes_the_check_up(name):
    done = python("import jaxqr.__main__ as m; m.main()", JAXQR_INSTRUCTION_SET=name)
    best = native.INSTRUCTION_SETS.index(native.status().split(", ")[1])
    if native.INSTRUCTION_SETS.index(name) <= best:
        assert "all checks passed" in done.stdout, done.stdout + done.stderr
        assert f"own kernels, {name}" in done.stdout
    else:  # never an illegal instruction
        assert "own kernels" not in done.stdout
        assert "all checks passed" in done.stdout, done.stdout + done.stderr


# ------------------------------------------------------------------- the same either way


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(40, 4, 4), (7, 9, 6), (3, 6, 9), (90, 90), (300, 8), (20, 150)], ids=str
)
def test_kernels_agree_with_lapack(shape, dtype):
    a = jnp.asarray(normal(shape, dtype))
    names = ("q", "r", "h", "tau", "scale")
    for transposed in (False, True):
        options = {"outputs": names, "pivoting": "none", "transposed": transposed}
        ours = jaxqr._qr_primitive.qr_p.bind(a, **options)
        theirs = jax.jit(functools.partial(_compute, **options))(a)
        for name, x, y in zip(names, ours, theirs, strict=True):
            eps = float(jnp.finfo(dtype).eps)
            tolerance = 200 * max(shape[-2:]) * eps * float(jnp.max(jnp.abs(y)))
            # a square matrix's last pivots are as ill-conditioned as it is
            tolerance *= 30 if shape[-1] == shape[-2] else 1
            np.testing.assert_allclose(x, y, rtol=0, atol=tolerance, err_msg=name)


@needs_kernels
def test_one_call_does_it():
    a = jnp.ones((4, 3))
    text = jax.jit(jaxqr.qr).lower(a).compile().as_text()
    assert text.count("custom-call(") == 1
    assert "transpose(" not in text
    text = jax.jit(jaxqr.lq).lower(a).compile().as_text()
    assert text.count("custom-call(") == 1
    assert "transpose(" not in text


# ----------------------------------------------------------------------------- what is refused


def bad_calls():
    f4, f8 = np.float32, np.float64
    a, q, r, one = (np.zeros(s, f4) for s in ((2, 5, 3), (2, 5, 3), (2, 3, 3), (2, 1, 1)))

    def qr(outputs, *results, a=a, pivoting="none"):
        return "jaxqr_qr", (a,), results, {"outputs": outputs, "pivoting": pivoting}

    def vjp(*operands, inputs="q,r"):
        return "jaxqr_qr_vjp", operands, [((2, 5, 3), f4)], {"inputs": inputs, "pivoted": False}

    yield "shape", qr("r", ((2, 4, 3), f4))
    yield "batch", qr("r", ((3, 3, 3), f4))
    yield "dtype", qr("r", ((2, 3, 3), f8))
    yield "integers", qr("r", ((2, 3, 3), np.int32), a=a.astype(np.int32))
    yield "vector", qr("r", ((3,), f4), a=a[0, 0])
    yield "unknown output", qr("s", ((2, 3, 3), f4))
    yield "pivots without pivoting", qr("p", ((2, 3), np.int32))
    yield "few results", qr("q,r", ((2, 5, 3), f4))
    yield "pivots' dtype", qr("p", ((2, 3), f4), pivoting="exact")
    yield "unknown pivoting", qr("r", ((2, 3, 3), f4), pivoting="some")
    yield "scale", vjp(q, r, one[:, 0], q, r)
    yield "cotangent", vjp(q, r, one, q, q)
    yield "triangle", vjp(q, q, one, q, r)
    yield "few cotangents", vjp(q, r, one, q)
    yield "reflectors", ("jaxqr_orgqr", (r.swapaxes(1, 2)[:, :2], r[:, 0]), [((2, 2, 3), f4)], {})
    yield "tau", ("jaxqr_orgqr", (a, a[:, 0, :2][:1]), [((2, 5, 3), f4)], {})
    sides = {"left": True, "adjoint": False}
    yield "product", ("jaxqr_ormqr", (a, r[:, 0], r), [((2, 3, 3), f4)], sides)
    yield "product's result", ("jaxqr_ormqr", (a, r[:, 0], a), [((2, 3, 3), f4)], sides)


@needs_kernels
@pytest.mark.parametrize("case", [pytest.param(c, id=name) for name, c in bad_calls()])
def test_a_call_with_wrong_buffers_is_an_error(case):
    target, operands, results, attributes = case
    if target in ("jaxqr_qr", "jaxqr_qr_vjp"):
        attributes = {**attributes, "transposed": False}
    types = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
    call = jax.jit(lambda *x: jax.ffi.ffi_call(target, types)(*x, **attributes))
    with pytest.raises(Exception, match="jaxqr: "):
        jax.block_until_ready(call(*operands))


# ------------------------------------------------------------------------------------- threads


@needs_kernels
def test_several_threads_at_once():
    shapes = [(500, 4, 4), (200, 200), (3000, 20), (40, 32, 32)]
    matrices = [normal(shape) for shape in shapes]
    failures = []

    def work(a):
        loss = jax.jit(jax.value_and_grad(lambda a: sum(map(jnp.sum, jaxqr.qr(a)))))
        expected = loss(a)
        for _ in range(10):
            for x, y in zip(jaxqr.qr(a), jaxqr.qr(a, positive_diagonal=True), strict=True):
                if not np.allclose(np.abs(x), np.abs(y)):
                    failures.append(a.shape)
            if not all(map(np.array_equal, loss(a), expected)):
                failures.append(a.shape)

    threads = [threading.Thread(target=work, args=(a,)) for a in matrices * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    assert not failures


@needs_kernels
def test_all_devices_at_once():
    count = len(jax.devices())
    a = normal((count, 100, 30, 20))
    mesh = jax.make_mesh((count,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    spec = jax.sharding.PartitionSpec("x")
    with jax.set_mesh(mesh):
        placed = jax.device_put(a, jax.sharding.NamedSharding(mesh, spec))
        for _ in range(5):
            q, r = jaxqr.qr(placed)
            q, r = np.asarray(q), np.asarray(r)
    assert residual_ratio(a, q @ r) < LIMIT
    assert orthogonality_ratio(q) < LIMIT


@needs_kernels
def test_without_jit():
    a = normal((7, 4))
    with jax.disable_jit():
        q, r = jaxqr.qr(a)
    assert residual_ratio(a, q @ r) < LIMIT


@needs_kernels
def test_memory_between_calls_is_bounded():
    code = """
import resource, numpy as np, jaxqr, jax
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
f = jax.jit(jaxqr.qr)
for _ in range(3): jax.block_until_ready(f(np.ones((600, 600), np.float32)))
before = peak()
for _ in range(60): jax.block_until_ready(f(np.ones((600, 600), np.float32)))
print((peak() - before) / 1024)
"""
    done = python(code)
    assert float(done.stdout) < 30, done.stderr


# -------------------------------------------------------------- random cases under sanitizers


@needs_kernels
@needs_compiler
def test_random_cases_under_sanitizers(tmp_path):
    """10000 problems, address and undefined-behaviour sanitizers, a fixed seed, a time limit."""
    sys.path.insert(0, str(ROOT))
    try:
        from hatch_build import build
    finally:
        sys.path.remove(str(ROOT))
    name = native.status().split(", ")[1]
    flags = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    # what is meant for large matrices, on small ones
    flags += ("-DJAXQR_LEAST_RANDOMIZED=1", "-DJAXQR_CHUNK_BYTES=512")
    (library,) = build(tmp_path, flags=flags, sources=(ROOT / "tests/native/driver.cc",), only=name)
    find = [COMPILER, "-print-file-name=libasan.so"]
    runtime = subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip()
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "OPENBLAS_NUM_THREADS": "1",
    }
    script = ROOT / "tests" / "native" / "random_cases.py"
    command = [sys.executable, str(script), str(library), "10000", "300"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert "10000 cases" in done.stdout
