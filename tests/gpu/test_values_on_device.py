"""Values on JAX's default device: the laws of the factorizations, in every dtype it has."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from device import DEVICE, DTYPES, OWN_CALLS, PLATFORM, compiled, every_dtype, judged, run
from foreign_platform import CASES, calls, value_and_gradient
from laws import assert_factors
from matrices import (
    LIMIT,
    adjoint,
    double,
    hostile,
    norm,
    normal,
    orthogonality_ratio,
    residual_ratio,
    separated,
)
from meshes import COLLECTIVE, X, assert_sharded, mesh_of, put

# Small batches go to batched routines (cuBLAS), single and large matrices do not; XLA's own QR
# has blocks of 128 columns.
SHAPES = ((2, 7, 4), (2, 4, 7), (2, 5, 5), (5, 5), (1, 1), (2, 270, 140))


pytestmark = pytest.mark.usefixtures("fast_compilation")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_dtype
def test_the_factorization_exists(dtype, shape):
    a = normal(shape, dtype)
    assert_factors("qr", a)
    assert_factors("qr", a, "complete", positive_diagonal=True)
    assert_factors("qr", a, pivoting=True)
    assert_factors("lq", a, pivoting=True, positive_diagonal=True)


@every_dtype
def test_the_modes_agree_and_reflectors_stand_for_q(dtype):
    a, c = normal((2, 7, 4), dtype), normal((2, 7, 3), dtype, seed=1)

    def everything(a, c):
        (full, r), (h, tau) = jaxqr.qr(a, "complete"), jaxqr.qr(a, "raw")
        triangle, formed = jaxqr.qr(a, "r"), jaxqr.householder_product(h.mT, tau)
        h_c = [jaxqr.householder_multiply(h.mT, tau, c, adjoint=turned) for turned in (False, True)]
        c_h = [
            jaxqr.householder_multiply(h.mT, tau, c.mT, left=False, adjoint=turned)
            for turned in (False, True)
        ]
        right, left = jaxqr.qr_multiply(a, c.mT).CQ, jaxqr.qr_multiply(a, r[:, :4], "left").CQ
        return full, r[:, :4], h.mT, triangle, formed, h_c, c_h, right, left

    found = jax.tree.map(double, run(everything, a, c))
    full, r, h, triangle, formed, h_c, c_h, right, left = found
    q, row = full[..., :4], np.swapaxes(c, 1, 2).astype(full.dtype)
    np.testing.assert_array_equal(triangle, r)
    np.testing.assert_array_equal(np.triu(h[:, :4]), r)
    pairs = [(a, left), (q, formed), (row @ q, right)]
    pairs += zip((full @ c, adjoint(full) @ c), h_c, strict=True)
    pairs += zip((row @ full, row @ adjoint(full)), c_h, strict=True)
    for want, got in pairs:
        assert residual_ratio(want.astype(dtype), got) < LIMIT


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 4, 3), (2, 0, 3)], ids=str)
def test_empty_matrices_have_identities(shape):
    a = np.zeros(shape, "float32")
    for pivoting in (False, True):
        q, r, *_ = jaxqr.qr(a, "complete", pivoting=pivoting)
        np.testing.assert_array_equal(q, np.broadcast_to(np.eye(shape[-2]), q.shape))
        assert r.shape == shape
    b = np.ones((*shape[:-1], 2), "float32")
    np.testing.assert_array_equal(jaxqr.lstsq(a, b).x, np.zeros((*shape[:-2], shape[-1], 2)))


@every_dtype
def test_hostile_matrices_are_factored(dtype):
    batch = np.stack(list(hostile(12, dtype).values()))
    assert_factors("qr", batch)
    assert_factors("qr", batch[:, :, :7], pivoting=True)


@pytest.mark.parametrize("pivoting", [False, True])
def test_a_nan_stays_in_its_own_matrix(pivoting):
    a, b = normal((3, 5, 4), "float32"), normal((3, 5, 2), "float32", seed=1)
    spoiled = a.copy()
    spoiled[1, 2, 1] = np.nan

    def loss(a):
        return jnp.sum(jaxqr.qr(a, pivoting=pivoting).R ** 3)

    def everything(a, b):
        solution = jaxqr.lstsq(a, b, pivoting=pivoting)[:2]
        return *jaxqr.qr(a, pivoting=pivoting)[:2], *solution, jax.grad(loss)(a)

    program, _ = compiled(everything, a, b)
    bad, good = (program(*jax.device_put((x, b), DEVICE)) for x in (spoiled, a))
    for x, y in zip(bad, good, strict=True):
        x, y = np.asarray(x), np.asarray(y)
        np.testing.assert_array_equal(x[::2], y[::2])
        assert np.isfinite(y).all()
        assert np.isnan(x[1]).any()
    assert np.isnan(bad[0][1]).all()


# --------------------------------------------------------------------------- least squares


@pytest.mark.parametrize("m, n, rank", [(9, 4, 4), (4, 9, 4), (7, 5, 2), (5, 7, 2)])
@every_dtype
def test_least_squares(dtype, m, n, rank):
    a = (normal((2, m, rank), dtype) @ normal((2, rank, n), dtype, seed=1)).astype(dtype)
    b = normal((2, m, 3), dtype, seed=2)
    x, residuals, found = run(lambda a, b: jaxqr.lstsq(a, b, rcond=1e-4), a, b)
    np.testing.assert_array_equal(found, [rank] * 2)
    a, b, x = map(double, (a, b, x))
    rest = b - a @ x
    squares, most = np.sum(np.abs(rest) ** 2, axis=-2), np.max(np.sum(np.abs(b) ** 2, axis=-2))
    np.testing.assert_allclose(residuals, squares, rtol=0, atol=LIMIT * np.finfo(dtype).eps * most)
    inverse = np.linalg.pinv(a, rcond=1e-4)
    allowed = LIMIT * np.finfo(dtype).eps * norm(a) * norm(inverse) * max(m, n)
    # least: the rest is orthogonal to the columns; of minimum norm: x to all that a maps to zero
    assert np.all(norm(adjoint(a) @ rest) <= allowed * norm(a) * norm(b))
    assert np.all(norm(x - inverse @ (a @ x)) <= allowed * norm(x))


# ------------------------------------------------------------------------- against the CPU


@every_dtype
def test_factors_are_the_cpus_with_their_signs(dtype):
    a = separated((2, 7, 4), dtype)

    def everything(a):
        unique = jaxqr.qr(a, positive_diagonal=True), jaxqr.lq(a, positive_diagonal=True)
        pivoted = jaxqr.qr(a, pivoting=True, positive_diagonal=True)
        return unique, jaxqr.qr(a, "raw"), pivoted

    got, want = run(everything, a), judged(everything, a)
    np.testing.assert_array_equal(got[2].P, want[2].P)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        tolerance = 100 * np.finfo(dtype).eps * max(1, np.max(np.abs(y)))
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)


# --------------------------------------------------------------------- it stays on the device

NEVER = re.compile(
    r"callback|hybrid|infeed|outfeed" + ("" if PLATFORM == "cpu" else "|lapack|jaxqr_(?!launch)")
)


@pytest.mark.parametrize("case", ["complete", "lq", "pivoted", "rotate", "multiply", "lstsq"])
def test_nothing_leaves_the_device(case):
    f, a = value_and_gradient(case), separated(CASES[case][0], DTYPES[-1])
    program, args = compiled(f, a)
    targets = [line.split("(")[0] for line in calls(jax.jit(f).lower(*args))]
    assert targets or PLATFORM == "tpu"
    assert all(target.startswith(OWN_CALLS) for target in targets), targets
    called = re.findall(r'custom_call_target="([^"]*)"', program.as_text())
    assert not list(filter(NEVER.search, called))
    with jax.transfer_guard("disallow"):
        out = program(*args)
    assert all(x.devices() == {DEVICE} for x in jax.tree.leaves(out))


# --------------------------------------------------------------------------- all devices


# XLA's own QR gathers a batch that is sharded automatically (README)
@pytest.mark.parametrize("kind", ["shard_map"] + ["automatic"] * (PLATFORM != "tpu"))
@pytest.mark.parametrize("case", ["deep", "pivoted", "multiply"])
def test_a_batch_sharded_over_all_devices_stays_where_it_is(case, kind):
    f, count = value_and_gradient(case), jax.device_count()
    a = separated((2 * count, *CASES[case][0][1:]), DTYPES[-1])
    with mesh_of("automatic", (count,)) as mesh:
        inside = jax.shard_map(f, mesh=mesh, in_specs=X, out_specs=X)
        (sharded,) = put(mesh, a)
        program = jax.jit(f if kind == "automatic" else inside).lower(sharded).compile()
        out = program(sharded)
    assert not COLLECTIVE.search(program.as_text())
    assert_sharded(out, mesh)
    for x, y in zip(jax.tree.leaves(out), jax.tree.leaves(run(f, a)), strict=True):
        tolerance = 1e4 * np.finfo(DTYPES[-1]).eps
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(1, np.max(np.abs(y))))


@every_dtype
def test_rows_are_spread_over_all_devices(dtype):
    a = normal((6 * jax.device_count(), 4), dtype)
    with mesh_of("automatic", (jax.device_count(),)) as mesh:
        q, r = jaxqr.tsqr(*put(mesh, a), axis_name="x", mesh=mesh)
    assert_sharded(q, mesh)
    assert residual_ratio(a, double(q) @ double(r)) < LIMIT
    assert orthogonality_ratio(q) < LIMIT
    want = jaxqr.qr(a, "r", positive_diagonal=True)
    np.testing.assert_allclose(r, want, rtol=0, atol=100 * np.finfo(dtype).eps * norm(a))
