"""Deep matrices factored by the CUDA kernel for them, emulated, and how what it finds is judged."""

import numpy as np

from gpu_kernels import all_kernels, run
from jaxqr._lowering.cuda_plans import Form, plan_rows
from laws import assert_factored
from matrices import LIMIT, double

OUTPUTS = ("q", "r", "h", "tau", "t")
# one or more rows on a thread, of one warp and of several, of which the last is not full
SHAPES = ((7, 7), (33, 1), (40, 8), (64, 13), (32, 32), (100, 20), (133, 32), (200, 16), (250, 5))


def factor(a, outputs=OUTPUTS, *, pivoted=False, transposed=False, free=None, backwards=False):
    """Results by name, as matrices of the order of `a`."""
    _, m, n = a.shape
    plan = plan_rows(m, n, str(a.dtype), Form((*outputs,), pivoted, transposed, free))
    shapes = {"q": (m, n), "r": (n, n), "h": (m, n), "tau": (n,), "p": (n,), "t": (n, n)}
    order = slice(None, None, -1) if transposed else slice(None)
    results = [(shapes[name][order], np.int32 if name == "p" else a.dtype) for name in outputs]
    memory = np.swapaxes(a, 1, 2) if transposed else a
    found = run(plan, [memory], results, kernels=all_kernels(), backwards=backwards)
    matrices = [np.swapaxes(x, 1, 2) if transposed and x.ndim == 3 else x for x in found]
    return dict(zip(outputs, matrices, strict=True))


def outputs_of(pivoted):
    return (*OUTPUTS, "p") if pivoted else OUTPUTS


def unpack(h):
    """V, unit lower trapezoidal."""
    v = np.tril(double(h), -1)
    np.fill_diagonal(v, 1)
    return v


def form_t(v, tau):
    """T of I - V T V^H, column by column."""
    t, products = np.diag(double(tau)), v.conj().T @ v
    for j in range(len(tau)):
        t[:j, j] = -tau[j] * (t[:j, :j] @ products[:j, j])
    return t


def assert_compact(q, h, tau, t):
    """Reflectors, T and Q stand for the same."""
    v, scale = unpack(h), len(t) * np.finfo(h.dtype).eps
    np.testing.assert_allclose(t, form_t(v, tau), rtol=0, atol=LIMIT * scale)
    assert np.all(np.tril(t, -1) == 0)
    formed = np.eye(*h.shape) - v @ double(t) @ v[: len(t)].conj().T
    np.testing.assert_allclose(q, formed, rtol=0, atol=LIMIT * scale)


def check(a, pivoted, **options):
    """All that is found for matrices is right, and goes together."""
    out = factor(a, outputs_of(pivoted), pivoted=pivoted, **options)
    if pivoted:
        p = out["p"]
        assert np.array_equal(np.sort(p, axis=-1), np.broadcast_to(np.arange(a.shape[2]), p.shape))
        a = np.take_along_axis(a, p[:, None], axis=-1)
    assert_factored(out["q"], out["r"], a, pivoting=pivoted)
    np.testing.assert_array_equal(np.triu(out["h"][:, : a.shape[2]]), out["r"])
    for q, h, tau, t in zip(*(out[name] for name in ("q", "h", "tau", "t")), strict=True):
        assert_compact(q, h, tau, t)
    return out
