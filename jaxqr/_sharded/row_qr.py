"""QR of a tall matrix whose rows are spread over devices: local QRs and a reduction of triangles.

Every device factors its own rows, A_i = q_i r_i; the n x n triangles r_i are stacked, factored and
so reduced to one R over the axes of the mesh (11.1). What a device must know for its block of Q is
its own block of the stacks' factors, n x n again: no rows of A leave their device.

The derivative is that of the whole matrix, not of these steps: one n x n sum over the devices
((11.2), (11.3)).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxqr._core import arguments
from jaxqr._core.algebra import mm
from jaxqr._core.results import QRResult
from jaxqr._core.settings import with_fixed_settings
from jaxqr._factor.qr_primitive import factor
from jaxqr._factor.rules import thin_jvp
from jaxqr._factor.signs import make_diagonal_positive
from jaxqr._sharded.row_blocks import let_vary

# Up to so many devices the triangles are gathered in one collective and each device factors all of
# them: p n x n blocks in its memory and O(p n^3) work. Beyond that they are merged in pairs, with
# log2(p) collectives of one n x n block and O(log2(p) n^3) work.
GATHERED = 8


def factor_row_blocks(function: str, a: Array, *, axes: tuple[str, ...]) -> QRResult:
    """`tsqr` of the row block `a` for `function`, which has checked all but the number of rows."""
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
    q, r = _tsqr(let_vary(a, axes), axes)
    return QRResult(q.astype(dtype), r.astype(dtype))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _tsqr(a: Array, axes: tuple[str, ...]) -> tuple[Array, Array]:
    """Factor the blocks, then the stack of their triangles (11.1)."""
    q, r = factor(a, "q", "r")
    stack_q, r = make_diagonal_positive(*reduce_triangles(r, axes))
    assert stack_q is not None
    return mm(q, stack_q), r


@_tsqr.defjvp
@with_fixed_settings
def _jvp(axes: tuple[str, ...], primals: Sequence[Array], tangents: Sequence[Array]) -> Any:
    (a,), (da,) = primals, tangents
    q, r = _tsqr(a, axes)
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


# --------------------------------------------------------------------------- the reduction


def reduce_triangles(r: Array, axes: tuple[str, ...]) -> tuple[Array, Array]:
    """Stack the triangles (..., k, n) of all devices along `axes` and factor the stack.

    Returns:
        This device's rows (..., k, l) of the stack's Q, and its R (..., l, n), l = n if there are
        that many rows.
    """
    own_q = None
    for axis in reversed(axes):
        reduce = _gather_triangles if lax.axis_size(axis) <= GATHERED else _merge_in_pairs
        more, r = reduce(r, axis)
        own_q = more if own_q is None else mm(own_q, more)
    assert own_q is not None
    return own_q, r


def _gather_triangles(r: Array, axis: str) -> tuple[Array, Array]:
    """Reduce the triangles by one all-gather."""
    rows = r.shape[-2]
    stack = lax.all_gather(r, axis, axis=r.ndim - 2, tiled=True, to="invarying")
    q, r = factor(stack, "q", "r")
    start = lax.axis_index(axis) * rows
    return lax.dynamic_slice_in_dim(q, start, rows, axis=q.ndim - 2), r


def _merge_in_pairs(r: Array, axis: str) -> tuple[Array, Array]:
    """Reduce the triangles by exchanges with ever more distant devices (a butterfly).

    After the round of distance d every device has the triangle of the 2 d devices that its group
    consists of. Devices beyond the largest power of two p are folded into the first ones before,
    and told at the end what these have found.
    """
    count, index = lax.axis_size(axis), lax.axis_index(axis)
    p = 1 << (count.bit_length() - 1)
    rows, n = r.shape[-2:]
    if rows < n:
        r = jnp.concatenate([r, jnp.zeros((*r.shape[:-2], n - rows, n), r.dtype)], axis=-2)
    folded = [(i, i + p) for i in range(count - p)]
    first = None
    if folded:
        first, r = _merge(r, axis, folded, index < p)
    own_q = None
    for distance in (1 << bit for bit in range(p.bit_length() - 1)):
        pairs = [(i, i + distance) for i in range(p) if not i & distance]
        more, r = _merge(r, axis, pairs, index & distance == 0)
        own_q = more if own_q is None else mm(own_q, more)
    assert own_q is not None
    if first is not None:
        told = lax.ppermute(own_q, axis, folded)
        own_q = mm(first, jnp.where(index < p, own_q, told))
    # All devices have, or are to have, the same R. Only a sum lets shard_map know that.
    r = lax.psum(jnp.where(index == 0, r, jnp.zeros_like(r)), axis)
    return own_q[..., :rows, :], r


def _merge(
    r: Array, axis: str, pairs: list[tuple[int, int]], is_first: Array
) -> tuple[Array, Array]:
    """Factor the stack of the triangles of each pair; without a partner zeros take its place."""
    n = r.shape[-1]
    other = lax.ppermute(r, axis, pairs + [(j, i) for i, j in pairs])
    upper, lower = jnp.where(is_first, r, other), jnp.where(is_first, other, r)
    q, r = factor(jnp.concatenate([upper, lower], axis=-2), "q", "r")
    return jnp.where(is_first, q[..., :n, :], q[..., n:, :]), r
