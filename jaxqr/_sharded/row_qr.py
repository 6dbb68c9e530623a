"""QR of a tall matrix whose rows are spread over devices: local QRs and a reduction of triangles.

Every device factors its own rows, A_i = q_i r_i; the n x n triangles r_i are stacked, factored and
so reduced to one R over the axes of the mesh (11.1). What a device must know for its block of Q is
its own block of the stacks' factors, n x n again: no rows of A leave their device.

LAPACK's signs depend on the leading n rows of A. So for them these rows are left out of the
reduction, known to all devices, and put on top of what it gives (11.7).

The derivative is that of the whole matrix, not of these steps: one n x n sum over the devices
((11.2), (11.3)).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AbstractMesh, Mesh

from jaxqr._core import arguments
from jaxqr._core.algebra import extend, mm
from jaxqr._core.results import QRResult
from jaxqr._core.settings import with_fixed_settings
from jaxqr._factor.qr_primitive import factor
from jaxqr._factor.rules import thin_jvp
from jaxqr._factor.signs import make_diagonal_positive
from jaxqr._lowering.by_columns import places
from jaxqr._sharded.row_blocks import let_vary, map_blocks

# Up to so many devices the triangles are gathered in one collective and each device factors all of
# them: p n x n blocks in its memory and O(p n^3) work. Beyond that they are merged in pairs, with
# log2(p) collectives of one n x n block and O(log2(p) n^3) work.
GATHERED = 8


def factor_row_blocks(
    function: str, a: Array, *, axes: tuple[str, ...], positive_diagonal: bool = True
) -> QRResult:
    """Factor the row block `a` for `function`, which has checked all but the number of rows.

    The signs are those of a positive diagonal, or LAPACK's.
    """
    (a,), dtype = arguments.promote_arrays(a)
    count = lax.axis_size(axes)
    m, n = a.shape[-2:]
    if m * count < n:
        raise ValueError(
            f"{function}: the {count} row blocks together must have at least as many rows as "
            f"columns, got blocks of shape {a.shape}"
        )
    if n == 0:
        return QRResult(a.astype(dtype), jnp.zeros((*a.shape[:-2], 0, 0), dtype))
    q, r = _factor_blocks(let_vary(a, axes), axes, positive_diagonal)
    return QRResult(q.astype(dtype), r.astype(dtype))


def factor_over_mesh(
    function: str,
    a: Array,
    *,
    axes: tuple[str, ...],
    mesh: Mesh | AbstractMesh | None = None,
    positive_diagonal: bool = True,
) -> QRResult:
    """Factor the whole matrix `a`, whose rows are sharded over `axes`, or are to be."""
    block = partial(factor_row_blocks, function, axes=axes, positive_diagonal=positive_diagonal)
    return map_blocks(function, block, axes, mesh, [a], QRResult)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _factor_blocks(a: Array, axes: tuple[str, ...], positive_diagonal: bool) -> tuple[Array, Array]:
    return (_factor_positive if positive_diagonal else _factor_as_lapack)(a, axes)


@_factor_blocks.defjvp
@with_fixed_settings
def _jvp(
    axes: tuple[str, ...],
    positive_diagonal: bool,
    primals: Sequence[Array],
    tangents: Sequence[Array],
) -> Any:
    (a,), (da,) = primals, tangents
    q, r = _factor_blocks(a, axes, positive_diagonal)
    dq, dr = thin_jvp(
        q,
        r,
        da,
        outputs=("q", "r"),
        pivoted=False,
        total=partial(lax.psum, axis_name=axes),
        rows=a.shape[-2] * lax.axis_size(axes),
    )
    return (q, r), (dq, dr)


def _factor_positive(a: Array, axes: tuple[str, ...]) -> tuple[Array, Array]:
    """Factor the blocks, then the stack of their triangles (11.1)."""
    q, r = factor(a, "q", "r")
    stack_q, r = make_diagonal_positive(*reduce_triangles(r, axes))
    assert stack_q is not None
    return mm(q, stack_q), r


# --------------------------------------------------------------------------- LAPACK's signs


def _factor_as_lapack(a: Array, axes: tuple[str, ...]) -> tuple[Array, Array]:
    """Factor all rows but the leading n, and then these on top of the triangle (11.7).

    On every device what comes after the first min(m, n) rows is factored by itself, as it is. Below
    it come these, the last one first, so that zeros in the place of leading rows are at the end.
    """
    m, n = a.shape[-2:]
    leading = _take_leading_rows(a, axes)
    lower = jnp.flip(leading.rest, axis=-2)
    if m > n:
        q_below, r = factor(a[..., n:, :], "q", "r")
        lower = jnp.concatenate([r, lower], axis=-2)
    q_lower, r = factor(lower, "q", "r")
    stack_q, r = reduce_triangles(r, axes, without_leading=True)
    q, r = factor(jnp.concatenate([leading.top, r], axis=-2), "q", "r")
    q_lower = mm(q_lower, mm(stack_q, q[..., n:, :]))
    first = leading.place(q[..., :n, :]) + jnp.flip(q_lower[..., -min(m, n) :, :], axis=-2)
    if m <= n:
        return first, r
    return jnp.concatenate([first, mm(q_below, q_lower[..., :-n, :])], axis=-2), r


class _LeadingRows(NamedTuple):
    """The leading n rows of a matrix of row blocks (..., m, n)."""

    top: Array  # (..., n, n): themselves, known to all devices
    rest: Array  # (..., min(m, n), n): a device's first rows, zeros in the place of leading ones
    start: Array  # where a device's rows begin in the matrix; n if all leading rows are before

    def place(self, x: Array) -> Array:
        """Take a device's part of the n rows (..., n, n): like `rest`, zeros if there are none."""
        own = self.rest.shape[-2]
        rows = extend(x, x.shape[-2] + own, -2)
        return lax.dynamic_slice_in_dim(rows, self.start, own, axis=x.ndim - 2)


