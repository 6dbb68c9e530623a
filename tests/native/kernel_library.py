"""The kernels' plain functions, on NumPy's arrays. JAX is not imported."""

import ctypes
import importlib.util
from pathlib import Path

import numpy as np

from problems import problem

NONE, EXACT, RANDOMIZED = range(3)  # of the kernels' enumeration of ways to pivot
PIVOTING = (NONE, NONE, NONE, EXACT, RANDOMIZED)  # how often each is tried


class Library:
    """The kernels' plain functions, on NumPy's arrays."""

    problem = staticmethod(problem)

    @staticmethod
    def forms_whole_q(m, n):
        """Whether to ask for all columns of Q."""
        return n < m < 400

    def __init__(self, path):
        # by its path: importing the package would import JAX
        file = Path(__file__).parents[2] / "jaxqr" / "_lowering" / "blas_addresses.py"
        spec = importlib.util.spec_from_file_location("blas_addresses", file)
        blas_addresses = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(blas_addresses)
        self.library = ctypes.CDLL(path)
        self.library.jaxqr_set_routines(blas_addresses.find_addresses())

    def factor(self, a, outputs, *, transposed, pivoting, most=2**62):
        """`a` has the order of `transposed`: its matrices are the transposes of A."""
        *_, m, n = a.shape if not transposed else (*a.shape[:-2], *a.shape[:-3:-1])
        k = min(m, n, most)
        shapes = {"q": (m, k), "q_full": (m, m), "r": (k, n), "h": (m, n)}
        results = {}
        for name in outputs:
            if name in shapes:
                shape = shapes[name][::-1] if transposed else shapes[name]
                results[name] = np.full((len(a), *shape), 77, a.dtype)
            elif name == "tau":
                results[name] = np.full((len(a), k), 77, a.dtype)
            else:
                results[name] = np.full((len(a), n), 77, np.int32)
        names = ("q", "q_full", "r", "h", "tau", "p")
        self.library.test_factor(
            *self._head(a, m, n),
            ctypes.c_bool(transposed),
            ctypes.c_int(pivoting),
            ctypes.c_long(most),
            *map(pointer, [a, *(results.get(name) for name in names)]),
        )
        if transposed:
            flip = shapes.keys() & results.keys()
            results.update((name, np.swapaxes(results[name], -1, -2)) for name in flip)
        return results

    def solve(self, t, b, **flags):
        x = np.full_like(b, 77)
        names = ("left", "lower", "transpose", "conjugate", "unit")
        chosen = [ctypes.c_bool(flags[name]) for name in names]
        head = self._head(t, t.shape[1], *b.shape[1:])
        self.library.test_solve(*head, *chosen, *map(pointer, (t, b, x)))
        return x

    def form(self, h, tau):
        q = np.full_like(h, 77)
        sizes = (*h.shape[1:], tau.shape[1])
        self.library.test_form(*self._head(h, *sizes), *map(pointer, (h, tau, q)))
        return q

    def apply(self, h, tau, c, *, left, adjoint):
        out = np.full_like(c, 77)
        sizes = (*h.shape[1:], *c.shape[1:])
        flags = map(ctypes.c_bool, (left, adjoint))
        self.library.test_apply(*self._head(h, *sizes), *flags, *map(pointer, (h, tau, c, out)))
        return out

    def derivative(self, q, r, da, dq, dr, *, transposed, pivoted, forward):
        m, n = q.shape[-1 if transposed else -2], r.shape[-2 if transposed else -1]
        flags = map(ctypes.c_bool, (transposed, pivoted, forward))
        self.library.test_derivative(
            *self._head(q, m, n), *flags, *map(pointer, (q, r, da, dq, dr))
        )

    def decompose(self, a, rcond, *, pivoting, twice):
        batch, m, n = a.shape
        inner, extra = (n if twice else 0), (n if pivoting else 0)
        shapes = ((m, n), (n,), (inner, inner), (inner,), (extra,), (), (extra, extra), (extra,))
        dtypes = [a.dtype] * 4 + [np.int32] * 2 + [a.dtype] * 2
        factors = [np.full((batch, *s), 77, t) for s, t in zip(shapes, dtypes, strict=True)]
        given = [None if x.shape[-1:] == (0,) else x for x in factors]
        self.library.test_decompose(
            *self._head(a, m, n), ctypes.c_double(rcond), *map(pointer, [a, *given])
        )
        return given

    def pseudoinverse(self, a, factors, operation, v):
        number = ("solve", "solve_adjoint", "gram", "null").index(operation)
        rows = a.shape[-2 if operation == "solve_adjoint" else -1]
        out = np.full((len(v), rows, v.shape[-1]), 77, v.dtype)
        self.library.test_pseudoinverse(
            *self._head(a, *a.shape[1:], v.shape[-1]),
            number,
            *map(pointer, [*factors, v, out]),
        )
        return out

    def least_squares(self, a, b, rcond, *, pivoting):
        batch, m, n = a.shape
        x = np.full((batch, n, b.shape[-1]), 77, a.dtype)
        residuals = np.full((batch, b.shape[-1]), 77, a.real.dtype)
        rank = np.full((batch,), 77, np.int32)
        self.library.test_least_squares(
            *self._head(a, m, n, b.shape[-1]),
            ctypes.c_bool(pivoting),
            ctypes.c_double(rcond),
            *map(pointer, (a, b, x, residuals, rank)),
        )
        return x, residuals, rank

    def _head(self, a, *sizes):
        return ctypes.c_char(a.dtype.char.encode()), *map(ctypes.c_long, (len(a), *sizes))


def pointer(x):
    """The address of a dense array; null for None."""
    assert x is None or x.flags.c_contiguous
    return ctypes.c_void_p(None if x is None else x.ctypes.data)
