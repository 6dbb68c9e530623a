"""Where JAX's contexts change between tracing, differentiating, lowering and running."""

import itertools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxqr
from laws import assert_close, floating, mostly_nightly
from matrices import normal
from surroundings import python

A = normal((6, 4))


pytestmark = pytest.mark.usefixtures("fast_compilation")


# each a few calls in one program, to compile little
GROUPS = {
    "qr": lambda a: (
        jaxqr.qr(a, "complete"),
        jaxqr.qr(a, "raw"),
        jaxqr.qr(a, pivoting=True, positive_diagonal=True),
    ),
    "lq": lambda a: (jaxqr.lq(a, "complete"), jaxqr.lq(a, "raw", pivoting=True), jaxqr.rq(a)),
    "least squares": lambda a: (
        jaxqr.lstsq(a, jnp.sin(a[:, :2])),
        jaxqr.lstsq(a.mT, jnp.sin(a.mT[:, :2]), pivoting=False),
    ),
    "products": lambda a: (
        jaxqr.qr_multiply(a, jnp.sin(a).mT, pivoting=True),
        jaxqr.householder_multiply(a, a[0], jnp.cos(a)),
        jaxqr.householder_product(a, a[0]),
    ),
}


def in_turns(test):
    """With kernels and without, by day every group one way."""
    cases = [(way, group) for group in GROUPS for way in ("kernels", "no kernels")]
    by_day = cases[1::4] + cases[2::4]
    parameters = mostly_nightly(cases, lambda *case: case in by_day)
    return pytest.mark.parametrize("way, group", parameters, indirect=["way"])(test)


def all_of(f):
    return lambda a: floating(f(a))


def with_derivatives(f, a, da):
    """Value, tangents and a gradient with weights for the outputs."""
    out, vjp = jax.vjp(f, a)
    weights = [jax.lax.full_like(x, 0.5) for x in out]
    return out, jax.jvp(f, (a,), (da,))[1], vjp(weights)[0]


compiled = jax.jit(with_derivatives, static_argnums=0)


@in_turns
def test_a_program_traced_in_double_precision_runs_and_differentiates_without(way, group):
    f = all_of(GROUPS[group])
    a, da = jnp.asarray(A), jnp.asarray(A[::-1].copy())
    want = compiled(f, a, da)
    traced = jax.extend.core.jaxpr_as_fun(jax.make_jaxpr(f)(a))
    with jax.enable_x64(False):
        got = compiled(traced, a, da)
    assert_close(got, want, 1e-12)


@in_turns
def test_a_program_traced_in_single_precision_runs_and_differentiates_in_double(way, group):
    f = all_of(GROUPS[group])
    with jax.enable_x64(False):
        a, da = jnp.asarray(A), jnp.asarray(A[::-1].copy())
        want = compiled(f, a, da)
        traced = jax.extend.core.jaxpr_as_fun(jax.make_jaxpr(f)(a))
    assert_close(compiled(traced, a, da), want, 1e-4)


@pytest.mark.usefixtures("way")
def test_a_gradient_asked_for_outside_of_the_context_is_exact():
    f = all_of(lambda a: [f(a) for f in GROUPS.values()])
    out, vjp = jax.vjp(f, jnp.asarray(A))
    weights = [jax.lax.full_like(x, 0.5) for x in out]
    want = jax.jit(vjp)(weights)
    with jax.enable_x64(False):
        got = jax.jit(vjp)(weights)
    assert_close(got, want, 1e-12)


@pytest.mark.usefixtures("way")
def test_double_precision_entered_within_a_program_is_that_of_its_lowering():
    def both(a):
        with jax.enable_x64(True):
            wide = [f(a.astype(jnp.float64)) for f in GROUPS.values()]
            return [x.astype(jnp.float32) for x in jax.tree.leaves(wide)]

    want = [x.astype(jnp.float32) for x in jax.tree.leaves([f(A) for f in GROUPS.values()])]
    with jax.enable_x64(False):
        got = jax.jit(both)(A.astype(np.float32).astype(np.float64))
    assert_close(got, want, 1e-5)


