"""Least squares by the triangle of [A b], where kernels for CUDA serve the shape.

Q is never formed: R and Q^H b are rows of the triangle, and the columns of b below them are what is
left of b. Two kernels do it, one for the triangle and one for what follows from it, and the device
never waits for the host.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxqr._core.algebra import where
from jaxqr._factor.qr_primitive import factor
from jaxqr._lowering import cuda
from jaxqr._lowering.cuda_instances import MOST_COLUMNS


def solve_by_triangle(
    a: Array, b: Array, *, rcond: float | None, pivoting: bool
) -> list[Array] | None:
    """Solve deep problems; give x, residuals and rank, or None where no kernel serves the shape."""
    *batch, _, n = a.shape
    s = b.shape[-1]
    if 0 in (*a.shape, *b.shape):
        return None
    # What is not finite in one column of b would spoil the others.
    finite = jnp.all(jnp.isfinite(b), axis=-2, keepdims=True)
    if n + s > MOST_COLUMNS:
        return None
    joined = jnp.concatenate([a, where(finite, b)], axis=-1)
    triangle = _factor_joined(joined, n, pivoting)
    if triangle is None:
        return None
    real = jnp.finfo(a.dtype).dtype
    results = [((*batch, n, s), a.dtype), ((*batch, s), real), (tuple(batch), np.dtype(np.int32))]
    found = cuda.compute(
        "least_squares", triangle, results, batch_ndim=a.ndim - 2, columns=n, rcond=rcond
    )
    if found is None:
        return None
    x, residuals, rank = found
    nothing = jnp.array(jnp.nan, real)
    return [
        where(finite, x, jnp.full_like(x, jnp.nan)),
        where(finite[..., 0, :], residuals, jnp.broadcast_to(nothing, residuals.shape)),
        rank,
    ]


def _factor_joined(joined: Array, n: int, pivoting: bool) -> list[Array] | None:
    """Factor [A b], of which A has n columns and is pivoted; give R and, if it is, the permutation.

    What is taller than a kernel holds is factored without pivoting first, with large columns in
    front, as their rounding errors would be large ones of small columns.
    """
    *batch, m, columns = joined.shape
    tall = m > cuda.limit_rows(columns, joined.dtype)
    order = None
    if tall:
        if pivoting:
            sizes = jnp.sum(jnp.abs(joined[..., :n]), axis=-2)
            order = jnp.argsort(-sizes, axis=-1).astype(jnp.int32)
            sorted_a = jnp.take_along_axis(joined[..., :n], order[..., None, :], axis=-1)
            joined = jnp.concatenate([sorted_a, joined[..., n:]], axis=-1)
        joined = factor(joined, "r")[0]
        if not pivoting:
            return [joined]
    outputs = ("r", "p") if pivoting else ("r",)
    rows = min(joined.shape[-2:])
    results = [((*batch, rows, columns), joined.dtype), ((*batch, columns), np.dtype(np.int32))]
    found = cuda.compute(
        "qr",
        [joined],
        results[: len(outputs)],
        batch_ndim=len(batch),
        outputs=outputs,
        pivoting="exact" if pivoting else "none",
        transposed=False,
        free=n,
    )
    if found is not None and order is not None:
        r, p = found
        rest = jnp.broadcast_to(jnp.arange(n, columns, dtype=jnp.int32), (*batch, columns - n))
        found = [r, jnp.take_along_axis(jnp.concatenate([order, rest], axis=-1), p, axis=-1)]
    return found
