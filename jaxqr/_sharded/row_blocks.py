"""Arrays whose rows are spread over devices: the blocks seen from inside and from outside."""

import math
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array, lax
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    get_abstract_mesh,
)

from jaxqr._core import arguments
from jaxqr._core.partition import axis_names, is_sharded, partition
from jaxqr._core.undocumented import varying_axes

AxisName = str | tuple[str, ...]


def let_vary(x: Array, axes: tuple[str, ...]) -> Array:
    """Let `x` vary over `axes`, where `shard_map` keeps account of that."""
    own = varying_axes(x)
    tracked = varying_axes(lax.axis_index(axes))
    missing = tuple(axis for axis in axes if axis in tracked and axis not in own)
    return lax.pcast(x, missing, to="varying") if missing else x


def are_axes_bound(function: str, axes: tuple[str, ...]) -> bool:
    """Say whether all axes are bound, so that this is a program on blocks; raise if some are."""

    def bound(axis: str) -> bool:
        try:
            lax.axis_size(axis)
        except NameError:
            return False
        return True

    found = [axis for axis in axes if bound(axis)]
    if found and len(found) < len(axes):
        raise ValueError(
            f"{function}: all of axis_name must be manual axes of one shard_map, got {axes} of "
            f"which {tuple(found)} are"
        )
    return bool(found)


def find_row_axes(function: str, a: Array, axis_name: AxisName | None = None) -> tuple[str, ...]:
    """Find the axes along which the rows of `a` are sharded: those given, or those known."""
    known = axis_names(partition(jax.typeof(a))[-2])
    if axis_name is None:
        return known
    given = arguments.require_axes(function, axis_name)
    if known and known != given:
        raise ValueError(
            f"{function}: axis_name must be that of the mesh axes over which the rows of a are "
            f"sharded, {known}, got {axis_name!r}"
        )
    return given


def find_column_axes(a: Array) -> tuple[str, ...]:
    """Find the axes along which the columns of `a` are sharded; none if its rows are, too."""
    rows, columns = map(axis_names, partition(jax.typeof(a))[-2:])
    return () if rows else columns


def warn_of_gathering(function: str, **arrays: tuple[Array, int]) -> None:
    """Warn if matrices are sharded over an automatic mesh, as each device gathers them.

    On an explicit mesh it is an error, or nothing is gathered. While a program is traced, the
    shardings on an automatic mesh are not known.

    Args:
        function: which is called.
        arrays: its arguments by their names, with the number of dimensions of the matrix or vector.
    """
    described = {name: _describe_cut(x, ndim) for name, (x, ndim) in arrays.items()}
    found = [f"{name} {how}" for name, how in described.items() if how is not None]
    if found:
        warnings.warn(
            f"{function}: each device gathers the whole matrix, got {' and '.join(found)}. For "
            "rows of a tall matrix call jaxqr.tsqr, or jaxqr.lstsq with axis_name and mesh, which "
            "gather none. To gather it without this warning, call jax.device_put first.",
            stacklevel=_count_own_frames(),
        )


def _describe_cut(x: Array, ndim: int) -> str | None:
    """Describe `x` if its last `ndim` dimensions are sharded over an automatic mesh."""
    if isinstance(x, jax.core.Tracer) or not isinstance(x.sharding, NamedSharding):
        return None
    core = x.shape[x.ndim - ndim :]
    if is_sharded(x) or x.sharding.shard_shape(x.shape)[x.ndim - ndim :] == core:
        return None
    return f"of shape {x.shape} sharded by {x.sharding.spec}"


def _count_own_frames() -> int:
    """Count the frames from the caller's to the last one of the package, and the one before."""
    package, level = __name__.partition(".")[0], 1
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    return level


def map_blocks(
    function: str,
    f: Callable[..., Any],
    axes: tuple[str, ...],
    mesh: Mesh | AbstractMesh | None,
    arrays: Sequence[Array],
    results: Callable[[Any, Any], Any],
) -> Any:
    """Call `f` of row blocks on every device along `axes`.

    Args:
        function: the name for errors.
        f: a function of the blocks of `arrays`.
        axes: of the mesh, over which the rows are sharded, or are to be.
        mesh: by default the mesh in use.
        arrays: of shape (..., m, columns), their batch dimensions alike.
        results: from the partitions of an array of rows, and of one without, to those of what `f`
            returns.
    """
    a = arrays[0]
    if mesh is None:
        mesh = jax.typeof(a).sharding.mesh if is_sharded(a) else get_abstract_mesh()
    unknown = [axis for axis in axes if axis not in mesh.axis_names]
    if unknown:
        raise ValueError(
            f"{function}: outside of jax.shard_map axis_name must name axes of the argument mesh, "
            f"or of the mesh of jax.set_mesh, got {axes} for {mesh.axis_names or 'no mesh'}"
        )
    size = math.prod(mesh.shape[axis] for axis in axes)
    if a.shape[-2] % size:
        raise ValueError(
            f"{function}: the number of rows must be divisible by the {size} devices along "
            f"{axes}, got shape {a.shape}; rows of zeros may fill it up"
        )
    batch = partition(jax.typeof(a))[:-2]  # None on an automatic mesh, which keeps it by itself
    rows, rest = PartitionSpec(*batch, axes, None), PartitionSpec(*batch)
    manual = {name for entry in (*batch, axes) for name in axis_names(entry)}
    blocks = jax.shard_map(
        f,
        mesh=mesh,
        in_specs=(rows,) * len(arrays),
        out_specs=results(rows, rest),
        axis_names=manual,
    )
    if AxisType.Explicit in mesh.axis_types:
        arrays = [_partition_as(function, x, NamedSharding(mesh, rows)) for x in arrays]
    return blocks(*arrays)


def _partition_as(function: str, x: Array, rows: NamedSharding) -> Array:
    """Partition `x` as `rows` says over an explicit mesh, if that moves no data."""
    own, wanted = partition(jax.typeof(x)), (*rows.spec,)
    if any(name is not None and name != other for name, other in zip(own, wanted, strict=True)):
        raise ValueError(
            f"{function}: b must be sharded as a is, by {rows.spec}, or not at all, got "
            f"{PartitionSpec(*own)}"
        )
    return x if own == wanted else jax.sharding.reshard(x, rows)
