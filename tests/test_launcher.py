"""The launcher of CUDA kernels (``native/gpu/launch.cc``), with a driver that stands in."""

import ctypes
import functools
import platform
import re
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import emulated_examples
import jaxqr
import sanitizers
from emulated_gpu import EmulatedGpu, program_for_cuda
from emulated_kernels import EXAMPLES, MOST_BLOCKS, build
from jaxqr._lowering import cuda, cuda_instances
from jaxqr._lowering.cuda_plans import Launch
from laws import assert_close
from matrices import normal
from meshes import assert_sharded, every_mesh, mesh_of, put, run

pytestmark = pytest.mark.skipif(
    sanitizers.COMPILER is None or platform.system() != "Linux", reason="no compiler"
)
ROWS = Launch("sum_rows_f64", 64, 1, 16, (0, 1), (5, 40))


@pytest.fixture(scope="module")
def gpu():
    return EmulatedGpu(build(emulated_examples.INSTANCES, EXAMPLES))


@pytest.fixture(autouse=True)
def _fresh(gpu):
    """A driver that has loaded nothing."""
    gpu.use(gpu.kernels.built.driver, gpu.kernels.built.ptx)


@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4))
def call(launch, operand, shape, dtype, batch_ndim):
    return cuda.launch(launch, [operand], [(shape, np.dtype(dtype))], batch_ndim=batch_ndim)[0]


def sum_rows(x, batch_ndim=None, **changes):
    """The sums of rows of 5 x 40 matrices, by a launch that is changed."""
    batch_ndim = x.ndim - 2 if batch_ndim is None else batch_ndim
    return call(ROWS._replace(**changes), x, x.shape[:-1], x.dtype, batch_ndim)


def matrices(*batch):
    return jnp.asarray(np.random.default_rng(0).integers(-9, 9, (*batch, 5, 40)), jnp.float64)


# ----------------------------------------------------------------------------- what it does


@pytest.mark.parametrize("batch", [(), (1,), (7,), (2, 3), (0,), (3, 0)])
def test_it_launches_once_for_any_batch_and_never_for_none(gpu, batch):
    x = matrices(*batch)
    with gpu.kernels.counted("cuLaunchKernel") as counted:
        y = sum_rows(x)
    assert jnp.array_equal(y, x.sum(-1))
    assert counted == [int(x.size > 0)]


def test_threads_run_in_the_other_order(gpu):
    x = matrices(4)
    with gpu.kernels.backwards():
        assert jnp.array_equal(sum_rows(x), x.sum(-1))


def test_a_batch_of_more_blocks_than_a_grid_has_takes_several_launches(gpu):
    x = matrices(2 * MOST_BLOCKS + 9)
    with gpu.kernels.counted("cuLaunchKernel") as counted:
        y = sum_rows(x)
    assert jnp.array_equal(y, x.sum(-1))
    assert counted == [3]


def test_a_result_takes_the_place_of_an_operand_and_a_matrix_many_blocks(gpu):
    launch = Launch("add_blocks_f64", 32, 1, 0, (0, -1, 1), (), blocks=7)
    result = [((1,), np.dtype("float64"))]
    add = functools.partial(cuda.launch, launch, results=result, batch_ndim=1, aliases={1: 0})
    x = matrices(1)[:, 0, :7]
    with gpu.kernels.counted("cuLaunchKernel") as counted:
        (y,) = jax.jit(lambda *operands: add(operands))(x, jnp.full(1, 100.0))
    assert y == 100 + x.sum()
    assert counted == [1]


def test_an_empty_batch_needs_no_driver(gpu):
    with gpu.instead(driver="/nowhere/libcuda.so"):
        assert sum_rows(matrices(0)).shape == (0, 5)


def test_a_kernel_is_loaded_once_in_a_context(gpu):
    x, functions = matrices(3), ("cuModuleLoadData", "cuModuleGetFunction", "cuLaunchKernel")
    with gpu.kernels.counted(*functions) as counted:
        for _ in range(3):
            sum_rows(x)
    assert counted == [1, 1, 3]
    with gpu.kernels.context(2), gpu.kernels.counted(*functions) as counted:
        for _ in range(2):
            sum_rows(x)
    assert counted == [1, 1, 2]
    with gpu.kernels.counted(*functions) as counted:
        sum_rows(x)
        sum_rows(x.astype(jnp.float32), kernel="sum_rows_f32")
    assert counted == [1, 1, 2]


