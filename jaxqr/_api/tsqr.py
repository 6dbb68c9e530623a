"""QR of a tall matrix whose rows are spread over devices."""

from functools import partial

import jax
from jax import Array
from jax.sharding import AbstractMesh, Mesh
from jax.typing import ArrayLike

from jaxqr._core import arguments
from jaxqr._core.results import QRResult
from jaxqr._core.settings import calling
from jaxqr._sharded.row_blocks import AxisName, are_axes_bound, find_row_axes
from jaxqr._sharded.row_qr import factor_over_mesh, factor_row_blocks


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
        are, and R. diag(R) is real and not negative, as in `qr` with `positive_diagonal`, so R
        depends neither on the number of devices nor on the order in which triangles meet. LAPACK's
        signs come from `qr` of an array whose rows are sharded over an explicit mesh.

        Both are differentiable, any number of times, forward and reverse, as those of `qr`; the
        derivative costs one sum of n x n blocks over the devices either way.
        A gradient taken inside `jax.shard_map` with ``check_vma=False`` is that of the sum of all
        devices' losses, as JAX defines it for any `psum`.

    Raises:
        ValueError: for fewer rows than columns, an unknown axis, or no mesh.
        TypeError: if `a` is not an array of numbers, or of a dtype that is not supported.

    Source: Demmel, Grigori, Hoemmen and Langou, arXiv 0806.2159; derivative (11.2), (11.3) of
    ``derivations.md``.

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
    a = arguments.convert_array("tsqr", "a", a)
    axes = find_row_axes("tsqr", a, axis_name)
    arguments.require_unsharded("tsqr", "a", a, 1)
    with calling("tsqr", a):
        if not are_axes_bound("tsqr", axes):
            return _tsqr(a, axes, mesh)
        return factor_row_blocks("tsqr", a, axes=axes)


@partial(jax.jit, static_argnums=(1, 2))
def _tsqr(a: Array, axes: tuple[str, ...], mesh: Mesh | AbstractMesh | None) -> QRResult:
    return factor_over_mesh("tsqr", a, axes=axes, mesh=mesh)
