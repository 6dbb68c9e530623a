"""The types of a primitive's operands and results, from a rule that speaks of one matrix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.sharding import PartitionSpec

from jaxqr._core.partition import Shape, partition
from jaxqr._core.settings import calling_function
from jaxqr._core.undocumented import describe_type, varying_type

# The dtypes that are computed in. (The kernels have a table of their own.)
DTYPES = tuple(map(np.dtype, ("float32", "float64", "complex64", "complex128")))
DTYPE_NAMES = ", ".join(map(str, DTYPES[:-1])) + f" or {DTYPES[-1]}"

# A result of one matrix: its shape, and its dtype; None stands for the operands', REAL for that of
# their real parts.
CoreResult = tuple[Shape, Any]
REAL = "real"

# How many trailing dimensions of each operand are not batch dimensions.
Ranks = tuple[int, ...] | Callable[..., tuple[int, ...]]


@dataclass(frozen=True)
class Signature:
    """The operands and results of a primitive, of which leading dimensions are a batch.

    Attributes:
        name: of the primitive, for errors outside of a public function.
        core_ranks: how many trailing dimensions of each operand are the matrix, vector or number;
            or a function of the parameters that tells.
        results: the shape rule: the operands' shapes without the batch, and the parameters, to
            the results.
        varies_as_last: whether the results vary over the same manual axes of a shard_map as the
            last operand, whatever the others do; otherwise all operands must agree.
    """

    name: str
    core_ranks: Ranks
    results: Callable[..., list[CoreResult]]
    varies_as_last: bool = False

    def find_ranks(self, params: dict[str, Any]) -> tuple[int, ...]:
        """Find the core ranks of the operands for these parameters."""
        return self.core_ranks(**params) if callable(self.core_ranks) else self.core_ranks

    def count_batch_dimensions(self, operands: Sequence[Any], params: dict[str, Any]) -> int:
        """Count the batch dimensions of operands that have been checked."""
        return operands[0].ndim - self.find_ranks(params)[0]

    def find_result_types(
        self, operands: Sequence[Any], params: dict[str, Any]
    ) -> list[tuple[Shape, np.dtype]]:
        """Find the shape, with its batch, and the dtype of every result of checked operands."""
        batch_ndim = self.count_batch_dimensions(operands, params)
        batch = operands[0].shape[:batch_ndim]
        common = _find_common_dtype([x.dtype for x in operands])
        results = self.results(*(x.shape[batch_ndim:] for x in operands), **params)
        return [((*batch, *shape), _resolve_dtype(kind, common)) for shape, kind in results]

    def evaluate(self, *avals: ShapedArray, **params: Any) -> list[ShapedArray]:
        """Check the types of the operands, and give those of the results."""
        name = calling_function(self.name)
        ranks = self.find_ranks(params)
        _require_same_batch(name, avals, ranks)
        _require_one_precision(name, avals)
        if not self.varies_as_last:
            _require_same_axes(name, avals)
        spec = _require_same_sharding(name, avals, ranks)
        like = avals[-1] if self.varies_as_last else avals[0]

        def result(shape: Shape, dtype: np.dtype) -> ShapedArray:
            core = (None,) * (len(shape) - len(spec))
            sharding = like.sharding.update(spec=PartitionSpec(*spec, *core))
            return like.update(shape=shape, dtype=dtype, weak_type=False, sharding=sharding)

        return [result(shape, dtype) for shape, dtype in self.find_result_types(avals, params)]


def _find_common_dtype(dtypes: Sequence[np.dtype]) -> np.dtype:
    """Find the dtype of results: the complex one of the operands', if any is complex."""
    numbers = [dtype for dtype in dtypes if not jnp.issubdtype(dtype, jnp.integer)]
    return max(numbers, key=lambda dtype: dtype.itemsize)


def _resolve_dtype(kind: Any, common: np.dtype) -> np.dtype:
    """Find the dtype of a result that a shape rule gives as `kind`."""
    if kind is None:
        return common
    return np.dtype(jnp.finfo(common).dtype if kind is REAL else kind)


def _require_same_batch(name: str, avals: Sequence[ShapedArray], ranks: Sequence[int]) -> None:
    for i, (a, rank) in enumerate(zip(avals, ranks, strict=True)):
        if a.ndim < rank:
            raise ValueError(
                f"{name}: operand {i} must have at least {rank} dimensions, got shape {a.shape}"
            )
    batches = [a.shape[: a.ndim - rank] for a, rank in zip(avals, ranks, strict=True)]
    if any(batch != batches[0] for batch in batches):
        raise ValueError(
            f"{name}: operands must have the same batch dimensions, got {[a.shape for a in avals]}"
        )


def _require_one_precision(name: str, avals: Sequence[ShapedArray]) -> None:
    dtypes = {a.dtype for a in avals if not jnp.issubdtype(a.dtype, jnp.integer)}
    if not dtypes.issubset(DTYPES) or len({jnp.finfo(dtype).dtype for dtype in dtypes}) != 1:
        raise TypeError(
            f"{name}: operands must have the dtype {DTYPE_NAMES}, all in the same precision, got "
            f"{[str(a.dtype) for a in avals]}"
        )


def _require_same_axes(name: str, avals: Sequence[ShapedArray]) -> None:
    varying = {varying_type(a) for a in avals}
    if len(varying) > 1:
        raise ValueError(
            f"{name}: operands must vary over the same manual axes, got {varying}; "
            "use jax.lax.pcast(x, axes, to='varying')"
        )


def _require_same_sharding(
    name: str, avals: Sequence[ShapedArray], ranks: Sequence[int]
) -> tuple[Any, ...]:
    """Require that batch dimensions alone are sharded, and alike; give their partition."""
    specs = []
    for i, (a, rank) in enumerate(zip(avals, ranks, strict=True)):
        spec = partition(a)
        if any(axis is not None for axis in spec[a.ndim - rank :]):
            raise ValueError(
                f"{name}: the matrix dimensions of operand {i} must not be sharded, got "
                f"{describe_type(a)} with {a.sharding.spec}; reshard it with "
                "jax.sharding.reshard(x, PartitionSpec(*batch_axes, None, None))"
            )
        specs.append(spec[: a.ndim - rank])
    if any(spec != specs[0] for spec in specs):
        raise ValueError(f"{name}: operands must have the same batch sharding, got {specs}")
    return specs[0]
