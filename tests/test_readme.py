"""What README says of JAX, row by row.

Of JAX the facts are those of the versions that README names; newer ones may have mended them, and
are then only asked for what jaxqr does.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
import pytest

import jaxqr
from figures import measured
from meshes import mesh_of, put
from surroundings import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")

NEWEST_CHECKED = re.search(r"in JAX 0\.10\.2 and ([\d.]+\d) alike", README)[1]
of_checked_versions = pytest.mark.skipif(
    jax.__version_info__[:2] > tuple(map(int, NEWEST_CHECKED.split(".")))[:2],
    reason=f"README speaks of JAX up to {NEWEST_CHECKED}, this is {jax.__version__}",
)


@pytest.fixture(autouse=True)
def _as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def finite(tree):
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(tree))


def tangent_error(f, a, da):
    """How far each result's derivative along `da` is from a central difference."""
    h = 1e-5
    differences = jax.tree.map(lambda x, y: (x - y) / (2 * h), f(a + h * da), f(a - h * da))
    tangents = jax.jvp(f, (a,), (da,))[1]
    return max(
        jax.tree.leaves(jax.tree.map(lambda x, y: jnp.max(jnp.abs(x - y)), tangents, differences))
    )


def orthogonality_error(q):
    q = np.asarray(q, np.float64)
    return np.max(np.abs(q.T @ q - np.eye(q.shape[1])))


def weighted(x):
    return jnp.sum(jnp.reshape(jnp.arange(1.0, 1 + x.size), x.shape) * x)


# --------------------------------------------------------- one function per row: (JAX, jaxqr)
FACTS = {}


def row(case):
    def add(fact):
        FACTS[case] = fact
        return fact

    return add


@row("gradient where columns depend on each other")
def dependent_columns(jaxs):
    zero, repeated = jnp.zeros((4, 3)), normal(6, 4).at[:, 3].set(normal(6, 4)[:, 0])
    if jaxs:
        gradient = jax.grad(lambda a: weighted(jnp.linalg.qr(a).Q))
        assert not jnp.any(jnp.isfinite(gradient(zero)))
        assert not jnp.max(jnp.abs(gradient(repeated))) < 1e15
        return

    def gram(a):
        r, p = jaxqr.qr(a, mode="r", pivoting=True)
        back = r[:, jnp.argsort(p)]
        return weighted(back.T @ back)

    def projection(a):
        q = jaxqr.qr(a, pivoting=True).Q[:, :3]  # the range is that of three columns
        return weighted(q @ q.T)

    for a in (zero, repeated):
        assert jnp.max(jnp.abs(jax.grad(lambda a: weighted(jaxqr.qr(a).Q))(a))) < 1e3
    exact = jax.grad(lambda a: weighted(a.T @ a))(repeated)
    np.testing.assert_allclose(jax.grad(gram)(repeated), exact, atol=1e-10)
    # along matrices of the same range's dimension, whose last column repeats the first
    along = normal(6, 4, seed=1).at[:, 3].set(normal(6, 4, seed=1)[:, 0])
    exact = jax.jvp(lambda a: weighted(a @ jnp.linalg.pinv(a)), (repeated[:, :3],), (along[:, :3],))
    found = jax.jvp(projection, (repeated,), (along,))
    np.testing.assert_allclose(found, exact, atol=1e-10)


@row("derivative of the pivoted QR of a wide matrix")
def pivoted_wide(jaxs):
    a, da = normal(3, 6), normal(3, 6, seed=1)
    if jaxs:
        stock = partial(jsl.qr, mode="economic", pivoting=True)
        assert tangent_error(lambda a: stock(a)[:2], a, da) > 0.1
    else:
        assert tangent_error(lambda a: jaxqr.qr(a, pivoting=True)[:2], a, da) < 1e-7


