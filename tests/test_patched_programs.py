"""JAX's own functions with jaxqr below them: the results of stock JAX, wherever it has some."""

import contextlib
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.sharding import PartitionSpec as P

import jaxqr
from benchmarks.patch.clients import CLIENTS
from emulated_gpu import EmulatedGpu, lowered_as_on_a_gpu, program_for_cuda
from foreign_platform import targets
from gpu_kernels import all_kernels
from laws import QUICK, assert_close, loss_of, mostly_nightly, quickly
from matrices import DTYPES, normal, of_rank, separated
from meshes import X, assert_sharded, every_mesh, mesh_of, put
from surroundings import load_example, needs_emulation, needs_kernels

# Those of JAX's own tests of QR: one, square, wide, tall, batched, many rows, empty.
SHAPES = [(1, 1), (3, 3), (3, 4), (2, 10, 5), (2, 200, 100), (64, 16, 5), (137, 9, 5), (5000, 2, 2)]
EMPTY = [(0, 3), (3, 0), (0, 4, 4), (2, 0, 3)]


def both(f, *args):
    """What stock JAX gives, and what it gives with jaxqr, each compiled by itself."""
    stock = jax.jit(f).lower(*args).compile(QUICK)
    with jaxqr.patched():
        patched = jax.jit(f).lower(*args).compile(QUICK)
        assert jaxqr.status().served
        return patched(*args), stock(*args)


def factor_in_all_modes(a):
    """Every mode of JAX's functions, plain and pivoted."""
    found = [jnp.linalg.qr(a, mode) for mode in ("reduced", "complete", "r", "raw")]
    found += [lax.linalg.qr(a, full_matrices=full) for full in (False, True)]
    if 0 not in a.shape:
        found += [
            jax.scipy.linalg.qr(a, mode=mode, pivoting=True) for mode in ("full", "economic", "r")
        ]
    return found


@pytest.mark.parametrize("dtype", mostly_nightly([(d,) for d in DTYPES], 3))
def test_values_and_signs_are_those_of_stock_jax(dtype):
    matrices = [normal(shape, dtype) for shape in SHAPES + EMPTY]
    got, want = both(lambda matrices: list(map(factor_in_all_modes, matrices)), matrices)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    assert_close(got, want, 1e4 * jnp.finfo(dtype).eps)


def test_half_precision_is_refused_as_by_stock_jax():
    a = normal((4, 3), "float32").astype("float16")
    for block in (contextlib.nullcontext(), jaxqr.patched()):
        with block, pytest.raises((NotImplementedError, TypeError)):
            jnp.linalg.qr(a)


def multiply_in_all_ways(a, c):
    """`qr_multiply` from both sides, and what it is made of."""
    h, tau = jnp.linalg.qr(a, "raw")
    found = [
        jax.scipy.linalg.qr_multiply(a, x, mode, pivoting, conjugate)
        for mode, x in (("right", c), ("left", c[..., : a.shape[-1], :]))
        for pivoting in (False, True)
        for conjugate in (False, True)
        if mode == "left" or not conjugate
    ]
    found += [
        lax.linalg.ormqr(h.mT, tau, c if left else c.mT, left=left, transpose=transpose)
        for left in (False, True)
        for transpose in (False, True)
    ]
    return found, lax.linalg.householder_product(h.mT, tau[..., :2])


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_products_with_q_are_those_of_stock_jax(dtype):
    a, c = separated((2, 6, 6), dtype), normal((2, 6, 6), dtype, seed=1)
    assert_close(*both(multiply_in_all_ways, a, c))


def test_columns_that_are_to_stay_in_front_are_left_to_jax():
    """geqp3 has them, which no function of JAX asks for."""
    from jaxqr._patch.replacements import find_jax_primitives

    p, _ = find_jax_primitives()["geqp3"]
    a = separated((2, 6, 4))
    fixed = jnp.zeros((2, 4), jnp.int32).at[:, 2].set(1)
    got, want = both(lambda a, fixed: p.bind(a, fixed, use_magma=None), a, fixed)
    assert_close(got, want)
    assert (want[1][:, 0] == 3).all()


# --------------------------------------------------------------------------------- derivatives

