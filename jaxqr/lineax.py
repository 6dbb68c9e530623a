"""A solver for lineax: least squares of any shape and rank by pivoted QR.

lineax is optional, and jaxqr itself does not import this module. It differentiates by lineax's
own rules, which are (9.0) with the solver applied to the operator, its transpose and its
conjugate: all by the factors of one factorization.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxqr._core import arguments
from jaxqr._core.algebra import H
from jaxqr._lstsq.decomposition import name_arrays
from jaxqr._lstsq.pseudoinverse import Pseudoinverse, factor_pseudoinverse

try:
    import equinox as eqx
    import lineax as lx
    from lineax import internal
except ImportError as error:
    raise ImportError(
        "jaxqr.lineax needs the package lineax: pip install 'jaxqr[lineax]'"
    ) from error

__all__ = ["PivotedQR"]


class _Way(NamedTuple):
    """How the operator comes from the deep matrix B that was factored: B, B^H, conj or B^T."""

    adjoint: bool
    conjugate: bool


class _State(eqx.Module):
    a: Array
    factors: Sequence[Array]  # the arrays of its decomposition; none of an empty matrix
    way: _Way = eqx.field(static=True)
    structures: Any


def _check_rcond(rcond: Any) -> float | None:
    return arguments.require_rcond("PivotedQR", rcond)


class PivotedQR(lx.AbstractLinearSolver[_State]):
    """Solver for `lineax.linear_solve`: the shortest x among those that minimize ``|b - A x|``.

    It takes operators of every shape and rank, as `lineax.SVD` does, at the price of a QR. The
    operator is materialized; `stats["rank"]` holds its rank, an int32.

    Args:
        rcond: diagonal entries of R of at most `rcond` times the largest do not count towards
            the rank. By default every column is judged by its own size, as in `jaxqr.lstsq`. A
            Python number: it is part of the program.

    Raises:
        ValueError: if `rcond` is negative or not finite.
        TypeError: if `rcond` is not a number, or for an operator of a dtype that is not supported.

    Solutions are differentiable by lineax's own rules in the operator and the vector, any number
    of times, at every rank (along operators of the same rank).

    Source: as of `jaxqr.lstsq`.

    Examples:
        >>> import jax, jax.numpy as jnp, lineax
        >>> from jaxqr.lineax import PivotedQR
        >>> a = jax.random.normal(jax.random.key(0), (20, 2)) @ jnp.ones((2, 3))
        >>> b = jnp.arange(20.0)
        >>> x = lineax.linear_solve(lineax.MatrixLinearOperator(a), b, PivotedQR()).value
        >>> bool(jnp.allclose(x, jnp.linalg.pinv(a, rtol=1e-4) @ b, atol=1e-3))
        True
    """

    rcond: float | None = eqx.field(default=None, static=True, converter=_check_rcond)

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> _State:
        """Factor the operator's matrix, or the adjoint of a wide one."""
        matrix = arguments.convert_array("PivotedQR", "operator", operator.as_matrix())
        leaves = jax.tree.leaves((operator.in_structure(), operator.out_structure()))
        dtype = reduce(jnp.promote_types, (leaf.dtype for leaf in leaves), matrix.dtype)
        (matrix,), _ = arguments.promote_arrays(matrix.astype(dtype))
        m, n = matrix.shape
        deep = H(matrix) if m < n else matrix
        factors: Sequence[Array] = ()
        if 0 not in matrix.shape:  # LAPACK takes no empty ones
            factors = factor_pseudoinverse(deep, rcond=self.rcond, pivoting=True).arrays
        way = _Way(adjoint=m < n, conjugate=False)
        return _State(deep, factors, way, internal.pack_structures(operator))

    def compute(
        self, state: _State, vector: Any, options: dict[str, Any]
    ) -> tuple[Any, lx.RESULTS, dict[str, Any]]:
        """Apply the pseudo-inverse to a vector."""
        if not state.factors:
            x = jnp.zeros(state.a.shape[0 if state.way.adjoint else 1], state.a.dtype)
            solution = internal.unravel_solution(x, state.structures)
            return solution, lx.RESULTS.successful, {"rank": jnp.zeros((), jnp.int32)}
        names = name_arrays(*state.a.shape, pivoting=True)
        inverse = Pseudoinverse(state.a, names, state.factors)
        v = internal.ravel_vector(vector, state.structures)[:, None].astype(state.a.dtype)
        v = v.conj() if state.way.conjugate else v
        x = inverse.solve_adjoint(v) if state.way.adjoint else inverse.solve(v)
        x = x.conj() if state.way.conjugate else x
        solution = internal.unravel_solution(x[:, 0], state.structures)
        return solution, lx.RESULTS.successful, {"rank": inverse.rank}

    def transpose(self, state: _State, options: dict[str, Any]) -> tuple[_State, dict[str, Any]]:
        """The state of the transposed operator: A^T is the adjoint of the conjugate."""
        way = _Way(not state.way.adjoint, not state.way.conjugate)
        structures = internal.transpose_packed_structures(state.structures)
        return _State(state.a, state.factors, way, structures), {}

    def conj(self, state: _State, options: dict[str, Any]) -> tuple[_State, dict[str, Any]]:
        """The state of the conjugated operator."""
        way = _Way(state.way.adjoint, not state.way.conjugate)
        return _State(state.a, state.factors, way, state.structures), {}

    def assume_full_rank(self) -> bool:
        """No: derivatives need the terms of (9.0) that vanish at full rank."""
        return False
