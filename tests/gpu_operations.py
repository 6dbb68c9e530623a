"""What the CUDA kernels compute, with operands for it: for laws that hold for all of them."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from gpu_kernels import EXACT, NONE
from jaxqr._lowering.cuda_instances import MOST_COLUMNS
from matrices import normal


class Operation(NamedTuple):
    """Functions of a kernel's operands, which are matrices of a batch."""

    make: Callable[..., list[np.ndarray]]  # from a batch, a shape and a dtype to operands
    compute: Callable[..., dict[str, np.ndarray]]  # from a library and operands to results by name


def outputs_of(shape, pivoting=NONE):
    """All outputs of QR that the kernel for a shape has."""
    full = ("q_full",) if max(shape[-2:]) <= MOST_COLUMNS else ()
    return ("q", *full, "r", "h", "tau", *(("p",) if pivoting else ()))


def _factor(pivoting, library, a, **options):
    return library.factor(a, outputs_of(a.shape, pivoting), pivoting=pivoting, **options)


def make_point(batch, shape, dtype):
    """Q and R of random matrices."""
    wide = np.result_type(dtype, np.float64)
    q, r = np.linalg.qr(normal((batch, *shape), wide))
    signs = np.sign(np.diagonal(r, axis1=1, axis2=2).real)
    return [(q * signs[:, None]).astype(dtype), np.triu(r * signs[..., None]).astype(dtype)]


def _make_tangent(batch, shape, dtype):
    return [*make_point(batch, shape, dtype), normal((batch, *shape), dtype, seed=1)]


def _make_cotangent(batch, shape, dtype):
    q, r = make_point(batch, shape, dtype)
    return [q, r, normal(q.shape, dtype, seed=2), normal(r.shape, dtype, seed=3)]


def push(library, q, r, da, *, outputs=("q", "r"), pivoted=False, transposed=False):
    """Tangents of Q and R."""
    like = {"q": q, "r": r}
    found = {name: np.empty_like(like[name]) for name in outputs}
    options = {"transposed": transposed, "pivoted": pivoted, "forward": True}
    library.derivative(q, r, da, found.get("q"), found.get("r"), **options)
    return {f"d{name}": x for name, x in found.items()}


def pull(library, q, r, qbar, rbar, *, pivoted=False, transposed=False):
    """The cotangent of A."""
    m, n = q.shape[-1 if transposed else -2], r.shape[-2 if transposed else -1]
    abar = np.empty((len(q), *((n, m) if transposed else (m, n))), q.dtype)
    options = {"transposed": transposed, "pivoted": pivoted, "forward": False}
    library.derivative(q, r, abar, qbar, rbar, **options)
    return {"abar": abar}


def _make_least_squares(batch, shape, dtype):
    m, n = shape
    return [normal((batch, m, n), dtype), normal((batch, m, 2), dtype, seed=1)]


def _solve(pivoting, library, a, b):
    found = library.least_squares(a, b, pivoting=pivoting)
    return dict(zip(("x", "residuals", "rank"), found, strict=True))


def _make_panel(batch, shape, dtype):
    m, n = shape
    return [normal((batch, n, m), dtype), np.arange(batch) % (m - n + 1)]


def _factor_panel(library, at, first):
    return dict(zip(("h", "tau", "t"), library.panel(at, first), strict=True))


def _make_signs(batch, shape, dtype):
    q, r = make_point(batch, shape, dtype)
    return [q[:, : shape[1]], np.diagonal(r, axis1=1, axis2=2).real]


def _find_signs(library, top, beta):
    return dict(zip(("signs", "lu"), library.signs(top, beta), strict=True))


def _make_matrices(batch, shape, dtype):
    return [normal((batch, *shape), dtype)]


OPERATIONS = {
    "plain": Operation(_make_matrices, partial(_factor, NONE)),
    "pivoted": Operation(_make_matrices, partial(_factor, EXACT)),
    "tangent": Operation(_make_tangent, push),
    "cotangent": Operation(_make_cotangent, pull),
    "pivoted tangent": Operation(_make_tangent, partial(push, pivoted=True)),
    "pivoted cotangent": Operation(_make_cotangent, partial(pull, pivoted=True)),
    "least squares": Operation(_make_least_squares, partial(_solve, False)),
    "pivoted least squares": Operation(_make_least_squares, partial(_solve, True)),
    "panel": Operation(_make_panel, _factor_panel),
    "signs": Operation(_make_signs, _find_signs),
}
