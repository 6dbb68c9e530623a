"""CUDA's routines: matrices of some size by panels, the others by cuSOLVER.

A panel is one kernel and the rest products of matrices, so a batch takes no more launches than one
matrix; cuSOLVER's routines are called for one matrix after another. So is Q applied by products.
"""

import numpy as np
from jax import Array, export
from jax.core import min_dim

from jaxqr._lowering import cuda, cuda_pivoted, portable
from jaxqr._lowering.by_columns import WIDTH
from jaxqr._lowering.compact_wy import apply_reflectors, form_reflectors_in_blocks
from jaxqr._lowering.lapack import CUSOLVER

MOST_REFLECTORS = 1024  # that products form Q of: T is as large


class Blocked:
    """The routines where kernels or products take the place of cuSOLVER's."""

    name = CUSOLVER.name

    def geqrf(self, a: Array) -> list[Array]:
        """Factor a matrix; give (h, tau)."""
        *batch, m, n = a.shape
        k = min_dim(m, n)
        if not cuda.available() or export.is_symbolic_dim(k):
            return CUSOLVER.geqrf(a)
        dtype = np.dtype(a.dtype)
        found = cuda.compute(
            "qr",
            [a],
            [(a.shape, dtype), ((*batch, k), dtype)],
            batch_ndim=len(batch),
            outputs=("h", "tau"),
            pivoting="none",
            transposed=False,
        )
        if found is not None:
            return found
        if k > WIDTH and cuda.serves_panel(m, a.dtype):
            return portable.geqrf(a)
        return CUSOLVER.geqrf(a)

    def geqp3(self, a: Array) -> list[Array]:
        """Factor with column pivoting; give (h, tau, p), p counted from 0."""
        return cuda_pivoted.geqp3(a) if cuda.available() else portable.geqp3(a, ask=False)

    def orgqr(self, h: Array, tau: Array) -> list[Array]:
        """Form the leading columns of Q."""
        if cuda.available() and tau.shape[-1] <= MOST_REFLECTORS:
            return [form_reflectors_in_blocks(h, tau, WIDTH)]
        return CUSOLVER.orgqr(h, tau)

    def ormqr(self, h: Array, tau: Array, c: Array, *, left: bool, adjoint: bool) -> list[Array]:
        """Apply Q or its adjoint to `c` from the left or the right."""
        if not cuda.available():
            return CUSOLVER.ormqr(h, tau, c, left=left, adjoint=adjoint)
        return [apply_reflectors(h, tau, c, left=left, adjoint=adjoint, width=WIDTH)]


BLOCKED = Blocked()
