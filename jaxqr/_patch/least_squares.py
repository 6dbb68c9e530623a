"""The function that stands for `jax.numpy.linalg.lstsq` on request."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxqr._api.lstsq import lstsq
from jaxqr._core.settings import calling
from jaxqr._patch.tables import SERVED, PatchConflictError

# JAX's function while ours stands in its place.
_stock: list[Callable[..., Any]] = []


def is_replaced() -> bool:
    """Say whether the function is replaced."""
    return bool(_stock)


def replace(wanted: bool) -> bool:
    """Replace JAX's function, or put it back; say whether that changed anything.

    Raises:
        PatchConflictError: if the function there is neither JAX's nor ours.
    """
    if wanted == is_replaced():
        return False
    now = jnp.linalg.lstsq
    if wanted:
        if not now.__module__.startswith("jax."):
            raise PatchConflictError(
                "patch: jax.numpy.linalg.lstsq must be JAX's own function, got "
                f"{now.__module__}.{now.__qualname__}. Undo that change first"
            )
        jnp.linalg.lstsq = _make_lstsq(now)
        _stock.append(now)
    elif getattr(now, "__wrapped__", None) is _stock[0]:
        jnp.linalg.lstsq = _stock.pop()
    else:
        raise PatchConflictError(
            "unpatch: jax.numpy.linalg.lstsq must be the function that jaxqr has put there, got "
            f"{now.__module__}.{now.__qualname__}. Undo that change first"
        )
    return True


def _make_lstsq(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function with the arguments and the four results of JAX's, `stock`."""

    @wraps(stock)
    def substitute(
        a: ArrayLike,
        b: ArrayLike,
        rcond: float | None = None,
        *,
        numpy_resid: bool = False,
    ) -> tuple[Array, Array, Array, Array]:
        (m, n), right = _two(jnp.shape(a)), jnp.shape(b)
        # JAX's are the errors, what is empty, and a bound that is known only when it runs.
        if 0 in (m, n, *right) or len(right) not in (1, 2) or right[0] != m or _is_odd(rcond):
            return stock(a, b, rcond, numpy_resid=numpy_resid)
        SERVED["lstsq", "values"] += 1
        a, b = jnp.asarray(a), jnp.asarray(b)
        with calling("lstsq", a, b):
            x, residuals, rank, s = _solve(a, b, None if rcond is None else float(rcond))
        if numpy_resid and (rank < n or m <= n):
            residuals = jnp.asarray([])
        return x, residuals, rank, s

    return substitute


def _two(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the shape of a matrix, and one that nothing serves for all else."""
    return shape if len(shape) == 2 else (0, 0)


def _is_odd(rcond: Any) -> bool:
    if rcond is None:
        return False
    if isinstance(rcond, jax.core.Tracer):
        return True
    bound = np.asarray(rcond)
    return bound.ndim != 0 or bound.dtype.kind not in "iuf" or not np.isfinite(bound)


@partial(jax.jit, static_argnums=2)
def _solve(a: Array, b: Array, rcond: float | None) -> tuple[Array, Array, Array, Array]:
    """Solve by this package, and find the singular values by JAX, if they are used."""
    dtype = jnp.result_type(a, b)
    if not jnp.issubdtype(dtype, jnp.inexact):
        dtype = jnp.result_type(float)
    eps = float(jnp.finfo(dtype).eps)
    if rcond is None:
        rcond = eps * max(a.shape)
    elif rcond < 0:
        rcond = eps
    a, b = a.astype(dtype), b.astype(dtype)
    x, residuals, rank = lstsq(a, b, rcond=rcond)
    s = jnp.linalg.svdvals(a)
    return x, jnp.atleast_1d(residuals), rank.astype(int), s
