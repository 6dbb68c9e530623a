"""One factory: rules that speak of single matrices in, a batched, shardable primitive out.

A primitive here has operands whose last one or two dimensions are the matrix (or vector) and
whose leading dimensions are a batch, common to all operands. Its `body`, a function of arrays,
is both its lowering on platforms without a better one and, for linear primitives, what is
differentiated for the derivative with respect to the other operands.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla
from jax.interpreters import partial_eval as pe
from jax.sharding import AbstractMesh, PartitionSpec, use_abstract_mesh

from jaxqr._batching import Body, Shape, axis_names, batch_rule, partition
from jaxqr._lowering import native
from jaxqr._settings import caller, fixed, settled

# A matrix-level result: its shape, and its dtype where that is not the operands', or REAL
CoreResult = tuple[Shape, Any]
REAL = "real"  # the dtype of the operands' real parts

DTYPES = tuple(map(np.dtype, ("float32", "float64", "complex64", "complex128")))


def make(
    name: str,
    *,
    ranks: tuple[int, ...],
    results: Callable[..., list[CoreResult]],
    body: Body,
    linear_from: int | None = None,
    columnwise: Callable[..., Sequence[bool]] | None = None,
    varies_as_last: bool = False,
) -> Primitive:
    """Make a primitive.

    Args:
        name: the name that jaxprs show after `jaxqr_`.
        ranks: how many trailing dimensions of each operand are the matrix; of more operands
            than that, the last entry holds.
        results: the shape rule: matrix-level operand shapes and parameters to the results.
        body: what it computes.
        linear_from: the first operand in which the primitive is linear, if it is in any.
        columnwise: where the columns of the last operand are problems apart: from the parameters,
            which results have a column for each; the others do not depend on it. A batch of that
            operand alone then becomes more columns.
        varies_as_last: in a shard_map the results vary over the same manual axes as the last
            operand, whatever the others do; otherwise all operands must agree.

    Returns:
        A primitive with multiple results, abstract evaluation, batching and a lowering.
    """
    p = Primitive(f"jaxqr_{name}")
    p.multiple_results = True
    p.def_impl(partial(xla.apply_primitive, p))
    p.def_abstract_eval(partial(_abstract_eval, name, ranks, results, varies_as_last))
    batching.primitive_batchers[p] = settled(partial(batch_rule, p, body, linear_from, columnwise))
    lower(p, body)
    return p


def lower(
    p: Primitive, body: Body, platform: str | None = None, exported: Body | None = None
) -> None:
    """Let `body` compute `p`, on one platform or on all that have nothing of their own.

    A program that is exported runs elsewhere, also without this package: where `body` needs it,
    `exported` takes its place there. On an explicit mesh, whose shardings are known, the body runs
    shard by shard: XLA's partitioner is not asked, which knows nothing of some custom calls.
    """

    def rule(ctx: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
        avals = cast(Sequence[ShapedArray], ctx.avals_in)
        for_export = ctx.module_context.lowering_parameters.for_export
        f = exported if for_export and exported is not None else body
        if any(axis is not None for axis in partition(avals[0])):
            return mlir.lower_fun(_by_shards(f, ctx), multiple_results=True)(
                ctx, *operands, **params
            )
        # Traced on plain types: the body's loops would otherwise reject the explicit shardings
        # and varying axes that their carries gain.
        plain = ctx.replace(avals_in=[ShapedArray(a.shape, a.dtype) for a in avals])
        with use_abstract_mesh(AbstractMesh((), ())):
            return mlir.lower_fun(f, multiple_results=True)(plain, *operands, **params)

    def in_context(ctx: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
        with fixed(ctx.avals_in):
            return rule(ctx, *operands, **params)

    mlir.register_lowering(p, in_context, platform=platform)


def _by_shards(body: Body, ctx: mlir.LoweringRuleContext) -> Body:
    """`body` on the shards of operands whose batch is sharded over an explicit mesh."""
    avals_in, avals_out = (cast(Sequence[ShapedArray], a) for a in (ctx.avals_in, ctx.avals_out))
    in_specs, out_specs = (
        tuple(PartitionSpec(*partition(a)) for a in avals) for avals in (avals_in, avals_out)
    )
    axes = {name for entry in in_specs[0] for name in axis_names(entry)}

    def shards(*operands: Array, **params: Any) -> list[Array]:
        def plain(*blocks: Array) -> tuple[Array, ...]:
            with use_abstract_mesh(AbstractMesh((), ())):
                return tuple(body(*blocks, **params))

        blocks = jax.shard_map(
            plain,
            mesh=avals_in[0].sharding.mesh,
            in_specs=in_specs,
            out_specs=out_specs,
            axis_names=axes,
            check_vma=False,  # as the types of the body's loops are plain
        )
        return list(blocks(*operands))

    return shards


def lower_to_kernel(
    p: Primitive,
    *,
    ranks: tuple[int, ...],
    results: Callable[..., list[CoreResult]],
    otherwise: Body,
) -> None:
    """Let the package's own kernel of p's name compute it on the CPU; `otherwise` without one.

    The kernel is part of this package, so exported programs do without it.
    """

    def body(*operands: Array, **params: Any) -> list[Array]:
        if not native.available():
            return otherwise(*operands, **params)
        batch = operands[0].ndim - ranks[0]
        cores = results(*(x.shape[batch:] for x in operands), **params)
        dtype = operands[0].dtype
        shapes = [(*operands[0].shape[:batch], *shape) for shape, _ in cores]
        dtypes = [_result_dtype(kind, dtype) for _, kind in cores]
        return native.compute(p.name, operands, shapes, dtypes, batch_ndim=batch, **params)

    lower(p, body, "cpu", exported=otherwise)


def derivatives(
    p: Primitive,
    jvp: Callable[..., Any] | None = None,
    transpose: Callable[..., Any] | None = None,
) -> None:
    """Let these be rules of p, the second one if p is linear in some operands."""
    if jvp is not None:
        ad.primitive_jvps[p] = settled(jvp)
    if transpose is not None:
        ad.primitive_transposes[p] = settled(transpose)


def name_outputs(p: Primitive) -> None:
    """Let dead code elimination shrink the parameter `outputs`, the names of p's results."""

    def rule(used: Sequence[bool], *context: Any) -> Any:
        equation = context[-1]  # JAX 0.12 has one more argument before it than 0.10
        if not any(used):
            return [False] * len(equation.invars), None
        kept = tuple(o for o, u in zip(equation.params["outputs"], used, strict=True) if u)
        outvars = [v for v, u in zip(equation.outvars, used, strict=True) if u]
        params = dict(equation.params, outputs=kept)
        return [True] * len(equation.invars), equation.replace(outvars=outvars, params=params)

    pe.dce_rules[p] = rule


