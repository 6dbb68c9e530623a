"""The pseudo-inverse of a deep matrix A as an operator, with derivatives of every order.

`cod_p` factors and `pseudoinverse_p` applies what the factors stand for. The derivative is not
that of the factors: each operation is a function of A whose derivative is made of the same
operations (section 9), and the factors are constants that merely compute it. So derivatives of
all orders come from one factorization, and none asks how a reflector moves.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.interpreters import ad

from jaxqr._algebra import column_scale, mm, times, where
from jaxqr._cod import Decomposition, core_shapes, decompose
from jaxqr._linear import products
from jaxqr._primitive import (
    CoreResult,
    Shape,
    derivatives,
    is_zero,
    lower_to_kernel,
    make,
    zero_tangent,
)


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
    def products(self, da: Array, x: Array, y: Array) -> tuple[Array, Array]: ...
    def scale_of(self, x: Array) -> Array: ...
    def _replace(self, *, a: Array) -> "Inverse": ...


class Pseudoinverse(NamedTuple):
    """Of a deep matrix."""

    a: Array
    factors: tuple[Array, ...]
    pivoting: bool

    @property
    def rank(self) -> Array:
        """Of each matrix."""
        return Decomposition(*self.factors).rank

    def solve(self, v: Array) -> Array:
        """A^+ v."""
        return self.apply("solve", v)

    def gram(self, u: Array) -> Array:
        """(A^H A)^+ u."""
        return self.apply("gram", u)

    def solve_adjoint(self, u: Array) -> Array:
        """A^{+H} u."""
        return self.apply("solve_adjoint", u)

    def null(self, u: Array) -> Array:
        """(I - A^+ A) u: exactly zero where the rank is full."""
        return self.apply("null", u) if self.pivoting else jnp.zeros_like(u)

    def apply(self, operation: str, v: Array) -> Array:
        """One of the four above by its name."""
        params = {"operation": operation, "pivoting": self.pivoting}
        return pseudoinverse_p.bind(self.a, *self.factors, v, **params)[0]

    def products(self, da: Array, x: Array, y: Array) -> tuple[Array, Array]:
        """Of a tangent dA: dA x and dA^H y."""
        return products(da, x, y)

    def scale_of(self, x: Array) -> Array:
        """Powers of two by which columns are neither large nor small."""
        return column_scale(x)


def pseudoinverse(a: Array, *, rcond: float | None, pivoting: bool) -> Pseudoinverse:
    """Factor a deep matrix; without `pivoting` its rank is full by assumption."""
    return Pseudoinverse(a, tuple(cod_p.bind(a, rcond=rcond, pivoting=pivoting)), pivoting)


# ------------------------------------------------------------------------------- shape rules


def _cod_results(a: Shape, *, rcond: float | None, pivoting: bool) -> list[CoreResult]:
    shapes = core_shapes(*a, pivoting=pivoting)
    integers = ("p", "rank")
    return [(s, jnp.int32 if f in integers else None) for f, s in shapes._asdict().items()]


def _pseudoinverse_results(
    a: Shape, *operands: Shape, operation: str, pivoting: bool
) -> list[CoreResult]:
    rows = a[0] if operation == "solve_adjoint" else a[1]
    return [((rows, operands[-1][1]), None)]


# ---------------------------------------------------------------------------------- lowering


def _cod(a: Array, *, rcond: float | None, pivoting: bool) -> list[Array]:
    if 0 in a.shape:
        *batch, m, n = a.shape
        results = _cod_results((m, n), rcond=rcond, pivoting=pivoting)
        return [jnp.zeros((*batch, *shape), dtype or a.dtype) for shape, dtype in results]
    return list(decompose(a, rcond=rcond, pivoting=pivoting))


def _pseudoinverse(a: Array, *operands: Array, operation: str, pivoting: bool) -> list[Array]:
    *factors, v = operands
    if 0 in (*a.shape, *v.shape):
        rows = a.shape[-2 if operation == "solve_adjoint" else -1]
        return [jnp.zeros((*v.shape[:-2], rows, v.shape[-1]), v.dtype)]
    return [getattr(Decomposition(*factors), operation)(v)]


# --------------------------------------------------------------------------------------- JVP


def _cod_jvp(primals: Sequence[Array], tangents: Sequence[Any], **params: Any) -> Any:
    out = cod_p.bind(*primals, **params)
    return out, list(map(zero_tangent, out))  # constants of the operations below


def _pseudoinverse_jvp(
    primals: Sequence[Array], tangents: Sequence[Any], *, operation: str, pivoting: bool
) -> Any:
    a, *factors, v = primals
    da, *_, dv = tangents
    inverse = Pseudoinverse(a, tuple(factors), pivoting)
    out = inverse.apply(operation, v)
    if is_zero(da) and is_zero(dv):
        return [out], [zero_tangent(out)]
    if is_zero(da):
        return [out], [inverse.apply(operation, dv)]
    return [out], [RULES[operation](inverse, out, v, da, ad.instantiate_zeros(dv))]


def _solve_rule(inverse: Inverse, y: Array, v: Array, da: Array, dv: Array) -> Array:
    """(9.8): of y = A^+ v."""
    rest = v - mm(inverse.a, y)
    # both of size one: A may be of any, and gram and A^{+H} y have the square of its exponents
    scale, own = inverse.scale_of(rest), column_scale(y)
    left = [times(rest, scale)]
    if inverse.pivoting:
        left.append(inverse.solve_adjoint(times(y, own)))
    (da_y,), (ha_rest, *ha_z) = _products(inverse, da, [y], left)
    out = inverse.solve(dv - da_y) + times(inverse.gram(ha_rest), 1 / scale)
    return out + times(inverse.null(ha_z[0]), 1 / own) if inverse.pivoting else out


def _solve_adjoint_rule(inverse: Inverse, z: Array, u: Array, da: Array, du: Array) -> Array:
    """(9.8) for the adjoint: of z = A^{+H} u."""
    own = inverse.scale_of(z)
    # An ordinary z stays as it is: the transpose divides a cotangent by this scale before it meets
    # A, whose small columns would underflow with it.
    ordinary = (own > 2.0**-16) & (own < 2.0**16)
    own = where(ordinary, jnp.ones_like(own), own)
    right = [inverse.solve(times(z, own))]
    if inverse.pivoting:
        null = inverse.null(u)
        scale = column_scale(null)
        right.append(times(null, scale))
    (da_y, *da_null), (ha_z,) = _products(inverse, da, right, [z])
    inner = du - ha_z
    if inverse.pivoting:
        # zero at full rank; there what its transpose has in its place might overflow
        from_null = times(inverse.solve(da_null[0]), 1 / scale)
        deficient = (inverse.rank < inverse.a.shape[-1])[..., None, None]
        inner += where(deficient, from_null)
    outside = times(da_y - mm(inverse.a, inverse.solve(da_y)), 1 / own)
    return outside + inverse.solve_adjoint(inner)


def _gram_rule(inverse: Inverse, y: Array, u: Array, da: Array, du: Array) -> Array:
    """That of (A^H A)^+ = A^+ A^{+H}."""

    def composed(a: Array, u: Array) -> Array:
        moved = inverse._replace(a=a)
        return moved.solve(moved.solve_adjoint(u))

    return jax.jvp(composed, (inverse.a, u), (da, du))[1]


def _null_rule(inverse: Inverse, y: Array, u: Array, da: Array, du: Array) -> Array:
    """(9.9) for the adjoint: of y = (I - A^+ A) u."""
    (da_y,), (ha_z,) = _products(inverse, da, [y], [inverse.solve_adjoint(u)])
    return inverse.null(du - ha_z) - inverse.solve(da_y)


RULES: dict[str, Callable[[Any, Array, Array, Array, Array], Array]] = {
    "solve": _solve_rule,
    "solve_adjoint": _solve_adjoint_rule,
    "gram": _gram_rule,
    "null": _null_rule,
}


def _products(
    inverse: Inverse, da: Array, right: list[Array], left: list[Array]
) -> tuple[list[Array], list[Array]]:
    """The product dA with each of `right` and dA^H with each of `left`, of equal widths."""
    da_right, ha_left = inverse.products(da, _beside(right), _beside(left))
    return _split(da_right, len(right)), _split(ha_left, len(left))


def _beside(blocks: list[Array]) -> Array:
    return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=-1)


def _split(x: Array, count: int) -> list[Array]:
    return [x] if count == 1 else jnp.split(x, count, axis=-1)


# --------------------------------------------------------------------------------- transpose


def _pseudoinverse_transpose(
    cotangents: list[Any], a: Array, *operands: Any, operation: str, pivoting: bool
) -> tuple[Any, ...]:
    *factors, v = operands
    none = (None,) * (1 + len(factors))
    if is_zero(cotangents[0]):
        return *none, ad.Zero(v.aval.to_ct_aval())
    # JAX pairs without conjugation (0.5); gram and null are Hermitian
    inverse = Pseudoinverse(a, tuple(factors), pivoting)
    ct = cotangents[0].conj()
    adjoints = {"solve": "solve_adjoint", "solve_adjoint": "solve"}
    out = inverse.apply(adjoints.get(operation, operation), ct)
    return *none, out.conj()


# ------------------------------------------------------------------------------ registration

RANKS = tuple(map(len, core_shapes(1, 1, pivoting=False)))

cod_p = make("cod", ranks=(2,), results=_cod_results, body=_cod)
lower_to_kernel(cod_p, ranks=(2,), results=_cod_results, otherwise=_cod)
derivatives(cod_p, _cod_jvp)

pseudoinverse_p = make(
    "pseudoinverse",
    ranks=(2, *RANKS, 2),
    results=_pseudoinverse_results,
    body=_pseudoinverse,
    linear_from=1 + len(RANKS),
    columnwise=lambda **_: (True,),
)
lower_to_kernel(
    pseudoinverse_p,
    ranks=(2, *RANKS, 2),
    results=_pseudoinverse_results,
    otherwise=_pseudoinverse,
)
derivatives(pseudoinverse_p, _pseudoinverse_jvp, _pseudoinverse_transpose)
