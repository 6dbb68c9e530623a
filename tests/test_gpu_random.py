"""Random problems for the CUDA kernels, emulated, obey the laws of the CPU's kernels."""

import gpu_sanitizers
from gpu_kernels import all_kernels
from surroundings import needs_emulation, python

pytestmark = needs_emulation
# what is built fast: of one dtype the smallest sizes, of which every kernel has one
FEW = ".*_c64(_4|_8.*)?$"


def test_random_problems():
    done = python(gpu_sanitizers.SCRIPT, all_kernels().built.driver, 400, 200)
    assert done.stdout.startswith("400 cases"), done.stdout


def test_a_few_kernels_under_sanitizers():
    """10000 problems for all of them: ``gpu_sanitizers.py``, nightly."""
    done = gpu_sanitizers.sanitize("address", 200, 200, FEW)
    assert done.returncode == 0 and "200 cases" in done.stdout, done.stdout[-10000:]
