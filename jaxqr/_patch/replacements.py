"""What stands under each of JAX's primitives: functions of arrays that bind those of this package.

They have the operands, the parameters and the results of JAX's primitives, and are traced in the
settings that this package's own rules have.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import min_dim
from jax.extend.core import Primitive

from jaxqr._api.householder import form_product, multiply
from jaxqr._core.algebra import exceeds, extend, triu
from jaxqr._core.primitive import push_forward
from jaxqr._core.undocumented import find_primitives, zero_tangent
from jaxqr._factor.packed_rules import raw_jvp
from jaxqr._factor.permutation import permute_columns
from jaxqr._factor.pivoting import METHODS
from jaxqr._factor.qr_primitive import factor
from jaxqr._factor.tangent_maps import qr_jvp_p

# the results, and their tangents
Tangents = tuple[list[Array], list[Any]]


class Replacement(NamedTuple):
    """What this package has in the place of one primitive of JAX.

    Attributes:
        name: of the primitive.
        parameters: the names that its parameters must have, or JAX has changed it.
        compute: from the operands and the parameters to the results.
        differentiate: the rule of forward mode, from a function that binds JAX's primitive, the
            primals and the tangents.
        transpose: the rule of reverse mode, from such a function, the cotangent and the operands.
        keep: `compute` with an argument more, `used`, which says of each result whether it is
            wanted; gives only those.
        serves: from the operands, whether `compute` is right for them; if not, JAX computes.
        lacking: the platforms on which JAX does not compute it, each with a function of the
            parameters that tells when.
    """

    name: str
    parameters: frozenset[str]
    compute: Callable[..., list[Array]]
    differentiate: Callable[..., Tangents]
    transpose: Callable[..., Any] | None = None
    keep: Callable[..., list[Array]] | None = None
    serves: Callable[..., Array] | None = None
    lacking: Mapping[str, Callable[..., bool]] = {}


def find_jax_primitives() -> dict[str, tuple[Primitive, frozenset[str]]]:
    """Find JAX's primitives by tracing public functions, as not all of them have a public name."""
    a, c = (jax.ShapeDtypeStruct((3, n), jnp.float32) for n in (2, 3))
    tau = jax.ShapeDtypeStruct((2,), jnp.float32)
    functions: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (jnp.linalg.qr, (a,)),
        (lambda a: jnp.linalg.qr(a, mode="raw"), (a,)),
        (lambda a, c: jax.scipy.linalg.qr_multiply(a, c, pivoting=True), (a, c)),
        (lax.linalg.householder_product, (a, tau)),
    ]
    found = {}
    for function, specs in functions:
        found.update(find_primitives(jax.make_jaxpr(function)(*specs).jaxpr))
    return found


# --------------------------------------------------------------------------------------- qr


def _compute_qr(
    a: Array,
    *,
    pivoting: bool,
    full_matrices: bool,
    use_magma: bool | None,
    used: Sequence[bool] | None = None,
) -> list[Array]:
    """Factor; give Q, R and, if pivoting, the permutation, or those of them that are used."""
    del use_magma  # which library computes on a GPU
    m, n = a.shape[-2:]
    complete = full_matrices and exceeds(m, n)
    outputs = ("q_full" if complete else "q", "r", *(("p",) if pivoting else ()))
    wanted = [name for i, name in enumerate(outputs) if used is None or used[i]]
    found = factor(a, *wanted, pivoting=METHODS[pivoting].name)
    if not complete:
        return found
    return [extend(x, m, -2) if name == "r" else x for name, x in zip(wanted, found, strict=True)]


