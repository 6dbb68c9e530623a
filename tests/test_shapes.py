"""Shapes that a platform factors in a way of its own: wide, tall and tiny ones."""

import itertools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from foreign_platform import difference, lowered_for, targets
from jaxqr._factor import shapes
from jaxqr._factor.packed import orgqr_p
from jaxqr._factor.qr_primitive import factor
from jaxqr._lowering import cuda
from laws import mostly_nightly, quickly
from matrices import DTYPES, LIMIT, double, hostile, normal, orthogonality_ratio, residual_ratio

OUTPUTS = ("q", "r", "h", "tau")
TINY = [*itertools.product(range(1, 5), repeat=2)]


def by_shape(function, a, *outputs):
    values = quickly(lambda a: function(a, outputs), a)
    return [values[name] for name in outputs]


on_cuda = partial(by_shape, partial(shapes.factor_on_cuda, factor=factor))
tiny = partial(by_shape, shapes.factor_tiny)


@pytest.fixture
def kernels_for_cuda(monkeypatch):
    """As where there are some. Here the CPU takes their place, as the default device."""
    monkeypatch.setattr(cuda, "available", lambda: True)


def want(a, *outputs):
    return factor(jnp.asarray(a), *outputs)


# ----------------------------------------------------------------------------------------- wide


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("shape", [(3, 4, 33), (32, 100)])
def test_wide_factors_are_lapacks(shape, dtype, kernels_for_cuda):
    a = normal(shape, dtype)
    assert difference(on_cuda(a, *OUTPUTS), want(a, *OUTPUTS)) < 100


def test_columns_of_a_wide_matrix_may_be_of_any_size(kernels_for_cuda):
    a = normal((2, 6, 40), "float32")
    sizes = np.float32(2.0) ** np.random.default_rng(0).permutation(np.linspace(-100, 120, 40))
    q, r = map(np.asarray, on_cuda(a * sizes, "q", "r"))
    assert orthogonality_ratio(q) < LIMIT
    assert residual_ratio(a, q @ (r / sizes)) < LIMIT
    a[0, 2, 35] = np.nan
    hurt_q, hurt_r = map(np.asarray, on_cuda(a * sizes, "q", "r"))
    assert np.isnan(hurt_q[0]).all() and np.isnan(hurt_r[0][np.triu_indices(6, 0, 40)]).all()
    np.testing.assert_array_equal(hurt_q[1], q[1])
    np.testing.assert_array_equal(hurt_r[1], r[1])


# ----------------------------------------------------------------------------------------- tiny


@pytest.mark.parametrize("shape, dtype", mostly_nightly(itertools.product(TINY, DTYPES), 7))
def test_tiny_factors_are_lapacks(shape, dtype):
    a = normal((5, *shape), dtype)
    a[1] = np.triu(a[1]).real
    a[2] = 0
    a[3, :, -1] = 0
    outputs = (*OUTPUTS, "q_full") if shape[0] > shape[1] else OUTPUTS
    values = quickly(lambda a: {**shapes.unrolled.factor(a, outputs)}, a)
    assert difference([values[name] for name in outputs], want(a, *outputs)) < 100


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_hostile_tiny_matrices_have_a_factorization(dtype):
    matrices = hostile(3, dtype)
    q, r, h, tau = map(np.asarray, tiny(np.stack([*matrices.values()]), *OUTPUTS))
    formed = np.asarray(orgqr_p.bind(h, tau)[0])
    for i, (name, a) in enumerate(matrices.items()):
        for columns in (q[i], formed[i]):
            assert residual_ratio(a, double(columns) @ double(r[i])) < LIMIT, name
            assert orthogonality_ratio(columns) < LIMIT, name


def test_nan_stays_in_its_tiny_matrix():
    a = normal((3, 3, 3))
    a[0, 2, 0], a[1, 0, 2] = np.nan, -np.inf
    q, r = map(np.asarray, tiny(a, "q", "r"))
    assert np.isnan(q[:2]).all() and np.isnan(r[:2][:, *np.triu_indices(3)]).all()
    np.testing.assert_array_equal(np.tril(r, -1), 0)
    assert difference([q[2], r[2]], want(a[2], "q", "r")) < 100


# ---------------------------------------------------------------------------------- what is called

ROUTINES = {"geqrf", "orgqr", "Qr", "ProductOfElementaryHouseholderReflectors"}


def routines(platform, shape, *, exported=False, f=jaxqr.qr):
    """The platform's own routines that a program calls."""
    a, g = normal(shape, "float32"), lambda a: f(a)  # another each time, traced anew
    if exported:
        found = targets(lowered_for([platform], g, a))
    else:
        lowered = jax.jit(g).trace(a).lower(lowering_platforms=(platform,))
        found = set(re.findall(r"custom_call @([\w.]+)", lowered.as_text()))
    return {name for name in found if any(routine in name for routine in ROUTINES)}


@pytest.mark.parametrize("platform", ["rocm", "tpu"])
def test_tiny_matrices_need_no_routine_but_in_programs_for_elsewhere(platform):
    for f in (jaxqr.qr, jaxqr.lq):
        assert routines(platform, (7, 4, 3), f=f) == set()
        assert len(routines(platform, (7, 4, 3), f=f, exported=True)) == 2
        assert len(routines(platform, (7, 5, 3), f=f)) == 2


def test_without_kernels_cuda_has_no_shapes_of_its_own(monkeypatch):
    monkeypatch.setattr(cuda, "available", lambda: False)
    for shape in ((4, 40), (3000, 5), (3000, 40), (70, 60)):
        assert routines("cuda", shape) == {"cusolver_geqrf_ffi", "cusolver_orgqr_ffi"}


def test_exported_programs_for_cuda_have_no_shapes_of_its_own():
    for shape in ((4, 40), (3000, 5)):
        found = routines("cuda", shape, exported=True)
        assert found == {"cusolver_geqrf_ffi", "cusolver_orgqr_ffi"}