@row("gradient of the pivoted QR of a batch")
def pivoted_batch(jaxs):
    a = normal(2, 4, 3)
    if jaxs:
        with pytest.raises(TypeError, match="batch dimensions"):
            jax.grad(lambda a: weighted(jsl.qr(a, mode="economic", pivoting=True)[1]))(a)
    else:
        da = normal(2, 4, 3, seed=1)
        assert tangent_error(lambda a: jaxqr.qr(a, pivoting=True)[:2], a, da) < 1e-7


@row("derivative of a complete Q, at `eye(4)[:, :2]`")
def complete(jaxs):
    a, da = jnp.eye(4)[:, :2], normal(4, 2)
    if jaxs:
        tangent = jax.jvp(lambda a: jnp.linalg.qr(a, mode="complete").Q, (a,), (da,))[1]
        assert jnp.any(jnp.isnan(tangent))
        return

    def complement(a):
        q = jaxqr.qr(a, mode="complete").Q[:, 2:]
        return q @ q.T

    assert finite(jax.jvp(lambda a: jaxqr.qr(a, mode="complete").Q, (a,), (da,)))
    assert tangent_error(complement, a, da) < 1e-7


@row("gradient of least squares where singular values are equal")
def equal_singular_values(jaxs):
    a, b = jnp.eye(4)[:, :2], jnp.arange(4.0)
    if jaxs:
        assert jnp.any(jnp.isnan(jax.grad(lambda a: jnp.sum(jnp.linalg.lstsq(a, b)[0]))(a)))
    else:
        assert tangent_error(lambda a: jaxqr.lstsq(a, b).x, a, normal(4, 2)) < 1e-7


@row("float32 matrices with entries of 1e38")
def large_entries(jaxs):
    a = jnp.float32(1e38) * jnp.cos(jnp.arange(24, dtype=jnp.float32)).reshape(6, 4)
    if jaxs:
        assert finite(jnp.linalg.qr(a))
        assert orthogonality_error(jnp.linalg.qr(a).Q) > 0.5
    else:
        q, r = jaxqr.qr(a)
        assert orthogonality_error(q) < 1e-5
        q, r, a = (np.asarray(x, np.float64) for x in (q, r / 1e38, a / 1e38))
        np.testing.assert_allclose(q @ r, a, atol=1e-5)


@row("derivative of `qr_multiply`, of products with Q and of packed reflectors")
def products(jaxs):
    a, c = normal(4, 3), normal(4)
    if jaxs:
        for f, x in (
            (lambda c: weighted(jsl.qr_multiply(a, c)[0]), c),
            (lambda c: weighted(jax.lax.linalg.ormqr(a, jnp.ones(3), c[:, None])), c),
            (lambda a: weighted(jax.lax.linalg.householder_product(a, jnp.ones(3))), a),
            (lambda a: weighted(jnp.linalg.qr(a, mode="raw")[0]), a),
        ):
            with pytest.raises(NotImplementedError, match="Differentiation rule"):
                jax.grad(f)(x)
        return
    h, tau = jaxqr.qr(a, mode="raw")
    for f, x in (
        (lambda a: jaxqr.qr_multiply(a, c)[0], a),
        (lambda c: jaxqr.qr_multiply(a, c)[0], c),
        (lambda c: jaxqr.householder_multiply(h.mT, tau, c), c),
        (lambda h: jaxqr.householder_product(h, tau), h.mT),
        (lambda a: jaxqr.qr(a, mode="raw"), a),
        (jax.grad(lambda a: weighted(jaxqr.qr_multiply(a, c)[0])), a),
    ):
        assert tangent_error(jax.jit(f), x, normal(*x.shape, seed=1)) < 1e-6


@row("least squares of a batch")
def batch_of_least_squares(jaxs):
    a, b = normal(2, 4, 3), normal(2, 4, 1)
    if jaxs:
        with pytest.raises(TypeError, match="two-dimensional"):
            jnp.linalg.lstsq(a, b)
    else:
        np.testing.assert_allclose(jaxqr.lstsq(a, b).x, jnp.linalg.pinv(a) @ b, atol=1e-12)


