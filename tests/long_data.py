"""Data of many rows in single precision, ways to solve for them, and what is right.

That is said by NumPy in double precision, for the very numbers that single precision has.
"""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from matrices import normal
from meshes import mesh_of

EPS = float(np.finfo("float32").eps)
WAYS = ("whole", "batch", "rows on devices", "lineax")


def correlated(m, correlation, seed=0):
    z = normal((m, 2), "float32", seed)
    second = correlation * z[:, 0] + np.sqrt(1 - correlation**2) * z[:, 1]
    return np.stack([z[:, 0], second], axis=1).astype("float32")


def far_from_zero(rows=90000):
    """[1, 2000 + 20 z, noise]: the second column is nearly a constant."""
    z = normal((rows, 2), "float32", seed=3)
    return np.stack([np.ones(rows, "float32"), 2000 + 20 * z[:, 0], z[:, 1]], axis=1)


def blocks(a, b, mesh):
    return jaxqr.lstsq(a, b, axis_name="x", mesh=mesh)


def by_lineax(a, b):
    lineax = pytest.importorskip("lineax")
    from jaxqr.lineax import PivotedQR

    found = lineax.linear_solve(lineax.MatrixLinearOperator(jnp.asarray(a)), b, PivotedQR())
    rest = b - a @ found.value
    return found.value, jnp.sum(rest**2), found.stats["rank"]


def solve(way, a, b):
    """x and the rank of the problem, one way or another."""
    a, b = jnp.asarray(a), jnp.asarray(b)
    if way == "lineax":
        x, _, rank = by_lineax(a, b)
    elif way == "rows on devices":
        with mesh_of("automatic") as mesh:
            x, _, rank = blocks(a, b, mesh)
    elif way == "batch":
        x, _, rank = jaxqr.lstsq(jnp.stack([a, a]), jnp.stack([b, b])[..., None])
        x, rank = x[1, :, 0], rank[1]
    else:
        x, _, rank = jaxqr.lstsq(a, b)
    return np.asarray(x, np.float64), int(rank)


def truth(a, b):
    """In double precision, with columns of one size."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    size = np.linalg.norm(a, axis=0)
    x, _, rank, singular = np.linalg.lstsq(a / size, b, rcond=None)
    assert rank == a.shape[1]
    return x / size, singular[0] / singular[-1]


def assert_solved(way, a, b, bound=None):
    """All columns count, and x is as good as the condition of the equilibrated matrix lets it be.

    The error is measured by what it does to the fit: of each coefficient times its column's size.
    """
    want, condition = truth(a, b)
    x, rank = solve(way, a, b)
    assert rank == a.shape[1]
    size = np.linalg.norm(np.asarray(a, np.float64), axis=0)
    scale = np.linalg.norm(np.asarray(b, np.float64))
    bound = bound or 200 * EPS * condition * max(1, condition * 1e-2)
    assert np.max(np.abs(x - want) * size) < bound * scale
    return x, want


def relative(got, want):
    """The largest error, column by column, relative to the column's largest entry."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return np.max(np.max(np.abs(got - want), axis=0) / np.max(np.abs(want), axis=0))
