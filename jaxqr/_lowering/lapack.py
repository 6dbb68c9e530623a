"""LAPACK's routines through the custom calls that jaxlib registers.

cuSOLVER and hipSOLVER take LAPACK's operands under names without a letter for the dtype.
Neither has a pivoted factorization; that one is portable there, so it stays on the device.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import min_dim

from jaxqr._core.scaling import column_scale
from jaxqr._core.undocumented import prepare_lapack_call, wide_dtypes_exist
from jaxqr._lowering import kernels
from jaxqr._lowering.custom_call import Result, call_target


class Library:
    """The routines of one library; `target` names the custom call of a routine."""

    def __init__(self, name: str, target: Callable[[str, np.dtype], str]) -> None:
        """Take the name that users are told, and the rule by which targets are named."""
        self.name = name
        self._target = target

    def geqrf(self, a: Array) -> list[Array]:
        """Factor a matrix; give (h, tau)."""
        return call_target(
            self._target("geqrf", a.dtype),
            [a],
            [Result(a.shape, a.dtype), _tau(a)],
            batch_ndim=a.ndim - 2,
            aliases={0: 0},
        )

    def geqp3(self, a: Array) -> list[Array]:
        """Factor with column pivoting; give (h, tau, p), p counted from 0.

        Where columns of single precision differ so much that squares leave its range, LAPACK
        mistakes their norms; double precision, where it exists, has the range.
        """
        wide = np.promote_types(a.dtype, np.float64)
        if a.dtype == wide or not wide_dtypes_exist():
            return self.geqp3_of_even_columns(a)
        uneven = jnp.max(column_scale(a), axis=-1) > 2.0**40

        def widen() -> list[Array]:
            narrow = self.geqp3_of_even_columns(a)
            wider = self.geqp3_of_even_columns(a.astype(wide))
            # The other matrices of the batch keep theirs.
            return [
                jnp.where(uneven[..., None] if x.ndim == a.ndim else uneven, y.astype(x.dtype), x)
                for x, y in zip(narrow, wider, strict=True)
            ]

        return lax.cond(jnp.any(uneven), widen, lambda: self.geqp3_of_even_columns(a))

    def geqp3_of_even_columns(self, a: Array) -> list[Array]:
        """Do the same for columns that do not differ so much, by one call of the matrix's dtype."""
        # Zero means that a column is free to move. LAPACK counts from 1.
        free = jnp.zeros((*a.shape[:-2], a.shape[-1]), jnp.int32)
        h, jpvt, tau = call_target(
            self._target("geqp3", a.dtype),
            [a, free],
            [Result(a.shape, a.dtype), Result(free.shape, free.dtype), _tau(a)],
            batch_ndim=a.ndim - 2,
            aliases={0: 0, 1: 1},
        )
        return [h, tau, jpvt - 1]

    def orgqr(self, h: Array, tau: Array) -> list[Array]:
        """Form the leading columns of Q."""
        return call_target(
            self._target("orgqr", h.dtype),
            [h, tau],
            [Result(h.shape, h.dtype)],
            batch_ndim=h.ndim - 2,
            aliases={0: 0},
        )

    def ormqr(self, h: Array, tau: Array, c: Array, *, left: bool, adjoint: bool) -> list[Array]:
        """Apply Q or its adjoint to `c` from the left or the right."""
        return call_target(
            self._target("ormqr", h.dtype),
            [h, tau, c],
            [Result(c.shape, c.dtype)],
            batch_ndim=h.ndim - 2,
            aliases={2: 0},
            attributes={"left": left, "transpose": adjoint},
        )


def _tau(a: Array) -> Result:
    *batch, m, n = a.shape
    return Result((*batch, min_dim(m, n)), a.dtype)


def _lapack_target(routine: str, dtype: np.dtype) -> str:
    if jnp.issubdtype(dtype, jnp.complexfloating) and routine.startswith("or"):
        routine = "un" + routine[2:]  # orthogonal for real, unitary for complex matrices
    # This fetches SciPy's LAPACK pointers. It takes time, so it is not done on import.
    return prepare_lapack_call(routine, dtype)


LAPACK = Library("LAPACK", _lapack_target)
CUSOLVER = Library("cuSOLVER", lambda routine, dtype: f"cusolver_{routine}_ffi")
HIPSOLVER = Library("hipSOLVER", lambda routine, dtype: f"hipsolver_{routine}_ffi")

if not kernels.REGISTERED[0]:
    # A program that was compiled elsewhere and is loaded here calls LAPACK with no lowering before,
    # and jaxlib does not look whether it has the pointers.
    prepare_lapack_call("geqrf", np.float32)
