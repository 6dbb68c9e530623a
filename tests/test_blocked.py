"""Larger matrices on CUDA: panels, each one kernel, and products of matrices."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from foreign_platform import difference, lowered_for, targets
from jaxqr._factor.packed import geqrf_p, orgqr_p
from jaxqr._lowering import cuda, portable
from jaxqr._lowering.blocked import BLOCKED
from jaxqr._lowering.panel import factor_panel
from laws import mostly_nightly, quickly
from matrices import DTYPES, LIMIT, adjoint, normal, orthogonality_ratio, residual_ratio

FIRST = np.array([0, 7, 2], np.int32)


@pytest.fixture(autouse=True)
def _kernels_for_cuda(monkeypatch):
    """As where there are some. Panels are the portable ones here, on a CPU."""
    monkeypatch.setattr(cuda, "available", lambda: True)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_a_panel_is_lapacks_below_the_first_row_of_each_matrix(dtype):
    a = normal((3, 20, 5), dtype)
    packed, tau, t = map(np.asarray, quickly(factor_panel, a.swapaxes(-1, -2), FIRST))
    for i, first in enumerate(FIRST):
        h = np.swapaxes(packed[i], -1, -2)
        np.testing.assert_array_equal(h[:first], a[i, :first])
        want = geqrf_p.bind(jnp.asarray(a[i, first:]))
        assert difference([h[first:], tau[i]], want) < 100
        identity = np.eye(20 - first, dtype=dtype)
        v = np.tril(h[first:], -1) + identity[:, :5]
        (q,) = orgqr_p.bind(np.hstack([h[first:], identity[:, 5:]]), tau[i])
        assert difference(identity - v @ t[i] @ adjoint(v), q) < 100
        np.testing.assert_array_equal(np.tril(t[i], -1), 0)


def test_panels_of_a_mapped_batch_are_those_of_each_matrix():
    a = normal((2, 3, 4, 9))
    got = jax.vmap(factor_panel, in_axes=(1, None), out_axes=1)(a, FIRST[:2])
    want = factor_panel(jnp.asarray(a), jnp.broadcast_to(FIRST[:2, None], (2, 3)))
    assert difference(got, want) < 10


BLOCKS = [(2, 70, 70), (150, 130), (40, 100), (2, 1, 200, 33)]


@pytest.mark.parametrize("shape, dtype", mostly_nightly(itertools.product(BLOCKS, DTYPES), 5))
def test_q_and_r_of_blocks_are_lapacks(shape, dtype):
    a = normal(shape, dtype)
    k = min(shape[-2:])
    (h, tau), (q,) = quickly(
        lambda a: (factors := BLOCKED.geqrf(a), BLOCKED.orgqr(factors[0][..., :k], factors[1])), a
    )
    assert difference([h, tau], geqrf_p.bind(jnp.asarray(a))) < 1000
    assert difference([q], orgqr_p.bind(h[..., :k], tau)) < 1000
    assert residual_ratio(a, q @ jnp.triu(h[..., :k, :])) < LIMIT
    assert orthogonality_ratio(q) < LIMIT


def test_reflectors_that_are_trivial_stay_so_in_blocks():
    a = np.stack([np.eye(80, 70), normal((80, 70)), np.zeros((80, 70))])
    a[1, :, 40:50] = 0
    h, tau = portable.geqrf(jnp.asarray(a))
    (q,) = BLOCKED.orgqr(h, tau)
    assert np.all(tau[0] == 0) and np.all(tau[1, 40:50] == 0) and np.all(tau[2] == 0)
    np.testing.assert_array_equal(q[::2], np.stack([np.eye(80, 70)] * 2))
    assert orthogonality_ratio(q) < LIMIT


def test_q_has_more_columns_than_reflectors():
    h, tau = geqrf_p.bind(jnp.asarray(normal((90, 40))))
    wide = jnp.concatenate([h, jnp.ones((90, 50))], axis=-1)
    assert difference(BLOCKED.orgqr(wide, tau), orgqr_p.bind(wide, tau)) < 1000


def called(shape):
    """The custom calls of a program that is compiled for CUDA, and of one that is exported."""
    a, f = normal(shape, "float32"), lambda a: jaxqr.qr(a)  # another each time, traced anew
    text = jax.jit(f).trace(a).lower(lowering_platforms=("cuda",)).as_text()
    return set(re.findall(r"custom_call @([\w.]+)", text)), targets(lowered_for(["cuda"], f, a))


CUSOLVER = {"cusolver_geqrf_ffi", "cusolver_orgqr_ffi"}


def test_a_program_for_this_machine_has_panels_where_an_exported_one_calls_cusolver(monkeypatch):
    compiled, exported = called((2, 70, 60))
    assert not compiled & CUSOLVER
    assert exported == CUSOLVER
    assert "cusolver_geqrf_ffi" in called((1100, 80))[0]  # longer than a panel
    monkeypatch.setattr(cuda, "available", lambda: False)
    assert called((2, 70, 60))[0] == CUSOLVER
