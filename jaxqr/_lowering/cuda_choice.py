"""Which CUDA kernel serves a primitive's matrices and how: plain numbers, no JAX."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxqr._lowering import cuda_derivative_plans, cuda_plans
from jaxqr._lowering.cuda_plans import Form, Launch


def plan(name: str, shapes: Sequence[tuple[int, ...]], dtype: str, **params: Any) -> Launch | None:
    """Plan the launch for a primitive; give None where no kernel serves the shape.

    Args:
        name: of the primitive.
        shapes: of its operands, without the batch.
        dtype: of the first operand.
        **params: the primitive's.
    """
    planner = _PLANNERS.get(name)
    return None if planner is None else planner(shapes, dtype, **params)


def _plan_qr(
    shapes: Sequence[tuple[int, ...]],
    dtype: str,
    *,
    outputs: tuple[str, ...],
    pivoting: str,
    transposed: bool,
    free: int | None = None,
) -> Launch | None:
    (shape,) = shapes
    m, n = shape[::-1] if transposed else shape
    if pivoting not in ("none", "exact"):
        return None
    form = Form(outputs, pivoting == "exact", transposed, free)
    return cuda_plans.plan_lanes(m, n, dtype, form) or cuda_plans.plan_rows(m, n, dtype, form)


def _plan_panel(shapes: Sequence[tuple[int, ...]], dtype: str) -> Launch | None:
    n, m = shapes[0]
    return cuda_plans.plan_panel(m, n, dtype)


def _plan_signs(shapes: Sequence[tuple[int, ...]], dtype: str) -> Launch | None:
    return cuda_plans.plan_signs(shapes[0][0], dtype)


def _plan_least_squares(
    shapes: Sequence[tuple[int, ...]], dtype: str, *, columns: int, rcond: float | None
) -> Launch | None:
    (rows, both), *rest = shapes
    return cuda_plans.plan_least_squares(
        columns, both - columns, rows, dtype, pivoted=bool(rest), rcond=rcond
    )


def _plan_tangent(
    shapes: Sequence[tuple[int, ...]], dtype: str, *, transposed: bool, **params: Any
) -> Launch | None:
    m, n = shapes[2][::-1] if transposed else shapes[2]
    return cuda_derivative_plans.plan_tangent(m, n, dtype, transposed=transposed, **params)


def _plan_cotangent(
    shapes: Sequence[tuple[int, ...]], dtype: str, *, transposed: bool, **params: Any
) -> Launch | None:
    q, r = (shape[::-1] if transposed else shape for shape in shapes[:2])
    return cuda_derivative_plans.plan_cotangent(q[0], r[1], dtype, transposed=transposed, **params)


_PLANNERS: dict[str, Callable[..., Launch | None]] = {
    "qr": _plan_qr,
    "panel": _plan_panel,
    "signs": _plan_signs,
    "qr_jvp": _plan_tangent,
    "qr_vjp": _plan_cotangent,
    "least_squares": _plan_least_squares,
}
