"""The package's CUDA kernels on NumPy's arrays, emulated on this CPU as the package plans them."""

import functools

import numpy as np

from emulated_kernels import Kernels, build
from jaxqr._lowering import cuda_plans


@functools.cache
def all_kernels():
    return Kernels(build(cuda_plans.list_instances()))


def run(plan, operands, results, *, backwards=False):
    """What a kernel gives, as it is launched by `plan`.

    Args:
        plan: a Launch.
        operands: arrays with one batch dimension.
        results: shape without the batch, and dtype, of each.
        backwards: whether the threads of a block take turns the other way round.
    """
    batch = len(operands[0])
    made = [np.full((batch, *shape), _nothing(dtype), dtype) for shape, dtype in results]
    arrays = [*map(np.ascontiguousarray, operands), *made]
    all_kernels().run(
        plan.kernel,
        dict(zip(plan.slots, arrays, strict=True)),
        plan.sizes,
        batch=batch,
        threads=plan.threads,
        per_block=plan.per_block,
        shared=plan.shared,
        backwards=backwards,
    )
    return made


def _nothing(dtype):
    """What a result holds before: it must be overwritten."""
    return -7 if np.dtype(dtype).kind == "i" else np.nan
