"""What bounds the speed of a factorization: the rate of a matrix product, the time to touch memory.

Floating-point operations are counted as LAPACK working note 41 does (appendix C): what the
standard algorithm takes, whichever one a contender runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Cell
from benchmarks.contenders import jitted
from benchmarks.machine import optional
from benchmarks.timing import Call, clock, rest

# Matrices of at most so many rows or columns are held against the time to touch their memory.
SMALL = 4

_CALLS = 5
_PAUSE = 0.5


def flops(cell: Cell) -> float:
    """Counts the operations of a cell, in all of the batch, as real ones.

    For a factorization those of forming both factors, an LQ as the QR of the transpose; for least
    squares those of a QR of the deep matrix, or adjoint, and of its application to one vector.
    The choice of pivots is not counted.
    """
    *batch, m, n = cell.shape
    if cell.work.least_squares:
        deep, k = max(m, n), min(m, n)
        each = _geqrf(deep, k) + _ormqr(deep, k) + k**2
    else:
        if cell.work.kind == "lq":
            m, n = n, m
        each = _geqrf(m, n) + (0 if cell.work.kind == "r" else _orgqr(m, min(m, n)))
    return float(np.prod(batch)) * each * _real_per_complex(cell.dtype)


def peak_rates(dtypes: Iterable[str], n: int = 1500) -> dict[str, float]:
    """Measures the best rate of the product of two square matrices, NumPy's or PyTorch's.

    Args:
      dtypes: NumPy type codes.
      n: the order of the matrices.

    Returns:
      Real operations in a second, by dtype.
    """
    return {dtype: max(_rates(dtype, n)) for dtype in dtypes}


def memory_floor(cell: Cell, a: np.ndarray) -> Call | None:
    """Returns a call that reads the input and writes as much as the factors once.

    None for gradients, for least squares and for matrices that are not small: arithmetic decides.
    """
    k = min(cell.shape[-2:])
    if cell.work.gradient or cell.work.least_squares or k > SMALL:
        return None

    def touch(a: jax.Array) -> tuple[jax.Array, jax.Array]:
        return a[..., :k] + jnp.ones((), a.dtype), a[..., :k, :] * jnp.full((), 2, a.dtype)

    call = jitted(touch, a)
    call()  # compiles
    return call


def _geqrf(m: int, n: int) -> float:
    """R and the reflectors of an ``m`` by ``n`` matrix."""
    if m >= n:
        return 2 * m * n**2 - 2 / 3 * n**3 + m * n + n**2 + 14 / 3 * n
    return 2 * n * m**2 - 2 / 3 * m**3 + 3 * m * n - m**2 + 14 / 3 * m


def _orgqr(m: int, k: int) -> float:
    """The ``m`` by ``k`` matrix Q from ``k`` reflectors."""
    return 2 * m * k**2 - 2 / 3 * k**3 + 2 * k**2 - m * k - 4 / 3 * k


def _ormqr(m: int, k: int) -> float:
    """The product of Q or its adjoint, ``k`` reflectors, with one vector of ``m`` entries."""
    return 4 * m * k - 2 * k**2 + 3 * k


def _real_per_complex(dtype: str) -> int:
    return 4 if np.dtype(dtype).kind == "c" else 1


def _rates(dtype: str, n: int) -> list[float]:
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(-1, 1, (n, n)).astype(dtype) for _ in range(2))
    operations = 2 * n**3 * _real_per_complex(dtype)
    rates = [operations / _best(np.matmul, a, b)]
    if (torch := optional("torch")) is not None:
        rates.append(operations / _best(torch.matmul, *map(torch.from_numpy, (a, b))))
    return rates


def _best(product: Callable[[Any, Any], Any], a: Any, b: Any) -> float:
    """Seconds of the fastest call."""
    product(a, b)
    rest(_PAUSE)
    return min(clock(lambda: product(a, b)) for _ in range(_CALLS))
