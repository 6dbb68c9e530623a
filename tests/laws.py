"""What holds for factors and for derivatives, in the words of tests: each law is written once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqr
from matrices import LIMIT, double, normal, orthogonality_ratio, residual_ratio

MODES = ("reduced", "complete", "triangle", "raw")
STEP = 1e-4
# compiling takes most of the time
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def quickly(f, *args):
    """Compile without optimization, and run."""
    return jax.jit(f, compiler_options=QUICK)(*args)


def mostly_nightly(cases, by_day):
    """Cases to parametrize with, most of which run nightly only.

    `by_day` tells of a case whether it always runs; or it is a number, and one in so many does.
    """
    found = []
    for i, case in enumerate(cases):
        always = i % by_day == 0 if isinstance(by_day, int) else by_day(*case)
        found.append(pytest.param(*case, marks=() if always else pytest.mark.nightly))
    return found


# ------------------------------------------------------------------------------- comparisons


def assert_close(got, want, tol=1e-11, *, dtypes=True):
    """Trees of the same shapes; each array to `tol` of its largest entry, or of one."""
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    assert len(got) == len(want)
    for x, y in zip(got, want, strict=True):
        assert x.shape == y.shape
        assert x.dtype == y.dtype or not dtypes
        x, y = (np.asarray(z).astype(np.result_type(z.dtype, np.float32)) for z in (x, y))
        np.testing.assert_allclose(x, y, rtol=0, atol=tol * np.max(np.abs(y), initial=1))


def relative_error(got, expected):
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    assert np.isfinite(got).all()
    return np.max(np.abs(got - expected), initial=0) / max(1, np.max(np.abs(expected), initial=0))


def pairing(x, y):
    """Re <x, y>, without conjugation, as JAX pairs cotangents and tangents."""
    pairs = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    return sum((s * t).sum().real for s, t in pairs)


# ------------------------------------------------------------------------------- factors


def factors(name, a, mode="reduced", **options):
    """Q with orthonormal columns, R, and the matrix that is their product, for qr and lq alike."""
    out = getattr(jaxqr, name)(a, mode, **options)
    a = np.asarray(a)
    if name == "lq":
        a = np.swapaxes(a, -1, -2)
        q, r = np.swapaxes(out.Q, -1, -2), np.swapaxes(out.L, -1, -2)
    else:
        q, r = np.asarray(out.Q), np.asarray(out.R)
    if options.get("pivoting"):
        p = np.asarray(out.P)
        assert p.dtype == np.int32
        assert np.array_equal(np.sort(p, axis=-1), np.broadcast_to(np.arange(a.shape[-1]), p.shape))
        a = np.take_along_axis(a, p[..., None, :], -1)
    return q, r, a


def assert_factors(name, a, mode="reduced", **options):
    """The laws of a factorization, by LAPACK's ratios."""
    assert_factored(*factors(name, a, mode, **options), mode, **options)


def assert_factored(q, r, a, mode="reduced", **options):
    """The same for factors of `a`, whose columns are permuted already."""
    columns = a.shape[-2] if mode == "complete" else min(a.shape[-2:])
    assert q.shape == (*a.shape[:-1], columns)
    assert r.shape == (*a.shape[:-2], columns, a.shape[-1])
    assert q.dtype == r.dtype == a.dtype
    assert residual_ratio(a, double(q) @ double(r)) < LIMIT
    assert orthogonality_ratio(q) < LIMIT
    assert np.all(np.tril(r, -1) == 0)
    diagonal = np.diagonal(r, axis1=-2, axis2=-1)
    assert np.all(diagonal.imag == 0)
    if options.get("pivoting"):
        sizes, info = np.abs(diagonal), np.finfo(a.dtype)
        least = np.minimum.accumulate(sizes, axis=-1)[..., :-1]
        more = 3 if options["pivoting"] == "randomized" else 1 + 10 * info.eps
        # denormal numbers, which some platforms flush, are in no order
        assert np.all(sizes[..., 1:] <= least * more + info.tiny)
    if options.get("positive_diagonal"):
        assert np.all(diagonal.real >= 0)


# ------------------------------------------------------------------------------- derivatives


def floating(tree):
    """The leaves that have derivatives."""
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]


def loss_of(f):
    return lambda *args: sum(jnp.sum(jnp.sin(x)).real for x in floating(f(*args)))


def differentiable(name, mode, pivoting=False, **options):
    """The factorization as a function of `a` alone, to the tuple of its inexact outputs."""
    mode = {"qr": "r", "lq": "l", "rq": "r", "ql": "l"}[name] if mode == "triangle" else mode
    options = {"pivoting": pivoting, **options} if name in ("qr", "lq") else options
    return lambda a: tuple(floating(getattr(jaxqr, name)(a, mode, **options)))


def derivatives(function, primals, tangents, cotangents):
    """Values, their tangents, and the gradients by every argument."""
    values, pushed = jax.jvp(function, primals, tangents)
    return values, pushed, jax.vjp(function, *primals)[1](cotangents)


def fourth_order(values, step=STEP):
    """A central difference at 0, of values at -2, -1, 1 and 2 steps."""
    far_low, low, high, far_high = values
    return (8 * (high - low) - (far_high - far_low)) / (12 * step)


def differences(function, a, da, step=STEP):
    """Central differences of each result of `function` along `da`; `a` may be a tree."""
    steps = step * jnp.array([-2.0, -1.0, 1.0, 2.0])

    def along(t):
        return function(jax.tree.map(lambda x, dx: x + t.astype(x.dtype) * dx, a, da))

    return [fourth_order(v, step) for v in jax.tree.leaves(jax.vmap(along)(steps))]


def assert_differentiable(function, x, dx, first=1e-6, second=1e-6):
    """Tangents and Hessian-vector products equal differences along dx; cotangents pair."""
    cotangents = tuple(normal(s.shape, s.dtype, seed=5) for s in jax.eval_shape(function, x))

    def gradient(x):
        return jax.vjp(function, x)[1](cotangents)[0]

    @jax.jit
    def everything(x, dx):
        return (
            jax.jvp(function, (x,), (dx,))[1],
            differences(function, x, dx),
            *jax.jvp(gradient, (x,), (dx,)),
            differences(gradient, x, dx),
        )

    tangents, expected, cotangent, product, expected_product = everything(x, dx)
    for tangent, difference in zip(tangents, expected, strict=True):
        assert relative_error(tangent, difference) < first
    forward = pairing(cotangents, tangents)
    assert abs(forward - pairing(cotangent, dx)) < 1e-9 * max(1, abs(forward))
    for tangent, difference in zip(jax.tree.leaves(product), expected_product, strict=True):
        assert relative_error(tangent, difference) < second
