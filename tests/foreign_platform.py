"""Run on this CPU the programs that JAX lowers for other platforms.

XLA expands the TPU's `Qr` on every back end. cuSOLVER's custom calls take LAPACK's operands, so
jaxlib's LAPACK handlers can stand in for them; their names do not tell the dtype, hence one
process for each. As a script: ``python foreign_platform.py cuda float64 deep wide``.
"""

import functools
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.extend.mlir import ir
from jax.interpreters import mlir

import jaxqr
from laws import loss_of, quickly
from matrices import orthogonality_ratio, residual_ratio, separated


def rotate(a):
    """Q^H A through the packed reflectors."""
    h, tau = jaxqr.qr(a, "raw")
    return jaxqr.householder_multiply(h.mT, tau, a, adjoint=True)


def solve(a, **options):
    """Least squares with two right-hand sides, which move with the matrix."""
    return jaxqr.lstsq(a, a[..., ::-1, :2], **options)


def solve_low_rank(a):
    """Of rank 2, and along matrices of that rank, to which the derivative is confined."""
    product = jnp.matmul(a[..., :2], a[..., :2, :], precision="highest")
    return jaxqr.lstsq(product, a[..., ::-1, :2], rcond=1e-3)


CASES = {
    "deep": ((2, 6, 3), jaxqr.qr),
    "square": ((4, 4), jaxqr.qr),
    "wide": ((2, 3, 5), jaxqr.qr),
    "complete": ((2, 5, 3), lambda a: jaxqr.qr(a, "complete")),
    "r": ((5, 3), lambda a: jaxqr.qr(a, "r")),
    "raw": ((5, 3), lambda a: jaxqr.qr(a, "raw")),
    "lq": ((2, 3, 5), jaxqr.lq),
    "pivoted": ((2, 6, 4), lambda a: jaxqr.qr(a, pivoting=True)),
    "rotate": ((2, 5, 3), rotate),
    "multiply": ((2, 5, 3), lambda a: jaxqr.qr_multiply(a, a.mT)),
    "multiply pivoted": (
        (2, 3, 5),
        lambda a: jaxqr.qr_multiply(a, a[..., :2], "left", pivoting=True),
    ),
    "lstsq": ((2, 6, 3), solve),
    "lstsq wide": ((2, 3, 5), solve),
    "lstsq low rank": ((2, 6, 4), solve_low_rank),
    "lstsq unpivoted": ((2, 6, 3), lambda a: solve(a, pivoting=False)),
}
LIBRARIES = {"cuda": "cusolver", "rocm": "hipsolver"}
OTHER = "oneapi"  # JAX has no such back end installed, and jaxqr no lowering for it
# names that export's list of stable custom calls lacks
UNLISTED = [
    *(f"lapack_{letter}geqp3_ffi" for letter in "sdcz"),
    *(f"lapack_{routine}_ffi" for routine in ("sormqr", "dormqr", "cunmqr", "zunmqr")),
    *(f"{library}_ormqr_ffi" for library in LIBRARIES.values()),
]
UNCHECKED = [
    export.DisabledSafetyCheck.platform(),
    *map(export.DisabledSafetyCheck.custom_call, UNLISTED),
]


def gradient(f):
    return jax.grad(loss_of(f))


def lowered_for(platforms, f, a, checks=UNCHECKED):
    return export.export(jax.jit(f), platforms=platforms, disabled_checks=checks)(a)


def returned(exported, **options):
    """What comes back from the bytes of a module."""
    loaded = export.deserialize(exported.serialize(**options))
    assert loaded.platforms == exported.platforms
    assert loaded.mlir_module() == exported.mlir_module()
    return loaded


def targets(exported):
    """The custom calls of a module."""
    return set(re.findall(r"custom_call @([\w.]+)", exported.mlir_module()))


def calls(program):
    """The distinct custom calls of a lowered or exported program, one line each.

    The same program is written differently by different releases of JAX, and by lowering and
    export: the message of JAX's own shape_assertion, names of values, the order of attributes,
    and an empty backend_config beside the one of XLA's FFI. None of that is in the lines.
    """
    text = program.mlir_module() if isinstance(program, export.Exported) else program.as_text()
    found = set()

    def note(op):
        if op.name == "stablehlo.custom_call":
            found.add(_line(op))
        return ir.WalkResult.ADVANCE

    with mlir.make_ir_context():
        ir.Module.parse(text).operation.walk(note)
    return sorted(line for line in found if not line.startswith("shape_assertion"))


