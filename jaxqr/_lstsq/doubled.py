"""Sums and products with twice the digits of their dtype, as pairs whose sum is the value.

The rounding error of a sum of two numbers is a number of the same dtype, and so is that of a
product, which is found from their halves (Knuth, Dekker). No wider dtype is needed. What stands
here must not be simplified as if numbers were exact; XLA does not.

Source: Dekker, Numer. Math. 18 (1971) 224-242.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax


class Doubled(NamedTuple):
    """The value high + low, where low is at most a rounding error of high."""

    high: Array
    low: Array


def add(x: Array, y: Array) -> Doubled:
    """Add two numbers without an error."""
    total = x + y
    part = total - x
    return Doubled(total, (x - (total - part)) + (y - part))


def add_doubled(x: Doubled, y: Doubled) -> Doubled:
    """Add two pairs, with an error of twice the digits."""
    total, low = add(x.high, y.high)
    high = total + (low + (x.low + y.low))
    return Doubled(high, (total - high) + (low + (x.low + y.low)))


def multiply(x: Array, y: Array) -> Doubled:
    """Multiply two numbers, which are far from overflow, without an error."""
    high = x * y
    (x1, x0), (y1, y0) = _halve(x), _halve(y)
    return Doubled(high, ((x1 * y1 - high) + x1 * y0 + x0 * y1) + x0 * y0)


def multiply_matrix(a: Array, x: Array) -> Doubled:
    """Multiply real matrices (..., m, n) by (..., n, s)."""

    def multiply_column(column: Array) -> Doubled:
        terms = multiply(a, jnp.broadcast_to(column[..., None, :], a.shape))
        zero = lax.full((), 0, a.dtype)
        pair = lax.reduce(tuple(terms), (zero, zero), _add_pairs, (a.ndim - 1,))
        return Doubled(*pair)

    columns = lax.map(multiply_column, jnp.moveaxis(x, -1, 0))
    return Doubled(*(jnp.moveaxis(part, 0, -1) for part in columns))


def _add_pairs(x: tuple[Array, Array], y: tuple[Array, Array]) -> tuple[Array, Array]:
    total = add_doubled(Doubled(*x), Doubled(*y))
    return total.high, total.low


def _halve(x: Array) -> tuple[Array, Array]:
    """Split a number into two of half its digits."""
    info = jnp.finfo(x.dtype)
    shifted = x * (2.0 ** ((info.nmant + 2) // 2) + 1)
    high = shifted - (shifted - x)
    return high, x - high
