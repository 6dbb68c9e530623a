"""One rule for a matrix and for its transpose: LQ is QR seen through the plain transpose.

A primitive with such a mirror has a parameter `transposed`. If it is true, all of its matrices,
operands and results, are the transposes of those that its rules speak of. The rules know nothing
of it: they are wrapped here. (A kernel takes the parameter instead and copies nothing.)
"""

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

from jax import Array
from jax.extend.core import Primitive

from jaxqr._core.abstract import CoreResult
from jaxqr._core.batching import Body
from jaxqr._core.partition import Shape
from jaxqr._core.undocumented import zero_tangent


def mirror_results(results: Callable[..., list[CoreResult]]) -> Callable[..., list[CoreResult]]:
    """Let a shape rule serve the mirror."""

    def mirrored(*shapes: Shape, transposed: bool, **params: Any) -> list[CoreResult]:
        if not transposed:
            return results(*shapes, **params)
        plain = results(*(shape[::-1] for shape in shapes), **params)
        return [(shape[::-1], dtype) for shape, dtype in plain]

    return mirrored


def mirror_body(body: Body) -> Body:
    """Let what a primitive computes serve the mirror."""

    def mirrored(*operands: Array, transposed: bool, **params: Any) -> list[Array]:
        if not transposed:
            return body(*operands, **params)
        ndim = operands[0].ndim
        return _turn(body(*_turn(operands, ndim), **params), ndim)

    return mirrored


def mirror_jvp(jvp: Callable[..., Any]) -> Callable[..., Any]:
    """Let a rule of forward mode serve the mirror.

    The rule's first argument is a function that binds primitives with the same mirror.
    """

    @wraps(jvp)
    def mirrored(
        primals: Sequence[Array], tangents: Sequence[Any], *, transposed: bool, **params: Any
    ) -> Any:
        bind = partial(_bind, transposed)
        if not transposed:
            return jvp(bind, primals, tangents, **params)
        ndim = primals[0].ndim
        found = jvp(bind, _turn(primals, ndim), _turn(tangents, ndim), **params)
        out, d_out = (_turn(x, ndim) for x in found)
        pairs = zip(out, d_out, strict=True)  # a symbolic zero has the shape of its primal
        return out, [d if isinstance(d, Array) else zero_tangent(x) for x, d in pairs]

    return mirrored


def mirror_transpose(transpose: Callable[..., Any]) -> Callable[..., Any]:
    """Let a rule of reverse mode serve the mirror. Its first argument is such a function, too."""

    @wraps(transpose)
    def mirrored(
        cotangents: Sequence[Any],
        fixed: Sequence[Array],
        wanted: Sequence[bool],
        *,
        transposed: bool,
        **params: Any,
    ) -> Any:
        bind = partial(_bind, transposed)
        if not transposed:
            return transpose(bind, cotangents, fixed, wanted, **params)
        ndim = fixed[0].ndim
        cotangents, fixed = _turn(cotangents, ndim), _turn(fixed, ndim)
        return _turn(transpose(bind, cotangents, fixed, wanted, **params), ndim)

    return mirrored


def _bind(transposed: bool, p: Primitive, *operands: Array, **params: Any) -> list[Array]:
    """Bind `p` to matrices as the rules see them; XLA cancels transposes of transposes."""
    if not transposed:
        return p.bind(*operands, transposed=False, **params)
    ndim = operands[0].ndim
    return _turn(p.bind(*_turn(operands, ndim), transposed=True, **params), ndim)


def _turn(arrays: Sequence[Any], ndim: int) -> list[Any]:
    """Transpose matrices, which have `ndim` dimensions; vectors and symbolic zeros stay."""
    return [x.mT if isinstance(x, Array) and x.ndim == ndim else x for x in arrays]
