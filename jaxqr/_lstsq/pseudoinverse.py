"""The pseudo-inverse of a deep matrix A as an operator, with derivatives of every order.

`cod_p` factors and `pseudoinverse_p` applies what the factors stand for. The derivative is not
that of the factors: each operation is a function of A (``inverse_rules``), and the factors are
constants that merely compute it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxqr._core.abstract import CoreResult
from jaxqr._core.partition import Shape
from jaxqr._core.primitive import make_primitive
from jaxqr._core.scaling import column_scale
from jaxqr._core.undocumented import zero_tangent
from jaxqr._lowering import kernels
from jaxqr._lstsq.decomposition import (
    array_results,
    decompose,
    find_core_ranks,
    from_arrays,
    name_arrays,
    to_arrays,
)
from jaxqr._lstsq.inverse_rules import ADJOINTS, RULES, differentiate, transpose
from jaxqr._lstsq.outer_products import multiply_both_sides


class Pseudoinverse(NamedTuple):
    """The pseudo-inverse A^+ of a deep matrix A as an operator."""

    a: Array
    names: tuple[str, ...]  # of the arrays of its decomposition
    arrays: Sequence[Array]

    @property
    def pivoting(self) -> bool:
        """Whether the rank was looked for, and not assumed to be full."""
        return "rank" in self.names

    @property
    def rank(self) -> Array:
        """The rank (...) of each matrix, int32."""
        if self.pivoting:
            return self.arrays[self.names.index("rank")]
        return jnp.full(self.a.shape[:-2], self.a.shape[-1], jnp.int32)

    def solve(self, v: Array) -> Array:
        """Compute A^+ v."""
        return self.apply("solve", v)

    def gram(self, u: Array) -> Array:
        """Compute (A^H A)^+ u."""
        return self.apply("gram", u)

    def solve_adjoint(self, u: Array) -> Array:
        """Compute A^{+H} u."""
        return self.apply("solve_adjoint", u)

    def null(self, u: Array) -> Array:
        """Compute (I - A^+ A) u, which is exactly zero where the rank is full."""
        return self.apply("null", u) if self.pivoting else jnp.zeros_like(u)

    def apply(self, operation: str, v: Array) -> Array:
        """Compute one of the four above, given by its name."""
        params = {"operation": operation, "factors": self.names}
        return pseudoinverse_p.bind(self.a, *self.arrays, v, **params)[0]

    def multiply_tangent(self, da: Array, x: Array, y: Array) -> tuple[Array, Array]:
        """Compute dA x and dA^H y for a tangent dA."""
        return multiply_both_sides(da, x, y)

    def scale_of(self, x: Array) -> Array:
        """Find powers of two that bring the columns of x near one."""
        return column_scale(x)


def factor_pseudoinverse(a: Array, *, rcond: float | None, pivoting: bool) -> Pseudoinverse:
    """Factor a deep matrix; without `pivoting` its rank is full by assumption."""
    names = name_arrays(*a.shape[-2:], pivoting=pivoting)
    return Pseudoinverse(a, names, cod_p.bind(a, rcond=rcond, factors=names))


# ------------------------------------------------------------------------ the decomposition


def _cod_results(a: Shape, *, rcond: float | None, factors: tuple[str, ...]) -> list[CoreResult]:
    m, n = a
    return array_results(m, n, factors)


def _cod(a: Array, *, rcond: float | None, factors: tuple[str, ...]) -> list[Array]:
    if 0 in a.shape:
        *batch, m, n = a.shape
        results = array_results(m, n, factors)
        return [jnp.zeros((*batch, *shape), dtype or a.dtype) for shape, dtype in results]
    return to_arrays(decompose(a, rcond=rcond, pivoting="p" in factors))


def _cod_jvp(primals: Sequence[Array], tangents: Sequence[Any], **params: Any) -> Any:
    """Give zero tangents: the factors are constants that compute the operations below."""
    out = cod_p.bind(*primals, **params)
    return out, list(map(zero_tangent, out))


cod_p = make_primitive(
    "cod",
    core_ranks=(2,),
    results=_cod_results,
    body=_cod,
    jvp=_cod_jvp,
    kernels={"cpu": kernels.compute},
)


# --------------------------------------------------------------------------- the operations


def _ranks(*, factors: tuple[str, ...], **params: Any) -> tuple[int, ...]:
    return 2, *find_core_ranks(factors), 2


def _results(a: Shape, *operands: Shape, operation: str, **params: Any) -> list[CoreResult]:
    rows = a[0] if operation == "solve_adjoint" else a[1]
    return [((rows, operands[-1][1]), None)]


def _apply(a: Array, *operands: Array, operation: str, factors: tuple[str, ...]) -> list[Array]:
    *arrays, v = operands
    if 0 in (*a.shape, *v.shape):
        rows = a.shape[-2 if operation == "solve_adjoint" else -1]
        return [jnp.zeros((*v.shape[:-2], rows, v.shape[-1]), v.dtype)]
    return [getattr(from_arrays(factors, arrays), operation)(v)]


def _jvp(
    primals: Sequence[Array],
    tangents: Sequence[Any],
    *,
    operation: str,
    factors: tuple[str, ...],
) -> Any:
    a, *arrays, v = primals
    da, *_, dv = tangents
    inverse = Pseudoinverse(a, factors, arrays)
    return differentiate(inverse, operation, RULES[operation], v, da, dv)


def _transpose(
    cotangents: Sequence[Array],
    fixed: Sequence[Array],
    wanted: Sequence[bool],
    *,
    operation: str,
    factors: tuple[str, ...],
) -> list[Array]:
    del wanted  # the cotangent of v, which is the only one
    a, *arrays = fixed
    return transpose(Pseudoinverse(a, factors, arrays), ADJOINTS[operation], cotangents[0])


pseudoinverse_p = make_primitive(
    "pseudoinverse",
    core_ranks=_ranks,
    results=_results,
    body=_apply,
    linear_from=-1,
    jvp=_jvp,
    transpose=_transpose,
    columnwise=(True,),
    kernels={"cpu": kernels.compute},
)
