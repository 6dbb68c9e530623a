"""What CONTRIBUTING promises of its recipes: each change has one place, and the rest follows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from jaxqr._core.primitive import make_primitive
from jaxqr._factor.packed import geqrf_p
from jaxqr._factor.pivoting import METHODS, Method
from matrices import normal


def factor_reversed(a):
    """A factorization of the columns in reverse order, as a way of pivoting."""
    n = a.shape[-1]
    order = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[::-1], (*a.shape[:-2], n))
    return [*geqrf_p.bind(a[..., ::-1]), order]


@pytest.fixture
def reversal(monkeypatch):
    monkeypatch.setitem(METHODS, "reversed", Method("reversed", factor_reversed, has_kernel=False))
    yield "reversed"
    jax.clear_caches()


def test_a_pivoting_is_one_entry_of_the_table(reversal):
    a = normal((2, 5, 3))
    q, r, p = jaxqr.qr(a, pivoting=reversal)
    np.testing.assert_array_equal(p, [[2, 1, 0]] * 2)
    np.testing.assert_allclose(q @ r, a[..., ::-1], atol=1e-13)
    lower, q, p = jaxqr.lq(a.mT, pivoting=reversal)
    np.testing.assert_allclose(lower @ q, a.mT[..., ::-1, :], atol=1e-13)


def test_derivatives_of_a_new_pivoting_follow(reversal):
    a, da = normal((5, 3)), normal((5, 3), seed=1)

    def through_pivoting(a):
        return tuple(jaxqr.qr(a, "complete", pivoting=reversal)[:2])

    def by_hand(a):
        return tuple(jaxqr.qr(a[:, ::-1], "complete"))

    got, want = (jax.jvp(f, (a,), (da,)) for f in (through_pivoting, by_hand))
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-12)


def test_a_lowering_for_one_platform_is_one_entry_and_leaves_the_others_alone():
    double_p = make_primitive(
        "double",
        core_ranks=(2,),
        results=lambda a: [(a, None)],
        body=lambda a: [a + a],
        platforms={"cuda": lambda a: [jnp.sinh(a)]},
    )
    traced = jax.jit(lambda a: double_p.bind(a)[0]).trace(jnp.ones((2, 3, 3)))
    text = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda")}
    assert "sinh" in text["cuda"] and "sinh" not in text["cpu"]
