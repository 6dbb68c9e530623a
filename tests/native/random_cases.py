"""Random problems for the kernels, judged by LAPACK and by the plain rules: run as a script.

    python random_cases.py LIBRARY CASES SECONDS [CALLERS]

LIBRARY is the kernels with driver.cc; CALLERS threads call it at once. The seed is fixed, so a case
that fails can be had again. Exits with 1 at the first law that does not hold; a sanitizer ends the
process by itself. JAX is not imported: the sanitizers would have to live with its libraries.
"""

import ctypes
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from kernel_library import Library
from laws_of_derivatives import derivatives, not_finite_derivatives
from laws_of_factors import (
    factorization,
    graded,
    leading_pivots,
    not_finite,
    pivots,
    random_pivots,
    reflectors,
)
from laws_of_least_squares import (
    decomposition,
    dependent,
    least_squares,
    not_finite_sides,
    triangles,
)
from laws_of_nothing import empty


def main() -> int:
    path, cases, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    callers = int(sys.argv[4]) if sys.argv[4:] else 1
    library = Library(path)
    check_pools_and_memory(library.library)
    return run_cases(partial(run_case, library, LAWS), cases, seconds, callers)


def run_cases(run, cases, seconds, callers=1) -> int:
    """Run cases by their seeds; give the process's exit status."""
    start = time.monotonic()

    def call(first: int) -> int:
        """Every case from `first` on that is this caller's."""
        for done, seed in enumerate(range(first, cases, callers)):
            if time.monotonic() - start > seconds:
                return done
            run(seed)
        return len(range(first, cases, callers))

    with ThreadPoolExecutor(callers) as pool:
        done = sum(pool.map(call, range(callers)))
    if done < cases:
        print(f"time limit after {done} cases")
        return 1
    print(f"{done} cases in {time.monotonic() - start:.1f} s")
    return 0


def run_case(library, laws, seed, unserved=()):
    """Ask the library for one of the laws, which are given with how often each is asked for.

    With another problem where the library does not serve one: then it raises `unserved`. What it
    seems never to serve is passed over.
    """
    rng = np.random.default_rng(seed)
    law = rng.choice(list(laws), p=list(laws.values()))
    for _ in range(50):
        try:
            law(library, rng)
            return
        except unserved:
            pass
        except Exception:
            print(f"seed {seed}, {law.__name__}")
            raise


def check_pools_and_memory(library):
    """What no call's results tell of the kernels' loops and workspaces."""
    for name in ("test_refusing_pool", "test_throwing_body", "test_kept_bytes"):
        getattr(library, name).restype = ctypes.c_long
    assert library.test_refusing_pool(ctypes.c_long(100)) == 100
    assert library.test_throwing_body(ctypes.c_long(100)) == 99
    mib = 2**20
    kept = library.test_kept_bytes(ctypes.c_long(8), ctypes.c_long(32 * mib))
    assert 0 < kept <= 256 * mib, f"idle threads keep {kept / mib} MiB"


LAWS = {
    graded: 0.08,
    dependent: 0.04,
    not_finite_derivatives: 0.04,
    factorization: 0.265,
    triangles: 0.02,
    leading_pivots: 0.03,
    pivots: 0.08,
    random_pivots: 0.005,
    reflectors: 0.13,
    derivatives: 0.13,
    least_squares: 0.05,
    decomposition: 0.05,
    not_finite: 0.04,
    not_finite_sides: 0.02,
    empty: 0.02,
}

if __name__ == "__main__":
    sys.exit(main())
