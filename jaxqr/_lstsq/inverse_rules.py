"""The derivatives of the pseudo-inverse A^+ of a deep matrix as an operator.

Each operation is a function of A whose derivative is made of the same operations (section 9 of
``notebooks/derivations.md``). So derivatives of all orders come from one factorization, and none
asks how a reflector moves. The rules are the same wherever the rows of A are.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.interpreters import ad

from jaxqr._core.algebra import mm, where
from jaxqr._core.primitive import is_zero
from jaxqr._core.scaling import column_scale, multiply_linearly
from jaxqr._core.undocumented import zero_tangent


class Inverse(Protocol):
    """What the rules ask of the pseudo-inverse of a deep matrix, wherever its rows are."""

    @property
    def a(self) -> Array: ...
    @property
    def pivoting(self) -> bool: ...
    @property
    def rank(self) -> Array: ...
    def solve(self, v: Array) -> Array: ...
    def gram(self, u: Array) -> Array: ...
    def solve_adjoint(self, u: Array) -> Array: ...
    def null(self, u: Array) -> Array: ...
    def multiply_tangent(self, da: Array, x: Array, y: Array) -> tuple[Array, Array]: ...
    def scale_of(self, x: Array) -> Array: ...
    def apply(self, operation: str, v: Array) -> Array: ...
    def _replace(self, *, a: Array) -> "Inverse": ...


def _solve_rule(inverse: Inverse, y: Array, v: Array, da: Array, dv: Array) -> Array:
    """Give the tangent of y = A^+ v (9.8)."""
    rest = v - mm(inverse.a, y)
    # Both vectors are brought near one: A may be of any size, and gram and A^{+H} y have the square
    # of its exponents.
    # Of one equation in one unknown nothing is left but rounding, which XLA computes more than once
    # in one program, with and without fused multiplication: a scale of it would differ, too.
    of = v if inverse.a.shape[-2:] == (1, 1) else rest
    scale, own = inverse.scale_of(of), column_scale(y)
    left = [multiply_linearly(rest, scale)]
    if inverse.pivoting:
        left.append(inverse.solve_adjoint(multiply_linearly(y, own)))
    (da_y,), (ha_rest, *ha_z) = _multiply(inverse, da, [y], left)
    out = inverse.solve(dv - da_y) + multiply_linearly(inverse.gram(ha_rest), 1 / scale)
    return out + multiply_linearly(inverse.null(ha_z[0]), 1 / own) if inverse.pivoting else out


def _solve_adjoint_rule(inverse: Inverse, z: Array, u: Array, da: Array, du: Array) -> Array:
    """Give the tangent of z = A^{+H} u, which is (9.8) for the adjoint."""
    own = inverse.scale_of(z)
    # An ordinary z stays as it is: the transpose divides a cotangent by this scale before it meets
    # A, whose small columns would underflow with it.
    ordinary = (own > 2.0**-16) & (own < 2.0**16)
    own = where(ordinary, jnp.ones_like(own), own)
    right = [inverse.solve(multiply_linearly(z, own))]
    if inverse.pivoting:
        null = inverse.null(u)
        scale = column_scale(null)
        right.append(multiply_linearly(null, scale))
    (da_y, *da_null), (ha_z,) = _multiply(inverse, da, right, [z])
    inner = du - ha_z
    if inverse.pivoting:
        # This is zero at full rank, where what its transpose has in its place might overflow.
        from_null = multiply_linearly(inverse.solve(da_null[0]), 1 / scale)
        deficient = (inverse.rank < inverse.a.shape[-1])[..., None, None]
        inner += where(deficient, from_null)
    outside = multiply_linearly(da_y - mm(inverse.a, inverse.solve(da_y)), 1 / own)
    return outside + inverse.solve_adjoint(inner)


def _gram_rule(inverse: Inverse, y: Array, u: Array, da: Array, du: Array) -> Array:
    """Give the tangent of y = (A^H A)^+ u = A^+ A^{+H} u by the two rules above."""

    def composed(a: Array, u: Array) -> Array:
        moved = inverse._replace(a=a)
        return moved.solve(moved.solve_adjoint(u))

    return jax.jvp(composed, (inverse.a, u), (da, du))[1]


def _null_rule(inverse: Inverse, y: Array, u: Array, da: Array, du: Array) -> Array:
    """Give the tangent of y = (I - A^+ A) u, which is (9.9) for the adjoint."""
    (da_y,), (ha_z,) = _multiply(inverse, da, [y], [inverse.solve_adjoint(u)])
    return inverse.null(du - ha_z) - inverse.solve(da_y)


RULES: dict[str, Callable[[Any, Array, Array, Array, Array], Array]] = {
    "solve": _solve_rule,
    "solve_adjoint": _solve_adjoint_rule,
    "gram": _gram_rule,
    "null": _null_rule,
}


# Of an operation by its name; gram and null are Hermitian.
ADJOINTS = {"solve": "solve_adjoint", "solve_adjoint": "solve", "gram": "gram", "null": "null"}


def differentiate(
    inverse: Inverse, operation: str, rule: Callable[..., Array], v: Array, da: Any, dv: Any
) -> tuple[list[Array], list[Any]]:
    """Apply an operation to v, and give its tangent: by the rule only where A moves."""
    out = inverse.apply(operation, v)
    if not is_zero(da):
        return [out], [rule(inverse, out, v, da, ad.instantiate_zeros(dv))]
    if is_zero(dv):
        return [out], [zero_tangent(out)]
    return [out], [inverse.apply(operation, dv)]


def transpose(inverse: Inverse, adjoint: str, cotangent: Array) -> list[Array]:
    """Give the cotangent of v by the operation's adjoint: JAX pairs without conjugation (0.5)."""
    return [inverse.apply(adjoint, cotangent.conj()).conj()]


def _multiply(
    inverse: Inverse, da: Array, right: list[Array], left: list[Array]
) -> tuple[list[Array], list[Array]]:
    """Multiply each of `right` by dA and each of `left` by dA^H; their widths are equal."""
    da_right, ha_left = inverse.multiply_tangent(da, _join(right), _join(left))
    return _split(da_right, len(right)), _split(ha_left, len(left))


def _join(blocks: list[Array]) -> Array:
    return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=-1)


def _split(x: Array, count: int) -> list[Array]:
    return [x] if count == 1 else jnp.split(x, count, axis=-1)
