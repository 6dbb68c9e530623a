"""What the factorizations have in common: checked arguments, and results by mode."""

from functools import partial
from typing import Any

import jax
from jax import Array
from jax.core import min_dim
from jax.typing import ArrayLike

from jaxqr._core import arguments
from jaxqr._core.algebra import exceeds, extend
from jaxqr._core.results import PivotedQRResult, PivotedR, PivotedRawResult, QRResult, RawResult
from jaxqr._core.settings import calling
from jaxqr._factor.leading_qr import factor_leading
from jaxqr._factor.pivoting import METHODS, Pivoting
from jaxqr._factor.qr_primitive import factor
from jaxqr._factor.signs import make_diagonal_positive
from jaxqr._sharded.row_blocks import warn_of_gathering
from jaxqr._sharded.row_qr import factor_over_mesh


def check_arguments(
    function: str,
    a: ArrayLike,
    mode: str,
    pivoting: Pivoting,
    positive_diagonal: bool,
    modes: tuple[str, ...],
    rank: int | None = None,
) -> tuple[Array, str, Pivoting, bool, int | None]:
    """Check the arguments of `function`, which has the given modes, and convert them."""
    a = arguments.convert_array(function, "a", a)
    mode = _name_mode(function, mode, modes)
    pivoting = arguments.require_choice(function, "pivoting", pivoting, tuple(METHODS))
    positive = arguments.require_choice(
        function, "positive_diagonal", positive_diagonal, (True, False)
    )
    if mode == "raw" and positive:
        raise ValueError(
            f"{function}: positive_diagonal must be False in mode 'raw', as reflectors fix the "
            "signs, got True"
        )
    if rank is not None:
        rank = arguments.require_rank(function, rank, a)
        if not pivoting or mode not in ("reduced", modes[2]):
            raise ValueError(
                f"{function}: a rank needs pivoting and the mode 'reduced' or {modes[2]!r}, got "
                f"rank {rank} with pivoting={pivoting} and mode {mode!r}"
            )
    warn_of_gathering(function, a=(a, 2))
    return a, mode, pivoting, positive, rank


def _name_mode(function: str, mode: Any, modes: tuple[str, ...]) -> str:
    """Give a mode the name that it has here: SciPy's "economic" is "reduced"."""
    if isinstance(mode, str) and mode == "full":
        raise ValueError(
            f"{function}: mode must be one of {', '.join(map(repr, modes))}, got 'full', which is "
            "'complete' in SciPy and was 'reduced' in NumPy: write one of these"
        )
    economic = isinstance(mode, str) and mode == "economic"
    return arguments.require_choice(function, "mode", "reduced" if economic else mode, modes)


def factor_by_mode(
    a: Array,
    mode: str,
    pivoting: Pivoting,
    positive_diagonal: bool,
    rank: int | None = None,
    transposed: bool = False,
) -> Any:
    """Factor by the primitive and make of its outputs what the mode returns.

    If `transposed`, `a` is the transpose of what is factored, and so are Q and R and what h
    stands for: `lq`'s results, under the names of QR's.
    """
    (a,), dtype = arguments.promote_arrays(a)
    m, n = a.shape[-2:][::-1] if transposed else a.shape[-2:]
    q_name = "q_full" if mode == "complete" and exceeds(m, n) else "q"
    outputs = {"r": ("r",), "raw": ("h", "tau")}.get(mode, (q_name, "r"))
    if pivoting:
        outputs += ("p",)
    find = factor if rank in (None, min_dim(m, n)) else partial(factor_leading, steps=rank)
    found = find(a, *outputs, pivoting=METHODS[pivoting].name, transposed=transposed)
    values = dict(zip(outputs, found, strict=True))
    p = values.get("p")
    if mode == "raw":
        h = values["h"] if transposed else values["h"].mT  # NumPy's convention
        h, tau = h.astype(dtype), values["tau"].astype(dtype)
        return RawResult(h, tau) if p is None else PivotedRawResult(h, tau, p)
    q, r = values.get(q_name), values["r"]
    if positive_diagonal:
        q, r = _make_positive(q, r, transposed)
    r = r.astype(dtype)
    if q is None:
        return r if p is None else PivotedR(r, p)
    if q_name == "q_full":
        r = extend(r, m, -1 if transposed else -2)
    q = q.astype(dtype)
    return QRResult(q, r) if p is None else PivotedQRResult(q, r, p)


def _make_positive(q: Array | None, r: Array, transposed: bool) -> tuple[Array | None, Array]:
    if not transposed:
        return make_diagonal_positive(q, r)
    q, r = make_diagonal_positive(None if q is None else q.mT, r.mT)
    return None if q is None else q.mT, r.mT


def factor_rows_by_mode(
    function: str,
    a: Array,
    mode: str,
    pivoting: Pivoting,
    positive_diagonal: bool,
    axes: tuple[str, ...],
    transposed: bool = False,
) -> Any:
    """Factor a matrix whose rows are sharded over `axes` of an explicit mesh, in the modes it has.

    If `transposed`, `a` is the transpose of that matrix, and so are Q and R: `lq`'s results.
    """
    triangle, lines, wrong_shape = ("l", "columns", "tall") if transposed else ("r", "rows", "wide")
    m, n = a.shape[-2:][::-1] if transposed else a.shape[-2:]
    wrong = []
    if mode not in ("reduced", triangle):
        wrong.append(f"the mode must be 'reduced' or {triangle!r}, got {mode!r}")
    if pivoting:
        wrong.append(
            f"pivoting must be False, got {pivoting!r}; pivot its {triangle.upper()} instead"
        )
    if m < n:
        wrong.append(f"a must not be {wrong_shape}, got shape {a.shape}")
    if wrong:
        raise ValueError(
            f"{function}: the {lines} of a are sharded over {axes}, and nothing is gathered "
            f"unasked. So {'. And '.join(wrong)}. To gather the {lines}, call "
            "jax.sharding.reshard(a, PartitionSpec(*batch_axes, None, None)) first."
        )
    with calling(function, a):
        q, r = _factor_rows(function, a, mode == triangle, positive_diagonal, axes, transposed)
    return r if q is None else QRResult(q, r)


@partial(jax.jit, static_argnums=(0, 2, 3, 4, 5))
def _factor_rows(
    function: str,
    a: Array,
    without_q: bool,
    positive_diagonal: bool,
    axes: tuple[str, ...],
    transposed: bool,
) -> tuple[Array | None, Array]:
    a = a.mT if transposed else a
    q, r = factor_over_mesh(function, a, axes=axes, positive_diagonal=positive_diagonal)
    q, r = (q.mT, r.mT) if transposed else (q, r)
    return (None, r) if without_q else (q, r)