def test_threads_that_launch_at_once_load_a_kernel_once(gpu):
    x = matrices(30)
    f = jax.jit(sum_rows).lower(x).compile()
    with (
        gpu.kernels.counted("cuModuleLoadData", "cuLaunchKernel") as counted,
        ThreadPoolExecutor(4) as p,
    ):
        found = list(p.map(lambda _: f(x), range(20)))
    assert all(jnp.array_equal(y, x.sum(-1)) for y in found)
    assert counted == [1, 20]


def test_more_shared_memory_than_every_kernel_has_is_asked_for_once(gpu):
    x = matrices(2)
    with gpu.kernels.counted("cuFuncSetAttribute") as counted:
        sum_rows(x, shared=48 << 10)
    assert counted == [0]
    with gpu.kernels.counted("cuFuncSetAttribute") as counted:
        for shared in (64 << 10, 64 << 10, 50 << 10, 16):
            sum_rows(x, shared=shared)
    assert counted == [1]
    with gpu.kernels.counted("cuFuncSetAttribute") as counted:
        sum_rows(x, shared=80 << 10)
    assert counted == [1]


@every_mesh
def test_a_sharded_batch_stays_where_it_is(gpu, kind):
    x = matrices(16)
    with mesh_of(kind) as mesh, gpu.kernels.counted("cuLaunchKernel") as counted:
        f = sum_rows if kind == "automatic" else program_for_cuda(sum_rows, x).call
        out, collectives = run(f, *put(mesh, x))
        jax.block_until_ready(out)
    assert not collectives
    assert_sharded(out, mesh)
    assert counted == [8]
    assert jnp.array_equal(out, x.sum(-1))


def test_a_program_for_cuda_runs_whole():
    instances = [i for i in cuda_instances.list_instances() if i.name == "lanes_f64_4"]
    gpu, a = EmulatedGpu(build(instances)), normal((6, 4, 3))
    program = program_for_cuda(jaxqr.qr, a)
    assert set(re.findall(r"custom_call @(\w+)", program.mlir_module())) == {cuda.TARGET}
    with gpu.kernels.counted("cuLaunchKernel") as counted:
        out = jax.block_until_ready(program.call(a))
    assert counted == [1]
    assert_close(out, jaxqr.qr(a))


# -------------------------------------------------------------------------------- errors


def error_of(f, *args, **options):
    with pytest.raises((jax.errors.JaxRuntimeError, ValueError)) as raised:
        jax.block_until_ready(f(*args, **options))
    return str(raised.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"slots": (0,)}, "fewer slots than operands and results: 1"),
        ({"slots": (0, 1, 2)}, "there are 3 slots for 2 operands and results"),
        ({"slots": (1, 1)}, "slot 1 is named twice"),
        ({"slots": (12, 0)}, "a slot must be from -1 to 11, got 12"),
        ({"slots": (0, 12)}, "a slot must be from 0 to 11, got 12"),
        ({"slots": (0, -1)}, "a slot must be from 0 to 11, got -1"),
        ({"slots": (-1, 0)}, "an operand that has no slot is not overwritten by a result"),
        ({"sizes": (1,) * 9}, "the number of sizes must be from 0 to 8, got 9"),
        ({"sizes": (1 << 31,)}, "a size must be from -2147483647 to 2147483647, got 2147483648"),
        ({"threads": 0}, "threads must be from 1 to 1024, got 0"),
        ({"threads": 1025}, "threads must be from 1 to 1024, got 1025"),
        ({"blocks": 0}, f"blocks must be from 1 to {MOST_BLOCKS}, got 0"),
        ({"per_block": 0}, "per_block must be from 1 to 2147483647, got 0"),
        ({"shared": -1}, "shared must be from 0 to 2147483647, got -1"),
        ({"kernel": "../sum"}, '"../sum" is no name of a kernel'),
        ({"kernel": ""}, '"" is no name of a kernel'),
    ],
)
def test_wrong_attributes_are_errors(changes, message):
    assert f"INVALID_ARGUMENT: jaxqr: {message}" in error_of(sum_rows, matrices(3), **changes)


