"""The pseudo-inverse of a deep matrix as an operator, with derivatives of every order.

`cod_p` factors, `pseudo_p` applies what the factors stand for. The derivative is not that of the
factors: each operation is a function of A whose derivative is made of the same operations
(section 9), and the factors are constants that merely compute it. So derivatives of all orders
come from one factorization, and none asks how a reflector moves. A wide matrix is the adjoint of
a deep one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.interpreters import ad

from jaxqr._algebra import H, mm, where
from jaxqr._cod import Decomposition, decompose
from jaxqr._linear import products
from jaxqr._primitive import CoreResult, Shape, is_zero, make, zero_tangent


class Pseudoinverse(NamedTuple):
    """Of a deep matrix or, if `adjoint`, of its adjoint: that one is the A of the methods."""

    deep: Array
    factors: tuple[Array, ...]
    adjoint: bool
    pivoting: bool

    @property
    def H(self) -> "Pseudoinverse":
        """Of A^H."""
        return self._replace(adjoint=not self.adjoint)

    @property
    def rank(self) -> Array:
        """Of each matrix."""
        return Decomposition(*self.factors).rank

    @property
    def has_rest(self) -> bool:
        """Whether the rows of A can be dependent."""
        m, n = self.deep.shape[-2:]
        return self.pivoting or (m > n and not self.adjoint)

    def solve(self, v: Array) -> Array:
        """A^+ v."""
        return self._bind("solve", v)

    def solve_if_deficient(self, v: Array) -> Array:
        """A^+ v where the rank is less than both dimensions, elsewhere zero."""
        return self._bind("solve_if_deficient", v)

    def gram(self, v: Array) -> Array:
        """(A A^H)^+ v."""
        return self._bind("gram", v)

    def rest(self, v: Array) -> Array:
        """(I - A A^+) v: exactly zero where the rows of A are independent."""
        return self._bind("rest", v)

    def _bind(self, kind: str, v: Array) -> Array:
        params = {"kind": kind, "adjoint": self.adjoint, "pivoting": self.pivoting}
        return pseudo_p.bind(self.deep, *self.factors, v, **params)[0]


def pseudoinverse(a: Array, *, rcond: float, pivoting: bool) -> Pseudoinverse:
    """Factor a matrix of any shape; without `pivoting` its rank is full by assumption."""
    wide = a.shape[-2] < a.shape[-1]
    deep = H(a) if wide else a
    factors = cod_p.bind(deep, rcond=rcond, pivoting=pivoting)
    return Pseudoinverse(deep, tuple(factors), wide, pivoting)


# ------------------------------------------------------------------------------- shape rules


def _cod_results(a: Shape, *, rcond: float, pivoting: bool) -> list[CoreResult]:
    n = a[1]
    z = n if pivoting else 0
    core: list[CoreResult] = [(a, None), ((n,), None), ((z,), jnp.int32), ((), jnp.int32)]
    return [*core, ((z, z), None), ((z,), None)]


def _pseudo_results(
    deep: Shape, *operands: Shape, kind: str, adjoint: bool, pivoting: bool
) -> list[CoreResult]:
    rows, columns = operands[-1]
    if kind in ("solve", "solve_if_deficient"):
        rows = deep[0] if adjoint else deep[1]
    return [((rows, columns), None)]


# ---------------------------------------------------------------------------------- lowering


def _cod(a: Array, *, rcond: float, pivoting: bool) -> list[Array]:
    return list(decompose(a, rcond=rcond, pivoting=pivoting))


def _pseudo(deep: Array, *operands: Array, kind: str, adjoint: bool, pivoting: bool) -> list[Array]:
    *factors, v = operands
    cod = Decomposition(*factors)
    operation = {"solve_if_deficient": "solve"}.get(kind, kind)
    rule = getattr(cod, operation + "_adjoint" * adjoint)
    if kind == "solve_if_deficient":
        rows = deep.shape[-2 if adjoint else -1]
        zero = jnp.zeros((*v.shape[:-2], rows, v.shape[-1]), v.dtype)
        return [cod.unless_full(zero, lambda: rule(v))]
    return [rule(v)]


# --------------------------------------------------------------------------------------- JVP


def _cod_jvp(primals: Sequence[Array], tangents: Sequence[Any], **params: Any) -> Any:
    out = cod_p.bind(*primals, **params)
    return out, list(map(zero_tangent, out))  # constants of the operations below


def _pseudo_jvp(
    primals: Sequence[Array],
    tangents: Sequence[Any],
    *,
    kind: str,
    adjoint: bool,
    pivoting: bool,
) -> Any:
    deep, *factors, v = primals
    d_deep, *_, dv = tangents
    inverse = Pseudoinverse(deep, tuple(factors), adjoint, pivoting)
    out = inverse._bind(kind, v)
    terms = []
    if not is_zero(dv):
        terms.append(inverse._bind(kind, dv))
    if not is_zero(d_deep):
        terms.append(_RULES[kind](inverse, out, v, d_deep))
    if not terms:
        return [out], [zero_tangent(out)]
    return [out], [sum(terms[1:], start=terms[0])]


def _solve_rule(inverse: Pseudoinverse, y: Array, v: Array, d_deep: Array) -> Array:
    """(9.8): of y = A^+ v for constant v."""
    left = []
    if inverse.has_rest:
        left.append(inverse.rest(v))
    if inverse.H.has_rest:
        left.append(_beside_rest(inverse.H, y))
    da_y, ha_left = _products(inverse, d_deep, y, left)
    out = -inverse.solve(da_y)
    if inverse.has_rest:
        out += inverse.H.gram(ha_left[0])
    if inverse.H.has_rest:
        out += inverse.H.rest(ha_left[-1])
    return out


def _beside_rest(inverse: Pseudoinverse, v: Array) -> Array:
    """A^+ v as a factor of what `rest` returns, which mostly is zero on the shorter side."""
    return inverse.solve_if_deficient(v) if inverse.adjoint else inverse.solve(v)


def _solve_if_deficient_rule(inverse: Pseudoinverse, y: Array, v: Array, d_deep: Array) -> Array:
    deficient = (inverse.rank < inverse.deep.shape[-1])[..., None, None]
    return where(deficient, _solve_rule(inverse, inverse.solve(v), v, d_deep))


def _gram_rule(inverse: Pseudoinverse, y: Array, v: Array, d_deep: Array) -> Array:
    """That of (A A^H)^+ = A^{+H} A^+."""

    def composed(deep: Array) -> Array:
        moved = inverse._replace(deep=deep)
        return moved.H.solve(moved.solve(v))

    return jax.jvp(composed, (inverse.deep,), (d_deep,))[1]


def _rest_rule(inverse: Pseudoinverse, rest: Array, v: Array, d_deep: Array) -> Array:
    """(9.9): of v - A A^+ v for constant v."""
    if not inverse.has_rest:
        return jnp.zeros_like(v)
    y = inverse.solve(v)
    da_y, (ha_rest,) = _products(inverse, d_deep, y, [rest])
    return -inverse.rest(da_y) - inverse.H.solve(ha_rest)


_RULES: dict[str, Callable[[Pseudoinverse, Array, Array, Array], Array]] = {
    "solve": _solve_rule,
    "solve_if_deficient": _solve_if_deficient_rule,
    "gram": _gram_rule,
    "rest": _rest_rule,
}


def _products(
    inverse: Pseudoinverse, d_deep: Array, y: Array, left: list[Array]
) -> tuple[Array, list[Array]]:
    """Of the tangent of the deep matrix: dA y, and dA^H with each of `left`."""
    s = y.shape[-1]
    if not left:
        return (mm(H(d_deep), y) if inverse.adjoint else mm(d_deep, y)), []
    columns = jnp.concatenate(left, axis=-1) if len(left) > 1 else left[0]
    if inverse.adjoint:
        ha_left, da_y = products(d_deep, columns, y)
    else:
        da_y, ha_left = products(d_deep, y, columns)
    return da_y, [ha_left[..., i * s : (i + 1) * s] for i in range(len(left))]


# --------------------------------------------------------------------------------- transpose


def _pseudo_transpose(
    cotangents: list[Any],
    deep: Array,
    *operands: Any,
    kind: str,
    adjoint: bool,
    pivoting: bool,
) -> tuple[Any, ...]:
    *factors, v = operands
    none = (None,) * (1 + len(factors))
    if is_zero(cotangents[0]):
        return *none, ad.Zero(v.aval.to_ct_aval())
    # JAX pairs without conjugation (0.5); gram and rest are Hermitian
    adjoint ^= kind.startswith("solve")
    params = {"kind": kind, "adjoint": adjoint, "pivoting": pivoting}
    return *none, pseudo_p.bind(deep, *factors, cotangents[0].conj(), **params)[0].conj()


# ------------------------------------------------------------------------------ registration

_COD_RANKS = (2, 1, 1, 0, 2, 1)

cod_p = make("cod", ranks=(2,), results=_cod_results, body=_cod)
ad.primitive_jvps[cod_p] = _cod_jvp

pseudo_p = make(
    "pseudoinverse",
    ranks=(2, *_COD_RANKS, 2),
    results=_pseudo_results,
    body=_pseudo,
    linear_from=1 + len(_COD_RANKS),
    columnwise=True,
)
ad.primitive_jvps[pseudo_p] = _pseudo_jvp
ad.primitive_transposes[pseudo_p] = _pseudo_transpose
