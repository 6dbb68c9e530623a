"""Programs for CUDA with the package's kernels, run whole on this CPU, equal the CPU's own."""

import contextlib
import functools
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from benchmarks.hlo import cost
from emulated_gpu import EmulatedGpu, program_for_cuda
from foreign_platform import CASES, UNCHECKED, difference, lowered_for, targets, value_and_gradient
from gpu_kernels import all_kernels
from grades import well_conditioned
from jaxqr._lowering import cuda, lapack
from laws import QUICK, assert_factored, mostly_nightly, quickly
from matrices import DTYPES, LIMIT, normal, orthogonality_ratio, residual_ratio, separated
from meshes import assert_sharded, every_mesh, everything, mesh_of, put, run
from surroundings import needs_emulation

pytestmark = needs_emulation


@pytest.fixture(scope="module", autouse=True)
def _gpu():
    return EmulatedGpu(all_kernels().built)


@contextlib.contextmanager
def lapack_in_place_of_cusolver():
    with mock.patch.object(lapack.CUSOLVER, "_target", lapack._lapack_target):
        yield


def on_cuda(f, *args):
    """What the program for CUDA gives."""
    with lapack_in_place_of_cusolver():
        program = program_for_cuda(f, *args, checks=UNCHECKED)
    return quickly(program.call, *args)


def assert_as_on_cpu(f, *args, limit=100):
    got, want = on_cuda(f, *args), quickly(f, *args)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    assert difference(got, want) < limit


# ------------------------------------------------------------------------- against the CPU

# each case in every dtype, and by day in one of them
IN_TURN = [(case, dtype) for dtype in DTYPES for case in CASES]
BY_DAY = {(case, DTYPES[i % 4]) for i, case in enumerate(CASES)}


@pytest.mark.parametrize(
    "case, dtype", mostly_nightly(IN_TURN, lambda case, dtype: (case, dtype) in BY_DAY)
)
def test_values_and_gradients_are_the_cpus(case, dtype):
    a = separated(CASES[case][0], dtype)
    f = value_and_gradient(case)
    (value, gradient), (own_value, own_gradient) = on_cuda(f, a), quickly(f, a)
    assert difference(value, own_value) < 100
    assert difference(gradient, own_gradient) < 1e5


@pytest.mark.parametrize(
    "case, dtype",
    mostly_nightly(
        IN_TURN, lambda case, dtype: (case, dtype) in (("deep", "complex64"), ("r", "float64"))
    ),
)
def test_derivatives_to_the_second_order_are_the_cpus(case, dtype):
    shape, f = CASES[case]
    a, da = separated(shape, dtype), normal(shape, dtype, seed=1)
    assert_as_on_cpu(everything(f), a, da, limit=1e6)


MODES = ("reduced", "complete", "raw")
ODD_SHAPES = [(3, 1, 1), (2, 7, 3), (2, 3, 6), (2, 3, 20, 20), (50, 6), (2, 34, 32)]


@pytest.mark.parametrize(
    "shape, dtype", mostly_nightly(itertools.product(ODD_SHAPES, DTYPES), 5), ids=str
)
def test_all_functions_and_modes_give_what_they_give_on_the_cpu(shape, dtype):
    def f(a):
        return [
            *(jaxqr.qr(a, mode, pivoting=p) for mode in (*MODES, "r") for p in (False, True)),
            *(jaxqr.lq(a, mode, pivoting=p) for mode in (*MODES, "l") for p in (False, True)),
            *(jaxqr.rq(a, mode) for mode in ("reduced", "complete", "r")),
            *(jaxqr.ql(a, mode) for mode in ("reduced", "complete", "l")),
            jaxqr.qr(a, positive_diagonal=True),
            jaxqr.qr_multiply(a, a[..., : min(a.shape[-2:]), :], "left"),
            jaxqr.qr_multiply(a, a.mT, pivoting=True),
        ]

    assert_as_on_cpu(f, well_conditioned(shape, dtype), limit=1e3)