@pytest.mark.usefixtures("way")
def test_settings_at_lowering_change_nothing():
    traced = jax.jit(GROUPS["least squares"]).trace(A.astype(np.float32))
    want = traced.lower().as_text()
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.default_matmul_precision("bfloat16"),
    ):
        assert traced.lower().as_text() == want


@pytest.mark.parametrize("name", ["qr", "lq", "rq", "ql"])
def test_arrays_of_double_precision_stay_so_where_it_is_off(name):
    a = jnp.asarray(A)
    want = getattr(jaxqr, name)(a), jaxqr.lstsq(a, a[:, 0]), jaxqr.qr_multiply(a, a[:, 0])
    b = a[:, 0]
    with jax.enable_x64(False):
        got = getattr(jaxqr, name)(a), jaxqr.lstsq(a, b), jaxqr.qr_multiply(a, b)
        assert jaxqr.qr(A).R.dtype == jnp.float32  # NumPy's become single, as everywhere in JAX
    assert_close(got, want, 1e-12)


# --------------------------------------------------------------------------- other processes

SAVE = """
import pickle, sys, jax, numpy as np, jaxqr
from jax.experimental import serialize_executable
a = np.random.default_rng(0).standard_normal((300, 280)).astype(np.float32)
compiled = jax.jit(lambda a: (jaxqr.qr(a), jaxqr.lstsq(a, a[:, :2]).x)).lower(a).compile()
with open(sys.argv[1], "wb") as file:
    pickle.dump((a, serialize_executable.serialize(compiled), np.asarray(compiled(a)[1])), file)
"""
LOAD = """
import pickle, sys, jax, numpy as np, jaxqr
from jax.experimental import serialize_executable
from jaxqr._lowering import kernels
with open(sys.argv[1], "rb") as file:
    a, executable, want = pickle.load(file)
(q, r), x = serialize_executable.deserialize_and_load(*executable)(a)
assert abs(q @ r - a).max() < 1e-4
assert abs(x - want).max() < 1e-4
assert kernels.REGISTERED[0] is None or kernels._load.cache_info().currsize == 0
"""


@pytest.mark.parametrize("kernels", ["0", "1"])
def test_an_executable_runs_in_a_process_that_has_only_imported_the_package(kernels, tmp_path):
    for program in (SAVE, LOAD):
        python("-c", program, tmp_path / "executable", JAXQR_NATIVE=kernels)


# ---------------------------------------------------------------------------- symbolic sizes

CHECKS = [
    export.DisabledSafetyCheck.custom_call(f"lapack_s{name}_ffi") for name in ("geqp3", "ormqr")
]


SIZES = {"b, 6, 4": ((), [(3, 6, 4)]), "m, n": (("m >= n",), [(7, 3), (4, 4)])}


@pytest.mark.parametrize(
    "group, x64, sizes",
    mostly_nightly(
        [
            *((group, False, sizes) for group in ("qr", "lq", "products") for sizes in SIZES),
            *itertools.product(["least squares"], (False, True), SIZES),
        ],
        lambda group, x64, sizes: (sizes == "m, n") == (group in ("lq", "products")),
    ),
)
def test_programs_of_symbolic_sizes_are_exported(group, x64, sizes):
    constraint, shapes = SIZES[sizes]
    programs = {
        "qr": lambda a: (jaxqr.qr(a), jaxqr.qr(a, "complete"), jaxqr.qr(a, pivoting=True)),
        "lq": lambda a: (jaxqr.lq(a), jaxqr.lq(a, "raw"), jaxqr.rq(a)),
        "least squares": lambda a: jaxqr.lstsq(a, jnp.sin(a[..., :1])),
        "products": lambda a: jaxqr.qr_multiply(a, jnp.sin(a[..., :2, :]).mT.mT @ a.mT),
    }
    f = programs[group]

    def with_gradient(a):
        return f(a), jax.grad(lambda a: sum(jnp.sum(x) for x in floating(f(a))))(a)

    with jax.enable_x64(x64):
        shape = export.symbolic_shape(sizes, constraints=constraint)
        argument = jax.ShapeDtypeStruct(shape, jnp.float32)
        exported = export.export(jax.jit(with_gradient), disabled_checks=CHECKS)(argument)
        for known in shapes:
            a = jnp.asarray(normal(known, "float32"))
            assert_close(exported.call(a), with_gradient(a), 1e-3)
