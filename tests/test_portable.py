"""Householder's method in plain HLO, in blocks: factors and pivots are LAPACK's."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import jaxqr
from foreign_platform import difference, lowered_for, targets
from jaxprs import equations
from jaxqr._factor.packed import geqp3_p, geqrf_p, orgqr_p, ormqr_p
from jaxqr._lowering import by_columns, portable
from laws import mostly_nightly, quickly
from matrices import DTYPES, LIMIT, kahan, normal, orthogonality_ratio, residual_ratio, separated

ORDER = 90  # of the stress matrices: two whole blocks, and columns one by one


@pytest.mark.parametrize(
    "dtype, shape",
    mostly_nightly(itertools.product(DTYPES, [(2, 70, 67), (64, 80), (2, 1, 40, 33)]), 5),
    ids=str,
)
def test_blocks_are_lapacks(dtype, shape):
    assert min(shape[-2:]) > portable.WIDTH
    a = normal(shape, dtype)
    plain, pivoted = quickly(lambda a: (portable.geqrf(a), portable.geqp3(a)), a)
    own_plain, own_pivoted = quickly(lambda a: (geqrf_p.bind(a), geqp3_p.bind(a)), a)
    np.testing.assert_array_equal(pivoted[2], own_pivoted[2])
    assert difference(plain, own_plain) < 1000
    assert difference(pivoted[:2], own_pivoted[:2]) < 1000


def test_stages_are_lapacks(monkeypatch):
    monkeypatch.setattr(by_columns, "LARGE", 64)
    a = normal((150, 140))
    plain, pivoted = quickly(lambda a: (portable.geqrf(a), portable.geqp3(a)), a)
    own_plain, own_pivoted = quickly(lambda a: (geqrf_p.bind(a), geqp3_p.bind(a)), a)
    np.testing.assert_array_equal(pivoted[2], own_pivoted[2])
    assert difference((plain, pivoted[:2]), (own_plain, own_pivoted[:2])) < 1000


def nested(n, levels, step):
    """Columns parallel up to `step`, the rest parallel up to step**2, ...: downdating cancels."""
    scale = step ** np.arange(levels)
    u, v = normal((levels, n)), normal((levels, n), seed=1)
    return (u.T * scale) @ v + step**levels * normal((n, n), seed=9)


STRESS = {
    "kahan": kahan(ORDER, 0.4, 0.999),
    "graded": normal((ORDER, ORDER))
    * 10.0 ** -(np.random.default_rng(0).permutation(ORDER) ** 0.5),
    "parallel": nested(ORDER, 1, 1e-9),
    "nested": nested(ORDER, 3, 1e-4),
    "steps": normal((ORDER, ORDER)) * 1e-9 ** (np.arange(ORDER) // 45)[:, None],
}


@pytest.fixture(scope="module")
def in_a_batch():
    return quickly(portable.geqp3, np.stack([*STRESS.values()]))


@pytest.mark.parametrize("name", STRESS)
def test_pivots_are_lapacks_where_downdating_cancels(name, in_a_batch):
    a = STRESS[name]
    h, tau, p = (x[[*STRESS].index(name)] for x in in_a_batch)
    q, r = portable.orgqr(h, tau)[0], jnp.triu(h)
    assert residual_ratio(a[:, p], q @ r) < LIMIT
    assert orthogonality_ratio(q) < LIMIT
    size = np.abs(np.diagonal(r))
    assert np.all(size[1:] <= size[:-1] * (1 + 1e-7))
    _, own, lapacks = scipy.linalg.qr(a, pivoting=True)
    np.testing.assert_array_equal(p, lapacks)
    # nested: its last columns stand out of rounding errors by three digits
    np.testing.assert_allclose(size, np.abs(np.diagonal(own)), rtol=1e-3)


def test_a_matrix_is_factored_in_a_batch_as_alone(in_a_batch):
    h, _, p = quickly(portable.geqp3, STRESS["kahan"])
    np.testing.assert_array_equal(p, in_a_batch[2][0])
    np.testing.assert_allclose(h, in_a_batch[0][0], rtol=1e-9, atol=1e-9)


def test_gpus_have_the_same_pivots(in_a_batch):
    """Of all steps of a block those after its end do nothing."""
    a = np.stack([*STRESS.values()])
    exported = lowered_for(["rocm"], lambda a: geqp3_p.bind(a), a)
    assert targets(exported) == set()
    h, tau, p = quickly(exported.call, a)
    np.testing.assert_array_equal(p, in_a_batch[2])
    np.testing.assert_allclose(h, in_a_batch[0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(tau, in_a_batch[1], rtol=1e-9, atol=1e-9)


def test_gpus_are_asked_whether_to_go_on_between_blocks_alone():
    def asked(**options):
        """What the loops within a loop, which are over the steps of a block, look at."""
        jaxpr = jax.make_jaxpr(lambda a: portable.geqp3(a, **options))(normal((70, 70)))
        outer = [e for e in equations(jaxpr) if e.primitive.name == "while"]
        inner = [e for loop in outer for e in equations(loop.params["body_jaxpr"])]
        conditions = [e.params["cond_jaxpr"] for e in inner if e.primitive.name == "while"]
        return {e.primitive.name for jaxpr in conditions for e in equations(jaxpr)}

    assert asked(ask=False) == {"lt"}
    assert "reduce_min" in asked(ask=True)


def test_nan_stays_in_its_matrix():
    a = normal((2, 40, 40))
    a[0, 3, 5] = np.nan
    h, tau, p = quickly(portable.geqp3, a)
    want = quickly(portable.geqp3, a[1:])
    assert np.all(np.isnan(h[0]).any() & np.isnan(tau[0]).any())
    assert np.array_equal(np.sort(p[0]), np.arange(40))
    np.testing.assert_array_equal(p[1], want[2][0])
    np.testing.assert_allclose(h[1], want[0][0], rtol=1e-10, atol=1e-12)


# ------------------------------------------------------------- small: column after column


def batch_of_matrices(m, n, dtype):
    """Regular, zero, with a zero column, and upper triangular."""
    a = np.stack([separated((m, n), dtype, seed) for seed in range(4)])
    a[1] = 0
    a[2, :, n // 2] = 0
    a[3] = np.triu(a[3])
    return a


@pytest.mark.parametrize(
    "m, n, dtype",
    mostly_nightly(
        [
            *((m, n, dtype) for m, n in [(7, 4), (4, 7)] for dtype in DTYPES),
            *((m, n, "complex128") for m, n in [(5, 5), (3, 1), (1, 3)]),
        ],
        3,
    ),
)
def test_portable_factors_are_lapacks(m, n, dtype):
    a = batch_of_matrices(m, n, dtype)
    k = min(m, n)
    c = normal((4, m, 2), dtype)

    def by(geqrf, geqp3, orgqr, ormqr):
        def program(a, c):
            (h, tau), (hp, taup, p) = geqrf(a), geqp3(a)
            q = orgqr(h[..., :k], tau)
            turned = [
                ormqr(h[..., :k], tau, c if left else c.mT, left=left, adjoint=adjoint)
                for left in (True, False)
                for adjoint in (True, False)
            ]
            return (h, hp), (tau, taup, q, turned), p

        return quickly(program, a, c)

    got = by(portable.geqrf, portable.geqp3, portable.orgqr, portable.ormqr)
    want = by(geqrf_p.bind, geqp3_p.bind, orgqr_p.bind, ormqr_p.bind)
    np.testing.assert_array_equal(got[2], want[2])
    assert got[2].dtype == want[2].dtype
    assert difference(got[:2], want[:2]) < 100


@jax.jit
def pivoted(a):
    h, tau, p = portable.geqp3(a)
    return portable.orgqr(h[:, : tau.size], tau)[0], jnp.triu(h[: tau.size]), p


def judged(a):
    """The pivots, and abs(diag(R)), of a factorization that passes."""
    q, r, p = pivoted(a)
    assert residual_ratio(a[:, p], q @ r) < LIMIT
    assert orthogonality_ratio(q) < LIMIT
    return p, np.abs(np.diagonal(r))


def nested_small(levels, step):
    """Columns parallel up to `step`, the rest parallel up to step**2, ...: downdating cancels."""
    m, n = 8, 6
    scale = step ** np.arange(levels)
    terms = [s * np.outer(*(normal((d,), seed=i) for d in (m, n))) for i, s in enumerate(scale)]
    return sum(terms) + step**levels * separated((m, n), seed=9)


SMALL = {
    "kahan": kahan(30, 0.4, 0.999),
    "graded": normal((8, 6)) * 10.0 ** -np.array([4, 0, 10, 2, 8, 6]),
    "graded rows": normal((8, 6)) * 10.0 ** -np.arange(0, 16, 2)[:, None],
    "parallel": nested_small(1, 1e-9),
    "nested": nested_small(3, 1e-4),
}


@pytest.mark.parametrize("name", SMALL)
def test_portable_pivots_are_lapacks_where_downdating_cancels(name):
    a = SMALL[name]
    p, size = judged(a)
    assert np.all(size[1:] <= size[:-1] * (1 + 1e-12))
    _, r, lapacks = scipy.linalg.qr(a, pivoting=True)
    np.testing.assert_array_equal(p, lapacks)
    np.testing.assert_allclose(size, np.abs(np.diagonal(r)), rtol=1e-4)


def test_portable_pivoting_reveals_the_rank():
    a = normal((8, 3)) @ normal((3, 6), seed=1)
    _, size = judged(a)
    assert np.all(size[3:] < 1e-14 * size[0])
    assert np.all(size[:3] > 1e-2 * size[0])


@pytest.mark.parametrize("zero", [0.0, -0.0, complex(-0.0, 0.0), complex(0.0, -0.0)])
def test_a_pivot_of_zero_has_the_sign_that_lapack_gives_it(zero):
    a = normal((4, 3), np.asarray(zero).dtype)
    a[0, 0] = a[0, 1] = zero
    a[:, 1] *= 9.0
    (want, _), _ = scipy.linalg.qr(a, mode="raw")
    (want_pivoted, _), _, p = scipy.linalg.qr(a, mode="raw", pivoting=True)
    np.testing.assert_allclose(portable.geqrf(jnp.asarray(a))[0], want, atol=1e-13)
    h, _, order = portable.geqp3(jnp.asarray(a))
    np.testing.assert_array_equal(order, p)
    np.testing.assert_allclose(h, want_pivoted, atol=1e-13)
    r = jaxqr.qr(a, "r")
    np.testing.assert_allclose(r, np.triu(want)[:3], atol=1e-13)
