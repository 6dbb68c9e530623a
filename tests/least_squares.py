"""Problems of least squares, and what NumPy makes of them."""

import jax.numpy as jnp
import numpy as np

import jaxqr

SHAPES = ((8, 3), (5, 5), (3, 8), (1, 1))
LOW_RANKS = tuple((shape, rank) for shape in ((8, 5), (5, 5), (5, 8)) for rank in (1, 3))
CUT = 1e-10  # between the singular values of these matrices and rounding


def expected(a, b):
    """NumPy's x, matrix by matrix, and |b - a x|^2 for every shape and rank."""
    flat = zip(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]), strict=True)
    x = np.stack([np.linalg.lstsq(*pair, rcond=CUT)[0] for pair in flat])
    x = x.reshape(*a.shape[:-2], *x.shape[-2:])
    return x, np.sum(np.abs(b - a @ x) ** 2, axis=-2)


def loss(a, b):
    x, residuals, _ = jaxqr.lstsq(a, b)
    return jnp.sum(jnp.sin(x)).real + jnp.sum(jnp.cos(residuals))
