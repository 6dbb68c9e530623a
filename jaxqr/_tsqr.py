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
from jax.sharding import AbstractMesh, Mesh
from jax.typing import ArrayLike

from jaxqr import _arguments
from jaxqr._algebra import diagonal, mm
from jaxqr._qr_primitive import qr_p
from jaxqr._results import QRResult
from jaxqr._row_blocks import AxisName, bound_axes, over_blocks, row_axes, varying
from jaxqr._settings import calling, settled
from jaxqr._tangents import thin_jvp

# Up to so many devices the triangles are gathered in one collective and each device factors all of
# them: p n x n blocks in its memory and O(p n^3) work. Beyond that they are merged in pairs, with
# log2(p) collectives of one n x n block and O(log2(p) n^3) work.
GATHERED = 8


def tsqr(a: ArrayLike, *, axis_name: AxisName, mesh: Mesh | AbstractMesh | None = None) -> QRResult:
    """Factor tall matrices whose rows are spread over the devices along mesh axes.

    Inside `jax.shard_map` each device passes its block of rows. Elsewhere `a` is the whole matrix
    and `mesh` says over what its rows are, or are to be, sharded; this works under an automatic
    mesh as well, whose shardings are not known when a program is traced.

    Nothing larger than n x n blocks is communicated: for an axis of up to 8 devices in one
    all-gather of the triangles, for a longer one in log2(p) exchanges of one triangle each.

    Args:
        a: array (..., m_i, n) in `jax.shard_map`, m_i the same on every device and of any size,
            also less than n; the rows of all devices together must be at least n. Rows of zeros
            may fill up a block. Else (..., m, n), m divisible by the number of devices. Dtypes as
            in `qr`.
        axis_name: the axis of the mesh, or a tuple of axes, along which the rows are sharded. The
            triangles are reduced over the last axis first: let it be the fastest.
        mesh: for calls outside of `jax.shard_map`; by default the mesh of `jax.set_mesh`.

    Returns:
        `QRResult(Q, R)`: this device's rows (..., m_i, n) of Q, and R (..., n, n), the same on
        every device, known as such to `jax.shard_map`; else the whole Q, sharded as the rows
        are, and R. diag(R) is real and not negative, so R depends neither on the number of devices
        nor on the order in which triangles meet.

        Both are differentiable, any number of times, forward and reverse, as those of `qr`; the
        derivative costs one sum of n x n blocks over the devices either way.
        A gradient taken inside `jax.shard_map` with ``check_vma=False`` is that of the sum of all
        devices' losses, as JAX defines it for any `psum`.

    Raises:
        ValueError: for fewer rows than columns, an unknown axis, or no mesh.
        TypeError: if `a` is not an array of numbers, or of a dtype that is not supported.

    Source: Demmel, Grigori, Hoemmen and Langou, arXiv 0806.2159; derivative (11.2), (11.3) of
    ``notebooks/derivations.md``.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxqr
        >>> from jax.sharding import NamedSharding, PartitionSpec as P
        >>> mesh = jax.make_mesh((jax.device_count(),), ("rows",))
        >>> a = jax.random.normal(jax.random.key(0), (64, 3))
        >>> q, r = jaxqr.tsqr(a, axis_name="rows", mesh=mesh)
        >>> q.sharding.spec == P("rows", None)
        True
        >>> want = jaxqr.qr(a, mode="r", positive_diagonal=True)
        >>> bool(jnp.allclose(r, want, atol=1e-4))
        True

        On the blocks of a matrix, in a program that each device runs:

        >>> def gram(block):
        ...     r = jaxqr.tsqr(block, axis_name="rows").R
        ...     return r.T @ r
        >>> f = jax.shard_map(gram, mesh=mesh, in_specs=P("rows"), out_specs=P())
        >>> rows = jax.device_put(a, NamedSharding(mesh, P("rows")))
        >>> bool(jnp.allclose(f(rows), a.T @ a, atol=1e-4))
        True
    """
    a = _arguments.array("tsqr", "a", a)
    axes = row_axes("tsqr", a, axis_name)
    _arguments.whole("tsqr", "a", a, 1)
    with calling("tsqr", a):
        if not bound_axes("tsqr", axes):
            return _over_mesh(a, axes, mesh)
        return factor("tsqr", a, axes=axes)


