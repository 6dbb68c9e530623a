"""LAPACK's signs of a matrix whose rows are on many devices: those of the matrix on one."""

import functools
import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxqr
from jaxqr._sharded import row_qr
from laws import assert_close
from matrices import LIMIT, normal, orthogonality_ratio, residual_ratio
from meshes import mesh_of, put


def corners(m, n, dtype):
    """Matrices in which LAPACK's signs are found in one special way or other, by name."""
    a, rows, columns = normal((m, n), dtype), np.arange(m)[:, None], np.arange(n)
    info = np.finfo(dtype)
    triangle = np.triu(normal((m, n), dtype, seed=1))
    np.fill_diagonal(triangle, np.where(columns % 2, -1, 1) * np.abs(np.diagonal(triangle)))
    swapped = np.eye(m, n)
    swapped[[0, m - 1]] = swapped[[m - 1, 0]]
    below = np.eye(m, n)
    below[-1, -1] = 1e-300  # what is below decides, however small it is
    found = {
        "dense": a,
        "identity": np.eye(m, n),
        "negative identity": -np.eye(m, n),  # its zeros are negative
        "upper triangle": triangle,
        "a block and a triangle": np.where((rows < 2) & (columns < 2), a, triangle),
        "negative zeros first": -swapped,
        "zeros first": swapped,
        "zeros": np.zeros((m, n)),
        "a column of zeros": np.where(columns == n // 2, 0, a),
        "all in the last rows": np.where(rows < m - n, 0, a),
        "almost nothing below": below,
        "graded columns": a * 10.0 ** (-20.0 * columns),
        "graded rows": a * 10.0 ** (-8.0 * rows / m),
        "huge": a / np.abs(a).max() * float(info.max) / (4 * m),
        "tiny": a / np.abs(a).max() * float(info.tiny) * 2.0**60,
        "NaN": np.where((rows == m - 1) & (columns == 0), np.nan, a),
    }
    return {name: x.astype(dtype) for name, x in found.items()}


def on_devices(a, *counts, f=jaxqr.qr, **options):
    """The result for rows sharded over so many devices, along one axis or more."""
    names = ("x", "y")[: len(counts)]
    with mesh_of("explicit", counts, names) as mesh:
        (rows,) = put(mesh, a, spec=P(*(None,) * (a.ndim - 2), names))
        return jax.tree.map(np.asarray, f(rows, **options))


# Blocks of 24 rows down to 3, which is less than there are columns; and square matrices. Devices,
# and how many triangles are gathered at once: of more they are merged in pairs
@pytest.mark.parametrize(
    "m, n, dtype, ways",
    [
        (24, 4, "float64", [(1, 8), (3, 8), (6, 1), (8, 8)]),
        (24, 4, "complex128", [(4, 8), (8, 1)]),
        (8, 8, "complex128", [(2, 8), (8, 8)]),
        (7, 7, "float64", [(7, 1)]),
        (5, 1, "float64", [(5, 8)]),
    ],
)
def test_signs_do_not_depend_on_the_number_of_devices(monkeypatch, m, n, dtype, ways):
    matrices = corners(m, n, dtype)
    a = np.stack([*matrices.values()])
    q, r = map(np.asarray, jaxqr.qr(a))
    for count, gathered in ways:
        monkeypatch.setattr(row_qr, "GATHERED", gathered)
        jax.clear_caches()  # GATHERED is read while a program is traced
        got = on_devices(a, count)
        alone = on_devices(a, count, mode="r")
        for i, name in enumerate(matrices):
            told = f"{name} on {count} devices"
            size = np.max(np.abs(r[i]), axis=0)
            size = np.where(size > 0, size, 1)
            np.testing.assert_allclose(got.Q[i], q[i], 0, 1e-13, err_msg=told)
            for triangle in (got.R[i], alone[i]):
                np.testing.assert_allclose(triangle / size, r[i] / size, 0, 1e-13, err_msg=told)


@pytest.mark.parametrize(
    "counts, gathered, rows, n",
    [((7,), 1, 2, 5), ((7,), 8, 2, 5), ((2, 3), 2, 1, 5), ((3, 2), 1, 2, 5), ((6,), 2, 6, 5)],
)
def test_dependent_columns_have_orthonormal_q_on_any_number_of_devices(
    monkeypatch, counts, gathered, rows, n
):
    monkeypatch.setattr(row_qr, "GATHERED", gathered)
    jax.clear_caches()
    m = int(np.prod(counts)) * rows
    low = normal((m, 2)) @ normal((2, n), seed=1)
    a = np.stack([np.zeros((m, n)), np.ones((m, n)), low, np.where(np.arange(n) < 2, 0, low)])
    for options in ({}, {"positive_diagonal": True}):
        found = on_devices(a, *counts, **options)
        for x, q, r in zip(a, *found, strict=True):
            assert orthogonality_ratio(q) < LIMIT
            assert residual_ratio(x, q @ r) < LIMIT


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
def test_other_dtypes_have_lapacks_signs_as_well(dtype):
    a = jax.numpy.asarray(normal((3, 16, 3), "complex64" if dtype == "complex64" else "float32"))
    a = a.astype(dtype)
    assert_close(on_devices(a, 8), jaxqr.qr(a), 1e-2 if dtype == "bfloat16" else 1e-5)


def test_no_columns_have_no_signs():
    q, r = on_devices(np.zeros((2, 16, 0)), 8)
    assert q.shape == (2, 16, 0) and r.shape == (2, 0, 0)


def test_a_symmetry_of_signs_tells_the_two_conventions_apart():
    a = np.abs(normal((24, 3)))  # LAPACK's first diagonal entry is negative
    assert on_devices(a, 4).R[0, 0] < 0 < on_devices(a, 4, positive_diagonal=True).R[0, 0]
    assert on_devices(a, 4, f=functools.partial(jaxqr.tsqr, axis_name="x")).R[0, 0] > 0


@pytest.mark.parametrize("mode, forms", [("reduced", True), ("r", False)])
def test_r_alone_forms_no_q(mode, forms):
    with mesh_of("explicit") as mesh:
        (a,) = put(mesh, np.zeros((8 * 100, 8)))
        program = jax.jit(lambda a: jaxqr.qr(a, mode)).lower(a).compile().as_text()
    # the calls that give Q, if they do, and the rows of a device that are not among the first
    calls = re.findall(r"= (.*) custom-call\(.*target=\"(?:jaxqr_qr|lapack_dorgqr)", program)
    assert any("f64[92,8]" in results for results in calls) == forms