def _take_leading_rows(a: Array, axes: tuple[str, ...]) -> _LeadingRows:
    m, n = a.shape[-2:]
    first = a[..., : min(m, n), :]
    before = jnp.minimum(lax.axis_index(axes), -(-n // m))  # so many devices have leading rows
    start = jnp.minimum(before * m, n)
    nothing = jnp.zeros((*a.shape[:-2], n + first.shape[-2], n), a.dtype)
    rows = lax.dynamic_update_slice_in_dim(let_vary(nothing, axes), first, start, axis=a.ndim - 2)
    top = _tell_all(rows[..., :n, :], axes)
    is_leading = start + places(first, -2) < n
    return _LeadingRows(top, jnp.where(is_leading, jnp.zeros_like(first), first), start)


def _tell_all(x: Array, axes: tuple[str, ...]) -> Array:
    """Sum over the devices what is zero on all but one of them, and keep the signs of zeros.

    LAPACK's sign depends on that of a zero, and a sum makes zero of negative zero. So negative
    infinity takes its place; as QR makes NaN of infinities, they may be NaN already.
    """
    if jnp.iscomplexobj(x):
        both = _tell_all(jnp.concatenate([x.real, x.imag], axis=-1), axes)
        return lax.complex(*jnp.split(both, 2, axis=-1))
    told = jnp.where(jnp.isfinite(x), x, jnp.nan)
    total = lax.psum(jnp.where((x == 0) & (1 / x < 0), -jnp.inf, told), axes)
    return jnp.where(total == -jnp.inf, -0.0, total)


# --------------------------------------------------------------------------- the reduction


def reduce_triangles(
    r: Array, axes: tuple[str, ...], *, without_leading: bool = False
) -> tuple[Array, Array]:
    """Stack the triangles (..., k, n) of all devices along `axes` and factor the stack.

    If `without_leading`, the leading n rows of the matrix are missing, and zeros at the end of the
    blocks take their place. Then these blocks are stacked last, so that Q is zero there.

    Returns:
        This device's rows (..., k, l) of the stack's Q, and its R (..., l, n), l = n if there are
        that many rows.
    """
    own_q, n = None, r.shape[-1]
    for axis in reversed(axes):
        count, rows = lax.axis_size(axis), r.shape[-2]
        missing = min(count, -(-n // rows)) if without_leading else 0  # blocks that lack rows
        order = [*range(missing, count), *reversed(range(missing))]
        reduce = _gather_triangles if count <= GATHERED else _merge_in_pairs
        more, r = reduce(r, axis, order)
        own_q = more if own_q is None else mm(own_q, more)
    assert own_q is not None
    return own_q, r


def _gather_triangles(r: Array, axis: str, order: list[int]) -> tuple[Array, Array]:
    """Reduce the triangles by one all-gather."""
    rows, dim = r.shape[-2], r.ndim - 2
    stack = lax.all_gather(r, axis, axis=dim, tiled=True, to="invarying")
    if order != sorted(order):
        stack = jnp.concatenate([stack[..., i * rows : (i + 1) * rows, :] for i in order], dim)
    q, r = factor(stack, "q", "r")
    start = _find_own(sorted(range(len(order)), key=order.__getitem__), axis) * rows
    return lax.dynamic_slice_in_dim(q, start, rows, axis=dim), r


def _merge_in_pairs(r: Array, axis: str, order: list[int]) -> tuple[Array, Array]:
    """Reduce the triangles by exchanges with ever more distant devices (a butterfly).

    After the round of distance d every device has the triangle of the 2 d devices that its group
    consists of. It takes a power of two, p, of devices: before, those at the beginning are folded
    in pairs of neighbours, of which the first goes on and tells the other at the end.
    """
    count, (*_, rows, n) = len(order), r.shape
    p = 1 << (count.bit_length() - 1)
    folded = [(order[2 * i], order[2 * i + 1]) for i in range(count - p)]
    told = [lower for _, lower in folded]
    going_on = [i for i in order if i not in told]
    held = [rows] * count
    r = extend(r, n, -2) if rows < n else r
    first = own_q = None
    if folded:
        first, r = _merge(r, axis, folded, held)
    for distance in (1 << bit for bit in range(p.bit_length() - 1)):
        pairs = [(going_on[i], going_on[i + distance]) for i in range(p) if not i & distance]
        more, r = _merge(r, axis, pairs, held)
        own_q = more if own_q is None else mm(own_q, more)
    assert own_q is not None
    if first is not None:
        is_told = _find_own([i in told for i in range(count)], axis)
        own_q = mm(first, jnp.where(is_told, lax.ppermute(own_q, axis, folded), own_q))
    # All devices have, or are to have, the same R. Only a sum lets shard_map know that.
    r = lax.psum(jnp.where(lax.axis_index(axis) == going_on[0], r, jnp.zeros_like(r)), axis)
    height = held[going_on[0]]
    return own_q[..., :rows, :height], r[..., :height, :]


def _merge(
    r: Array, axis: str, pairs: list[tuple[int, int]], held: list[int]
) -> tuple[Array, Array]:
    """Factor the stack of the triangles of each pair; without a partner zeros take its place.

    Args:
        r: (..., n, n), of which the leading rows are a device's own, and the others zero. These
            are no rows of the matrix, and Q must have nothing there: the lower block of the stack
            begins where the rows of the upper one end. In Q's part for a device, what is beyond
            its rows means nothing.
        axis: of the mesh.
        pairs: of devices, the first of which has the upper block of the stack.
        held: how many rows each device has; it is brought up to date.
    """
    n, upper_of = r.shape[-1], {lower: upper for upper, lower in pairs}
    begins = [held[upper_of[i]] if i in upper_of else 0 for i in range(len(held))]
    begin, own = _find_own(begins, axis), _find_own(held, axis)
    is_upper = begin == 0
    other = lax.ppermute(r, axis, pairs + [(lower, upper) for upper, lower in pairs])
    upper, lower = jnp.where(is_upper, r, other), jnp.where(is_upper, other, r)
    place = jnp.where(is_upper, own, begin)
    stack = lax.dynamic_update_slice_in_dim(extend(upper, 2 * n, -2), lower, place, r.ndim - 2)
    q, r = factor(stack, "q", "r")
    for i, j in pairs:
        held[i] = held[j] = min(n, held[i] + held[j])
    return lax.dynamic_slice_in_dim(q, begin, n, q.ndim - 2), r


def _find_own(values: Sequence[int], axis: str) -> Array:
    """Find a device's own of the values for all devices along an axis."""
    table = jnp.array(values, bool if isinstance(values[0], bool) else jnp.int32)
    return lax.dynamic_index_in_dim(table, lax.axis_index(axis), keepdims=False)
