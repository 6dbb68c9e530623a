"""Random problems for the CUDA kernels, emulated on this CPU: run as a script.

    python random_gpu_cases.py DRIVER CASES SECONDS

DRIVER is the stand-in for NVIDIA's driver, with the kernels. As for the CPU's kernels, the seed is
fixed, a law that does not hold ends the process with 1, and JAX is not imported.
"""

import sys
import types
from pathlib import Path

import numpy as np

from laws_of_derivatives import derivatives, not_finite_derivatives
from laws_of_factors import factorization, graded, not_finite, pivots
from laws_of_gpu import panel, pivot_steps, signs
from laws_of_least_squares import dependent, least_squares, not_finite_sides
from problems import LETTERS
from random_cases import run_case, run_cases

TESTS = Path(__file__).resolve().parents[1]


def import_library():
    """Import what calls the kernels, of the package the modules that it needs alone."""
    for name in ("jaxqr", "jaxqr._lowering"):  # their own code would import JAX
        package = types.ModuleType(name)
        package.__path__ = [str(TESTS.parent / name.replace(".", "/"))]
        sys.modules[name] = package
    sys.path.append(str(TESTS))
    import emulated_kernels
    import gpu_kernels

    return emulated_kernels, gpu_kernels


def problem(rng):
    """A dtype, a batch size and a shape that have a kernel, mostly: small, or of few columns."""
    kind, dtype = rng.random(), np.dtype(LETTERS[rng.integers(4)])
    if kind < 0.5:
        batch, m, n = rng.integers(1, 70), *rng.integers(1, 12, 2)
    elif kind < 0.75:
        batch, m, n = rng.integers(1, 9), *rng.integers(1, 33, 2)
    else:
        n = rng.integers(1, 33)
        batch, m = rng.integers(1, 4), n + rng.integers(0, 2 ** rng.integers(1, 10))
    return dtype, int(batch), int(m), int(n)


def main() -> int:
    emulated_kernels, gpu_kernels = import_library()

    class Library(gpu_kernels.GpuLibrary):
        problem = staticmethod(problem)

        @staticmethod
        def forms_whole_q(m, n):
            return n < m <= 32

    driver = Path(sys.argv[1])
    built = emulated_kernels.Built(driver, driver, driver.with_name("ptx"))
    kernels = emulated_kernels.Kernels(built)
    libraries = [Library(kernels, backwards=backwards) for backwards in (False, True)]

    def run(seed):
        run_case(libraries[seed % 2], LAWS, seed, unserved=gpu_kernels.NotServed)

    return run_cases(run, int(sys.argv[2]), float(sys.argv[3]))


LAWS = {
    graded: 0.1,
    factorization: 0.3,
    pivots: 0.08,
    not_finite: 0.05,
    derivatives: 0.15,
    not_finite_derivatives: 0.05,
    least_squares: 0.08,
    dependent: 0.04,
    not_finite_sides: 0.03,
    panel: 0.06,
    signs: 0.03,
    pivot_steps: 0.03,
}

if __name__ == "__main__":
    sys.exit(main())
