"""Section 11 of `notebooks/derivations.md`: matrices in blocks of rows, on simulated devices.

Values are compared with LAPACK's of the whole matrix; derivatives with the package's rules for the
whole matrix, or with differences.
"""

import functools

import jax
import numpy as np
import pytest
import scipy.linalg
from jax.sharding import PartitionSpec as P

from jaxqr._sharded import row_qr
from jaxqr._sharded.sharded_inverse import factor_sharded_inverse
from notation import (
    H,
    back,
    back_h,
    close,
    cpl,
    error,
    fd,
    joint,
    over,
    over_h,
    pairs,
    qr,
    rule,
    slo,
    upp,
)
from own_rules import gradient, run, tangent, thin_jvp, thin_vjp

N, S, ROWS = 4, 2, P("rows")
# devices, and rows on each: on the eight there are fewer rows than columns
blocks = pytest.mark.parametrize("devices, rows", [(3, 5), (8, 2)])


def positive(Q, R):
    sign = np.where(np.diagonal(R).real < 0, -1, 1)
    return Q * sign, sign[:, None] * R


def cut(X, devices):
    return np.split(X, devices)


def matrix(draw, devices, rows):
    """A well-conditioned matrix with a block of zeros."""
    A = draw.matrix((devices - 1) * rows, N)
    return np.insert(A, [rows] * rows, 0, axis=0)


# ----------------------------------------------------------------- what the package has
def on_devices(devices, in_specs, out_specs):
    """Lets a function of blocks run on the devices."""
    axis = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("rows",), axis, devices=jax.devices()[:devices])
    return functools.partial(jax.shard_map, mesh=mesh, in_specs=in_specs, out_specs=out_specs)


