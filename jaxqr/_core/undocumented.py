"""What of JAX is used here that its documentation does not hold, each with the reason.

All of it is there, and means the same, in jax and jaxlib 0.10.2 (the oldest version supported) and
0.12. Where a newer JAX changes something, this is the file to mend. What stands in the tutorial on
primitives (`Primitive`, `ad.primitive_jvps`, `ad.primitive_transposes`, `ad.Zero`,
`batching.primitive_batchers`, `mlir.register_lowering`) is used where it is needed.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.extend.mlir import ir
from jax.interpreters import ad, batching, mlir, xla
from jax.interpreters import partial_eval as pe

# jaxlib has no public door to LAPACK's geqrf and geqp3.
from jaxlib import lapack


def bind_eagerly(p: Primitive) -> None:
    """Let `p` be compiled and run where it is bound outside of any transformation.

    The tutorial evaluates with NumPy instead, which gives neither devices nor shardings.
    """
    p.def_impl(partial(xla.apply_primitive, p))


def zero_tangent(x: Any) -> ad.Zero:
    """Make the symbolic zero tangent of `x`. That of an integer has the dtype float0."""
    return ad.Zero(jax.typeof(x).to_tangent_aval())


def zero_cotangent(x: Any) -> ad.Zero:
    """Make the symbolic zero cotangent of the undefined primal `x`.

    It is sharded, and varies over manual axes, as cotangents are and not as the primal is.
    """
    return ad.Zero(x.aval.to_ct_aval())


def varying_axes(x: Any) -> frozenset[str]:
    """Find the manual axes of a `shard_map` over which an array varies; its type has them."""
    return varying_type(jax.typeof(x)).varying


def varying_type(aval: ShapedArray) -> Any:
    """Find the same in a type, together with what `shard_map` knows of reductions."""
    return aval.manual_axis_type


def describe_type(aval: ShapedArray) -> str:
    """Write dtype and shape, with the mesh axes of the dimensions, as errors of JAX do."""
    return aval.str_short(short_dtypes=True)


def register_dead_code_rule(
    p: Primitive, shrink: Callable[[Sequence[bool], Any], dict[str, Any]]
) -> None:
    """Let dead code elimination leave out results of `p`.

    Args:
        p: a primitive, all of whose operands are needed for any of its results.
        shrink: from which results are used, and an equation of p, to what of the equation is
            another one when it has those results only: its parameters, or its primitive, too.
    """

    def rule(used: Sequence[bool], *context: Any) -> Any:
        equation = context[-1]  # JAX 0.12 has one more argument before it than 0.10
        needed = [any(used)] * len(equation.invars)
        if not any(used):
            return needed, None
        if all(used):
            return needed, equation
        outvars = [v for v, u in zip(equation.outvars, used, strict=True) if u]
        return needed, equation.replace(outvars=outvars, **shrink(used, equation))

    pe.dce_rules[p] = rule


def call_instead(f: Callable[..., Any], equation: Any) -> dict[str, Any]:
    """Give what of an equation is another one when it calls `f` of its operands."""
    with equation.ctx.manager:
        traced = jax.make_jaxpr(jax.jit(f))(*(v.aval for v in equation.invars))
    (call,) = traced.jaxpr.eqns
    return {"primitive": call.primitive, "params": call.params, "effects": call.effects}


def find_primitives(jaxpr: Any) -> dict[str, tuple[Primitive, frozenset[str]]]:
    """Find the primitives of a jaxpr and of those inside it, with their parameters' names."""
    found = {}
    for equation in jaxpr.eqns:
        found[equation.primitive.name] = equation.primitive, frozenset(equation.params)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found.update(find_primitives(inner))
    return found


def find_rules(p: Primitive) -> dict[str, Any]:
    """Give all that JAX looks up for `p` when it lowers, differentiates or drops it."""
    return {name: table[p] for name, table in _rule_tables().items() if p in table}


def set_rules(p: Primitive, rules: dict[str, Any]) -> None:
    """Let what JAX looks up for `p` be these rules and no others."""
    for name, table in _rule_tables().items():
        if name in rules:
            table[p] = rules[name]
        else:
            table.pop(p, None)


def _rule_tables() -> dict[str, dict[Primitive, Any]]:
    lowerings = mlir._platform_specific_lowerings
    return {
        "lowering": mlir._lowerings,
        **{f"lowering for {name}": lowerings[name] for name in ("cpu", "cuda", "rocm", "tpu")},
        "derivative": ad.primitive_jvps,
        "transpose": ad.primitive_transposes,
        "dead code": pe.dce_rules,
    }


def copy_primitive(p: Primitive, rules: dict[str, Any]) -> Primitive:
    """Make a primitive that computes as `p` does with these rules, and has no derivative."""
    copy = Primitive(p.name)
    copy.multiple_results = p.multiple_results
    copy.def_effectful_abstract_eval(p.abstract_eval)
    set_rules(copy, {kind: rule for kind, rule in rules.items() if kind.startswith("lowering")})
    return copy


def call_rule(entry: Any, ctx: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
    """Call a lowering as `find_rules` gives it."""
    return entry.rule(ctx, *operands, **params)


def name_owner(rule: Any) -> str:
    """Name the module and the function behind a rule, however JAX has wrapped it."""
    rule = getattr(rule, "rule", rule)
    inner = getattr(rule, "func", None)  # of a partial function
    if inner is None and getattr(rule, "__closure__", None):
        inner = inspect.getclosurevars(rule).nonlocals.get("fun")  # of mlir.lower_fun
    return f"{rule.__module__}.{rule.__qualname__}" if inner is None else name_owner(inner)


def move_batch_to_front(x: Any, dim: int | None, size: int) -> Any:
    """Move the mapped dimension of `x` to the front; broadcast `x` if it is not mapped."""
    return batching.bdim_at_front(x, dim, size)


def is_for_export(ctx: mlir.LoweringRuleContext) -> bool:
    """Say whether a lowering is for `jax.export`: the program then runs elsewhere."""
    return ctx.module_context.lowering_parameters.for_export


def lower_function(
    ctx: mlir.LoweringRuleContext, f: Callable[..., Any], *operands: Any, **params: Any
) -> Any:
    """Lower a function of arrays with several results in the place of a primitive."""
    return mlir.lower_fun(f, multiple_results=True)(ctx, *operands, **params)


def call_attributes(batch_ndim: int, sharding_rule: str) -> dict[str, Any]:
    """Make the attributes of a custom call that tell XLA's two partitioners of its batch.

    `jax.ffi.ffi_call` cannot attach them to the operation itself.
    """
    return {
        "mhlo.frontend_attributes": mlir.ir_attribute({"num_batch_dims": str(batch_ndim)}),
        "sdy.sharding_rule": ir.Attribute.parse(sharding_rule),
    }


def wide_dtypes_exist() -> bool:
    """Say whether dtypes of 64 bits exist in this context; `jax.config.jax_enable_x64` may not."""
    return bool(jax.config.values["jax_enable_x64"])


def prepare_lapack_call(routine: str, dtype: Any) -> str:
    """Find the target of a routine of jaxlib's LAPACK. The first call fetches SciPy's pointers."""
    return lapack.prepare_lapack_call(f"{routine}_ffi", np.dtype(dtype))