@partial(jax.jit, static_argnums=(1, 2))
def _over_mesh(a: Array, axes: tuple[str, ...], mesh: Mesh | AbstractMesh | None) -> QRResult:
    block = partial(factor, "tsqr", axes=axes)
    return over_blocks("tsqr", block, axes, mesh, [a], QRResult)


def factor(function: str, a: Array, *, axes: tuple[str, ...]) -> QRResult:
    """`tsqr` of the row block `a` for `function`, checked but for the number of rows."""
    (a,), dtype = _arguments.common(a)
    count = lax.axis_size(axes)
    m, n = a.shape[-2:]
    if m * count < n:
        raise ValueError(
            f"{function}: the {count} row blocks together must have at least as many rows as "
            f"columns, got blocks of shape {a.shape}"
        )
    if n == 0:
        return QRResult(a.astype(dtype), jnp.zeros((*a.shape[:-2], 0, 0), dtype))
    q, r = _tsqr(varying(a, axes), axes)
    return QRResult(q.astype(dtype), r.astype(dtype))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _tsqr(a: Array, axes: tuple[str, ...]) -> tuple[Array, Array]:
    """(11.1)."""
    q, r = _qr(a)
    factor, r = reduce_triangles(r, axes)
    sign = jnp.where(diagonal(r).real < 0, -1, 1).astype(r.dtype)
    return mm(q, factor * sign[..., None, :]), r * sign[..., :, None]


@_tsqr.defjvp
@settled
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


def _qr(a: Array) -> list[Array]:
    return qr_p.bind(a, outputs=("q", "r"), pivoting="none", transposed=False)


# --------------------------------------------------------------------------- the reduction


def reduce_triangles(r: Array, axes: tuple[str, ...]) -> tuple[Array, Array]:
    """Stack the triangles (..., k, n) of all devices along `axes` and factor the stack.

    Returns:
        This device's rows (..., k, l) of the stack's Q, and its R (..., l, n), l = n if there are
        that many rows.
    """
    factor = None
    for axis in reversed(axes):
        reduce = _gather if lax.axis_size(axis) <= GATHERED else _merge_in_pairs
        more, r = reduce(r, axis)
        factor = more if factor is None else mm(factor, more)
    assert factor is not None
    return factor, r


def _gather(r: Array, axis: str) -> tuple[Array, Array]:
    """By one all-gather."""
    rows = r.shape[-2]
    stack = lax.all_gather(r, axis, axis=r.ndim - 2, tiled=True, to="invarying")
    q, r = _qr(stack)
    start = lax.axis_index(axis) * rows
    return lax.dynamic_slice_in_dim(q, start, rows, axis=q.ndim - 2), r


def _merge_in_pairs(r: Array, axis: str) -> tuple[Array, Array]:
    """By exchanges with ever more distant devices (butterfly).

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
    factor = None
    for distance in (1 << bit for bit in range(p.bit_length() - 1)):
        pairs = [(i, i + distance) for i in range(p) if not i & distance]
        more, r = _merge(r, axis, pairs, index & distance == 0)
        factor = more if factor is None else mm(factor, more)
    assert factor is not None
    if first is not None:
        told = lax.ppermute(factor, axis, folded)
        factor = mm(first, jnp.where(index < p, factor, told))
    # all have the same R, or are to have it: of this only a sum assures shard_map
    r = lax.psum(jnp.where(index == 0, r, jnp.zeros_like(r)), axis)
    return factor[..., :rows, :], r


def _merge(
    r: Array, axis: str, pairs: list[tuple[int, int]], is_first: Array
) -> tuple[Array, Array]:
    """Factor the stack of the triangles of each pair; who has no partner meets zeros."""
    n = r.shape[-1]
    other = lax.ppermute(r, axis, pairs + [(j, i) for i, j in pairs])
    upper, lower = jnp.where(is_first, r, other), jnp.where(is_first, other, r)
    q, r = _qr(jnp.concatenate([upper, lower], axis=-2))
    return jnp.where(is_first, q[..., :n, :], q[..., n:, :]), r
