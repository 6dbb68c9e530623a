"""The package's own kernels: how they are built, chosen and called."""

import ctypes
import functools
import itertools
import platform
import shutil
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from jaxqr._core.mirror import mirror_body
from jaxqr._factor.qr_primitive import _factor, qr_p
from jaxqr._lowering import kernels
from laws import mostly_nightly
from matrices import DTYPES, LIMIT, normal, orthogonality_ratio, residual_ratio
from sanitizers import COMPILER, own_width, sanitize
from surroundings import needs_kernels, python

PACKAGE = Path(jaxqr.__file__).parent
BUILT = [
    name for name in kernels.INSTRUCTION_SETS if (kernels.FOLDER / f"libjaxqr-{name}.so").exists()
]
needs_compiler = pytest.mark.skipif(
    COMPILER is None or platform.system() != "Linux", reason="no compiler with sanitizers"
)


def processor_level():
    """The index of the best instruction set that this processor has."""
    return ctypes.CDLL(str(kernels.FOLDER / "libjaxqr-processor.so")).jaxqr_instruction_set()


# ------------------------------------------------------------------------- built and chosen


def test_a_compiler_means_kernels():
    assert BUILT or COMPILER is None, "a compiler is there, but no kernels were built"


def test_they_can_be_left_unused():
    code = "from jaxqr._lowering import kernels; print(kernels.available(), kernels.status())"
    done = python("-c", code, JAXQR_NATIVE="0")
    assert done.stdout.strip() == "False jaxlib's LAPACK (JAXQR_NATIVE=0)", done.stderr


def test_required_kernels_that_are_missing_are_an_error(tmp_path):
    shutil.copytree(
        PACKAGE, tmp_path / "jaxqr", ignore=shutil.ignore_patterns("_native", "__pycache__")
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import jaxqr"
    done = python("-c", code, check=False, JAXQR_NATIVE="require")
    assert "JAXQR_NATIVE=require, but no kernels were built" in done.stderr
    python("-c", code, JAXQR_NATIVE="")


@needs_kernels
@pytest.mark.parametrize("name", kernels.INSTRUCTION_SETS)
def test_every_instruction_set_passes_the_check_up(name):
    if name in BUILT and kernels.INSTRUCTION_SETS.index(name) <= processor_level():
        done = python("-m", "jaxqr", JAXQR_INSTRUCTION_SET=name)
        assert "all checks passed" in done.stdout, done.stdout + done.stderr
        assert f"own kernels, {name}" in done.stdout
    else:  # never an illegal instruction, nor another build than the one asked for
        code = "from jaxqr._lowering import kernels; print(kernels.status())"
        done = python("-c", code, JAXQR_INSTRUCTION_SET=name)
        assert done.stdout.startswith("jaxlib's LAPACK (JAXQR_INSTRUCTION_SET="), done.stdout


@needs_kernels
@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="asks Linux")
def test_a_build_is_chosen_if_the_processor_has_all_that_its_level_means():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    # as the x86-64 ABI has them; Linux says abm for LZCNT
    levels = (
        {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"},
        {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    )
    best = next((i for i, level in enumerate(levels) if not level <= flags), len(levels))
    assert processor_level() == best


@needs_kernels
def test_what_this_processor_cannot_run_is_not_loaded(tmp_path):
    """As on a machine that is not the one where the package was built."""
    shutil.copytree(
        PACKAGE, tmp_path / "jaxqr", ignore=shutil.ignore_patterns("_native", "__pycache__")
    )
    folder = tmp_path / "jaxqr" / "_native"
    folder.mkdir()
    shutil.copy(kernels.FOLDER / "libjaxqr-processor.so", folder)
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
from jaxqr._lowering import kernels; print(kernels.status())
"""
    too_new = kernels.INSTRUCTION_SETS[processor_level() + 1 :]
    for name in too_new:
        (folder / f"libjaxqr-{name}.so").write_text("no library at all")
    if too_new:
        done = python("-c", code)
        assert "jaxlib's LAPACK (the kernels were built for" in done.stdout, done.stderr
        assert "JAXQR_INSTRUCTION_SETS=all" in done.stdout
    shutil.copy(kernels.FOLDER / f"libjaxqr-{BUILT[0]}.so", folder)
    done = python("-c", code)
    assert done.stdout.strip() == f"own kernels, {BUILT[0]}", done.stderr


# ------------------------------------------------------------------- the same either way


@needs_kernels
@pytest.mark.parametrize(
    "shape, dtype",
    mostly_nightly(
        itertools.product(
            [(40, 4, 4), (7, 9, 6), (3, 6, 9), (90, 90), (300, 8), (20, 150)], DTYPES
        ),
        3,
    ),
    ids=str,
)
def test_kernels_agree_with_lapack(shape, dtype):
    a = jnp.asarray(normal(shape, dtype))
    names = ("q", "r", "h", "tau")
    for transposed in (False, True):
        options = {"outputs": names, "pivoting": "none", "transposed": transposed}
        ours = qr_p.bind(a, **options)
        theirs = jax.jit(functools.partial(mirror_body(_factor), **options))(a)
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
    done = python("-c", code)
    assert float(done.stdout) < 30, done.stderr


# -------------------------------------------------------------- random cases under sanitizers


@pytest.mark.nightly
@needs_kernels
@needs_compiler
def test_random_cases_under_sanitizers(tmp_path):
    """10000 problems, address and undefined-behaviour sanitizers, a fixed seed, a time limit.

    Of the vectors that this machine has; .ci/nightly runs those of all widths, and threads.
    """
    done = sanitize(tmp_path, "address", own_width(), 10000, 300)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "10000 cases" in done.stdout