def zero_tangent(x: Array) -> ad.Zero:
    """The symbolic zero among the tangents of `x`."""
    return ad.Zero(jax.typeof(x).to_tangent_aval())


def is_zero(tangent: Any) -> bool:
    """Whether a tangent or cotangent is symbolically zero."""
    return type(tangent) is ad.Zero


# ---------------------------------------------------------------------- abstract evaluation


def _abstract_eval(
    name: str,
    ranks: tuple[int, ...],
    results: Callable[..., list[CoreResult]],
    varies_as_last: bool,
    *avals: ShapedArray,
    **params: Any,
) -> list[ShapedArray]:
    core_ranks = [ranks[min(i, len(ranks) - 1)] for i in range(len(avals))]
    name = caller(name)
    batch = _batch_shape(name, avals, core_ranks)
    common = _common_dtype(name, avals)
    varying = {a.manual_axis_type for a in avals}
    if len(varying) > 1 and not varies_as_last:
        raise ValueError(
            f"{name}: operands must vary over the same manual axes, got {varying}; "
            "use jax.lax.pcast(x, axes, to='varying')"
        )
    spec = _batch_spec(name, avals, core_ranks)
    cores = [a.shape[a.ndim - rank :] for a, rank in zip(avals, core_ranks, strict=True)]
    like = avals[-1] if varies_as_last else avals[0]

    def result(shape: Shape, dtype: Any) -> ShapedArray:
        sharding = like.sharding.update(spec=PartitionSpec(*spec, *(None for _ in shape)))
        return like.update(
            shape=(*batch, *shape),
            dtype=_result_dtype(dtype, common),
            weak_type=False,
            sharding=sharding,
        )

    return [result(shape, dtype) for shape, dtype in results(*cores, **params)]


