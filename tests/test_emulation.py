"""CUDA on a CPU (``native/gpu``): what it is for is to see what is wrong with a kernel."""

import itertools
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import emulated_examples
import sanitizers
from emulated_examples import DTYPES, THREADS, difference
from emulated_kernels import EXAMPLES, Kernels, Misuse, build
from laws import mostly_nightly

pytestmark = pytest.mark.skipif(
    sanitizers.COMPILER is None or platform.system() != "Linux", reason="no compiler"
)
both_orders = pytest.mark.parametrize("backwards", [False, True])


@pytest.fixture(scope="module")
def kernels():
    return Kernels(build(emulated_examples.INSTANCES, EXAMPLES))


@both_orders
@pytest.mark.parametrize("kernel", ["sum_rows_f32", "sum_rows_f64", "pass_on_f32", "transpose_f64"])
def test_right_kernels_are_right_in_both_orders(kernels, kernel, backwards):
    assert difference(kernels, kernel, backwards) == 0


@pytest.mark.parametrize("kernel", ["sum_rows_lacks_first_f64", "sum_rows_lacks_second_f64"])
def test_a_kernel_that_lacks_a_barrier_is_wrong_in_one_of_the_orders(kernels, kernel):
    found = [difference(kernels, kernel, backwards) for backwards in (False, True)]
    assert sorted(x == 0 for x in found) == [False, True]


OPERATIONS = ("shfl", "up", "down", "xor", "ballot", "any", "all")


def expected_exchange(x, operation, argument, width, size):
    """As the CUDA programming guide has it: what each thread gets."""
    y = np.empty_like(x)
    for thread, lane in enumerate(np.arange(len(x)) % 32):
        first = lane // width * width
        team = thread - lane % size
        votes = x[team : team + size] > argument
        sources = {
            "shfl": first + argument % width,
            "up": lane - argument if lane - argument >= first else lane,
            "down": lane + argument if lane + argument < first + width else lane,
            "xor": lane ^ argument if lane ^ argument < first + width else lane,
        }
        if operation in sources:
            y[thread] = x[thread - lane + sources[operation]]
        elif operation == "ballot":
            y[thread] = np.uint32(sum(1 << i for i in np.flatnonzero(votes))).astype(x.dtype)
        else:
            y[thread] = {"any": votes.any(), "all": votes.all()}[operation]
    return y


@both_orders
@pytest.mark.parametrize("width, size", [(32, 32), (8, 32), (8, 8), (2, 16)])
@pytest.mark.parametrize("dtype", ["f32", "f64", "s32", "u32"])
def test_every_exchange_gives_what_cuda_gives(kernels, dtype, width, size, backwards):
    x = np.random.default_rng(3).integers(0, 20, THREADS).astype(DTYPES[dtype])
    for operation, argument in itertools.product(OPERATIONS, (0, 1, 3, 7)):
        y = np.full_like(x, 77)
        sizes = (OPERATIONS.index(operation), argument, width, size)
        kernels.run(
            f"exchange_{dtype}",
            {0: x, 1: y},
            sizes,
            batch=1,
            threads=THREADS,
            backwards=backwards,
        )
        want = expected_exchange(x, operation, argument, width, size)
        assert np.array_equal(y, want), (operation, argument)


MISUSES = [
    "for thread 0, which has returned|threads 0, 32-95 have returned; threads 1-31 wait at",
    "no thread can go on: .*wait at __shfl_sync.*threads 5, 37, 69 wait at __syncthreads",
    "calls __ballot_sync with mask 0x00000001 .*, which lacks its own lane",
    "asks for the value of lane 16 at __shfl_sync with mask 0x0000ffff, width 32 .* lacks that",
    "comes to __a.._sync .*, but thread [0-9]* waits at __a.._sync",
    "no thread can go on: .*wait at __syncwarp with mask 0x0000ffff",
    "comes to __syncthreads .*, but thread [0-9]* waits at __syncthreads",
    "distance 32 at __shfl_up_sync .* is not below 32",
    "width 12 at __shfl_down_sync .* is no power of two",
    "writes outside of its 64 bytes of shared memory",
    "writes outside of its 64 bytes of shared memory",
    "comes to __shfl_xor_sync .*width [0-9]* .*, but thread [0-9]* waits at __shfl_xor_sync",
]


def misuse(kernels, which, backwards=False):
    kernels.run("misuse_f32", {}, (which,), batch=1, threads=96, shared=64, backwards=backwards)


@both_orders
@pytest.mark.parametrize("which", range(len(MISUSES)))
def test_what_no_kernel_may_do_ends_the_run_and_is_described(kernels, which, backwards):
    with pytest.raises(Misuse, match=f"({MISUSES[which]}).*, in block 0$"):
        misuse(kernels, which, backwards)
    assert difference(kernels, "sum_rows_f64", backwards) == 0  # it leaves nothing behind


@pytest.mark.parametrize(
    "threads, shared, message",
    [
        (THREADS + 32, 0, f"{THREADS + 32} threads in a block, where {THREADS} are the most"),
        (0, 0, "0 threads in a block"),
        (32, (227 << 10) + 1, "bytes of shared memory, where 232448 are the most"),
    ],
)
def test_a_launch_beyond_the_limits_is_refused(kernels, threads, shared, message):
    with pytest.raises(Misuse, match=message):
        kernels.run("misuse_f32", {}, (99,), batch=1, threads=threads, shared=shared)


def test_a_block_finds_nothing_but_nan_in_its_shared_memory(kernels):
    y = np.zeros((4, THREADS), np.float32)
    kernels.run(
        "uninitialized_f32", {1: y}, (THREADS,), batch=4, threads=THREADS, shared=4 * THREADS
    )
    assert np.all(np.isnan(y))


def test_several_threads_may_launch_at_a_time(kernels):
    names = ["sum_rows_f64", "transpose_f64", "pass_on_f32"] * 20
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: difference(kernels, names[i], i % 2 == 0), range(60)))
    assert found == [0] * 60


# ----------------------------------------------------------------------------- sanitizers


def run_under(sanitizer, kernel, *, flags=()):
    """Run an example in a process of its own; give whether all went well, and what was printed."""
    built = build(emulated_examples.INSTANCES, EXAMPLES, (*sanitizers.FLAGS[sanitizer], *flags))
    script = Path(emulated_examples.__file__)
    done = sanitizers.run_under(sanitizer, script, built.driver, kernel, 0, timeout=100)
    return done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "sanitizer, flags",
    mostly_nightly(
        [("thread", ()), ("address", ()), ("address", ("-DJAXQR_UCONTEXT",))],
        lambda sanitizer, flags: sanitizer == "thread",
    ),
)
def test_right_kernels_pass_every_sanitizer(sanitizer, flags):
    for kernel in ("sum_rows_f64", "pass_on_f32"):
        good, text = run_under(sanitizer, kernel, flags=flags)
        assert good and "difference 0.0" in text, text


@pytest.mark.parametrize(
    "kernel",
    [
        *("sum_rows_lacks_first_f64", "sum_rows_lacks_second_f64"),
        *("pass_on_lacks_first_f32", "add_blocks_f64"),
    ],
)
def test_the_thread_sanitizer_finds_every_race_though_the_result_be_right(kernel):
    good, text = run_under("thread", kernel)
    assert not good
    assert "data race" in text and "examples.cu" in text, text
