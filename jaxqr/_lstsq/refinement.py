"""Iterative refinement of least squares: residuals with doubled precision, corrections without.

For a deep D two vectors solve r + D z = b and D^H r = c together. With c = 0 these are solution and
residual of least squares, z and r; with b = 0 and D the adjoint of a wide A, r is the shortest
solution of A r = c. What is left of both equations is computed with twice the digits. It is the
right-hand side for corrections of both, which the factors of D give as they are:
dz = D^+ f - (D^H D)^+ g and dr = f - D dz for what is left, f and g.

Source: Bjorck, BIT 7 (1967) 257-278; Demmel, Hida, Riedy and Li, ACM Trans. Math. Softw. 35 (2009).
"""

import jax.numpy as jnp
from jax import Array, lax

from jaxqr._core.algebra import H, exceeds, mm
from jaxqr._core.scaling import column_scale, scale_by, scale_to_one, unscale_by
from jaxqr._lstsq.doubled import Doubled, add, add_doubled, multiply_matrix
from jaxqr._lstsq.lstsq_primitive import sum_squares
from jaxqr._lstsq.pseudoinverse import factor_pseudoinverse


def refine_solution(
    a: Array, b: Array, x: Array, *, rcond: float | None, pivoting: bool, steps: int
) -> tuple[Array, Array]:
    """Refine the solution x of the least-squares problems of a and b.

    Returns:
        The refined x and the sums of squared residuals, both constant to derivatives.
    """
    a, b, first = (lax.stop_gradient(z) for z in (a, b, x))
    wide = exceeds(a.shape[-1], a.shape[-2])
    deep = H(a) if wide else a
    # The largest and the smallest column are brought to two sides of one, and b near one: z of a
    # wide A has the square of its exponents.
    scales = column_scale(deep)
    most, least = (jnp.sqrt(f(scales, axis=-1, keepdims=True)) for f in (jnp.max, jnp.min))
    size, own = scale_to_one(1 / most / least), column_scale(b)
    deep, a, b = (scale_by(z, scale) for z, scale in ((deep, size), (a, size), (b, own)))
    first = scale_by(scale_by(first, own), 1 / size)
    inverse = factor_pseudoinverse(deep, rcond=rcond, pivoting=pivoting)
    upper, lower = (jnp.zeros_like(first), b) if wide else (b, jnp.zeros_like(first))
    r, z = (first, -inverse.solve(first)) if wide else (b - mm(a, first), first)

    def step(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        r, z = state
        f = _subtract_product(upper, r, deep, z)
        g = _subtract_product(lower, jnp.zeros_like(lower), H(deep), r)
        change = inverse.solve(f) - inverse.gram(g)
        return r + (f - mm(deep, change)), z + change

    r, z = lax.fori_loop(0, steps, step, (r, z))
    found = r if wide else z
    rest = _subtract_product(b, jnp.zeros_like(b), a, found) if wide else r
    found = scale_by(scale_by(found, 1 / own), size)
    return found, sum_squares(unscale_by(rest, own))


def _subtract_product(b: Array, rest: Array, a: Array, x: Array) -> Array:
    """Compute b - rest - a x with doubled precision, and round it.

    Columns are multiplied by powers of two that bring them near one, so that nothing overflows.
    """
    own = column_scale(a)
    a, x = scale_by(a, own), scale_by(x, 1 / own.mT)
    if not jnp.iscomplexobj(a):
        return _subtract_real(b, rest, a, x)
    a = jnp.concatenate(
        [jnp.concatenate([a.real, -a.imag], -1), jnp.concatenate([a.imag, a.real], -1)], -2
    )
    b, rest, x = (jnp.concatenate([z.real, z.imag], -2) for z in (b, rest, x))
    return lax.complex(*jnp.split(_subtract_real(b, rest, a, x), 2, axis=-2))


def _subtract_real(b: Array, rest: Array, a: Array, x: Array) -> Array:
    scale = jnp.minimum(column_scale(x), column_scale(b))
    b, rest, x = (scale_by(z, scale) for z in (b, rest, x))
    product = multiply_matrix(a, x)
    left = add_doubled(add(b, -rest), Doubled(-product.high, -product.low))
    return (left.high + left.low) / scale
