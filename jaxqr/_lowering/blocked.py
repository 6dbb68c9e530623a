"""CUDA's routines: matrices of some size by panels, the others by cuSOLVER.

A panel is one kernel and the rest products of matrices, so a batch takes no more launches than one
matrix; cuSOLVER's routines are called for one matrix after another. So is Q applied by products.
"""

from jax import Array

from jaxqr._lowering import cuda, cuda_pivoted, portable
from jaxqr._lowering.by_columns import WIDTH
from jaxqr._lowering.compact_wy import apply_reflectors, form_reflectors_in_blocks
from jaxqr._lowering.lapack import CUSOLVER


class Blocked:
    """The routines where kernels or products take the place of cuSOLVER's."""

    name = CUSOLVER.name

    def geqrf(self, a: Array) -> list[Array]:
        """Factor a matrix; give (h, tau)."""
        *_, m, n = a.shape
        return portable.geqrf(a) if _is_served(m, min(m, n), a) else CUSOLVER.geqrf(a)

    def geqp3(self, a: Array) -> list[Array]:
        """Factor with column pivoting; give (h, tau, p), p counted from 0."""
        return cuda_pivoted.geqp3(a) if cuda.available() else portable.geqp3(a)

    def orgqr(self, h: Array, tau: Array) -> list[Array]:
        """Form the leading columns of Q."""
        if _is_served(h.shape[-2], tau.shape[-1], h):
            return [form_reflectors_in_blocks(h, tau, WIDTH)]
        return CUSOLVER.orgqr(h, tau)

    def ormqr(self, h: Array, tau: Array, c: Array, *, left: bool, adjoint: bool) -> list[Array]:
        """Apply Q or its adjoint to `c` from the left or the right."""
        if not cuda.available():
            return CUSOLVER.ormqr(h, tau, c, left=left, adjoint=adjoint)
        return [apply_reflectors(h, tau, c, left=left, adjoint=adjoint, width=WIDTH)]


def _is_served(m: int, k: int, a: Array) -> bool:
    return k > WIDTH and cuda.serves_panel(m, a.dtype)


BLOCKED = Blocked()
