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

from jaxqr._core.abstract import CoreResult
from jaxqr._core.algebra import H, mm
from jaxqr._core.partition import Shape
from jaxqr._core.primitive import make_primitive
from jaxqr._core.scaling import column_scale
from jaxqr._lstsq.decomposition import find_core_ranks
from jaxqr._lstsq.inverse_rules import ADJOINTS, RULES, differentiate, transpose
from jaxqr._lstsq.outer_products import multiply_both_sides
from jaxqr._lstsq.pseudoinverse import Pseudoinverse, factor_pseudoinverse
from jaxqr._sharded.row_blocks import let_vary
from jaxqr._sharded.row_qr import factor_row_blocks


class ShardedInverse(NamedTuple):
    """The pseudo-inverse of the deep matrix A with row blocks `a` along the mesh axes `axes`."""

    a: Array
    q: Array  # the block of Q
    triangle: Pseudoinverse  # that of R
    axes: tuple[str, ...]

    @property
    def pivoting(self) -> bool:
        """Whether the rank was looked for, and not assumed to be full."""
        return self.triangle.pivoting

    @property
    def rank(self) -> Array:
        """The rank (...) of each matrix, int32."""
        return self.triangle.rank

    def solve(self, v: Array) -> Array:
        """Compute A^+ v for row blocks v."""
        return self.sum_shares(self.apply("share", v))

    def solve_adjoint(self, u: Array) -> Array:
        """Compute A^{+H} u, in row blocks."""
        return self.apply("spread", let_vary(u, self.axes))

    def gram(self, u: Array) -> Array:
        """Compute (A^H A)^+ u."""
        return self.apply("gram", u)

    def null(self, u: Array) -> Array:
        """Compute (I - A^+ A) u, which is exactly zero where the rank is full."""
        return self.apply("null", u) if self.pivoting else jnp.zeros_like(u)

    def multiply_tangent(self, da: Array, x: Array, y: Array) -> tuple[Array, Array]:
        """Compute dA x in row blocks, and dA^H y for row blocks y, of a tangent dA."""
        da_x, ha_y = multiply_both_sides(da, let_vary(x, self.axes), y)
        return da_x, self.sum_shares(ha_y)

    def scale_of(self, x: Array) -> Array:
        """Find a power of two that brings A near one: a device does not know all of x."""
        del x
        return column_scale(self.triangle.a[..., :1, :1])

    def apply(self, operation: str, v: Array) -> Array:
        """Compute one of the primitive's operations."""
        return sharded_inverse_p.bind(
            self.a,
            self.q,
            self.triangle.a,
            *self.triangle.arrays,
            v,
            operation=operation,
            factors=self.triangle.names,
            axes=self.axes,
        )[0]

    def sum_shares(self, x: Array) -> Array:
        """Sum the shares of all devices."""
        return lax.psum(x, self.axes)


def factor_sharded_inverse(
    a: Array, *, rcond: float | None, pivoting: bool, axes: tuple[str, ...]
) -> ShardedInverse:
    """Factor a deep matrix of row blocks; without `pivoting` its rank is full by assumption."""
    a = let_vary(a, axes)
    constant = lax.stop_gradient(a)  # as the factors are to the operations
    q, r = factor_row_blocks("lstsq", constant, axes=axes)
    return ShardedInverse(a, q, factor_pseudoinverse(r, rcond=rcond, pivoting=pivoting), axes)


# -------------------------------------------------------------------------------- shape rule


def _ranks(*, factors: tuple[str, ...], **params: Any) -> tuple[int, ...]:
    return 2, 2, 2, *find_core_ranks(factors), 2


def _results(a: Shape, *operands: Shape, operation: str, **params: Any) -> list[CoreResult]:
    rows = a[0] if operation == "spread" else a[1]
    return [((rows, operands[-1][1]), None)]


# ---------------------------------------------------------------------------------- lowering


def _apply(
    a: Array,
    q: Array,
    r: Array,
    *operands: Array,
    operation: str,
    factors: tuple[str, ...],
    axes: tuple[str, ...],
) -> list[Array]:
    *arrays, v = operands
    triangle = Pseudoinverse(r, factors, arrays)
    if operation == "share":
        return [triangle.solve(mm(H(q), v))]
    if operation == "spread":
        return [mm(q, triangle.solve_adjoint(v))]
    return [triangle.apply(operation, v)]


# --------------------------------------------------------------------------------------- JVP


def _from_operands(
    operands: Sequence[Array], factors: tuple[str, ...], axes: tuple[str, ...]
) -> ShardedInverse:
    a, q, r, *arrays = operands
    return ShardedInverse(a, q, Pseudoinverse(r, factors, arrays), axes)


def _jvp(
    primals: Sequence[Array],
    tangents: Sequence[Any],
    *,
    operation: str,
    factors: tuple[str, ...],
    axes: tuple[str, ...],
) -> Any:
    *fixed, v = primals
    da, *_, dv = tangents
    inverse = _from_operands(fixed, factors, axes)
    return differentiate(inverse, operation, _RULES[operation], v, da, dv)


def _share_rule(inverse: ShardedInverse, y: Array, v: Array, da: Array, dv: Array) -> Array:
    """Give the tangent of a device's share of A^+ v.

    Nothing but the sum of these tangents matters: so it is the p-th part of the sum's (11.6).
    """
    total = RULES["solve"](inverse, inverse.sum_shares(y), v, da, dv)
    return let_vary(total, inverse.axes) / lax.axis_size(inverse.axes)


_RULES = {**RULES, "share": _share_rule, "spread": RULES["solve_adjoint"]}
_ADJOINTS = {**ADJOINTS, "share": "spread", "spread": "share"}


# --------------------------------------------------------------------------------- transpose


def _transpose(
    cotangents: Sequence[Array],
    fixed: Sequence[Array],
    wanted: Sequence[bool],
    *,
    operation: str,
    factors: tuple[str, ...],
    axes: tuple[str, ...],
) -> list[Array]:
    del wanted  # the cotangent of v, which is the only one
    inverse = _from_operands(fixed, factors, axes)
    return transpose(inverse, _ADJOINTS[operation], cotangents[0])


# ------------------------------------------------------------------------------ registration


sharded_inverse_p = make_primitive(
    "sharded_inverse",
    core_ranks=_ranks,
    results=_results,
    body=_apply,
    linear_from=-1,
    jvp=_jvp,
    transpose=_transpose,
    columnwise=(True,),
    varies_as_last=True,
)
