"""One factory: rules that speak of single matrices in, a batched, shardable primitive out.

A primitive here has operands whose last one or two dimensions are the matrix (or vector) and
whose leading dimensions are a batch, common to all operands. Its `body`, a function of arrays,
is both its lowering on platforms without a better one and, for linear primitives, what is
differentiated for the derivative with respect to the other operands.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import jax
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AbstractMesh, PartitionSpec, use_abstract_mesh

from jaxqr._core.abstract import CoreResult, Ranks, Signature
from jaxqr._core.batching import Body, Columnwise, MapBody, batch_rule
from jaxqr._core.mirror import mirror_body, mirror_jvp, mirror_results, mirror_transpose
from jaxqr._core.partition import axis_names, partition
from jaxqr._core.settings import fixed_settings, with_fixed_settings
from jaxqr._core.undocumented import (
    bind_eagerly,
    is_for_export,
    lower_function,
    register_dead_code_rule,
    zero_cotangent,
    zero_tangent,
)

# A kernel takes a primitive's name, its operands, the shapes and dtypes of its results, the number
# of batch dimensions and the parameters. It gives the results, or None where it is not built.
Kernel = Callable[..., list[Array] | None]


def make_primitive(
    name: str,
    *,
    core_ranks: Ranks,
    results: Callable[..., list[CoreResult]],
    body: Body,
    linear_from: int | None = None,
    jvp: Callable[..., Any] | None = None,
    transpose: Callable[..., Any] | None = None,
    map_body: MapBody = True,
    columnwise: Columnwise | None = None,
    varies_as_last: bool = False,
    named_outputs: bool = False,
    mirrored: bool = False,
    kernels: Mapping[str, Kernel] | None = None,
    platforms: Mapping[str, Body] | None = None,
    exported: Mapping[str, Body] | None = None,
) -> Primitive:
    """Make a primitive. All that is known of it is said in this one call.

    Args:
        name: the name that jaxprs show after `jaxqr_`.
        core_ranks: how many trailing dimensions of each operand are the matrix, vector or number;
            or a function of the parameters that tells.
        results: the shape rule: the operands' shapes without the batch, and the parameters, to
            the results.
        body: what it computes, made of operations that run everywhere.
        linear_from: the first operand in which the primitive is linear, if it is in any; -1 for
            the last.
        jvp: the rule of forward mode. Of a linear primitive it may be left out: then that of
            `body` is taken for the operands in which it is not linear.
        transpose: of a linear primitive, from the results' cotangents (symbolic zeros among them,
            but not all), the operands before `linear_from`, and for each of the others whether its
            cotangent is wanted, to the wanted ones.
        map_body: of a linear primitive, mapped in linear operands alone: whether `body` is mapped,
            whose products and solves take them as more columns; or a function of the size of the
            mapped dimension and the operands that tells. Otherwise the fixed operands are copied.
        columnwise: where the columns of the last operand are problems apart: which results have a
            column for each, or a function of the parameters that tells; the others do not depend
            on it. A batch of that operand alone then becomes more columns.
        varies_as_last: in a shard_map the results vary over the same manual axes as the last
            operand, whatever the others do; otherwise all operands must agree.
        named_outputs: its parameter `outputs` names the results, of which dead code elimination
            leaves those that are used.
        mirrored: it has a parameter `transposed`, see ``mirror``. The rules above do not see it;
            `jvp` and `transpose` get a function that binds primitives with the same mirror as
            their first argument. What is below gets the parameter.
        kernels: the package's own kernels by platform, which compute it where they are built and
            serve the shape.
        platforms: what computes it on a platform in the place of `body`, without a kernel.
        exported: what does in a program that is exported: it runs elsewhere, also without this
            package. By default that of `platforms`.

    Returns:
        A primitive with multiple results.
    """
    if mirrored:
        results, body = mirror_results(results), mirror_body(body)
        jvp = None if jvp is None else mirror_jvp(jvp)
        transpose = None if transpose is None else mirror_transpose(transpose)
    signature = Signature(name, core_ranks, results, varies_as_last)
    p = Primitive(f"jaxqr_{name}")
    p.multiple_results = True
    bind_eagerly(p)
    p.def_abstract_eval(signature.evaluate)
    batching.primitive_batchers[p] = with_fixed_settings(
        partial(batch_rule, p, body, linear_from, map_body, columnwise)
    )
    _register_derivatives(p, body, linear_from, jvp, transpose)
    if named_outputs:
        register_dead_code_rule(p, _keep_outputs)
    _register_lowerings(p, signature, body, kernels or {}, platforms or {}, exported or {})
    return p


def is_zero(tangent: Any) -> bool:
    """Say whether a tangent or cotangent is symbolically zero."""
    return type(tangent) is ad.Zero


def push_forward(
    f: Callable[..., list[Array]], primals: Sequence[Array], tangents: Sequence[Any]
) -> tuple[list[Array], list[Any]]:
    """Compute `f` and its tangent in the operands whose tangents are not symbolically zero.

    Args:
        f: a function of arrays.
        primals: its operands.
        tangents: of the first of them; the others are constant.
    """
    live = [i for i, tangent in enumerate(tangents) if not is_zero(tangent)]

    def at(*moving: Array) -> list[Array]:
        replaced = dict(zip(live, moving, strict=True))
        return f(*(replaced.get(i, x) for i, x in enumerate(primals)))

    return jax.jvp(at, [primals[i] for i in live], [tangents[i] for i in live])


def _register_derivatives(
    p: Primitive,
    body: Body,
    linear_from: int | None,
    jvp: Callable[..., Any] | None,
    transpose: Callable[..., Any] | None,
) -> None:
    if jvp is None and linear_from is not None:
        jvp = partial(_differentiate_linear, p, body, linear_from)
    if jvp is not None:
        ad.primitive_jvps[p] = with_fixed_settings(jvp)
    if transpose is not None:
        assert linear_from is not None, f"{p.name}: a transpose rule of nothing linear"
        rule = partial(_transpose_linear, transpose, linear_from)
        ad.primitive_transposes[p] = with_fixed_settings(rule)


def _keep_outputs(used: Sequence[bool], equation: Any) -> dict[str, Any]:
    kept = tuple(o for o, u in zip(equation.params["outputs"], used, strict=True) if u)
    return {"params": dict(equation.params, outputs=kept)}


# --------------------------------------------------------------------- rules of linear primitives


def _differentiate_linear(
    p: Primitive,
    body: Body,
    linear_from: int,
    primals: Sequence[Array],
    tangents: Sequence[Any],
    **params: Any,
) -> Any:
    """Differentiate a primitive that is linear from operand `linear_from` on.

    The tangent in the linear operands is the primitive itself; in the others it is that of the
    body, so derivatives of every order follow.
    """
    out = p.bind(*primals, **params)
    first = linear_from % len(primals) if linear_from < 0 else linear_from
    terms = []
    if not all(map(is_zero, tangents[first:])):
        linear = map(ad.instantiate_zeros, tangents[first:])
        terms.append(p.bind(*primals[:first], *linear, **params))
    if not all(map(is_zero, tangents[:first])):
        terms.append(push_forward(partial(body, **params), primals, tangents[:first])[1])
    if not terms:
        return out, list(map(zero_tangent, out))
    return out, [sum(pair[1:], start=pair[0]) for pair in zip(*terms, strict=True)]


def _transpose_linear(
    rule: Callable[..., Sequence[Array]],
    linear_from: int,
    cotangents: Sequence[Any],
    *operands: Any,
    **params: Any,
) -> tuple[Any, ...]:
    """Give a rule of reverse mode the form that JAX asks for: None where there is no cotangent."""
    fixed, linear = operands[:linear_from], operands[linear_from:]
    wanted = tuple(map(ad.is_undefined_primal, linear))
    found: Any
    if all(map(is_zero, cotangents)):
        found = iter([zero_cotangent(x) for x, w in zip(linear, wanted, strict=True) if w])
    else:
        found = iter(rule(cotangents, fixed, wanted, **params))
    return *(None for _ in fixed), *(next(found) if w else None for w in wanted)


# ------------------------------------------------------------------------------------ lowering


def _register_lowerings(
    p: Primitive,
    signature: Signature,
    body: Body,
    kernels: Mapping[str, Kernel],
    platforms: Mapping[str, Body],
    exported: Mapping[str, Body],
) -> None:
    """Register each platform's lowering, once."""
    _lower(p, None, body, body)
    for platform in {**platforms, **kernels}:
        otherwise = platforms.get(platform, body)
        kernel = kernels.get(platform)
        used = otherwise if kernel is None else _try_kernel(signature, kernel, otherwise)
        _lower(p, platform, used, exported.get(platform, otherwise))


