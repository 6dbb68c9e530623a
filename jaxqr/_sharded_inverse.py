"""The pseudo-inverse of a tall matrix whose rows are spread over devices, as an operator.

A = Q R by TSQR, so A^+ = R^+ Q^H (11.4): a device multiplies by its own rows of Q, and R^+, of
which all have the decomposition, does the rest. What devices sum are blocks n x s, for s right-hand
sides.

The derivatives are those of `_pseudoinverse`, made of the same operations (11.5). For JAX to
transpose it a sum over devices must not hide in a primitive. So the primitive has the device's
share of A^+ v, of which nothing but the sum is used; and of that share's derivative nothing but the
sum matters either: it is the p-th part of the sum's (11.6).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.interpreters import ad

from jaxqr._algebra import H, column_scale, mm
from jaxqr._linear import products
from jaxqr._primitive import CoreResult, Shape, derivatives, is_zero, make, zero_tangent
from jaxqr._pseudoinverse import RANKS, RULES, Pseudoinverse, pseudoinverse
from jaxqr._row_blocks import varying
from jaxqr._tsqr import factor


class ShardedInverse(NamedTuple):
    """Of the deep matrix A with row blocks `a` along the mesh axes `axes`."""

    a: Array
    q: Array  # the block of Q
    triangle: Pseudoinverse  # that of R
    axes: tuple[str, ...]

    @property
    def pivoting(self) -> bool:
        """Whether the rank was looked for."""
        return self.triangle.pivoting

    @property
    def rank(self) -> Array:
        """Of each matrix."""
        return self.triangle.rank

    def solve(self, v: Array) -> Array:
        """A^+ v, of row blocks v."""
        return self._sum(self.apply("share", v))

    def solve_adjoint(self, u: Array) -> Array:
        """A^{+H} u, in row blocks."""
        return self.apply("spread", varying(u, self.axes))

    def gram(self, u: Array) -> Array:
        """(A^H A)^+ u."""
        return self.apply("gram", u)

    def null(self, u: Array) -> Array:
        """(I - A^+ A) u: exactly zero where the rank is full."""
        return self.apply("null", u) if self.pivoting else jnp.zeros_like(u)

    def products(self, da: Array, x: Array, y: Array) -> tuple[Array, Array]:
        """Of a tangent dA: dA x in row blocks, and dA^H y of row blocks y."""
        da_x, ha_y = products(da, varying(x, self.axes), y)
        return da_x, self._sum(ha_y)

    def scale_of(self, x: Array) -> Array:
        """A power of two by which A is neither large nor small: devices know no more of all x."""
        del x
        return column_scale(self.triangle.a[..., :1, :1])

    def apply(self, operation: str, v: Array) -> Array:
        """One of the primitive's operations."""
        return sharded_inverse_p.bind(
            self.a,
            self.q,
            self.triangle.a,
            *self.triangle.factors,
            v,
            operation=operation,
            pivoting=self.pivoting,
            axes=self.axes,
        )[0]

    def _sum(self, x: Array) -> Array:
        return lax.psum(x, self.axes)


def sharded_inverse(
    a: Array, *, rcond: float | None, pivoting: bool, axes: tuple[str, ...]
) -> ShardedInverse:
    """Factor a deep matrix of row blocks; without `pivoting` its rank is full by assumption."""
    a = varying(a, axes)
    q, r = factor("lstsq", lax.stop_gradient(a), axes=axes)  # constants of the operations
    return ShardedInverse(a, q, pseudoinverse(r, rcond=rcond, pivoting=pivoting), axes)


# -------------------------------------------------------------------------------- shape rule


def _results(a: Shape, *operands: Shape, operation: str, **params: Any) -> list[CoreResult]:
    rows = a[0] if operation == "spread" else a[1]
    return [((rows, operands[-1][1]), None)]


# ---------------------------------------------------------------------------------- lowering


def _compute(
    a: Array, q: Array, r: Array, *operands: Array, operation: str, pivoting: bool, **params: Any
) -> list[Array]:
    *factors, v = operands
    triangle = Pseudoinverse(r, tuple(factors), pivoting)
    if operation == "share":
        return [triangle.solve(mm(H(q), v))]
    if operation == "spread":
        return [mm(q, triangle.solve_adjoint(v))]
    return [triangle.apply(operation, v)]


# --------------------------------------------------------------------------------------- JVP


def _inverse(operands: Sequence[Array], pivoting: bool, axes: tuple[str, ...]) -> ShardedInverse:
    a, q, r, *factors = operands
    return ShardedInverse(a, q, Pseudoinverse(r, tuple(factors), pivoting), axes)


def _jvp(
    primals: Sequence[Array],
    tangents: Sequence[Any],
    *,
    operation: str,
    pivoting: bool,
    axes: tuple[str, ...],
) -> Any:
    *fixed, v = primals
    da, *_, dv = tangents
    inverse = _inverse(fixed, pivoting, axes)
    out = inverse.apply(operation, v)
    if is_zero(da) and is_zero(dv):
        return [out], [zero_tangent(out)]
    if is_zero(da):
        return [out], [inverse.apply(operation, dv)]
    dv = ad.instantiate_zeros(dv)
    if operation == "share":
        # (11.6)
        total = RULES["solve"](inverse, inverse._sum(out), v, da, dv)
        return [out], [varying(total, axes) / lax.axis_size(axes)]
    return [out], [RULES[_RULE.get(operation, operation)](inverse, out, v, da, dv)]


_RULE = {"spread": "solve_adjoint"}


# --------------------------------------------------------------------------------- transpose


def _transpose(
    cotangents: list[Any],
    *operands: Any,
    operation: str,
    pivoting: bool,
    axes: tuple[str, ...],
) -> tuple[Any, ...]:
    *fixed, v = operands
    none = (None,) * len(fixed)
    if is_zero(cotangents[0]):
        return *none, ad.Zero(v.aval.to_ct_aval())
    # JAX pairs without conjugation (0.5); gram and null are Hermitian
    adjoint = {"share": "spread", "spread": "share"}.get(operation, operation)
    out = _inverse(fixed, pivoting, axes).apply(adjoint, cotangents[0].conj())
    return *none, out.conj()


# ------------------------------------------------------------------------------ registration

sharded_inverse_p = make(
    "sharded_inverse",
    ranks=(2, 2, 2, *RANKS, 2),
    results=_results,
    body=_compute,
    linear_from=3 + len(RANKS),
    columnwise=lambda **_: (True,),
    varies_as_last=True,
)
derivatives(sharded_inverse_p, _jvp, _transpose)
