"""What public functions do to their arguments before a primitive sees them."""

import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import min_dim
from jax.errors import InconclusiveDimensionOperation
from jax.sharding import NamedSharding
from jax.typing import ArrayLike

from jaxqr._core.abstract import DTYPE_NAMES, DTYPES
from jaxqr._core.partition import partition, vary_alike
from jaxqr._core.undocumented import describe_type

HALF = (jnp.dtype(jnp.float16), jnp.dtype(jnp.bfloat16))


def convert_array(function: str, name: str, x: ArrayLike, ndim: int = 2) -> Array:
    """Convert to an array of a floating dtype and at least `ndim` dimensions, or say why not."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{function}: {name} must be an array without a mask, got a masked array; fill it, by "
            f"{name}.filled(value), or leave out what is masked"
        )
    try:  # of an array being differentiated, asarray would make a copy
        x = x if isinstance(x, jax.Array) else jnp.asarray(x)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{function}: {name} must be {_describe_wanted(name, x)}") from error
    if jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == jnp.bool_:
        x = x.astype(jnp.result_type(float))
    if x.dtype not in DTYPES and x.dtype not in HALF:
        raise TypeError(
            f"{function}: {name} must be an array of float16, bfloat16, {DTYPE_NAMES}, or of "
            f"integers or booleans, got dtype {x.dtype}"
        )
    if x.ndim < ndim:
        dimensions = "dimension" if ndim == 1 else "dimensions"
        raise ValueError(
            f"{function}: {name} must have at least {ndim} {dimensions}, got shape {x.shape}"
        )
    return x


def _describe_wanted(name: str, x: Any) -> str:
    """Write the end of the message on what JAX does not take as an array."""
    plain = f"array-like, got {type(x).__name__}"
    if not isinstance(x, (list, tuple)) and not hasattr(x, "dtype"):
        return plain
    try:
        dtype = np.asarray(x).dtype
    except (TypeError, ValueError):  # rows of different lengths
        return plain
    if dtype.kind in "OUSV":
        advice = f"{name}.astype('float64') if its entries are numbers"
    elif dtype.kind in "mM":
        advice = f"durations by {name} / numpy.timedelta64(1, 's'), dates after subtracting one"
    elif not dtype.isnative:
        advice = f"{name}.astype({dtype.newbyteorder('=').name!r}), in the machine's order of bytes"
    elif dtype.itemsize > 8:
        advice = f"{name}.astype({'complex128' if dtype.kind == 'c' else 'float64'!r})"
    else:
        return f"{plain} of dtype {dtype}"
    return f"an array of numbers that JAX has, got dtype {dtype}; convert it: {advice}"


def promote_arrays(*arrays: Array) -> tuple[list[Array], np.dtype]:
    """Bring arrays to one dtype that LAPACK knows, and to the same varying axes of a shard_map.

    Returns:
        The arrays, and the dtype of the result: half precision is computed in single.
    """
    dtype = jnp.result_type(*arrays)
    working = jnp.dtype(jnp.float32) if dtype in HALF else dtype
    return vary_alike([x.astype(working) for x in arrays]), dtype


def require_unsharded(function: str, name: str, x: Array, ndim: int = 2) -> None:
    """Raise if the last `ndim` dimensions of `x` are sharded over an explicit mesh."""
    if not isinstance(x, jax.core.Tracer) and not isinstance(x.sharding, NamedSharding):
        return
    aval = jax.typeof(x)
    if any(axis is not None for axis in partition(aval)[x.ndim - ndim :]):
        raise ValueError(
            f"{function}: the last {ndim} dimension(s) of {name} must not be sharded, got "
            f"{describe_type(aval)} with {aval.sharding.spec}; reshard it with "
            f"jax.sharding.reshard({name}, PartitionSpec(*batch_axes{', None' * ndim}))"
        )


def require_matching_batches(
    function: str, a: Array, other: Array, name: str, of: str = "a"
) -> None:
    """Raise unless the batch dimensions of `a`, called `of`, and of `other` broadcast."""
    try:
        jnp.broadcast_shapes(a.shape[:-2], other.shape[:-2])
    except ValueError as error:
        raise ValueError(
            f"{function}: batch dimensions of {of} and {name} must broadcast, got {name} "
            f"{other.shape} for {of} {a.shape}"
        ) from error
    pairs = zip(_batch_axes(a), _batch_axes(other), strict=False)
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise ValueError(
            f"{function}: batch dimensions of {of} and {name} must be sharded alike, got "
            f"{jax.typeof(other).sharding.spec} for {name} and {jax.typeof(a).sharding.spec} for "
            f"{of}"
        )


def _batch_axes(x: Array) -> tuple[Any, ...]:
    """Find how batch dimensions are partitioned over an explicit mesh, the last one first."""
    return partition(jax.typeof(x))[:-2][::-1]


def require_choice(function: str, name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """Raise unless `value` is one of `allowed`; NumPy's booleans become Python's."""
    value = bool(value) if isinstance(value, np.bool_) else value
    if not isinstance(value, (str, bool)) or value not in allowed:
        listed = ", ".join(map(repr, allowed))
        raise ValueError(f"{function}: {name} must be one of {listed}, got {value!r}")
    return value


def require_rcond(function: str, value: Any) -> float | None:
    """Check the bound below which diagonal entries of R do not count, relative to the largest."""
    if value is None:
        return None
    found = _find_number(value)
    if found is None:
        raise TypeError(
            f"{function}: rcond must be None or a number that is not traced, got "
            f"{type(value).__name__}"
        )
    if not 0 <= found < float("inf"):
        raise ValueError(
            f"{function}: rcond must be None or a finite number not below 0, got {value!r}"
        )
    return found


def require_tolerance(function: str, value: Any) -> float:
    """Check a `tol`."""
    found = _find_number(value)
    if found is None:
        raise TypeError(
            f"{function}: tol must be a number that is not traced, got {type(value).__name__}"
        )
    if not 0 <= found < float("inf"):
        raise ValueError(f"{function}: tol must be finite and not below 0, got {value!r}")
    return found


def _find_number(value: Any) -> float | None:
    """Give a real number that is not traced as a float, infinite if it is too large; or None."""
    number = value
    if isinstance(value, (np.ndarray, jax.Array)) and not isinstance(value, jax.core.Tracer):
        real = jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)
        number = value.item() if value.ndim == 0 and real else value
    if isinstance(number, bool) or not isinstance(number, Real):
        return None
    try:
        return float(number)
    except OverflowError:
        return float("inf")


def require_known(function: str, found: Any, given: str, a: Array) -> None:
    """Raise if what tells the rank of `a` is traced, and so are the values that it comes from."""
    if isinstance(found, jax.core.Tracer):
        raise ValueError(
            f"{function}: rank must be given where a is traced, as in jax.jit and jax.vmap, as "
            f"the shape of the result depends on it, got {given} for a {a.shape}"
        )


def require_rank(function: str, value: Any, a: Array) -> int:
    """Check a rank that a user gives for `a`."""
    found, most = require_count(function, "rank", value), min_dim(*a.shape[-2:])
    try:
        too_many = found > most
    except InconclusiveDimensionOperation as error:
        raise ValueError(
            f"{function}: rank must be known to be at most min(m, n), got {found} for a {a.shape}; "
            f"give the symbolic sizes a constraint, such as 'm >= {found}'"
        ) from error
    if too_many:
        raise ValueError(
            f"{function}: rank must be at most min(m, n) = {most}, got {found} for a {a.shape}"
        )
    return found


def require_count(function: str, name: str, value: Any) -> int:
    """Check a number of times, which is not traced."""
    try:
        found = operator.index(value)
    except (TypeError, jax.errors.JAXTypeError) as error:
        raise TypeError(
            f"{function}: {name} must be an integer that is not traced, got {type(value).__name__}"
        ) from error
    if isinstance(value, (bool, np.bool_)) or found < 0:
        raise ValueError(f"{function}: {name} must be an integer not below 0, got {value!r}")
    return found


def require_axes(function: str, axis_name: Any) -> tuple[str, ...]:
    """Check names of mesh axes, of which a user may give one alone, and make them a tuple."""
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"{function}: axis_name must be the name of a mesh axis or a tuple of such names, got "
            f"{axis_name!r}"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"{function}: axis_name must not repeat an axis, got {axis_name!r}")
    return names
