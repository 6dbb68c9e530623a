"""A panel, a few columns of a larger matrix: one primitive, for which a platform may have a kernel.

It is bound by lowerings alone, so it has no derivative. Like the matrix, it is held by columns.
"""

from jax import Array, lax

from jaxqr._core.abstract import CoreResult
from jaxqr._core.algebra import H, mm
from jaxqr._core.partition import Shape
from jaxqr._core.primitive import make_primitive
from jaxqr._lowering import cuda
from jaxqr._lowering.by_columns import eliminate_one_by_one
from jaxqr._lowering.compact_wy import form_t, unpack_panel


def factor_panel(panel: Array, first: Array) -> tuple[Array, Array, Array]:
    """Factor a panel (..., w, m) of w columns, w <= WIDTH and w <= m - first.

    Args:
        panel: its columns as rows.
        first: int32 (...,): the row where its diagonal begins, for each matrix. The entries before
            it stay as they are.

    Returns:
        The panel with R and the reflectors (..., w, m), tau (..., w), and T (..., w, w) of
        Q = I - V T V^H.
    """
    # XLA for GPUs fails, in JAX 0.12, to make one kernel of a custom call and its slice.
    packed, tau, t = panel_p.bind(*lax.optimization_barrier((panel, first)))
    return packed, tau, t


def _results(panel: Shape, first: Shape) -> list[CoreResult]:
    w, _ = panel
    return [(panel, None), ((w,), None), ((w, w), None)]


def _factor(panel: Array, first: Array) -> list[Array]:
    first = first[..., None, None]
    packed, tau, _ = eliminate_one_by_one(panel, pivoting=False, first=first)
    v = unpack_panel(packed, first).mT
    return [packed, tau, form_t(mm(H(v), v), tau)]


panel_p = make_primitive(
    "panel",
    core_ranks=(2, 0),
    results=_results,
    body=_factor,
    kernels={"cuda": cuda.compute},
)