ALIAS = (
    r"#stablehlo\.output_operand_alias<output_tuple_indices = (\[\d*\]), "
    r"operand_index = (\d+), operand_tuple_indices = \[\]>"
)
OPERAND_TO_RESULT = r"\2->\1"


def _line(op):
    """Target, operands and results with their layouts, then every attribute that the call has."""
    found = {name: str(attribute) for name, attribute in op.attributes.items()}
    if found.get("backend_config") == '""':
        del found["backend_config"]

    def types(values, layouts):
        # minor to major, as in "dense<[1, 0]> : tensor<2xindex>"; none where XLA's own is meant
        orders = re.findall(r"dense<\[?([\d, ]*)\]?>", found.pop(layouts, ""))
        orders = orders or [None] * len(values)
        names = [re.sub(r"tensor<(.*)>", r"\1", str(value.type)) for value in values]
        pairs = zip(names, orders, strict=True)
        return ", ".join(name if order is None else f"{name} {{{order}}}" for name, order in pairs)

    target = found.pop("call_target_name").strip('"')
    operands = types(op.operands, "operand_layouts")
    line = f"{target}({operands}) -> ({types(op.results, 'result_layouts')})"
    if aliases := found.pop("output_operand_aliases", ""):
        line += f" aliases {re.sub(ALIAS, OPERAND_TO_RESULT, aliases)}"
    return " ".join([line, *(f"{name} = {found[name]}" for name in sorted(found))])


def difference(got, want):
    """The largest difference, in rounding units of the largest entry."""
    worst = 0.0
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        x, y = np.asarray(x), np.asarray(y)
        if x.dtype.kind not in "fc":
            assert np.array_equal(x, y)  # a permutation, a rank
            continue
        unit = np.finfo(x.dtype).eps * max(1, np.max(np.abs(y)))
        worst = np.fmax(worst, np.max(np.abs(x - y)) / unit) if np.all(x == x) else np.inf
    return float(worst)


def value_and_gradient(case):
    f = CASES[case][1]
    return lambda a: (f(a), gradient(f)(a))


@functools.cache
def on_cpu(case, dtype):
    """Value and gradient by the CPU's own program."""
    return quickly(value_and_gradient(case), separated(CASES[case][0], dtype))


def compare(platform, case, dtype):
    """Run a case's value and gradient as lowered for `platform` and sent as bytes.

    The report tells how far they are from what the CPU's own program gives.
    """
    a = separated(CASES[case][0], dtype)
    out, grad = quickly(returned(lowered_for([platform], value_and_gradient(case), a)).call, a)
    own_out, own_grad = on_cpu(case, dtype)
    report = {"value": difference(out, own_out), "gradient": difference(grad, own_grad)}
    if hasattr(out, "Q"):
        factors = (out.L, out.Q) if case == "lq" else (out.Q, out.R)
        factored = np.take_along_axis(a, out.P[..., None, :], -1) if case == "pivoted" else a
        report["residual"] = float(residual_ratio(factored, factors[0] @ factors[1]))
        columns = out.Q.mT.conj() if case == "lq" else out.Q
        report["orthogonality"] = float(orthogonality_ratio(columns))
    return report


def compare_gradient(platform, case, dtype):
    """How far the gradient that was sent along with a module is from the CPU's own."""
    f, a = CASES[case][1], separated(CASES[case][0], dtype)
    like = jax.tree.structure(jax.eval_shape(f, a))
    loaded = returned(lowered_for([platform], lambda a: jax.tree.leaves(f(a)), a), vjp_order=1)
    received = gradient(lambda a: jax.tree.unflatten(like, loaded.call(a)))
    return difference(quickly(received, a), on_cpu(case, dtype)[1])


def stand_in(platform, dtype):
    """Register LAPACK's handlers under the names of the platform's library."""
    from jaxlib.cpu import _lapack

    _lapack.initialize()
    handlers = _lapack.registrations()
    for routine in ("geqrf", "orgqr", "ormqr"):
        lapack = routine if dtype == "float64" else routine.replace("or", "un")
        handler = handlers[f"lapack_{'d' if dtype == 'float64' else 'z'}{lapack}_ffi"]
        jax.ffi.register_ffi_target(f"{LIBRARIES[platform]}_{routine}_ffi", handler, platform="cpu")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    platform, dtype, *cases = sys.argv[1:]
    stand_in(platform, dtype)
    found = {case: compare(platform, case, dtype) for case in cases}
    if dtype == "float64":
        for case, report in found.items():
            report["gradient of the module"] = compare_gradient(platform, case, dtype)
    print(json.dumps(found))
