"""Rules put into JAX's tables, checked there, and taken out again."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from jaxqr._core.settings import fixed_settings, with_fixed_settings
from jaxqr._core.undocumented import (
    call_instead,
    call_rule,
    copy_primitive,
    find_primitives,
    find_rules,
    is_for_export,
    lower_function,
    name_owner,
    register_dead_code_rule,
    set_rules,
)
from jaxqr._lowering import cuda, kernels
from jaxqr._patch.replacements import REPLACEMENTS, Replacement, find_jax_primitives

Rules = dict[str, Any]  # the rules of a primitive, by what they are for

# How often an equation was served, by the primitive's name and by what was computed.
SERVED: Counter[tuple[str, str]] = Counter()


class PatchConflictError(RuntimeError):
    """Another package has replaced rules of JAX that `jaxqr.patch` replaces."""


class DriftError(Exception):
    """This release of JAX has other primitives than those that are replaced here."""


def find_platforms() -> list[str]:
    """Find the platforms for which the package has kernels here."""
    found = {"cpu": kernels.available(), "cuda": cuda.available()}
    return [platform for platform, available in found.items() if available]


def install() -> tuple[dict[Primitive, Rules], dict[Primitive, Rules]]:
    """Put the package's rules in the place of JAX's: all, or none if that fails.

    Returns:
        The rules that were there before, and those that are there now.

    Raises:
        PatchConflictError: if rules are not JAX's own.
        DriftError: if JAX has other primitives than those known here.
    """
    found = _match_primitives()
    before = {p: find_rules(p) for p in found}
    for p, rules in before.items():
        for kind, rule in rules.items():
            _require_owner("patch", p, kind, rule)
    try:
        for p, replacement in found.items():
            _replace(p, replacement, before[p])
        jax.clear_caches()  # what was traced and compiled with the rules before
        _check()
        jax.clear_caches()  # what was traced there would not be counted again
    except BaseException:
        restore(before)
        raise
    return before, {p: find_rules(p) for p in found}


def require_installed(installed: dict[Primitive, Rules]) -> None:
    """Raise PatchConflictError unless the rules that were installed are still there."""
    for p, rules in installed.items():
        now = find_rules(p)
        for kind, rule in now.items():
            if rules.get(kind) is not rule:
                _require_owner("unpatch", p, kind, rule)
        if missing := rules.keys() - now.keys():
            raise PatchConflictError(
                f"unpatch: the rules of JAX's primitive {p.name} must be those that jaxqr has put "
                f"there, but it no longer has its {', '.join(sorted(missing))}"
            )


def restore(before: dict[Primitive, Rules]) -> None:
    """Put the rules back that were there before."""
    for p, rules in before.items():
        set_rules(p, rules)
    jax.clear_caches()


def _require_owner(function: str, p: Primitive, kind: str, rule: Any) -> None:
    owner = name_owner(rule)
    if owner.partition(".")[0] not in ("jax", "jaxlib"):
        raise PatchConflictError(
            f"{function}: the {kind} of JAX's primitive {p.name} must be JAX's own, got {owner}. "
            "Undo that change first"
        )


def _match_primitives() -> dict[Primitive, Replacement]:
    known = find_jax_primitives()
    found = {}
    for replacement in REPLACEMENTS:
        if replacement.name not in known:
            raise DriftError(f"there is no primitive {replacement.name}")
        p, parameters = known[replacement.name]
        if parameters != replacement.parameters:
            listed = ", ".join(sorted(parameters)) or "none"
            raise DriftError(f"the primitive {p.name} has other parameters, namely {listed}")
        found[p] = replacement
    return found


def _replace(p: Primitive, replacement: Replacement, before: Rules) -> None:
    name, compute = replacement.name, replacement.compute
    if replacement.serves is not None:
        compute = _choose(replacement.serves, compute, copy_primitive(p, before))
    platforms = find_platforms()
    for platform in {*platforms, *replacement.lacking}:
        otherwise = before.get(f"lowering for {platform}", before.get("lowering"))
        when = None if platform in platforms else replacement.lacking[platform]
        rule = _make_lowering(_counted(name, "values", compute), when, otherwise)
        mlir.register_lowering(p, rule, platform=platform)
    differentiate = _counted(name, "derivatives", partial(_differentiate, replacement, p))
    ad.primitive_jvps[p] = with_fixed_settings(differentiate)
    if replacement.transpose is not None:
        ad.primitive_transposes[p] = with_fixed_settings(partial(replacement.transpose, p.bind))
    if replacement.keep is not None and platforms:
        keep = _counted(name, "values", replacement.keep)
        register_dead_code_rule(p, partial(_keep_used, keep))


def _counted(name: str, kind: str, f: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **params: Any) -> Any:
        SERVED[name, kind] += 1
        return f(*args, **params)

    run.__name__ = name  # which programs show
    return run


def _choose(
    serves: Callable[..., Array], compute: Callable[..., list[Array]], stock: Primitive
) -> Callable[..., list[Array]]:
    """Compute by this package, or by JAX where the operands ask for what it alone has."""

    def chosen(*operands: Array, **params: Any) -> list[Array]:
        branches = partial(compute, **params), partial(stock.bind, **params)
        return lax.cond(serves(*operands), *branches, *operands)

    return chosen


def _keep_used(
    keep: Callable[..., list[Array]], used: Sequence[bool], equation: Any
) -> dict[str, Any]:
    return call_instead(partial(keep, used=tuple(used), **equation.params), equation)


def _make_lowering(
    compute: Callable[..., list[Array]], when: Callable[..., bool] | None, otherwise: Any
) -> Callable[..., Any]:
    """Lower by `compute`, but what is exported, or not meant by the parameters, as JAX does."""

    def rule(ctx: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
        if is_for_export(ctx) or (when is not None and not when(**params)):
            return call_rule(otherwise, ctx, *operands, **params)
        with fixed_settings(ctx.avals_in):
            return lower_function(ctx, compute, *operands, **params)

    return rule


def _differentiate(
    replacement: Replacement,
    p: Primitive,
    primals: Sequence[Array],
    tangents: Sequence[Any],
    **params: Any,
) -> Any:
    found = replacement.differentiate(p.bind, primals, tangents, **params)
    if p.multiple_results:
        return found
    (out,), (tangent,) = found
    return out, tangent


def _check() -> None:
    """Raise unless JAX's functions are differentiated by this package's rules."""
    a = jax.ShapeDtypeStruct((3, 2), jnp.float32)

    def loss(a: Array) -> Array:
        return jnp.sum(jnp.linalg.qr(a)[0]) + jnp.sum(jax.scipy.linalg.qr_multiply(a, a.T)[0])

    forward = jax.make_jaxpr(lambda a: jax.jvp(loss, (a,), (a,)))(a)
    reverse = jax.make_jaxpr(jax.grad(loss))(a)
    for jaxpr, rule in ((forward, "jaxqr_qr_jvp"), (reverse, "jaxqr_qr_vjp")):
        if rule not in find_primitives(jaxpr.jaxpr):
            raise DriftError("its functions do not use the derivative rules of its primitives")
