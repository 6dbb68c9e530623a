"""QR of matrices whose rows are spread over eight simulated devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import jaxqr
from jaxqr._sharded import row_qr
from laws import assert_close, loss_of, mostly_nightly, quickly
from matrices import LIMIT, normal, orthogonality_ratio, residual_ratio, separated
from meshes import X, assert_sharded, everything, mesh_of, put, run

XY = ("x", "y")
# shape of the matrix, dtype, kind of the mesh, its shape, and how many triangles are gathered at
# once; on longer axes they are merged in pairs
CASES = {
    "800 x 5": ((800, 5), "float64", "automatic", (8,), 8),
    "800 x 5, complex": ((800, 5), "complex128", "explicit", (8,), 8),
    "8192 x 64": ((8192, 64), "float64", "explicit", (8,), 8),
    "8192 x 64, complex": ((8192, 64), "complex128", "automatic", (8,), 8),
    "short blocks": ((16, 5), "complex128", "explicit", (8,), 8),
    "square": ((8, 8), "float64", "automatic", (8,), 8),
    "one device": ((6, 3), "complex128", "automatic", (1,), 8),
    "one column": ((8, 1), "complex128", "automatic", (8,), 8),
    "batch": ((3, 32, 4), "float64", "automatic", (8,), 8),
    "pairs": ((40, 4), "complex128", "automatic", (8,), 1),
    "pairs of six": ((30, 4), "float64", "explicit", (6,), 1),
    "pairs of seven, short blocks": ((2, 14, 5), "complex128", "automatic", (7,), 1),
    "two axes": ((32, 4), "float64", "explicit", (4, 2), 8),
    "two axes, one in pairs": ((3, 24, 4), "complex128", "automatic", (4, 2), 2),
}


# whole and in pairs, real and complex, batches, one axis and two
BY_DAY = ("800 x 5, complex", "square", "batch", "pairs of six", "two axes, one in pairs")
every_case = mostly_nightly(((case,) for case in CASES), lambda case: case in BY_DAY)


def dense(a):
    return jaxqr.qr(a, positive_diagonal=True)


def matrix(shape, dtype="float64"):
    """Of condition 3 or so: derivatives of the second order are then good to 1e-9."""
    *_, m, n = shape
    return normal(shape, dtype) + 3 * np.sqrt(m) * np.eye(m, n).astype(dtype)


def rows_spec(a, names):
    return P(*(None,) * (a.ndim - 2), names)


@pytest.mark.parametrize("case", every_case)
def test_value_and_derivatives_are_those_of_the_whole_matrix(monkeypatch, case):
    shape, dtype, kind, devices, gathered = CASES[case]
    monkeypatch.setattr(row_qr, "GATHERED", gathered)
    names = XY[: len(devices)]
    a, da = matrix(shape, dtype), normal(shape, dtype, seed=1)
    spec = rows_spec(a, names)
    with mesh_of(kind, devices, names) as mesh:
        f = everything(functools.partial(jaxqr.tsqr, axis_name=names, mesh=mesh))
        out, collectives = run(f, *put(mesh, a, da, spec=spec))
    ((q, r), (dq, dr), gradient, hvp) = out
    assert_sharded([q, dq, gradient, hvp], mesh, spec)
    assert_sharded([r, dr], mesh, P())
    assert_close(out, quickly(everything(dense), a, da), 1e-9)
    merging = {"collective-permute"} if max(devices) > gathered else set()
    gathering = {"all-gather"} if min(devices) <= gathered else set()
    assert collectives <= merging | gathering | {"all-reduce"}
    assert len(mesh.devices.flat) == 1 or collectives >= merging | gathering


@pytest.mark.parametrize("check_vma", [True, False])
def test_gradients_inside_shard_map_are_jaxs_for_any_sum_over_devices(check_vma):
    a = matrix((32, 3))

    def local(block):
        q, r = jaxqr.tsqr(block, axis_name="x")
        return lax.psum(jnp.sum(jnp.sin(q)), "x") + jnp.sum(jnp.sin(r))

    with mesh_of("automatic") as mesh:
        inside = jax.shard_map(
            jax.value_and_grad(local),
            mesh=mesh,
            in_specs=X,
            out_specs=(P(), X),
            check_vma=check_vma,
        )
        (value, gradient), _ = run(inside, *put(mesh, a))
    want_value, want = quickly(jax.value_and_grad(loss_of(dense)), a)
    assert_close(value, want_value)
    # without the check JAX takes the sum of the losses of all eight devices
    assert_close(gradient, want if check_vma else 8 * want)


def test_every_derivative_inside_shard_map_knows_that_r_is_replicated():
    a, da = matrix((40, 3), "complex128"), normal((40, 3), "complex128", seed=1)

    def local(a, da):
        f = functools.partial(jaxqr.tsqr, axis_name="x")

        def loss(a):
            q, r = f(a)
            return lax.psum(jnp.sum(jnp.sin(q)).real, "x") + jnp.sum(jnp.sin(r)).real

        gradient, hvp = jax.jvp(jax.grad(loss), (a,), (da,))
        (q, r), (dq, dr) = jax.jvp(f, (a,), (da,))
        return (q, dq, gradient, hvp), (r, dr)

    with mesh_of("automatic") as mesh:
        f = jax.shard_map(local, mesh=mesh, in_specs=X, out_specs=(X, P()), check_vma=True)
        ((q, dq, gradient, hvp), (r, dr)), _ = run(f, *put(mesh, a, da))
    want = quickly(everything(dense), a, da)
    assert_close(((q, r), (dq, dr), gradient, hvp), want, 1e-9)


def test_a_batch_is_mapped_inside_shard_map_and_outside():
    a, da = matrix((3, 24, 2)), normal((3, 24, 2), seed=1)
    want = quickly(everything(dense), a, da)
    with mesh_of("automatic") as mesh:
        f = everything(jax.vmap(functools.partial(jaxqr.tsqr, axis_name="x", mesh=mesh)))
        outside, _ = run(f, *put(mesh, a, da, spec=P(None, "x")))
        f = jax.vmap(functools.partial(jaxqr.tsqr, axis_name="x"))
        spec = P(None, "x")
        inside = jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=jaxqr.QRResult(spec, P()))
        factors, _ = run(inside, *put(mesh, a, spec=spec))
    assert_close(outside, want, 1e-9)
    assert_close(factors, want[0])


@pytest.mark.parametrize("gathered", [1, 8])
def test_r_is_the_same_on_all_devices_for_every_number_of_them(monkeypatch, gathered):
    monkeypatch.setattr(row_qr, "GATHERED", gathered)
    a = separated((120, 4))
    want = dense(a).R
    for devices in (1, 2, 3, 5, 8):
        with mesh_of("automatic", (devices,)) as mesh:
            jax.clear_caches()  # GATHERED is read while a program is traced
            r = jaxqr.tsqr(a, axis_name="x", mesh=mesh).R
        assert_close(r, want, 1e-13)
        copies = [np.asarray(shard.data) for shard in r.addressable_shards]
        assert len(copies) == devices
        assert all(np.array_equal(copy, copies[0]) for copy in copies)


def test_rows_of_zeros_fill_up_uneven_blocks():
    uneven = [normal((m, 3), seed=m) for m in (5, 1, 4, 0, 2, 5, 3, 5)]
    padded = np.stack([np.vstack([x, np.zeros((5 - len(x), 3))]) for x in uneven])
    with mesh_of("automatic") as mesh:
        q, r = jaxqr.tsqr(padded.reshape(40, 3), axis_name="x", mesh=mesh)
    want = dense(np.vstack(uneven))
    blocks = np.asarray(q).reshape(8, 5, 3)
    assert_close(r, want.R)
    assert_close(np.vstack([x[: len(y)] for x, y in zip(blocks, uneven, strict=True)]), want.Q)
    for x, y in zip(blocks, uneven, strict=True):
        assert np.max(np.abs(x[len(y) :]), initial=0) < 1e-15


HOSTILE = {
    "graded columns": lambda a: a * (10.0 ** -np.arange(0, 12, 2)),
    "graded rows": lambda a: a * (10.0 ** -np.linspace(0, 30, len(a)))[:, None],
    "dependent columns": lambda a: a @ np.ones((6, 6)),
    "huge": lambda a: a * 2.0**100,
    "tiny": lambda a: a * 2.0**-100,
    "zero": lambda a: 0 * a,
}


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_factors_pass_lapacks_tests(kind, dtype):
    a = HOSTILE[kind](normal((96, 6), dtype)).astype(dtype)
    with mesh_of("automatic") as mesh:
        q, r = jaxqr.tsqr(a, axis_name="x", mesh=mesh)
    assert q.dtype == r.dtype == dtype
    assert np.all(np.tril(r, -1) == 0)
    assert np.all(np.isreal(np.diagonal(r)) & (np.diagonal(r).real >= 0))
    assert residual_ratio(a, np.asarray(q) @ np.asarray(r)) < LIMIT
    assert orthogonality_ratio(q) < LIMIT


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32])
def test_other_dtypes_are_treated_as_in_qr(dtype):
    a = jnp.asarray(np.round(4 * normal((16, 2)))).astype(dtype)
    with mesh_of("automatic") as mesh:
        got = jaxqr.tsqr(a, axis_name="x", mesh=mesh)
    assert_close(got, dense(a), 1e-2 if got.Q.dtype.itemsize == 2 else 1e-6)


@pytest.mark.parametrize("exponent", [-1000, 1000])
def test_derivatives_hold_near_the_ends_of_the_exponent_range(exponent):
    a, da = matrix((32, 3)), normal((32, 3), seed=1)
    scale = 2.0**exponent
    with mesh_of("automatic") as mesh:
        f = functools.partial(jaxqr.tsqr, axis_name="x", mesh=mesh)
        q, r = jax.jvp(f, (a * scale,), (da * scale,))[1]
    want = jax.jvp(dense, (a,), (da,))[1]
    assert_close((q, np.asarray(r) / scale), tuple(want))


def test_dependent_columns_have_finite_derivatives():
    a = np.stack([normal((32, 3)) @ np.ones((3, 3)), np.zeros((32, 3)), matrix((32, 3))])
    with mesh_of("automatic") as mesh:
        f = functools.partial(jaxqr.tsqr, axis_name="x", mesh=mesh)
        for x in jax.tree.leaves(everything(f)(jnp.asarray(a), jnp.asarray(normal(a.shape)))):
            assert np.all(np.isfinite(x))


def test_a_nan_makes_its_own_matrix_nan_on_every_device():
    a = matrix((2, 32, 3))
    a[0, 5, 1] = np.nan
    with mesh_of("automatic") as mesh:
        q, r = jaxqr.tsqr(a, axis_name="x", mesh=mesh)
    assert np.all(np.isnan(q[0])) and np.all(np.isnan(r[0][np.triu_indices(3)]))
    assert_close((q[1], r[1]), tuple(dense(a[1])))


def test_no_columns_and_no_rows():
    with mesh_of("automatic") as mesh:
        for shape in ((16, 0), (2, 16, 0), (0, 16, 3)):
            q, r = jaxqr.tsqr(np.zeros(shape), axis_name="x", mesh=mesh)
            assert q.shape == shape and r.shape == (*shape[:-2], shape[-1], shape[-1])
        with pytest.raises(ValueError, match="at least as many rows as columns"):
            jaxqr.tsqr(np.zeros((0, 3)), axis_name="x", mesh=mesh)


def test_every_device_may_hold_a_copy_of_one_block():
    a = matrix((6, 3))
    with mesh_of("automatic") as mesh:
        f = functools.partial(jaxqr.tsqr, axis_name="x")
        g = jax.shard_map(f, mesh=mesh, in_specs=P(), out_specs=jaxqr.QRResult(X, P()))
        got = g(*put(mesh, a, spec=P()))
    assert_close(got, dense(np.tile(a, (8, 1))))


@pytest.mark.parametrize(
    "a, options, error, match",
    [
        (np.ones((8, 16)), {}, ValueError, r"8 row blocks .* as many rows as columns"),
        (np.ones((12, 2)), {}, ValueError, r"divisible by the 8 devices along \('x',\), got .*12"),
        (np.ones((16, 2)), {"axis_name": "z"}, ValueError, r"name axes of .*\('z',\) for"),
        (np.ones((16, 2)), {"mesh": None}, ValueError, "of jax.set_mesh, got .* for no mesh"),
        (np.ones((16, 2)), {"axis_name": 3}, TypeError, "name of a mesh axis or a tuple .* got 3"),
        (np.ones((16, 2)), {"axis_name": ()}, TypeError, r"got \(\)"),
        (np.ones((16, 2)), {"axis_name": ("x", "x")}, ValueError, "not repeat an axis"),
        (np.ones(16), {}, ValueError, r"at least 2 dimensions, got shape \(16,\)"),
        (object(), {}, TypeError, "array-like, got object"),
    ],
)
def test_errors_name_what_is_required_and_what_was_given(a, options, error, match):
    with mesh_of("automatic") as mesh, pytest.raises(error, match=f"tsqr: .*{match}"):
        jaxqr.tsqr(a, **{"axis_name": "x", "mesh": mesh, **options})


def test_axes_must_all_belong_to_the_shard_map():
    with mesh_of("automatic", (4, 2), XY) as mesh:
        f = functools.partial(jaxqr.tsqr, axis_name=XY)
        g = jax.shard_map(f, mesh=mesh, in_specs=X, out_specs=X, axis_names={"x"})
        with pytest.raises(ValueError, match=r"got \('x', 'y'\) of which \('x',\) are"):
            jax.jit(g)(np.ones((16, 2)))