@pytest.mark.parametrize(
    "shape, dtype", mostly_nightly(itertools.product([(2, 9, 4), (3, 60, 7)], DTYPES), 3), ids=str
)
def test_least_squares_of_every_kind_is_the_cpus(shape, dtype):
    *batch, m, n = shape
    a = separated(shape, dtype)
    low = np.concatenate([a[..., : n - 1], a[..., :1] - a[..., 1:2]], axis=-1)
    b, c = normal((*batch, m, 3), dtype), normal((*batch, n, 2), dtype)

    def f(a, low, b, c):
        return [
            jaxqr.lstsq(a, b),
            jaxqr.lstsq(a[0], b[0, :, 0]),
            jaxqr.lstsq(a, b, pivoting=False),
            jaxqr.lstsq(a, b, rcond=1e-3),
            jaxqr.lstsq(low, b),
            jaxqr.lstsq(low, b, rcond=1e-4),
            jaxqr.lstsq(a.mT, c),
            jaxqr.lstsq(low.mT, c),
            jax.vmap(lambda b: jaxqr.lstsq(a[0], b), in_axes=-1)(b[0]),
        ]

    assert_as_on_cpu(f, a, low, b, c, limit=1e4)


def test_functions_that_are_mapped_are_the_cpus():
    a = separated((3, 5, 2, 4), "complex64")

    def f(a):
        return [
            jax.vmap(jax.vmap(jaxqr.qr, in_axes=-1, out_axes=1))(a),
            jax.vmap(jax.jit(functools.partial(jaxqr.lq, pivoting=True)), in_axes=2)(a),
            jax.vmap(jax.grad(lambda a: jnp.sum(jaxqr.qr(a, "r").real)), in_axes=2)(a),
            jax.jacfwd(lambda a: jaxqr.qr(a, "r").real)(a[0, :, 0].real),
        ]

    assert_as_on_cpu(f, a, limit=1e4)


# ---------------------------------------------------------------- shapes made of several kernels

LARGER = [
    *[(name, (2, 45, 40)) for name in ("plain", "pivoted")],
    *[("plain", shape) for shape in ((90, 70), (1500, 20), (1100, 40), (2, 20, 90))],
    *[("pivoted", shape) for shape in ((60, 110), (700, 40))],
    ("randomized", (210, 180)),
]


@pytest.mark.parametrize(
    "kind, shape, dtype",
    mostly_nightly([(*x, dtype) for x in LARGER for dtype in DTYPES], 5),
    ids=str,
)
def test_larger_matrices_have_a_factorization(kind, shape, dtype):
    pivoting = {"plain": False, "pivoted": True}.get(kind, kind)
    a = normal(shape, dtype)
    q, r, *p = map(np.asarray, on_cuda(lambda a: list(jaxqr.qr(a, pivoting=pivoting)), a))
    moved = np.take_along_axis(a, p[0][..., None, :], axis=-1) if p else a
    assert_factored(q, r, moved, pivoting=pivoting)
    if not p:  # with LAPACK's signs
        own = quickly(lambda a: jaxqr.qr(a, "r"), a)
        assert difference(r, own) < 1e3


def test_columns_of_any_size_are_right_each_for_itself_in_larger_matrices():
    a = normal((50, 40), "float32")
    sizes = (2.0 ** np.random.default_rng(0).permutation(np.linspace(-100, 100, 40))).astype("f4")
    for pivoting in (False, True):
        found = on_cuda(lambda a, p=pivoting: list(jaxqr.qr(a, pivoting=p)), a * sizes)
        q, r, *p = map(np.asarray, found)
        order = p[0] if p else np.arange(40)
        assert orthogonality_ratio(q) < LIMIT
        assert residual_ratio(a[:, order], q @ (r / sizes[order])) < LIMIT


def test_what_has_no_kernel_is_cusolvers():
    a = normal((1100, 70), "float64")
    program = program_for_cuda(lambda a: jaxqr.qr(a, "r"), a, checks=UNCHECKED)
    assert targets(program) == {"cusolver_geqrf_ffi"}
    assert_as_on_cpu(lambda a: list(jaxqr.qr(a)), a)


# ----------------------------------------------------------------------------------- meshes


