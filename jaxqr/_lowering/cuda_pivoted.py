"""Column pivoting on CUDA: blocks as LAPACK's laqps, every step of two kernels.

As in ``portable_pivoted``, of what is left of the matrix after some columns of a block only the
pivot's column and row are computed. But norms are computed anew within a block where they lose
their digits, so all blocks have the same length and the host waits for nothing.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxqr._core.algebra import mm, where
from jaxqr._lowering import cuda, cuda_plans
from jaxqr._lowering.by_columns import (
    WIDTH,
    Factors,
    compute_norms,
    factor_in_stages,
    make_natural_order,
    places,
    put,
    take_entries,
)
from jaxqr._lowering.compact_wy import take_rows
from jaxqr._lowering.cuda_plans import COLUMN_WRITES, PIVOT_STATE, ROW_WRITES, Launch

State = dict[str, Array]  # by the names of PIVOT_STATE


def geqp3(a: Array) -> list[Array]:
    """Factor with column pivoting; give (h, tau, p), p counted from 0."""
    h, tau, p = factor_in_stages(a.mT, _eliminate_blocks, _factor_whole)
    return [h.mT, tau, p]


def choose_pivots(a: Array, count: int) -> Array:
    """Order the columns so that the first `count` pivots come first."""
    done = _take_steps(_start(a.mT, jnp.int32(0), count), count)
    return jnp.argsort(done["place"], axis=-1).astype(jnp.int32)


def _factor_whole(at: Array) -> Factors:
    """Factor what has few columns or rows."""
    *batch, n, m = at.shape
    k = min(m, n)
    results = [(at.shape, np.dtype(at.dtype)), ((*batch, k), np.dtype(at.dtype))]
    found = cuda.compute(
        "qr",
        [at],
        [*results, ((*batch, n), np.dtype(np.int32))],
        batch_ndim=len(batch),
        outputs=("h", "tau", "p"),
        pivoting="exact",
        transposed=True,
    )
    return _eliminate_blocks(at, k, k) if found is None else Factors(*found)


def _eliminate_blocks(at: Array, steps: int, width: int = WIDTH) -> Factors:
    """Eliminate the leading columns, a multiple of the width, in blocks."""

    def block(b: Array, factors: Factors) -> Factors:
        at, taus, p = factors
        first = (b * width).astype(jnp.int32)
        done = _take_steps(_start(at, first, width), width)
        after = first + width
        at = at - where(places(at, -1) >= after, mm(done["f"], done["v"]))
        old = lax.dynamic_slice_in_dim(at, first, width, axis=-1)
        at = put(at, where(places(old, -2) >= first, done["r"], old), first, -1)
        order = jnp.argsort(done["place"], axis=-1).astype(jnp.int32)
        at = take_rows(at, order)
        panel = lax.dynamic_slice_in_dim(at, first, width, axis=-2)
        below = places(panel, -1) > first + places(panel, -2)
        at = put(at, where(below, done["v"], panel), first, -2)
        return Factors(at, put(taus, done["tau"], first, -1), take_entries(p, order))

    tau = jnp.zeros((*at.shape[:-2], steps), at.dtype)
    return lax.fori_loop(0, steps // width, block, Factors(at, tau, make_natural_order(at)))


def _start(at: Array, first: Array, width: int) -> State:
    *batch, n, m = at.shape
    norm = compute_norms(where(places(at, -1) >= first, at))
    norm = where(places(at, -2) >= first, norm, lax.full_like(norm, -1))[..., 0]

    def zeros(*shape: int) -> Array:
        return jnp.zeros((*batch, *shape), at.dtype)

    counter = jnp.stack([first, jnp.zeros_like(first)])
    return {
        "at": at,
        "v": zeros(width, m),
        "f": zeros(n, width),
        "r": zeros(n, width),
        "norm": norm,
        "exact": norm,
        "place": make_natural_order(at),
        "tau": zeros(width),
        "counter": jnp.broadcast_to(counter, (*batch, 2)),
        "pivot": jnp.zeros((*batch, 1), jnp.int32),
        "products": zeros(width),
    }


def _take_steps(state: State, count: int) -> State:
    return lax.fori_loop(0, count, lambda i, state: _step(state), state)


def _step(state: State) -> State:
    """Eliminate a column."""
    n, m = state["at"].shape[-2:]
    problem = m, n, state["tau"].shape[-1], str(state["at"].dtype)
    choice, row = cuda_plans.plan_pivot_column(*problem), cuda_plans.plan_pivot_row(*problem)
    return _overwrite(_overwrite(state, choice, COLUMN_WRITES), row, ROW_WRITES)


def _overwrite(state: State, plan: Launch, names: Sequence[str]) -> State:
    operands = [state[name] for name in PIVOT_STATE]
    results = [(state[name].shape, np.dtype(state[name].dtype)) for name in names]
    aliases = {PIVOT_STATE.index(name): i for i, name in enumerate(names)}
    batch_ndim = state["at"].ndim - 2
    written = cuda.launch(plan, operands, results, batch_ndim=batch_ndim, aliases=aliases)
    return state | dict(zip(names, written, strict=True))
