"""The package's CUDA kernels on NumPy's arrays, emulated on this CPU as the package launches them.

`GpuLibrary` has functions of ``native/kernel_library.py``, so that laws of the CPU's kernels can
be asked of these.
"""

import functools

import numpy as np

from emulated_kernels import Kernels, build
from jaxqr._lowering import cuda_choice, cuda_plans
from jaxqr._lowering.cuda_instances import list_instances

PIVOTING = ("none", "exact", "randomized")
NONE, EXACT, RANDOMIZED = range(3)


class NotServed(Exception):
    """No kernel does what was asked for."""


@functools.cache
def all_kernels():
    return Kernels(build(list_instances()))


def run(plan, operands, results, *, kernels, backwards=False):
    """What a kernel gives.

    Args:
        plan: a Launch.
        operands: arrays with one batch dimension. Those whose slot is that of a result are
            overwritten.
        results: shape without the batch, and dtype, of each.
        kernels: of a build.
        backwards: whether the threads of a block take turns the other way round.
    """
    batch = len(operands[0])
    made = [np.full((batch, *shape), _nothing(dtype), dtype) for shape, dtype in results]
    arrays = [*map(np.ascontiguousarray, operands), *made]
    kernels.run(
        plan.kernel,
        {slot: x for slot, x in zip(plan.slots, arrays, strict=True) if slot >= 0},
        plan.sizes,
        batch=batch,
        threads=plan.threads,
        per_block=plan.per_block,
        blocks=plan.blocks,
        shared=plan.shared,
        backwards=backwards,
    )
    return made


def _nothing(dtype):
    """What a result holds before: it must be overwritten."""
    return -7 if np.dtype(dtype).kind == "i" else np.nan


class GpuLibrary:
    """What the kernels compute, each launched as for the primitive whose place it takes."""

    def __init__(self, kernels=None, *, backwards=False):
        self._kernels, self._backwards = kernels or all_kernels(), backwards

    def factor(self, a, outputs, *, transposed=False, pivoting=NONE, free=None):
        """`a` has the order of `transposed`: its matrices are the transposes of A.

        With `free` only so many of A's columns, the leading ones, are pivoted.
        """
        _, m, n = np.swapaxes(a, 1, 2).shape if transposed else a.shape
        k = min(m, n)
        shapes = {"q": (m, k), "q_full": (m, m), "r": (k, n), "h": (m, n), "tau": (k,), "p": (n,)}

        def result(name):
            shape = shapes[name][::-1] if transposed else shapes[name]
            return shape, np.int32 if name == "p" else a.dtype

        params = {"outputs": tuple(outputs), "pivoting": PIVOTING[pivoting], "free": free}
        found = self._launch("qr", [a], map(result, outputs), transposed=transposed, **params)
        if transposed:
            found = [np.swapaxes(x, 1, 2) if x.ndim == 3 else x for x in found]
        return dict(zip(outputs, found, strict=True))

    def panel(self, at, first):
        """Factor panels held by columns, whose diagonals begin in rows of their own."""
        w, m = at.shape[1:]
        results = [((w, m), at.dtype), ((w,), at.dtype), ((w, w), at.dtype)]
        return self._launch("panel", [at, first.astype(np.int32)], results)

    def signs(self, top, beta):
        """Find LAPACK's signs of leading squares of Q, and the factors L and U of Q S - I."""
        n = top.shape[-1]
        return self._launch("signs", [top, beta], [((n,), beta.dtype), ((n, n), top.dtype)])

    def derivative(self, q, r, da, dq, dr, *, transposed, pivoted, forward):
        """Tangents go from `da` to `dq` and `dr`, cotangents back; None is not asked for."""
        pairs = [(name, x) for name, x in (("q", dq), ("r", dr)) if x is not None]
        names, arrays = tuple(name for name, _ in pairs), [x for _, x in pairs]
        options = {"transposed": transposed, "pivoted": pivoted}
        if forward:
            targets, operands, options["outputs"] = arrays, [q, r, da], names
        else:
            targets, operands, options["inputs"] = [da], [q, r, *arrays], names
        results = [(x.shape[1:], x.dtype) for x in targets]
        found = self._launch("qr_jvp" if forward else "qr_vjp", operands, results, **options)
        for target, x in zip(targets, found, strict=True):
            target[:] = x

    def least_squares(self, a, b, rcond=None, *, pivoting=True):
        """Give the solution, squared residuals and rank, by the triangle of [A b]."""
        m, n = a.shape[1:]
        s = b.shape[-1]
        if m < n:
            raise NotServed(f"least squares of {a.shape}")
        # As in the package, what is not finite in a column of b is kept from the others.
        finite = np.all(np.isfinite(b), axis=1, keepdims=True)
        joined = np.concatenate([a, np.where(finite, b, 0)], axis=2)
        names = ("r", "p") if pivoting else ("r",)
        triangle = self.factor(joined, names, pivoting=EXACT if pivoting else NONE, free=n)
        results = [((n, s), a.dtype), ((s,), a.real.dtype), ((), np.int32)]
        x, residuals, rank = self._launch(
            "least_squares", list(triangle.values()), results, columns=n, rcond=rcond
        )
        x[np.broadcast_to(~finite, x.shape)] = np.nan
        residuals[~finite[:, 0]] = np.nan
        return x, residuals, rank

    def _launch(self, name, operands, results, **params):
        shapes = [x.shape[1:] for x in operands]
        plan = cuda_choice.plan(name, shapes, str(operands[0].dtype), **params)
        if plan is None or 0 in operands[0].shape:
            raise NotServed(f"{name} of {shapes}")
        return self._run(plan, operands, list(results))

    def _run(self, plan, operands, results):
        if not (self._kernels.built.ptx / f"{plan.kernel}.ptx").exists():
            raise NotServed(f"{plan.kernel} was not built")
        return run(plan, operands, results, kernels=self._kernels, backwards=self._backwards)

    def pivot_steps(self, at, first, steps):
        """Eliminate pivoted columns of larger matrices; give the state, by its parts' names."""
        batch, n, m = at.shape
        problem, real = (m, n, steps, str(at.dtype)), at.real.dtype
        norm = np.linalg.norm(at[:, :, first:], axis=2).astype(real)
        norm[:, :first] = -1
        counter, pivot = np.zeros((batch, 2), np.int32), np.zeros((batch, 1), np.int32)
        counter[:, 0] = first
        state = {
            "at": at.copy(),
            "v": np.zeros((batch, steps, m), at.dtype),
            "f": np.zeros((batch, n, steps), at.dtype),
            "r": np.zeros((batch, n, steps), at.dtype),
            "norm": norm,
            "exact": norm.copy(),
            "place": np.tile(np.arange(n, dtype=np.int32), (batch, 1)),
            "tau": np.zeros((batch, steps), at.dtype),
            "counter": counter,
            "pivot": pivot,
            "products": np.zeros((batch, steps), at.dtype),
        }
        slots = tuple(range(len(cuda_plans.PIVOT_STATE)))  # all is overwritten where it lies
        arrays = [state[name] for name in cuda_plans.PIVOT_STATE]
        for _ in range(steps):
            for make in (cuda_plans.plan_pivot_column, cuda_plans.plan_pivot_row):
                self._run(make(*problem)._replace(slots=slots), arrays, [])
        return state
