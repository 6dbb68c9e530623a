"""What those CUDA kernels obey that have no like on the CPU."""

import numpy as np
import scipy.linalg

from problems import LETTERS, LIMIT, adjoint, assert_close, assert_orthonormal, norm, normal


def panel(library, rng):
    """A panel is factored from its own row on as by LAPACK, with T of Q = I - V T V^H."""
    dtype, batch, m, w = library.problem(rng)
    m, w = max(m, w), min(m, w)
    a = normal(rng, (batch, m, w), dtype)
    if rng.random() < 0.2:
        a *= 10.0 ** rng.integers(-20, 10, (batch, 1, w))
    if rng.random() < 0.2:  # nothing to eliminate
        a[:, int(rng.integers(m)) :, int(rng.integers(w))] = 0
    first, eps = rng.integers(0, m - w + 1, batch), np.finfo(dtype).eps
    h, tau, t = library.panel(np.ascontiguousarray(np.swapaxes(a, 1, 2)), first)
    h = np.swapaxes(h, 1, 2)
    assert np.all(np.tril(t, -1) == 0), "T is not triangular"
    difference = np.abs(np.diagonal(t, axis1=1, axis2=2) - tau)
    assert np.max(difference) < LIMIT * w * eps, "tau is not T's diagonal"
    for i, begin in enumerate(first):
        assert np.array_equal(h[i, :begin], a[i, :begin]), "rows before the panel"
        rest = a[i, begin:]
        v = np.tril(h[i, begin:], -1).astype(np.result_type(dtype, np.float64))
        v += np.eye(*v.shape)
        q = np.eye(len(v)) - v @ t[i] @ adjoint(v)
        assert_orthonormal(q.astype(dtype)[None], eps)
        size = np.maximum(np.abs(rest).max(axis=0), np.finfo(dtype).tiny)
        error = np.abs(rest / size - q @ (np.triu(h[i, begin:]) / size)).sum(axis=0).max()
        assert error < LIMIT * max(m, w) * eps, f"residual {error}"


def signs(library, rng):
    """Of a Q with any signs those that LAPACK's has, and L and U of Q S - I."""
    dtype, batch, m, n = library.problem(rng)
    m, n = max(m, n) + 1, min(m, n)
    wide = np.result_type(dtype, np.float64)
    q, r = np.linalg.qr(normal(rng, (batch, m, n), np.dtype(wide)))
    r *= np.sign(np.diagonal(r, axis1=1, axis2=2).real)[..., None]
    turned = np.where(rng.random((batch, n)) < 0.5, -1, 1)
    q, r = (q * turned[:, None]).astype(dtype), r * turned[..., None]
    beta = np.ascontiguousarray(np.diagonal(r, axis1=1, axis2=2).real.astype(q.real.dtype))
    top = np.ascontiguousarray(q[:, :n])
    found, lu = library.signs(top, beta)
    assert np.all(np.abs(found) == 1), "no signs"
    low, up = np.tril(lu, -1) + np.eye(n), np.triu(lu)
    difference = top * found[:, None] - np.eye(n)
    assert_close(low.astype(wide) @ up, difference, n, np.finfo(dtype).eps, "L U")
    assert np.max(np.abs(np.tril(lu, -1)), initial=0) <= 2, "L grows"
    a = (q[0].astype(wide) @ r[0]).astype(wide)
    h, *_ = scipy.linalg.get_lapack_funcs("geqrf", (a,))(a)
    assert np.array_equal(np.sign(np.diagonal(h)[:n].real), np.sign(beta[0] * found[0])), "signs"


def pivot_steps(library, rng):
    """Blocks of steps choose the largest of what is left, and their reflectors give R."""
    dtype = np.dtype(LETTERS[rng.integers(4)])
    batch, m, n = int(rng.integers(1, 4)), int(rng.integers(1, 90)), int(rng.integers(1, 90))
    k, eps = min(m, n), np.finfo(dtype).eps
    first = int(rng.integers(0, k))
    steps = int(rng.integers(1, min(k - first, 32) + 1))
    a = normal(rng, (batch, m, n), dtype)
    kind = rng.random()
    if kind < 0.3:
        a = normal(rng, (batch, m, 2), dtype) @ normal(rng, (batch, 2, n), dtype)
    elif kind < 0.6:  # norms are lost one by one
        a[:, :, 1:] = a[:, :, :1] + a[:, :, 1:] * dtype.type(1e-3)
    a = a * np.asarray(10.0 ** (4 * rng.random((batch, 1, n))), a.real.dtype)
    state = library.pivot_steps(np.ascontiguousarray(np.swapaxes(a, 1, 2)), first, steps)
    assert np.array_equal(np.swapaxes(state["at"], 1, 2), a), "the matrix was written"
    wide = np.result_type(dtype, np.float64)
    v, f, r = (state[name].astype(wide) for name in ("v", "f", "r"))
    left = a - np.swapaxes(f @ v, 1, 2)  # by columns where they stood
    place, taus = state["place"], state["tau"].astype(wide)
    assert np.array_equal(np.sort(place), np.tile(np.arange(n), (batch, 1))), "places"
    done = (place >= first) & (place < first + steps)
    rounding = 100 * max(m, n) * eps * norm(a)[:, None]
    assert np.all((state["norm"] == -1) == (done | (np.arange(n) < first))), "which are done"
    for i in range(batch):
        assert np.array_equal(place[i, :first], np.arange(first)), "columns before the block"
        q = np.eye(m, dtype=wide)
        for j in range(steps):
            x = v[i, j][:, None]
            q -= taus[i, j] * (q @ x) @ adjoint(x)
        assert_orthonormal(q.astype(dtype)[None], eps)
        turned = (adjoint(q) @ a[i])[:, np.argsort(place[i])]
        own = r[i][np.argsort(place[i])].T
        rows = turned[first : first + steps, first:]
        assert np.max(np.abs(np.triu(rows) - np.triu(own[:, first:]))) < rounding[i], "R"
        sizes = np.sqrt(np.cumsum(np.abs(turned[::-1]) ** 2, axis=0))[::-1]
        for j in range(first, first + steps):
            worst = sizes[j, j:].max() - sizes[j, j]
            assert worst <= np.sqrt(eps) * sizes[j, j] + rounding[i], "not the largest"
        rest = place[i] >= first + steps
        want = np.linalg.norm(left[i][first + steps :, rest], axis=0)
        near = np.abs(state["norm"][i][rest] - want) <= np.sqrt(eps) * 10 * want + rounding[i]
        assert np.all(near), "norms"