FUNCTIONS = {
    "reduced": (jnp.linalg.qr, (2, 5, 3)),
    "complete": (functools.partial(jnp.linalg.qr, mode="complete"), (5, 3)),
    "wide": (jnp.linalg.qr, (3, 5)),
    "square": (jnp.linalg.qr, (2, 4, 4)),
    "pivoted": (functools.partial(jax.scipy.linalg.qr, mode="economic", pivoting=True), (6, 4)),
}


@pytest.mark.parametrize(
    "name, dtype",
    mostly_nightly(
        itertools.product(FUNCTIONS, ["float64", "complex128"]),
        lambda name, dtype: (name, dtype) in {("reduced", "complex128"), ("pivoted", "float64")},
    ),
)
def test_derivatives_are_those_of_stock_jax_where_it_has_them(name, dtype):
    f, shape = FUNCTIONS[name]
    a, da = separated(shape, dtype), normal(shape, dtype, seed=1)

    def program(a, da):
        gradient, hvp = jax.jvp(jax.grad(loss_of(f)), (a,), (da,))
        tangents = [t for t in jax.jvp(f, (a,), (da,))[1] if t.dtype == a.dtype]
        return tangents, gradient, hvp

    got, want = both(program, a, da)
    assert_close(got, want, 1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_are_finite_where_columns_depend_on_each_other(name):
    f, shape = FUNCTIONS[name]
    a = of_rank(min(shape[-2:]) - 1, shape)
    with jaxqr.patched():
        gradient, hvp = quickly(lambda a: jax.jvp(jax.grad(loss_of(f)), (a,), (a,)), a)
    assert np.isfinite(gradient).all() and np.isfinite(hvp).all()


@pytest.mark.parametrize(
    "mode, pivoting, dtype",
    mostly_nightly(
        itertools.product(["left", "right"], [False, True], ["float64", "complex128"]), 3
    ),
)
def test_products_with_q_become_differentiable(mode, pivoting, dtype):
    a = separated((2, 5, 3), dtype)
    c = normal((2, 3, 4) if mode == "left" else (2, 4, 5), dtype, seed=1)

    def of(module):
        def loss(a, c):
            y, r, *_ = module.qr_multiply(a, c, mode, pivoting=pivoting)
            return jnp.sum(jnp.abs(y) ** 3) + jnp.sum(jnp.abs(r) ** 3)

        return jax.grad(loss, (0, 1))

    with pytest.raises(NotImplementedError):
        of(jax.scipy.linalg)(a, c)
    with jaxqr.patched():
        got = quickly(of(jax.scipy.linalg), a, c)
    assert_close(got, quickly(of(jaxqr), a, c), 1e-9)


def test_products_with_reflectors_have_a_transpose():
    h, tau, c, y = (
        normal(shape, "complex128", seed)
        for seed, shape in enumerate([(5, 3), (3,), (5, 2), (5, 2)])
    )
    with jaxqr.patched():
        f = functools.partial(lax.linalg.ormqr, h, tau)
        (x,) = jax.linear_transpose(f, c)(y)
        assert_close(jnp.sum(x * c), jnp.sum(y * f(c)))


# --------------------------------------------------------------- transformations and clients


def loop(a):
    """R of one step is in the matrix of the next, in a scan, a while loop and a branch."""

    def step(r, x):
        return jnp.linalg.qr(jnp.concatenate([r, x]), "r"), jnp.diagonal(r)

    r, diagonals = lax.scan(step, jnp.eye(3), a)
    _, r = lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, step(s[1], a[0])[0]), (0, r))
    return lax.cond(r[0, 0] < 100, lambda a: step(*a)[0], lambda a: a[0], (r, a[1])), diagonals


def test_loops_branches_and_checkpoints_follow():
    a = separated((3, 5, 3))
    assert_close(*both(loop, a))
    loss = jax.checkpoint(lambda a: jnp.sum(jnp.cos(loop_once(a))))
    assert_close(*both(jax.vmap(jax.grad(loss)), a), 1e-9)
    assert_close(*both(lambda a: jax.linearize(loop_once, a)[1](a + 1), a), 1e-9)


def loop_once(a):
    return jnp.linalg.qr(a)[0] @ jnp.linalg.qr(a, "r")


