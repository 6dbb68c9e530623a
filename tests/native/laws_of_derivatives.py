"""What the kernels' tangent and cotangent maps obey."""

import numpy as np

from problems import adjoint, normal


def derivatives(library, rng):
    """The tangent solves its equations, and the cotangent is its transpose."""
    dtype, batch, m, n = library.problem(rng)
    if max(m, n) > 300:
        batch, m, n = 1, min(m, 2000), min(n, 300)
    k, transposed = min(m, n), rng.random() < 0.5
    eps = np.finfo(dtype).eps
    wide = np.result_type(dtype, np.float64)
    # a well-conditioned point: its derivative is known well
    q, r = np.linalg.qr(normal(rng, (batch, m, n), np.dtype(wide)))
    signs = np.sign(np.diagonal(r, axis1=-2, axis2=-1).real)[..., None]
    r = r / np.sqrt(m + n) + np.eye(k, n) * signs
    r = np.triu(r)
    exponent = int(rng.choice((0, 0, 10)))
    q, r = q.astype(dtype), (r * 2.0**exponent).astype(dtype)
    da, qbar = normal(rng, (batch, m, n), dtype), normal(rng, (batch, m, k), dtype)
    rbar = normal(rng, (batch, k, n), dtype)
    dq, dr, abar = np.full_like(q, 77), np.full_like(r, 77), np.full_like(da, 77)
    flip = (lambda x: np.ascontiguousarray(np.swapaxes(x, -1, -2))) if transposed else (lambda x: x)
    wants_q, wants_r = [(True, True), (True, False), (False, True)][rng.integers(3)]
    options = {"transposed": transposed, "pivoted": bool(rng.random() < 0.5)}
    fixed = (flip(q), flip(r))
    out = [flip(dq) if wants_q else None, flip(dr) if wants_r else None]
    library.derivative(*fixed, flip(da), *out, forward=True, **options)
    dq, dr = (None if x is None else flip(x) for x in out)
    to = flip(abar)
    cts = (flip(qbar) if wants_q else None, flip(rbar) if wants_r else None)
    library.derivative(*fixed, to, *cts, forward=False, **options)
    abar = flip(to)
    condition = max(np.linalg.cond(r[:, :, :k].astype(wide)).max(), 1)
    tolerance = 1000 * max(m, n) * eps * condition
    if wants_r:
        assert np.all(np.tril(dr, -1) == 0), "dR is not triangular"
    if wants_q and wants_r:
        error = np.abs(dq.astype(wide) @ r + q.astype(wide) @ dr - da).max()
        assert error < tolerance * max(1, np.abs(da).max()), f"dA is not dQ R + Q dR: {error}"
        skew = adjoint(q.astype(wide)) @ dq
        error = np.abs(skew + adjoint(skew)).max() / max(1, np.abs(dq).max())
        assert error < tolerance, f"Q^H dQ is not skew: {error}"
    # JAX pairs without conjugation
    left = sum(np.sum(x.astype(wide) * y) for x, y in ((qbar, dq), (rbar, dr)) if y is not None)
    right = np.sum(abar.astype(wide) * da)
    sizes = sum(
        np.sum(np.abs(x.astype(wide) * y)) for x, y in ((qbar, dq), (rbar, dr)) if y is not None
    )
    sizes = max(sizes + np.sum(np.abs(abar * da)), float(np.finfo(dtype).tiny))
    error = abs(left.real - right.real) / sizes
    assert error < tolerance, f"the cotangent is not the transpose of the tangent: {error}"


def not_finite_derivatives(library, rng):
    """What is not finite in a triangle or a (co)tangent stays in its matrix's derivatives."""
    dtype, batch, m, n = library.problem(rng)
    k, pivoted = min(m, n), bool(rng.random() < 0.5)
    q, r = np.linalg.qr(normal(rng, (batch, m, n), dtype))
    q, r, da = q.astype(dtype), np.triu(r).astype(dtype), normal(rng, (batch, m, n), dtype)
    qbar, rbar = normal(rng, (batch, m, k), dtype), normal(rng, (batch, k, n), dtype)
    bad, value = rng.integers(batch), rng.choice((np.nan, np.inf, -np.inf))
    if point := rng.random() < 0.5:
        upper = np.broadcast_to(np.triu(np.ones((k, n), bool)), r.shape)
        r[bad] = np.where(upper[bad], np.nan, 0)
        q[bad] = np.nan
    else:
        for x in (da, qbar, rbar):
            x[bad, rng.integers(x.shape[1]), rng.integers(x.shape[2])] = value
    dq, dr, abar = np.full_like(q, 77), np.full_like(r, 77), np.full_like(da, 77)
    options = {"transposed": False, "pivoted": pivoted}
    library.derivative(q, r, da, dq, dr, forward=True, **options)
    library.derivative(q, r, abar, qbar, rbar, forward=False, **options)
    for name, x in (("dQ", dq), ("dR", dr), ("Abar", abar)):
        assert not point or not np.all(np.isfinite(x[bad])), f"{name} of a NaN is finite"
        rest = np.delete(x, bad, axis=0)
        assert np.all(np.isfinite(rest)), f"a NaN spoils {name} of other matrices"