def tsqr(a, *, devices, in_pairs=False):
    """Q and R; their triangles reduced at once, or in pairs."""

    def of_block(block):
        return tuple(row_qr.factor_row_blocks("tsqr", block, axes=("rows",)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_qr, "GATHERED", 1 if in_pairs else devices)
        return on_devices(devices, ROWS, (ROWS, P()))(of_block)(a)


def lapacks(a, *, devices):
    """Q and R of a batch, with LAPACK's signs."""

    def of_block(block):
        found = row_qr.factor_row_blocks("qr", block, axes=("rows",), positive_diagonal=False)
        return tuple(found)

    rows = P(None, *ROWS)
    return on_devices(devices, rows, (rows, P()))(of_block)(a)


def inverse_of(a, pivoting=True):
    rcond = 1e-10 if pivoting else None
    return factor_sharded_inverse(a, rcond=rcond, pivoting=pivoting, axes=("rows",))


def operations(a, v, u, *, devices):
    """The four operations of the pseudo-inverse."""

    def of_block(a, v, u):
        f = inverse_of(a)
        return f.solve(v), f.solve_adjoint(u), f.gram(u), f.null(u)

    return on_devices(devices, (ROWS, ROWS, P()), (P(), ROWS, P(), P()))(of_block)(a, v, u)


def solution(a, b, *, devices, pivoting=False):
    def of_block(a, b):
        return inverse_of(a, pivoting).solve(b)

    return on_devices(devices, (ROWS, ROWS), P())(of_block)(a, b)


def shares(a, v, *, devices):
    """What each device has of the sum that is A^+ v, one after the other."""

    def of_block(a, v):
        return inverse_of(a, pivoting=False).apply("share", v)

    found = on_devices(devices, (ROWS, ROWS), ROWS)(of_block)(a, v)
    return found.reshape(devices, N, S)


# ----------------------------------------------------------------- the factors
@rule("11.1")
@blocks
@pytest.mark.parametrize("in_pairs", [False, True])
def test_triangles_reduced_at_once_or_in_pairs_give_the_qr_of_the_whole(
    draw, devices, rows, in_pairs
):
    A = matrix(draw, devices, rows)
    want, got = positive(*qr(A)), run(tsqr, A, devices=devices, in_pairs=in_pairs)
    close(got, want, 1e-13)
    assert np.all(np.diagonal(got[1]).real > 0)


@rule("11.1")
@pytest.mark.parametrize("sizes", [(5, 5, 5), (2, 2, 2, 2), (9,), (4, 0, 3, 1, 6)], ids=str)
def test_blocks_of_any_sizes_have_the_same_r(draw, sizes):
    A, ends = draw.matrix(sum(sizes), N), np.cumsum(sizes)[:-1]
    local = [qr(X) for X in np.split(A, ends)]
    W, R = qr(np.vstack([r for _, r in local]))
    pieces = np.split(W, np.cumsum([len(r) for _, r in local])[:-1])
    Q = np.vstack([q @ w for (q, _), w in zip(local, pieces, strict=True)])
    close(positive(Q, R), positive(*qr(A)), 1e-13)


@rule("11.2")
@blocks
def test_the_tangent_has_one_sum_over_the_blocks(draw, devices, rows):
    A, dA = matrix(draw, devices, rows), draw(devices * rows, N)
    Q, R = positive(*qr(A))
    got = tangent(tsqr, (A,), (dA,), devices=devices)
    close(got, thin_jvp(Q, R, dA), 1e-12)
    parts = list(zip(cut(Q, devices), cut(dA, devices), strict=True))
    Psi = upp(sum(H(q) @ over(d, R) for q, d in parts))
    close((np.vstack([over(d, R) - q @ Psi for q, d in parts]), Psi @ R), got, 1e-12)


@rule("11.3")
@blocks
def test_the_cotangent_has_one_sum_over_the_blocks(draw, devices, rows):
    A = matrix(draw, devices, rows)
    Q, R = positive(*qr(A))
    Qbar, Rbar = draw(*Q.shape), upp(draw(N, N))
    (got,) = gradient(tsqr, (A,), (Qbar, Rbar), devices=devices)
    close(got, thin_vjp(Q, R, Qbar, Rbar), 1e-12)
    parts = list(zip(cut(Q, devices), cut(Qbar, devices), strict=True))
    M = R @ H(Rbar) - sum(H(c) @ q for q, c in parts)
    close(np.vstack([over_h(c + q @ cpl(M), R) for q, c in parts]), got, 1e-12)


# ----------------------------------------------------------------- least squares
@rule("11.4")
@blocks
@pytest.mark.parametrize("rank", [N, 2])
def test_the_operations_on_blocks_are_those_of_the_whole_at_every_rank(draw, devices, rows, rank):
    m = devices * rows
    A, v, u = draw(m, rank) @ draw(rank, N), draw(m, S), draw(N, S)
    Q, R = positive(*qr(A))
    A_inv, R_inv = (np.linalg.pinv(X, rcond=1e-10) for X in (A, R))
    want = A_inv @ v, H(A_inv) @ u, A_inv @ (H(A_inv) @ u), u - A_inv @ (A @ u)
    close(run(operations, A, v, u, devices=devices), want, 1e-10)
    sums = sum(H(q) @ x for q, x in zip(cut(Q, devices), cut(v, devices), strict=True))
    spread = np.vstack([q @ (H(R_inv) @ u) for q in cut(Q, devices)])
    close((R_inv @ sums, spread, R_inv @ (H(R_inv) @ u), u - R_inv @ (R @ u)), want, 1e-9)


@rule("11.5")
@blocks
def test_least_squares_sums_only_blocks_of_the_right_hand_sides_size(draw, devices, rows):
    m = devices * rows
    A, dA, b, db = matrix(draw, devices, rows), draw(m, N), draw(m, S), draw(m, S)
    Q, R = positive(*qr(A))
    x, xbar = np.linalg.lstsq(A, b, rcond=None)[0], draw(N, S)
    rest = b - A @ x
    ref = fd(lambda t: np.linalg.lstsq(A + t * dA, b + t * db, rcond=None)[0], 0.0, 1.0)
    dx = tangent(solution, (A, b), (dA, db), devices=devices)
    close(dx, ref)
    found = gradient(solution, (A, b), xbar, devices=devices)
    pairs(ref, (xbar,), joint(dA, db), joint(*found))

    parts = list(zip(*(cut(X, devices) for X in (Q, dA, db, rest)), strict=True))
    c = sum(H(q) @ (d - e @ x) for q, e, d, _ in parts)
    g = sum(H(e) @ r for _, e, _, r in parts)
    close(back(R, c + back_h(R, g)), dx, 1e-11)
    w = back_h(R, xbar)
    bbar = np.vstack([q @ w for q, *_ in parts])
    Abar = np.vstack([r @ H(back(R, w)) - (q @ w) @ H(x) for q, _, _, r in parts])
    close((Abar, bbar), found, 1e-11)


@rule("11.6")
@blocks
def test_shares_have_a_local_transposition_and_equal_tangents_with_the_right_sum(
    draw, devices, rows
):
    m = devices * rows
    A, dA, v, ubar = matrix(draw, devices, rows), draw(m, N), draw(m, S), draw(devices, N, S)
    Q, R = positive(*qr(A))

    def by_hand(A):
        Q, R = positive(*qr(A))
        parts = zip(cut(Q, devices), cut(v, devices), strict=True)
        return np.stack([back(R, H(q) @ x) for q, x in parts])

    close(run(shares, A, v, devices=devices), by_hand(A), 1e-12)
    (vbar,) = gradient(shares, (v,), ubar, fixed=(A,), devices=devices)
    each = zip(cut(Q, devices), ubar, strict=True)  # each device has another cotangent
    close(vbar, np.vstack([q @ back_h(R, u) for q, u in each]), 1e-12)
    (own,) = fd(by_hand, A, dA)
    equal = tangent(shares, (A, v), (dA, 0 * v), devices=devices)
    close(equal, np.stack([own.sum(0) / devices] * devices))
    assert error(equal, own) > 1e-3


# ----------------------------------------------------------------- LAPACK's signs
def structured(draw, m):
    """Matrices whose columns have nothing below the diagonal, at first, later or at the end."""
    A, T = draw.matrix(m, N), np.triu(draw(m, N))
    np.fill_diagonal(T, [1, -2, -1, 2])
    behind = T.copy()
    behind[:2, :2] = A[:2, :2]  # a reflector, and then none
    behind[-1, 0] = 1
    empty = A.copy()
    empty[:, 1] = 0
    below = np.where(np.arange(m)[:, None] < N, 0, A)
    return [A, T, behind, empty, *([below] if m >= 2 * N else [])]


@rule("11.7")
@pytest.mark.parametrize("m", [15, 6])
def test_lapacks_reflectors_are_those_of_the_leading_rows_on_top_of_a_triangle(draw, m):
    for A in structured(draw, m):
        Q2, R2 = qr(A[N:])
        (h, tau), R = scipy.linalg.qr(A, mode="raw")
        (h_top, tau_top), R_top = scipy.linalg.qr(np.vstack([A[:N], R2]), mode="raw")
        close((R_top[:N], tau_top), (R[:N], tau), 1e-13)
        close(slo(h_top[:N]), slo(h[:N]), 1e-13)
        close(Q2 @ h_top[N:], h[N:], 1e-13)
        W, _ = qr(np.vstack([A[:N], R2]))
        close(np.vstack([W[:N], Q2 @ W[N:]]), qr(A)[0], 1e-13)


@rule("11.7")
@blocks
def test_the_package_has_lapacks_signs(draw, devices, rows):
    a = np.stack(structured(draw, devices * rows))
    for *got, A in zip(*run(lapacks, a, devices=devices), a, strict=True):
        close(tuple(got), qr(A), 1e-13)
