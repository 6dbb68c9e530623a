"""Emit a custom call on a batch of matrices.

``jax.ffi.ffi_call`` cannot attach attributes to the operation itself, and without them XLA's
partitioners gather a sharded batch onto every device. So this is a primitive of its own,
bound only while a lowering is traced: it needs neither batching nor derivatives.
"""

import itertools
import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import mlir

from jaxqr._core.undocumented import call_attributes


class Result(NamedTuple):
    """The shape of a result, with its batch, and the dtype."""

    shape: tuple[int, ...]
    dtype: Any


def call_target(
    target: str,
    operands: Sequence[Array],
    results: Sequence[Result],
    *,
    batch_ndim: int,
    aliases: dict[int, int] | None = None,
    api_version: int = 4,
    row_major: bool = False,
    attributes: Mapping[str, Any] | None = None,
) -> list[Array]:
    """Call `target` on matrices.

    Args:
        target: the registered name of the custom call.
        operands: arrays whose first `batch_ndim` dimensions are the batch.
        results: what the call returns, with the same batch.
        batch_ndim: the number of batch dimensions.
        aliases: results that may overwrite operands, as {operand: result}.
        api_version: 4 for XLA's FFI; 1 for the calls that XLA itself expands, which take no
            layouts and no attributes.
        row_major: whether the call takes matrices by rows, as XLA has them, and not by columns,
            as LAPACK does.
        attributes: scalars, strings and tuples of integers that are passed to the call.
    """
    return call_p.bind(
        *operands,
        target=target,
        results=tuple(results),
        batch_ndim=batch_ndim,
        aliases=tuple((aliases or {}).items()),
        api_version=api_version,
        row_major=row_major,
        attributes=tuple((attributes or {}).items()),
    )


call_p = Primitive("jaxqr_call")
call_p.multiple_results = True


def _abstract_eval(
    *avals: ShapedArray, results: tuple[Result, ...], **params: Any
) -> list[ShapedArray]:
    del avals, params
    return [ShapedArray(r.shape, np.dtype(r.dtype)) for r in results]


call_p.def_abstract_eval(_abstract_eval)


def _lower(
    ctx: mlir.LoweringRuleContext,
    *operands: Any,
    target: str,
    batch_ndim: int,
    aliases: tuple[tuple[int, int], ...],
    api_version: int,
    row_major: bool,
    attributes: tuple[tuple[str, Any], ...],
    **params: Any,
) -> Any:
    del params
    avals_in, avals_out = (cast(Sequence[ShapedArray], a) for a in (ctx.avals_in, ctx.avals_out))
    if api_version == 1:
        rule = jax.ffi.ffi_lowering(target, api_version=1, skip_ffi_layout_processing=True)
        return rule(ctx, *operands)

    def layouts(avals: Sequence[ShapedArray]) -> list[tuple[int, ...] | None]:
        return [None if row_major else _column_major(a, batch_ndim) for a in avals]

    rule = jax.ffi.ffi_lowering(
        target,
        operand_layouts=layouts(avals_in),
        result_layouts=layouts(avals_out),
        operand_output_aliases=dict(aliases),
        extra_attributes=_batch_attributes(batch_ndim, avals_in, avals_out),
    )
    return rule(ctx, *operands, **{name: _to_attribute(value) for name, value in attributes})


def _to_attribute(value: Any) -> Any:
    """Give a tuple the form in which JAX takes an array as an attribute."""
    return np.array(value, np.int64) if isinstance(value, tuple) else value


def _column_major(aval: ShapedArray, batch_ndim: int) -> tuple[int, ...] | None:
    """Give the layout, minor to major, of a matrix in LAPACK's order; None for a vector."""
    if aval.ndim - batch_ndim != 2:
        return None
    return (aval.ndim - 2, aval.ndim - 1, *reversed(range(batch_ndim)))


def _batch_attributes(
    batch_ndim: int, avals_in: Sequence[ShapedArray], avals_out: Sequence[ShapedArray]
) -> dict[str, Any] | None:
    """Tell both of XLA's partitioners that the leading dimensions are independent problems."""
    sizes: dict[str, Any] = {}
    # as Shardy writes them: i to z, then z_1, z_2 and so on
    letters = itertools.chain(string.ascii_lowercase[8:], (f"z_{i}" for i in itertools.count(1)))
    batch = [next(letters) for _ in range(batch_ndim)]

    def term(aval: ShapedArray) -> str:
        # All arrays share the letters of the batch. Every other dimension has its own.
        names = batch + [next(letters) for _ in range(aval.ndim - batch_ndim)]
        sizes.update(zip(names, aval.shape, strict=True))
        return "[" + ", ".join(names) + "]"

    left = ", ".join(map(term, avals_in))
    right = ", ".join(map(term, avals_out))
    if not all(isinstance(size, int) for size in sizes.values()):
        return None  # symbolic shapes: neither attribute can be written
    factors = ", ".join(f"{name}={size}" for name, size in sizes.items())
    rule = f"#sdy.op_sharding_rule<({left})->({right}) {{{factors}}}, custom>"
    return call_attributes(batch_ndim, rule)


mlir.register_lowering(call_p, _lower)