@every_mesh
@pytest.mark.parametrize(
    "name", ["qr", *(pytest.param(x, marks=pytest.mark.nightly) for x in ("pivoted", "lstsq"))]
)
def test_a_sharded_batch_stays_where_it_is(kind, name):
    f = {
        "qr": jaxqr.qr,
        "pivoted": lambda a: jaxqr.qr(a, pivoting=True),
        "lstsq": lambda a: jaxqr.lstsq(a, jnp.sin(a[..., :2])),
    }[name]
    arrays = separated((16, 5, 3)), normal((16, 5, 3), seed=1)
    want = quickly(everything(f), *arrays)
    with mesh_of(kind) as mesh:
        args = put(mesh, *arrays)
        program = program_for_cuda(everything(f), *args, checks=UNCHECKED)
        out, collectives = run(program.call, *args)
    assert cuda.TARGET in targets(program)
    assert not collectives
    assert_sharded(out, mesh)
    assert difference(out, want) < 1e6


# ----------------------------------------------------------------------------- what is called


def launched(f, *args):
    """What a call launches, as XLA's CPU compiles it, and how often."""
    program = program_for_cuda(f, *args, checks=UNCHECKED).call
    found = cost(jax.jit(program).lower(*args).compile(QUICK).as_text())
    assert not found.loops and not found.conditionals  # the host never waits
    return dict(found.launches)


def kernels_in(f, *args):
    return {
        name.removeprefix("jaxqr_launch "): count
        for name, count in launched(f, *args).items()
        if name.startswith("jaxqr_launch")
    }


def like(*shape):
    return jax.ShapeDtypeStruct(shape, "float32")


@pytest.mark.parametrize(
    "f, shape, kernel",
    [
        (lambda a: jaxqr.qr(a, pivoting=True), (1024, 16, 16), "lanes_pivoted_f32_16"),
        (jaxqr.qr, (1024, 32, 32), "lanes_f32_32"),
        (jaxqr.qr, (100000, 4, 4), "lanes_f32_4"),
        (jaxqr.qr, (10000, 256, 32), "rows_f32_32_4"),
        (jaxqr.lq, (64, 3, 16), "lanes_f32_16"),
        (lambda a: jaxqr.qr(a, "r"), (300, 20), "rows_f32_32_4"),
    ],
)
def test_the_value_of_small_matrices_is_one_launch_and_nothing_else(f, shape, kernel):
    assert launched(f, like(*shape)) == {f"jaxqr_launch {kernel}": 1}


def test_other_modes_are_one_kernel_too():
    """In the form of the result there may be more than the kernel makes, zeros or a transpose."""
    for mode in ("raw", "complete"):
        assert kernels_in(lambda a, m=mode: jaxqr.qr(a, m), like(8, 8, 3)) == {"lanes_f32_8": 1}


def test_a_value_and_its_gradient_are_two_launches():
    def f(a, qbar, rbar):
        out, vjp = jax.vjp(jaxqr.qr, a)
        return out, vjp(type(out)(qbar, rbar))

    a = like(1024, 32, 32)
    assert launched(f, a, a, a) == {"jaxqr_launch lanes_f32_32": 1, "jaxqr_launch qr_vjp_f32_32": 1}


@pytest.mark.parametrize("pivoting", [False, True])
@pytest.mark.parametrize("shape", [(4096, 32, 8), (64, 200, 10)])
def test_least_squares_is_two_launches(shape, pivoting):
    found = kernels_in(
        lambda a, b: jaxqr.lstsq(a, b, pivoting=pivoting), like(*shape), like(*shape[:-1], 1)
    )
    assert sorted(found.values()) == [1, 1]
    assert "least_squares_f32_8" in found or "least_squares_f32_16" in found


@pytest.mark.parametrize("case", mostly_nightly([(case,) for case in CASES], 4))
def test_exported_programs_are_those_without_kernels(case, monkeypatch):
    a, found = separated(CASES[case][0], "complex64"), []
    for there in (False, True):
        jax.clear_caches()
        monkeypatch.setattr(cuda, "available", lambda there=there: there)
        found.append(lowered_for(["cuda"], value_and_gradient(case), a).mlir_module())
    jax.clear_caches()
    assert found[0] == found[1]
    assert cuda.TARGET not in found[1]
    assert "cusolver" in found[1]
