"""What the programs of every platform call: its own routines, as JAX itself calls them."""

import re

import jax
import numpy as np
import pytest

import jaxqr
from foreign_platform import (
    CASES,
    LIBRARIES,
    OTHER,
    UNCHECKED,
    calls,
    compare_gradient,
    gradient,
    lowered_for,
    on_cpu,
    targets,
    value_and_gradient,
)
from matrices import separated

PLATFORMS = ("cpu", *LIBRARIES, "tpu")
every_platform = pytest.mark.parametrize("platform", (*PLATFORMS, OTHER))

# routines of the value, and of the gradient; pivoted matrices whose columns differ too much in size
# are factored anew
ROUTINES = {
    "deep": ("geqrf orgqr", "geqrf orgqr"),
    "complete": ("geqrf orgqr", "geqrf orgqr"),
    "r": ("geqrf", "geqrf orgqr"),
    "raw": ("geqrf", "geqrf orgqr"),
    "pivoted": ("geqp3 geqrf orgqr", "geqp3 geqrf orgqr"),
    "rotate": ("geqrf ormqr", "geqrf orgqr ormqr"),
    "multiply": ("geqrf ormqr", "geqrf ormqr"),
    "multiply pivoted": ("geqp3 geqrf ormqr", "geqp3 geqrf ormqr"),
    "lstsq": ("geqp3 geqrf ormqr", "geqp3 geqrf ormqr"),
    "lstsq unpivoted": ("geqrf ormqr", "geqrf ormqr"),
}


def name_on(platform, routine):
    """The custom call of a routine for complex128; None where it is portable."""
    if platform == "cpu":
        return f"lapack_z{routine.replace('or', 'un')}_ffi"
    if platform == "tpu":
        table = {"geqrf": "Qr", "orgqr": "ProductOfElementaryHouseholderReflectors"}
        return table.get(routine)
    if platform == OTHER or routine == "geqp3":
        return None
    return f"{LIBRARIES[platform]}_{routine}_ffi"


@every_platform
@pytest.mark.parametrize("case", ROUTINES)
def test_every_platform_calls_its_own_routines_and_nothing_else(case, platform):
    shape, f = CASES[case]
    a = separated(shape, "complex128")
    own_solve = {"lapack_ztrsm_ffi"} if platform == "cpu" else set()
    for function, routines in zip((f, gradient(f)), ROUTINES[case], strict=True):
        want = {name_on(platform, routine) for routine in routines.split()} - {None}
        assert targets(lowered_for([platform], function, a)) - own_solve == want


@every_platform
@pytest.mark.parametrize("case", ["deep", "pivoted"])
def test_export_guarantees_all_but_lapacks_pivoting(case, platform):
    shape, f = CASES[case]
    checks = [] if platform != OTHER else UNCHECKED[:1]
    a = separated(shape, "float32")
    if (case, platform) == ("pivoted", "cpu"):
        with pytest.raises(ValueError, match="lapack_sgeqp3_ffi"):
            lowered_for([platform], gradient(f), a, checks)
    else:
        lowered_for([platform], gradient(f), a, checks)


@every_platform
@pytest.mark.parametrize("case", ["deep", "pivoted", "rotate", "lstsq"])
def test_a_batch_is_computed_by_as_many_calls_as_one_matrix(case, platform):
    """And by as many loops: none of them is over the batch."""

    def found(batch):
        a = separated((*batch, *CASES[case][0][-2:]), "float64")
        text = lowered_for([platform], value_and_gradient(case), a).mlir_module()
        return sorted(re.findall(r"custom_call @[\w.]+|stablehlo\.while", text))

    assert found((7,)) == found(())


# ---------------------------------------------------------------------------- against JAX


def reflectors_applied(a):
    return jax.lax.linalg.ormqr(a, a[..., 0, :], a, left=True, transpose=True)


# ours and JAX's, which must emit the same calls; JAX has none for a product with Q on TPUs and
# other pivoting than ours off the CPU
TWINS = {
    "reduced": (jaxqr.qr, lambda a: jax.lax.linalg.qr(a, full_matrices=False), PLATFORMS),
    "complete": (lambda a: jaxqr.qr(a, "complete"), jax.lax.linalg.qr, PLATFORMS),
    "product": (
        lambda a: jaxqr.householder_product(a, a[..., 0, :]),
        lambda a: jax.lax.linalg.householder_product(a, a[..., 0, :]),
        PLATFORMS,
    ),
    "multiply": (
        lambda a: jaxqr.householder_multiply(a, a[..., 0, :], a, adjoint=True),
        reflectors_applied,
        ("cpu", *LIBRARIES),
    ),
    "pivoted": (
        lambda a: jaxqr.qr(a, pivoting=True),
        lambda a: jax.lax.linalg.qr(a, pivoting=True, full_matrices=False),
        ("cpu",),
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("shape", [(6, 3), (2, 6, 3), (2, 3, 6, 3)], ids=str)
@pytest.mark.parametrize("twin", TWINS)
def test_calls_are_those_of_jax_itself(twin, shape, dtype):
    ours, theirs, platforms = TWINS[twin]
    a = separated(shape, dtype)
    for platform in platforms:
        want = calls(lowered_for([platform], theirs, a))
        assert want
        got = calls(lowered_for([platform], ours, a))
        assert [call for call in got if call in want] == want
        # ours has one more: pivoted matrices of columns that differ too much are factored anew
        assert ["geqrf" in call for call in got if call not in want] == [True] * (twin == "pivoted")


@pytest.mark.parametrize("platform", PLATFORMS[1:])
@pytest.mark.parametrize("case", ["deep", "rotate", "lstsq"])
def test_export_calls_what_a_program_that_is_compiled_there_calls(case, platform):
    a, f = separated(CASES[case][0], "float32"), value_and_gradient(case)
    compiled_there = jax.jit(f).trace(a).lower(lowering_platforms=(platform,))
    assert calls(lowered_for([platform], f, a)) == calls(compiled_there)


# ------------------------------------------------------------------------- what is computed


@pytest.mark.parametrize("case", ["deep", "pivoted", "multiply", "lstsq low rank"])
def test_a_serialized_tpu_program_has_its_gradient(case):
    assert compare_gradient("tpu", case, "float64") < 1e5


def test_the_case_of_low_rank_is_of_low_rank():
    out, _ = on_cpu("lstsq low rank", "complex128")
    np.testing.assert_array_equal(out.rank, [2, 2])