def _try_kernel(signature: Signature, kernel: Kernel, otherwise: Body) -> Body:
    """Let a kernel compute the primitive where it is built."""

    def compute(*operands: Array, **params: Any) -> list[Array]:
        results = signature.find_result_types(operands, params)
        batch_ndim = signature.count_batch_dimensions(operands, params)
        found = kernel(signature.name, operands, results, batch_ndim=batch_ndim, **params)
        return otherwise(*operands, **params) if found is None else found

    return compute


def _lower(p: Primitive, platform: str | None, body: Body, exported: Body) -> None:
    """Let `body` compute `p`, on one platform or (None) on all that have nothing of their own.

    On an explicit mesh, whose shardings are known, the body runs shard by shard: XLA's partitioner
    is not asked, which knows nothing of some custom calls.
    """

    def rule(ctx: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
        avals = cast(Sequence[ShapedArray], ctx.avals_in)
        f = exported if is_for_export(ctx) else body
        with fixed_settings(avals):
            if any(axis is not None for axis in partition(avals[0])):
                return lower_function(ctx, _by_shards(f, ctx), *operands, **params)
            # The body is traced on plain types: its loops would otherwise reject the explicit
            # shardings and varying axes that their carries gain.
            plain = ctx.replace(avals_in=[ShapedArray(a.shape, a.dtype) for a in avals])
            with use_abstract_mesh(AbstractMesh((), ())):
                return lower_function(plain, f, *operands, **params)

    mlir.register_lowering(p, rule, platform=platform)


def _by_shards(body: Body, ctx: mlir.LoweringRuleContext) -> Body:
    """Run `body` on the shards of operands whose batch is sharded over an explicit mesh."""
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
