"""Factorizations of some shapes, on platforms that have something better for them than geqrf.

Each takes a matrix and gives its factors by their names, as many as are asked for or more, or None
where the shape is not one of its own.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jax import Array
from jax.core import min_dim

from jaxqr._core.algebra import H, extend, mm, real_diagonal, row_minus_column, triu, where
from jaxqr._core.scaling import column_scale, scale_by, unscale_by, zero_or_nan
from jaxqr._factor.tall import COLUMNS, Factor, factor_tall
from jaxqr._lowering import cuda, unrolled
from jaxqr._lowering.by_columns import WIDTH

Values = dict[str, Array]  # outputs by their names
ByShape = Callable[[Array, tuple[str, ...]], Values | None]

# So many rows and columns at the most are worth a program without loops: 4 x 4 compiles in 2 s.
TINY = 4
TINY_COMPLEX = 3


def factor_scaled(a: Array, compute: Callable[[Array], Values]) -> Values:
    """Let `compute` factor A with its columns scaled.

    A matrix with an entry that is not finite becomes NaN as a whole.
    """
    scale = column_scale(a) + zero_or_nan(a)
    return unscale(compute(scale_by(a, scale)), scale)


def unscale(values: Values, scale: Array) -> Values:
    """Give R its scale, and the zeros below; the reflectors have none."""
    found = dict(values)
    found["r"] = triu(real_diagonal(unscale_by(values["r"], scale)))
    if "h" in values:
        h = values["h"]
        found["h"] = where(row_minus_column(h) <= 0, unscale_by(h, scale), h)
    return found


# ------------------------------------------------------------------------------------------ CUDA


def factor_on_cuda(a: Array, outputs: tuple[str, ...], factor: Factor) -> Values | None:
    """Factor tall and wide matrices by kernels for a part of them, and products."""
    m, n = a.shape[-2:]
    if not cuda.available():
        return None
    if m <= WIDTH < n:
        return factor_scaled(a, partial(_factor_wide, outputs=outputs, factor=factor))
    rows = cuda.limit_rows(min(n, WIDTH), a.dtype)
    if "q_full" in outputs or n > COLUMNS:
        return None
    compute = partial(factor_tall, outputs=outputs, factor=factor, rows=rows)
    if n <= WIDTH:  # `factor` scales by itself, and nothing else multiplies by A
        return compute(a) if m > rows else None
    return factor_scaled(a, compute) if m > rows else None


def _factor_wide(a: Array, outputs: tuple[str, ...], factor: Factor) -> Values:
    """Factor the leading square, and multiply the rest by its Q."""
    m = a.shape[-2]
    names = ("q", "r", *(name for name in ("h", "tau") if name in outputs))
    values = dict(zip(names, factor(a[..., :m], *names), strict=True))
    right = mm(H(values["q"]), a[..., m:])
    for name in {"r", "h"} & values.keys():
        values[name] = jnp.concatenate([values[name], right], axis=-1)
    return values


# ---------------------------------------------------------------------------------------- others


def factor_tiny(a: Array, outputs: tuple[str, ...]) -> Values | None:
    """Factor tiny matrices without a loop."""
    most = TINY_COMPLEX if jnp.iscomplexobj(a) else TINY
    return unrolled.factor(a, outputs) if max(a.shape[-2:]) <= most else None


def form_outputs(
    h: Array, tau: Array, outputs: tuple[str, ...], orgqr: Callable[..., list[Array]]
) -> Values:
    """Form Q, if it is asked for, from packed factors."""
    m, n = h.shape[-2:]
    k = min_dim(m, n)
    # Reading R and applying reflectors leaves the strictly lower triangle as it is.
    values = {"h": h, "tau": tau, "r": h[..., :k, :]}
    if "q_full" in outputs:
        (values["q_full"],) = orgqr(extend(h, m, -1), tau)
        values["q"] = values["q_full"][..., :, :k]
    elif "q" in outputs:
        (values["q"],) = orgqr(h[..., :, :k], tau)
    return values