def _result_dtype(kind: Any, common: np.dtype) -> np.dtype:
    """The dtype of a result that a shape rule gives as `kind`."""
    if kind is None:
        return common
    return np.dtype(jnp.finfo(common).dtype if kind is REAL else kind)


def _batch_shape(name: str, avals: Sequence[ShapedArray], ranks: Sequence[int]) -> Shape:
    """The batch dimensions, which all operands share."""
    for i, (a, rank) in enumerate(zip(avals, ranks, strict=True)):
        if a.ndim < rank:
            raise ValueError(
                f"{name}: operand {i} must have at least {rank} dimensions, got shape {a.shape}"
            )
    batches = [a.shape[: a.ndim - rank] for a, rank in zip(avals, ranks, strict=True)]
    if any(batch != batches[0] for batch in batches):
        raise ValueError(
            f"{name}: operands must have the same batch dimensions, got {[a.shape for a in avals]}"
        )
    return batches[0]


def _common_dtype(name: str, avals: Sequence[ShapedArray]) -> np.dtype:
    """The dtype of the operands that are not permutations: complex, if any is."""
    dtypes = {a.dtype for a in avals if not jnp.issubdtype(a.dtype, jnp.integer)}
    if not dtypes.issubset(DTYPES) or len({jnp.finfo(dtype).dtype for dtype in dtypes}) != 1:
        raise TypeError(
            f"{name}: operands must share one precision of float32, float64, complex64 and "
            f"complex128, got {[str(a.dtype) for a in avals]}"
        )
    return max(dtypes, key=lambda dtype: dtype.itemsize)


def _batch_spec(name: str, avals: Sequence[ShapedArray], ranks: Sequence[int]) -> tuple[Any, ...]:
    specs = []
    for i, (a, rank) in enumerate(zip(avals, ranks, strict=True)):
        spec = partition(a)
        if any(axis is not None for axis in spec[a.ndim - rank :]):
            raise ValueError(
                f"{name}: the matrix dimensions of operand {i} must not be sharded, got "
                f"{a.str_short(short_dtypes=True)} with {a.sharding.spec}; reshard it with "
                "jax.sharding.reshard(x, PartitionSpec(*batch_axes, None, None))"
            )
        specs.append(spec[: a.ndim - rank])
    if any(spec != specs[0] for spec in specs):
        raise ValueError(f"{name}: operands must have the same batch sharding, got {specs}")
    return specs[0]


# ------------------------------------------------------------------- linear primitives


def linear_jvp(p: Primitive, body: Body, linear_from: int) -> None:
    """Differentiate a primitive that is linear from operand `linear_from` on.

    The tangent in the linear operands is the primitive itself; in the others it is that of the
    body, so derivatives of every order follow.
    """

    def jvp(primals: Sequence[Array], tangents: Sequence[Any], **params: Any) -> Any:
        out = p.bind(*primals, **params)
        terms = []
        if not all(map(is_zero, tangents[linear_from:])):
            linear = map(ad.instantiate_zeros, tangents[linear_from:])
            terms.append(p.bind(*primals[:linear_from], *linear, **params))
        live = [i for i in range(linear_from) if not is_zero(tangents[i])]
        if live:

            def at(*fixed: Array) -> list[Array]:
                replaced = dict(zip(live, fixed, strict=True))
                return body(*(replaced.get(i, x) for i, x in enumerate(primals)), **params)

            points, directions = [primals[i] for i in live], [tangents[i] for i in live]
            terms.append(jax.jvp(at, points, directions)[1])
        if not terms:
            return out, list(map(zero_tangent, out))
        return out, [sum(pair[1:], start=pair[0]) for pair in zip(*terms, strict=True)]

    derivatives(p, jvp)
