"""Rows sharded over a mesh: least squares on blocks, and what `qr` and `lstsq` do by themselves."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxqr
from laws import QUICK, assert_close, loss_of, mostly_nightly, quickly
from matrices import normal
from meshes import X, assert_sharded, every_mesh, everything, mesh_of, put, run

# shape of a, number of right-hand sides, rank, options
PROBLEMS = {
    "800 x 5": ((800, 5), 2, 5, {}),
    "without pivoting": ((80, 5), 2, 5, {"pivoting": False}),
    "rank 3": ((80, 5), 2, 3, {"rcond": 1e-10}),
    "short blocks": ((16, 5), 1, 5, {}),
    "batch": ((3, 32, 4), 3, 4, {}),
    "batch, rank 2": ((2, 32, 4), 1, 2, {"rcond": 1e-10}),
}
EXCHANGED = re.compile(
    r"= \(?([^=]*?)\)? (?:all-gather|all-to-all|all-reduce|reduce-scatter|collective-permute)\("
)


def problem(name, dtype):
    """A and b side by side, and a direction that keeps the rank of A."""
    shape, s, rank, options = PROBLEMS[name]
    *batch, m, n = shape
    a = normal((*batch, m, rank), dtype) @ normal((*batch, rank, n), dtype, seed=1)
    a = normal(shape, dtype) if rank == n else a
    left, right = normal((m, m), dtype, seed=2) / m, normal((n, n), dtype, seed=3) / n
    b, db = (normal((*batch, m, s), dtype, seed=seed) for seed in (4, 5))
    return np.concatenate([a, b], -1), np.concatenate([left @ a + a @ right, db], -1), n, options


def split(ab, n, options):
    return jaxqr.lstsq(ab[..., :n], ab[..., n:], **options)


def exchanged(compiled):
    """The shapes that collectives of a program give, without the layouts."""
    text = re.sub(r"\{[\d,]*\}", "", compiled.as_text())
    return [shape for found in EXCHANGED.findall(text) for shape in found.split(", ")]


@pytest.mark.parametrize(
    "name, dtype",
    mostly_nightly(
        itertools.product(PROBLEMS, ("float64", "complex128")),
        lambda name, dtype: (dtype == "float64") == (name in ("rank 3", "short blocks", "batch")),
    ),
)
def test_least_squares_on_row_blocks_is_that_of_the_whole_matrix(name, dtype):
    ab, d_ab, n, options = problem(name, dtype)
    want = quickly(everything(lambda ab: split(ab, n, options)), ab, d_ab)
    with mesh_of("automatic") as mesh:
        sharded = {**options, "axis_name": "x", "mesh": mesh}
        f = everything(lambda ab: split(ab, n, sharded))
        out, _ = run(f, *put(mesh, ab, d_ab, spec=P(*(None,) * (ab.ndim - 2), "x")))
    assert_close(out, want, 1e-9)
    assert np.all(out[0].rank == PROBLEMS[name][2])


@pytest.mark.parametrize("a, b", [((16, 0), (16, 2)), ((16, 3), (16, 0)), ((2, 16, 3), (16,))])
def test_empty_and_single_right_hand_sides(a, b):
    a, b = normal(a), normal(b, seed=1)
    with mesh_of("automatic") as mesh:
        assert_close(jaxqr.lstsq(a, b, axis_name="x", mesh=mesh), jaxqr.lstsq(a, b))


def test_right_hand_sides_of_one_matrix_share_its_factorization():
    a, b = normal((32, 3)), normal((5, 32, 2), seed=1)
    with mesh_of("automatic") as mesh:
        f = functools.partial(jaxqr.lstsq, axis_name="x", mesh=mesh)
        compiled = jax.jit(f).lower(a, b).compile(QUICK)
        out = compiled(a, b)
        inside = jax.vmap(functools.partial(jaxqr.lstsq, axis_name="x"), (None, 0))
        mapped = jax.shard_map(inside, mesh=mesh, in_specs=(X, P(None, "x")), out_specs=P())(a, b)
    assert_close(out, jaxqr.lstsq(a, b))
    assert_close(mapped, jaxqr.lstsq(a, b))
    assert set(exchanged(compiled)) == {"f64[24,3]", "f64[3,10]", "f64[10]"}


@every_mesh
@pytest.mark.parametrize("s", [1, 3])
def test_least_squares_sum_blocks_of_the_right_hand_sides_size_only(kind, s):
    a, b = normal((64, 5)), normal((64, s), seed=1)
    with mesh_of(kind) as mesh:
        given = {} if kind == "explicit" else {"axis_name": "x", "mesh": mesh}
        f = jax.grad(loss_of(functools.partial(jaxqr.lstsq, **given)), (0, 1))
        compiled = jax.jit(f).lower(*put(mesh, a, b)).compile(QUICK)
    shapes = exchanged(compiled)
    assert shapes.count("f64[40,5]") == 1  # the triangles
    assert set(shapes) == {"f64[40,5]", f"f64[5,{s}]", f"f64[{s}]"}


def test_every_derivative_of_least_squares_inside_shard_map():
    ab, d_ab, n, options = problem("800 x 5", "complex128")
    f = everything(lambda ab: split(ab, n, {**options, "axis_name": "x"}))
    with mesh_of("automatic") as mesh:
        specs = {"in_specs": X, "out_specs": (P(), P(), X, X), "check_vma": True}
        out, _ = run(jax.shard_map(f, mesh=mesh, **specs), *put(mesh, ab, d_ab))
    assert_close(out, quickly(everything(lambda ab: split(ab, n, options)), ab, d_ab), 1e-9)


def test_without_the_check_gradients_inside_shard_map_are_of_all_devices_losses():
    ab, _, n, options = problem("short blocks", "float64")
    f = jax.grad(loss_of(lambda ab: split(ab, n, {**options, "axis_name": "x"})))
    with mesh_of("automatic") as mesh:
        inside = jax.shard_map(f, mesh=mesh, in_specs=X, out_specs=X, check_vma=False)
        out, _ = run(inside, *put(mesh, ab))
    assert_close(out, 8 * quickly(jax.grad(loss_of(lambda ab: split(ab, n, options))), ab))


# ------------------------------------------------------------- arrays that are sharded already


@pytest.mark.parametrize(
    "mode, positive, dtype, shape, devices, names, spec",
    [
        ("reduced", False, "float64", (40, 5), (8,), ("x",), X),
        ("reduced", True, "complex128", (40, 5), (8,), ("x",), X),
        ("reduced", False, "complex128", (4, 32, 3), (2, 4), ("b", "x"), P("b", "x")),
        ("r", False, "float64", (4, 32, 3), (2, 4), ("b", "x"), P("b", "x")),
        ("reduced", False, "complex128", (32, 6), (2, 4), ("b", "x"), P(("b", "x"))),
        ("r", True, "float64", (32, 3), (2, 4), ("b", "x"), P(("b", "x"))),
    ],
)
def test_qr_of_rows_on_an_explicit_mesh_is_that_of_the_whole_matrix(
    mode, positive, dtype, shape, devices, names, spec
):
    def f(a):
        return jaxqr.qr(a, mode, positive_diagonal=positive)

    a, da = normal(shape, dtype), normal(shape, dtype, seed=1)
    want = quickly(everything(f), a, da)
    with mesh_of("explicit", devices, names) as mesh:
        args = put(mesh, a, da, spec=spec)
        compiled = jax.jit(everything(f)).lower(*args).compile(QUICK)
        out = compiled(*args)
        eager = f(args[0])
    assert_close(out, want, 1e-9)
    assert_close(eager, want[0], 1e-9)
    n = shape[-1]
    sizes = [
        np.prod([int(size) for size in re.findall(r"\d+", x.partition("[")[2])])
        for x in exchanged(compiled)
    ]
    assert max(sizes) <= 8 * n * n * int(np.prod(shape[:-2]))
    assert_sharded(jax.tree.leaves(out[2]), mesh, spec)


def test_a_batch_sharded_beside_the_rows_is_not_moved():
    a = normal((4, 32, 3))
    with mesh_of("explicit", (2, 4), ("b", "x")) as mesh:
        args = put(mesh, a, spec=P("b", "x"))
        compiled = jax.jit(jaxqr.qr).lower(*args).compile(QUICK)
        q, r = compiled(*args)
    # two of four matrices, the leading rows and the stacks along x
    assert exchanged(compiled) == ["f64[2,3,3]", "f64[2,12,3]"]
    assert_sharded(q, mesh, P("b", "x"))
    assert_sharded(r, mesh, P("b"))


@pytest.mark.parametrize("spec", [P("b", "x"), P("b"), P(), P(None, "x")])
def test_lstsq_of_rows_on_an_explicit_mesh_takes_blocks_of_b(spec):
    a, b = normal((4, 32, 3)), normal((4, 32, 2), seed=1)
    want, want_vector = jaxqr.lstsq(a, b), jaxqr.lstsq(a, b[0, :, 0])
    with mesh_of("explicit", (2, 4), ("b", "x")) as mesh:
        (rows,) = put(mesh, a, spec=P("b", "x"))
        (right,) = put(mesh, b, spec=spec)
        compiled = jax.jit(jaxqr.lstsq).lower(rows, right).compile(QUICK)
        out = compiled(rows, right)
        vector = jaxqr.lstsq(rows, *put(mesh, b[0, :, 0], spec=P(*spec[1:])))
    assert_close(out, want)
    assert_close(vector, want_vector)
    assert set(exchanged(compiled)) == {"f64[2,12,3]", "f64[2,3,2]", "f64[2,2]"}
    assert_sharded(out, mesh, P("b"))


def test_an_explicit_array_needs_no_mesh_in_use():
    a = normal((40, 3))
    with mesh_of("explicit") as mesh:
        (rows,) = put(mesh, a)
    assert_close(jaxqr.qr(rows), jaxqr.qr(a))
    assert_close(jax.jit(jaxqr.qr)(rows), jaxqr.qr(a))


@pytest.mark.parametrize(
    "mode, positive", mostly_nightly([("reduced", False), ("l", True), ("l", False)], 3)
)
def test_lq_of_columns_on_an_explicit_mesh_is_the_mirror(mode, positive):
    def f(a):
        return jaxqr.lq(a, mode, positive_diagonal=positive)

    a, da = normal((4, 3, 32), "complex128"), normal((4, 3, 32), "complex128", seed=1)
    want = quickly(everything(f), a, da)
    with mesh_of("explicit", (2, 4), ("b", "x")) as mesh:
        spec = P("b", None, "x")
        args = put(mesh, a, da, spec=spec)
        out, collectives = run(everything(f), *args)
        eager = f(args[0])
    assert "all-to-all" not in collectives
    assert_close(out, want, 1e-9)
    assert_close(eager, want[0])
    assert_sharded(out[2], mesh, spec)


@pytest.mark.parametrize(
    "f, match",
    [
        (lambda a: jaxqr.qr(a, pivoting=True), "qr: the rows .* pivoting must be False, got True"),
        (lambda a: jaxqr.qr(a, "complete"), "qr: the rows .* the mode .* got 'complete'"),
        (lambda a: jaxqr.qr(a, "raw"), "qr: the rows .* the mode .* got 'raw'"),
        (
            lambda a: jaxqr.qr(jnp.concatenate([a] * 9, -1)),
            r"qr: the rows .* wide, got shape \(16, 36\)",
        ),
        (lambda a: jaxqr.lstsq(jnp.concatenate([a] * 9, -1), a), "lstsq: the 8 row blocks"),
        (lambda a: jaxqr.tsqr(a, axis_name="y"), r"tsqr: axis_name must be .*\('x',\), got 'y'"),
        (lambda a: jaxqr.lq(a), "must not be sharded"),
        (
            lambda a: jaxqr.lq(a.mT, "raw", pivoting=True),
            "lq: the columns .* 'l', got 'raw'. And p",
        ),
        (
            lambda a: jaxqr.lq(jnp.concatenate([a] * 9, -1).mT),
            r"lq: the columns .* tall, got shape \(36, 16\)",
        ),
        (lambda a: jaxqr.qr_multiply(a, a.mT), "must not be sharded"),
    ],
)
def test_what_would_gather_rows_of_an_explicit_mesh_says_so(f, match):
    with mesh_of("explicit") as mesh:
        (a,) = put(mesh, normal((16, 4)))
        with pytest.raises(ValueError, match=match):
            f(a)


def test_b_must_be_sharded_as_a_is():
    with mesh_of("explicit", (2, 4), ("x", "y")) as mesh:
        (a,) = put(mesh, normal((16, 3)))
        (b,) = put(mesh, normal((16, 4)), spec=P("y"))
        with pytest.raises(ValueError, match=r"lstsq: b must be sharded as a is, .*got P\('y'"):
            jaxqr.lstsq(a, b)