@pytest.mark.parametrize(
    "batch_dimensions, shape, dtype, message",
    [
        (1, (2, 5), "float64", "leading dimensions of dtype 12 [3,5,40,], got dtype 12 [2,5,]"),
        (1, (3,), "bool", "leading dimensions of dtype 12 [3,5,40,], got dtype 1 [3,]"),
        (2, (3,), "float64", "leading dimensions of dtype 12 [3,5,40,], got dtype 12 [3,]"),
        (4, (3, 5), "float64", "batch_dimensions must be from 0 to 3, got 4"),
        (-1, (3, 5), "float64", "batch_dimensions must be from 0 to 3, got -1"),
    ],
)
def test_operands_and_results_have_one_batch_and_numbers_that_kernels_know(
    batch_dimensions, shape, dtype, message
):
    f = jax.ffi.ffi_call(cuda.TARGET, jax.ShapeDtypeStruct(shape, dtype))
    lists = {name: np.array(getattr(ROWS, name), np.int64) for name in ("slots", "sizes")}
    attributes = {**ROWS._asdict(), **lists, "batch_dimensions": batch_dimensions}
    text = error_of(f, matrices(3), **attributes)
    assert "INVALID_ARGUMENT: jaxqr: " in text
    assert message in text


def test_a_kernel_that_was_not_built_is_an_error(gpu, tmp_path):
    text = error_of(sum_rows, matrices(3), kernel="nothing")
    assert f"jaxqr: cannot read the kernel's file {gpu.kernels.built.ptx}/nothing.ptx" in text
    (tmp_path / "sum_rows_f64.ptx").write_text(".visible .entry sum_rows()")
    with gpu.instead(ptx=tmp_path):
        text = error_of(sum_rows, matrices(3))
    assert "jaxqr: cuModuleGetFunction of sum_rows_f64: the CUDA driver says: named symbol" in text
    (tmp_path / "sum_rows_f64.ptx").write_text("no PTX at all")
    with gpu.instead(ptx=tmp_path):
        text = error_of(sum_rows, matrices(3))
    assert "cuModuleLoadData of sum_rows_f64: the CUDA driver says: a PTX JIT compilation" in text


def test_a_driver_that_is_not_there_is_an_error(gpu):
    with gpu.instead(driver="/nowhere/libcuda.so.1"):
        assert gpu.launcher.jaxqr_gpu_driver_version() == 0
        text = error_of(sum_rows, matrices(3))
    assert "jaxqr: the CUDA driver cannot be opened: /nowhere/libcuda.so.1: cannot open" in text
    assert gpu.launcher.jaxqr_gpu_driver_version() == 12020


def test_a_library_that_is_no_driver_is_an_error(gpu):
    with gpu.instead(driver=gpu.kernels.built.launcher):
        text = error_of(sum_rows, matrices(3))
    assert "jaxqr: the CUDA driver has no cuDriverGetVersion" in text


@pytest.mark.parametrize(
    "function",
    [
        *("cuStreamGetCtx", "cuCtxPushCurrent_v2", "cuThreadExchangeStreamCaptureMode"),
        *("cuModuleLoadData", "cuModuleGetFunction", "cuFuncSetAttribute", "cuLaunchKernel"),
    ],
)
def test_a_driver_that_fails_once_is_an_error_once(gpu, function):
    x = matrices(3)
    with gpu.kernels.failing(function, 2):
        text = error_of(sum_rows, x, shared=64 << 10)
    assert f"jaxqr: {function.removesuffix('_v2')}" in text
    assert text.endswith("the CUDA driver says: out of memory (error 2)"), text
    with gpu.kernels.counted("cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2") as counted:
        assert jnp.array_equal(sum_rows(x, shared=64 << 10), x.sum(-1))
    assert counted == [1, 1]


def test_an_error_that_the_driver_has_no_words_for_has_its_number(gpu):
    with gpu.kernels.failing("cuLaunchKernel", 4711):
        text = error_of(sum_rows, matrices(3))
    assert "the CUDA driver says: an unknown error (error 4711)" in text


def test_a_kernel_that_fails_is_an_error_with_what_the_driver_says():
    text = error_of(sum_rows, matrices(3), threads=128)
    assert "jaxqr: cuLaunchKernel of sum_rows_f64: the CUDA driver says: unspecified" in text
    assert "128 threads in a block, where 96 are the most (error 719)" in text


# ------------------------------------------------------------------- the package's library


@pytest.fixture
def library():
    """As the package has it: for a device, not for XLA's CPU."""
    if not cuda.LIBRARY.exists():
        pytest.skip("not built")
    library = ctypes.CDLL(str(cuda.LIBRARY))
    yield library
    library.jaxqr_gpu_open_driver(None)


def test_the_packages_launcher_opens_a_driver(library, gpu):
    library.jaxqr_gpu_open_driver(b"/nowhere/libcuda.so.1")
    assert library.jaxqr_gpu_driver_version() == 0
    library.jaxqr_gpu_open_driver(str(gpu.kernels.built.driver).encode())
    assert library.jaxqr_gpu_driver_version() == 12020
