"""Householder's method on tiny matrices without a loop: each entry is an array of the batch.

All of it is elementwise, so XLA makes one or two kernels of it. The program grows as the number of
operations on one matrix, and so does the time to compile it.
"""

from functools import reduce

import jax.numpy as jnp
from jax import Array, lax

from jaxqr._core.algebra import real_diagonal, where
from jaxqr._core.scaling import magnitude, scale_by, scale_to_one, unscale_by
from jaxqr._lowering.by_columns import reflect_entry

Entries = list[list[Array]]  # of a matrix, by rows


def factor(a: Array, outputs: tuple[str, ...]) -> dict[str, Array]:
    """Factor a matrix; give Q, R, tau and the packed reflectors by their names.

    Its columns are scaled meanwhile, and a matrix with an entry that is not finite becomes NaN as
    a whole.
    """
    *_, m, n = a.shape
    k = min(m, n)
    x = [[a[..., i, j] for j in range(n)] for i in range(m)]
    sizes = [[magnitude(entry) for entry in row] for row in x]
    zero_or_nan = sum(size * 0 for row in sizes for size in row)
    scales = [scale_to_one(reduce(jnp.maximum, column)) for column in zip(*sizes, strict=True)]
    scales = [scale + zero_or_nan for scale in scales]
    x = [[scale_by(entry, s) for entry, s in zip(row, scales, strict=True)] for row in x]
    taus = _eliminate(x)
    zero = lax.full_like(a[..., 0, 0], 0)
    r = [[unscale_by(x[i][j], scales[j]) if i <= j else zero for j in range(n)] for i in range(m)]
    h = [[r[i][j] if i <= j else x[i][j] for j in range(n)] for i in range(m)]
    values = {"r": real_diagonal(_stack(r[:k])), "h": _stack(h), "tau": jnp.stack(taus, axis=-1)}
    if "q_full" in outputs:
        values["q_full"] = _stack(_form(x, taus, m))
    if "q" in outputs:
        values["q"] = _stack(_form(x, taus, k))
    return values


def _eliminate(x: Entries) -> list[Array]:
    """Put R and the reflectors in the place of a matrix; give tau."""
    m, n = len(x), len(x[0])
    taus = []
    for j in range(min(m, n)):
        tau, beta, divisor = _reflect([x[i][j] for i in range(j, m)])
        taus.append(tau)
        x[j][j] = beta
        for i in range(j + 1, m):
            x[i][j] = x[i][j] / divisor
        for c in range(j + 1, n):
            w = tau.conj() * sum((x[i][j].conj() * x[i][c] for i in range(j + 1, m)), x[j][c])
            x[j][c] = x[j][c] - w
            for i in range(j + 1, m):
                x[i][c] = x[i][c] - x[i][j] * w
    return taus


def _form(v: Entries, taus: list[Array], columns: int) -> Entries:
    """Form the leading columns of Q from the reflectors below the diagonal."""
    m = len(v)
    zero, one = (lax.full_like(taus[0], x) for x in (0, 1))
    q = [[one if i == j else zero for j in range(columns)] for i in range(m)]
    for j, tau in reversed(list(enumerate(taus))):
        for c in range(j + 1, columns):
            w = tau * sum((v[i][j].conj() * q[i][c] for i in range(j + 1, m)), zero)
            q[j][c] = -w
            for i in range(j + 1, m):
                q[i][c] = q[i][c] - v[i][j] * w
        q[j][j] = 1 - tau
        for i in range(j + 1, m):
            q[i][j] = -tau * v[i][j]
    return q


def _reflect(x: list[Array]) -> tuple[Array, Array, Array]:
    """Find tau, beta and what divides the entries below the first one."""
    parts = [part for entry in x for part in _real_parts(entry)]
    largest = reduce(jnp.maximum, map(abs, parts))
    ordinary = (largest > 0) & ~jnp.isinf(largest)
    scale = where(ordinary, largest, lax.full_like(largest, 1))
    norm = scale * jnp.sqrt(sum(jnp.square(part / scale) for part in parts))
    below = reduce(jnp.logical_and, (entry == 0 for entry in x[1:]), jnp.ones_like(ordinary))
    return reflect_entry(x[0], norm, below)


def _real_parts(x: Array) -> tuple[Array, ...]:
    return (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)


def _stack(x: Entries) -> Array:
    return jnp.stack([jnp.stack(row, axis=-1) for row in x], axis=-2)