@row("float16 and bfloat16")
def half_precision(jaxs):
    for dtype in (jnp.float16, jnp.bfloat16):
        a = normal(6, 4).astype(dtype)
        if jaxs:
            with pytest.raises((TypeError, NotImplementedError)):
                jnp.linalg.qr(a)
        else:
            q, r = jaxqr.qr(a)
            single = jaxqr.qr(a.astype(jnp.float32))
            assert q.dtype == r.dtype == dtype
            assert jnp.array_equal(q, single.Q.astype(dtype)) and jnp.array_equal(
                r, single.R.astype(dtype)
            )


@row("LQ, RQ, QL, a non-negative diagonal, randomized pivots")
def other_factorizations(jaxs):
    if jaxs:
        for module in (jnp.linalg, jsl, jax.lax.linalg):
            assert not {"lq", "rq", "ql"} & set(dir(module))
        for option in ({"positive_diagonal": True}, {"pivoting": "randomized"}):
            with pytest.raises(TypeError):
                jnp.linalg.qr(normal(4, 3), **option)
    else:
        a = normal(4, 4)
        for f in (jaxqr.lq, jaxqr.rq, jaxqr.ql, partial(jaxqr.qr, positive_diagonal=True)):
            x, y = f(a)
            np.testing.assert_allclose(x @ y, a, atol=1e-12)
        assert jnp.all(jnp.diagonal(y) > 0)
        q, r, p = jaxqr.qr(a, pivoting="randomized")
        np.testing.assert_allclose(q @ r, a[:, p], atol=1e-12)


@row("pivoted QR on a TPU")
def pivoted_on_tpu(jaxs):
    def program(f):
        traced = jax.jit(f).trace(jnp.ones((4, 3), jnp.float32))
        return traced.lower(lowering_platforms=("tpu",)).as_text()

    if jaxs:
        with pytest.raises(NotImplementedError, match="geqp3"):
            program(lambda a: jsl.qr(a, pivoting=True))
    else:
        assert "geqp3" not in program(lambda a: tuple(jaxqr.qr(a, pivoting=True)))


@row("tall matrix whose rows are on many devices")
def rows_on_many_devices(jaxs):
    qr = jnp.linalg.qr if jaxs else partial(jaxqr.tsqr, axis_name="x")
    with mesh_of("automatic") as mesh:
        (a,) = put(mesh, normal(4096, 8))
        qr = qr if jaxs else partial(qr, mesh=mesh)
        text = jax.jit(lambda a: tuple(qr(a))).lower(a).compile().as_text()
    gathered = set(re.findall(r"= (\w+\[[\d,]*\])\S* all-gather\(", text))
    assert gathered == {"f64[4096,8]" if jaxs else "f64[64,8]"}  # or 8 triangles


@row("time on a CPU, geometric means ([where and what](docs/speed.md))")
def time(jaxs):
    qr, _, _, pivoted, lstsq, _ = (of_work[-1] for of_work in measured().values())
    if jaxs:
        assert f"QR {qr}, pivoted QR {pivoted}, least squares {lstsq} times as long" in README
    else:
        assert min(map(float, (qr, pivoted, lstsq))) > 1


# --------------------------------------------------------------------------------- the tests
@pytest.mark.parametrize("case", FACTS)
def test_jaxqr_is_right_where_the_table_says_so(case):
    FACTS[case](jaxs=False)


@of_checked_versions
@pytest.mark.parametrize("case", FACTS)
def test_jax_does_what_the_table_says(case):
    FACTS[case](jaxs=True)


def test_every_row_of_the_table_is_checked():
    lines = README.split("| case | JAX | jaxqr |\n")[1].split("\n\n")[0].splitlines()[1:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == list(FACTS)