def _differentiate(compute: Callable[..., list[Array]]) -> Callable[..., Any]:
    """Make the rule of forward mode of what `compute` is made of, which has rules of its own."""

    def rule(
        bind: Callable[..., Any],
        primals: Sequence[Array],
        tangents: Sequence[Any],
        **params: Any,
    ) -> Tangents:
        del bind  # `compute` stands for it
        out, out_tangents = push_forward(partial(compute, **params), primals, tangents)
        constant = (jnp.issubdtype(x.dtype, jnp.integer) for x in out)
        return out, [
            zero_tangent(x) if fixed else t
            for x, t, fixed in zip(out, out_tangents, constant, strict=True)
        ]

    return rule


# --------------------------------------------------------------------------- geqrf and geqp3


def _compute_geqrf(a: Array) -> list[Array]:
    """Factor; give (h, tau)."""
    return factor(a, "h", "tau")


def _compute_geqp3(a: Array, jpvt: Array, *, use_magma: bool | None) -> list[Array]:
    """Factor with pivoting; give (h, permutation counted from 1, tau)."""
    del use_magma
    h, tau, p = factor(a, "h", "tau", "p", pivoting=METHODS[True].name)
    return [h, (p + 1).astype(jpvt.dtype), tau]


def _differentiate_geqp3(
    bind: Callable[..., list[Array]],
    primals: Sequence[Array],
    tangents: Sequence[Any],
    **params: Any,
) -> Tangents:
    """Differentiate the packed reflectors where the columns stand that were found."""
    a, jpvt = primals
    out = bind(a, jpvt, **params)
    if 0 in a.shape:
        return out, list(map(zero_tangent, out))
    order, k = out[1], min_dim(*a.shape[-2:])
    h, tau, da = out[0], out[2], tangents[0]
    q, r = form_product(h[..., :k], tau), triu(h[..., :k, :])
    da = permute_columns(da, (order - 1).astype(jnp.int32))
    dq, dr = qr_jvp_p.bind(q, r, da, outputs=("q", "r"), pivoted=True, transposed=False)
    dh, dtau = raw_jvp(q, h, tau, dq, dr)
    return out, [dh, zero_tangent(order), dtau]


# -------------------------------------------------------------- householder_product and ormqr


def _compute_householder_product(h: Array, tau: Array) -> list[Array]:
    return [form_product(h, tau)]


def _compute_ormqr(h: Array, tau: Array, c: Array, *, left: bool, transpose: bool) -> list[Array]:
    return [multiply(h, tau, c, left=left, adjoint=transpose)]


def _transpose_ormqr(
    bind: Callable[..., Array],
    cotangent: Any,
    h: Array,
    tau: Array,
    c: Any,
    *,
    left: bool,
    transpose: bool,
) -> tuple[None, None, Any]:
    """Apply the plain transpose of Q, as JAX pairs cotangents without conjugation (0.5)."""
    del c  # linear in nothing else
    out = bind(h, tau, cotangent.conj(), left=left, transpose=not transpose)
    return None, None, out.conj()


def _is_pivoted(*, pivoting: bool, **params: Any) -> bool:
    return pivoting


def _has_free_columns(a: Array, jpvt: Array) -> Array:
    """Say whether no column is to stay in front, which is what all functions of JAX ask for."""
    return ~jnp.any(jpvt != 0)


REPLACEMENTS = (
    Replacement(
        "qr",
        frozenset({"pivoting", "full_matrices", "use_magma"}),
        _compute_qr,
        _differentiate(_compute_qr),
        keep=_compute_qr,
        lacking={"tpu": _is_pivoted},
    ),
    Replacement("geqrf", frozenset(), _compute_geqrf, _differentiate(_compute_geqrf)),
    Replacement(
        "geqp3",
        frozenset({"use_magma"}),
        _compute_geqp3,
        _differentiate_geqp3,
        serves=_has_free_columns,
    ),
    Replacement(
        "householder_product",
        frozenset(),
        _compute_householder_product,
        _differentiate(_compute_householder_product),
    ),
    Replacement(
        "ormqr",
        frozenset({"left", "transpose"}),
        _compute_ormqr,
        _differentiate(_compute_ormqr),
        transpose=_transpose_ormqr,
    ),
)
