"""Powers of two that bring matrices near one, so that squares of entries stay in range.

Multiplying by a power of two is exact, so a factorization of a scaled matrix is that of the matrix
itself to the last bit. The scales are constant to derivatives.
"""

from functools import partial

import jax.numpy as jnp
from jax import Array, lax

from jaxqr._core.algebra import where


def column_scale(a: Array) -> Array:
    """Find a power of two for each column that brings its largest entry near one.

    Squares of entries might leave the range of the type, and then reflectors lose digits (XLA
    flushes denormal numbers to zero). QR does not change when columns are multiplied by powers of
    two, but for the columns of R, which are multiplied alike: so each has a power of its own.

    Args:
        a: array (..., m, n), m > 0.

    Returns:
        The powers, real, of shape (..., 1, n), constant to derivatives; 1 for a column of zeros.
    """
    return scale_to_one(jnp.max(magnitude(a), axis=-2, keepdims=True))


def is_huge(scale: Array) -> Array:
    """Say of which columns with these scales sums of entries might overflow."""
    return scale < 2.0 ** (16 - jnp.finfo(scale.dtype).maxexp)


def scale_to_one(largest: Array) -> Array:
    """Find a power of two that brings a magnitude near one; 1 for zero."""
    return lax.select(largest > 0, 1 / _power_of_two(largest), lax.full_like(largest, 1))


def middle_scale(r: Array) -> Array:
    """Find a power of two that brings the largest and the smallest column to two sides of one.

    Args:
        r: array (..., k, n), upper triangular.

    Returns:
        The powers, real, of shape (..., 1, 1), constant to derivatives.
    """
    size = jnp.max(magnitude(r), axis=-2, keepdims=True)
    inverse = where(size > 0, 1 / size)
    zero = lax.full((), 0, size.dtype)

    def larger(x: tuple[Array, Array], y: tuple[Array, Array]) -> tuple[Array, Array]:
        return lax.max(x[0], y[0]), lax.max(x[1], y[1])

    # Both extremes are found in one pass.
    pair = lax.reduce((size, inverse), (zero, zero), larger, (size.ndim - 2, size.ndim - 1))
    most, inverse_of_least = (x[..., None, None] for x in pair)
    middle = jnp.sqrt(most) / jnp.sqrt(jnp.maximum(inverse_of_least, 1 / most))
    return lax.select(most > 0, 1 / _power_of_two(middle), lax.full_like(most, 1))


def magnitude(a: Array) -> Array:
    """Take the larger magnitude of real and imaginary part, constant to derivatives."""
    a = lax.stop_gradient(a)
    return jnp.maximum(abs(a.real), abs(a.imag)) if jnp.iscomplexobj(a) else abs(a)


def _power_of_two(x: Array) -> Array:
    """Find a power of two near a positive number whose reciprocal is a normal number, too."""
    info = jnp.finfo(x.dtype)
    constant = partial(lax.full_like, x)
    bounded = lax.clamp(constant(info.tiny), x, constant(2.0 ** (info.maxexp - 2)))
    exponent_bits = info.bits - info.nmant - 1
    return lax.reduce_precision(bounded, exponent_bits=exponent_bits, mantissa_bits=0)


def zero_or_nan(a: Array) -> Array:
    """Give zero for a matrix of finite entries and NaN for others: real, of shape (..., 1, 1)."""
    # A maximum would not do, as XLA's for the CPU drops NaN in large matrices.
    zero = magnitude(a) * 0
    return jnp.sum(zero, axis=(-2, -1), keepdims=True)


def scale_by(x: Array, scale: Array) -> Array:
    """Multiply by a real scale."""
    if jnp.iscomplexobj(x):
        return lax.complex(x.real * scale, x.imag * scale)
    return x * scale


def multiply_linearly(x: Array, scale: Array) -> Array:
    """Multiply by a real scale, in rules, which JAX transposes.

    Its transposes of real and imaginary parts depend on the context, so this is one complex
    product. That may change the sign of a zero, which matters to a factorization only.
    """
    return x * scale.astype(x.dtype)


def unscale_by(x: Array, scale: Array) -> Array:
    """Divide by a real scale."""
    if jnp.iscomplexobj(x):
        return lax.complex(x.real / scale, x.imag / scale)
    return x / scale