@every_mesh
def test_sharded_batches_stay_where_they_are(kind):
    def f(a):
        gradient = jax.grad(lambda a: jnp.sum(jnp.abs(jnp.linalg.qr(a)[0][..., 0]) ** 3))(a)
        return jnp.linalg.qr(a, "r"), lax.linalg.qr(a, pivoting=True), gradient

    a = separated((8, 5, 3), "complex128")
    want = quickly(f, a)
    with mesh_of(kind) as mesh, jaxqr.patched():
        (sharded,) = put(mesh, a)
        got = quickly(f, sharded)
        assert_sharded(got, mesh)
        assert_close(jax.device_get(got), want, 1e-9)


def test_programs_on_the_blocks_of_a_mesh_follow():
    with mesh_of("automatic") as mesh:

        def f(block):
            y = jax.scipy.linalg.qr_multiply(block, block.mT, pivoting=True)
            return jnp.linalg.qr(block, "r"), lax.linalg.qr(block, pivoting=True), y

        program = jax.shard_map(f, mesh=mesh, in_specs=X, out_specs=P("x"))
        assert_close(*both(program, separated((8, 5, 3))), 1e-10)


def test_exported_programs_hold_nothing_of_this_package():
    a = separated((6, 4))
    functions = [
        jnp.linalg.qr,
        functools.partial(jnp.linalg.qr, mode="r"),
        functools.partial(jax.scipy.linalg.qr, mode="r"),
        jax.grad(loss_of(jnp.linalg.qr)),
    ]
    want = [quickly(f, a) for f in functions]
    with jaxqr.patched():
        programs = [export.export(jax.jit(f), platforms=("cpu", "cuda"))(a) for f in functions]
        sizes = export.symbolic_shape("b, m, n", constraints=["m >= n"])
        symbolic = export.export(jax.jit(functions[1]))(jax.ShapeDtypeStruct(sizes, a.dtype))
    for program in (*programs, symbolic):
        assert not [name for name in targets(program) if "jaxqr" in name]
    assert_close([program.call(a) for program in programs], want, 1e-10)
    assert_close(symbolic.call(a[None])[0], want[1], 1e-10)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_programs_of_clients_give_what_they_give_with_stock_jax(client):
    inputs = client.inputs(True)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        got, want = both(client.run, *jax.device_put(inputs))
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert_close(x, y, client.tolerance * jnp.finfo(x.dtype).eps)


@needs_kernels
def test_what_jax_itself_builds_on_qr_follows():
    a = separated((5, 5))

    def f(key, a):
        drawn = jax.random.orthogonal(key, 4, (2,)), jax.nn.initializers.orthogonal()(key, (3, 5))
        return drawn, jnp.linalg.slogdet(a, method="qr"), jax.scipy.linalg.polar(a, method="qdwh")

    got, want = both(f, jax.random.key(0), a)
    assert_close(got, want, 1e-6)


@needs_emulation
def test_programs_for_cuda_launch_the_packages_kernels():
    a = separated((3, 9, 4), "float32")
    EmulatedGpu(all_kernels().built)
    loss = functools.partial(jax.value_and_grad, loss_of(jnp.linalg.qr))
    with lowered_as_on_a_gpu(), jaxqr.patched():
        assert "cuda" in jaxqr.status().platforms
        programs = [program_for_cuda(f, a) for f in (triangle_alone, loss())]
    for program, f in zip(programs, (triangle_alone, loss()), strict=True):
        assert targets(program) == {"jaxqr_launch"}
        assert_close(quickly(program.call, a), quickly(f, a), 1e-4)


def triangle_alone(a):
    return jnp.linalg.qr(a, "r")


def test_the_example_has_a_gradient_only_where_jax_is_patched(capsys, monkeypatch):
    example, _ = load_example("filter_on_jax")
    monkeypatch.setattr(example, "SERIES", 20)
    with jax.numpy_rank_promotion("allow"):
        example.main()
        with jaxqr.patched():
            example.main()
    stock, patched = (
        report.splitlines()[1:3] for report in capsys.readouterr().out.split("log l")[1:]
    )
    assert "nan" in stock[0]
    gradient, differences = (np.array(line.split()[1:], float) for line in patched)
    np.testing.assert_allclose(gradient, differences, atol=1e-3)
