"""Every custom call of the exported programs, against a list on file and JAX's own.

The list is ``data/programs.json``; where a change is meant, ``python tests/test_programs.py``
writes it anew.
"""

import difflib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export

import jaxqr
from foreign_platform import (
    CASES,
    LIBRARIES,
    calls,
    compare_gradient,
    lowered_for,
    on_cpu,
    value_and_gradient,
)
from matrices import separated

FILE = Path(__file__).parent / "data" / "programs.json"
PLATFORMS = ("cpu", *LIBRARIES, "tpu")
# All cases in complex arithmetic; in real one for every routine and, as LAPACK's names have the
# dtype's letter, every letter.
PINNED = [
    *((case, "complex128") for case in CASES),
    *((case, "float64") for case in ("deep", "pivoted", "rotate", "lstsq")),
    ("deep", "float32"),
    ("deep", "complex64"),
]

# ------------------------------------------------------------------------------- the list


def programs(platform):
    """What is on file for a platform: the calls of each case's value, and what derivatives change.

    The list is the same for JAX 0.10.2 and 0.12 (`calls` leaves out what is not), with and
    without the package's own kernels, which no exported program calls.
    """
    found = {}
    for case, dtype in PINNED:
        a, f = separated(CASES[case][0], dtype), CASES[case][1]
        value, both = (calls(lowered_for([platform], g, a)) for g in (f, value_and_gradient(case)))
        more, less = ([x for x in y if x not in z] for y, z in ((both, value), (value, both)))
        changes = [*(f"+ {line}" for line in more), *(f"- {line}" for line in less)]
        found[f"{case}, {dtype}"] = {"value": value, "with gradient": changes}
    symbolic = jax.ShapeDtypeStruct((*export.symbolic_shape("b"), 6, 3), np.float64)
    found["deep, float64, symbolic batch"] = {
        "value": calls(lowered_for([platform], jaxqr.qr, symbolic))
    }
    return found


def lines(lists):
    return [f"{name}: {line}" for name, found in lists.items() for line in found]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_programs_call_what_is_on_file(platform):
    want, got = json.loads(FILE.read_text())[platform], programs(platform)
    changes = []
    for case in {**want, **got}:
        pair = lines(want.get(case, {})), lines(got.get(case, {}))
        changes += difflib.unified_diff(*pair, f"{case}, on file", f"{case}, now", "", "", 0, "")
    assert not changes, (
        f"programs for {platform} call something else than {FILE.name} says. If that is meant, "
        "write the file anew with\n    python tests/test_programs.py\n" + "\n".join(changes)
    )


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


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    table = {platform: programs(platform) for platform in PLATFORMS}
    FILE.write_text(json.dumps(table, indent=1) + "\n")
