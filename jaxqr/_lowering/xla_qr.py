"""XLA's own QR, which its TPU compiler expands into blocked Householder reflections.

The expansion exists on every back end; XLA's batch is the leading dimensions, its tau LAPACK's.
"""

from jax import Array
from jax.core import min_dim

from jaxqr._core.algebra import row_minus_column, where
from jaxqr._core.scaling import column_scale, scale_by, unscale_by
from jaxqr._lowering.custom_call import Result, call_target


class Expander:
    """The two routines that XLA has. The others are portable on its platform."""

    name = "XLA"

    def geqrf(self, a: Array) -> list[Array]:
        """Factor a matrix; give (h, tau)."""
        *batch, m, n = a.shape
        results = [Result(a.shape, a.dtype), Result((*batch, min_dim(m, n)), a.dtype)]
        # XLA squares entries as they are: where a column's squares underflow, complex reflectors
        # are silently not unitary. A power of two for each column changes R and nothing else.
        scale = column_scale(a)
        h, tau = call_target(
            "Qr", [scale_by(a, scale)], results, batch_ndim=len(batch), api_version=1
        )
        return [where(row_minus_column(h) <= 0, unscale_by(h, scale), h), tau]

    def orgqr(self, h: Array, tau: Array) -> list[Array]:
        """Form the leading columns of Q."""
        return call_target(
            "ProductOfElementaryHouseholderReflectors",
            [h, tau],
            [Result(h.shape, h.dtype)],
            batch_ndim=h.ndim - 2,
            api_version=1,
        )


XLA = Expander()
