"""What public functions do to their arguments before a primitive sees them."""

from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import max_dim
from jax.typing import ArrayLike

from jaxqr._batching import vary_alike
from jaxqr._primitive import DTYPES

HALF = (jnp.dtype(jnp.float16), jnp.dtype(jnp.bfloat16))
Pivoting = bool | Literal["randomized"]
# what users pass as `pivoting`, and the primitive's name for it
PIVOTING: dict[bool | str, str] = {True: "exact", False: "none", "randomized": "randomized"}


def array(function: str, name: str, x: ArrayLike, ndim: int = 2) -> Array:
    """Convert to an array of a floating dtype and at least `ndim` dimensions, or say why not."""
    try:  # of an array being differentiated, asarray would make a copy
        x = x if isinstance(x, jax.Array) else jnp.asarray(x)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{function}: {name} must be array-like, got {type(x).__name__}") from error
    if jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == jnp.bool_:
        x = x.astype(jnp.result_type(float))
    if x.dtype not in DTYPES and x.dtype not in HALF:
        raise TypeError(
            f"{function}: {name} must be a real or complex array of 16 (real only), 32 or 64 bits "
            f"a number, got dtype {x.dtype}"
        )
    if x.ndim < ndim:
        dimensions = "dimension" if ndim == 1 else "dimensions"
        raise ValueError(
            f"{function}: {name} must have at least {ndim} {dimensions}, got shape {x.shape}"
        )
    return x


def common(*arrays: Array) -> tuple[list[Array], np.dtype]:
    """Bring arrays to one dtype that LAPACK knows, and to the same varying axes of a shard_map.

    Returns:
        The arrays, and the dtype of the result: half precision is computed in single.
    """
    dtype = jnp.result_type(*arrays)
    working = jnp.dtype(jnp.float32) if dtype in HALF else dtype
    return vary_alike([x.astype(working) for x in arrays]), dtype


def batches(function: str, a: Array, other: Array, name: str) -> None:
    """Raise unless the batch dimensions of `a` and of `other`, called `name`, broadcast."""
    try:
        jnp.broadcast_shapes(a.shape[:-2], other.shape[:-2])
    except ValueError as error:
        raise ValueError(
            f"{function}: batch dimensions of a and {name} must broadcast, got {name} "
            f"{other.shape} for a {a.shape}"
        ) from error


def choice(function: str, name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise unless `value` is one of `allowed`."""
    if not isinstance(value, (str, bool)) or value not in allowed:
        listed = ", ".join(map(repr, allowed))
        raise ValueError(f"{function}: {name} must be one of {listed}, got {value!r}")


def rcond(function: str, value: Any) -> float | None:
    """Check the bound below which diagonal entries of R do not count, relative to the largest."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{function}: rcond must be None or a number that is not traced, got "
            f"{type(value).__name__}"
        )
    if not 0 <= float(value) < float("inf"):
        raise ValueError(
            f"{function}: rcond must be None or a finite number not below 0, got {value!r}"
        )
    return float(value)


def rounding(rows: int, columns: int, dtype: np.dtype) -> float:
    """The default of `rcond`: what rounding may leave of a dependent column."""
    return max_dim(rows, columns) * float(jnp.finfo(dtype).eps)


def axes(function: str, axis_name: Any) -> tuple[str, ...]:
    """The names of mesh axes, of which a user may give one alone."""
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"{function}: axis_name must be the name of a mesh axis or a tuple of such names, got "
            f"{axis_name!r}"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"{function}: axis_name must not repeat an axis, got {axis_name!r}")
    return names
